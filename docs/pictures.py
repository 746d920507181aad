"""Draw the pictures of `why.md` and `architecture.md`: `python docs/pictures.py` writes them to docs/images.

They bring a light ground of their own, so that they are legible on a dark page, and a title and a description for those
who do not see them. The bytes are those of the planner; a test draws them anew.
"""

from html import escape
from pathlib import Path

from edgerev import preset
from edgerev.recipe import Recipe
from edgerev.schedule import choose

GROUND, INK, FAINT, LINE = "#fbfaf7", "#22272e", "#5b6470", "#8b949e"
STATE, WEIGHTS, STORED, WORK = "#2f6fa8", "#3c8159", "#c8702a", "#7d6ba3"
MINUS = "\u2212"
DEPTHS = (8, 16, 32, 64)
FONT = "font-family=\"system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif\""


def svg(width, height, title, description, *parts):
    """Return the text of a picture."""
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        f' role="img" aria-labelledby="title desc" {FONT}>',
        f'<title id="title">{escape(title)}</title>',
        f'<desc id="desc">{escape(description)}</desc>',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0 L8 4 L0 8 z" fill="{FAINT}"/></marker></defs>',
        rect(0, 0, width, height, GROUND, 10), *parts, "</svg>\n",
    ])  # fmt: skip


def rect(x, y, width, height, fill, radius=0, stroke="none"):
    """Return a rectangle."""
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius}" fill="{fill}" '
        f'stroke="{stroke}"/>'
    )


def text(x, y, words, size=14, fill=INK, anchor="start", weight="normal"):
    """Return a line of text."""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{fill}" text-anchor="{anchor}" '
        f'font-weight="{weight}">{escape(words)}</text>'
    )


def arrow(*points):
    """Return a line through points, with a tip at its end."""
    road = " ".join(f"{x:g},{y:g}" for x, y in points)
    return f'<polyline points="{road}" fill="none" stroke="{FAINT}" stroke-width="1.6" marker-end="url(#tip)"/>'


def box(x, y, width, height, fill, *lines):
    """Return a filled box with a heading, and lines below it."""
    parts = [rect(x, y, width, height, fill, 7)]
    top = y + height / 2 - 9 * len(lines) + 14
    for place, line in enumerate(lines):
        weight, size = ("normal", 12) if place else ("bold", 15)
        parts.append(text(x + width / 2, top + 18 * place, line, size, "#ffffff", "middle", weight))
    return "\n".join(parts)


def arena():
    """Return bars: bytes of the arena against depth, stored beside reversible, to scale."""
    plans = {
        (blocks, kind): choose(preset(f"vis{blocks}"), Recipe(batch=16), schedule=kind).plan
        for blocks in DEPTHS for kind in ("stored", "reversible")
    }  # fmt: skip
    scale = 480 / max(plan.arena_bytes for plan in plans.values())
    parts = [text(20, 34, "Arena of one training step, vis<N> at batch 16, to scale", 16, weight="bold")]
    for place, (name, fill) in enumerate(
        (("parameters", WEIGHTS), ("state and workspace", STATE), ("stored activations", STORED))
    ):
        parts += [rect(20 + 190 * place, 50, 12, 12, fill, 2), text(38 + 190 * place, 61, name, 13, FAINT)]
    for (blocks, kind), plan in plans.items():
        y = 84 + 66 * DEPTHS.index(blocks) + 26 * (kind == "reversible")
        size = {region.value: count for region, (_, count) in plan.regions.items()}
        spans = [(size["parameters"], WEIGHTS), (size["stored"], STORED)]
        spans.insert(1, (plan.arena_bytes - size["parameters"] - size["stored"], STATE))
        x = 112.0
        for count, fill in spans:
            parts.append(rect(x, y, count * scale, 20, fill))
            x += count * scale
        parts.append(text(x + 8, y + 15, f"{plan.arena_bytes / 1e6:.1f} MB {kind}", 13, INK))
        if kind == "stored":
            parts.append(text(20, y + 29, f"{blocks} blocks", 14))
    told = "; ".join(
        f"{blocks} blocks: {plans[blocks, 'stored'].arena_bytes / 1e6:.1f} MB with stored activations, "
        f"{plans[blocks, 'reversible'].arena_bytes / 1e6:.1f} MB reversible" for blocks in DEPTHS
    )  # fmt: skip
    return svg(760, 350, "Memory of a training step against depth", told + ".", *parts)


