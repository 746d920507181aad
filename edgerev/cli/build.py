"""`edgerev build`: make what a device needs: a bundle with a model, or edgerev's wheel."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from edgerev.errors import UsageError

HELP = "make a bundle, or a wheel, for another machine"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb."""
    parser.epilog = "docs/deploy.md leads from here to a device that trains."
    parser.add_argument("model", nargs="?", help="checkpoint (.edgerev) for the bundle")
    parser.add_argument("--target", metavar="NAME", help="machine to build for; --list shows them")
    parser.add_argument("-o", "--output", metavar="DIR", help="bundle to make, or folder of the wheel")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="list the targets")
    what.add_argument("--wheel", action="store_true", help="make edgerev's wheel only")
    parser.add_argument(
        "--python", action="append", metavar="VERSION", help="of the device, as 3.11; may be repeated (its system's)"
    )
    parser.add_argument("--run", metavar="ARGS", help="what edgerev is to run there as a service, as 'train job.toml'")
    parser.add_argument("--force", action="store_true", help="replace a bundle that is there")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(args: argparse.Namespace) -> int:
    """Build what is asked for, and report."""
    from edgerev.cli.show import print_json
    from edgerev.cli.tables import show_targets

    if args.list:
        figures: dict[str, Any] = {"targets": _targets()}
    elif args.target is None or args.output is None:
        raise UsageError("expected --target NAME and -o DIR, or --list; `edgerev build --list` shows the targets")
    else:
        figures = _wheel(args) if args.wheel else _bundle(args)
    if args.json:
        print_json(figures)
    else:
        (show_targets if args.list else _show_wheel if args.wheel else _show_bundle)(figures)
    return 0


def _show_wheel(figures: dict[str, Any]) -> None:
    print(f"wheel       {figures['wheel']}")
    print(f"target      {figures['target']}")
    print(f"size        {figures['bytes']:,d} B")


def _show_bundle(figures: dict[str, Any]) -> None:
    print(f"bundle      {figures['bundle']}")
    print(f"id          {figures['id']}")
    print(f"target      {figures['target']} ({figures['architecture']})")
    print(f"libc        {figures['libc']} or newer, for all packages in it")
    print(f"Python      {' or '.join(figures['pythons'])}")
    print(f"size        {figures['bytes']:,d} B in {figures['files']} files")
    print(f"next        edgerev push {shlex.quote(figures['bundle'])} USER@HOST")


def _targets() -> list[dict[str, Any]]:
    from edgerev.deploy.dependencies import default_pythons
    from edgerev.kernels.targets import TARGETS

    return [
        {
            "name": target.name, "machine": target.machine, "processor": target.cpu, "lanes": target.width,
            "libc": target.libc, "pythons": list(default_pythons(target.name)),
        }
        for target in TARGETS.values()
    ]  # fmt: skip


def _wheel(args: argparse.Namespace) -> dict[str, Any]:
    if args.model is not None or args.run is not None or args.python:
        raise UsageError("a wheel holds no model and serves every Python; leave MODEL, --run and --python out")
    from edgerev.deploy.wheel import make_wheel

    _say(f"edgerev's wheel for {args.target}; the first time, the kernels are compiled")
    path = make_wheel(args.target, Path(args.output))
    return {"wheel": str(path), "target": args.target, "bytes": path.stat().st_size}


def _bundle(args: argparse.Namespace) -> dict[str, Any]:
    if args.model is None:
        raise UsageError("no model given; expected a checkpoint that `edgerev train` wrote; or add --wheel")
    from edgerev.deploy.bundle import make

    done = make(
        Path(args.model), args.target, Path(args.output), pythons=args.python or (), arguments=args.run or "",
        replace=args.force, report=_say,
    )  # fmt: skip
    manifest = done.manifest
    return {
        "bundle": str(done.folder), "id": done.name, "target": manifest.target, "architecture": manifest.architecture,
        "pythons": manifest.pythons, "libc": manifest.libc, "files": len(done.paths), "bytes": done.nbytes,
    }  # fmt: skip


def _say(text: str) -> None:
    print(f"edgerev: {text}", file=sys.stderr, flush=True)
