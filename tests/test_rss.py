"""Peak memory: exact at exit, never inherited from the caller."""

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from edgerev import tools, units
from edgerev.errors import EdgerevError, UsageError
from edgerev.tools.rss import START, CommandError, measure
from edgerev.tools.watch.figures import Figures
from edgerev.tools.watch.procfs import descendants, read_status

pytestmark = pytest.mark.usefixtures("listening_to_the_keyboard")
MIB = 1 << 20
PYTHON = [sys.executable, "-I", "-S", "-c"]
# What lies beneath any Python child: the interpreter itself.
BASE_MIB = 16


def grow(mib):
    """Return code that makes `mib` MiB resident and ends."""
    return f"x = bytearray({mib} << 20)\nfor i in range(0, len(x), 4096): x[i] = 1\n"


def can_trace():
    return measure(["true"]).method == "trace"


needs_trace = pytest.mark.skipif(not can_trace(), reason="this kernel refuses tracing")


@pytest.fixture(params=[pytest.param(True, marks=needs_trace), False], ids=["trace", "sample"])
def trace(request):
    return request.param


def test_known_size_is_measured(trace, tmp_path):
    """The command tells its own high-water mark at its end, when all of the known size is resident."""
    tell = "print([line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM:')][0])"
    with open(tmp_path / "own", "wb") as own:
        result = measure([*PYTHON, grow(100) + tell], trace=trace, stdout=own)
    own_bytes = 1024 * int((tmp_path / "own").read_text())
    assert 100 * MIB < own_bytes < (100 + BASE_MIB) * MIB
    assert result.peak_rss_bytes == pytest.approx(own_bytes, rel=0.01)
    assert result.method == ("trace" if trace else "sample")
    assert (result.exit_code, result.signal, result.processes) == (0, None, 1)


