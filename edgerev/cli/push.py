"""`edgerev push`: install a bundle on a device over ssh."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from edgerev.errors import UsageError

HELP = "install a bundle on a device over ssh, or go back to the one before"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.epilog = "docs/deploy.md tells what is done on the device, and what each refusal means."
    parser.usage = "edgerev push [options] BUNDLE HOST\n       edgerev push [options] --rollback HOST"
    parser.add_argument("words", nargs="+", metavar="BUNDLE HOST", help="folder made by `edgerev build`; user@host")
    parser.add_argument("--rollback", action="store_true", help="make the device's previous bundle the current one")
    parser.add_argument("--path", metavar="DIR", help="folder on the device (~/.local/share/edgerev)")
    parser.add_argument("--ssh", default="ssh", metavar="CMD", help="as 'ssh -p 2222 -i key' (ssh)")


def run(args: argparse.Namespace) -> int:
    """Push, or roll back."""
    if len(args.words) != (1 if args.rollback else 2):
        expected = "--rollback and a host" if args.rollback else "a bundle and a host"
        raise UsageError(f"{len(args.words)} words: expected {expected}, as `edgerev push bundle/ pi@raspberrypi`")
    from tqdm import tqdm

    from edgerev.deploy.push import ROOT, Host, push, rollback

    host, root = Host(args.words[-1], args.ssh), args.path or ROOT
    if args.rollback:
        print(f"{host.name}: bundle {rollback(host, root=root, report=_say)} is current")
        return 0
    folder = Path(args.words[0])
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    hidden = not sys.stderr.isatty()
    with tqdm(total=total, unit="B", unit_scale=True, file=sys.stderr, disable=hidden, leave=False) as bar:
        name = push(folder, host, root=root, report=_say, advance=bar.update)
    print(f"{host.name}: bundle {name} is current")
    return 0


def _say(text: str) -> None:
    from tqdm import tqdm

    tqdm.write(f"edgerev: {text}", file=sys.stderr)
