"""The benchmark report: measured once, gone on with after an interruption, one page that needs nothing else."""

import json
import re
import threading
from html.parser import HTMLParser
from pathlib import Path

import pytest

from edgerev.errors import EdgerevError, UsageError
from edgerev.tools import energy
from edgerev.tools.report import make_report
from edgerev.tools.report_chapters import CHAPTERS, Chapter, Choice, chapters
from edgerev.tools.report_plots import PLOTS

pytest.importorskip("jinja2", reason="the package jinja2 is not installed")
pytestmark = pytest.mark.usefixtures("cache")
QUICK = Choice(quick=True)


class Links(HTMLParser):
    """All that a page would fetch."""

    def __init__(self, text):
        super().__init__()
        self.found, self.ids, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.found += [named[name] for name in ("src", "href", "xlink:href", "data") if named.get(name)]
        self.ids += [named["id"]] if "id" in named else []


def test_the_page_needs_nothing_else(cli, tmp_path):
    done = cli("bench", "report", "-o", tmp_path, "--quick", "--chapters", "machine,memory,time,inverse,energy,peers")
    assert done.code == 0, done.err
    lacking = {"peers"} if energy.meters() else {"peers", "energy"}
    assert set(re.findall(r"^(\w+) ", done.out, re.M)) == {"page", *lacking}
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    page = Links(text)
    assert all(link.startswith("#") for link in page.found)
    assert {link[1:] for link in page.found if not link.startswith("#m")} <= set(page.ids)
    assert text.count("<svg") == 3
    raw = re.search(r'<script type="application/json" id="figures">(.*?)</script>', text, re.S)[1]
    assert json.loads(raw) == json.loads((tmp_path / "report.json").read_text())
    found = json.loads(raw)
    rows = found["memory"]["figures"]["rows"]
    assert rows[0]["reversible_activation_bytes"] == rows[-1]["reversible_activation_bytes"]
    assert rows[0]["stored_activation_bytes"] < rows[-1]["stored_activation_bytes"]
    assert [row["state_bits_equal"] for row in found["inverse"]["figures"]["rows"]] == [True, True, False]
    assert "Left out: no peers" in text


def chapter(name, measure, needs=lambda _: ""):
    return Chapter(name, name.title(), "", "edgerev", (1, 1), measure, needs)


def test_it_goes_on_where_it_was(tmp_path):
    calls = []

    def counting(name):
        def measure(_):
            calls.append(name)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return {"rows": [{"value": len(calls)}]}

        return measure

    made = [chapter(name, counting(name)) for name in ("one", "two", "three")]
    told = []
    with pytest.raises(KeyboardInterrupt):
        make_report(str(tmp_path), made, QUICK)
    page = make_report(
        str(tmp_path), made, QUICK, tell=lambda chapter, minutes: told.append((chapter.name, minutes))
    )["page"]
    assert calls == ["one", "two", "two", "three"]
    assert told == [("two", 2), ("three", 1)]
    make_report(str(tmp_path), made, QUICK)
    assert len(calls) == 4
    make_report(str(tmp_path), made, QUICK, again=True)
    assert len(calls) == 7
    assert "Three" in Path(page).read_text()
    with pytest.raises(UsageError, match="add --again"):
        make_report(str(tmp_path), made, Choice(quick=False))
    (tmp_path / "figures" / "one.json").write_text("{")
    with pytest.raises(UsageError, match="expected figures of a report"):
        make_report(str(tmp_path), made, QUICK)


def test_what_fails_or_is_left_out_costs_no_other_chapter(tmp_path):
    def fail(_):
        raise EdgerevError("</script><b>no</b>")

    made = [
        chapter("bad", fail), chapter("lacking", lambda _: {}, lambda _: "no sensor"),
        chapter("good", lambda _: {"x": 1.5}),
    ]
    done = make_report(str(tmp_path), made, QUICK)
    assert done.keys() == {"page", "bad", "lacking"}
    text = Path(done["page"]).read_text()
    assert "failed: &lt;/script&gt;&lt;b&gt;no&lt;/b&gt;" in text
    assert "<b>no</b>" not in text
    assert "Left out: no sensor" in text
    assert "1.5" in text


def test_chapters_by_name():
    assert chapters("") == CHAPTERS
    assert [one.name for one in chapters("time,machine")] == ["time", "machine"]
    with pytest.raises(UsageError, match="expected one of machine, memory"):
        chapters("tim")
    assert PLOTS.keys() <= {one.name for one in CHAPTERS}


# -- energy ------------------------------------------------------------------------------------------------------


@pytest.fixture
def sensors(tmp_path):
    """Give the root of a system with a counter that wraps, the cores within it, and a sensor of watts."""
    for name, files in {
        "powercap/intel-rapl:0": {"name": "package-0", "energy_uj": 900, "max_energy_range_uj": 1000},
        "powercap/intel-rapl:0:0": {"name": "core", "energy_uj": 5},
        "hwmon/hwmon3": {"name": "ina3221", "power1_input": 2_000_000},
        "hwmon/hwmon4": {"name": "cpu_thermal"},
    }.items():  # fmt: skip
        folder = tmp_path / "sys/class" / name
        folder.mkdir(parents=True)
        for file, text in files.items():
            (folder / file).write_text(f"{text}\n")
    return tmp_path


def test_meters(sensors, tmp_path):
    found = energy.meters(str(sensors))
    assert [(meter.name, meter.counts, meter.wraps) for meter in found] == [
        ("package-0", True, 1000), ("ina3221", False, 0),
    ]  # fmt: skip
    assert energy.meters(str(tmp_path / "nowhere")) == []


def test_joules(sensors):
    found = energy.meters(str(sensors))
    counter = Path(found[0].path)
    with energy.measured(found) as taken:
        counter.write_text("950\n")
        looked = threading.Event()
        while not taken.joules.get("ina3221"):
            looked.wait(0.001)
        counter.write_text("30\n")  # 50 to the end, and 30 from the start
    assert taken.joules["package-0"] in (pytest.approx(130e-6), pytest.approx(1.13e-3))
    assert 0 < taken.joules["ina3221"] < 60
