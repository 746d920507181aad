"""Every error that edgerev raises on purpose, and the exit code that the command line gives it.

A message says what happened, what was expected, and what to do next.
"""

from edgerev.kernels.layout import Status


class EdgerevError(Exception):
    """Base of all errors below; the command line prints its text and exits with `exit_code`."""

    exit_code = 1


class UsageError(EdgerevError):
    """The caller asked for something that cannot be: a bad option, key, shape or type."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration file has errors; the message lists all of them with their paths."""


class NetError(UsageError):
    """A net's description does not fit together."""


class BudgetError(UsageError):
    """The plan does not fit the budget, under any schedule."""


class DataError(EdgerevError):
    """A data set or a batch cannot be used: unreadable, empty, wrong shape, not finite, unknown label."""


class NumericError(EdgerevError):
    """A value left its range while computing: an overflowing state, a gradient that is not finite.

    Attributes
    ----------
    status : what the kernels recorded, or None
    row : the program's row that recorded it, or None
    """

    def __init__(self, message: str, status: Status | None = None, row: int | None = None) -> None:
        super().__init__(message)
        self.status, self.row = status, row


class CheckpointError(EdgerevError):
    """A checkpoint cannot be read or written, or belongs to another net."""


class AnotherModelError(CheckpointError):
    """A checkpoint belongs to another net, another kind of optimizer or another kind of loss.

    Attributes
    ----------
    differences : what it has, and not what was expected
    """

    def __init__(self, path: str, differences: str) -> None:
        super().__init__(
            f"{path} belongs to another net or another way of training: {differences}; expected the same; go back to "
            "what it was made with, or start anew in another file"
        )
        self.differences = differences


class StoppedError(EdgerevError):
    """Training was asked to stop, and did between two steps."""


class KernelError(EdgerevError):
    """The compiled kernels cannot be built or loaded."""


class BundleError(EdgerevError):
    """A bundle cannot be made or pushed, is damaged, or does not fit the device; what runs there is not touched."""


class ExportError(EdgerevError):
    """A model cannot be written for another runtime, or that runtime cannot run it; nothing was written."""


class StoreError(EdgerevError):
    """The daemon's file cannot be read or written, is damaged, or belongs to another model."""


class DamagedError(StoreError):
    """The daemon's file does not hold what was written to it."""


class QueueFullError(EdgerevError):
    """As many samples wait as may, or more came at once than may; nothing was taken in.

    Attributes
    ----------
    seconds : after which it is worth trying again
    """

    def __init__(self, message: str, seconds: float = 1.0) -> None:
        super().__init__(message)
        self.seconds = seconds


class DaemonError(EdgerevError):
    """A running daemon cannot be reached, or refuses what it is asked for."""
