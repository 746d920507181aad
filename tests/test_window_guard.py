"""The daemon's guard: which models go back, and which are accepted, by what was answered."""

import json
import random

import pytest

from edgerev.daemon.guard import Decision, WindowGuard
from edgerev.daemon.settings import GuardTable

TABLE = GuardTable(window=200, probation=3)


def fill(guard, candidate, accepted, seed=0, known=True):
    """Let both models be right by chance, each on its own."""
    draw = random.Random(seed)
    while not guard.full:
        rows = [[0.1, 0.8, 0.1] if draw.random() < chance else [0.7, 0.2, 0.1] for chance in (accepted, candidate)]
        guard.window.add(*rows, 1, known)
    return guard.decide()


def test_a_worse_model_goes_back():
    guard = WindowGuard(3, TABLE)
    assert fill(guard, 0.6, 0.9) is Decision.GO_BACK
    assert "where the accepted model had" in guard.reason
    assert guard.window.samples == 0


def test_chance_does_not():
    decisions = [fill(WindowGuard(3, TABLE), 0.8, 0.8, seed) for seed in range(200)]
    assert decisions.count(Decision.GO_BACK) <= 2


def test_windows_in_which_it_was_behind_count_together():
    guard, alone = WindowGuard(3, TABLE.replace(window=50)), 0
    for seed in range(8):
        if fill(guard, 0.7, 0.9, seed) is Decision.GO_BACK:
            break
        alone += fill(WindowGuard(3, TABLE.replace(window=50)), 0.7, 0.9, seed) is Decision.GO_BACK
    assert seed in (1, 2)
    assert alone == 0
    assert "of 100 samples" in guard.reason or "of 150 samples" in guard.reason


def test_a_window_in_which_it_is_ahead_ends_the_count():
    guard = WindowGuard(3, TABLE.replace(window=20, probation=1000))
    for seed in range(60):
        assert fill(guard, 0.85, 0.9, seed) is Decision.GO_ON
        assert fill(guard, 0.95, 0.85, seed) is Decision.GO_ON


def test_what_spoke_against_a_model_is_forgotten_with_it():
    guard, table = WindowGuard(3, TABLE), TABLE.replace(window=50)
    guard.table = table
    fill(guard, 0.7, 0.9)
    assert guard.behind.usual > guard.behind.right
    guard.begin_anew()
    assert vars(guard.behind) == vars(WindowGuard(3, table).behind)
    older = {name: value for name, value in guard.state().items() if name != "behind"}
    guard.restore(older)  # of a store from before there were such counts


def test_a_small_loss_is_allowed():
    guard = WindowGuard(3, TABLE.replace(accuracy_loss=0.5))
    assert fill(guard, 0.6, 0.9) is Decision.GO_ON


def test_a_model_is_accepted_after_some_windows():
    guard = WindowGuard(3, TABLE)
    found = [fill(guard, 0.9, 0.9, seed) for seed in range(6)]
    assert found == [Decision.GO_ON, Decision.GO_ON, Decision.ACCEPT] * 2


def test_none_is_accepted_while_the_accuracy_is_low():
    guard = WindowGuard(3, TABLE)
    assert fill(guard, 0.9, 0.9) is Decision.GO_ON
    found = [fill(guard, 0.6, 0.5, seed) for seed in range(5)]
    assert found == [Decision.GO_ON] * 5
    found = [fill(guard, 0.9, 0.5, seed) for seed in range(3)]
    assert found == [Decision.GO_ON, Decision.GO_ON, Decision.ACCEPT]


def test_a_harder_world_becomes_the_usual_one():
    guard = WindowGuard(3, TABLE)
    fill(guard, 0.9, 0.9)
    assert Decision.ACCEPT in [fill(guard, 0.6, 0.5, seed) for seed in range(60)]


@pytest.mark.parametrize(
    ("rows", "decision", "reason"),
    [
        (([0.1, 0.8, 0.1], [0.1, 0.7, 0.2]), Decision.GO_ON, ""),
        (([0.1, 0.8, 0.1], [0.3, 0.4, 0.3]), Decision.GO_BACK, "mean confidence fell"),
        (([0.1, 0.8, 0.1], [0.8, 0.1, 0.1]), Decision.GO_BACK, "100% of the answers changed"),
    ],
)
def test_without_labels_answers_are_compared(rows, decision, reason):
    guard = WindowGuard(3, TABLE)
    while not guard.full:
        guard.window.add(*rows, 0, False)
    assert guard.decide() is decision
    assert reason in guard.reason


def test_without_labels_classes_that_fall_out_of_use():
    guard = WindowGuard(3, TABLE)
    for place in range(TABLE.window):
        row = [0.05, 0.05, 0.05]
        row[place % 3] = 0.9
        guard.window.add(row, row if place % 3 == 0 else [0.9, 0.05, 0.05] if place % 2 else row, 0, False)
    guard.window.sums[1] = [180.0, 10.0, 10.0]
    assert guard.decide() is Decision.GO_BACK
    assert "classes in use fell" in guard.reason


def test_it_goes_on_from_its_state():
    made, again = WindowGuard(3, TABLE), WindowGuard(3, TABLE)
    fill(made, 0.9, 0.9)
    made.window.add([0.1, 0.8, 0.1], [0.7, 0.2, 0.1], 1, True)
    again.restore(json.loads(json.dumps(made.state())))
    assert again.state() == made.state()
    assert [fill(made, 0.6, 0.7, seed) for seed in range(4)] == [fill(again, 0.6, 0.7, seed) for seed in range(4)]
