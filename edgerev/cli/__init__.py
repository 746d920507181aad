"""The command line: one verb, one module.

Each verb is a module of this package with `HELP` (one line), `prepare_parser(parser)` and `run(args) -> int`. Only
the module of the verb at hand is imported, so that `edgerev --help` and `edgerev rss` cost no NumPy.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from edgerev import __version__
from edgerev.errors import EdgerevError, UsageError

# The verbs and their help, told here so that the list needs no imports; `HELP` of each module is the same line.
VERBS = {
    "train": "train a net on your data and write a checkpoint",
    "eval": "measure a checkpoint on labelled data",
    "predict": "predict the labels of samples with a checkpoint",
    "data": "fetch a known data set, and verify it",
    "plan": "show the memory and time that a net needs, before anything runs",
    "inspect": "show what is in a checkpoint",
    "doctor": "check whether this machine is fit for training",
    "rss": "measure the peak memory of a command and its children",
    "bench": "measure exactness, speed and memory",
    "build": "make a bundle, or a wheel, for another machine",
    "push": "install a bundle on a device over ssh, or go back to the one before",
    "export": "write a model for another runtime: as an ONNX graph",
    "import": "bring weights that another runtime trained back into a checkpoint",
    "serve": "take samples and labels over HTTP, answer, and go on training",
    "ctl": "ask a running daemon for its status, or tell it what to do",
    "demo": "train continually on handwritten digits and report",
}

INTERRUPTED_EXIT_CODE = 130
BROKEN_PIPE_EXIT_CODE = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; those of the process by default.

    Returns
    -------
    int
        0, the verb's own code, an error's `exit_code`, 130 after an interrupt, 141 when the reader of the output is
        gone, 1 when it cannot be written.
    """
    try:
        code = _dispatch(sys.argv[1:] if argv is None else list(argv))
        sys.stdout.flush()
        return code
    except SystemExit as stop:  # argparse, after it printed help or an error
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except EdgerevError as error:
        print(f"edgerev: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED_EXIT_CODE
    except BrokenPipeError:
        _drop_output()
        return BROKEN_PIPE_EXIT_CODE
    except OSError as error:
        print(f"edgerev: error: {error}; expected files and an output that work; free some space", file=sys.stderr)
        _drop_output()
        return EdgerevError.exit_code


class _Help(argparse.HelpFormatter):
    """Asks the terminal for its width without `shutil`, whose compressors take 0.5 MB of every verb."""

    def __init__(self, prog: str) -> None:
        columns = os.environ.get("COLUMNS", "")
        try:
            width = int(columns) if columns.isdigit() else os.get_terminal_size(1).columns
        except OSError:
            width = 80
        super().__init__(prog, width=(width or 80) - 2)


class _RawHelp(_Help, argparse.RawDescriptionHelpFormatter):
    pass


def _drop_output() -> None:
    """Let go of what was not written; the interpreter would try again at exit, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _dispatch(arguments: list[str]) -> int:
    options = _main_parser().parse_args(arguments[:1])
    if options.verb is None:
        raise UsageError("no verb given; `edgerev --help` lists them")
    parser = verb_parser(options.verb)
    return _load(options.verb).run(parser.parse_args(arguments[1:]))


def verb_parser(verb: str) -> argparse.ArgumentParser:
    """Return the parser of a verb, which `edgerev VERB --help` shows and the reference is made of.

    Raises
    ------
    UsageError
        There is no such verb.
    """
    module = _load(verb)
    parser = argparse.ArgumentParser(
        prog=f"edgerev {verb}", description=module.HELP, allow_abbrev=False, formatter_class=_Help
    )
    module.prepare_parser(parser)
    return parser


def _main_parser() -> argparse.ArgumentParser:
    width = max(map(len, VERBS))
    parser = argparse.ArgumentParser(
        prog="edgerev",
        usage="edgerev VERB [options]",
        description="Train reversible neural networks on small machines, in a fixed amount of memory.",
        epilog="verbs:\n" + "\n".join(f"  {verb:<{width}}  {text}" for verb, text in VERBS.items())
        + "\n\n`edgerev VERB --help` tells the options of one.",
        formatter_class=_RawHelp,
        allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"edgerev {__version__}")
    parser.add_argument("verb", metavar="VERB", nargs="?", help="what to do")
    return parser


def _load(verb: str) -> ModuleType:
    if verb not in VERBS:
        from difflib import get_close_matches

        close = get_close_matches(verb, VERBS, n=1)
        advice = f"did you mean {close[0]!r}?" if close else "`edgerev --help` lists them"
        raise UsageError(f"unknown verb {verb!r}; {advice}")
    name = f"{__name__}.{verb}"
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise UsageError(f"the verb {verb!r} is not part of this build; `edgerev --help` lists all verbs") from None
