"""Counts, and what they and the service say in the text format of Prometheus (version 0.0.4)."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

BUCKETS = (0.005, 0.02, 0.1, 0.5, 2.0)  # seconds
SAMPLES = ("accepted", "refused", "labelled", "trained", "expired")


class Counts:
    """Numbers by name that only grow; for any number of threads.

    Parameters
    ----------
    names : that are known from the start
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(names, 0)

    def add(self, name: str, count: int) -> None:
        """Count more of something."""
        with self._lock:
            self._counts[name] = self._counts.get(name, 0) + count

    def to_dict(self) -> dict[str, int]:
        """Return all of them."""
        with self._lock:
            return self._counts.copy()


class Durations:
    """Histograms of how long requests took, by route."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._routes: dict[str, list[float]] = {}  # how many were within each of BUCKETS, how many, their sum

    def add(self, route: str, seconds: float) -> None:
        """Count a request."""
        with self._lock:
            found = self._routes.setdefault(route, [0] * len(BUCKETS) + [0, 0.0])
            for place, limit in enumerate(BUCKETS):
                found[place] += seconds <= limit
            found[-2] += 1
            found[-1] += seconds

    def lines(self, name: str) -> Iterator[str]:
        """Yield the lines of a histogram, without its heading."""
        with self._lock:
            routes = {route: found.copy() for route, found in self._routes.items()}
        for route, (*within, count, total) in routes.items():
            for limit, number in (*zip(BUCKETS, within), ("+Inf", count)):
                yield f'{name}_bucket{{route="{route}",le="{limit}"}} {number}'
            yield f'{name}_count{{route="{route}"}} {count}'
            yield f'{name}_sum{{route="{route}"}} {total:.6f}'


def render(facts: Mapping[str, Any], durations: Durations, doors: Mapping[str, int]) -> str:
    """Return the metrics as text.

    Parameters
    ----------
    facts : see `facts.describe`
    durations : of requests
    doors : requests that were refused unread, by the reason
    """
    counts, latest = facts["counts"], facts["latest"] or [None] * 5
    outcomes = {name: counts[name] for name in SAMPLES}
    queue = {state: facts[state] for state in ("to_learn", "unlabelled", "unsaved")}
    waits = {reason: 1 for reason in (facts["problem"] and "trouble", facts["waits_for"]) if reason}
    lines: list[str] = []
    for name, kind, text, value in (
        ("samples_total", "counter", "Samples by what became of them", ("outcome", outcomes)),
        ("predictions_total", "counter", "Samples that were answered", counts["predictions"]),
        ("steps_total", "counter", "Training steps of the model", facts["steps"]),
        ("queue_samples", "gauge", "Samples in the store by what they wait for", ("state", queue)),
        ("queue_limit_samples", "gauge", "Samples that the store may have", facts["most_samples"]),
        ("trained_number", "gauge", "Number of the last sample that was learned", facts["trained"]),
        ("saved_number", "gauge", "Number of the last sample that the newest generation learned", facts["saved"]),
        ("loss", "gauge", "Prequential loss", latest[2]),
        ("accuracy", "gauge", "Prequential accuracy", latest[3]),
        ("usual_accuracy", "gauge", "Accuracy that the guard takes for usual", facts["usual_accuracy"]),
        ("drifts_total", "counter", "Drifts that were detected", facts["drifts"]),
        ("rollbacks_total", "counter", "Ways back to the accepted model", facts["rollbacks"]),
        ("refused_batches_total", "counter", "Batches that could not be learned", facts["refused_batches"]),
        ("generations_total", "counter", "Generations of the model that were written", facts["generation"]),
        ("events_total", "counter", "Events by kind", ("kind", facts["events"])),
        ("commits_total", "counter", "Transactions of the store", facts["commits"]),
        ("written_bytes_total", "counter", "Bytes that the process gave to disks", facts["written_bytes"]),
        ("arena_bytes", "gauge", "Bytes of the arena by region", ("region", facts["regions"])),
        ("guard_bytes", "gauge", "Bytes of the arena for the accepted model", facts["guard_bytes"]),
        ("resident_bytes", "gauge", "Resident memory of the process", facts["rss_bytes"]),
        ("resident_peak_bytes", "gauge", "Most of it since the start", facts["peak_rss_bytes"]),
        ("temperature_celsius", "gauge", "The hottest thermal zone", facts["celsius"]),
        ("training_waits", "gauge", "1 for the reason why training waits now, if it does", ("reason", waits)),
        ("denied_requests_total", "counter", "Requests that were refused unread", ("reason", doors)),
        ("uptime_seconds", "gauge", "Time since the start", facts["uptime_seconds"]),
    ):  # fmt: skip
        label, values = value if isinstance(value, tuple) else ("", {"": value})
        known = {key: number for key, number in values.items() if number is not None}
        if known:
            lines += [f"# HELP edgerev_{name} {text}.", f"# TYPE edgerev_{name} {kind}"]
            lines += [_line(f"edgerev_{name}", label, key, number) for key, number in known.items()]
    name = "edgerev_request_seconds"
    lines += [f"# HELP {name} Time to answer a request.", f"# TYPE {name} histogram", *durations.lines(name)]
    return "\n".join(lines) + "\n"


def _line(name: str, label: str, key: str, number: float) -> str:
    if not label:
        return f"{name} {number}"
    escaped = key.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'{name}{{{label}="{escaped}"}} {number}'
