"""`edgerev ctl`: ask a running daemon how it is, or tell it what to do."""

from __future__ import annotations

import argparse
import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any

from edgerev.cli.told import lines, outcome
from edgerev.daemon.settings import ServeSettings, load_settings
from edgerev.errors import DaemonError

HELP = "ask a running daemon for its status, or tell it what to do"
ACTIONS = {
    "status": "show what it is doing", "pause": "let training wait", "resume": "let training go on",
    "rollback": "go back to the last accepted model", "save": "write the model into its store now",
    "export": "write the model as it is now to a checkpoint",
}  # fmt: skip
SECONDS = 60.0  # to answer in: a step and a generation come first
_PIECE = 1 << 16


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add what the daemon can be told."""
    parser.epilog = "`systemctl reload edgerev`, or the signal HUP, lets it read its configuration again."
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, text in ACTIONS.items():
        action = actions.add_parser(name, help=text, description=text)
        action.add_argument("--config", required=True, metavar="FILE", help="TOML file of the daemon")
        action.add_argument("--json", action="store_true", help="print the status, after it, as JSON")
        if name == "export":
            action.add_argument("output", metavar="FILE", help="checkpoint to write")
            action.add_argument("--force", action="store_true", help="replace a file that is there")


def run(args: argparse.Namespace) -> int:
    """Do it, and say what came of it; with --json, the status after it."""
    settings = load_settings(args.config)
    if args.action == "export":
        _export(settings, args.output, replace=args.force)
    status = _status(settings, "GET", "/v1/status")
    if args.action == "status":
        told = "\n".join(lines(status))
    elif args.action == "export":
        told = f"{args.output} has the model as it is now"
    else:
        before, status = status, _status(settings, "POST", "/v1/control", {"do": args.action})
        told = outcome(args.action, before, status)
    print(json.dumps(status, indent=2) if args.json else told)
    return 0


def _status(settings: ServeSettings, *request: Any) -> dict[str, Any]:
    return json.loads(b"".join(_ask(settings, *request)))


def _export(settings: ServeSettings, output: str, *, replace: bool) -> None:
    from edgerev.cli.output import check_output
    from edgerev.files import write_whole

    check_output(output, replace=replace, advice="or add --force to replace it")
    write_whole(output, _ask(settings, "GET", "/v1/model"))


def _ask(settings: ServeSettings, method: str, path: str, body: Any = None) -> Iterator[bytes]:
    """Return what the daemon answers, piece by piece.

    Raises
    ------
    DaemonError
        There is none, it refuses, or its answer is cut off.
    """
    headers = {"Content-Type": "application/json"} if body is not None else {}
    if settings.token_file:
        headers["Authorization"] = f"Bearer {_token(settings.token_file)}"
    connection = _Connection(settings)
    try:
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        response = connection.getresponse()
        if response.status >= 400:
            raise DaemonError(f"the daemon refuses, with {response.status}: {_reason(response.read())}")
    except (OSError, http.client.HTTPException) as error:
        raise DaemonError(
            f"no daemon answers on {settings.listen} ({error or type(error).__name__}); expected one, started with "
            "this configuration; start it: edgerev serve, or systemctl start edgerev"
        ) from error
    return _pieces(connection, response)


def _pieces(connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> Iterator[bytes]:
    try:
        wanted, came = response.length or 0, 0
        while piece := response.read(_PIECE):
            came += len(piece)
            yield piece
    except (OSError, http.client.HTTPException) as error:
        raise DaemonError(f"the daemon's answer was cut off ({error}); expected all of it; ask again") from error
    finally:
        connection.close()
    if came < wanted:
        raise DaemonError(f"the daemon's answer was cut off after {came} of {wanted} bytes; ask again")


class _Connection(http.client.HTTPConnection):
    """To where a daemon listens."""

    def __init__(self, settings: ServeSettings) -> None:
        host, _, port = settings.listen.rpartition(":")
        self._path = settings.listen.removeprefix("unix:") if settings.host == "unix" else ""
        super().__init__("localhost" if self._path else _near(host), None if self._path else int(port), timeout=SECONDS)

    def connect(self) -> None:
        if not self._path:
            return super().connect()
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(SECONDS)
        self.sock.connect(self._path)


def _near(host: str) -> str:
    """Return an address of this machine under which a daemon that listens on `host` is found."""
    return {"0.0.0.0": "127.0.0.1", "*": "127.0.0.1", "[::]": "::1"}.get(host, host.strip("[]"))


def _token(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError as error:
        raise DaemonError(
            f"{path}: {error.strerror}; expected the daemon's token; start the daemon once, which makes it, or ask as "
            "the user who runs it"
        ) from error


def _reason(answer: bytes) -> str:
    try:
        return json.loads(answer)["error"]
    except (ValueError, KeyError, TypeError):
        return answer.decode(errors="replace")[:200]
