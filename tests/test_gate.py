"""When training may run: hours, idleness, heat, charge, share of a core, and enough samples."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerev.daemon import sensors
from edgerev.daemon.gate import BURST_SECONDS, LOOK_SECONDS, Gate
from edgerev.daemon.settings import LimitsTable, ServeSettings, TrainingTable

BATCH = 8


class World:
    """A machine whose clock, heat, charge and samples are set by a test; `told` has what became events."""

    def __init__(self, root, training=None, **limits):
        self.root, self.seconds, self.time_of_day, self.samples, self.told = root, 100.0, (12, 0), 0, []
        settings = ServeSettings("m", training=training or TrainingTable(), limits=LimitsTable(**limits))
        self.gate = Gate(
            settings, BATCH, lambda count: self.samples >= count,
            lambda kind, level, **facts: self.told.append((kind, facts["reason"])),
            root=str(root), clock=lambda: self.seconds,
            local=lambda: time.struct_time((2026, 3, 1, *self.time_of_day, 0, 0, 60, 0)),
        )  # fmt: skip

    def write(self, path, text):
        file = self.root / "sys/class" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")

    def heat(self, celsius, zone=0):
        self.write(f"thermal/thermal_zone{zone}/temp", round(1000 * celsius))

    def charge(self, percent, status="Discharging", name="BAT0", kind="Battery"):
        for file, text in (("type", kind), ("capacity", percent), ("status", status)):
            self.write(f"power_supply/{name}/{file}", text)

    def reason(self, after=LOOK_SECONDS):
        self.seconds += after
        return self.gate.reason()


def test_nothing_is_in_the_way(tmp_path):
    world = World(tmp_path)
    assert world.reason() == ""
    assert world.gate.rest() == 0
    world.gate.paused = True
    assert world.reason() == world.gate.waits_for == "paused"


@pytest.mark.parametrize(
    ("window", "inside", "outside"),
    [
        ("22:00-06:00", [(22, 0), (23, 59), (0, 0), (5, 59)], [(6, 0), (12, 0), (21, 59)]),
        ("08:30-12:00", [(8, 30), (11, 59)], [(8, 29), (12, 0), (0, 0)]), ("00:00-00:00", [(0, 0), (12, 0)], []),
    ],
)  # fmt: skip
def test_hours(tmp_path, window, inside, outside):
    world = World(tmp_path, TrainingTable(hours=window))
    for world.time_of_day in inside:
        assert world.reason() == ""
    for world.time_of_day in outside:  # the clock may jump as it likes
        hours, minutes = world.time_of_day
        assert world.reason() == f"hours: it is {hours:02}:{minutes:02}, outside of {window}"


def test_a_change_is_an_event_and_looked_for_once_a_second(tmp_path):
    world = World(tmp_path, TrainingTable(hours="22:00-06:00"))
    assert world.reason()
    world.time_of_day = (23, 0)
    assert world.reason(0.5 * LOOK_SECONDS)
    assert world.reason(0.5 * LOOK_SECONDS) == ""
    assert world.reason() == ""
    assert world.told == [("waiting", "hours"), ("going on", "hours")]


def test_heat(tmp_path):
    world = World(tmp_path, celsius=70)
    assert world.reason() == ""  # nobody knows
    world.heat(65)
    world.heat(70, zone=1)
    world.write("thermal/thermal_zone2/temp", "no number")
    assert world.reason() == ""
    world.heat(70.5, zone=1)
    assert world.reason() == "temperature: 70.5 C, above 70 C"
    world.heat(67.5, zone=1)
    assert world.reason() == "temperature: 67.5 C, above 67 C"
    world.heat(67, zone=1)
    assert world.reason() == ""
    world.heat(69, zone=1)
    assert world.reason() == ""
    assert world.told == [("waiting", "temperature"), ("going on", "temperature")]


def test_charge(tmp_path):
    world = World(tmp_path, battery_percent=30)
    world.write("power_supply/AC/type", "Mains")
    assert world.reason() == ""
    world.charge(30)
    world.charge(5, name="mouse")
    world.write("power_supply/mouse/scope", "Device")
    assert world.reason() == ""
    world.charge(29)
    assert world.reason() == "battery: 29 %, below 30 %"
    world.charge(31)
    assert world.reason() == "battery: 31 %, below 32 %"
    world.charge(32)
    assert world.reason() == ""
    world.charge(3)
    assert world.reason()
    world.charge(3, "Charging")
    assert world.reason() == ""
    world.charge(29, name="BAT1")
    world.charge(3, "Unknown")
    assert world.reason() == "battery: 29 %, below 30 %"


def test_a_full_battery_lets_training_go_on(tmp_path):
    world = World(tmp_path, battery_percent=100)
    world.charge(99)
    assert world.reason()
    world.charge(100)
    assert world.reason() == ""


def test_idle(tmp_path):
    world = World(tmp_path, TrainingTable(idle_seconds=5))
    assert world.reason() == ""
    world.gate.predicted()
    assert world.reason(3) == "idle: a prediction 3.0 s ago, not 5 s yet"
    world.gate.predicted()
    assert world.reason(4.5) != ""
    assert world.reason(0.5) == ""
    assert world.told == []


def test_samples_are_gathered_and_then_all_learned(tmp_path):
    world = World(tmp_path, TrainingTable(every_samples=100))
    answers = {}
    for world.samples in (0, 99, 100, 92, BATCH, BATCH - 1, 99, 100):
        answers.setdefault(world.samples, []).append(world.reason(0))
    waits = "samples: fewer than 100 labelled ones wait"
    assert answers == {0: [waits], 99: [waits] * 2, 100: ["", ""], 92: [""], BATCH: [""], BATCH - 1: [waits]}


@given(
    share=st.floats(0.01, 4), steps=st.lists(st.tuples(st.floats(1e-4, 3), st.floats(0, 2)), min_size=1, max_size=60)
)
def test_the_share_holds_over_any_time(share, steps):
    """A step is begun only while what all took before is within the share of the time, and of what may be saved up."""
    world = World(None, cpu_share=share)
    start, taken = world.seconds, 0.0
    for seconds, pause in steps:
        world.seconds += pause
        rest = world.gate.rest()
        world.seconds += rest
        assert world.gate.rest() <= 1e-9 * (1 + world.seconds)
        assert taken <= share * (world.seconds - start + BURST_SECONDS) + 1e-6
        world.gate.worked(seconds)
        world.seconds += seconds  # on one core
        taken += seconds


def test_an_idle_core_is_used_as_much_as_allowed(tmp_path):
    world = World(tmp_path, cpu_share=0.25)
    start, taken = world.seconds, 0.0
    for _ in range(1000):
        world.seconds += world.gate.rest()
        world.gate.worked(0.01)
        world.seconds += 0.01
        taken += 0.01
    assert taken / (world.seconds - start) == pytest.approx(0.25, rel=0.01)


def test_limits_may_change(tmp_path):
    world = World(tmp_path, cpu_share=0.5)
    world.gate.worked(10)
    assert world.gate.rest() == pytest.approx(20)
    settings = world.gate.settings
    world.gate.settings = settings.replace(limits=LimitsTable(cpu_share=2))
    assert world.gate.rest() == pytest.approx(5)
    world.gate.settings = settings.replace(limits=LimitsTable(), training=TrainingTable(hours="00:00-01:00"))
    assert world.gate.rest() == 0
    assert world.reason().startswith("hours")


def test_the_process_knows_its_memory():
    found = sensors.resident()
    assert 1 << 20 < found.rss_bytes <= found.peak_rss_bytes
    assert sensors.celsius("/nowhere") is None
    assert sensors.battery("/nowhere") is None
