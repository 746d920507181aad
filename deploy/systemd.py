"""The systemd unit that lets a device run edgerev from boot on."""

from __future__ import annotations

import json
import os
import shlex
import sys
from typing import TYPE_CHECKING

from edgerev.deploy.device.root import MARKER
from edgerev.deploy.device.service import PRINTED_BY
from edgerev.errors import UsageError

if TYPE_CHECKING:
    from edgerev.daemon.settings import ServeSettings

MODEL = "@MODEL@"

# The installer fills in @ROOT@, @WANTED_BY@ and @MODEL@. Relative paths in the arguments start at the user's home
# folder, those in a daemon's configuration at its state. Python ends with 143 where a handler turned SIGTERM into an
# exit.
_TEXT = """\
[Unit]
Description=edgerev: {title}
StartLimitIntervalSec=300
StartLimitBurst=5

[Service]
{kind}
ExecStart={program} {words}
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
{more}
[Install]
WantedBy=@WANTED_BY@
"""
_PROGRAM = """\
Type=exec
WorkingDirectory=~"""
_DAEMON = """\
Type=notify
NotifyAccess=main
ExecReload=/bin/kill -HUP $MAINPID
TimeoutStartSec=300
TimeoutStopSec=120
WatchdogSec=30
StateDirectory=edgerev
StateDirectoryMode=0700
RuntimeDirectory=edgerev
WorkingDirectory=%S/edgerev"""

# MemoryDenyWriteExecute: calls through ctypes need no writable code, callbacks would. Learning pins its threads.
_CONFINED = """\
UMask=0077
MemoryDenyWriteExecute=yes
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallFilter=sched_setaffinity
SystemCallErrorNumber=EPERM
RestrictAddressFamilies={families}
"""
_SYSTEM = """\
DynamicUser=yes
ProtectSystem=strict
ProtectHome=tmpfs
PrivateTmp=yes
PrivateDevices=yes
PrivateIPC=yes
PrivateMounts=yes
PrivateUsers=yes
DevicePolicy=closed
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
ProtectProc=invisible
CapabilityBoundingSet=
"""


def service(arguments: str) -> str:
    """Return the unit that runs edgerev with `arguments`, which are written as for a shell.

    A word ``@MODEL@`` stands for the model that the service may write to, a file outside of the bundle. A daemon's unit
    follows from its configuration, which lies on the device: there the installer lets `daemon_unit` write it.

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
    if words[0] == "serve":
        return f"{PRINTED_BY}{json.dumps([*words, '--print-unit'])}\n"
    return _text(words, "@ROOT@/current/venv/bin/edgerev", _PROGRAM, "UMask=0027\n")


def daemon_unit(config: str, settings: ServeSettings) -> str:
    """Return the unit of a daemon that runs from this installation: the system's for root, else the user's.

    Parameters
    ----------
    config : its configuration
    settings : what is in there; relative paths are taken from the daemon's state
    """
    config, (prefix, folder) = os.path.abspath(config), _installation()
    read = [folder, *map(os.path.dirname, (config, os.path.join("/", settings.model)))]
    homes = [path for path in read if path.startswith(("/home/", "/root/", "/run/user/"))]
    paths = [path for path in dict.fromkeys(homes) if path == folder or not path.startswith(f"{folder}/")]
    system = os.geteuid() == 0
    more = _confined(settings) + (_confined_by_the_system(settings, paths) if system else "")
    text = _text(["serve", "--config", config], f"{prefix}/bin/edgerev", _DAEMON, more)
    return text.replace("@WANTED_BY@", "multi-user.target" if system else "default.target")


def _installation() -> tuple[str, str]:
    """Return this virtual environment and the folder that it needs: of a bundle's, by the name of the current one."""
    bundle = os.path.dirname(sys.prefix)
    root = os.path.dirname(os.path.dirname(bundle))
    if os.path.exists(os.path.join(root, MARKER)) and os.path.dirname(bundle) == os.path.join(root, "bundles"):
        return os.path.join(root, "current", os.path.basename(sys.prefix)), root
    return sys.prefix, sys.prefix


def _text(words: list[str], program: str, kind: str, more: str) -> str:
    return _TEXT.format(title=words[0], program=program, kind=kind, words=" ".join(map(_quote, words)), more=more)


def _confined(settings: ServeSettings) -> str:
    """Return what any manager can confine a daemon with."""
    memory = settings.limits.memory
    families = "AF_UNIX" if _only_unix(settings) else "AF_UNIX AF_INET AF_INET6"
    return _CONFINED.format(families=families) + (f"MemoryMax={memory}\nMemorySwapMax=0\n" if memory else "")


def _confined_by_the_system(settings: ServeSettings, paths: list[str]) -> str:
    """Return what takes the system's manager; `paths` are those in homes that the daemon reads."""
    network = "IPAddressDeny=any\nIPAddressAllow=localhost\n" if _stays_here(settings) else ""
    if _only_unix(settings):
        network = "PrivateNetwork=yes\nIPAddressDeny=any\n"
    return _SYSTEM + "".join(f"BindReadOnlyPaths={path}\n" for path in paths) + network


def _stays_here(settings: ServeSettings) -> bool:
    """Return whether a daemon speaks with this machine alone."""
    from edgerev.daemon.settings import LOCAL

    return settings.host in LOCAL


def _only_unix(settings: ServeSettings) -> bool:
    return settings.host == "unix" and _stays_here(settings)


def _quote(word: str) -> str:
    r"""Return a word that systemd takes for what it is.

    Its own quotes and escapes, ``%`` for its specifiers, ``$`` for variables; ``@`` is for the installer, so \x40.
    """
    if word == MODEL:
        return f'"{word}"'
    for old, new in (("\\", r"\\"), ('"', r"\""), ("%", "%%"), ("$", "$$"), ("@", r"\x40")):
        word = word.replace(old, new)
    return f'"{word}"'
