"""The arena as a picture: where each tensor lies, from the instruction that first uses it to the last.

Regions that stay (program, parameters, ...) are bands. In the others, which a step fills anew, each tensor is a
rectangle over its life; of those that share bytes (workspace, gradient) every life is drawn. Where there are too many
to be told apart, as in a net of a thousand blocks, they are drawn on a grid, a cell being filled if anything in it is
alive. Where what is filled anew is a small part of the arena, a second picture shows it alone, and a bracket where that
is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from edgerev.arena import Plan, lifetimes
from edgerev.kernels import layout
from edgerev.kernels.layout import NO_TENSOR, UPDATES, Op
from edgerev.program import SCOPED, Program, Region, Scope
from edgerev.schedule import Choice
from edgerev.tools.plotting import plotter
from edgerev.units import format_bytes

MOST_LIVES = 2500  # rectangles that are drawn one by one
COLUMNS, LINES = 480, 320  # of the grid that more of them are drawn on
MOST_SPANS = 200  # spans of phases that are drawn one by one
# Colours that people with any colour vision tell apart (Okabe and Ito 2008; Tol 2021), in the order of the arena.
COLOURS = {
    Region.PROGRAM: "#777777", Region.CONTROL: "#000000", Region.PARAMETERS: "#0072B2", Region.OPTIMIZER: "#56B4E9",
    Region.CONSOLIDATION: "#AA4499", Region.ACCUMULATOR: "#999933", Region.GRADIENT: "#D55E00",
    Region.STATE: "#009E73", Region.STATE_GRADIENT: "#E69F00", Region.STORED: "#882255",
    Region.WORKSPACE: "#CCBB00", Region.IO: "#44AA99", Region.DATA: "#88CCEE", Region.GUARD: "#332288",
}  # fmt: skip
FILLED = (Region.GRADIENT, Region.STATE, Region.STATE_GRADIENT, Region.STORED, Region.WORKSPACE)  # neighbours
SMALL = 0.5  # share of the arena below which these have a picture of their own
LABEL = 0.045  # height of a name, as a share of the height of all pictures: lower regions are named beside them alone
FORWARD, LOSS, INVERSE, GRADIENT, UPDATE = "forward", "loss", "inverse", "gradient", "update"
PHASES = {FORWARD: "#CCCCCC", LOSS: "#000000", INVERSE: "#009E73", GRADIENT: "#E69F00", UPDATE: "#0072B2"}
BACKWARD = "#999999"  # all that follows the loss, in one


class Life(NamedTuple):
    """A rectangle: bytes ``low .. high - 1`` of the arena, used from row ``born`` to row ``died``, of one region."""

    region: Region
    low: int
    high: int
    born: int
    died: int


class Span(NamedTuple):
    """Rows ``start .. stop - 1`` of one phase."""

    phase: str
    start: int
    stop: int


def lives(program: Program, plan: Plan) -> list[Life]:
    """Return every life of each tensor that the training section fills anew; see `FILLED`."""
    found: list[Life] = []
    first, last = program.sections["train"]
    spans: dict[int, tuple[int, int]] = {}
    for run in _runs(program, first, last):
        keys = set()
        for row in run:
            for number in _operands(program, row):
                region = program.regions[number]
                if region in SCOPED:
                    keys.add((region, program.scope_of(number) or ""))
                elif region in FILLED:
                    number = program.aliases.get(number, number)
                    spans[number] = spans.get(number, (row, row))[0], row
        for region, key in sorted(keys):
            shared = lifetimes(program, Scope(region, key, run.start, run.stop))
            found += [_life(program, plan, number, *rows) for number, rows in shared.items()]
    return found + [_life(program, plan, number, *rows) for number, rows in spans.items()]


def _life(program: Program, plan: Plan, number: int, born: int, died: int) -> Life:
    low = plan.offsets[number]
    return Life(program.regions[number], low, low + program.decode_tensor(number).nbytes, born, died)


def _operands(program: Program, row: int) -> Iterator[int]:
    start = row * layout.ROW
    cells = program.rows[start + layout.OPERANDS : start + layout.PARAMETERS]
    return (number for number in cells if number != NO_TENSOR)


def _runs(program: Program, first: int, last: int) -> Iterator[range]:
    """Yield the rows of one stem, residual function or head after another."""
    start = first
    for row in range(first + 1, last + 1):
        if row == last or _block(program, row) != _block(program, start):
            yield range(start, row)
            start = row


def _block(program: Program, row: int) -> int:
    return program.rows[row * layout.ROW + layout.BLOCK]


def phases(program: Program) -> list[Span]:
    """Return what the training section does, span by span: forward, loss, and for each function the way back."""
    spans: list[Span] = []
    before = FORWARD
    for run in _runs(program, *program.sections["train"]):
        name = program.blocks[_block(program, run.start)] if _block(program, run.start) >= 0 else ""
        steps = [program.decode(row) for row in run]
        if name == "head":
            before, found = LOSS, [LOSS] * len(steps)
        elif before == FORWARD or any(_starts_anew(step) for step in steps):
            before, found = FORWARD, [FORWARD] * len(steps)
        else:
            before, found = GRADIENT, _way_back(steps)
        for row, phase in zip(run, found):
            if spans and spans[-1].phase == phase:
                spans[-1] = spans[-1]._replace(stop=row + 1)
            else:
                spans.append(Span(phase, row, row + 1))
    return spans


def _starts_anew(step: Any) -> bool:
    """Return whether a row writes the state from a stem's output, which begins a micro-batch."""
    return step.op == Op.COUPLE and step.parameters["sign"] == 0


