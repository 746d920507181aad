"""The systemd unit that lets a device run a bundle's model from boot on."""

from __future__ import annotations

import shlex

from edgerev.errors import UsageError

MODEL = "@MODEL@"
# How systemd learns that a verb's program is up, where it is not enough that it was started: "notify" for a daemon.
_TYPES: dict[str, str] = {}

# The installer fills in @ROOT@, @WANTED_BY@ and @MODEL@. Relative paths in the arguments start at the user's home
# folder. Python ends with 143 where a handler turned SIGTERM into an exit.
_TEXT = """\
[Unit]
Description=edgerev: {title}
StartLimitIntervalSec=300
StartLimitBurst=5

[Service]
Type={type}
ExecStart=@ROOT@/current/venv/bin/edgerev {words}
WorkingDirectory=~
Restart=on-failure
RestartSec=5
SuccessExitStatus=143
Environment=PYTHONUNBUFFERED=1
NoNewPrivileges=yes
RestrictSUIDSGID=yes
RestrictRealtime=yes
RestrictNamespaces=yes
LockPersonality=yes
SystemCallArchitectures=native
UMask=0027

[Install]
WantedBy=@WANTED_BY@
"""


def service(arguments: str) -> str:
    """Return the unit that runs edgerev with `arguments`, which are written as for a shell.

    A word ``@MODEL@`` stands for the model that the service may write to, a file outside of the bundle.

    Raises
    ------
    UsageError
        They cannot be split into words, or the first one is not a verb.
    """
    from edgerev.cli import VERBS

    try:
        words = shlex.split(arguments)
    except ValueError as error:
        raise UsageError(f"--run {arguments!r}: {error}; expected words as in a shell; close the quotes") from error
    if not words or words[0] not in VERBS or not arguments.isprintable():
        raise UsageError(f"--run {arguments!r}: expected a verb and its options, as 'train job.toml --data D -o FILE'")
    kind = _TYPES.get(words[0], "exec")
    return _TEXT.format(title=words[0], type=kind, words=" ".join(map(_quote, words)))


def _quote(word: str) -> str:
    r"""Return a word that systemd takes for what it is.

    Its own quotes and escapes, ``%`` for its specifiers, ``$`` for variables; ``@`` is for the installer, so \x40.
    """
    if word == MODEL:
        return f'"{word}"'
    for old, new in (("\\", r"\\"), ('"', r"\""), ("%", "%%"), ("$", "$$"), ("@", r"\x40")):
        word = word.replace(old, new)
    return f'"{word}"'
