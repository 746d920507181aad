"""edgerev: train reversible neural networks on small machines, in an amount of memory fixed before the first step."""

from edgerev.errors import (
    BudgetError,
    CheckpointError,
    ConfigError,
    DataError,
    EdgerevError,
    KernelError,
    NetError,
    NumericError,
    UsageError,
)
from edgerev.layers import (
    GELU,
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
from edgerev.losses import BinaryCrossEntropy, CrossEntropy, MeanSquaredError
from edgerev.net import Block, Head, Net, Squeeze
from edgerev.optimizers import SGD, AdamW, Clip, Lion, RateSchedule
from edgerev.presets import preset
from edgerev.recipe import Augment, Schedule

__all__ = [
    "GELU", "SGD", "AdamW", "Augment", "BinaryCrossEntropy", "Block", "BudgetError", "CheckpointError", "Clip",
    "ConfigError", "Conv1d", "Conv2d", "CrossEntropy", "DataError", "Dense", "Depthwise", "Dropout", "EdgerevError",
    "GroupNorm", "Head", "KernelError", "Learner", "Lion", "MeanSquaredError", "Net", "NetError", "NumericError",
    "Pointwise", "RMSNorm", "RateSchedule", "ReLU", "Report", "Schedule", "SiLU", "Squeeze", "UsageError", "preset",
]

__version__ = "0.1.0"
