"""The daemon's door for MQTT: samples and labels from a broker, answers and what happens back to it.

Samples and labels come at QoS 1 in a session that the broker keeps, and are acknowledged once they are on the disk. So
what was sent while the daemon was away, or while its queue was full, waits at the broker: it holds back what would be
more than `HELD_BYTES` without acknowledgement. All are taken in in the order in which they came.

After a lost connection the broker repeats what was not acknowledged, under the same number and marked as a duplicate.
The numbers and checksums of the last messages are written with their samples, so such a repetition is recognised, also
after a power cut of this machine. What a broker or a sender repeats under another number is not: for that samples have
keys.

Questions and commands come at QoS 0: one that arrives hours late would be answered for nobody, or do harm.
"""

from __future__ import annotations

import logging
import threading
import time
import zlib
from collections import deque
from collections.abc import Iterator
from functools import partial
from itertools import takewhile
from typing import Any, NamedTuple

from paho.mqtt.client import MQTTMessage
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgerev.daemon.homeassistant import discovery
from edgerev.daemon.intake import Intake, Part, one_or_more, read_json
from edgerev.daemon.mqtt_client import Connection, client_id
from edgerev.daemon.service import Service
from edgerev.daemon.settings import MqttTable
from edgerev.errors import DataError, EdgerevError

TOPICS = {"samples": 1, "labels": 1, "predict": 0, "command": 0}  # and their quality of service
COMMANDS = ("pause", "resume", "save", "rollback")
NOTE = "mqtt "  # before the place of a message among the last ones
NOTES_KEPT = 1024  # as many messages as a broker may repeat: mosquitto 2.0.11 sends all that waited after a break
HELD_BYTES, MOST_HELD = 8 << 20, 32  # of messages that are not acknowledged yet
MESSAGE_BYTES = 1 << 9  # that one takes beside its payload
STATUS_SECONDS, CALM_SECONDS = 5.0, 60.0  # between two messages on the status, if it changed and if not
RESTLESS = ("commits", "rss_bytes", "peak_rss_bytes")  # of the status: they change while nothing happens
LONGEST_ERROR = 2000  # characters


class Reply(NamedTuple):
    """Where a sender wants its answer: a topic, or "" for the usual place, and what is sent back with it."""

    topic: str
    correlation: bytes | None


class Message(NamedTuple):
    """Samples or labels that came; `mark` tells it from others of a session, `place` is its number among all."""

    kind: str
    payload: bytes | bytearray
    qos: int
    mid: int
    session: int
    mark: str
    place: int
    reply: Reply