def test_figure_is_not_inherited_from_a_large_parent(trace):
    code = (
        f"{grow(500)}\nimport json, resource, subprocess\nfrom edgerev.tools.memory import rss_bytes\n"
        f"from edgerev.tools.rss import measure\nr = measure(['true'], trace={trace})\nsubprocess.run(['true'])\n"
        "naive = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss\n"
        "print(json.dumps([rss_bytes(), naive, r.peak_rss_bytes, r.peak_tree_rss_bytes]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    parent, naive, peak, tree = json.loads(done.stdout)
    assert min(parent, naive) > 500 * MIB  # what the kernel reports of the same command is its parent's
    # Sampling may miss so short a command, and then reports what it inherits from the watcher, which is small.
    assert 0 < peak <= tree < (4 if trace else 16) * MIB


@needs_trace
def test_tiny_short_command_is_exact():
    assert 0 < measure(["true"], interval_seconds=60).peak_rss_bytes < 8 * MIB


def test_short_lived_peak_is_not_lost_between_samples(trace):
    """The buffer is gone before the process ends, and no sample but the first can see it."""
    code = "import mmap\nm = mmap.mmap(-1, 50 << 20)\nfor i in range(0, len(m), 4096): m[i] = 1\nm.close()"
    peak = measure([*PYTHON, code], trace=trace, interval_seconds=60).peak_rss_bytes
    assert 50 * MIB <= peak <= (50 + BASE_MIB) * MIB


def test_short_lived_grandchild(trace):
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-I', '-S', '-c', {grow(50)!r}], check=True)"
    result = measure([*PYTHON, child], trace=trace, interval_seconds=60)
    assert 50 * MIB <= result.peak_rss_bytes <= (50 + BASE_MIB) * MIB
    if trace:
        assert result.processes == 2
        assert result.left_running == 0


# Says that it is large, stays, and ends without giving memory back.
HOLD = grow(40) + "import os, sys\nprint(flush=True)\nsys.stdin.read()\nos._exit(0)\n"


@needs_trace
@pytest.mark.parametrize("workers", [1, 3])
def test_tree_is_the_sum_over_processes_alive_together(workers):
    """The first worker to exit is stopped for the tree to be read, while the others are still there."""
    parent = (
        "import subprocess, sys\n"
        f"command = [sys.executable, '-I', '-S', '-c', {HOLD!r}]\n"
        f"ps = [subprocess.Popen(command, stdin=-1, stdout=-1) for _ in range({workers})]\n"
        "for p in ps: p.stdout.readline()\n"
        "for p in ps: p.stdin.close()\n"
        "for p in ps: p.wait()\n"
    )
    result = measure([*PYTHON, parent], interval_seconds=60)
    assert 40 * MIB <= result.peak_rss_bytes <= (40 + BASE_MIB) * MIB
    assert workers * 40 * MIB <= result.peak_tree_rss_bytes <= (workers * 40 + (workers + 1) * BASE_MIB) * MIB
    if result.peak_tree_pss_bytes is not None:
        assert workers * 39 * MIB <= result.peak_tree_pss_bytes <= result.peak_tree_rss_bytes + MIB
    assert result.processes == workers + 1


def test_one_sample_sums_the_tree():
    workers = [
        subprocess.Popen([*PYTHON, HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)
    ]  # fmt: skip
    for worker in workers:
        worker.stdout.readline()
    figures = Figures()
    assert {worker.pid for worker in workers} <= set(descendants([os.getpid()]))
    for worker in workers:
        figures.appeared(worker.pid, 0)
    figures.sample(0.1)
    for worker in workers:
        worker.communicate()
    assert 80 * MIB <= figures.peak_tree_rss <= (80 + 2 * BASE_MIB) * MIB
    assert 40 * MIB <= figures.peak_rss <= (40 + BASE_MIB) * MIB


def test_vforked_children_do_not_count_their_parent_twice(trace):
    code = grow(100) + "import subprocess\nfor _ in range(20): subprocess.run(['true'])"
    result = measure([*PYTHON, code], trace=trace, interval_seconds=0.001)
    assert result.peak_tree_rss_bytes <= 140 * MIB


def test_threads_are_not_processes(trace):
    code = "import threading\nts = [threading.Thread(target=int) for _ in range(5)]\nfor t in ts: t.start(); t.join()"
    assert measure([*PYTHON, code], trace=trace).processes == 1


def test_memory_before_exec_counts(trace):
    code = grow(60) + "import os; os.execvp('true', ['true'])"
    assert 60 * MIB <= measure([*PYTHON, code], trace=trace, interval_seconds=60).peak_rss_bytes < 80 * MIB


def test_exit_code_is_the_commands(trace):
    result = measure(["sh", "-c", "exit 41"], trace=trace)
    assert (result.exit_code, result.signal) == (41, None)


@pytest.mark.parametrize("name", ["TERM", "KILL", "SEGV", "INT"])
def test_death_by_signal(trace, name):
    result = measure(["sh", "-c", f"kill -{name} $$"], trace=trace)
    number = getattr(signal, f"SIG{name}")
    assert (result.exit_code, result.signal) == (128 + number, f"SIG{name}")
    assert result.peak_rss_bytes > 0


def test_command_handles_its_own_signals(trace):
    code = (
        "import os, signal\nseen = []\nsignal.signal(signal.SIGUSR1, lambda *_: seen.append(1))\n"
        "os.kill(os.getpid(), signal.SIGUSR1)\nraise SystemExit(5 if seen else 6)"
    )
    assert measure([*PYTHON, code], trace=trace).exit_code == 5


def test_stopped_and_continued_command_goes_on(trace):
    code = (
        "import os, signal, subprocess, sys\n"
        "p = subprocess.Popen(['cat'], stdin=-1)\n"
        "os.kill(p.pid, signal.SIGSTOP)\n"
        "assert os.WIFSTOPPED(os.waitpid(p.pid, os.WUNTRACED)[1])\n"
        "os.kill(p.pid, signal.SIGCONT)\n"
        "p.stdin.close()\n"
        "raise SystemExit(p.wait())"
    )
    assert measure([*PYTHON, code], trace=trace).exit_code == 0


def test_signal_dispositions_are_the_callers(trace):
    """Python ignores SIGPIPE, and the watcher ignores the keyboard; the command must not inherit either.

    What the caller's own caller ignores (the keyboard, for a job in the background) stays ignored.
    """
    status = Path("/proc/self/status").read_text()
    pythons = 1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1
    ignored = int(re.search(r"SigIgn:\s*(\w+)", status)[1], 16) & ~pythons
    code = (
        "import signal\n"
        "with open('/proc/self/status') as f: lines = [line.split() for line in f]\n"
        "bits = [int(line[1], 16) for line in lines if line[0] in ('SigBlk:', 'SigIgn:')]\n"
        "ours = 1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1\n"  # this Python's own
        f"raise SystemExit(int(bool(bits[0] or bits[1] & ~ours != {ignored})))"
    )
    assert measure([*PYTHON, code], trace=trace).exit_code == 0
    assert measure(["grep", "-q", f"SigIgn:.{ignored:016x}", "/proc/self/status"], trace=trace).exit_code == 0


def test_no_descriptor_leaks_into_the_command(trace):
    code = "import os; raise SystemExit(len([fd for fd in os.listdir('/proc/self/fd') if int(fd) > 2]) - 1)"
    assert measure([*PYTHON, code], trace=trace).exit_code == 0


def test_what_is_left_running_is_reported_and_unharmed(trace, tmp_path):
    """The command leaves a child that answers a question asked after the measurement."""
    for name in ("question", "answer"):
        os.mkfifo(tmp_path / name)
    result = measure(["sh", "-c", "(read line < question; echo $line > answer) &"], trace=trace, cwd=tmp_path)
    assert (result.exit_code, result.left_running) == (0, 1)
    question, answer = (os.open(tmp_path / name, os.O_RDWR) for name in ("question", "answer"))
    os.write(question, b"alive\n")
    assert select.select([answer], [], [], 60)[0], "the child did not answer"
    assert os.read(answer, 10) == b"alive\n"
    os.close(question)
    os.close(answer)


def test_missing_command():
    with pytest.raises(CommandError, match=r"cannot run 'no-such-command': No such file.*check its spelling") as caught:
        measure(["no-such-command"])
    assert isinstance(caught.value, UsageError)
    assert caught.value.exit_code == 127


def test_command_that_is_no_program(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("not a program")
    with pytest.raises(CommandError, match="Permission denied") as caught:
        measure([str(file)])
    assert caught.value.exit_code == 126


def test_empty_command():
    with pytest.raises(UsageError, match="no command to measure"):
        measure([])


def test_arguments_survive_as_bytes(tmp_path):
    name = os.fsdecode(b"\xff name with 'quotes'")
    assert measure(["sh", "-c", 'touch -- "$1"', "sh", name], cwd=tmp_path).exit_code == 0
    assert os.listdir(os.fsencode(tmp_path)) == [os.fsencode(name)]


def test_killed_watcher_is_an_error():
    with pytest.raises(EdgerevError, match="ended early"):
        measure(["sh", "-c", "kill -KILL $PPID"])


# -- beside others that measure, and what they cannot have both --------------------------------------------------------

EXACT = tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2]) >= (6, 16)
KNOWN = r"""
#include <stdlib.h>
#include <sys/mman.h>
int main(int argc, char **argv) {
    long size = atol(argv[1]) * 4096;
    char *memory = mmap(0, size + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(memory, size, MADV_NOHUGEPAGE);
    for (long place = 0; place < size; place += 4096) memory[place] = 1;
    return 0;
}
"""
GNU_TIME = "/usr/bin/time"
# How many pages of a file one fault maps differs from run to run. Kernels count the pages of each processor in batches:
# GNU time's figure lacks them, before 6.16 any figure.
BATCHES_BYTES = 4096 * 64 * (os.cpu_count() or 1) + 4096 * 64
SLACK_PAGES = 8 if EXACT else BATCHES_BYTES // 4096
needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc; on Debian: apt install gcc libc6-dev")


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """Give a program that makes as many pages resident as it is told."""
    program = tmp_path_factory.mktemp("known") / "known"
    subprocess.run(["gcc", "-O1", "-static", "-x", "c", "-", "-o", program], input=KNOWN.encode(), check=True)
    return str(program)


def anonymous_pages(result):
    return sum(row["rss_bytes"] for row in result.at_peak["mappings"] if row["kind"] == "anonymous") // 4096


@needs_trace
@needs_gcc
@pytest.mark.parametrize("pages", [1, 1000, 50_000])
def test_known_pages_are_counted(known, pages):
    nothing, some = (measure([known, str(count)]) for count in (0, pages))
    assert anonymous_pages(some) - anonymous_pages(nothing) == pages
    assert abs((some.peak_rss_bytes - nothing.peak_rss_bytes) // 4096 - pages) <= SLACK_PAGES


@needs_gcc
@pytest.mark.skipif(not os.path.exists(GNU_TIME), reason="no GNU time; on Debian: apt install time")
@pytest.mark.parametrize("command", ["known", "python"])
def test_gnu_time_agrees(known, command, trace):
    words = [known, "20000"] if command == "known" else [*PYTHON, grow(80)]
    done = subprocess.run([GNU_TIME, "-f", "%M", *words], stderr=subprocess.PIPE, text=True, check=True)
    assert abs(measure(words, trace=trace).peak_rss_bytes - 1024 * int(done.stderr)) <= BATCHES_BYTES


@needs_trace
@pytest.mark.parametrize("tool", ["strace", "gdb"])
def test_a_debugger_measures_beside_us(tool):
    """One that traces its own child is let go of, and sampled with all below it."""
    if shutil.which(tool) is None:
        pytest.skip(f"no {tool} here")
    child = [*PYTHON, grow(50) + "import sys, time; sys.exit(7)"]
    options = {"strace": "-f -o /dev/null", "gdb": "-batch -return-child-result -ex run --args"}
    result = measure([tool, *options[tool].split(), *child], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert (result.exit_code, result.method) == (7, "sample")
    assert any(note.startswith(f"{tool} traces by itself") for note in result.notes)
    assert 50 * MIB < result.peak_rss_bytes < 100 * MIB


SYSTEM_PYTHON = "/usr/bin/python3"


@needs_trace
@pytest.mark.skipif(
    os.geteuid() != 0 or not os.access(SYSTEM_PYTHON, os.X_OK), reason="only root can become another user"
)
@pytest.mark.parametrize("way", ["itself", "below", "below, sampled"])
def test_set_user_id_programs(way, tmp_path):
    """Tracing takes their privileges: it is left where they are the command, told where they are below it."""
    program = shutil.copy("/usr/bin/id", tmp_path / "suid-id")
    os.chmod(program, 0o4755)
    package = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        shutil.copytree(Path(tools.__path__[0]), package / "tools", ignore=shutil.ignore_patterns("__pycache__"))
        for folder in (package, *tmp_path.parents[:3], tmp_path):
            folder.chmod(0o755)
        words = [program, "-u"] if way == "itself" else ["sh", "-c", f"{program} -u; true"]
        how = "sample" if way.endswith("sampled") else "trace"
        nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
        command = [*nobody, SYSTEM_PYTHON, "-I", "-S", "-c", START]
        done = subprocess.run([*command, package, "2", "0.02", "command", how, *words], capture_output=True, text=True)
    finally:
        shutil.rmtree(package)
    figures = json.loads(done.stderr)
    assert done.stdout.strip() == ("65534" if way == "below" else "0")
    assert any("set-user-id" in note for note in figures["notes"]) == (way != "below, sampled")
    assert figures["method"] == ("trace" if way == "below" else "sample")


@pytest.mark.long
@needs_trace
def test_a_storm_of_children_is_let_go_of():
    script = "i=0; while [ $i -lt 4000 ]; do /bin/true; i=$((i+1)); done; exit 3"
    result = measure(["sh", "-c", script])
    assert (result.exit_code, result.method) == (3, "sample")
    assert 100 < result.processes < 4000
    assert any("so many short processes" in note for note in result.notes)
    assert result.watcher_cpu_seconds < 0.3 + 0.03 * result.seconds


# -- what a process says about itself ------------------------------------------------------------------------------


def test_own_figures():
    code = (
        "from edgerev.tools import memory as m\nbefore = m.peak_rss_bytes()\n"
        "x = bytearray(80 << 20)\nfor i in range(0, len(x), 4096): x[i] = 1\n"
        "full = m.rss_bytes()\ndel x\n"
        "print(before, full, m.peak_rss_bytes(), m.reset_peak_rss(), m.peak_rss_bytes())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    before, full, peak, reset, after = done.stdout.split()
    assert int(full) - int(before) == pytest.approx(80 * MIB, rel=0.05)
    assert int(peak) >= int(full) - MIB  # the kernel counts pages in batches
    if reset == "True":
        assert int(after) < int(before) + 8 * MIB


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("64M", 64 << 20), ("48MiB", 48 << 20), ("1.5G", 3 << 29), ("2 kB", 2000), ("7b", 7), ("1T", 1 << 40)],
)
def test_parse_bytes(text, size):
    assert units.parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1M", "0", "1Q", "0x10", "1e9", "1 000", "nan", "0.1"])
def test_parse_bytes_refuses(text):
    with pytest.raises(UsageError, match="is not a size"):
        units.parse_bytes(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (48 << 20, "48.0 MiB"),
        (300 << 20, "300 MiB"), (5 << 50, "5120 TiB"),
    ],
)
def test_format_bytes(size, text):
    assert units.format_bytes(size) == text


def test_status_of_a_process_that_is_gone():
    process = subprocess.Popen(["true"])
    process.wait()
    assert read_status(process.pid) == {}
