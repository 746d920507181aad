"""Benchmarks run and their figures fit one another; FLOPs are those counted by hand. Nothing here asserts a time."""

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import harness
from edgerev.cli import bench
from edgerev.cli.tables import show_gemm, show_kernels, show_peers
from edgerev.errors import EdgerevError, UsageError
from edgerev.kernels.layout import Op
from edgerev.kernels.targets import host_target
from edgerev.layers import Conv2d, Dense, Depthwise, ReLU
from edgerev.learner import Learner
from edgerev.net import Block, Head, Net
from edgerev.tools import bench_depth, bench_kernels, bench_peers, peaks, timing
from edgerev.tools.bench_gemm import gemm_grid
from edgerev.tools.bench_step import step_learner, step_profile
from edgerev.tools.child import measured_alone, module_command
from edgerev.tools.cost import Cost, instruction_cost, section_cost, visits
from harness import Bench

pytestmark = pytest.mark.usefixtures("cache")
QUICK = ("--rounds", 2, "--seconds", 1e-3)


def of(done):
    """Return what a command printed as JSON."""
    assert (done.code, done.err) == (0, "")
    return json.loads(done.out)


# -- PEAK ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 13, 96, 192, 2 * 192 + 101])
def test_peak_against_the_oracle(size):
    sketch = Bench()
    y = sketch.add("y", size, capacity=0)
    sketch.check((Op.PEAK, (y,), {"rounds": 9, "factor": 0.5, "addend": 0.75}))


def test_peak_does_not_depend_on_threads():
    found = []
    for threads in (1, 2, 3):
        sketch = Bench()
        y = sketch.add("y", 500, capacity=0)
        runtime = sketch.runtime((Op.PEAK, (y,), {"rounds": 5, "factor": -0.3, "addend": 2}), threads=threads)
        runtime.run("run", 1)
        found.append(bytes(runtime.view("y")))
    assert found[0] == found[1] == found[2]


def test_roofline_is_the_slower_of_both():
    peak = peaks.peak_flops(1)
    assert peak > 0
    assert peaks.roofline_seconds(10**15, 8) == 10**15 / peak
    assert peaks.roofline_seconds(0, 1 << 20) == (1 << 20) / peaks.copy_bandwidth(1 << 20)
    assert peaks.roofline_seconds(0, 0) == 0
    assert peaks.copy_bandwidth(1) == peaks.copy_bandwidth(4096) >= peaks.copy_bandwidth(1 << 40) > 0


# -- costs ---------------------------------------------------------------------------------------------------------


def costs_of(bench_, *rows, n=None):
    runtime = bench_.runtime(*rows)
    program = runtime.program
    return [instruction_cost(program, row, n or program.batch) for row in range(len(program))]


def test_costs_counted_by_hand():
    """Three samples of 4x5: taps on the halo count, its bytes do not; a sum that goes on is read and written."""
    sketch = Bench(batch=3)
    x, dy = sketch.add("x", 4, 5, 2, halo=(1, 1)), sketch.add("dy", 4, 5, 7, halo=(1, 1))
    y, z = sketch.add("y", 4, 5, 7), sketch.add("z", 4, 5, 2)
    w, v = sketch.add("w", 9, 2, 7, capacity=0), sketch.add("v", 9, 1, 2, capacity=0)
    b, dw, dv = (sketch.add(name, *shape, capacity=0) for name, *shape in (("b", 7), ("dw", 9, 2, 7), ("dv", 9, 1, 2)))
    size = {"kernel_h": 3, "kernel_w": 3}
    rows = [
        (Op.CONV, (y, x, w, b), size), (Op.CONV, (y, x, w, -1, y), {**size, "add": 1}),
        (Op.CONV_WGRAD, (dw, b, x, dy), size), (Op.DEPTHWISE, (z, x, v), size),
        (Op.DEPTHWISE_WGRAD, (dv, -1, x, z), size), (Op.ACCUMULATE, (z, x), {}),
        (Op.CHECK, (), {}),
    ]  # fmt: skip
    image, conv, depthwise = 3 * 4 * 5, 2 * 60 * 9 * 2 * 7, 2 * 60 * 9 * 2
    weights, sums = 9 * 2 * 7, 9 * 2 * 7 + 7
    assert costs_of(sketch, *rows) == [
        Cost(conv, 4 * (image * 9 + weights + 7)), Cost(conv, 4 * (image * (9 + 14) + weights)),
        Cost(conv, 4 * (image * 9 + sums)),
        Cost(depthwise, 4 * (image * 4 + 18)), Cost(depthwise, 4 * (image * 4 + 18)),
        Cost(0, 4 * image * 6), Cost(0, 0),
    ]  # fmt: skip


