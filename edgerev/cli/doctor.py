"""`edgerev doctor`: is this machine fit for training?"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from edgerev.doctor import Check, Level, diagnose, worst_status

HELP = "check whether this machine is fit for training"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add the options of this verb.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Parser of the verb.
    """
    parser.epilog = "Exits with 1 if a check is an error; warnings exit with 0."
    parser.add_argument("--json", action="store_true", help="print the checks as JSON")


def run(args: argparse.Namespace) -> int:
    """Run the checks and report.

    Parameters
    ----------
    args : argparse.Namespace
        Parsed options.

    Returns
    -------
    int
        Exit code.
    """
    checks = diagnose()
    print(to_json(checks) if args.json else to_text(checks))
    return int(worst_status(checks) is Level.ERROR)


def to_json(checks: list[Check]) -> str:
    """Render the checks as one JSON object.

    Parameters
    ----------
    checks : list of Check
        At least one.
    """
    return json.dumps({"status": worst_status(checks), "checks": [asdict(check) for check in checks]}, indent=2)


def to_text(checks: list[Check]) -> str:
    """Render the checks for a terminal, each with its hint below it.

    Parameters
    ----------
    checks : list of Check
        At least one.
    """
    lines = []
    for check in checks:
        lines.append(f"{check.status.value:<8} {check.name:<12} {check.message}")
        if check.hint:
            lines.append(f"{'':<21} -> {check.hint}")
    return "\n".join(lines)
