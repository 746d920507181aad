"""The daemon's memory beside its arena: what is refused at the start, and what the C library is asked to keep small."""

from __future__ import annotations

import contextlib
import ctypes

from edgerev.daemon.sensors import resident
from edgerev.daemon.settings import ServeSettings
from edgerev.errors import BudgetError

WORKING_BYTES = 10 << 20  # that a daemon takes under load besides: 9.8 MB with 8 clients that send 45 kB each time
_M_ARENA_MAX = -8  # of the GNU C library's malloc.h


def one_heap() -> None:
    """Let all threads share one heap: the GNU C library gives each one its own, which keeps what was freed there."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def planned_bytes(settings: ServeSettings) -> int:
    """Return the bytes of the arena that the daemon's model is going to have, with those of its guard."""
    from edgerev.checkpoint_reader import verified
    from edgerev.contents import contents
    from edgerev.schedule import choose

    with verified(settings.model) as whole:
        found = contents(whole)
    options = {**found.memory._asdict(), "threads": settings.threads, "guard": settings.guard.on}
    return choose(found.net, found.recipe, **options).plan.arena_bytes


def check_memory(settings: ServeSettings) -> None:
    """Refuse to start if what is known of the memory passes ``limits.memory``; call it once all is imported.

    Raises
    ------
    BudgetError
        It does; nothing was allocated.
    """
    allowed = settings.limits.memory
    if not allowed:
        return
    arena, present = planned_bytes(settings), resident().rss_bytes
    needed = arena + present + WORKING_BYTES
    if needed > allowed:
        raise BudgetError(
            f"the daemon needs {needed} bytes: {arena} for the arena, {present} that the process has already, "
            f"{WORKING_BYTES} for requests and the store; limits.memory allows {allowed}; raise it, or take a model "
            f"whose arena has at most {max(0, allowed - present - WORKING_BYTES)} bytes"
        )
