"""What `edgerev ctl` says of a daemon, for people: its status in groups, and what became of what it was told to do."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from edgerev.errors import DaemonError
from edgerev.units import format_bytes

Status = Mapping[str, Any]
_SPANS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def outcome(action: str, before: Status, after: Status) -> str:
    """Return in a line what an action did.

    Raises
    ------
    DaemonError
        It did nothing: there is no model to go back to.
    """
    return {"pause": _paused, "resume": _resumed, "save": _saved, "rollback": _went_back}[action](before, after)


def _paused(_: Status, after: Status) -> str:
    return (
        "paused: samples are still taken in, and predictions answered; edgerev ctl resume lets training go on; still "
        f"to learn: {after['to_learn']:,}"
    )


def _resumed(_: Status, after: Status) -> str:
    goes_on = f"waits for something else ({after['waits_for']})" if after["waits_for"] else "goes on"
    return f"resumed: training {goes_on}; still to learn: {after['to_learn']:,}{_missing(after)}"


def _saved(before: Status, after: Status) -> str:
    if after["generation"] == before["generation"]:
        return f"nothing to write: generation {after['generation']:,} has all that was learned"
    learned = after["saved"] - before["saved"]
    return f"generation {after['generation']:,} written, {learned:,} samples learned since the last"


def _went_back(before: Status, after: Status) -> str:
    if after["rollbacks"] == before["rollbacks"]:
        raise DaemonError(
            f"the daemon did not go back: {'; '.join(after['problems'][-1:])}; expected an accepted model; let it "
            "learn first, or look into its log"
        )
    return (
        f"went back to the accepted model, which is generation {after['generation']:,} now; what was learned since it "
        "was accepted is lost"
    )


def lines(status: Status, now: float | None = None) -> Iterator[str]:
    """Yield the lines of a status.

    Parameters
    ----------
    now : unix time; at present if not given
    """
    now = time.time() if now is None else now
    yield f"{status['model']}, edgerev {status['version']}, running for {span(status['uptime_seconds'])}"
    yield _doing(status)
    for problem in (status["problem"], status["store_problem"], *status["problems"]):
        if problem:
            yield f"problem: {problem}"
    groups = {
        "samples": _samples(status), "model": _model(status, now), "guard": _guard(status), "memory": _memory(status),
        "machine": _machine(status), "samples since the start": _counts(status["counts"]),
        "events since the start": _counts(status["events"]),
    }  # fmt: skip
    found = {title: dict(rows) for title, rows in groups.items()}
    width = max(len(name) for rows in found.values() for name in rows)
    for title, rows in found.items():
        yield from ("", title, *(f"  {name:<{width}}  {value}" for name, value in rows.items()))


def _doing(status: Status) -> str:
    if status["problem"]:
        return "training has stopped"
    if status["waits_for"]:
        return f"training waits: {status['waits_for']}"
    rate = status["samples_per_second"]
    return f"learning, {rate:,} samples a second" if rate else f"idle{_missing(status)}"


def _missing(status: Status) -> str:
    """Return how many samples a batch lacks that has begun."""
    batch, to_learn = status["batch"], status["to_learn"]
    if not 0 < to_learn < batch:
        return ""
    return f"; waiting for {batch - to_learn} more samples, for {batch} are learned at once"


def _samples(status: Status) -> Iterator[tuple[str, str]]:
    kept = status["to_learn"] + status["unlabelled"] + status["unsaved"]
    yield "to learn", f"{status['to_learn']:,}"
    yield "without label", f"{status['unlabelled']:,}"
    yield "not saved yet", f"{status['unsaved']:,}, learned since the last generation"
    yield "in the store", f"{kept:,} of {status['most_samples']:,}"


def _model(status: Status, now: float) -> Iterator[tuple[str, str]]:
    yield "steps", f"{status['steps']:,}"
    yield "trained", f"{status['trained']:,} samples in all"
    yield "generation", f"{status['generation']:,}, of {status['saved']:,} samples"
    if status["latest"]:
        when, _, loss, accuracy, accepted = status["latest"]
        beside = "" if accepted is None else f"; the accepted model: {accepted:.1%}"
        yield "accuracy", f"{accuracy:.1%}{beside}"
        yield "loss", f"{loss:.3f}"
        yield "measured", ago(now - when)
    if status["answers"]:
        when, answer, sure = status["answers"][-1]
        yield "last answer", f"{answer}, {sure:.1%} sure, {ago(now - when)}"


def _guard(status: Status) -> Iterator[tuple[str, str]]:
    usual = status["usual_accuracy"]
    yield "usual accuracy", "not known yet" if usual is None else f"{usual:.1%}"
    yield "drifts", f"{status['drifts']:,}"
    yield "rollbacks", f"{status['rollbacks']:,}"
    yield "batches left out", f"{status['refused_batches']:,}"


def _memory(status: Status) -> Iterator[tuple[str, str]]:
    limit, guard = status["memory_limit"], status["guard_bytes"]
    of_it = f", of it {format_bytes(guard)} for the guard" if guard else ""
    yield "arena", format_bytes(status["arena_bytes"]) + of_it
    if status["rss_bytes"] is not None:
        yield "process", format_bytes(status["rss_bytes"]) + (f" of {format_bytes(limit)}" if limit else "")
        yield "at most", format_bytes(status["peak_rss_bytes"])


def _machine(status: Status) -> Iterator[tuple[str, str]]:
    yield "commits", f"{status['commits']:,}"
    yield "syncs", f"{status['syncs']:,}"
    if status["written_bytes"] is not None:
        yield "written", format_bytes(status["written_bytes"])
    if status["celsius"] is not None:
        yield "temperature", f"{status['celsius']:.1f} C"


def _counts(counts: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    for kind, count in counts.items():
        yield "labelled later" if kind == "labelled" else kind.replace("_", " "), f"{count:,}"


def span(seconds: float) -> str:
    """Return how long something took in its largest unit and the one below, as "3 h 12 min"."""
    place = next((place for place, (size, _) in enumerate(_SPANS) if seconds >= size), len(_SPANS) - 1)
    parts = []
    for size, unit in _SPANS[place : place + 2]:
        parts.append(f"{int(seconds // size)} {unit}")
        seconds %= size
    return " ".join(parts)


def ago(seconds: float) -> str:
    """Return how long something is past, as "3 min ago"."""
    return next((f"{int(seconds // size)} {unit} ago" for size, unit in _SPANS if seconds >= size), "just now")
