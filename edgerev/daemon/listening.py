"""The address that the daemon listens on."""

from __future__ import annotations

import os
import socket
import stat

from edgerev.daemon.settings import ServeSettings
from edgerev.errors import UsageError


def clear_socket(path: str) -> None:
    """Remove the socket that a killed daemon left behind.

    Raises
    ------
    UsageError
        Somebody listens there, or it is no socket.
    """
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise UsageError(f"listen: {path} is there and is no socket; expected a new name; choose another one")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(5)
        try:
            asking.connect(path)
        except ConnectionRefusedError:
            return os.unlink(path)
        except OSError as error:
            raise UsageError(f"listen: {path} is in use ({error}); expected a new name; choose another one") from error
    raise UsageError(f"listen: another program listens on {path}; expected none; stop it, or choose another path")


def listen(settings: ServeSettings) -> socket.socket:
    """Return a socket that is bound to the daemon's address.

    Raises
    ------
    UsageError
        The address cannot be had.
    """
    host, _, port = settings.listen.rpartition(":")
    path = settings.listen.removeprefix("unix:") if settings.host == "unix" else ""
    host = host.strip("[]").replace("*", "0.0.0.0")
    door = socket.socket(socket.AF_UNIX if path else socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        if path:
            clear_socket(path)
            door.bind(path)
            os.chmod(path, 0o600)
        else:
            door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            door.bind((host, int(port)))
    except OSError as error:
        door.close()
        raise UsageError(
            f"listen {settings.listen!r}: {error}; expected an address of this machine that no other program has; "
            "stop that one, or choose another address"
        ) from error
    return door
