"""The daemon's HTTP door: routes, and what bodies may be."""

import contextlib
import io
import zipfile

import numpy as np
import pytest
from daemon_harness import CLASSES, NPZ, another, packed, samples
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerev import Learner
from edgerev.daemon.npz import read_npz
from edgerev.errors import DataError

pytest.importorskip("waitress", reason="the package waitress is not installed")

ONE = np.zeros((1, 4))


# -- routes and methods ----------------------------------------------------------------------------------------------


def test_head_and_options(daemon):
    for _ in range(10):  # more than may watch
        assert daemon.ask("HEAD", "/v1/events")[0] == 200
    response, connection = daemon.open("HEAD", "/v1/status")
    assert response.status == 200
    assert int(response.headers["Content-Length"]) > 100
    assert response.read() == b""
    connection.request("OPTIONS", "/v1/samples")  # on the same connection
    response = connection.getresponse()
    assert (response.status, response.headers["Allow"], response.read()) == (204, "POST, OPTIONS", b"")
    connection.close()


def test_wrong_methods_say_which_are_right(daemon):
    response, connection = daemon.open("DELETE", "/v1/status")
    assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD, OPTIONS")
    connection.close()


@pytest.mark.parametrize("path", ["/v1/status/", "/v1/status?x=%20y", "/v1/st%61tus", "//v1/status"])
def test_other_ways_to_write_a_path(daemon, path):
    assert daemon.ask("GET", path)[0] == 200


def test_answers_cannot_be_taken_for_something_else(daemon):
    for path in ("/", "/v1/status", "/v1/nothing"):
        response, connection = daemon.open("GET", path)
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert "frame-ancestors 'none'" in response.headers["Content-Security-Policy"]
        assert "unsafe" not in response.headers["Content-Security-Policy"]
        connection.close()


def test_the_model_can_be_fetched(daemon, tmp_path):
    asked = [one["x"] for one in samples(5, seed=2)]
    response, connection = daemon.open("GET", "/v1/model")
    assert response.headers["Content-Type"] == "application/octet-stream"
    (tmp_path / "model.edgerev").write_bytes(response.read())
    connection.close()
    response, connection = daemon.open("HEAD", "/v1/model")
    assert int(response.headers["Content-Length"]) == (tmp_path / "model.edgerev").stat().st_size
    assert response.read() == b""
    connection.request("GET", "/v1/status")
    assert connection.getresponse().status == 200  # on the same connection: no body lies between the two
    connection.close()
    found = daemon.ask("POST", "/v1/predict", {"samples": asked})[1]["predictions"]
    learner = Learner.load(str(tmp_path / "model.edgerev"))
    assert [one["probabilities"] for one in found] == [learner.predict_proba_one(x) for x in asked]


def test_history(tmp_path, cache):
    with another(tmp_path, "[serve.training]\ngeneration_samples = 64\n[serve.guard]\nwindow = 64") as daemon:
        assert daemon.ask("GET", "/v1/history") == (200, {"points": [], "marks": []})
        daemon.ask("POST", "/v1/samples", {"samples": samples(96)})
        daemon.until(lambda status: status["steps"] == 12)
        daemon.ask("POST", "/v1/control", {"do": "rollback"})
        history = daemon.ask("GET", "/v1/history")[1]
        assert [point[1] for point in history["points"]] == [64]
        assert all(0 <= value <= 5 for value in history["points"][0][2:])
        assert [mark[1:] for mark in history["marks"]] == [[96, "rollback", "asked for"]]
        assert daemon.ask("GET", "/v1/status")[1]["latest"] == history["points"][0]
    with another(tmp_path, "[serve.guard]\non = false") as daemon:  # the store has been made already
        assert daemon.ask("GET", "/v1/history")[1] == history
        assert daemon.ask("POST", "/v1/control", {"do": "rollback"})[0] == 400
        daemon.ask("POST", "/v1/samples", {"samples": samples(72)})
        status = daemon.until(lambda status: status["trained"] == 168)
        assert status["latest"][1] == 168
        assert status["latest"][4] is None
        assert status["last_window"] == history["points"][0]
        assert daemon.ask("GET", "/v1/history")[1] == history  # of windows that are over
        assert daemon.end() == 0
        daemon.start()
        assert daemon.ask("GET", "/v1/status")[1]["latest"] == history["points"][0]  # not at present, with old answers
        daemon.ask("POST", "/v1/samples", {"samples": samples(8)})
        first = daemon.until(lambda status: status["trained"] == 176)
        assert first["latest"][1] == 176
        later = daemon.until(lambda status: status["uptime_seconds"] > first["uptime_seconds"] + 0.3)
        assert later["latest"] == first["latest"]


