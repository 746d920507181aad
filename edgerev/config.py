"""The configuration of `edgerev train`: TOML, checked as a whole, every error with its path.

docs/configuration.md tells what each key means. The tables of optimizer, loss, clipping, rate schedule, augmentation
and of each layer have the fields of the classes of the same names.
"""

from __future__ import annotations

import difflib
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, field_validator, model_validator

from edgerev.errors import ConfigError, UsageError
from edgerev.layers import LAYERS, Shape, layer_from_dict
from edgerev.losses import LOSSES
from edgerev.net import Head, Net
from edgerev.numbers import FLOAT32_MAX, INT32_MAX, TINY
from edgerev.optimizers import OPTIMIZERS, Clip, RateSchedule
from edgerev.presets import check_name, preset
from edgerev.recipe import Augment, Recipe
from edgerev.toml import read_toml
from edgerev.units import parse_bytes
from edgerev.value import Value


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _make(cls: type[Value], table: BaseModel, **more: Any) -> Any:
    """Return the object that a table describes."""
    return cls(**{name: value for name, value in table.model_dump().items() if name in cls._fields} | more)


def _make_rate_schedule(table: Any, steps: int) -> RateSchedule:
    """Return the rate schedule; a cosine without an end of its own ends after `steps`."""
    ends = table.kind == "constant" or table.steps
    return _make(RateSchedule, table, **({} if ends else {"steps": max(steps, table.warmup + 1)}))


def _model(cls: type[Value], word: str = "", key: str = "kind") -> Any:
    """Return a model with the fields of a `Value` and its checks; for a `word`, with a key that names the class."""
    hints = typing.get_type_hints(cls)
    fields: dict[str, Any] = {key: (Literal[word], ...)} if word else {}
    for name in cls._fields:
        hint = list[float] | None if name == "weights" else hints[name]
        fields[name] = (hint, cls._field_defaults.get(name, ...))

    def build(table: Any) -> Any:
        try:
            _make_rate_schedule(table, 1) if cls is RateSchedule else _make(cls, table)
        except UsageError as error:
            raise ValueError(str(error)) from error
        return table

    checks: Any = {"build": model_validator(mode="after")(build)}
    return create_model(cls.__name__, __base__=_Strict, __validators__=checks, **fields)


def _one_of(classes: Mapping[str, type[Value]], key: str = "kind") -> Any:
    union: Any = typing.Union[tuple(_model(cls, word, key) for word, cls in classes.items())]  # noqa: UP007
    return Annotated[union, Field(discriminator=key)]


_LAYER = _one_of(LAYERS, "layer")


class PartTable(_Strict):
    """A table of ``[[net.backbone]]``: a block, or a squeeze."""

    F: Annotated[list[_LAYER], Field(min_length=1)] | None = None  # type: ignore[valid-type]
    G: Annotated[list[_LAYER], Field(min_length=1)] | None = None  # type: ignore[valid-type]
    repeat: int = Field(default=1, ge=1, le=INT32_MAX)
    squeeze: Literal[2] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> PartTable:
        if (self.F is None) == (self.squeeze is None) or (self.squeeze and self.model_fields_set != {"squeeze"}):
            raise ValueError("expected either F (with G and repeat at will) or squeeze alone")
        return self


class NetTable(_Strict):
    """Table ``[net]``: a preset, or a stem and a backbone."""

    preset: str | None = None
    stem: _LAYER | None = None  # type: ignore[valid-type]
    backbone: list[PartTable] | None = None
    outputs: int | None = Field(default=None, ge=1, le=INT32_MAX)
    pool: Literal["average", "flatten"] | Annotated[int, Field(ge=1, le=INT32_MAX)] | None = None
    head: Literal["linear", "ridge", "prototype"] = "linear"
    ridge: float | None = Field(default=None, ge=TINY, le=FLOAT32_MAX)
    sums: Literal["float64", "int32", "int64"] = "float64"
    rectify: bool = False
    expansion: list[_LAYER] = []  # type: ignore[valid-type]
    state: Literal["int32", "int16", "float32"] = "int32"

    @field_validator("preset")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        try:
            check_name(name or "")
        except UsageError as error:
            raise ValueError(str(error)) from error
        return name


