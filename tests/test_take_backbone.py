"""Taking the backbone of another learner, whose net has another head."""

import numpy as np
import pytest

from edgerev import AdamW, Adapter, Block, Conv2d, Head, Learner, Net, ReLU, UsageError

BLOCK = Block((ReLU(), Conv2d(2)))


def learner(head, *, seed, backbone=(BLOCK,), **options):
    return Learner(Net((4, 4, 1), Conv2d(4), backbone, head), seed=seed, **options)


def samples(count=12):
    random = np.random.default_rng(0)
    return random.normal(size=(count, 4, 4, 1)).astype("f4"), np.arange(count) % 3


def test_the_backbone_is_that_of_the_other_to_the_bit():
    x, y = samples()
    first = learner(Head(3), seed=1, optimizer=AdamW(1e-2))
    first.set_standardisation([0.5], [2.0])
    first.learn_many(x, y)
    second = learner(Head(5, kind="ridge", expansion=(Conv2d(6), ReLU())), seed=2)
    weights, scalars = second.runtime.view("expansion.0.weight"), second.runtime.view("counters")
    before = list(weights), list(scalars)
    second.take_backbone(first)
    np.testing.assert_array_equal(second.transform(x), first.transform(x))
    assert (list(weights), list(scalars)) == before
    second.remember_many(x, y)
    assert set(second.predict_many(x)) <= {0, 1, 2}


def test_a_linear_head_stays():
    x, y = samples()
    first, second = (learner(Head(3), seed=seed) for seed in (1, 2))
    second.learn_many(x, y)
    head = list(second.runtime.view("head.0.weight"))
    second.take_backbone(first)
    assert list(second.runtime.view("head.0.weight")) == head
    np.testing.assert_array_equal(second.transform(x), first.transform(x))


def test_what_does_not_fit_is_refused_and_changes_nothing():
    x, y = samples()
    own = learner(Head(3, kind="ridge"), seed=2)
    before = own.transform(x)
    with pytest.raises(UsageError, match="more than the head"):
        own.take_backbone(learner(Head(3), seed=1, backbone=(BLOCK, BLOCK)))
    own.remember_many(x, y)
    with pytest.raises(UsageError, match="forget"):
        own.take_backbone(learner(Head(3), seed=1))
    np.testing.assert_array_equal(own.transform(x), before)
    adapted = (Block((Adapter(1),)),)
    with pytest.raises(UsageError, match="adapters"):
        learner(Head(3, tasks=2), seed=1, backbone=adapted).take_backbone(learner(Head(3), seed=1, backbone=adapted))


def test_adapters_of_another_task_at_hand_are_refused():
    """Those in place would be put away as those of a task that they were not trained on."""
    x, y = samples()
    adapted = (Block((Conv2d(2), Adapter(1))),)
    own, other = (learner(Head(3, tasks=2), seed=seed, backbone=adapted, optimizer=AdamW(1e-2)) for seed in (1, 2))
    for task in (0, 1):
        other.task = task
        other.learn_many(x, y)
    own.task = 0
    before = own.transform(x)
    with pytest.raises(UsageError, match="task 0 here and of 1 there"):
        own.take_backbone(other)
    np.testing.assert_array_equal(own.transform(x), before)
    own.task = 1
    own.take_backbone(other)
    for task in (1, 0):
        own.task = other.task = task
        np.testing.assert_array_equal(own.transform(x), other.transform(x))


def test_whole_features_lose_the_range_of_another_backbone():
    x, y = samples()
    own = learner(Head(3, kind="ridge", sums="int32"), seed=2)
    own.calibrate(x)
    own.take_backbone(learner(Head(3), seed=1))
    with pytest.raises(UsageError, match="calibrate"):
        own.remember_many(x, y)