def test_control(tmp_path, cache):
    with another(tmp_path) as daemon:
        assert daemon.ask("POST", "/v1/control", {"do": "pause"})[1]["waits_for"] == "paused"
        assert daemon.ask("POST", "/v1/samples", {"samples": samples(16)})[0] == 202
        assert daemon.ask("GET", "/v1/status")[1]["steps"] == 0
        assert daemon.ask("POST", "/v1/control", {"do": "resume"})[1]["waits_for"] == ""
        daemon.until(lambda status: status["steps"] == 2)
        assert daemon.ask("POST", "/v1/control", {"do": "save"})[1]["saved"] == 16
        assert daemon.ask("POST", "/v1/control", {"do": "rollback"})[1]["rollbacks"] == 1
        for body in ({"do": "explode"}, {"do": ["pause"]}, {}, []):
            assert daemon.ask("POST", "/v1/control", body)[0] == 400


# -- NPZ -------------------------------------------------------------------------------------------------------------


def test_arrays_mean_what_json_means(daemon):
    rows = samples(5, seed=1)
    x = np.array([one["x"] for one in rows], "f4")
    asked = {"samples": x.tolist()}
    assert daemon.ask("POST", "/v1/predict", packed(x=x), **NPZ) == daemon.ask("POST", "/v1/predict", asked)
    assert daemon.ask("POST", "/v1/predict", packed(x=np.asfortranarray(x, "f8")), **NPZ)[0] == 200
    keys = np.array([f"npz{number}" for number in range(5)])
    y = np.array([one["y"] for one in rows])
    code, answer = daemon.ask("POST", "/v1/samples", packed(x=x, y=y, key=keys), **NPZ)
    assert code == 202
    again = [{**one, "x": row, "key": key} for one, row, key in zip(rows, x.tolist(), keys.tolist())]
    assert daemon.ask("POST", "/v1/samples", {"samples": again}) == (202, answer)
    numbers = np.array([CLASSES.index(name) for name in y], "u1")
    assert daemon.ask("POST", "/v1/samples", packed(x=x, y=numbers), **NPZ)[0] == 202


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((2, 3))}, "4 for each sample"), ({"y": np.zeros(2)}, "it holds y"),
        ({"x": ONE, "z": np.zeros(1)}, "it holds x, z"), ({"x": np.full((1, 4), np.nan)}, "not finite"),
        ({"x": np.full((1, 4), 1e300)}, "not finite"), ({"x": np.full((1, 4), "1")}, "expected numbers"),
        ({"x": ONE, "y": np.zeros(1)}, "y is float64"), ({"x": ONE, "y": [0, 1]}, "y is int64"),
        ({"x": ONE, "y": [7]}, "label 7 at 0"), ({"x": ONE, "key": [1]}, "key is int64"),
        ({"x": np.array([[None] * 4])}, "not an NPZ file"), ({"x": np.float32(1)}, "expected numbers"),
        ({"x": np.zeros((200_000, 4))}, "once unpacked"),
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit(daemon, arrays, message):
    code, answer = daemon.ask("POST", "/v1/samples", packed(**arrays), **NPZ)
    assert code == 400
    assert message in answer["error"]