def _way_back(steps: list[Any]) -> list[str]:
    """Return the phase of each row of a residual function (or the stem) on the way back."""
    undone = max((place for place, step in enumerate(steps) if step.op == Op.COUPLE), default=-1)
    return [
        UPDATE if step.op in UPDATES else INVERSE if place <= undone else GRADIENT for place, step in enumerate(steps)
    ]


def coarse_phases(spans: list[Span]) -> list[Span]:
    """Return the spans with the way back as one: where there are too many to be told apart."""
    back = [phase for phase in (INVERSE, GRADIENT, UPDATE) if phase in {span.phase for span in spans}]
    whole, found = ", ".join(back) + " of each function in turn", list[Span]()
    for span in spans:
        phase = span.phase if span.phase in (FORWARD, LOSS) else whole
        if found and found[-1].phase == phase:
            found[-1] = found[-1]._replace(stop=span.stop)
        else:
            found.append(span._replace(phase=phase))
    return found


def on_grid(found: list[Life], rows: tuple[int, int], span: tuple[int, int]) -> list[Life]:
    """Return rectangles of a grid's cells in which anything is alive, neighbours in a line joined.

    Parameters
    ----------
    rows : first and last + 1
    span : first byte that is drawn, and last + 1
    """
    (first, last), (bottom, top) = rows, span
    width, height = max(1, -(-(last - first) // COLUMNS)), max(1, -(-(top - bottom) // LINES))
    alive: dict[tuple[Region, int], set[int]] = {}
    for life in found:
        columns = range((life.born - first) // width, (life.died - first) // width + 1)
        for line in range((life.low - bottom) // height, (life.high - 1 - bottom) // height + 1):
            alive.setdefault((life.region, line), set()).update(columns)
    joined = []
    for (region, line), filled in alive.items():
        starts = [column for column in filled if column - 1 not in filled]
        stops = [column + 1 for column in filled if column + 1 not in filled]
        joined += [
            Life(region, bottom + line * height, min(bottom + (line + 1) * height, top), first + start * width,
                 min(first + stop * width, last) - 1)
            for start, stop in zip(sorted(starts), sorted(stops))
        ]  # fmt: skip
    return joined


def plot_arena(choice: Choice, title: str, path: str) -> None:
    """Draw the arena of a training step as an SVG file.

    Parameters
    ----------
    choice : schedule, program and plan
    title : heading
    path : file to write

    Raises
    ------
    UsageError
        matplotlib is not installed.
    """
    plan = choice.plan
    figure = plotter()(figsize=(10, 5.8), layout="constrained")
    filled = [plan.regions[region] for region in FILLED]
    anew = filled[0][0], sum(filled[-1])
    pictures = [(0, plan.arena_bytes)]
    if anew[1] - anew[0] < SMALL * plan.arena_bytes:
        pictures.insert(0, anew)
    heights = [1.0, *[16 / len(pictures)] * len(pictures)]
    strip, *axes = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    spans, rows = phases(choice.program), choice.program.sections["train"]
    _draw_phases(strip, coarse_phases(spans) if len(spans) > MOST_SPANS else spans)
    found = lives(choice.program, plan)
    for axis, span in zip(axes, pictures):
        _draw_arena(axis, plan, found, rows, span)
        _name_regions(axis, plan, span, LABEL * len(pictures))
        _head(axis, span, anew if len(pictures) > 1 else None)
    axes[-1].set_xlabel(f"instruction of a training step ({rows[1] - rows[0]:,d})")
    axes[-1].set_xlim(0, rows[1] - rows[0])
    figure.suptitle(title)
    figure.savefig(path, format="svg")


def _draw_phases(axis: Any, spans: list[Span]) -> None:
    origin, drawn = spans[0].start, set()
    for span in spans:
        axis.broken_barh(
            [(span.start - origin, span.stop - span.start)], (0, 1), color=PHASES.get(span.phase, BACKWARD),
            linewidth=0, label="" if span.phase in drawn else span.phase,
        )
        drawn.add(span.phase)
    axis.set_ylim(0, 1)
    axis.set_yticks([])
    axis.tick_params(bottom=False, labelbottom=False)
    for side in axis.spines.values():
        side.set_visible(False)
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(drawn), frameon=False, fontsize="small")


def _draw_arena(axis: Any, plan: Plan, found: list[Life], rows: tuple[int, int], span: tuple[int, int]) -> None:
    """Draw the bytes of a span of the arena, with the names of its regions beside it."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Patch, Rectangle

    bottom, top = span
    unit, scale = _unit(top)
    many = len(found) > MOST_LIVES
    shown = on_grid(found, rows, span) if many else found
    edge = {"linewidth": 0, "antialiased": False} if many else {"edgecolor": "white", "linewidth": 0.3}
    handles = []
    for region, (start, size) in plan.regions.items():
        if not size or start + size <= bottom or top <= start:
            continue
        colour, stays = COLOURS[region], region not in FILLED
        axis.axhspan(start / scale, (start + size) / scale, color=colour, alpha=0.75 if stays else 0.12, linewidth=0)
        corners = (
            ((life.born - rows[0], life.low / scale), life.died + 1 - life.born, (life.high - life.low) / scale)
            for life in shown if life.region is region
        )  # fmt: skip
        patches = [Rectangle(*corner) for corner in corners]
        axis.add_collection(PatchCollection(patches, facecolor=colour, **edge))
        handles.append(Patch(color=colour, label=f"{region.value}  {format_bytes(size)}  {_percent(size, plan)}"))
    axis.set_ylim(bottom / scale, top / scale)
    axis.set_ylabel(f"place in the arena, {unit}")
    axis.legend(handles=handles[::-1], loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize="small")


def _unit(top: int) -> tuple[str, int]:
    return ("MiB", 1 << 20) if top >= 4 << 20 else ("KiB", 1 << 10)


def _head(axis: Any, span: tuple[int, int], enlarged: tuple[int, int] | None) -> None:
    """Write what a picture is of, and beside it put a bracket around what one of two enlarges."""
    name = f"the whole arena, {format_bytes(span[1])}"
    if enlarged:
        ends = [place / _unit(span[1])[1] for place in enlarged]
        where = {"transform": axis.get_yaxis_transform(), "clip_on": False}
        axis.plot([1.012, 1.012], ends, color="black", linewidth=2, marker=0, markersize=6, **where)
        if span == enlarged:
            name = f"what each step fills anew, {format_bytes(span[1] - span[0])}: the bracket below, enlarged"
    axis.set_title(name, fontsize="medium", loc="left")


def _name_regions(axis: Any, plan: Plan, span: tuple[int, int], least: float) -> None:
    """Write the names of regions into a picture, of those that are at least so high, as a share of it."""
    bottom, top = span
    for region, (start, size) in plan.regions.items():
        if size >= least * (top - bottom) and bottom <= start < top:
            axis.text(
                0.006, (start + size / 2 - bottom) / (top - bottom), region.value, transform=axis.transAxes,
                va="center", fontsize="small", bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1.5},
            )


def _percent(size: int, plan: Plan) -> str:
    share = 100 * size / plan.arena_bytes
    return f"{share:.0f} %" if share >= 1 else "< 1 %"
