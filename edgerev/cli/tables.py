"""The figures of benchmarks as tables for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from edgerev.cli.show import paragraph

BY = {"by_batch": "batches", "by_wearer": "wearers"}  # a list in rows, and what its columns are called

Column = tuple[str, Callable[[dict[str, Any]], str]]  # heading, and what a row shows below it


def table(columns: Sequence[Column], rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return a line of headings and one for each row; columns of text stay left, those of numbers right."""
    aligned = []
    for heading, show in columns:
        cells = [show(row) for row in rows]
        width, right = max(map(len, [heading, *cells])), all(map(_is_number, cells))
        aligned.append([cell.rjust(width) if right else cell.ljust(width) for cell in (heading, *cells)])
    return ["  ".join(line).rstrip() for line in zip(*aligned)]


def _is_number(cell: str) -> bool:
    return cell == "-" or cell.removeprefix("-").replace(",", "").replace(".", "").rstrip("%").isdigit()


def number(name: str, form: str = ".3f") -> Callable[[dict[str, Any]], str]:
    """Return what shows a row's value by name, or "-" where there is none."""
    return lambda row: "-" if row.get(name) is None else format(row[name], form)


def of(group: str, name: str, form: str, scale: float = 1) -> Callable[[dict[str, Any]], str]:
    """Return what shows a value that is one of a group of values by name."""
    return lambda row: format(row[group][name] * scale, form)


def text(name: str) -> Callable[[dict[str, Any]], str]:
    """Return what shows a row's text by name."""
    return lambda row: str(row[name])


def two_digits(value: float) -> str:
    """Return a positive number with two digits that count, as 0.018, 2.4 and 1,100."""
    rounded = float(f"{value:.2g}")
    return f"{rounded:,.0f}" if rounded >= 10 else f"{rounded:g}"


def verdict(row: dict[str, Any]) -> str:
    """Return whether a row reached its target."""
    return {True: "yes", False: "no", None: "-"}[row["reached"]]


def show_plain(figures: dict[str, Any]) -> None:
    """Print a line for each figure."""
    for name, value in figures.items():
        print(f"{name:<28} {value}")


def show_rows(figures: dict[str, Any]) -> None:
    """Print the figures that are for all rows, then the rows: a column for each value, several for a list."""
    show_plain({name: value for name, value in figures.items() if name != "rows"})
    columns: list[Column] = []
    for name, value in figures["rows"][0].items():
        if isinstance(value, list):
            headings = figures.get(BY.get(name, ""), range(len(value)))
            columns += [(str(heading), _item(name, place)) for place, heading in enumerate(headings)]
        elif isinstance(value, str):
            columns.append((name.replace("_", " "), text(name)))
        else:
            columns.append((name.replace("_", " "), number(name, ".1f")))
    print("\n" + "\n".join(table(columns, figures["rows"])))


def _item(name: str, place: int) -> Callable[[dict[str, Any]], str]:
    return lambda row: format(row[name][place], ".1f")


def show_continual(figures: dict[str, Any]) -> None:
    """Print the figures of a stream, and the accuracy on each experience (columns) after each one (rows)."""
    show_plain({name: value for name, value in figures.items() if name not in ("matrix", "memory")})
    for depth in figures.get("memory", ()):
        print("memory " + ", ".join(f"{name} {value}" for name, value in depth.items()))
    for row, accuracies in enumerate(figures["matrix"]):
        print(f"after {row + 1:<3}" + " ".join(f"{100 * value:6.2f}" for value in accuracies[: row + 1]))


def show_step(figures: dict[str, Any]) -> None:
    """Print the figures of a step, and its profile."""
    show_plain({name: value for name, value in figures.items() if name != "profile"})
    if "profile" in figures:
        columns = [
            ("kind", text("kind")), ("rows", number("count", "d")), ("ms", number("ms", ".4f")),
            ("share", number("share", ".1%")), ("GFLOP/s", number("gflops", ".1f")),
        ]  # fmt: skip
        print("\n" + "\n".join(table(columns, figures["profile"])))


