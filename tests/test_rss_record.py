"""What `edgerev rss` keeps of its samples: time in bounded size, mappings by kind, costs in bounds, identity."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerev.tools.cgroup import CgroupPeak
from edgerev.tools.rss import measure
from edgerev.tools.watch.figures import Budget, Figures
from edgerev.tools.watch.mappings import breakdown
from edgerev.tools.watch.procfs import read_file, read_pss, read_start, read_status
from edgerev.tools.watch.timeline import Point, Timeline
from edgerev.tools.watch.watcher import ProcessWatcher

MIB = 1 << 20

# -- time ----------------------------------------------------------------------------------------------------------

gaps = st.floats(1e-4, 10, allow_subnormal=False)
sizes = st.integers(0, 1 << 40)
samples = st.tuples(gaps, sizes, st.none() | sizes, sizes)


@given(st.lists(samples, max_size=60), st.integers(2, 12))
def test_time_keeps_every_maximum_in_bounded_size(rows, most):
    line, seconds, added = Timeline(most), 0.0, []
    for gap, rss, pss, swap in rows:
        seconds += gap
        added.append((seconds, rss, pss, swap))
        line.add(Point(seconds, rss, pss, swap, {1: rss}))
    points = line.points
    assert len(points) <= most
    assert [point.seconds for point in points] == sorted(point.seconds for point in points)
    assert max((point.rss for point in points), default=0) == max((row[1] for row in added), default=0)
    assert max((point.swap for point in points), default=0) == max((row[3] for row in added), default=0)
    read = [row[2] for row in added if row[2] is not None]
    assert max((point.pss for point in points if point.pss is not None), default=None) == max(read, default=None)
    for point in points:  # each is one of the samples, with what was measured along with it
        assert (point.seconds, point.rss) in [row[:2] for row in added]
        assert point.parts == {1: point.rss}


def test_time_names_the_largest_processes_only():
    point = Point(0, 100, None, 0, {number: number for number in range(20)})
    assert point.parts == {number: number for number in range(12, 20)}


def test_a_long_run_of_samples_is_thinned_evenly():
    line = Timeline()
    for number in range(5000):
        line.add(Point(number * 0.02, number % 7, None, 0, {}))
    assert 200 <= len(line.points) <= 400
    assert {point.rss for point in line.points[2:-1]} <= {5, 6}
    gaps = [after.seconds - before.seconds for before, after in zip(line.points, line.points[1:])]
    assert max(gaps) < 1


# -- mappings ------------------------------------------------------------------------------------------------------

KERNELS = "/opt/venv/lib/python3.11/site-packages/edgerev/kernels/libraries/aarch64.so"


def mapping(name="", flags="rd wr mr mw me ac", permissions="rw-p", inode=0, rss=8, pss=4, swap=0, at=0x7F0000000000):
    return (
        f"{at:x}-{at + 4096:x} {permissions} 00000000 fe:00 {inode}{' ' * 20}{name}\nSize: 16 kB\n"
        f"Rss:{rss:>16} kB\nPss:{pss:>16} kB\nPss_Dirty: 1 kB\nShared_Clean: 2 kB\nSwap:{swap:>15} kB\nSwapPss: 3 kB\n"
        f"VmFlags: {flags} \n"
    ).encode()


@pytest.mark.parametrize(
    ("name", "flags", "others", "expected"),
    [
        ("[heap]", "", b"", ("heap", "heap")),
        ("[stack]", "", b"", ("stack", "stacks")),
        ("[anon: glibc: pthread stack: 12]", "", b"", ("stack", "stacks")),
        ("", "rd wr", b"", ("anonymous", "anonymous")),
        ("[anon:edgerev arena]", "rd wr", b"", ("arena", "edgerev arena")),
        ("[anon:dalvik-main space]", "rd wr", b"", ("anonymous", "dalvik-main space")),
        ("", "rd wr mr mw me ac dd", mapping(KERNELS, inode=7), ("arena", "edgerev arena")),
        ("", "rd wr mr mw me ac dd", mapping("/lib/libc.so.6", inode=7), ("anonymous", "anonymous")),
        ("", "rd wr mr mw me ac lo dd", mapping(KERNELS, inode=7), ("anonymous", "anonymous")),
        ("", "rd wr mr mw me ac", mapping(KERNELS, inode=7), ("anonymous", "anonymous")),
        ("/dev/shm/sem (deleted)", "", b"", ("shared", "/dev/shm/sem")),
        ("[vdso]", "", b"", ("others", "[vdso]")),
    ],
)
def test_kinds_of_memory(name, flags, others, expected):
    rows = breakdown([mapping(name, flags, rss=100, pss=99) + others])
    assert (rows[0]["kind"], rows[0]["name"]) == expected
    assert rows[0]["rss_bytes"] == 100 << 10


def test_files_are_told_from_what_processes_share():
    rows = breakdown([mapping("/lib/a b.so", inode=7), mapping("/tmp/x", inode=8, permissions="rw-s")])
    assert {(row["kind"], row["name"]) for row in rows} == {("file", "/lib/a b.so"), ("shared", "/tmp/x")}


names = st.sampled_from(["", "[heap]", "[stack]", "[vdso]", "/dev/shm/x", *(f"/lib/{n}.so" for n in range(60))])
entries = st.tuples(names, st.integers(0, 1 << 20), st.integers(0, 1 << 20), st.integers(0, 1 << 20))


@settings(deadline=None)  # the first call compiles the patterns, beside other programs
@given(st.lists(st.lists(entries, max_size=60), max_size=3))
def test_mappings_add_up(processes):
    rows = breakdown([b"".join(mapping(n, rss=r, pss=p, swap=s) for n, r, p, s in rows) for rows in processes])
    assert len(rows) <= 30
    for place, key in ((1, "rss_bytes"), (2, "pss_bytes"), (3, "swap_bytes")):
        assert sum(row[key] for row in rows) == sum(entry[place] << 10 for rows in processes for entry in rows)


GROWING = """
import sys
kept = []
for line in sys.stdin:
    kept.append(b"1" * int(line))
    print(flush=True)
