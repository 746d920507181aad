"""Who may ask the daemon: the token, and the names and origins that keep web pages of others out."""

from __future__ import annotations

import base64
import contextlib
import logging
import os
import re
import stat
import threading
import time
from _operator import _compare_digest as same  # what hmac.compare_digest is; hmac imports OpenSSL, 3.5 MB
from collections.abc import Mapping
from typing import NamedTuple

from edgerev.daemon.events import Events
from edgerev.daemon.metrics import Counts
from edgerev.errors import ConfigError
from edgerev.files import fsync_folder

HOSTS = ("localhost", "127.0.0.1", "[::1]")
TELL_SECONDS = 60.0  # between two events about wrong tokens
OPEN = ("/", "/app.js", "/style.css", "/icon.svg")  # the page itself, which knows nothing before it is given the token


class Refusal(NamedTuple):
    """An answer to a request that is not even read."""

    code: int
    message: str
    headers: tuple[tuple[str, str], ...] = ()


class Access:
    """Decides on requests by their headers.

    Parameters
    ----------
    token : that requests must carry, or ""; then the daemon serves this machine alone, and has to be called so
    events : is told of wrong tokens

    Attributes
    ----------
    denied : requests that were refused, by the reason
    """

    def __init__(self, token: str, events: Events) -> None:
        self._token, self._events, self.denied = token.encode(), events, Counts(("token", "host", "origin"))
        self._lock, self._untold, self._told = threading.Lock(), 0, -TELL_SECONDS

    def refusal(self, path: str, headers: Mapping[str, str], sender: str) -> Refusal | None:
        """Return why a request is refused, or None.

        Parameters
        ----------
        headers : by name in capitals, with `_` for `-`
        sender : address of who asks
        """
        host = headers.get("HOST", "").lower()
        if not self._token and re.sub(r":\d*$", "", host) not in HOSTS:
            self.denied.add("host", 1)
            return Refusal(403, f"Host {host[:80]!r}: expected localhost, since pages of the web have other names")
        if _is_foreign(path, host, headers):
            self.denied.add("origin", 1)
            return Refusal(403, "a page of another origin asks; expected one of this daemon, or a program")
        if self._token and path not in OPEN:
            scheme, _, given = headers.get("AUTHORIZATION", "").partition(" ")
            if scheme.lower() != "bearer" or not same(given.strip().encode("latin-1", "replace"), self._token):
                self._tell(sender)
                return Refusal(
                    401, "expected the header Authorization: Bearer TOKEN, with what is in the daemon's token_file",
                    (("WWW-Authenticate", 'Bearer realm="edgerev"'),),
                )
        return None

    def _tell(self, sender: str) -> None:
        """Count a wrong token, and tell of it once a minute at most: nobody shall fill the log from outside."""
        self.denied.add("token", 1)
        with self._lock:
            self._untold += 1
            if time.monotonic() - self._told < TELL_SECONDS:
                return
            count, self._untold, self._told = self._untold, 0, time.monotonic()
        message = f"{count} request{'s' * (count > 1)} without the right token, the last from {sender}"
        self._events.tell("denied", logging.WARNING, message=message)


def _is_foreign(path: str, host: str, headers: Mapping[str, str]) -> bool:
    """Return whether a page of another origin sent a request, as far as browsers say so."""
    origin = headers.get("ORIGIN")
    if origin is not None and origin.lower().partition("://")[2] != host:
        return True
    return path not in OPEN and headers.get("SEC_FETCH_SITE", "none") not in ("none", "same-origin")


def load_token(path: str) -> str:
    """Return the token in a file; if there is no such file, make it, with a new one, for its owner alone.

    Raises
    ------
    ConfigError
        It cannot be read or made, others can read it, or what it holds is no token.
    """
    try:
        with contextlib.suppress(FileExistsError):
            _make(path)
        with open(path, "rb") as file:
            facts, content = os.fstat(file.fileno()), file.read(4096)
    except OSError as error:
        raise ConfigError(f"token_file {path}: {error.strerror}; expected a file, or a folder to make it in") from error
    mode = stat.S_IMODE(facts.st_mode)
    if mode & 0o077:
        raise ConfigError(f"token_file {path}: others can read it, mode {mode:o}; expected 600; run chmod 600 {path}")
    token = content.decode("ascii", "replace").strip()
    if not re.fullmatch(r"[\w.~+/-]{16,}=*", token, re.ASCII):
        raise ConfigError(
            f"token_file {path} holds no token; expected one line of 16 or more letters and digits; delete the file, "
            "and a new one is made"
        )
    return token


def _make(path: str) -> None:
    """Write a new token; the file is there with all of it or not at all."""
    folder, temporary = os.path.dirname(path) or ".", f"{path}.{os.getpid()}"
    if os.path.lexists(path):
        raise FileExistsError(path)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, base64.urlsafe_b64encode(os.urandom(32)).rstrip(b"=") + b"\n")
        os.fsync(fd)
        os.link(temporary, path)
    finally:
        os.close(fd)
        os.unlink(temporary)
    fsync_folder(folder)
