"""What draws the plots of benchmarks."""

from __future__ import annotations

from typing import Any

from edgerev.errors import UsageError


def plotter() -> Any:
    """Return matplotlib's class of figures.

    Raises
    ------
    UsageError
        matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError(f"a plot needs matplotlib ({error}); install it: pip install 'edgerev[plot]'") from error
    return Figure