def test_minimal_filtering_costs_what_the_direct_form_does():
    sketch = Bench(batch=2)
    x, dy = sketch.add("x", 8, 4, 16, halo=(1, 1)), sketch.add("dy", 8, 4, 16, halo=(1, 1))
    u, dw, work = (sketch.add(name, n, 16, 16, capacity=0) for name, n in (("u", 36), ("dw", 9), ("work", 99)))
    size = {"kernel_h": 3, "kernel_w": 3}
    direct = 2 * 2 * 32 * 9 * 16 * 16
    found = costs_of(
        sketch, (Op.WINOGRAD, (dy, work, x, u), size), (Op.WINOGRAD_WGRAD, (dw, -1, work, x, dy), size),
        (Op.WINOGRAD_WEIGHTS, (u, dw), size),
    )  # fmt: skip
    images = 2 * 2 * 32 * 16
    assert found == [
        Cost(direct, 4 * (images + 36 * 256)), Cost(direct, 4 * (images + 9 * 256)), Cost(0, 4 * 45 * 256),
    ]  # fmt: skip


def test_cost_counts_the_samples_of_the_run():
    sketch = Bench(batch=8)
    x, y, w = sketch.add("x", 3), sketch.add("y", 5), sketch.add("w", 3, 5, capacity=0)
    with sketch.program.section("late"), sketch.program.samples(4, 2):
        sketch.program.emit(Op.CONV, y, x, w, kernel_h=1, kernel_w=1)
    found = [section_cost(sketch.program, "late", n).flops for n in (4, 5, 6, 8)]
    assert found == [0, 30, 60, 60]


def test_cost_of_rounds():
    """A gradient begins at zero in the first round only; the last round has what is left of the samples."""
    sketch = Bench(batch=6)
    x, dy, dw = sketch.add("x", 3), sketch.add("dy", 5), sketch.add("dw", 3, 5, capacity=0)
    program = sketch.program
    with program.section("run"):
        program.emit(Op.CHECK)
        with program.repeat(2):
            program.emit(Op.CONV_WGRAD, dw, -1, x, dy, kernel_h=1, kernel_w=1)
            program.emit(Op.CHECK)
        program.emit(Op.CHECK)
    rounds = [(row, offset) for offset in (0, 2, 4) for row in (2, 3)]
    assert list(visits(program, "run", 5)) == [(0, 0), *rounds, (4, 0)]
    assert list(visits(program, "run", 2)) == [(0, 0), (2, 0), (3, 0), (4, 0)]
    assert section_cost(program, "run", 5) == Cost(2 * 5 * 15, 4 * (5 * 8 + 15 + 2 * 30))


