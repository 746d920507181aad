"""Being told by the kernel when processes begin, exec and end: `ptrace` and `prctl` by ctypes."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ctypes

CONT, DETACH, GETEVENTMSG, SEIZE, LISTEN = 7, 17, 0x4201, 0x4206, 0x4208
OPTIONS = 0x02 | 0x04 | 0x08 | 0x10 | 0x40  # report fork, vfork, clone, exec and exit; descendants are traced alike
EVENTS_CHILD, EVENT_EXEC, EVENT_EXIT, EVENT_STOP = (1, 2, 3), 4, 6, 128  # the first are fork, vfork and clone
WALL = 0x40000000  # __WALL: wait for threads too
PR_SET_CHILD_SUBREAPER = 36


class Kernel:
    """The calls that Python has no functions for; without ctypes, each of them fails."""

    def __init__(self) -> None:
        self._libc: ctypes.CDLL | None = None
        try:
            import ctypes
        except ImportError:
            return
        self._libc = ctypes.CDLL(None)
        self._libc.ptrace.restype = ctypes.c_long
        self._libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
        self._libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4

    def ptrace(self, request: int, pid: int, data: int = 0) -> bool:
        """Make a request about a process, and tell whether it was granted."""
        return self._libc is not None and self._libc.ptrace(request, pid, None, data) == 0

    def event_message(self, pid: int) -> int:
        """Return what the event of a stopped process is about: the number of its new child."""
        from ctypes import byref, c_ulong, c_void_p, cast

        number = c_ulong()
        self.ptrace(GETEVENTMSG, pid, cast(byref(number), c_void_p).value or 0)
        return number.value

    def adopt_orphans(self) -> bool:
        """Let orphans below this process become its children instead of those of the first process."""
        return self._libc is not None and self._libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
