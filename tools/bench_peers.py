"""The reference nets here and in torch and onnxruntime-training, in one run and taking turns.

Each framework runs in a process of its own that has warmed up and waits; bursts of steps alternate, and the median of
each framework's bursts counts. The peers store activations.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from edgerev.errors import EdgerevError, UsageError
from edgerev.machine import cache_folder
from edgerev.tools.child import module_command
from edgerev.tools.timing import check_rounds

# How many times faster than the better peer a step is to be, one thread.
TARGETS = {
    ("mlp16", 1): 8.0, ("mlp16", 16): 3.0, ("har12", 1): 2.5, ("har12", 16): 1.3, ("vis8", 1): 1.2, ("vis8", 16): 1.1,
}  # fmt: skip
SPEEDUP_NETS = (("har12", 16), ("vis8", 16))
SPEEDUP_TARGET = 1.7  # two threads
SCRIPT = Path(__file__).with_name("peer_step.py")
OURS = "edgerev"


class Worker:
    """A process that takes steps when it is asked.

    Raises
    ------
    EdgerevError
        It ended instead of answering.
    """

    def __init__(self, name: str, command: Sequence[str], threads: int) -> None:
        self.name, self.command = name, command
        # no safe path, no shadowing of the peer's modules by those that lie beside the script
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONSAFEPATH": "1"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._answer()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def burst(self, seconds: float) -> dict[str, Any]:
        """Return `step_ms` and `peak_rss_bytes` after a burst of steps."""
        return self.ask(str(seconds))

    def ask(self, line: str) -> dict[str, Any]:
        """Return the answer to a line."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended; `_answer` says so
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise EdgerevError(
                f"{self.name} ended with code {self._process.wait()} instead of answering; expected it to train. Its "
                f"message is above; by hand: {' '.join(self.command)}"
            )
        return json.loads(line)


def peers_figures(
    torch: str | None, ort: str | None, *, rows: Sequence[tuple[str, int]] = tuple(TARGETS),
    speedups: Sequence[tuple[str, int]] = SPEEDUP_NETS, graphs: str | None = None, rounds: int = 7,
    seconds: float = 0.5,
) -> dict[str, Any]:
    """Return the ratio table, and how much faster two threads of ours are than one.

    Parameters
    ----------
    torch, ort : Python of an environment with torch, or onnxruntime-training; None leaves that peer out
    rows, speedups : nets and batches of either table
    graphs : folder of onnxruntime-training's graphs, which are written if they are not there
    rounds, seconds : bursts of each framework, and how long each lasts

    Returns
    -------
    dict
        `rows` as `ratio_rows` makes them, and `threads`, a list with `one_thread_ms`, `two_threads_ms`, `speedup`.

    Raises
    ------
    UsageError
        A Python is not there.
    EdgerevError
        A framework failed.
    """
    check_rounds(rounds, seconds)
    for python in filter(None, (torch, ort)):
        check_python(python)
    folder = graphs or str(cache_folder() / "peers")
    times: dict[tuple[str, int], dict[str, list[dict[str, Any]]]] = {}
    for net, batch in rows:
        commands = {OURS: _ours(net, batch)}
        if torch:
            commands["torch"] = _peer(torch, "torch", net, batch, folder)
        if ort:
            _build_graphs(ort, net, folder)
            commands["ort"] = _peer(ort, "ort", net, batch, folder)
        if len(commands) > 1:
            times[net, batch] = _alternate(commands, rounds, seconds)
    threads = {
        row: _alternate({"1": _ours(*row), "2": _ours(*row, threads=2)}, rounds, seconds) for row in speedups
    }
    return {
        "rounds": rounds, "seconds": seconds, "processors": len(os.sched_getaffinity(0)), "rows": ratio_rows(times),
        "threads": speedup_rows(threads),
    }  # fmt: skip


def check_python(python: str) -> None:
    """Refuse what is no program, by a UsageError."""
    if not os.access(python, os.X_OK) or os.path.isdir(python):
        raise UsageError(f"{python} cannot be run; expected the Python of an environment, such as env/bin/python")


def ratio_rows(times: Mapping[tuple[str, int], Mapping[str, Sequence[Mapping[str, Any]]]]) -> list[dict[str, Any]]:
    """Return a row for each net and batch: medians, and the better peer's time by ours.

    Parameters
    ----------
    times : by net and batch, by framework ("edgerev", "torch", "ort"), the answers to all bursts
    """
    rows = []
    for (net, batch), taken in times.items():
        step_ms = {name: median(answer["step_ms"] for answer in answers) for name, answers in taken.items()}
        better = min((name for name in step_ms if name != OURS), key=step_ms.__getitem__)
        ratio, target = step_ms[better] / step_ms[OURS], TARGETS.get((net, batch))
        rows.append({
            "net": net, "batch": batch, "step_ms": step_ms, "better_peer": better, "ratio": ratio, "target": target,
            "reached": None if target is None else ratio >= target,
            "peak_rss_bytes": {name: answers[-1]["peak_rss_bytes"] for name, answers in taken.items()},
        })  # fmt: skip
    return rows


def speedup_rows(times: Mapping[tuple[str, int], Mapping[str, Sequence[Mapping[str, Any]]]]) -> list[dict[str, Any]]:
    """Return a row for each net and batch: the median of one thread by that of two.

    Parameters
    ----------
    times : by net and batch, by number of threads ("1", "2"), the answers to all bursts
    """
    rows = []
    for (net, batch), taken in times.items():
        one, two = (median(answer["step_ms"] for answer in taken[threads]) for threads in ("1", "2"))
        rows.append({
            "net": net, "batch": batch, "one_thread_ms": one, "two_threads_ms": two, "speedup": one / two,
            "target": SPEEDUP_TARGET, "reached": one / two >= SPEEDUP_TARGET,
        })  # fmt: skip
    return rows


def _alternate(commands: Mapping[str, Sequence[str]], rounds: int, seconds: float) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(Worker(name, command, 2 if name == "2" else 1))
            for name, command in commands.items()
        }
        for _ in range(rounds):
            for name, worker in workers.items():
                found[name].append(worker.burst(seconds))
    return found


def _ours(net: str, batch: int, threads: int = 1) -> list[str]:
    options = ["--net", net, "--batch", str(batch), "--threads", str(threads)]
    return module_command("edgerev.tools.step_worker", *options)


def _peer(python: str, peer: str, net: str, batch: int, folder: str) -> list[str]:
    return [python, str(SCRIPT), peer, "--net", net, "--batch", str(batch), "--threads", "1", "--graphs", folder]


def _build_graphs(python: str, net: str, folder: str) -> None:
    """Write onnxruntime-training's graphs of a net unless they are there."""
    if (Path(folder) / net / "optimizer_model.onnx").exists():
        return
    command = [python, str(SCRIPT), "ort", "--net", net, "--graphs", folder, "--build"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONSAFEPATH": "1"})
    if done.returncode:
        raise EdgerevError(
            f"building the graphs of {net} failed; expected onnxruntime-training, onnx and torch in that environment. "
            f"Install them, or name a folder that has the graphs (--graphs):\n{done.stderr[-1500:]}"
        )