class Mqtt:
    """Brings messages to a service, from a broker that may come and go.

    Raises
    ------
    UsageError
        The password or a certificate cannot be used.
    """

    def __init__(self, service: Service, table: MqttTable) -> None:
        self._service, self._table = service, table
        self._stopping = threading.Event()
        self._intake = Intake(service, "mqtt", self._stopping)
        self._held: deque[Message] = deque()
        self._held_bytes = 0
        self._came = threading.Condition()  # and whoever changes held, taken, session
        self._session = 0  # of which the numbers of messages are
        self._stale = False  # whether the notes are of another session
        self._taken = self._read_notes()
        self._place = max(self._taken, default=0)
        self._refused = ""
        self._listener = service.events.listen()
        most_bytes = service.settings.request_bytes
        most_held = max(1, min(MOST_HELD, HELD_BYTES // most_bytes))
        self._connection = Connection(
            table, service.events, most_held, most_bytes, TOPICS, self._receive, self._greet,
        )  # fmt: skip
        self._threads = [
            threading.Thread(target=work, name=f"mqtt {work.__name__.strip('_')}") for work in (self._work, self._tell)
        ]

    def _read_notes(self) -> dict[int, str]:
        """Return the marks of the messages that were taken in last, by their places."""
        notes = (text.partition(" ") for text in self._service.store.notes(NOTE).values())
        marks = {int(place): mark for place, _, mark in notes}
        return {place: mark for place, mark in marks.items() if place > max(marks) - NOTES_KEPT}

    def start(self) -> None:
        """Begin to connect."""
        for thread in self._threads:
            thread.start()
        self._connection.start()

    def stop(self) -> None:
        """Take nothing in any more; the broker keeps what is not acknowledged."""
        self._stopping.set()
        with self._came:
            self._came.notify_all()
        self._service.events.leave(self._listener)
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        self._connection.stop()

    # -- what comes: in the client's thread -------------------------------------------------------------------

    def _greet(self, resumed: bool) -> None:
        """Begin a session; in a new one the numbers of messages begin anew, and those of before say nothing."""
        if not resumed:
            with self._came:
                self._session += 1
                self._taken.clear()
                self._stale = True
                self._came.notify_all()
        if self._table.discovery:
            topic, text = discovery(self._table, client_id(self._table), self._service.status(), COMMANDS)
            self._connection.send(topic, text, qos=1, retain=True)

    def _receive(self, message: MQTTMessage) -> None:
        kind = message.topic.removeprefix(f"{self._table.topic}/")
        reply = Reply(
            getattr(message.properties, "ResponseTopic", ""), getattr(message.properties, "CorrelationData", None)
        )
        if TOPICS[kind]:
            self._hold(kind, message, reply)
            return
        try:
            answer = self._act(kind, message.payload)
        except EdgerevError as error:
            self._refuse(kind, error, reply)
        else:
            self._answer(answer, reply, "predictions" if kind == "predict" else "")

    def _hold(self, kind: str, message: MQTTMessage, reply: Reply) -> None:
        """Keep a message for the thread that takes it in, unless it was there before."""
        mark = f"{message.mid} {zlib.crc32(message.payload, zlib.crc32(kind.encode())):08x}"
        with self._came:
            if message.dup and mark in self._taken.values():
                self._connection.acknowledge(message.mid, message.qos)
            elif message.dup and any(one.mark == mark and one.session == self._session for one in self._held):
                pass  # it is acknowledged when it is taken in
            elif message.qos == 0 and self._held_bytes > HELD_BYTES:
                error = DataError("too many messages wait; expected QoS 1, which the broker holds back; use it")
                self._refuse(kind, error, reply)
            else:  # a broker that sends more than it was allowed has to wait
                self._came.wait_for(lambda: self._held_bytes <= 2 * HELD_BYTES or self._stopping.is_set())
                self._place += 1
                self._held_bytes += len(message.payload) + MESSAGE_BYTES
                self._held.append(
                    Message(kind, message.payload, message.qos, message.mid, self._session, mark, self._place, reply)
                )
                self._came.notify_all()

    def _act(self, kind: str, payload: bytes | bytearray) -> dict[str, Any]:
        if kind == "predict":
            return self._predict(read_json(payload))
        word = payload.decode(errors="replace").strip()
        if word not in COMMANDS:
            raise DataError(f"command {word[:50]!r}: expected one of {', '.join(COMMANDS)}; send one")
        getattr(self._service, word)()
        return {"done": word}

    def _predict(self, body: Any) -> dict[str, Any]:
        names = body.keys() if isinstance(body, dict) else set()
        key = {"key": body["key"]} if "key" in names else {}
        if names - {"key"} == {"x"}:
            return {**key, **self._service.predict([body["x"]])[0]}
        if names - {"key"} == {"samples"} and isinstance(body["samples"], list):
            return {**key, "predictions": self._service.predict(body["samples"])}
        raise DataError("expected an object with x, or a list samples, and at will key; change it")

    # -- samples and labels: in a thread of their own, for the disk and the queue may make them wait ----------

    def _work(self) -> None:
        while not self._stopping.is_set():
            run = self._next()
            if self._stale:
                self._intake.patiently(self._forget)
            outcomes = self._take(run) if run and run[0].kind == "samples" else self._label(run)
            for message, outcome in zip(run, outcomes):
                self._finish(message, outcome)

    def _next(self) -> list[Message]:
        """Wait for something to do; return messages of one kind that came one after the other."""
        with self._came:
            self._came.wait_for(lambda: self._held or self._stale or self._stopping.is_set())
            first = self._held[0].kind if self._held else ""
            return list(takewhile(lambda message: message.kind == first, self._held))

    def _forget(self) -> None:
        self._stale = False
        self._service.store.put([], dict.fromkeys(self._service.store.notes(NOTE), ""))

    def _take(self, run: list[Message]) -> Iterator[dict[str, Any] | EdgerevError]:
        """Yield what became of samples, once that is sure; fewer where the door closes."""
        bodies = [_several(message) for message in run]
        parts = [
            Part(body, self._note(message)) for message, body in zip(run, bodies) if isinstance(body, list)
        ]  # fmt: skip
        found = self._intake.take(parts)
        for body in bodies:
            taken = next(found, None) if isinstance(body, list) else body
            if taken is None:
                return
            yield {"ids": taken} if isinstance(taken, list) else taken

    def _note(self, message: Message) -> dict[str, str]:
        known = message.session == self._session
        return {f"{NOTE}{message.place % NOTES_KEPT}": f"{message.place} {message.mark}"} if known else {}

    def _label(self, run: list[Message]) -> Iterator[dict[str, Any] | EdgerevError]:
        for message in run:
            body = _several(message)
            try:
                if isinstance(body, DataError):
                    raise body
                unknown = self._intake.patiently(partial(self._service.label, body))
            except DataError as error:
                yield error
                continue
            if unknown is None:
                return
            if unknown and not message.reply.topic:
                yield DataError(f"no sample waits under the ids {unknown}; expected ones whose labels have not come")
            else:
                yield {"unknown": unknown}

    def _finish(self, message: Message, outcome: dict[str, Any] | EdgerevError) -> None:
        with self._came:
            self._held.popleft()
            self._held_bytes -= len(message.payload) + MESSAGE_BYTES
            if message.session == self._session:
                if not isinstance(outcome, EdgerevError):
                    self._taken[message.place] = message.mark
                    self._taken.pop(message.place - NOTES_KEPT, None)
                self._connection.acknowledge(message.mid, message.qos)
            self._came.notify_all()
        if isinstance(outcome, EdgerevError):
            self._refuse(message.kind, outcome, message.reply)
        else:
            self._answer(outcome, message.reply, "")

    # -- out --------------------------------------------------------------------------------------------------

    def _refuse(self, kind: str, error: EdgerevError, reply: Reply) -> None:
        topic, text = f"{self._table.topic}/{kind}", str(error)[:LONGEST_ERROR]
        if text != self._refused:  # a sender that does not learn is told of once
            self._service.events.tell("mqtt_refused", logging.WARNING, topic=topic, message=text)
        self._refused = text
        self._connection.publish("errors", {"topic": topic, "error": text}, qos=1)
        self._answer({"error": text}, reply, "")

    def _answer(self, answer: dict[str, Any], reply: Reply, usual: str) -> None:
        """Send an answer to where its sender wants it, else to the usual place, if there is one."""
        properties = Properties(PacketTypes.PUBLISH)
        if reply.correlation is not None:
            properties.CorrelationData = reply.correlation
        topic = reply.topic or (f"{self._table.topic}/{usual}" if usual else "")
        if topic and not set(topic) & set("+#\0"):
            self._connection.send(topic, answer, properties=properties)

    def _tell(self) -> None:
        """Pass events on, and the status: soon after it changed, and once a minute."""
        said: tuple[int, dict[str, Any]] = (0, {})
        due = late = 0.0
        while not self._stopping.is_set():
            event = self._listener.get(STATUS_SECONDS)
            if event is None:
                self._stopping.wait(0.1)  # it comes at once where the events are over already
            else:
                self._connection.publish("events", {"number": event.number, "kind": event.kind, **event.facts}, qos=1)
            now = time.monotonic()
            if self._connection.connected and now >= due:
                status = self._service.status()
                new = self._connection.count, {key: status[key] for key in status.keys() - set(RESTLESS)}
                if new != said or now >= late:
                    self._connection.publish("status", status, retain=True)
                    late = now + CALM_SECONDS
                said, due = new, now + STATUS_SECONDS


def _several(message: Message) -> list | DataError:
    try:
        return one_or_more(read_json(message.payload), message.kind)
    except DataError as error:
        return error
