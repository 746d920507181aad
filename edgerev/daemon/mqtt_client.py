"""The connection to a broker: its session, its last will, how it proves who it is, and its coming back.

MQTT 5 alone: its session expiry, receive maximum and maximum packet size are what bounds the memory here and at the
broker, and its response topics carry answers. Mosquitto speaks it since 1.6, and passes messages on from and to clients
of 3.1.1.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import socket
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from paho.mqtt.client import CallbackAPIVersion, Client, MQTTMessage, MQTTv5
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from edgerev.daemon.events import Events
from edgerev.daemon.settings import MqttTable
from edgerev.errors import UsageError
from edgerev.machine import read_text

SESSION_SECONDS = 30 * 86_400  # for which the broker keeps messages while the daemon is away
MOST_QUEUED = 100  # messages of ours that wait for the broker
SHORTEST_WAIT, LONGEST_WAIT = 1, 60  # seconds between two tries to connect
END_SECONDS = 2.0  # that a broker has to take the last message
PACKET_EXTRA = 1 << 12  # of topic and properties, beside the payload
KEPT_NEVER = SubscribeOptions.RETAIN_DO_NOT_SEND  # else samples that a broker keeps would come with each connection


class Connection:
    """A connection to a broker, which is made again whenever it is lost.

    Parameters
    ----------
    events : where its coming and going is told
    most_held : messages that the broker sends before one of them is acknowledged
    request_bytes : most bytes of a message
    topics : below the table's own, with the quality of service of each
    on_message : called in a thread of the client with each message
    on_session : called in that thread after connecting, with whether the broker still had the session

    Attributes
    ----------
    connected : whether it stands now
    count : how often it was made

    Raises
    ------
    UsageError
        The password or a certificate cannot be used.
    """

    def __init__(
        self, table: MqttTable, events: Events, most_held: int, request_bytes: int, topics: Mapping[str, int],
        on_message: Callable[[MQTTMessage], None], on_session: Callable[[bool], None],
    ) -> None:  # fmt: skip
        self._table, self._events, self._topics, self._on_session = table, events, topics, on_session
        self.connected, self.count, self._ending, self._problem = False, 0, False, ""
        self._client = _make_client(table, most_held, request_bytes)
        self._client.on_connect, self._client.on_connect_fail = self._on_connect, self._on_connect_fail
        self._client.on_disconnect, self._client.on_subscribe = self._on_disconnect, self._on_subscribe
        self._client.on_socket_open = _send_at_once
        self._client.on_message = lambda _, __, message: on_message(message)

    def start(self) -> None:
        """Begin to connect."""
        self._client.loop_start()

    def stop(self) -> None:
        """Say good-bye; the broker keeps the session."""
        self._ending = True
        if self.connected:
            said = self.publish("availability", "offline", qos=1, retain=True)
            with contextlib.suppress(RuntimeError, ValueError):  # the connection is lost just now
                said.wait_for_publish(END_SECONDS)
        self._client.disconnect()
        self._client.loop_stop()

    def publish(self, name: str, body: Any, qos: int = 0, retain: bool = False) -> Any:
        """Send a text, or what becomes JSON, to a topic below the table's own."""
        return self.send(f"{self._table.topic}/{name}", body, qos=qos, retain=retain)

    def send(self, topic: str, body: Any, **how: Any) -> Any:
        """Send a text, or what becomes JSON; what has QoS 1 waits for a broker that is away."""
        return self._client.publish(topic, body if isinstance(body, str) else json.dumps(body, default=str), **how)

    def acknowledge(self, mid: int, qos: int) -> None:
        """Acknowledge a message; after a lost connection it comes again instead."""
        if self.connected:
            self._client.ack(mid, qos)

    def _on_connect(self, client: Client, _: Any, flags: Any, reason: Any, __: Any) -> None:
        if reason.is_failure:
            self._trouble(f"the broker refuses: {reason}; expected to be let in; check username and password_file")
            return
        self.connected, self.count, self._problem = True, self.count + 1, ""
        self._events.tell("mqtt_connected", session="resumed" if flags.session_present else "new")
        client.subscribe([
            (f"{self._table.topic}/{name}", SubscribeOptions(qos=qos, retainHandling=KEPT_NEVER))
            for name, qos in self._topics.items()
        ])  # fmt: skip
        self.publish("availability", "online", qos=1, retain=True)
        self._on_session(flags.session_present)

    def _on_connect_fail(self, *_: Any) -> None:
        error = sys.exc_info()[1]  # the client handles it while it calls
        kind = "a certificate that ca_file vouches for" if "CERTIFICATE" in str(error) else "a broker there"
        self._trouble(f"cannot connect to {self._table.host} ({error}); expected {kind}; it is tried again")

    def _on_disconnect(self, _: Client, __: Any, ___: Any, reason: Any, ____: Any) -> None:
        if self.connected:
            self._trouble(f"the connection is lost: {reason}; it is tried again")
        elif not self._problem:  # a refusal was told with its reason
            self._trouble(
                f"the broker at {self._table.host} closes the connection before it answers ({reason}); expected one of "
                "MQTT 5; check port, tls and cert_file"
            )
        self.connected = False

    def _on_subscribe(self, _: Client, __: Any, ___: int, reasons: Sequence[Any], ____: Any) -> None:
        if any(reason.is_failure for reason in reasons):
            self._trouble(f"the broker refuses a subscription below {self._table.topic}/; expected a right to read it")

    def _trouble(self, text: str) -> None:
        if text != self._problem and not self._ending:
            self._events.tell("mqtt_lost", logging.WARNING, message=text)
        self._problem = text


