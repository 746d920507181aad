"""Figures for people and for programs: one dataclass, rendered as text or JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from edgerev.units import format_bytes

if TYPE_CHECKING:
    from edgerev.train import TrainingReport


def print_json(figures: dict[str, Any]) -> None:
    """Print figures as one JSON object."""
    print(json.dumps(figures, indent=2, allow_nan=False))


def regions_table(regions: dict[str, int]) -> list[str]:
    """Return a line for each region of an arena that has bytes, with its share."""
    total = sum(regions.values())
    return [
        f"  {name:<15} {size:>12,d} B {100 * size / total:5.1f} %" for name, size in regions.items() if size
    ]


def show_training(report: TrainingReport, as_json: bool) -> None:
    """Print the figures of a training run."""
    from dataclasses import asdict

    if as_json:
        print_json(asdict(report))
        return
    if len(report.matrix) > 1:
        print("accuracy after each experience, on all classes seen so far")
        for index, (accuracy, row) in enumerate(zip(report.accuracy_after, report.matrix)):
            cells = "  ".join(f"{100 * value:6.2f}" for value in row)
            print(f"  {index + 1}  {100 * accuracy:6.2f} %   by experience: {cells}")
        print(f"forgetting         {100 * report.forgetting:.2f} points")
    else:
        print(f"training loss      {report.loss:.4f}")
    if report.squared_error is not None:
        print(f"mean squared error {report.squared_error:.6g} of {report.measured_on} samples")
    if report.accuracy is not None:
        print(f"accuracy           {100 * report.accuracy:.2f} % of {report.measured_on} samples")
    if report.reconstruction_error is not None:
        print(f"reconstruction     error up to {report.reconstruction_error:.3g}, for the state is float32")
    print(f"kept of samples    {report.stored_sample_bytes} B of samples, {report.state_bytes:,d} B of sums over them")
    print(f"parameters         {report.parameters:,d}, {report.schedule} schedule")
    print(f"arena              {report.arena_bytes:,d} B, planned before the first step")
    print("\n".join(regions_table(report.regions)))
    ready, peak = format_bytes(report.ready_rss_bytes), format_bytes(report.peak_rss_bytes)
    print(f"resident memory    {ready} before the first step, peak {peak}")
    print(f"time               {report.step_ms:.3f} ms a step, {report.steps} steps, {report.seconds:.1f} s in all")
