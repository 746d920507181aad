"""Reading TOML files."""

from __future__ import annotations

import sys
from typing import Any

from edgerev.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_toml(path: str) -> dict[str, Any]:
    """Return what a TOML file holds.

    Raises
    ------
    ConfigError
        The file cannot be read, or is not valid TOML.
    """
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; expected a TOML file; give the path of one") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} is not valid TOML: {error}; expected lines like epochs = 5 or kind = 'sgd'; mend it"
        ) from error
