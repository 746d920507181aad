"""The daemon under load: samples at a rate, predictions beside them, its memory, and what it writes.

The daemon is a process of its own. Whoever sends shares the processor with it, so this measures the two together.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

from edgerev.errors import EdgerevError
from edgerev.learner import Learner
from edgerev.numbers import whole
from edgerev.presets import preset
from edgerev.tools.daemon_process import Connection, DaemonProcess

INPUTS, CLASSES = 64, 10
PREDICT_SECONDS = 0.02  # between two predictions
LOOK_SECONDS = 1.0  # between two looks at the memory
MOST_SAMPLES = 200_000
GENERATION = 16_384  # samples between two generations: at thousands in a second, flash would wear
BODIES = 50  # different requests, made before the clock starts


def serve_figures(name: str, *, rate: float, batch: int, seconds: float, seed: int = 0) -> dict[str, Any]:
    """Return how a daemon that trains a net by name does.

    Parameters
    ----------
    rate : samples a second that are sent; what the daemon does not take in time is sent later
    batch : samples of one request
    seconds : how long
    """
    whole("batch", batch, 1, 4096)
    with tempfile.TemporaryDirectory() as folder:
        model = os.path.join(folder, "model.edgerev")
        Learner(preset(name, (INPUTS,), CLASSES), batch=batch, seed=seed).save(model)
        tables = {"training": {"generation_samples": GENERATION}, "guard": {"window": GENERATION // 4}}
        with DaemonProcess(folder, model, most_samples=MOST_SAMPLES, request_bytes=1 << 22, **tables) as daemon:
            idle = daemon.memory()["rss_bytes"]
            before = _status(daemon)
            load = _Load(daemon, rate=rate, batch=batch, seconds=seconds, seed=seed)
            took = load.run()
            after = _status(daemon)
            while (status := _status(daemon))["trained"] + batch <= load.sent:
                if status["problem"]:
                    raise EdgerevError(f"training stands still: {status['problem']}; expected none; look at the log")
                time.sleep(LOOK_SECONDS)
            behind = time.perf_counter() - load.started - took
            peak = daemon.memory()["peak_rss_bytes"]
    latencies = sorted(load.latencies)
    return {
        "preset": name, "batch": batch, "seconds": round(took, 1), "sent": load.sent, "refused": load.refused,
        "samples_per_second": load.sent / took, "trained_at_the_end": after["trained"],
        "seconds_behind": round(behind, 1), "predictions": len(latencies),
        **{f"predict_ms_{name}": 1e3 * latencies[int(share * (len(latencies) - 1))] for name, share in _SHARES.items()},
        "arena_bytes": after["arena_bytes"], "idle_rss_bytes": idle, "peak_rss_bytes": peak,
        "beyond_arena_bytes": peak - after["arena_bytes"], "rss_bytes_over_time": load.memory,
        **{
            f"{name}_per_second": (after[name] - before[name]) / took for name in ("commits", "syncs", "written_bytes")
        },
        "rollbacks": after["rollbacks"], "drifts": after["drifts"],
    }  # fmt: skip


def _status(daemon: DaemonProcess) -> dict[str, Any]:
    """Return the daemon's status, by a connection of its own: one at rest is closed after a while."""
    return Connection(daemon.socket).ask("GET", "/v1/status")[1]


_SHARES = {"p50": 0.5, "p99": 0.99, "max": 1.0}


class _Load:
    """A sender, an asker, and a look at the memory, each a thread."""

    def __init__(self, daemon: DaemonProcess, *, rate: float, batch: int, seconds: float, seed: int) -> None:
        self._daemon, self._rate, self._batch, self._seconds = daemon, rate, batch, seconds
        self._bodies = list(_bodies(batch, seed))
        self.sent = self.refused = 0
        self.latencies: list[float] = []
        self.memory: list[int] = []
        self.started = 0.0
        self._over = threading.Event()

    def run(self) -> float:
        """Send for as long as wanted; return the seconds that it took."""
        threads = [threading.Thread(target=what) for what in (self._ask, self._look)]
        self.started = time.perf_counter()
        for thread in threads:
            thread.start()
        try:
            self._send()
        finally:
            took = time.perf_counter() - self.started
            self._over.set()
            for thread in threads:
                thread.join()
        return took

    def _send(self) -> None:
        connection, each = Connection(self._daemon.socket), self._batch / self._rate
        for number in range(int(self._seconds / each)):
            self._over.wait(max(0.0, self.started + number * each - time.perf_counter()))
            while connection.ask("POST", "/v1/samples", self._bodies[number % BODIES])[0] != 202:
                self.refused += 1
                self._over.wait(LOOK_SECONDS)
            self.sent += self._batch

    def _ask(self) -> None:
        connection = Connection(self._daemon.socket)
        body = json.dumps({"samples": [json.loads(self._bodies[0])["samples"][0]["x"]]}).encode()
        number = 0
        while not self._over.wait(max(0.0, self.started + number * PREDICT_SECONDS - time.perf_counter())):
            due = self.started + number * PREDICT_SECONDS  # so that who waited for the one before counts as well
            code, answer = connection.ask("POST", "/v1/predict", body)
            if code != 200:
                raise EdgerevError(f"a prediction got {code}, {answer}; expected 200; look at the log of the daemon")
            self.latencies.append(time.perf_counter() - due)
            number += 1

    def _look(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            self.memory.append(self._daemon.memory()["rss_bytes"])


def _bodies(batch: int, seed: int) -> Iterator[bytes]:
    """Yield requests with samples of classes that can be told apart, each with a centre of its own."""
    draw = random.Random(seed)
    centres = [[draw.gauss(0, 1) for _ in range(INPUTS)] for _ in range(CLASSES)]
    for _ in range(BODIES):
        samples = []
        for _ in range(batch):
            label = draw.randrange(CLASSES)
            samples.append({"x": [round(value + draw.gauss(0, 1), 4) for value in centres[label]], "y": label})
        yield json.dumps({"samples": samples}).encode()