def show_builds(figures: dict[str, Any]) -> None:
    """Print a line for each net and library."""
    rows = [{**net, **build} for net in figures["nets"] for build in net["builds"]]
    columns = [
        ("net", text("preset")), ("library", text("target")), ("ms", number("step_ms", ".4f")),
        ("JIT ms", number("jit_ms", ".4f")), ("ratio", number("ratio", ".3f")),
    ]  # fmt: skip
    print("\n".join(table(columns, rows)))


def show_kernels(figures: dict[str, Any]) -> None:
    """Print a line for each kernel and shape."""
    columns = [
        ("kernel", text("kernel")), ("us", number("us", ".2f")),
        ("GFLOP/s", lambda row: f"{row['gflops']:.1f}" if row["flops"] else "-"), ("GB/s", number("gbytes", ".1f")),
        ("roofline", number("roofline_share", ".0%")), ("OpenBLAS us", number("openblas_us", ".2f")),
        ("shapes: outputs, inputs", text("shape")),
    ]  # fmt: skip
    print("\n".join(table(columns, figures["kernels"])))
    print(f"peak {figures['peak_gflops']:.1f} GFLOP/s, batch {figures['batch']}, one thread")


def show_gemm(figures: dict[str, Any]) -> None:
    """Print a line for each shape of the grid, then median and minimum."""
    columns = [
        ("m", number("m", "d")), ("n", number("n", "d")), ("k", number("k", "d")), ("us", number("us", ".3f")),
        ("OpenBLAS us", number("openblas_us", ".3f")), ("GFLOP/s", number("gflops", ".1f")),
        ("ratio", number("ratio", ".2f")),
    ]  # fmt: skip
    print("\n".join(table(columns, figures["shapes"])))
    print(f"ratio (OpenBLAS by edgerev): median {figures['median_ratio']:.2f}, minimum {figures['minimum_ratio']:.2f}; "
          f"peak {figures['peak_gflops']:.1f} GFLOP/s")  # fmt: skip


def show_peers(figures: dict[str, Any]) -> None:
    """Print the ratio table, and that of two threads."""
    names = [name for name in ("edgerev", "torch", "ort") if any(name in row["step_ms"] for row in figures["rows"])]
    if figures["rows"]:
        columns: list[Column] = [("net", text("net")), ("batch", number("batch", "d"))]
        columns += [(f"{name} ms", of("step_ms", name, ".4f")) for name in names]
        columns += [("better peer", text("better_peer")), ("ratio", number("ratio", ".2f"))]
        columns += [("target", number("target", ".1f")), ("reached", verdict)]
        columns += [(f"{name} MB", of("peak_rss_bytes", name, ".0f", 1e-6)) for name in names]
        print("\n".join(table(columns, figures["rows"])))
    if figures["threads"]:
        columns = [
            ("net", text("net")), ("batch", number("batch", "d")), ("1 thread ms", number("one_thread_ms", ".4f")),
            ("2 threads ms", number("two_threads_ms", ".4f")), ("speedup", number("speedup", ".2f")),
            ("target", number("target", ".1f")), ("reached", verdict),
        ]  # fmt: skip
        print("\n" + "\n".join(table(columns, figures["threads"])))
    if figures["processors"] < 2:
        print("only one processor is free to this process, so two threads cannot be faster")


def show_depth(figures: dict[str, Any]) -> None:
    """Print time and memory by depth, then time by batch."""
    columns = [
        ("blocks", number("depth", "d")), ("reversible ms", number("step_ms", ".4f")),
        ("stored ms", number("stored_ms", ".4f")), ("ratio", number("time_ratio", ".2f")),
        ("us a block", number("block_us", ".2f")), ("reversible arena B", number("arena_bytes", ",d")),
        ("stored arena B", number("stored_arena_bytes", ",d")), ("activations B", number("activation_bytes", ",d")),
        ("stored activations B", number("stored_activation_bytes", ",d")),
    ]  # fmt: skip
    print("\n".join(table(columns, figures["depths"])))
    print(f"time per block differs by {figures['block_spread']:.1%} at most, batch {figures['batch']}")
    if figures["batches"]:
        columns = [
            ("batch", number("batch", "d")), ("reversible ms", number("step_ms", ".4f")),
            ("us a sample", number("sample_us", ".2f")),
        ]
        print("\n" + "\n".join(table(columns, figures["batches"])))
        blocks = figures["depths"][0]["depth"]
        print(f"time per sample differs by {figures['sample_spread']:.1%} at most, {blocks} blocks")