def _send_at_once(_: Client, __: Any, link: Any) -> None:
    """Let no answer wait until the other side has acknowledged the one before, for up to 40 ms."""
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _make_client(table: MqttTable, most_held: int, request_bytes: int) -> Client:
    client = Client(CallbackAPIVersion.VERSION2, client_id(table), protocol=MQTTv5, manual_ack=True)
    client.max_queued_messages = MOST_QUEUED
    client.reconnect_delay_set(SHORTEST_WAIT, LONGEST_WAIT)
    client.will_set(f"{table.topic}/availability", "offline", qos=1, retain=True)
    if table.username or table.password_file:
        client.username_pw_set(table.username, _password(table.password_file) if table.password_file else None)
    if table.tls:
        try:
            client.tls_set(table.ca_file or None, table.cert_file or None, table.key_file or None)
        except OSError as error:  # ssl.SSLError is one
            raise UsageError(
                f"serve.mqtt: {table.ca_file or table.cert_file} cannot be used ({error}); expected certificates and a "
                "key in PEM; check ca_file, cert_file and key_file"
            ) from error
    properties = Properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = SESSION_SECONDS
    properties.ReceiveMaximum = most_held
    properties.MaximumPacketSize = request_bytes + PACKET_EXTRA
    port = table.port or (8883 if table.tls else 1883)
    client.connect_async(table.host, port, table.keepalive, clean_start=False, properties=properties)
    return client


def client_id(table: MqttTable) -> str:
    """Return the name under which the broker keeps the session: the same after every start."""
    if table.client_id:
        return table.client_id
    machine = read_text("/etc/machine-id") or os.uname().nodename
    return "edgerev-" + hashlib.sha256(f"{machine.strip()} {table.topic}".encode()).hexdigest()[:12]


def _password(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"serve.mqtt.password_file {path!r} cannot be read ({error}); expected a file with the password; make it"
        ) from error
    if stat.S_IMODE(mode) & 0o077:
        raise UsageError(
            f"serve.mqtt.password_file {path!r} has mode {stat.S_IMODE(mode):o}; expected 600, for others could read "
            f"it; chmod 600 {path}"
        )
    return text
