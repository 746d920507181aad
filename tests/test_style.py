"""Rules of the project that a linter does not know."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from edgerev.tools.check_docstrings import check_source

ROOT = Path(__file__).parents[1]
FILES = sorted(path for folder in ("edgerev", "kernels", "deploy", "tools") for path in (ROOT / folder).rglob("*.py"))
MOST_LINES = 400
DECORATOR = ROOT / "kernels" / "jit.py"  # the one place where a compiler's flags are chosen
COMPILERS = {"jit", "njit", "vectorize", "guvectorize", "cfunc", "stencil"}


def name(path):
    return str(path.relative_to(ROOT))


def compiler_uses(source):
    """Return the lines that use Numba's own decorators, or name fast-math."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "numba":
            found = any(alias.name in COMPILERS for alias in node.names)
        elif isinstance(node, ast.Attribute):
            found = node.attr in COMPILERS and isinstance(node.value, ast.Name) and node.value.id in ("numba", "nb")
        elif isinstance(node, ast.keyword):
            found = node.arg == "fastmath"
        else:
            found = False
        if found:
            lines.append(node.lineno)
    return lines


@pytest.mark.parametrize("path", FILES, ids=name)
def test_modules_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("path", FILES, ids=name)
def test_docstrings_agree_with_signatures(path):
    assert check_source(path.read_text(encoding="utf-8"), name(path)) == []


@pytest.mark.parametrize("path", [path for path in FILES if path != DECORATOR], ids=name)
def test_one_place_compiles(path):
    assert compiler_uses(path.read_text(encoding="utf-8")) == []


def test_no_fast_math_where_the_decorator_is():
    if not DECORATOR.exists():
        pytest.skip("no kernels yet")
    keywords = [node for node in ast.walk(ast.parse(DECORATOR.read_text())) if isinstance(node, ast.keyword)]
    values = [ast.literal_eval(node.value) for node in keywords if node.arg == "fastmath"]
    assert not any(values)


LIGHT = ["edgerev.kernels.layout", "edgerev.program", "edgerev.cli", "edgerev.deploy.c_model"]


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_stay_light(module):
    code = f"import sys, {module}; print(*sorted({{'numpy', 'numba', 'llvmlite'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "\n"


# -- the checks check ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "from numba import njit",
        "from numba import types, jit as fast",
        "from numba.core.decorators import jit",
        "import numba\n@numba.njit\ndef f(): pass",
        "import numba as nb\nnb.vectorize(len)",
        "@jit(fastmath=True)\ndef f(): pass",
    ],
)
def test_other_compilers_are_found(source):
    assert compiler_uses(source)


def test_our_own_decorator_is_allowed():
    assert not compiler_uses("from edgerev.kernels.jit import jit\nfrom numba import types\n@jit\ndef f(): pass")


DOCUMENTED = '''
class Thing:
    """A thing.

    Parameters
    ----------
    size : int
        Its size.
    """

    def __init__(self, size): ...

    def scale(self, factor, *rest, by=1, **more):
        """Scale it.

        Parameters
        ----------
        factor, *rest : float
            Factors: how much
            and so on.
        by : int
            Times.

            A further paragraph : not a parameter.
        **more : object
            Passed on.

        Returns
        -------
        other : float
            Not a parameter either.
        """

def plain(x):
    """No section, no complaint."""

def _private(x):
    """Not looked at.

    Parameters
    ----------
    y : int
    """
'''


def test_docstrings_that_agree():
    assert check_source(DOCUMENTED, "m.py", complete=True) == []


def test_incomplete_sections_are_missed_on_demand():
    source = DOCUMENTED.replace("factor, *rest : float", "factor : float")
    assert check_source(source, "m.py") == []
    assert check_source(source, "m.py", complete=True) == ["m.py:13: Thing.scale: does not document 'rest'"]


@pytest.mark.parametrize(
    ("old", "new", "problems"),
    [
        ("        by : int", "        bye : int", ["documents 'bye', which is not a parameter"]),
        ("factor, *rest : float", "factor, others : float", ["documents 'others'"]),
        ("    size : int", "    width : int", ["documents 'width'"]),
    ],
)
def test_docstrings_that_differ(old, new, problems):
    assert old in DOCUMENTED
    found = check_source(DOCUMENTED.replace(old, new), "m.py")
    assert len(found) == len(problems)
    assert all(part in message for part, message in zip(problems, found, strict=True))
    assert all(message.startswith("m.py:") for message in found)