def test_a_file_that_lies_about_its_size():
    bomb = bytearray(packed(x=np.zeros((100_000, 4))))
    assert len(bomb) < 10_000
    true, small = (size.to_bytes(4, "little") for size in (3_200_128, 1000))
    assert bomb.count(true) >= 1
    with pytest.raises(DataError, match="not an NPZ file"):
        read_npz(bytes(bomb.replace(true, small)), 4, 800_000)


def test_other_ways_to_pack():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.npy", b"")
    with pytest.raises(DataError, match="another method than deflate"):
        read_npz(file.getvalue(), 4, 1000)


WHOLE = packed(x=np.arange(8.0).reshape(2, 4), y=np.array([1, 2]))


@given(st.integers(0, len(WHOLE) - 1), st.binary(min_size=1, max_size=8))
@settings(deadline=None, max_examples=150, derandomize=True)
def test_damaged_files_of_arrays(place, junk):
    damaged = WHOLE[:place] + junk + WHOLE[place + len(junk) :]
    with contextlib.suppress(DataError):
        assert len(read_npz(damaged, 4, 100_000).x) % 4 == 0


# -- bodies ----------------------------------------------------------------------------------------------------------

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from(["x", "y", "key", "id"]), inner),
    max_leaves=12,
)


@given(st.sampled_from(["samples", "labels", "predict"]), st.lists(ANYTHING, max_size=4))
@settings(deadline=None, max_examples=80, derandomize=True)
def test_bodies_of_any_form_are_answered(daemon, route, things):
    name = "labels" if route == "labels" else "samples"
    assert daemon.ask("POST", f"/v1/{route}", {name: things})[0] in (200, 202, 400)


@given(st.binary(max_size=200))
@settings(deadline=None, max_examples=40, derandomize=True)
def test_bodies_of_any_bytes_are_answered(daemon, body):
    assert daemon.ask("POST", "/v1/samples", body)[0] == 400
    assert daemon.ask("POST", "/v1/samples", body, **NPZ)[0] == 400


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("samples", '{"samples": [{"x": [1e400, 0, 0, 0]}]}', 400),
        ("samples", '{"samples": [{"x": [true, 0, 0, 0]}]}', 400),
        ("samples", '{"samples": [{"x": [[1, 2], [3, 4]]}]}', 202),
        ("samples", '{"samples": [{"x": [[1, 2], 3, 4]}]}', 400),
        ("samples", '{"samples": [{"x": [0, 0, 0, 0], "key": "\\ud800"}]}', 400),
        ("samples", '{"samples": [{"x": [0, 0, 0, 0], "key": ""}]}', 400),
        ("samples", '{"samples": [{"x": [0, 0, 0, %s]}]}' % ("9" * 400), 400),
        ("samples", '{"samples": [{"x": [0, 0, 0, %s]}]}' % ("9" * 5000), 400),
        ("labels", '{"labels": [{"id": 9223372036854775808, "y": 0}]}', 400),
        ("labels", '{"labels": [{"id": 9223372036854775807, "y": 0}]}', 200),
        ("labels", '{"labels": [{"id": 0, "y": 0}]}', 400), ("predict", '{"samples": [[3e38, 3e38, 3e38, 3e38]]}', 400),
    ],
)  # fmt: skip
def test_numbers_and_texts_at_the_edge(daemon, path, body, code):
    assert daemon.ask("POST", f"/v1/{path}", body.encode())[0] == code


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "application/octet-stream"])
def test_what_a_form_of_another_site_sends_is_refused(daemon, kind):
    code, answer = daemon.ask("POST", "/v1/control", {"do": "pause"}, Content_Type=kind)
    assert code == 415
    assert "expected application/json" in answer["error"]
    assert daemon.ask("POST", "/v1/control", packed(x=np.zeros(1)), **NPZ)[0] == 415
    assert daemon.ask("POST", "/v1/predict", {"samples": []}, Content_Type="application/JSON; charset=utf-8")[0] == 200
