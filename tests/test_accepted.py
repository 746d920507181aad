"""The last accepted model's place in the arena."""

import numpy as np
import pytest

from edgerev import AdamW, Block, Dense, Head, Learner, Net, ReLU
from edgerev.accepted import Accepted
from edgerev.errors import BudgetError, UsageError
from edgerev.program import Region

pytestmark = pytest.mark.usefixtures("cache")
X = np.random.default_rng(0).normal(size=(40, 6)).astype("f4")
Y = (X[:, 0] > 0).astype("i4") + (X[:, 1] > 0)


def learner(head="linear", **options):
    net = Net((6,), Dense(64), (Block((Dense(32), ReLU()), repeat=2),), Head(3, kind=head))
    return Learner(net, optimizer=AdamW(1e-2), batch=8, **options)


def test_its_bytes_are_in_the_plan():
    without, with_guard = learner(), learner(guard=True)
    size = without.plan.regions[Region.PARAMETERS][1]
    assert without.plan.guard_bytes == 0
    assert with_guard.plan.guard_bytes == size
    assert with_guard.plan.arena_bytes == without.plan.arena_bytes + size
    with pytest.raises(BudgetError):
        learner(guard=True, budget=learner(budget=1 << 30).plan.arena_bytes - size)


def test_it_needs_a_place():
    with pytest.raises(UsageError, match="make the learner with guard=True"):
        Accepted(learner())


@pytest.mark.parametrize("head", ["linear", "ridge", "prototype"])
def test_both_models_answer(head):
    made = learner(head, guard=True)

    made.learn_many(X, Y) if head == "linear" else made.remember_many(X, Y)
    before = made.predict_proba_many(X)
    accepted = Accepted(made)
    made.learn_many(X, Y) if head == "linear" else made.remember_many(X + 1, Y)
    after = made.predict_proba_many(X)
    assert not np.array_equal(before, after)
    with accepted.in_place():
        assert np.array_equal(made.predict_proba_many(X), before)
    assert np.array_equal(made.predict_proba_many(X), after)
    accepted.accept()
    with accepted.in_place():
        assert np.array_equal(made.predict_proba_many(X), after)


def test_an_error_leaves_the_model_in_place():
    made = learner(guard=True)
    accepted = Accepted(made)
    made.learn_many(X, Y)
    after = made.predict_proba_many(X)
    with pytest.raises(ZeroDivisionError), accepted.in_place():
        1 / 0  # noqa: B018
    assert np.array_equal(made.predict_proba_many(X), after)
