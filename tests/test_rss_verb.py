"""`edgerev rss` as its user sees it: text, JSON, plots, comparisons, exit codes."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from edgerev.cli import main
from edgerev.tools.child import link_package
from edgerev.tools.watch.procfs import descendants

pytestmark = pytest.mark.usefixtures("listening_to_the_keyboard")
MIB = 1 << 20
PYTHON = [sys.executable, "-I", "-S", "-c"]
HOLD = "x = b'1' * (40 << 20)\nimport os, sys\nprint(flush=True)\nsys.stdin.read()\nos._exit(0)\n"


@pytest.fixture
def held():
    """Give a process that holds 40 MiB until its standard input is closed."""
    process = subprocess.Popen([*PYTHON, HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    yield process
    process.communicate()


def run_rss(*arguments):
    command = [sys.executable, "-m", "edgerev", "rss", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_json_alone_on_standard_output():
    done = run_rss("--json", "--limit", "1G", "--", "sh", "-c", "echo hello; exit 9")
    figures = json.loads(done.stdout)
    assert done.stderr == "hello\n"
    assert done.returncode == figures["exit_code"] == 9
    assert figures["limit_bytes"] == 1 << 30
    assert figures["within_limit"] is True
    assert 0 < figures["peak_rss_bytes"] <= figures["peak_tree_rss_bytes"] < 16 * MIB


def test_text_leaves_standard_output_to_the_command():
    done = run_rss("echo", "hello")
    assert (done.returncode, done.stdout) == (0, "hello\n")
    assert "peak RSS, largest process" in done.stderr
    assert "echo hello: exit code 0" in done.stderr


def test_options_of_the_command_are_its_own():
    assert run_rss("--interval", "5", "echo", "--json", "--", "-x").stdout == "--json -- -x\n"


def test_limit_exceeded():
    done = run_rss("--limit", "1kB", "--", "true")
    assert done.returncode == 3
    assert "EXCEEDED" in done.stderr


def test_missing_command_exits_as_a_shell_would():
    done = run_rss("no-such-command")
    assert done.returncode == 127
    assert done.stderr.startswith("edgerev: error: cannot run 'no-such-command'")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no command to measure"),
        (["--"], "no command to measure"),
        (["--limit", "many", "true"], "'many' is not a size"),
        (["--interval", "0", "true"], "--interval 0"),
        (["--interval", "nan", "true"], "--interval nan"),
        (["--attach", "999999999"], "no process 999999999 with memory of its own"),
        (["--attach", "1", "true"], "--attach follows a process that runs"),
        (["--attach", "1", "--vs", "true"], "--attach follows a process that runs"),
        (["--seconds", "1", "true"], "--seconds 1: expected"),
        (["--attach", "1", "--seconds", "nan"], "--seconds nan: expected"),
        (["--vs", "'", "true"], "expected a command, quoted"),
        (["--vs", "", "true"], "expected a command, quoted"),
        (["--from", "a", "--vs", "b", "c"], "3 measurements: expected one, or two"),
        (["--from", "/no/such/file"], "cannot read /no/such/file: No such file"),
        (["--plot", "/no/folder/x.svg", "true"], "the folder of /no/folder/x.svg does not exist"),
    ],
)
def test_usage_errors(arguments, message, capfd):
    assert main(["rss", *arguments]) == 2
    assert message in capfd.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_the_command(number):
    """SIGTERM is handed on; SIGINT goes to the whole group, as a terminal sends it."""
    code = "import signal, sys\nprint('ready', flush=True)\nsignal.pause()"
    command = [sys.executable, "-m", "edgerev", "rss", "--", *PYTHON, code]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout.readline() == "ready\n"
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, report = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert f"killed by {number.name}" in report

@pytest.mark.parametrize("text", [[], ["--json"]])
def test_nobody_reads_the_figures(text):
    code = "import sys; from edgerev.cli import main; sys.exit(main(sys.argv[1:]))"
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-c", code, "rss", *text, "--", "sh", "-c", "exec >&- 2>&-"]
    process = subprocess.Popen(command, stdout=writer, stderr=writer)
    os.close(writer)
    assert process.wait(timeout=60) == 141


# -- a process that runs already -----------------------------------------------------------------------------------


def watcher_is_ready(pid):
    """Tell whether the watcher below a process follows already: it ignores the keyboard from then on."""
    for child in descendants([pid])[1:]:
        with open(f"/proc/{child}/status") as file:
            ignored = next(int(line.split()[1], 16) for line in file if line.startswith("SigIgn:"))
        if ignored >> (signal.SIGINT - 1) & 1:
            return True
    return False


def follow(process):
    command = [sys.executable, "-m", "edgerev", "rss", "--json", "--attach", str(process.pid)]
    follower = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for _ in range(3000):
        if watcher_is_ready(follower.pid):
            return follower
        time.sleep(0.01)
    follower.kill()
    pytest.fail(f"nothing follows: {follower.communicate()}")


@pytest.mark.parametrize("how", ["it ends", "Ctrl-C"])
def test_attached_until(held, how):
    follower = follow(held)
    if how == "Ctrl-C":
        follower.send_signal(signal.SIGINT)
    else:
        held.stdin.close()
        held.stdin = None
    out, err = follower.communicate(timeout=60)
    assert (follower.returncode, err) == (0, "")
    figures = json.loads(out)
    assert 40 * MIB < figures["peak_tree_rss_bytes"] <= figures["peak_rss_bytes"] < 60 * MIB
    assert figures["attached_pid"] == held.pid
    assert figures["command"] == [*PYTHON, HOLD]
    assert (figures["exit_code"], figures["method"], figures["processes"]) == (None, "sample", 1)
    assert figures["left_running"] == int(how == "Ctrl-C")


def test_attached_for_some_time(held, capfd):
    assert main(["rss", "--attach", str(held.pid), "--seconds", "0.05", "--limit", "30M"]) == 3
    out, err = capfd.readouterr()
    assert f"process {held.pid}" in out
    assert "limit                      30.0 MiB: EXCEEDED" in out
    assert "left running" in out
    assert err == ""


# -- two measurements, and pictures --------------------------------------------------------------------------------


def test_two_commands_side_by_side():
    larger = f"{sys.executable} -I -S -c \"x = b'1' * (50 << 20)\""
    done = run_rss("--json", "--vs", larger, "--", *PYTHON, "raise SystemExit(5)")
    assert done.returncode == 5
    found = json.loads(done.stdout)
    small, large = found["measurements"]
    row = next(row for row in found["comparison"] if row["figure"] == "peak_rss_bytes")
    assert row["values"] == [small["peak_rss_bytes"], large["peak_rss_bytes"]]
    assert row["difference"] == pytest.approx(50 * MIB, rel=0.02)
    assert row["ratio"] == large["peak_rss_bytes"] / small["peak_rss_bytes"]


def test_figures_of_a_device_are_shown_elsewhere(tmp_path, capfd):
    for name, code in (("a", "x = 1"), ("b", "x = b'1' * (30 << 20)")):
        (tmp_path / name).write_text(run_rss("--json", "--limit", "20M", "--", *PYTHON, code).stdout)
    files = [f"--from={tmp_path / name}" for name in "ab"]
    assert main(["rss", files[0]]) == 0
    assert "peak RSS, largest process" in capfd.readouterr().out
    assert main(["rss", *files, "--plot", str(tmp_path / "both.svg")]) == 3
    text = capfd.readouterr().out
    assert "B: limit of 20.0 MiB EXCEEDED" in text
    assert "B / A" in text
    assert main(["rss", files[0], "--plot", str(tmp_path / "both.svg")]) == 2
    assert "--force replaces it" in capfd.readouterr().err
    drawn = (tmp_path / "both.svg").read_text()
    assert drawn.startswith("<?xml")
    assert drawn.count("<!-- RSS -->") == 2


@pytest.fixture
def drawing(tmp_path, monkeypatch):
    """Give a function that draws measurements with something changed, and returns the figure."""
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    found = json.loads(run_rss("--json", "--", "true").stdout)

    def draw(*changes):
        drawn, options = [], []
        for number, changed in enumerate(changes):
            (tmp_path / str(number)).write_text(json.dumps(found | changed))
            options.append(f"--from={tmp_path / str(number)}")
        figure = lambda **how: drawn.append(Figure(**how)) or drawn[0]  # noqa: E731
        monkeypatch.setattr("edgerev.tools.rss_plot.plotter", lambda: figure)
        assert main(["rss", *options, "--plot", str(tmp_path / "rss.svg")]) == 0
        return drawn[0]

    return draw


def over_time(*mebibytes, pss=None):
    """Return a second between samples."""
    sizes = [size * MIB for size in mebibytes]
    return {"timeline": {
        "seconds": [float(second) for second in range(len(sizes))], "rss_bytes": sizes, "swap_bytes": [0] * len(sizes),
        "pss_bytes": pss or [None] * len(sizes), "process_rss_bytes": [sizes],
    }}  # fmt: skip


def of_kinds(**mebibytes):
    """Return what the memory consists of, in an order that is not that of the picture."""
    rows = [
        {"kind": kind, "name": kind, "rss_bytes": int(size * MIB), "pss_bytes": 0, "swap_bytes": 0}
        for kind, size in mebibytes.items()
    ]
    return {"at_peak": {"seconds": 1.5, "rss_bytes": sum(row["rss_bytes"] for row in rows), "mappings": rows}}


def test_readings_of_pss_are_dots(drawing):
    """A line alone would seem to end where only the reading does."""
    axis = drawing(over_time(1, 2, 3, 3, pss=[MIB, None, 2 * MIB, None])).axes[0]
    line = next(line for line in axis.lines if line.get_label().startswith("PSS"))
    assert (line.get_label(), line.get_marker()) == ("PSS, at the dots", "o")
    assert line.get_xydata().tolist() == [[0, 1], [2, 2]]


def test_memory_holds_from_one_sample_to_the_next(drawing):
    """A slope down to the end would be memory that nobody saw."""
    axis = drawing(over_time(1, 5, 0)).axes[0]
    line = next(line for line in axis.lines if line.get_label() == "RSS")
    assert line.get_drawstyle() == "steps-post"
    corners = {(x, round(y)) for x, y in axis.collections[0].get_paths()[0].vertices.tolist()}
    assert {(1, 1), (1, 5), (2, 5)} <= corners


def test_a_column_says_of_what_kind_the_memory_is(drawing):
    """The arena is first and named however small it is; else what is small is summed, and nothing is left out."""
    kinds = {"file": 30, "stack": 0.125, "heap": 10, "others": 0.25, "arena": 0.0625, "anonymous": 20}
    curve, column = drawing(over_time(10, 60, 0) | of_kinds(**kinds)).axes
    bars = [(bar.get_y(), bar.get_height()) for bar in column.patches]
    assert bars == [(60.375, 0.0625), (50.375, 10), (30.375, 20), (0.375, 30), (0, 0.375)]
    assert column.get_ylim() == curve.get_ylim()
    names = [text.get_text() for text in column.get_legend().get_texts()]
    assert names == [
        "RSS", " ", "at 1.50 s, 60.4 MiB:", "arena of edgerev  64.0 KiB", "heap  10.0 MiB",
        "anonymous memory  20.0 MiB", "programs and libraries  30.0 MiB", "others  384 KiB",
    ]  # fmt: skip
    mark = next(line for line in curve.lines if line.get_marker() == "v")
    assert mark.get_xydata().tolist() == [[1.5, 60.4375]]
    assert len({bar.get_facecolor() for bar in column.patches}) == 5


def test_memory_of_unknown_kind_has_no_column(drawing):
    _, column = drawing(over_time(1, 2) | {"at_peak": None}).axes
    assert not column.patches
    assert [text.get_text() for text in column.get_legend().get_texts()] == ["RSS"]


def test_equal_scales_hold_both(drawing):
    figure = drawing(over_time(1, 5) | of_kinds(heap=5), over_time(1, 50, 50, 50) | of_kinds(file=70))
    for curve in figure.axes[::2]:
        assert curve.get_ylim()[0] == curve.get_xlim()[0] == 0
        assert curve.get_ylim()[1] > 70
        assert curve.get_xlim()[1] >= 3


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"measurements": []}'])
def test_figures_that_are_none(content, tmp_path, capfd):
    (tmp_path / "figures").write_text(content)
    assert main(["rss", "--from", str(tmp_path / "figures")]) == 2
    assert "holds no figures of one measurement" in capfd.readouterr().err


def test_nothing_but_edgerev_is_needed(tmp_path):
    """No package beside it: a plot asks for one before the command runs."""
    link_package(str(tmp_path))
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from edgerev.cli import main; sys.exit(main())"
    alone = [*PYTHON, code, "rss"]
    done = subprocess.run([*alone, "--json", "--", "true"], capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout)["at_peak"]["mappings"]
    done = subprocess.run([*alone, "--plot", "x.svg", "--", "echo", "ran"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install 'edgerev[plot]'" in done.stderr