def test_costs_of_ridge_and_peak():
    sketch = Bench(batch=3)
    f, labels = sketch.add("f", 4), sketch.add("labels", 1)
    gram, work = sketch.add("gram", 15, capacity=0), sketch.add("work", 20, capacity=0)
    moments, counts, b = (sketch.add(name, n, 2, capacity=0) for name, n in (("moments", 5), ("counts", 1), ("b", 1)))
    w, y = sketch.add("w", 4, 2, capacity=0), sketch.add("y", 96, capacity=0)
    found = costs_of(
        sketch, (Op.RIDGE_SUMS, (gram, moments, counts, f, labels, sketch.counters()), {"outputs": 2}),
        (Op.RIDGE_SOLVE, (w, b, work, gram, moments), {"strength": 1}), (Op.PEAK, (y,), {"rounds": 10}),
    )  # fmt: skip
    assert [cost.flops for cost in found] == [3 * 5 * 6, 5**3 // 3 + 2 * 25 * 2, 2 * 10 * 96]


def test_flops_of_a_step_counted_by_hand():
    """Stem and head: forward and both gradients, no input gradient of the stem; functions: forward twice."""
    n, depth = 5, 3
    net = Net((6,), Dense(8), (Block((Dense(10), ReLU(), Dense(4)), repeat=depth),), Head(3))
    for schedule, times in (("reversible", 4), ("stored", 3)):
        learner = Learner(net, batch=n, schedule=schedule)
        function = 4 * 10 + 10 * 4
        expected = 2 * n * (2 * 6 * 8 + times * 2 * depth * function + 3 * 8 * 3)
        assert section_cost(learner.runtime.program, "train", n).flops == expected
    image = Net((4, 4, 1), Conv2d(4, 3), (Block((Depthwise(3), Conv2d(2, 3))),), Head(2))
    expected = 2 * n * (2 * 16 * 9 * 4 + 4 * 2 * 16 * (9 * 2 + 9 * 2 * 2) + 3 * 4 * 2)
    assert section_cost(Learner(image, batch=n).runtime.program, "train", n).flops == expected


# -- times ---------------------------------------------------------------------------------------------------------


def test_bursts_take_turns():
    called = []
    found = timing.alternate([lambda: called.append("a"), lambda: called.append("b")], 3, 1e-9)
    assert called == ["a", "b"] * 3
    assert [len(times) for times in found] == [3, 3]
    assert min(map(min, found)) > 0
    for rounds, seconds in ((0, 1), (1, 0), (1, -1), (1, float("nan"))):
        with pytest.raises(UsageError, match="at least 1 round"):
            timing.alternate([], rounds, seconds)


@pytest.mark.parametrize("preset", ["mlp2", "vis1"])
def test_rows_are_timed_in_whole_steps(preset):
    """Every pass over the rows is a training step like any other: the same bits, chunk by chunk too."""
    learner, again = (step_learner(preset, batch=3) for _ in range(2))
    assert (Op.REPEAT in {learner.runtime.program.decode(row).op for row in range(50)}) == (preset == "vis1")
    times = timing.row_seconds(learner.runtime, ["train"], 3, 1e-9)
    assert list(times) == list(visits(learner.runtime.program, "train", 3))
    assert min(times.values()) >= 0
    for _ in range(learner.steps - again.steps):
        again.step(3)
    assert harness.lasting_bytes(learner.runtime) == harness.lasting_bytes(again.runtime)


def test_bad_data_is_not_timed():
    learner = step_learner("mlp2", batch=3)
    learner.runtime.view("raw")[0] = float("nan")
    with pytest.raises(EdgerevError, match="found a status while it was timed"):
        timing.row_seconds(learner.runtime, ["train"], 3, 1e-9)


# -- commands ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("preset", "more", "schedule"), [
    ("mlp2", (), "reversible"), ("har1", ("--schedule", "stored"), "stored"), ("vis1", ("--threads", 2), "reversible"),
])  # fmt: skip
def test_step(preset, more, schedule, cli):
    command = ["bench", "step", "--preset", preset, "--batch", 2, *more, *QUICK]
    figures = of(cli(*command, "--profile", "--json"))
    assert (figures["preset"], figures["batch"], figures["schedule"]) == (preset, 2, schedule)
    learner = step_learner(preset, batch=2, threads=figures["threads"], schedule=schedule)
    assert figures["flops"] == section_cost(learner.runtime.program, "train", 2).flops
    assert figures["arena_bytes"] == learner.plan.arena_bytes
    assert figures["gflops"] == pytest.approx(figures["flops"] / figures["step_ms"] / 1e6)
    assert figures["peak_fraction"] == pytest.approx(figures["gflops"] / figures["peak_gflops"])
    assert figures["peak_rss_bytes"] > figures["activation_bytes"] > 0
    profile = figures["profile"]
    assert sum(row["count"] for row in profile) == len(list(visits(learner.runtime.program, "train", 2)))
    assert sum(row["flops"] for row in profile) == figures["flops"]
    assert sum(row["share"] for row in profile) == pytest.approx(1)
    assert [row["ms"] for row in profile] == sorted((row["ms"] for row in profile), reverse=True)
    text = cli(*command, "--profile").out
    assert re.search(r"^peak_fraction +\d\.", text, flags=re.M)
    assert re.search(r"^conv +\d+ ", text, flags=re.M)
    assert "profile" not in of(cli(*command, "--json"))


