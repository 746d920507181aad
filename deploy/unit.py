"""The systemd unit that lets a device run a bundle's model from boot on."""

from __future__ import annotations

import shlex

from edgerev.errors import UsageError

UNIT = "edgerev.service"

# install.sh fills in @ROOT@ and @WANTED_BY@. Relative paths in the arguments start at the user's home folder.
_TEXT = """\
[Unit]
Description=edgerev: {title}
StartLimitIntervalSec=300
StartLimitBurst=5

[Service]
ExecStart=@ROOT@/current/venv/bin/edgerev {words}
WorkingDirectory=~
Restart=on-failure
RestartSec=5
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
    return _TEXT.format(title=words[0], words=" ".join(map(_quote, words)))


def _quote(word: str) -> str:
    r"""Return a word that systemd takes for what it is.

    Its own quotes and escapes, ``%`` for its specifiers, ``$`` for variables; ``@`` is for install.sh, so \x40.
    """
    for old, new in (("\\", r"\\"), ('"', r"\""), ("%", "%%"), ("$", "$$"), ("@", r"\x40")):
        word = word.replace(old, new)
    return f'"{word}"'
