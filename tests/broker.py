"""Mosquitto as a process of the tests, and a client that speaks with it."""

import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import time
from typing import Any, NamedTuple

import pytest
from paho.mqtt.client import MQTT_ERR_NO_CONN, MQTT_ERR_SUCCESS, CallbackAPIVersion, Client, MQTTv5
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

MOSQUITTO = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin")
needs_mosquitto = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class Broker:
    """A broker on a port of this machine; it writes what it has when it ends, or when it is told to."""

    def __init__(self, folder, *lines):
        self.folder, self.port = folder, free_port()
        folder.mkdir()
        own = "" if any("password_file" in line for line in lines) else "allow_anonymous true"
        (folder / "broker.conf").write_text("\n".join([
            "user root", "per_listener_settings false", f"listener {self.port} 127.0.0.1", own, "set_tcp_nodelay true",
            "persistence true", f"persistence_location {folder}/", "max_queued_messages 0", "connection_messages false",
            "log_dest stderr", "log_type information", "log_type error", *lines,
        ]))  # fmt: skip
        self.start()

    def start(self):
        command = [MOSQUITTO, "-c", self.folder / "broker.conf"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        seen = []
        for line in self.process.stderr:
            seen.append(line)
            if " running" in line:
                return
        raise AssertionError("".join(seen))

    def save(self):
        """Let it write what it has, as it does every half hour."""
        self.process.send_signal(signal.SIGUSR1)
        for line in self.process.stderr:
            if "Saving" in line:
                return

    def end(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:  # mosquitto misses a signal that comes while it starts
            self.process.kill()
            self.process.wait(30)
        self.process.stderr.close()


class Came(NamedTuple):
    topic: str
    body: Any
    correlation: bytes | None


def _read(message):
    try:
        body = json.loads(message.payload)
    except (ValueError, RecursionError):
        body = message.payload.decode(errors="replace")
    return Came(message.topic, body, getattr(message.properties, "CorrelationData", None))


class Peer:
    """A client of the broker: sends, and collects what it subscribed to."""

    def __init__(self, broker, *topics, set_up=lambda client: None):
        self.came, self.kept, ready = queue.Queue(), [], queue.Queue()
        self.client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
        self.client.on_message = lambda client, _, message: self.came.put(message)
        self.client.on_subscribe = lambda *_: ready.put(True)
        self.client.on_connect = lambda client, *_: client.subscribe([(topic, 1) for topic in topics or ("none",)])
        self.client.on_socket_open = lambda _, __, link: link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        set_up(self.client)
        self.client.connect("127.0.0.1", broker.port)
        self.client.loop_start()
        assert ready.get(timeout=30)

    def send(self, topic, body, qos=1, reply=None, correlation=None, retain=False):
        """Send, and return when the broker has it."""
        properties = Properties(PacketTypes.PUBLISH)
        if reply:
            properties.ResponseTopic = reply
        if correlation:
            properties.CorrelationData = correlation
        data = body if isinstance(body, (bytes, str)) else json.dumps(body)
        sent = self.client.publish(topic, data, qos=qos, properties=properties, retain=retain)
        if sent.rc == MQTT_ERR_NO_CONN:  # it is sent with the next connection
            sent.rc = MQTT_ERR_SUCCESS
        sent.wait_for_publish(30)

    def get(self, topic, wanted=lambda body: True):
        """Return the next message of a topic that is as wanted; those of other topics are kept for later."""
        waiting, self.kept, end = self.kept, [], time.monotonic() + 60
        while True:
            one = waiting.pop(0) if waiting else _read(self.came.get(timeout=max(0, end - time.monotonic())))
            if one.topic != topic:
                self.kept.append(one)
            elif wanted(one.body):
                self.kept += waiting
                return one

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()