class TrainTable(_Strict):
    """Table ``[train]``."""

    epochs: int = Field(default=5, ge=1, le=INT32_MAX)
    batch: int = Field(default=16, ge=1, le=INT32_MAX)
    seed: int = Field(default=0, ge=0, lt=2**63)
    threads: int = Field(default=1, ge=1, le=16)
    budget: int | None = Field(default=None, ge=1)
    schedule: Literal["reversible", "stored"] | None = None
    atomic: bool = False
    checkpoint_steps: int = Field(default=0, ge=0)

    @field_validator("budget", mode="before")
    @classmethod
    def _bytes(cls, size: Any) -> Any:
        try:
            return parse_bytes(size) if isinstance(size, str) else size
        except UsageError as error:
            raise ValueError(str(error)) from error


class DataTable(_Strict):
    """Table ``[data]``."""

    label: str | list[str] = "label"
    standardise: Literal["channel", "set", "none"] = "channel"
    holdout: float = Field(default=0.2, ge=0, le=0.5)

    @field_validator("label", mode="before")
    @classmethod
    def _columns(cls, label: Any) -> Any:
        names = [label] if isinstance(label, str) else label
        if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
            raise ValueError(f"expected the name of a column, or a list of names, not {label!r}")
        return label


class ContinualTable(_Strict):
    """Table ``[continual]``: classes arrive in experiences."""

    classes_per_experience: int = Field(default=2, ge=1)
    later_rate: float = Field(default=0.0, ge=0, le=FLOAT32_MAX)


class Config(_Strict):
    """A whole configuration."""

    net: NetTable
    train: TrainTable = TrainTable()
    data: DataTable = DataTable()
    continual: ContinualTable | None = None
    optimizer: _one_of(OPTIMIZERS) | None = None  # type: ignore[valid-type]
    loss: _one_of(LOSSES) | None = None  # type: ignore[valid-type]
    clip: _model(Clip) | None = None  # type: ignore[valid-type]
    rate_schedule: _model(RateSchedule) | None = None  # type: ignore[valid-type]
    augment: _model(Augment) | None = None  # type: ignore[valid-type]

    def make_net(self, input_shape: Shape, outputs: int) -> Net:
        """Return the net for data of this shape; `outputs` is what the data has, unless the table says otherwise."""
        table, outputs = self.net, self.net.outputs or outputs
        crop = 2 * self.augment.crop if self.augment else 0
        shape = (*(size - crop for size in input_shape[:-1]), input_shape[-1])
        if table.preset is not None:
            net = preset(table.preset, shape, outputs, state=table.state)
        else:
            parts = table.model_dump(include={"stem", "backbone"}, exclude_none=True)
            net = Net.from_dict({"input_shape": shape, "head": {"outputs": outputs}, "state": table.state, **parts})
        expansion = tuple(map(layer_from_dict, table.model_dump()["expansion"]))
        head = Head(
            outputs, table.pool or net.head.pool, table.head, table.ridge or net.head.ridge, sums=table.sums,
            rectify=table.rectify, expansion=expansion,
        )
        return net.replace(head=head)

    def make_recipe(self, steps: int) -> Recipe:
        """Return the recipe; a cosine without an end of its own ends after `steps`."""
        defaults = Recipe()
        return Recipe(
            self.train.batch,
            _make(OPTIMIZERS[self.optimizer.kind], self.optimizer) if self.optimizer else defaults.optimizer,
            _make_rate_schedule(self.rate_schedule, steps) if self.rate_schedule else defaults.rate_schedule,
            _make(Clip, self.clip) if self.clip else None,
            _make(LOSSES[self.loss.kind], self.loss) if self.loss else defaults.loss,
            _make(Augment, self.augment) if self.augment else defaults.augment, atomic=self.train.atomic,
        )


TABLES: dict[str, Any] = {"net": NetTable, "train": TrainTable, "data": DataTable, "continual": ContinualTable}
CLASSES: dict[str, type[Value]] = {"clip": Clip, "rate_schedule": RateSchedule, "augment": Augment}
KINDS: dict[str, Mapping[str, type[Value]]] = {"optimizer": OPTIMIZERS, "loss": LOSSES}  # by the key `kind`


