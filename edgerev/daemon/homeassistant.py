"""What Home Assistant is told, so that it shows the daemon as a device.

One message for the whole device, as Home Assistant takes it since 2024.11:
https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from edgerev import __version__
from edgerev.daemon.settings import MqttTable

# by key of the status: name, and what its platform needs
_SENSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "usual_accuracy": ("Accuracy", {"state_class": "measurement", "suggested_display_precision": 3}),
    "loss": ("Loss", {"state_class": "measurement", "suggested_display_precision": 3}),
    "to_learn": ("Samples to learn", {"state_class": "measurement", "unit_of_measurement": "samples"}),
    "unsaved": ("Samples not saved yet", {"state_class": "measurement", "unit_of_measurement": "samples"}),
    "trained": ("Samples trained", {"state_class": "total_increasing", "unit_of_measurement": "samples"}),
    "celsius": ("Temperature", {
        "state_class": "measurement", "device_class": "temperature", "unit_of_measurement": "°C",
        "entity_category": "diagnostic",
    }),
    "rss_bytes": ("Memory", {
        "state_class": "measurement", "device_class": "data_size", "unit_of_measurement": "B",
        "entity_category": "diagnostic",
    }),
}  # fmt: skip


def discovery(table: MqttTable, identity: str, known: Collection[str], commands: Collection[str]) -> tuple[str, dict]:
    """Return the topic and the message of discovery.

    Parameters
    ----------
    identity : of the device; of letters, digits, - and _
    known : keys of the status; sensors are those that are among them
    commands : each has a button
    """
    components: dict[str, dict[str, Any]] = {
        key: {"platform": "sensor", "name": name, "value_template": f"{{{{ value_json.{key} }}}}", **facts}
        for key, (name, facts) in _SENSORS.items() if key in known
    }  # fmt: skip
    components["problem"] = {
        "platform": "binary_sensor", "name": "Problem", "device_class": "problem",
        "value_template": "{{ 'ON' if value_json.problem else 'OFF' }}", "entity_category": "diagnostic",
    }  # fmt: skip
    for word in commands:
        components[word] = {
            "platform": "button", "name": word.capitalize(), "command_topic": f"{table.topic}/command",
            "payload_press": word, "entity_category": "config",
        }  # fmt: skip
    for key, component in components.items():
        component["unique_id"] = f"{identity}_{key}"
    return f"{table.discovery}/device/{identity}/config", {
        "device": {"identifiers": [identity], "name": table.name, "manufacturer": "edgerev", "sw_version": __version__},
        "origin": {"name": "edgerev", "sw_version": __version__},
        "availability": [{"topic": f"{table.topic}/availability"}], "state_topic": f"{table.topic}/status",
        "components": components,
    }  # fmt: skip
