"""What the daemon says of how well its model did, and at which pace it learns."""

import itertools
import json

import pytest

from edgerev.daemon.history import POINTS, points_and_marks
from edgerev.daemon.pace import RATE_SECONDS, Rate


def windows(count):
    return [
        json.dumps({
            "kind": "window", "sample": 256 * number, "time": number, "loss": 0.5, "accuracy": 0.9,
            "accepted_accuracy": None,
        })
        for number in range(1, count + 1)
    ]  # fmt: skip


def test_nothing():
    assert points_and_marks([]) == {"points": [], "marks": []}


@pytest.mark.parametrize("count", [1, 2, POINTS - 1, POINTS, POINTS + 1, 2 * POINTS, 2 * POINTS + 1, 4999])
def test_points_are_bounded_and_cover_all_of_the_time(count):
    points = points_and_marks(windows(count))["points"]
    assert min(count, POINTS // 2) <= len(points) <= POINTS
    assert points[-1] == [count, 256 * count, 0.5, 0.9, None]
    gaps = {second[0] - first[0] for first, second in itertools.pairwise(points)}
    assert len(gaps) <= 1
    assert points[0][0] <= max(gaps, default=1)


def test_marks_are_all_kept():
    drift = json.dumps({"kind": "drift", "sample": 9, "time": 3, "message": "answers changed"})
    assert points_and_marks([*windows(5), drift, *windows(2000)])["marks"] == [[3, 9, "drift", "answers changed"]]


def test_rate():
    clock = itertools.count(step=RATE_SECONDS / 10)
    rate = Rate(clock=clock.__next__)
    assert rate.per_second == 0
    rate.add(0)
    assert rate.per_second == 0
    for _ in range(100):
        rate.add(50)
    assert rate.per_second == pytest.approx(500 / RATE_SECONDS)
    for _ in range(20):
        rate.add(0)
    assert rate.per_second == 0
