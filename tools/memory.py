"""What a process can say about its own memory."""

from __future__ import annotations

from edgerev.tools.watch.procfs import read_status


def peak_rss_bytes() -> int:
    """Return the most memory this process has had resident since its exec, or since `reset_peak_rss`."""
    return read_status("self").get("VmHWM", 0)


def rss_bytes() -> int:
    """Return the memory that this process has resident now."""
    return read_status("self").get("VmRSS", 0)


def reset_peak_rss() -> bool:
    """Make the present size the new high-water mark of this process.

    Returns
    -------
    bool
        False if the kernel refuses, as in some containers; the mark is then unchanged.
    """
    try:
        with open("/proc/self/clear_refs", "wb", buffering=0) as file:
            file.write(b"5")
    except OSError:
        return False
    return True
