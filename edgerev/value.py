"""Frozen records whose classes check their fields: the part of `dataclasses` that edgerev needs.

The records of a process that trains are these, or named tuples: `dataclasses` imports `inspect`, and with it `ast`,
`dis` and `tokenize`, which take 0.9 MB of memory, and the methods that it makes take 15 to 30 KiB for each of some 25
classes. Without both, such a process (mlp16, Python 3.11) takes 14,030 KiB besides its arena, not 15,350.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from typing import Self, dataclass_transform
else:

    def dataclass_transform(**_):
        """Do nothing: it speaks to type checkers alone, and Python 3.10 has none."""
        return lambda cls: cls


class _Signature:
    """Tells `help` the arguments of a class, and only then imports what it takes to say it."""

    def __get__(self, _: object, cls: type[Value]) -> Any:
        from inspect import Parameter, Signature

        hints = {name: hint for base in reversed(cls.__mro__) for name, hint in _annotations(base).items()}
        kind, defaults = Parameter.POSITIONAL_OR_KEYWORD, cls._field_defaults
        return Signature([
            Parameter(name, kind, default=defaults.get(name, Parameter.empty), annotation=hints[name])
            for name in cls._fields
        ])  # fmt: skip


@dataclass_transform(frozen_default=True)
class Value:
    """Base of frozen records, which are equal if they are of the same class and their fields are equal.

    The annotations in the body of a class are its fields, after those that it inherits. What is assigned to them there
    are their defaults; all objects share these, so they must be immutable. `copy` and `pickle` work.
    """

    _fields: ClassVar[tuple[str, ...]] = ()
    _field_defaults: ClassVar[dict[str, Any]] = {}
    __match_args__: ClassVar[tuple[str, ...]] = ()
    __signature__: ClassVar[Any] = _Signature()

    def __init_subclass__(cls) -> None:
        own = (name for name, hint in _annotations(cls).items() if "ClassVar" not in str(hint))
        cls._fields = tuple(dict.fromkeys((*cls._fields, *own)))
        cls.__match_args__ = cls._fields  # type: ignore[misc]  # mypy thinks that it sets this itself
        cls._field_defaults = {name: getattr(cls, name) for name in cls._fields if hasattr(cls, name)}
        for name, default in cls._field_defaults.items():
            if default.__hash__ is None:
                raise TypeError(f"{cls.__name__}: the default of {name}, {default!r}, is not immutable; take a tuple")

    def __init__(self, /, *arguments: Any, **named: Any) -> None:
        problem = self._misfit(arguments, named)
        if problem:
            raise TypeError(f"{type(self).__name__}.__init__() {problem}")
        self.__dict__.update(self._field_defaults, **dict(zip(self._fields, arguments)), **named)
        self.__post_init__()

    def _misfit(self, arguments: Sequence[Any], named: Mapping[str, Any]) -> str:
        """Return what Python says of arguments that do not fit, or nothing."""
        fields, count = self._fields, len(arguments)
        if count > len(fields):
            return f"takes {len(fields)} positional arguments but {count} were given"
        for name in named:
            if name not in fields:
                return f"got an unexpected keyword argument {name!r}"
            if name in fields[:count]:
                return f"got multiple values for argument {name!r}"
        missing = [repr(name) for name in fields[count:] if name not in named and name not in self._field_defaults]
        plural = "s" * (len(missing) > 1)
        return f"missing {len(missing)} required positional argument{plural}: {', '.join(missing)}" if missing else ""

    def __post_init__(self) -> None:
        """Check the fields of a new object; with `object.__setattr__` they can be changed here."""

    def replace(self, **changes: Any) -> Self:
        """Return a copy with other values in some fields; they are checked as those of any new object."""
        return type(self)(**{name: getattr(self, name) for name in self._fields} | changes)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name, in them plain data instead of values."""
        return {name: _plain(getattr(self, name)) for name in self._fields}

    def _key(self) -> tuple:
        return tuple(getattr(self, name) for name in self._fields)

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._fields)
        return f"{type(self).__qualname__}({fields})"

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"cannot delete field {name!r}")


def _annotations(cls: type) -> dict[str, Any]:
    """Return those of the class's own body; classes in C have none."""
    return getattr(cls, "__annotations__", {})


def _plain(value: Any) -> Any:
    if isinstance(value, Value):
        return value.to_dict()
    if isinstance(value, (list, tuple)):
        return type(value)(map(_plain, value))
    return value