def test_builds(cli):
    command = ["bench", "builds", "--preset", "mlp1", "--preset", "har1", "--batch", 2, *QUICK]
    nets = of(cli(*command, "--json"))["nets"]
    assert [(net["preset"], net["batch"]) for net in nets] == [("mlp1", 2), ("har1", 2)]
    for net in nets:
        (build,) = net["builds"]
        assert build["target"] == host_target().name
        assert build["ratio"] == pytest.approx(build["step_ms"] / net["jit_ms"])
    assert re.search(rf"^mlp1 +{host_target().name} +\d", cli(*command).out, flags=re.M)


def test_profile_counts_products_where_there_are_any():
    rows = {row["kind"]: row for row in step_profile(step_learner("mlp1", batch=1), 1e-3)}
    assert rows["conv"]["flops"] > 0
    assert rows["couple"]["gflops"] is None
    assert rows["couple"]["moved_bytes"] > 0


def test_kernels(cli, capsys):
    figures = of(cli("bench", "kernels", "--preset", "mlp1", "--batch", 2, "--seconds", 1e-3, "--json"))
    rows = figures["kernels"]
    found = {(row["kernel"], row["shape"]): row for row in rows}
    assert len(found) == len(rows)
    dense = found["conv", "2x1x64 2x1x64 64x64 1x64"]
    assert dense["flops"] == 2 * 2 * 64 * 64
    assert dense["moved_bytes"] == 4 * (2 * 2 * 64 + 64 * 64 + 64)
    assert dense["gbytes"] == pytest.approx(dense["moved_bytes"] / dense["us"] / 1e3)
    assert {row["kernel"] for row in rows if row["openblas_us"]} == {"conv"}
    show_kernels(figures)
    assert len(capsys.readouterr().out.splitlines()) == len(rows) + 2


def test_every_kernel_is_listed():
    rows = bench_kernels.kernel_figures(batch=1, seconds=1e-9)["kernels"]
    ops = {row["kernel"].split()[0] for row in rows}
    assert ops == {op.name.lower() for op in Op} - {"check", "repeat", "skip", "peak"}  # of no net


def test_gemm_grid(cli, capsys):
    grid = ("--m", "1,3", "--n", "8,13", "--k", "5", "--passes", 1)
    figures = of(cli("bench", "kernels", "--gemm", *grid, "--json"))
    shapes = figures["shapes"]
    assert [(row["m"], row["n"], row["k"]) for row in shapes] == [(1, 8, 5), (1, 13, 5), (3, 8, 5), (3, 13, 5)]
    ratios = [row["openblas_us"] / row["us"] for row in shapes]
    assert [row["ratio"] for row in shapes] == pytest.approx(ratios)
    assert figures["minimum_ratio"] == pytest.approx(min(ratios))
    assert figures["median_ratio"] == pytest.approx(np.median(ratios))
    show_gemm(figures)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines[1:3]] == [["1", "8", "5"], ["1", "13", "5"]]
    assert lines[-1].startswith("ratio (OpenBLAS by edgerev): median")
    with pytest.raises(UsageError, match="passes 0"):
        gemm_grid(passes=0)


