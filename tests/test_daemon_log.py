"""The daemon's log: its three forms, and that what repeats does not fill it."""

import io
import json
import logging
import os
import subprocess
import sys

import pytest

from edgerev.daemon.log import MINUTE, MOST_ALIKE, Lines, Seldom
from edgerev.daemon.notify import notify, watchdog_seconds

CHILD = """
import logging, sys
from edgerev.daemon import log
from edgerev.daemon.events import Events
log.set_up()
events = Events()
events.tell("rollback", logging.WARNING, message="worse than before", window=512)
logging.getLogger("waitress").error("Exception when\\nservicing %r", "x")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("waitress").exception("oh")
for number in range(100):
    events.tell("again", number=number)
logging.getLogger("quiet").debug("nothing")
"""


def lines(**environ):
    done = subprocess.run([sys.executable, "-c", CHILD], stderr=subprocess.PIPE, text=True, timeout=60, env={
        **os.environ, **environ,
    })  # fmt: skip
    assert done.returncode == 0
    return done.stderr.splitlines()


def test_json():
    found = [json.loads(line) for line in lines(JOURNAL_STREAM="1:2")]
    assert found[0].pop("time")[-1] == "Z"
    assert found[0] == {"level": "warning", "event": "rollback", "message": "worse than before", "window": 512}
    assert found[1]["event"] == "waitress"
    assert found[1]["message"] == "Exception when\nservicing 'x'"
    assert "ZeroDivisionError" in found[2]["trace"]
    assert [line["number"] for line in found[3:]] == list(range(MOST_ALIKE))


def test_journald_gets_priorities(tmp_path):
    with open(tmp_path / "journal", "w+") as journal:
        place = os.fstat(journal.fileno())
        environ = {**os.environ, "JOURNAL_STREAM": f"{place.st_dev}:{place.st_ino}"}
        subprocess.run([sys.executable, "-c", CHILD], stderr=journal, check=True, timeout=60, env=environ)
    text = (tmp_path / "journal").read_text().splitlines()
    assert [line[:4] for line in text[:4]] == ["<4>{", "<3>{", "<3>{", "<6>{"]
    assert json.loads(text[0][3:]) == {
        "level": "warning", "event": "rollback", "message": "worse than before", "window": 512,
    }  # fmt: skip


def test_people_get_a_line_each():
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Lines("terminal"))
    for level, facts in ((logging.INFO, {"message": "all is well"}), (logging.ERROR, {"seconds": 3})):
        handler.handle(logging.makeLogRecord({
            "name": "edgerev.daemon", "levelno": level, "levelname": logging.getLevelName(level), "msg": "saved",
            "facts": facts,
        }))  # fmt: skip
    first, second = stream.getvalue().splitlines()
    assert first[8:] == " saved: all is well"
    assert second[8:] == " error saved (seconds 3)"


def test_what_was_left_out_is_counted():
    seconds = 0.0
    seldom = Seldom(lambda: seconds)

    def let_through(kind):
        record = logging.makeLogRecord({"name": "waitress.queue", "msg": kind})
        return seldom.filter(record), record.left_out

    assert [let_through("depth %d") for _ in range(MOST_ALIKE)] == [(True, 0)] * MOST_ALIKE
    assert [let_through("depth %d") for _ in range(5)] == [(False, 0)] * 5
    assert let_through("other") == (True, 0)
    seconds = MINUTE
    assert let_through("depth %d") == (True, 5)
    assert let_through("depth %d") == (True, 0)
    for number in range(100_000):
        let_through(f"made up {number}")
    assert len(seldom._counts) <= 102


# -- systemd ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told(tmp_path, abstract):
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        name = f"edgerev-test-{os.getpid()}"
        systemd.bind(f"\0{name}" if abstract else str(tmp_path / "notify"))
        notify("READY=1", "STATUS=up", environ={"NOTIFY_SOCKET": f"@{name}" if abstract else str(tmp_path / "notify")})
        assert systemd.recv(1000) == b"READY=1\nSTATUS=up"


def test_without_systemd_nothing_is_told(tmp_path):
    notify("READY=1", environ={})
    notify("READY=1", environ={"NOTIFY_SOCKET": str(tmp_path / "gone")})


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, 0), ({"WATCHDOG_USEC": "30000000"}, 30), ({"WATCHDOG_USEC": "x"}, 0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "1"}, 0),
    ],
)  # fmt: skip
def test_the_watchdogs_patience(environ, seconds):
    assert watchdog_seconds(environ) == seconds