def load_config(path: str) -> Config:
    """Read and check a configuration.

    Raises
    ------
    ConfigError
        The file cannot be read, or has errors; the message lists all of them with their paths.
    """
    return check_config(read_toml(path), path)


def check_config(data: dict[str, Any], name: str = "configuration") -> Config:
    """Return the checked configuration in `data`; see `load_config`."""
    problems = []
    config = None
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        problems += [f"{_path(item, data)}: {_say(item)}" for item in error.errors()]
    problems += _cross_checks(data)
    if problems or config is None:
        listed = "\n".join(f"  {problem}" for problem in problems)
        raise ConfigError(f"{name} has {len(problems)} error{'s' * (len(problems) > 1)}:\n{listed}")
    return config


def _path(item: Any, data: Any) -> str:
    """Return where an error is, as the file has it: without the kinds that pydantic puts between keys."""
    path = []
    for step in item["loc"]:
        if (isinstance(data, dict) and step in data) or (isinstance(data, list) and isinstance(step, int)):
            path.append(step)
            data = data[step]
    if item["type"] == "missing":
        path.append(item["loc"][-1])
    return ".".join(map(str, path))


def _say(item: Any) -> str:
    """Return a pydantic error in the words of somebody who edits a file."""
    kind, loc, given = item["type"], item["loc"], repr(item["input"])
    given = given if len(given) <= 60 else given[:60] + " ..."
    if kind == "extra_forbidden":
        keys = _keys_beside(loc)
        close = difflib.get_close_matches(str(loc[-1]), keys, n=1)
        known = f", or take one of {', '.join(keys)}" if keys else ""
        advice = f"did you mean {close[0]!r}?" if close else f"remove it{known}"
        return f"unknown key; {advice} (docs/configuration.md lists all keys)"
    if kind == "missing":
        return "missing; expected this key, for it has no default; add it"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        key, classes = ("kind", KINDS[loc[0]]) if loc[0] in KINDS else ("layer", LAYERS)
        word = item["input"].get(key, "") if isinstance(item["input"], dict) else ""
        close = difflib.get_close_matches(str(word), classes, n=1)
        advice = f"; did you mean {close[0]!r}?" if close else ""
        return f"expected the key {key} with one of {', '.join(classes)}, not {given}{advice}"
    if kind == "value_error":
        return str(item["ctx"]["error"])
    text = item["msg"].removeprefix("Input should be ")
    return f"expected {text}, not {given}" if text != item["msg"] else f"{text} ({given})"


def _keys_beside(loc: tuple) -> list[str]:
    """Return the keys that are known where the unknown one is."""
    place = loc[-2] if len(loc) > 1 else ""
    classes = {**CLASSES, **OPTIMIZERS, **LOSSES, **LAYERS}
    if place in classes:
        return list(classes[place]._fields)
    table = PartTable if isinstance(place, int) else TABLES.get(place, Config)
    return list(table.model_fields)


def _cross_checks(data: dict[str, Any]) -> list[str]:
    """Return what the tables say against each other."""
    problems: list[str] = []
    net, loss = data.get("net"), data.get("loss")
    if not isinstance(net, dict):
        return problems
    train = data.get("train")
    if isinstance(train, dict) and {"budget", "schedule"} <= train.keys():
        problems.append("train.schedule: a budget chooses the schedule; leave one of the two out")
    parts = [key for key in ("stem", "backbone") if key in net]
    if len(parts) != (0 if "preset" in net else 2):
        problems.append("net: expected either preset, or both stem and backbone")
    closed = net.get("head") in ("ridge", "prototype")
    if "continual" in data and not closed:
        problems.append('continual: needs a head that does not forget; set net.head = "ridge" or "prototype"')
    if closed and isinstance(loss, dict) and loss.get("kind") != "cross_entropy":
        problems.append(
            f'loss: a {net["head"]} head answers with classes; set loss.kind = "cross_entropy", or leave loss out'
        )
    if not closed and net.get("expansion"):
        problems.append('net.expansion: its weights are never trained; set net.head = "ridge" or "prototype"')
    return problems
