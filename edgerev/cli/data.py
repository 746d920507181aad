"""`edgerev data`: fetch a known data set."""

from __future__ import annotations

import argparse

HELP = "fetch a known data set, and verify it"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add what can be done with data sets."""
    parser.epilog = "docs/data.md tells which data sets are known, and what else is read."
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    fetch = actions.add_parser("fetch", help="download a data set; an interrupted download goes on", description=HELP)
    fetch.add_argument("name", metavar="NAME", help="the data set, as mnist")
    fetch.add_argument("-o", "--output", metavar="DIR", help="folder for its files (NAME)")
    fetch.add_argument("--force", action="store_true", help="replace files that are there but are others")


def run(args: argparse.Namespace) -> int:
    """Fetch, and tell what came and what was there."""
    from edgerev.cli.progress import transfer
    from edgerev.data.fetch import fetch, known

    data, folder = known(args.name), args.output or args.name
    shown = ""
    with transfer(args.name) as bar:

        def show(name: str, done: int, total: int | None) -> None:
            nonlocal shown
            bar.total = total
            bar.update(done - bar.n)
            if name != shown:
                shown = name
                bar.set_description_str(name)

        files = fetch(data, folder, force=args.force, show=show)
    for path, kept in files:
        print(f"{path}: {'was there already, the right one, and was kept' if kept else 'fetched and verified'}")
    print(f"{args.name}: {data.title}; {data.licence}")
    return 0
