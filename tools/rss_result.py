"""The record of one measurement of memory: what it holds, and how it is written and read as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from edgerev.errors import UsageError

KINDS = {
    "arena": "arena of edgerev", "heap": "heap", "stack": "stacks", "anonymous": "anonymous memory", "shared": "shared",
    "file": "programs and libraries", "others": "others",
}  # fmt: skip
SHOWN_SHARE = 0.01  # of the memory at the peak: smaller parts are not named


@dataclass(frozen=True)
class RssResult:
    """What a process and those below it used.

    Attributes
    ----------
    command : list of str
        The command as given, or that of the process which was followed.
    exit_code : int or None
        Its own exit code, or 128 plus the number of the signal that ended it; None for a process that ran already.
    signal : str or None
        Name of that signal.
    attached_pid : int or None
        Number of the process which was followed, if it ran already.
    seconds : float
        Wall time from exec to exit, or while it was followed.
    cpu_seconds : float or None
        Processor time of the command and the children it waited for.
    watcher_cpu_seconds : float
        Processor time that measuring took, the start of its interpreter included.
    peak_rss_bytes : int
        Largest resident size of any single process, since it began.
    peak_tree_rss_bytes : int
        Largest sum over processes alive at the same time, as sampled; pages shared by several count several times.
    peak_tree_pss_bytes : int or None
        The same with shared pages counted once, where it was read; None where the kernel hides it.
    peak_tree_swap_bytes : int
        Largest sum of what was swapped out.
    peak_cgroup_bytes : int or None
        What the control group reached meanwhile, with caches, kernel memory and all else in it; None if not known.
    processes : int
        How many processes were seen.
    left_running : int
        How many were still running when the command ended; counted up to then.
    method : str
        "trace" if every process was stopped and read as it exited; "sample" if short peaks may be missed.
    samples : int
        How often the tree was read.
    largest : list of dict
        The processes with the largest resident sizes: `pid`, `name`, `peak_rss_bytes`, `began_seconds`,
        `ended_seconds`.
    at_peak : dict or None
        `seconds` and `rss_bytes` of the largest sample whose mappings were read, and these: `kind` (arena, heap, stack,
        anonymous, file, shared, others), `name`, `rss_bytes`, `pss_bytes`, `swap_bytes`.
    timeline : dict
        Columns of at most 400 points, each the largest of its span of time: `seconds`, `rss_bytes`, `pss_bytes` (null
        where it was not read), `swap_bytes`, and `process_rss_bytes`, a column for each of `largest`.
    notes : list of str
        What a reader must know to believe the figures.
    limit_bytes : int or None
        Most bytes that `peak_tree_rss_bytes` should reach.
    """

    command: list[str]
    exit_code: int | None
    signal: str | None
    attached_pid: int | None
    seconds: float
    cpu_seconds: float | None
    watcher_cpu_seconds: float
    peak_rss_bytes: int
    peak_tree_rss_bytes: int
    peak_tree_pss_bytes: int | None
    peak_tree_swap_bytes: int
    peak_cgroup_bytes: int | None
    processes: int
    left_running: int
    method: str
    samples: int
    largest: list[dict[str, Any]]
    at_peak: dict[str, Any] | None
    timeline: dict[str, list]
    notes: list[str]
    limit_bytes: int | None = None

    @property
    def within_limit(self) -> bool:
        """Whether the whole tree stayed within the limit, if there is one."""
        return self.limit_bytes is None or self.peak_tree_rss_bytes <= self.limit_bytes

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as what JSON can hold."""
        return asdict(self) | {"within_limit": self.within_limit}


def read_result(path: str) -> RssResult:
    """Read the figures that ``edgerev rss --json`` printed.

    Parameters
    ----------
    path : str
        The file they were put in.

    Raises
    ------
    UsageError
        It cannot be read, or holds something else.
    """
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
        return RssResult(**{field.name: found[field.name] for field in fields(RssResult)})
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}; name what `edgerev rss --json` printed") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} holds no figures of one measurement ({error}); name what `edgerev rss --json -- COMMAND` printed"
        ) from error


def by_kind(at_peak: dict[str, Any]) -> dict[str, dict[str, int]]:
    """Return the bytes of each kind of mapping, in the order of `KINDS`, of those that are there.

    Parameters
    ----------
    at_peak : as `RssResult` has it
    """
    sums: dict[str, dict[str, int]] = {}
    for kind in KINDS:
        rows = [row for row in at_peak["mappings"] if row["kind"] == kind]
        if rows:
            sums[kind] = {key: sum(row[key] for row in rows) for key in ("rss_bytes", "pss_bytes", "swap_bytes")}
    return sums
