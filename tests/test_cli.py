"""The command line: verbs are imported late, errors become exit codes, pipes may break."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgerev import __version__, cli, errors
from edgerev.cli import VERBS, main

BUILT = [verb for verb in VERBS if importlib.util.find_spec(f"edgerev.cli.{verb}")]


def run_cli(*arguments, **options):
    """Run the command line as users do, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "edgerev", *arguments], capture_output=True, text=True, timeout=60, **options
    )


@pytest.fixture
def verb_that(monkeypatch):
    """Return a function that makes `edgerev train` run the given function."""

    def install(run):
        module = SimpleNamespace(HELP="help", prepare_parser=lambda parser: None, run=run)
        monkeypatch.setattr(cli, "_load", lambda verb: module)
        return ["train"]

    return install


def raising(error):
    def run(args):
        raise error

    return run


def test_the_package_of_a_checkout_alone_says_what_to_do():
    """As Python finds it in the present folder, where edgerev is installed from a wheel."""
    checkout = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-S", "-c", "from edgerev import Learner"]
    done = subprocess.run(command, cwd=checkout, env={}, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"ImportError: {checkout}/edgerev is a part of a checkout; expected an installed edgerev" in done.stderr


def test_the_library_is_imported_by_the_verbs():
    """Where an interrupt is answered: before that there would be nobody to do so."""
    code = "import sys, edgerev.cli; print(*sorted(name for name in sys.modules if name.startswith('edgerev')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [
        "edgerev", "edgerev.cli", "edgerev.errors", "edgerev.kernels", "edgerev.kernels.layout"
    ]  # fmt: skip


def test_every_public_name_is_there():
    import edgerev

    assert {name: getattr(edgerev, name).__name__ for name in edgerev.__all__} == {n: n for n in edgerev.__all__}
    assert sorted(name for names in edgerev._HOMES.values() for name in names) == sorted(edgerev.__all__)
    assert set(edgerev.__all__) <= set(dir(edgerev))
    with pytest.raises(AttributeError, match="no attribute 'Lerner'"):
        edgerev.Lerner  # noqa: B018


@pytest.mark.parametrize("arguments", [["plan", "--preset", "mlp4"], ["plan", "--preset", "mlp4", "--listing"]])
def test_an_output_that_is_full(arguments):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "edgerev", *arguments]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    message = "edgerev: error: [Errno 28] No space left on device; expected files and an output that work; free some "
    assert (done.returncode, done.stderr) == (1, message + "space\n")


def test_help_lists_every_verb(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for verb, line in VERBS.items():
        assert f"{verb} " in text
        assert line in text


@pytest.mark.parametrize("verb", BUILT)
def test_each_verb_has_its_own_help(verb, capsys):
    assert main([verb, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith(f"usage: edgerev {verb}")
    assert VERBS[verb] in text


@pytest.mark.parametrize("verb", BUILT)
def test_table_and_module_say_the_same(verb):
    assert VERBS[verb] == importlib.import_module(f"edgerev.cli.{verb}").HELP


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"edgerev {__version__}\n"


def test_module_runs_as_program():
    done = run_cli("--version")
    assert (done.returncode, done.stdout) == (0, f"edgerev {__version__}\n")


@pytest.mark.parametrize("arguments", [["--help"], ["rss", "--help"], ["doctor", "--json"]])
def test_light_verbs_import_nothing_heavy(arguments):
    code = (
        "import json, sys; from edgerev.cli import main; main(sys.argv[1:]);"
        "print(json.dumps(list(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)
    # in a checkout the doctor's self-test links with llvmlite; a wheel has libraries
    assert not {"numpy", "numba", "pydantic", "sklearn"} & set(json.loads(done.stderr))


def test_no_verb_is_a_usage_error(capsys):
    assert main([]) == 2
    assert "edgerev: error: no verb given" in capsys.readouterr().err


def test_unknown_verb_names_the_closest(capsys):
    assert main(["trian"]) == 2
    assert capsys.readouterr().err == "edgerev: error: unknown verb 'trian'; did you mean 'train'?\n"


def test_unknown_option_is_a_usage_error(capsys):
    assert main(["doctor", "--jsno"]) == 2
    assert "edgerev doctor: error: unrecognized arguments: --jsno" in capsys.readouterr().err


def test_missing_verb_module_breaks_no_other(monkeypatch, capsys):
    monkeypatch.setitem(VERBS, "fly", "leave the ground")
    assert main(["fly"]) == 2
    assert "the verb 'fly' is not part of this build" in capsys.readouterr().err
    assert main(["rss", "--help"]) == 0


def test_error_while_importing_a_verb_is_not_hidden(monkeypatch):
    def broken(name):
        raise ModuleNotFoundError("No module named 'elsewhere'", name="elsewhere")

    monkeypatch.setattr(cli, "import_module", broken)
    with pytest.raises(ModuleNotFoundError, match="elsewhere"):
        main(["train"])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UsageError("bad option"), 2),
        (errors.ConfigError("bad key"), 2),
        (errors.BudgetError("too small"), 2),
        (errors.DataError("bad file"), 1),
        (errors.CheckpointError("bad checkpoint"), 1),
    ],
)
def test_errors_become_exit_codes(verb_that, capsys, error, code):
    assert main(verb_that(raising(error))) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"edgerev: error: {error}\n"


def test_exit_code_of_the_verb_is_kept(verb_that):
    assert main(verb_that(lambda args: 7)) == 7


def test_interrupt(verb_that):
    assert main(verb_that(raising(KeyboardInterrupt()))) == 130


def test_programming_errors_keep_their_traceback(verb_that):
    with pytest.raises(ZeroDivisionError):
        main(verb_that(raising(ZeroDivisionError())))


def test_broken_pipe_is_quiet():
    code = (
        "import sys; from types import SimpleNamespace; from edgerev import cli;"
        "run = lambda args: print('x' * 1_000_000) or 0;"
        "cli._load = lambda verb: SimpleNamespace(HELP='h', prepare_parser=lambda p: None, run=run);"
        "sys.exit(cli.main(['train']))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=60) == 141
