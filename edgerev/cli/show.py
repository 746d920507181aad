"""Figures for people and for programs: one dataclass, rendered as text or JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from edgerev.units import format_bytes

if TYPE_CHECKING:
    from edgerev.learner import Learner
    from edgerev.train import Trainer, TrainingReport

COLUMNS = 100  # of a line


def print_json(figures: dict[str, Any]) -> None:
    """Print figures as one JSON object."""
    print(json.dumps(figures, indent=2, allow_nan=False))


def regions_table(regions: dict[str, int]) -> list[str]:
    """Return a line for each region of an arena that has bytes, with its share."""
    total = sum(regions.values())
    return [
        f"  {name:<15} {size:>12,d} B {100 * size / total:5.1f} %" for name, size in regions.items() if size
    ]


def paragraph(name: str, text: str, width: int = 12) -> str:
    """Return a name and what there is to say of it, which goes on below where it is long."""
    from textwrap import fill

    return fill(
        text, COLUMNS, initial_indent=f"{name:<{width}}", subsequent_indent=" " * width, break_on_hyphens=False,
        break_long_words=False,
    )  # fmt: skip


def show_planned(learner: Learner) -> None:
    """Print what training will take, before the first step."""
    from edgerev.cli.planned import schedule_text
    from edgerev.schedule import Choice

    net, recipe, plan = learner.net, learner.recipe, learner.plan
    why = schedule_text(Choice(learner.schedule, learner.runtime.program, plan), net, recipe, learner.memory)
    print(f"memory             {plan.arena_bytes:,d} B planned for {learner.parameters:,d} parameters, "
          f"batch {recipe.batch}")  # fmt: skip
    print(paragraph("schedule", why, 19), flush=True)


def show_training(trainer: Trainer, as_json: bool) -> None:
    """Print the figures of a training run."""
    from dataclasses import asdict

    report = trainer.report
    if as_json:
        print_json(asdict(report))
        return
    if len(report.matrix) > 1:
        _show_experiences(report)
    else:
        print(f"training loss      {report.loss:.4f} of {report.samples:,d} samples")
    measured = f"{sum(len(part.test) for part in trainer.stream):,d} {report.measured_on} samples"
    if report.squared_error is not None:
        print(f"mean squared error {report.squared_error:.6g} of {measured}")
    if report.accuracy is not None:
        print(f"accuracy           {100 * report.accuracy:.2f} % of {measured}")
    if report.reconstruction_error is not None:
        print(f"reconstruction     error up to {report.reconstruction_error:.3g}, for the state is float32")
    if report.state_bytes or report.stored_sample_bytes:
        kept, sums = f"{report.stored_sample_bytes:,d} B of samples", f"{report.state_bytes:,d} B of sums over them"
        print(f"kept of samples    {kept}, {sums}")
    ready, peak = format_bytes(report.ready_rss_bytes), format_bytes(report.peak_rss_bytes)
    print(f"resident memory    {peak} at its peak, {ready} of it before the arena was there")
    step = f", {report.step_ms:.3f} ms a step" if report.step_ms else ""
    print(f"time               {report.seconds:.1f} s, {report.steps:,d} steps{step}")
    if trainer.output is not None:
        print(f"checkpoint         {trainer.output}")


def _show_experiences(report: TrainingReport) -> None:
    print("accuracy after each experience, on all classes seen so far")
    for index, (accuracy, row) in enumerate(zip(report.accuracy_after, report.matrix)):
        cells = "  ".join(f"{100 * value:6.2f}" for value in row)
        print(f"  {index + 1}  {100 * accuracy:6.2f} %   by experience: {cells}")
    print(f"forgetting         {100 * report.forgetting:.2f} points")
