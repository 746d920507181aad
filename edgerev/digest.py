"""SHA-256 without OpenSSL, which is faster, but whose library takes 3.6 MB of a process that does not need it."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any


def sha256(data: bytes | bytearray = b"") -> Any:
    """Return Python's own hash object, or that of `hashlib` where it is imported already."""
    name = "hashlib" if "hashlib" in sys.modules else "_sha2" if sys.version_info >= (3, 12) else "_sha256"
    try:
        return import_module(name).sha256(data)
    except ImportError:
        return import_module("hashlib").sha256(data)
