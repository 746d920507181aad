"""edgerev: train reversible neural networks on small machines, in an amount of memory fixed before the first step."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgerev.continual.consolidation import EWC, SynapticIntelligence
    from edgerev.errors import (
        BudgetError,
        BundleError,
        CheckpointError,
        ConfigError,
        DataError,
        EdgerevError,
        KernelError,
        NetError,
        NumericError,
        StoppedError,
        UsageError,
    )
    from edgerev.layers import (
        GELU,
        Adapter,
        Conv1d,
        Conv2d,
        Dense,
        Depthwise,
        Dropout,
        GroupNorm,
        Pointwise,
        ReLU,
        RMSNorm,
        SiLU,
    )
    from edgerev.learner import Learner, Report
    from edgerev.losses import BinaryCrossEntropy, CrossEntropy, MeanSquaredError, SoftCrossEntropy
    from edgerev.net import Block, Head, Net, Squeeze
    from edgerev.optimizers import SGD, AdamW, Clip, Lion, RateSchedule
    from edgerev.presets import preset
    from edgerev.recipe import Augment, Schedule

# Where each name is imported from when it is first asked for, so that `import edgerev` itself costs nothing and the
# command line can say what went wrong, or that it was interrupted.
_HOMES = {
    "edgerev.continual.consolidation": ("EWC", "SynapticIntelligence"),
    "edgerev.errors": (
        "BudgetError", "BundleError", "CheckpointError", "ConfigError", "DataError", "EdgerevError", "KernelError",
        "NetError", "NumericError", "StoppedError", "UsageError",
    ),
    "edgerev.layers": (
        "GELU", "Adapter", "Conv1d", "Conv2d", "Dense", "Depthwise", "Dropout", "GroupNorm", "Pointwise", "ReLU",
        "RMSNorm", "SiLU",
    ),
    "edgerev.learner": ("Learner", "Report"),
    "edgerev.losses": ("BinaryCrossEntropy", "CrossEntropy", "MeanSquaredError", "SoftCrossEntropy"),
    "edgerev.net": ("Block", "Head", "Net", "Squeeze"),
    "edgerev.optimizers": ("SGD", "AdamW", "Clip", "Lion", "RateSchedule"),
    "edgerev.presets": ("preset",),
    "edgerev.recipe": ("Augment", "Schedule"),
}

__all__ = [
    "EWC", "GELU", "SGD", "AdamW", "Adapter", "Augment", "BinaryCrossEntropy", "Block", "BudgetError", "BundleError",
    "CheckpointError", "Clip", "ConfigError", "Conv1d", "Conv2d", "CrossEntropy", "DataError", "Dense", "Depthwise",
    "Dropout", "EdgerevError", "GroupNorm", "Head", "KernelError", "Learner", "Lion", "MeanSquaredError", "Net",
    "NetError", "NumericError", "Pointwise", "RMSNorm", "RateSchedule", "ReLU", "Report", "Schedule", "SiLU",
    "SoftCrossEntropy", "Squeeze", "StoppedError", "SynapticIntelligence", "UsageError", "preset",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            try:
                value = globals()[name] = getattr(import_module(module), name)
            except ModuleNotFoundError as error:
                if error.name != "edgerev.kernels":
                    raise
                raise ImportError(
                    f"{__path__[0]} is a part of a checkout; expected an installed edgerev: start Python in another "
                    "folder, or install the checkout itself with pip install -e '.[jit]'"
                ) from error
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