def step():
    """Return two charts: what is in memory while a step goes forward and back, stored and reversible."""
    parts, blocks, unit = [], 6, 22
    for panel, name in enumerate(("Stored: each block keeps its activations", "Reversible: each block is undone")):
        left, floor = 30 + 370 * panel, 236
        parts.append(text(left, 32, name, 15, weight="bold"))
        for moment in range(2 * blocks):
            done = moment + 1 if moment < blocks else 2 * blocks - moment
            x = left + 26 * moment
            for level in range(done if panel == 0 else 1):
                fill = STORED if panel == 0 else STATE
                parts.append(rect(x, floor - unit * (level + 1), 24, unit - 2, fill, 2))
            if panel == 1:
                parts.append(rect(x, floor - unit * 2, 24, unit - 2, WORK, 2))
            parts.append(text(x + 12, floor + 18, str(done), 12, FAINT, "middle"))
        middle = left + 26 * blocks
        road = f'x1="{middle - 1}" y1="{60 + 94 * panel}" x2="{middle - 1}" y2="{floor + 24}"'
        parts.append(f'<line {road} stroke="{LINE}" stroke-dasharray="3 4"/>')
        parts += [text(left + 13 * blocks, floor + 38, "forward", 13, FAINT, "middle"),
                  text(middle + 13 * blocks, floor + 38, "backward", 13, FAINT, "middle")]  # fmt: skip
    parts += [text(410, 120, "state", 13, STATE, weight="bold"), text(452, 120, "and", 13, FAINT),
              text(480, 120, "workspace of one function", 13, "#6d5c92", weight="bold"),
              text(410, 140, "stay as large, however deep the net is", 13, FAINT)]  # fmt: skip
    return svg(
        760, 290, "What is in memory during one training step",
        "Two charts over the twelve moments of a step through six blocks. With stored activations memory grows by one "
        "layer for each block going forward and shrinks going back. Reversible, there is always one state and one "
        "workspace.", *parts,
    )  # fmt: skip


def coupling():
    """Return the coupling and its inverse."""
    forward = ladder(30, "Forward", "+", ("x1", "x2"), ("F", "G"), ("y1", "y2"))
    inverse = ladder(400, "Inverse: the same, backwards", MINUS, ("y2", "y1"), ("G", "F"), ("x2", "x1"))
    formulas = ("y1 = x1 + F(x2)", "y2 = x2 + G(y1)", f"x2 = y2 {MINUS} G(y1)", f"x1 = y1 {MINUS} F(x2)")
    words = "The halves are whole numbers on a grid: what was added is subtracted again, to the bit."
    return svg(
        760, 308, "An additive coupling and its inverse",
        "Forward: y1 is x1 plus F of x2, then y2 is x2 plus G of y1. Inverse: x2 is y2 minus G of y1, then x1 is y1 "
        "minus F of x2. F and G themselves need no inverse.", *forward, *inverse,
        *(text(x, 264, formula, 14, FAINT) for x, formula in zip((30, 170, 400, 540), formulas)),
        text(30, 288, words, 14, FAINT),
    )  # fmt: skip


def ladder(left, name, sign, given, functions, made):
    """Return two lines with a function from the lower to the upper one, and one back."""
    top, low, first, second = 96, 216, left + 110, left + 220
    parts = [text(left, 34, name, 15, weight="bold")]
    for y, start, end in zip((top, low), given, made):
        parts += [text(left + 4, y + 5, start, 16, weight="bold"), text(left + 306, y + 5, end, 16, weight="bold")]
    for x, y, square, entry, leave, function in (
        (first, top, low - 76, (low, low - 40), (low - 76, top + 16), functions[0]),
        (second, low, top + 40, (top, top + 40), (top + 76, low - 16), functions[1]),
    ):
        parts += [
            arrow((left + 32, y), (x - 14, y)), arrow((x + 14, y), (left + 298, y)),
            arrow((x, entry[0]), (x, entry[1])), arrow((x, leave[0]), (x, leave[1])),
            f'<circle cx="{x}" cy="{y}" r="13" fill="{STATE}"/>', text(x, y + 6, sign, 18, "#ffffff", "middle", "bold"),
            rect(x - 18, square, 36, 36, WEIGHTS, 6),
            text(x, square + 24, function, 16, "#ffffff", "middle", "bold"),
        ]  # fmt: skip
    return parts


def way():
    """Return the way of the data: from a net to a learner, and to other machines."""
    steps = (
        ("Net", "layers and blocks", "lower"), ("Program", "a flat list of rows", "plan"),
        ("Plan", "each byte's place", "allocate"), ("Runtime", "one compiled walk", "use"),
        ("Learner", "learn, predict, save", ""),
    )  # fmt: skip
    parts = [text(20, 34, "The way of the data", 16, weight="bold")]
    for place, (name, words, verb) in enumerate(steps):
        x = 20 + 148 * place
        parts.append(box(x, 58, 126, 58, STATE if place < 3 else WEIGHTS, name, words))
        if verb:
            parts += [arrow((x + 126, 87), (x + 147, 87)), text(x + 137, 134, verb, 12, FAINT, "middle")]
    others = (("C", "two files, one library"), ("ONNX", "graphs, training too"), ("Bundle", "for a device"))
    for place, (name, words) in enumerate(others):
        x = 20 + 168 * place
        parts.append(box(x, 188, 148, 54, WORK, name, words))
        parts.append(arrow((231, 118), (231, 162), (x + 74, 162), (x + 74, 186)))
    parts.append(text(522, 220, "the same program, elsewhere", 13, FAINT))
    return svg(
        760, 262, "The way of the data",
        "A net is lowered to a program, a flat list of rows. The plan gives each byte its place. The runtime allocates "
        "once and walks the program. The learner trains, predicts and saves. The same program becomes files for C, "
        "ONNX graphs, or a bundle for a device.", *parts,
    )  # fmt: skip


PICTURES = {"arena": arena, "step": step, "coupling": coupling, "way": way}

if __name__ == "__main__":
    for name, draw in PICTURES.items():
        (Path(__file__).parent / "images" / f"{name}.svg").write_text(draw(), encoding="utf-8")
