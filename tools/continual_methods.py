"""The methods that `edgerev bench continual` compares, and their committed settings."""

from __future__ import annotations

from importlib import resources
from typing import Any

from edgerev.toml import tomllib
from edgerev.tools.continual_base import Method
from edgerev.tools.continual_baselines import Distilled, Joint, Memory
from edgerev.tools.continual_closed import ClosedForm
from edgerev.tools.continual_gradient import Gradient
from edgerev.tools.continual_tasks import TaskAdapters, TaskRidge
from edgerev.tools.continual_twin import PlainFineTuning, PlainJoint

METHODS: dict[str, type[Method]] = {
    "task-ridge": TaskRidge, "adapters": TaskAdapters,
    "ridge": ClosedForm, "ridge-random": ClosedForm, "ridge-small": ClosedForm, "random-stem": ClosedForm,
    "random-layers": ClosedForm,
    "fine-tuning": Gradient, "si": Gradient, "ewc": Gradient, "replay": Memory, "gdumb": Memory, "joint": Joint,
    "lwf": Distilled, "plain-fine-tuning": PlainFineTuning, "plain-joint": PlainJoint,
}


def settings_of(method: str) -> dict[str, Any]:
    """Return the committed settings of a method."""
    text = resources.files("edgerev.tools").joinpath("continual.toml").read_text()
    return {**tomllib.loads(text)[method], "method": method}