def show_onnx(figures: dict[str, Any]) -> None:
    """Print memory and time of a training step that onnxruntime runs, by depth."""
    columns = [
        ("blocks", number("depth", "d")), ("parameters B", number("parameter_bytes", ",d")),
        ("loading B", number("load_bytes", ",d")), ("growth B", number("growth_bytes", ",d")),
        ("ms a step", number("step_ms", ".1f")),
    ]  # fmt: skip
    rises = {"": "growth while training"}
    if figures["training_rise"] is not None:
        columns += [
            ("training growth B", number("training_growth_bytes", ",d")),
            ("ms a step", number("training_step_ms", ".1f")), ("own growth B", number("own_growth_bytes", ",d")),
            ("ms a step", number("own_step_ms", ".1f")),
        ]  # fmt: skip
        rises |= {"training_": "in onnxruntime-training it", "own_": "with that one's own gradient graph it"}
    print("\n".join(table(columns, figures["rows"])))
    for prefix, what in rises.items():
        print(f"{what} rises by {figures[f'{prefix}rise']:.2f} times what parameters do, batch {figures['batch']}")


def show_targets(figures: dict[str, Any]) -> None:
    """Print a line for each target."""
    columns = [
        ("target", text("name")), ("machine", text("machine")), ("processor", text("processor")),
        ("lanes", number("lanes", "d")), ("libc of kernels", text("libc")),
        ("wheels for Python", lambda row: ", ".join(row["pythons"])),
    ]  # fmt: skip
    print("\n".join(table(columns, figures["targets"])))
    print("libc: what the kernels need at least; building a bundle says what the packages in it need")


def show_estimate(figures: dict[str, Any]) -> None:
    """Print what a step is estimated to take, and how far that can be trusted."""
    threads = f"{figures['threads']} thread" + "s" * (figures["threads"] > 1)
    print(f"step        {figures['step_ms']:>12.3f} ms on {figures['machine']}, {threads}")
    if figures["peak_rss_bytes"]:
        print(f"process     {figures['peak_rss_bytes']:>12,d} B at its peak, with Python, trained from plain buffers")
    if figures["measured"]:
        print(paragraph("", "predicted from a calibration of that machine"))
        return
    print(paragraph("", f"estimated from data sheets, not measured on a board: {two_digits(figures['least_ms'])} "
                f"to {two_digits(figures['most_ms'])} ms"))  # fmt: skip
    print(paragraph("", figures["source"]))


def show_pareto(figures: dict[str, Any]) -> None:
    """Print a line for each schedule; those that another betters in both memory and time are marked."""
    columns: list[Column] = [
        ("schedule", text("schedule")), ("stored", number("stored", "d")), ("micro-batch", number("micro_batch", "d")),
        ("chunk", number("chunk", "d")), ("arena B", number("arena_bytes", ",d")),
        ("process B", number("predicted_rss_bytes", ",d")), ("ms", number("predicted_ms", ".3f")),
    ]  # fmt: skip
    if "measured_ms" in figures["rows"][0]:
        columns += [
            ("measured arena B", number("measured_arena_bytes", ",d")),
            ("process B", number("measured_rss_bytes", ",d")), ("ms", number("measured_ms", ".3f")),
        ]  # fmt: skip
    columns.append(("", lambda row: "chosen" if row["chosen"] else "dominated" if row["dominated"] else ""))
    print("\n".join(table(columns, figures["rows"])))
    print(f"predicted for {figures['machine']}" + ("" if figures["measured"] else ", from data sheets alone")
          + f", batch {figures['batch']}, threads {figures['threads']}")  # fmt: skip
