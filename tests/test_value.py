"""Values behave as frozen dataclasses do; where both are the same, they are compared with one."""

import copy
import dataclasses
import inspect
import pickle
from typing import ClassVar

import pytest

from edgerev.errors import UsageError
from edgerev.layers import LAYERS, Dense, Dropout, Layer
from edgerev.net import Block, Head
from edgerev.optimizers import SGD, Optimizer
from edgerev.recipe import Recipe, Schedule
from edgerev.value import Value


class Base(Value):
    kind: ClassVar[str] = "base"
    first: int
    second: object = 2


class Derived(Base):
    word = "no field"
    third: tuple = ()
    second: object = "again"


@dataclasses.dataclass(frozen=True)
class RefBase:
    first: int
    second: object = 2


@dataclasses.dataclass(frozen=True)
class RefDerived(RefBase):
    third: tuple = ()
    second: object = "again"


RefDerived.__qualname__ = "Derived"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [((1,), {}), ((1, 2, (3,)), {}), ((), {"third": (1,), "first": 0}), ((1,), {"second": [Dense(3)]})],
)
def test_fields_and_repr(arguments, named):
    ref, comp = RefDerived(*arguments, **named), Derived(*arguments, **named)
    assert repr(comp) == repr(ref)
    assert comp.to_dict().keys() == dataclasses.asdict(ref).keys()
    assert all(getattr(comp, name) == getattr(ref, name) for name in Derived._fields)
    assert [*Derived._fields] == [field.name for field in dataclasses.fields(RefDerived)]


@pytest.mark.parametrize(
    ("arguments", "named", "message"),
    [
        ((), {}, r"Derived.__init__\(\) missing 1 required positional argument: 'first'"),
        ((1,), {"fourth": 4}, r"Derived.__init__\(\) got an unexpected keyword argument 'fourth'"),
        ((1,), {"first": 1}, r"Derived.__init__\(\) got multiple values for argument 'first'"),
        ((1, 2, 3, 4), {}, r"Derived.__init__\(\) takes .*positional arguments but \d were given"),
    ],
)
def test_arguments_that_do_not_fit(arguments, named, message):
    for cls in (RefDerived, Derived):
        with pytest.raises(TypeError, match=message):
            cls(*arguments, **named)


def test_several_arguments_are_missing():
    class Both(Value):
        a: int
        b: int

    with pytest.raises(TypeError, match="missing 2 required positional arguments: 'a', 'b'"):
        Both()


def test_equality_is_of_class_and_fields():
    assert Derived(1) == Derived(1, "again", ())
    assert Derived(1) != Derived(2)
    assert Base(1, 2) != RefBase(1, 2)
    assert Base(1, "again") != Derived(1)
    assert Dense(3) != (3,)
    assert LAYERS["relu"]() != LAYERS["gelu"]()
    assert len({Derived(1), Derived(1, third=()), Derived(2)}) == 2
    with pytest.raises(TypeError, match="unhashable"):
        hash(Derived(1, []))


def test_nothing_can_be_changed():
    value = Derived(1)
    for name in ("first", "other"):
        with pytest.raises(AttributeError, match=f"cannot assign to field '{name}'"):
            setattr(value, name, 2)
        with pytest.raises(AttributeError, match=f"cannot delete field '{name}'"):
            delattr(value, name)
    assert value == Derived(1)


def test_a_default_must_be_immutable():
    with pytest.raises(TypeError, match=r"Shared: the default of many, \[\], is not immutable; take a tuple"):

        class Shared(Value):
            many: list = []  # noqa: RUF012


def test_copies():
    net = Block((Dense(8), Dropout(0.5)), repeat=3)
    for other in (copy.copy(net), copy.deepcopy(net), pickle.loads(pickle.dumps(net)), net.replace()):
        assert other == net
        assert repr(other) == repr(net)
    assert net.replace(repeat=2) == Block((Dense(8), Dropout(0.5)), repeat=2)
    with pytest.raises(TypeError, match="unexpected keyword argument 'depth'"):
        net.replace(depth=1)


def test_replacing_checks():
    with pytest.raises(UsageError, match="chunk must divide micro_batch"):
        Schedule(16, 16).replace(chunk=5)


def test_plain_data_all_the_way_down():
    found = Derived(1, [Head(2), (SGD(0.5), {"a": 1})]).to_dict()
    assert found == {
        "first": 1, "third": (),
        "second": [
            {
                "outputs": 2, "pool": "average", "kind": "linear", "ridge": 1e-3, "tasks": 1, "sums": "float64",
                "rectify": False, "expansion": [],
            },
            ({"rate": 0.5, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0}, {"a": 1}),
        ],
    }
    assert Recipe().to_dict()["loss"] == {"weights": None, "smoothing": 0.0}


def test_patterns_and_help_know_the_fields():
    match Head(3, "flatten"):
        case Head(outputs, pool):
            assert (outputs, pool) == (3, "flatten")
        case _:
            pytest.fail("no match")
    assert str(inspect.signature(Derived)) == "(first: int, second: object = 'again', third: tuple = ())"
    assert not inspect.signature(Layer).parameters
    assert [*inspect.signature(Optimizer).parameters] == ["rate"]
