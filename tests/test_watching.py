"""How the daemon shows itself: events, metrics, description."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from daemon_harness import CLASSES, NPZ, another, packed, samples

pytest.importorskip("waitress", reason="the package waitress is not installed")


def parts(response):
    """Yield kind and data of each server-sent event."""
    kind = ""
    for line in iter(response.readline, b""):
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            yield kind, json.loads(value)


def test_events(tmp_path, cache):
    with another(tmp_path, listen="127.0.0.1:0") as daemon:
        daemon.ask("POST", "/v1/control", {"do": "pause"})
        response, _ = daemon.open("GET", "/v1/events")
        assert response.headers["Content-Type"] == "text/event-stream"
        stream = parts(response)
        for expected in ("serving", "paused"):  # before anybody watched
            kind, data = next(stream)
            assert (kind, data["kind"]) == ("event", expected)
        kind, data = next(stream)
        assert (kind, data["waits_for"]) == ("status", "paused")
        daemon.ask("POST", "/v1/control", {"do": "resume"})
        kind, data = next(one for one in stream if one[0] == "event")
        assert data["kind"] == "resumed"
        kind, data = next(one for one in stream if one[0] == "status")
        assert data["waits_for"] == ""
        assert daemon.end() == 0
        assert [*stream][1:] == []  # it ended


def test_a_page_that_is_closed_is_no_event(tmp_path, cache):
    with another(tmp_path, listen="127.0.0.1:0") as daemon:
        for _ in range(5):  # one more than may watch: the last is told once one of the first is gone
            while True:
                response, connection = daemon.open("GET", "/v1/events")
                if response.status == 200:
                    break
                connection.close()
            response.readline()
            connection.close()
            response.close()
        daemon.process.send_signal(signal.SIGTERM)
        lines = [json.loads(line)["event"] for line in daemon.process.stderr]
    assert lines == ["stopping", "ended"]


def test_as_many_streams_as_may(tmp_path, cache):
    with another(tmp_path, listen="127.0.0.1:0") as daemon:
        opened = [daemon.open("GET", "/v1/events") for _ in range(4)]
        for response, _ in opened:
            assert next(parts(response))[1]["kind"] == "serving"
        code, answer = daemon.ask("GET", "/v1/events")
        assert code == 503
        assert "close another page" in answer["error"]
        assert daemon.ask("POST", "/v1/predict", {"samples": [[0, 0, 0, 0]]})[0] == 200
        for response, connection in opened:
            response.close()
            connection.close()
        for _ in range(100_000):  # the daemon hears of it when it next writes
            response, connection = daemon.open("GET", "/v1/events")
            if response.status == 200:
                break
            response.read()
            connection.close()
        assert response.status == 200
        began = time.monotonic()
        assert daemon.end() == 0
        assert time.monotonic() - began < 4  # the server would wait 5 s for a thread that does not end


def test_metrics(tmp_path, cache):
    parser = pytest.importorskip("prometheus_client.parser", reason="the package prometheus_client is not installed")
    with another(tmp_path) as daemon:
        daemon.ask("POST", "/v1/samples", {"samples": samples(68)})
        daemon.ask("POST", "/v1/predict", {"samples": [[0, 0, 0, 0]] * 3})
        daemon.until(lambda status: status["trained"] == status["counts"]["trained"] == 64)
        response, connection = daemon.open("GET", "/metrics")
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        families = {one.name: one for one in parser.text_string_to_metric_families(response.read().decode())}
        connection.close()
    values = {(one.name, *one.labels.values()): one.value for family in families.values() for one in family.samples}
    assert values["edgerev_samples_total", "accepted"] == 68
    assert values["edgerev_samples_total", "trained"] == 64
    assert values["edgerev_predictions_total",] == 3
    assert [values["edgerev_queue_samples", state] for state in ("to_learn", "unlabelled", "unsaved")] == [4, 0, 64]
    assert values["edgerev_rollbacks_total",] == 0
    assert values["edgerev_generations_total",] == 1
    assert values["edgerev_guard_bytes",] == values["edgerev_arena_bytes", "guard"] > 0
    assert values["edgerev_arena_bytes", "parameters"] > 0
    assert values["edgerev_resident_bytes",] > 10e6
    assert values["edgerev_request_seconds_bucket", "/v1/samples", "+Inf"] == 1
    assert values["edgerev_request_seconds_count", "/v1/predict"] == 1
    assert families["edgerev_request_seconds"].type == "histogram"
    assert families["edgerev_loss"].samples[0].value > 0
    assert all(one.documentation for one in families.values())


def test_description(daemon):
    validator = pytest.importorskip("openapi_spec_validator", reason="openapi-spec-validator is not installed")
    found = daemon.ask("GET", "/v1/openapi.json")[1]
    validator.validate(found, cls=validator.OpenAPIV31SpecValidator)
    body = found["paths"]["/v1/samples"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    one = body["properties"]["samples"]["items"]["properties"]
    assert one["x"]["minItems"] == one["x"]["maxItems"] == 4
    assert one["y"]["anyOf"][0]["anyOf"][0] == {"enum": list(CLASSES)}
    refused = daemon.ask("GET", "/nothing")[1]["error"]  # names all routes
    assert all(path in refused for path in found["paths"])


def test_numpy_comes_with_the_first_arrays_alone(tmp_path, cache):
    heavy = "{'numpy', 'hashlib', 'ssl', 'zipfile', 'asyncio', 'dataclasses'}"
    code = f"import sys, edgerev.daemon.server; print(*{heavy} & {{*sys.modules}})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"\n"

    def maps(daemon):
        with open(f"/proc/{daemon.process.pid}/maps") as file:
            return file.read()

    with another(tmp_path) as daemon:
        for path in ("/v1/status", "/v1/openapi.json"):
            assert daemon.ask("GET", path)[0] == 200
        assert daemon.ask("POST", "/v1/predict", {"samples": [[0, 0, 0, 0]]})[0] == 200
        assert "_multiarray_umath" not in maps(daemon)
        assert daemon.ask("POST", "/v1/predict", packed(x=np.zeros((1, 4))), **NPZ)[0] == 200
        assert "_multiarray_umath" in maps(daemon)
