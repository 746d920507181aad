"""The doctor reads a machine that the test wrote."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from edgerev import doctor, machine, selftest
from edgerev.cli import main
from edgerev.cli.doctor import to_json, to_text
from edgerev.doctor import Check, Level
from edgerev.errors import KernelError, UsageError
from edgerev.kernels import targets
from edgerev.tools.child import link_package

PI4 = 0x887  # AT_HWCAP as its kernel reports it
CPU = "sys/devices/system/cpu"
FILES = {
    "proc/cpuinfo": "processor\t: 0\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm crc32\n",
    "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.5\0",
    "proc/self/status": "Name:\tpython\nCpus_allowed:\tf\nCpus_allowed_list:\t0-3\n",
    "proc/self/cgroup": "0::/system.slice/edgerev.service\n",
    "proc/meminfo": "MemTotal:        3884360 kB\nMemFree:         2000000 kB\nMemAvailable:    3000000 kB\n",
    "proc/swaps": "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n",
    f"{CPU}/online": "0-3\n",
    f"{CPU}/cpu0/cpufreq/scaling_governor": "ondemand\n",
    f"{CPU}/cpu0/cpufreq/scaling_driver": "cpufreq-dt\n",
    f"{CPU}/cpu0/cpufreq/scaling_cur_freq": "600000\n",
    f"{CPU}/cpu0/cpufreq/scaling_max_freq": "1800000\n",
    f"{CPU}/cpu0/cpufreq/cpuinfo_max_freq": "1800000\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "48200\n",
    "sys/class/thermal/thermal_zone0/trip_point_0_type": "critical\n",
    "sys/class/thermal/thermal_zone0/trip_point_0_temp": "110000\n",
    "sys/class/thermal/thermal_zone0/trip_point_1_type": "passive\n",
    "sys/class/thermal/thermal_zone0/trip_point_1_temp": "80000\n",
    "sys/devices/platform/soc/soc:firmware/get_throttled": "0\n",
}
GROUP = "sys/fs/cgroup/system.slice/edgerev.service"


@pytest.fixture
def board(tmp_path):
    """Return a function that writes a healthy Raspberry Pi with some files changed (None removes) and its root."""

    def write(changes=None):
        for name, text in {**FILES, **(changes or {})}.items():
            if text is not None:
                path = tmp_path / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
        return tmp_path

    return write


def diagnose(root):
    checks = doctor.diagnose(
        root, cache=root / "cache", machine="aarch64", ask_firmware=lambda: None, ask_hwcap=lambda: PI4
    )
    return {check.name: check for check in checks}


def test_healthy_board(board):
    checks = diagnose(board())
    assert [check.name for check in checks.values() if check.status is not Level.OK] == []
    assert [check.name for check in checks.values() if check.hint] == []
    assert checks["cpu"].message == "Raspberry Pi 4 Model B Rev 1.5 (aarch64), asimd"
    assert checks["cores"].figures == {"online_cores": 4, "usable_cores": 4, "quota_cores": 4.0}
    assert checks["memory"].figures["available_bytes"] == 3000000 << 10
    assert checks["memory"].figures["limit_bytes"] is None
    assert checks["temperature"].figures == {"zones_celsius": {"cpu-thermal": 48.2}}


@pytest.mark.parametrize(
    ("changes", "name", "status", "message", "hint"),
    [
        ({"sys/fs/cgroup/cpu.max": "150000 100000\n"}, "cores", "warning", "time for 1.5", "threads=1"),
        ({f"{GROUP}/cpu.max": "50000 100000\n"}, "cores", "warning", "time for 0.5", "threads=1"),
        ({"proc/meminfo": "MemTotal: 100000 kB\nMemAvailable: 9000 kB\n"}, "memory", "warning", "8.8 MiB", "budget"),
        ({f"{GROUP}/memory.max": "33554432\n"}, "memory", "warning", "limited to 32.0 MiB", "raise the limit"),
        (
            {f"{GROUP}/memory.max": "134217728\n", f"{GROUP}/memory.current": "134217728\n"},
            "memory", "warning", "0 B available", "raise the limit",
        ),
        ({"proc/meminfo": None}, "memory", "warning", "unknown", "/proc"),
        (
            {"proc/swaps": "Filename Type Size Used Priority\n/var/swap file 102396 51200 -2\n"},
            "swap", "warning", "50.0 MiB of 100.0 MiB used", "wears flash",
        ),
        (
            {"proc/swaps": "Filename Type Size Used Priority\n/dev/zram0 partition 102396 51200 100\n"},
            "swap", "warning", "50.0 MiB", "compressed memory",
        ),
        ({f"{CPU}/cpu0/cpufreq/scaling_governor": "powersave\n"}, "frequency", "warning", "powersave", "schedutil"),
        ({f"{CPU}/cpu0/cpufreq/scaling_governor": "performance\n"}, "frequency", "warning", "0.60 of", "throttled"),
        ({f"{CPU}/cpu0/cpufreq/scaling_max_freq": "1000000\n"}, "frequency", "warning", "capped at 1.00", "power"),
        ({"sys/class/thermal/thermal_zone0/temp": "76000\n"}, "temperature", "warning", "passive point", "cool"),
        ({"sys/class/thermal/thermal_zone0/temp": "108000\n"}, "temperature", "error", "critical point", "cool"),
        (
            {"sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n"},
            "throttling", "warning", "under-voltage, throttled", "power supply",
        ),
        (
            {"sys/devices/platform/soc/soc:firmware/get_throttled": "40000\n"},
            "throttling", "warning", "throttled since boot", "power supply",
        ),
    ],
)  # fmt: skip
def test_each_trouble_is_named_with_a_hint(board, changes, name, status, message, hint):
    for removed in [key for key, text in changes.items() if text is None]:
        changes = {key: text for key, text in changes.items() if key != removed}
        root = board(changes)
        (root / removed).unlink()
    check = diagnose(board(changes) if changes else root)[name]
    assert check.status == status
    assert message in check.message
    assert hint in check.hint


@pytest.mark.parametrize(
    ("changes", "name", "figure", "value"),
    [
        ({"proc/self/status": "Cpus_allowed_list:\t1,3\n"}, "cores", "usable_cores", 2),
        ({f"{GROUP}/cpu.max": "max 100000\n"}, "cores", "quota_cores", 4.0),
        ({f"{GROUP}/memory.max": "max\n", "sys/fs/cgroup/memory.max": "max\n"}, "memory", "limit_bytes", None),
        ({"proc/swaps": "Filename Type Size Used Priority\n/var/swap file 100 0 -2\n"}, "swap", "used_bytes", 0),
        (
            {
                f"{CPU}/cpu0/cpufreq/scaling_governor": "powersave\n",
                f"{CPU}/cpu0/cpufreq/scaling_driver": "intel_pstate\n",
            },
            "frequency", "governor", "powersave",
        ),
        # An active point starts a fan; a negative one is not set.
        (
            {
                "sys/class/thermal/thermal_zone0/trip_point_1_type": "active\n",
                "sys/class/thermal/thermal_zone0/temp": "85000\n",
                "sys/class/thermal/thermal_zone0/trip_point_2_type": "passive\n",
                "sys/class/thermal/thermal_zone0/trip_point_2_temp": "-274000\n",
            },
            "temperature", "zones_celsius", {"cpu-thermal": 85.0},
        ),
    ],
)  # fmt: skip
def test_what_is_no_trouble(board, changes, name, figure, value):
    check = diagnose(board(changes))[name]
    assert check.status is Level.OK
    assert check.figures[figure] == value


@pytest.mark.parametrize(("online", "message"), [("0", "1 core, 1 usable"), ("0-1", "2 cores, 2 usable")])
def test_cores_are_counted_in_english(board, online, message):
    assert diagnose(board({f"{CPU}/online": f"{online}\n"}))["cores"].message == message


def test_memory_in_a_control_group_is_what_is_left_in_it(board):
    gib = 1 << 30
    figures = diagnose(
        board(
            {
                f"{GROUP}/memory.max": f"{gib}\n",
                f"{GROUP}/memory.current": f"{gib // 4}\n",
                "sys/fs/cgroup/system.slice/memory.max": f"{2 * gib}\n",
            }
        )
    )["memory"].figures
    assert figures["limit_bytes"] == gib
    assert figures["available_bytes"] == gib * 3 // 4


def test_slowest_core_is_judged(board):
    core = f"{CPU}/cpu1/cpufreq"
    frequencies = {"scaling_cur_freq": "300000", "scaling_max_freq": "900000", "cpuinfo_max_freq": "1800000"}
    check = diagnose(board({f"{core}/{name}": text for name, text in frequencies.items()}))["frequency"]
    assert check.status is Level.WARNING
    assert check.figures["allowed_hz"] == 900_000_000


@pytest.mark.parametrize(
    ("flags", "status", "features"),
    [
        ("fpu sse2", Level.ERROR, []),
        (" ".join(targets.V2), Level.WARNING, []),
        (" ".join(targets.V3), Level.OK, ["fma", "avx2"]),
        (" ".join(targets.V4), Level.OK, ["fma", "avx2", "avx512f"]),
    ],
)
def test_x86_features(board, flags, status, features):
    root = board({"proc/cpuinfo": f"model name\t: Some CPU\nflags\t\t: {flags}\n"})
    check = doctor.cpu_check(root, "x86_64", not_asked)
    assert check.status is status
    assert check.figures["features"] == features
    assert check.message.startswith("Some CPU (x86_64)")


def not_asked():
    raise AssertionError("only ARM tells its features by bits")


@pytest.mark.parametrize(
    ("architecture", "hwcap", "status", "told"),
    [
        ("aarch64", PI4, Level.OK, "(aarch64), asimd"),
        ("aarch64", 0, Level.ERROR, "(aarch64); it lacks asimd, fp"),
        ("aarch64", 0x1, Level.ERROR, "(aarch64); it lacks asimd"),
        ("arm", 0x3FB0D6, Level.OK, "(arm), neon, vfpv4"),  # a 32-bit Pi 3
        ("arm", 0x8D6, Level.ERROR, "(arm); it lacks idiva, idivt, vfpv3, vfpv4"),
    ],
)
def test_features_on_arm_are_those_of_the_process(board, architecture, hwcap, status, told):
    """Under an emulator, /proc/cpuinfo names those of the host."""
    root = board({"proc/cpuinfo": "model name\t: Host CPU\nflags\t\t: fpu sse2\nFeatures\t: neon\n"})
    check = doctor.cpu_check(root, architecture, lambda: hwcap)
    assert (check.status, check.message) == (status, f"Host CPU {told}")
    assert ("no kernels" in check.hint) == (status is Level.ERROR)


@pytest.mark.long
@pytest.mark.parametrize(("root", "emulator", "told"), [
    ("arm_root", "qemu-aarch64-static", "(aarch64), asimd"), ("arm32_root", "qemu-arm-static", "(arm), neon, vfpv4"),
])  # fmt: skip
def test_an_emulated_processor(root, emulator, told, request, tmp_path):
    root = request.getfixturevalue(root)
    link_package(str(tmp_path))
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from edgerev.doctor import diagnose; "
    code += "print(next(check.message for check in diagnose() if check.name == 'cpu'))"
    python = [emulator, "-L", root, "-E", f"PYTHONHOME={root}/usr", f"{root}/usr/bin/python3", "-I", "-S", "-c", code]
    done = subprocess.run(python, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(f"{told}\n")


@pytest.mark.parametrize("architecture", ["armv6l", "i686", "riscv64"])
def test_processors_without_kernels(board, architecture):
    check = doctor.cpu_check(board({"proc/cpuinfo": "Features\t: half fp\n"}), architecture, not_asked)
    assert (check.status, "no kernels" in check.hint) == (Level.ERROR, True)


def test_features_on_x86_need_proc(tmp_path):
    check = doctor.cpu_check(tmp_path, "x86_64", not_asked)
    assert (check.status, check.hint) == (Level.WARNING, "is /proc mounted?")


def test_empty_machine_breaks_nothing(tmp_path):
    checks = diagnose(tmp_path)
    assert {name for name, check in checks.items() if check.status is Level.WARNING} == {"memory"}


def test_firmware_tool_is_asked_when_the_file_is_missing(tmp_path):
    check = doctor.throttling_check(tmp_path, lambda: "throttled=0x20002")
    assert check.message == "frequency capped"
    assert doctor.throttling_check(tmp_path, lambda: "VCHI initialization failed").status is Level.OK


@pytest.mark.parametrize("version", [(3, 10, 0), (3, 11, 7), (4, 0, 0)])
def test_python_new_enough(version):
    assert doctor.python_check(version).status is Level.OK


@pytest.mark.parametrize("version", [(3, 9, 18), (2, 7, 18)])
def test_python_too_old(version):
    check = doctor.python_check(version)
    assert check.status is Level.ERROR
    assert "3.10" in check.hint


def test_disk_space_of_a_folder_to_be(tmp_path, monkeypatch):
    assert doctor.disk_check(tmp_path / "a" / "b").status is Level.OK
    monkeypatch.setattr(doctor, "LOW_DISK_BYTES", 1 << 80)
    assert "free some space" in doctor.disk_check(tmp_path / "a").hint
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "cannot be written" in doctor.disk_check(tmp_path / "a").message


@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"XDG_CACHE_HOME": "/x", "HOME": "/home/u"}, "/x/edgerev"),
        ({"HOME": "/home/u"}, "/home/u/.cache/edgerev"),
        ({}, f"{Path.home()}/.cache/edgerev"),
    ],
)
def test_cache_folder(environ, folder):
    assert machine.cache_folder(environ) == Path(folder)


def test_no_home_folder(monkeypatch):
    def nowhere():
        raise UsageError("no home folder to keep kernels in")

    monkeypatch.setattr(doctor, "cache_folder", nowhere)
    check = doctor.disk_check()
    assert (check.status, check.message) == (Level.WARNING, "no home folder to keep kernels in")


def test_a_package_that_is_not_installed():
    assert doctor.installed("no-such-package-anywhere") is None


def test_missing_packages_are_errors(monkeypatch):
    monkeypatch.setattr(doctor, "installed", lambda name: None if name == "tqdm" else "1.0")
    assert doctor.packages_check().status is Level.ERROR
    assert doctor.packages_check().hint == "python -m pip install tqdm"


def test_the_kernels_are_named_and_tried():
    check = doctor.kernels_check()
    assert (check.status, check.figures["digest"]) == (Level.OK, selftest.EXPECTED)
    assert check.figures["target"] in check.message
    assert check.message.endswith("self-test passed")


def test_kernels_that_compute_something_else(monkeypatch):
    monkeypatch.setattr(selftest, "STEPS", selftest.STEPS - 1)
    check = doctor.kernels_check()
    assert (check.status, check.hint) == (Level.ERROR, "results cannot be trusted: install edgerev again")
    assert f"not {selftest.EXPECTED[:16]}" in check.message


def test_no_kernels(monkeypatch):
    def nothing():
        raise KernelError("no compiled kernels for this processor")

    monkeypatch.setattr(doctor.library, "load", nothing)
    check = doctor.kernels_check()
    assert (check.status, check.message) == (Level.ERROR, "no compiled kernels for this processor")


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_self_test_knows_every_bit(threads):
    assert selftest.train(threads) == selftest.EXPECTED


@pytest.mark.parametrize(("text", "cores"), [("0", 1), ("0-3", 4), ("0-1,4,6-7", 5), ("", 0)])
def test_core_lists(text, cores):
    assert machine.parse_cores(text) == cores


# -- the verb ------------------------------------------------------------------------------------------------------

SICK = [Check("a", Level.OK, "fine"), Check("b", Level.ERROR, "broken", "mend it", {"x_bytes": 3})]
UNWELL = [Check("a", Level.WARNING, "so-so", "rest")]


@pytest.mark.parametrize(("checks", "code"), [(SICK, 1), (UNWELL, 0), (SICK[:1], 0)])
def test_exit_code(monkeypatch, capsys, checks, code):
    monkeypatch.setattr("edgerev.cli.doctor.diagnose", lambda: checks)
    assert main(["doctor"]) == code
    assert checks[0].message in capsys.readouterr().out


def test_renderings_tell_the_same():
    told = json.loads(to_json(SICK))
    assert told["status"] == "error"
    assert told["checks"][1] == {
        "name": "b", "status": "error", "message": "broken", "hint": "mend it", "figures": {"x_bytes": 3},
    }  # fmt: skip
    lines = to_text(SICK).splitlines()
    assert lines[0].split() == ["ok", "a", "fine"]
    assert lines[1].split() == ["error", "b", "broken"]
    assert lines[2].strip() == "-> mend it"


def test_this_machine(capsys):
    main(["doctor", "--json"])
    names = [check["name"] for check in json.loads(capsys.readouterr().out)["checks"]]
    assert names == [
        "python", "cpu", "cores", "memory", "swap", "frequency", "temperature", "throttling", "disk", "packages",
        "kernels",
    ]  # fmt: skip


def test_files_in_memory_are_given_up(board):
    """Else a data set that was just read would leave nothing for the arena."""
    stat = "anon 1000\nfile 9000\ninactive_file 4096\nactive_file 2048\n"
    root = board({
        f"{GROUP}/memory.max": "134217728\n", f"{GROUP}/memory.current": "10000\n", f"{GROUP}/memory.stat": stat,
    })  # fmt: skip
    assert machine.read_memory(root) == (3884360 << 10, 134217728 - (10000 - 6144), 134217728)
    assert machine.read_memory(root / "nothing") is None