"""


@pytest.fixture
def still():
    """Give a process that does nothing but grow by as many bytes as a line says, and answer with one."""
    with subprocess.Popen(
        [sys.executable, "-c", GROWING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        grow(process, 0)
        yield process
        process.stdin.close()


def grow(process, size):
    process.stdin.write(f"{size}\n")
    process.stdout.readline()


def test_mappings_of_a_real_process_are_all_of_it(still):
    text = read_file(f"/proc/{still.pid}/smaps")
    pss, rss = read_pss(still.pid), read_status(still.pid)["VmRSS"]
    rows, rounded = breakdown([text]), 1024 * text.count(b"\nPss:")
    assert sum(row["rss_bytes"] for row in rows) == pytest.approx(rss, abs=MIB)
    assert sum(row["pss_bytes"] for row in rows) == pytest.approx(pss, abs=MIB + rounded)
    assert {"heap", "stack", "anonymous", "file"} <= {row["kind"] for row in rows}


def test_the_arena_is_told_from_other_memory():
    """Also where the kernel keeps no names; with the kernels compiled here, for no wheel is at hand."""
    code = (
        "from edgerev import SGD, Learner, preset\n"
        "learner = Learner(preset('vis8'), optimizer=SGD(1e-3), batch=64)\nprint(learner.plan.arena_bytes)"
    )
    code += "\nfor _ in range(200): learner.runtime.run('init', 1)"  # the peak lasts, so that it is seen
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)  # compiles, which takes more
    receiver, sender = os.pipe()
    result = measure([sys.executable, "-c", code], stdout=sender)
    os.close(sender)
    with open(receiver) as file:
        arena_bytes = int(file.read())
    rows = {row["kind"]: row for row in result.at_peak["mappings"]}
    assert rows["arena"]["rss_bytes"] == rows["arena"]["pss_bytes"] == -(-arena_bytes // 4096) * 4096


def test_the_mark_takes_no_memory():
    code = (
        "import ctypes, mmap\nfrom edgerev.machine import mark_arena, release_freed\n"
        "m = mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
        "address = ctypes.addressof(ctypes.c_char.from_buffer(m))\nrelease_freed()\n"
        "def kib(): return next(row.split()[1] for row in open('/proc/self/smaps_rollup') if row[:9] == 'Private_D')\n"
        "kib(); before = kib(); mark_arena(m, address); print(before, kib())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert after - before <= 8


# -- costs ---------------------------------------------------------------------------------------------------------


def test_a_budget_stretches_time_until_it_is_kept():
    budget = Budget(share=0.01, ahead=0.5)
    assert budget.ready_at() < 0
    with budget:
        sum(range(100_000))
    took = budget.last
    assert budget.spent == took > 0
    assert budget.ready_at() == pytest.approx((2 * took - 0.5) / 0.01)
    assert budget.ready_at(0) == pytest.approx(2 * took / 0.01)


def test_dear_figures_are_read_at_a_new_maximum_and_rarely_else(still):
    figures = Figures()
    figures.appeared(still.pid, 0)
    figures.sample(0.0)
    assert figures.snapshot is not None
    assert figures.timeline.points[0].pss == figures.peak_pss > 0
    figures.sample(0.001)
    assert [point.pss is None for point in figures.timeline.points] == [False, True]
    figures.sample(1e6)
    assert figures.timeline.points[-1].pss is not None
    grow(still, read_status(still.pid)["VmRSS"] // 2)
    figures.sample(1e6 + 1)
    assert figures.snapshot[0] == 1e6 + 1


# -- identity ------------------------------------------------------------------------------------------------------


def test_orphans_of_a_followed_process_are_followed():
    """The middle one of three ends; its child belongs to another parent from then on."""
    middle = "import subprocess; p = subprocess.Popen(['cat'], stdin=0); print(p.pid, flush=True)"
    code = (
        "import subprocess, sys\n"
        f"p = subprocess.Popen([sys.executable, '-I', '-S', '-c', {middle + '; input()'!r}], stdin=-1, stdout=-1)\n"
        "print(p.stdout.readline().decode(), flush=True)\nsys.stdin.readline()\n"
        "p.kill(); p.wait(); print('ended', flush=True)\nsys.stdin.read()\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", code], **pipes) as process:
        orphan = int(process.stdout.readline())
        watcher = ProcessWatcher(process.pid, 1.0, None)
        watcher.sample()
        assert watcher.figures.count == 3
        process.stdout.readline()
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "ended\n"
        assert watcher.members() == [process.pid, orphan]
        watcher.sample()
        assert watcher.result()["left_running"] == 2


def test_a_number_that_is_used_again_is_another_process():
    """The kernel is asked to give a number again, which only root may."""
    last = Path("/proc/sys/kernel/ns_last_pid")
    first = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    watcher, began = ProcessWatcher(first.pid, 1.0, None), read_start(first.pid)
    watcher.sample()
    assert not watcher.is_over()
    first.communicate()
    assert watcher.is_over()
    for _ in range(500):
        try:
            last.write_text(str(first.pid - 1))
        except OSError:
            pytest.skip("this kernel gives no number again")
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as second:
            if second.pid == first.pid and read_start(second.pid) != began:  # not in the same hundredth of a second
                assert watcher.is_over()
                assert second.pid not in watcher.members()
                return
    pytest.skip("other processes took the number")


# -- the control group ---------------------------------------------------------------------------------------------


@pytest.fixture
def group(tmp_path):
    """Give the folder of a control group, below a root of its own."""
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text("1:name=systemd:/\n0::/a/b\n")
    folder = tmp_path / "sys" / "fs" / "cgroup" / "a" / "b"
    folder.mkdir(parents=True)
    return folder


def test_peak_of_the_control_group(group, tmp_path):
    peak = group / "memory.peak"
    peak.write_text("100\n")
    with CgroupPeak(tmp_path) as reached:
        assert peak.read_text() == "100\n\n"  # what sets it back, since Linux 6.12
        peak.write_text("300\n")
    assert reached.bytes == 300


def test_peak_of_a_group_that_was_larger_before(group, tmp_path):
    """A file that cannot be written, as before Linux 6.12, and does not rise."""
    (group / "memory.peak").symlink_to("/proc/sys/kernel/cap_last_cap")
    with CgroupPeak(tmp_path) as reached:
        pass
    assert reached.bytes is None


def test_no_control_group(group, tmp_path):
    with CgroupPeak(tmp_path) as reached:
        pass
    assert reached.bytes is None
