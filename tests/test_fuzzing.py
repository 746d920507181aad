"""The daemon asked at random, along the lines of its own description and across them."""

import pytest
from daemon_harness import another
from hypothesis import HealthCheck, Phase, given, settings

schemathesis = pytest.importorskip("schemathesis", reason="the package schemathesis is not installed")
checks = pytest.importorskip("schemathesis.specs.openapi.checks")
pytest.importorskip("waitress", reason="the package waitress is not installed")


def fuzz(daemon, examples):
    """Ask for everything but the stream, which has no end, and let schemathesis judge the answers."""
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{daemon.port}/v1/openapi.json")
    asked = 0
    for found in schema.exclude(path="/v1/events").get_all_operations():
        operation = found.ok()
        # numbers that leave the range of the model are refused, and no schema can say which these are
        excluded = [checks.positive_data_acceptance] if operation.path == "/v1/predict" else []
        good, bad = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE
        for mode in (good, bad) if operation.method == "post" else (good,):

            @given(operation.as_strategy(generation_mode=mode))
            @settings(
                max_examples=examples, deadline=None, derandomize=True, database=None,
                phases=[Phase.generate], suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            def ask(case):
                nonlocal asked
                asked += 1
                case.call_and_validate(excluded_checks=excluded)

            ask()
    return asked


def test_a_little(tmp_path, cache):
    with another(tmp_path, listen="127.0.0.1:0") as daemon:
        assert fuzz(daemon, 10) > 50
        assert daemon.end() == 0


@pytest.mark.long
def test_a_lot(tmp_path, cache):
    with another(tmp_path, listen="127.0.0.1:0") as daemon:
        assert fuzz(daemon, 500) > 3000
        assert daemon.end() == 0
