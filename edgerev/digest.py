"""SHA-256 without OpenSSL, which is faster, but whose library takes 3.6 MB of a process that does not need it."""

from __future__ import annotations

import sys
from typing import Any


def sha256(data: bytes | bytearray = b"") -> Any:
    """Return Python's own hash object, or that of `hashlib` where it is imported already."""
    try:
        if "hashlib" in sys.modules:
            from hashlib import sha256 as new
        elif sys.version_info >= (3, 12):
            from _sha2 import sha256 as new
        else:
            from _sha256 import sha256 as new
    except ImportError:
        from hashlib import sha256 as new
    return new(data)