def test_depth(cli):
    command = ["bench", "depth", "--depths", "1,3", "--batch", 2, "--batches", "1,2", *QUICK]
    figures = of(cli(*command, "--json"))
    first, second = figures["depths"]
    assert (first["depth"], second["depth"]) == (1, 3)
    assert first["activation_bytes"] == second["activation_bytes"] < first["stored_activation_bytes"]
    assert first["stored_activation_bytes"] < second["stored_activation_bytes"]
    for row in figures["depths"]:
        assert row["time_ratio"] == pytest.approx(row["step_ms"] / row["stored_ms"])
        assert row["block_us"] == pytest.approx(row["step_ms"] / row["depth"] * 1e3)
    block = [row["block_us"] for row in figures["depths"]]
    assert figures["block_spread"] == pytest.approx(max(block) / min(block) - 1)
    assert [row["batch"] for row in figures["batches"]] == [1, 2]
    text = cli(*command).out
    assert "time per block differs by" in text
    assert "time per sample differs by" in text


FIGURES = {
    "preset": "mlp", "batch": 16, "depths": [
        {"depth": depth, "step_ms": depth, "stored_ms": 0.8 * depth, "arena_bytes": 9999, "stored_arena_bytes": 99999}
        for depth in (4, 8)
    ],
}  # fmt: skip


def test_plot(cli, tmp_path):
    pytest.importorskip("matplotlib")
    bench_depth.plot_depth(FIGURES, str(tmp_path / "out.svg"))
    assert "<svg" in (tmp_path / "out.svg").read_text()
    done = cli("bench", "depth", "--plot", tmp_path / "out.svg")
    assert (done.code, done.out) == (2, "")
    assert "is there already; expected a new name; add --force" in done.err


