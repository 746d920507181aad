"""The chapters of the benchmark report: what each measures, how long that takes, and what it shows."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from edgerev.errors import UsageError
from edgerev.machine import read_fields, read_memory
from edgerev.tools import energy
from edgerev.tools.child import measured_alone
from edgerev.tools.memory import peak_rss_bytes, rss_bytes

Figures = dict[str, Any]


class Choice(NamedTuple):
    """What a report is made of.

    Attributes
    ----------
    data : folder with mnist/ and gas-drift/; "" leaves out what needs them
    torch, ort : Pythons of environments with the peers; "" leaves each out
    quick : whether to measure little, for a first look
    """

    data: str = ""
    torch: str = ""
    ort: str = ""
    quick: bool = False


class Chapter(NamedTuple):
    """A part of the report.

    Attributes
    ----------
    name, title : of its file of figures, and of its section
    text : how to read it, a sentence or two
    command : what measures the same by hand
    minutes : about how long it takes, all and quick
    measure : takes the choice, returns figures that survive JSON
    needs : returns why it cannot be measured under a choice, or ""
    """

    name: str
    title: str
    text: str
    command: str
    minutes: tuple[float, float]
    measure: Callable[[Choice], Figures]
    needs: Callable[[Choice], str] = lambda _: ""


def _machine(_: Choice) -> Figures:
    memory, cpu = read_memory(), read_fields("/proc/cpuinfo")
    return {
        "machine": platform.machine(), "processor": cpu.get("model name") or cpu.get("Model") or "unknown",
        "cores": len(os.sched_getaffinity(0)), "memory_bytes": memory.total_bytes if memory else None,
        "system": platform.platform(), "python": platform.python_version(),
        "kernels": measured_alone("edgerev.tools.report_chapters:loaded_kernels"),
    }  # fmt: skip


def loaded_kernels() -> str:
    """Return the name of the target whose kernels this machine runs."""
    from edgerev.kernels import library

    return library.load().target


def _memory(choice: Choice) -> Figures:
    depths = (4, 16) if choice.quick else (4, 16, 64, 250, 1000)
    rows = []
    for depth in depths:
        row: Figures = {"blocks": depth}
        for schedule in ("reversible", "stored"):
            found = measured_alone("edgerev.tools.report_chapters:step_memory", name=f"mlp{depth}", schedule=schedule)
            row["parameter_bytes"] = found.pop("parameter_bytes")
            row |= {f"{schedule}_{name}": value for name, value in found.items()}
        rows.append(row)
    return {"preset": "mlp", "batch": 16, "rows": rows}


def step_memory(name: str, schedule: str) -> Figures:
    """Return what three training steps take in this process: planned bytes, and its peak less what it had before."""
    from edgerev.tools.bench_step import step_learner

    before = rss_bytes()
    learner = step_learner(name, batch=16, schedule=schedule)
    return {
        "arena_bytes": learner.plan.arena_bytes, "activation_bytes": learner.plan.activation_bytes,
        "parameter_bytes": 4 * learner.parameters,
        "beyond_arena_bytes": peak_rss_bytes() - before - learner.plan.arena_bytes,
    }  # fmt: skip


def _depth(choice: Choice) -> Figures:
    from edgerev.tools.bench_depth import depth_figures

    if choice.quick:
        return depth_figures("mlp", depths=(4, 8), batches=(1, 16), rounds=3, seconds=0.02)
    return depth_figures("mlp", depths=(16, 64, 256, 1000), batches=(1, 4, 16, 64), rounds=5)


def _inverse(choice: Choice) -> Figures:
    from edgerev.tools.bench_inverse import inverse_error

    name, steps = ("mlp16", 20) if choice.quick else ("mlp1000", 200)
    return {"rows": [inverse_error(name, steps=steps, state=state) for state in ("int32", "int16", "float32")]}


def _peers(choice: Choice) -> Figures:
    from edgerev.tools.bench_peers import peers_figures

    quick: Any = {"rows": [("mlp16", 1)], "speedups": [], "rounds": 2, "seconds": 0.05} if choice.quick else {}
    return peers_figures(choice.torch or None, choice.ort or None, **quick)


def _split(choice: Choice) -> Figures:
    from edgerev.tools.bench_continual import continual_figures

    data, seeds = os.path.join(choice.data, "mnist"), 1 if choice.quick else 3
    return continual_figures(data, scenario="split", setting="class", method="ridge-small", seeds=seeds)


def _gas(choice: Choice) -> Figures:
    from edgerev.tools.bench_prequential import prequential_figures

    return prequential_figures(os.path.join(choice.data, "gas-drift"), seeds=1 if choice.quick else 5, width=32)


def _serve(choice: Choice) -> Figures:
    from edgerev.tools.bench_serve import serve_figures

    return serve_figures("mlp16", rate=2000, batch=32, seconds=2 if choice.quick else 60)


def _energy(choice: Choice) -> Figures:
    from edgerev.tools.bench_step import step_learner
    from edgerev.tools.timing import burst

    sensors = energy.meters()
    rows = []
    for name in ("mlp16", "har12", "vis8"):
        learner = step_learner(name, batch=16)
        before = learner.steps
        with energy.measured(sensors) as found:
            burst(partial(learner.step, 16), 0.2 if choice.quick else 10.0)
        steps = learner.steps - before
        each = {name: joules / steps for name, joules in found.joules.items()}
        rows.append({"net": name, "steps": steps, "joules_per_step": each})
    return {"sensors": [meter.name for meter in sensors], "rows": rows}


def _data(folder: str) -> Callable[[Choice], str]:
    def needs(choice: Choice) -> str:
        there = choice.data and os.path.isdir(os.path.join(choice.data, folder))
        return "" if there else f"no data: name the folder that holds {folder}/ with --data"

    return needs


def _peers_needs(choice: Choice) -> str:
    return "" if choice.torch or choice.ort else "no peers: name their Pythons with --torch and --ort"


def _energy_needs(_: Choice) -> str:
    return "" if energy.meters() else "no sensor can be read here: neither RAPL (as root) nor a power sensor of hwmon"


def _serve_needs(_: Choice) -> str:
    try:
        import waitress  # noqa: F401
    except ImportError as error:
        return f"{error}: install edgerev[serve]"
    return ""


CHAPTERS = (
    Chapter("machine", "The machine", "What everything below was measured on.", "edgerev doctor", (0.1, 0.1), _machine),
    Chapter(
        "memory", "Memory against depth",
        "The reversible step rebuilds every activation from the next one: its activation bytes are the same at any "
        "depth, and the arena grows by the parameters alone. Stored activations grow with every block.",
        "edgerev plan --preset mlp1000", (0.1, 0.1), _memory,
    ),
    Chapter(
        "time", "Time against depth and batch",
        "What rebuilding costs beside stored activations, in time of the same step, and time per sample by batch.",
        "edgerev bench depth --preset mlp --depths 16,64,256,1000 --batches 1,4,16,64", (0.4, 0.2), _depth,
    ),
    Chapter(
        "inverse", "Error of the inverse",
        "The largest difference between what goes into the backbone and what its inverse gives back, fresh and after "
        "training. On the grids of int32 and int16 it is zero.",
        "edgerev bench inverse --preset mlp1000", (0.5, 0.2), _inverse,
    ),
    Chapter(
        "peers", "Beside other frameworks", "One thread's training step, all frameworks taking turns.",
        "edgerev bench peers --torch PYTHON --ort PYTHON", (2.2, 0.3), _peers, _peers_needs,
    ),
    Chapter(
        "split", "New classes without forgetting",
        "MNIST in five experiences of two classes; no sample is stored. Accuracy on each experience (columns) after "
        "each one (rows).",
        "edgerev bench continual --data DIR --setting class --method ridge-small", (2.7, 1), _split, _data("mnist"),
    ),
    Chapter(
        "gas", "Sensors that age",
        "Each sample is answered before it is learned; beside it the same model, frozen after the first batch.",
        "edgerev bench gas --data DIR --prequential", (0.4, 0.3), _gas, _data("gas-drift"),
    ),
    Chapter(
        "serve", "The daemon under load",
        "2,000 samples a second over HTTP in batches of 32, while mlp16 is trained and predictions are asked for.",
        "edgerev bench serve --seconds 60", (1.2, 0.2), _serve, _serve_needs,
    ),
    Chapter(
        "energy", "Energy of a step", "By the machine's own sensors, which measure all that runs on it.",
        "edgerev bench report", (0.6, 0.1), _energy, _energy_needs,
    ),
)  # fmt: skip


def chapters(names: str) -> tuple[Chapter, ...]:
    """Return the chapters that are named, joined by commas; all if there are none.

    Raises
    ------
    UsageError
        There is no such chapter.
    """
    known = {chapter.name: chapter for chapter in CHAPTERS}
    wanted = [name for name in names.split(",") if name]
    for name in wanted:
        if name not in known:
            raise UsageError(f"chapter {name!r}: expected one of {', '.join(known)}; change it")
    return tuple(known[name] for name in wanted) or CHAPTERS
