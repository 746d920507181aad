"""The daemon asked at random, along the lines of its own description and across them."""

import pytest
from daemon_harness import another
from hypothesis import HealthCheck, Phase, given, settings

schemathesis = pytest.importorskip("schemathesis", reason="the package schemathesis is not installed")
checks = pytest.importorskip("schemathesis.specs.openapi.checks")
pytest.importorskip("waitress", reason="the package waitress is not installed")


GOOD, BAD = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE


def fuzz(daemon, examples):
    """Ask for everything but the stream, which has no end, and let schemathesis judge the answers; return how often."""
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{daemon.port}/v1/openapi.json")
    refused = schema.config.checks.negative_data_rejection
    refused.expected_statuses = [*refused.expected_statuses, "413"]  # more samples than may be are too large as well
    operations = [found.ok() for found in schema.exclude(path="/v1/events").get_all_operations()]
    return sum(
        ask(operation, mode, examples) for operation in operations
        for mode in ((GOOD, BAD) if operation.method == "post" else (GOOD,))
    )  # fmt: skip


def ask(operation, mode, examples):
    # numbers that leave the range of the model are refused, and no schema can say which these are
    excluded = [checks.positive_data_acceptance] if operation.path == "/v1/predict" else []
    asked = 0

    @given(operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=examples, deadline=None, derandomize=True, database=None,
        phases=[Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    def once(case):
        nonlocal asked
        asked += 1
        case.call_and_validate(excluded_checks=excluded)

    once()
    return asked


def test_a_little(tmp_path, cache):
    with another(tmp_path, listen="127.0.0.1:0") as daemon:
        assert fuzz(daemon, 6) > 40
        assert daemon.end() == 0


@pytest.mark.long
def test_a_lot(tmp_path, cache):
    with another(tmp_path, listen="127.0.0.1:0") as daemon:
        assert fuzz(daemon, 500) > 3000
        assert daemon.end() == 0