def test_plot_needs_matplotlib(cli, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = cli("bench", "depth", "--plot", tmp_path / "out.svg")
    assert (done.code, done.out) == (2, "")
    assert "pip install 'edgerev[plot]'" in done.err


@pytest.mark.parametrize(("arguments", "match"), [
    (["step", "--preset", "lenet"], "no preset 'lenet'"), (["step", "--batch", "0"], "batch 0: expected a whole"),
    (["step", "--threads", "99"], "threads 99"), (["step", "--rounds", "0"], "at least 1 round"),
    (["builds", "--target", "pdp11"], "target 'pdp11': expected one of"),
    (["kernels", "--preset", "x"], "no preset 'x'"), (["kernels", "--m", "4"], "size of the grid; add --gemm"),
    (["kernels", "--gemm", "--m", "0"], "at least 1"), (["kernels", "--gemm", "--k", "a"], "joined by commas"),
    (["peers", "--torch", "no/python"], "no/python cannot be run; expected the Python of"),
    (["depth", "--depths", "0"], "at least 1"), (["depth", "--preset", "mlp4"], "invalid choice"),
])  # fmt: skip
def test_bench_says_what_is_wrong(arguments, match, cli):
    done = cli("bench", *arguments)
    assert (done.code, done.out) == (2, "")
    assert match in done.err


def test_a_child_that_fails_says_why():
    with pytest.raises(EdgerevError, match=r"measuring failed .*\n.*passes 0"):
        measured_alone("edgerev.tools.bench_gemm:gemm_grid", passes=0)


def test_a_child_is_not_led_astray_by_a_checkout_it_is_started_in(tmp_path, monkeypatch):
    (tmp_path / "edgerev").mkdir()
    (tmp_path / "edgerev" / "__init__.py").write_text("raise ImportError('a part of a checkout')")
    monkeypatch.chdir(tmp_path)
    assert measured_alone("edgerev.tools.memory:rss_bytes") > 0
    done = subprocess.run(module_command("edgerev", "--version"), capture_output=True, text=True, check=True)
    assert done.stdout.startswith("edgerev ")


def test_commands_of_the_documentation_are_understood():
    page = (Path(__file__).parents[1] / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    parser = bench.argparse.ArgumentParser()
    bench.prepare_parser(parser)
    commands = re.findall(r"^edgerev bench (.*)$", page, flags=re.M)
    assert len(commands) >= 8
    for command in commands:
        assert parser.parse_args(shlex.split(command, comments=True)).measure


# -- peers ---------------------------------------------------------------------------------------------------------


def answers(*step_ms):
    return [{"step_ms": value, "peak_rss_bytes": 10**6 * index} for index, value in enumerate(step_ms)]


def test_ratio_table():
    times = {
        ("mlp16", 1): {"edgerev": answers(9, 1, 2), "torch": answers(30, 31, 99), "ort": answers(16, 20, 1)},
        ("vis8", 16): {"edgerev": answers(100), "torch": answers(90)},
        ("mlp4", 2): {"edgerev": answers(1), "ort": answers(1)},
    }
    first, second, third = bench_peers.ratio_rows(times)
    assert first["step_ms"] == {"edgerev": 2, "torch": 31, "ort": 16}
    assert (first["better_peer"], first["ratio"], first["target"], first["reached"]) == ("ort", 8, 8, True)
    assert first["peak_rss_bytes"] == {"edgerev": 2e6, "torch": 2e6, "ort": 2e6}
    assert (second["better_peer"], second["ratio"], second["reached"]) == ("torch", 0.9, False)
    assert (third["target"], third["reached"]) == (None, None)
    assert list(bench_peers.TARGETS.values()) == [8, 3, 2.5, 1.3, 1.2, 1.1]


def test_speedup_table(capsys):
    rows = bench_peers.speedup_rows({("har12", 16): {"1": answers(9, 9, 1), "2": answers(5, 4, 6)}})
    assert rows == [{
        "net": "har12", "batch": 16, "one_thread_ms": 9, "two_threads_ms": 5, "speedup": 1.8, "target": 1.7,
        "reached": True,
    }]  # fmt: skip
    ratios = bench_peers.ratio_rows({("vis8", 1): {"edgerev": answers(5), "ort": answers(6)}})
    show_peers({"rows": ratios, "threads": rows, "processors": 1})
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["vis8", "1", "5.0000", "6.0000", "ort", "1.20", "1.2", "yes", "0", "0"]
    assert lines[4].split() == ["har12", "16", "9.0000", "5.0000", "1.80", "1.7", "yes"]
    assert "only one processor" in lines[5]


def test_our_own_worker_answers():
    with bench_peers.Worker("edgerev", bench_peers._ours("mlp1", 2), 1) as worker:
        for _ in range(2):
            answer = worker.burst(1e-3)
            assert answer["step_ms"] > 0
            assert answer["peak_rss_bytes"] > 10**6


def test_a_worker_that_ends_is_named(capfd):
    with pytest.raises(EdgerevError, match=r"ort ended with code \d+ instead of answering"):
        bench_peers.Worker("ort", [sys.executable, "-c", "import no_such_peer"], 1)
    assert "no_such_peer" in capfd.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch in this environment")
def test_torch_is_a_peer():
    figures = bench_peers.peers_figures(
        sys.executable, None, rows=[("mlp2", 1)], speedups=[("mlp2", 1)], rounds=1, seconds=1e-3
    )
    assert set(figures["rows"][0]["step_ms"]) == {"edgerev", "torch"}
    assert figures["threads"][0]["speedup"] > 0


def test_without_peers_only_threads_are_compared():
    figures = bench_peers.peers_figures(None, None, rows=[("mlp1", 1)], speedups=[("mlp1", 2)], rounds=1, seconds=1e-3)
    assert figures["rows"] == []
    assert [(row["net"], row["batch"]) for row in figures["threads"]] == [("mlp1", 2)]
