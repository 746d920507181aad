"""Compare the docstrings of public functions with their signatures.

What a numpydoc ``Parameters`` section names has to be a parameter; the order is free, since related ones may share a
line. With ``--complete`` a section that is there has to name all of them. Code is parsed, never imported.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

IMPLICIT = ("self", "cls", "typingctx")  # the last is Numba's, in every intrinsic

Function = ast.FunctionDef | ast.AsyncFunctionDef


def documented_parameters(docstring: str) -> list[str] | None:
    """Return the names in the ``Parameters`` section, or None if there is no such section.

    Parameters
    ----------
    docstring : str
        A docstring with its indentation removed, as `ast.get_docstring` returns it.
    """
    match = re.search(r"^Parameters\n-{10}\n(.*?)(?=^\w[^\n]*\n-{3,}$|\Z)", docstring, re.MULTILINE | re.DOTALL)
    if not match:
        return None
    heads = [line.partition(" : ")[0] for line in match[1].splitlines() if line and not line[0].isspace()]
    return [name.strip().lstrip("*") for head in heads for name in head.split(",")]


def signature_parameters(function: Function) -> list[str]:
    """Return the names of a function's parameters in order, without those that callers never write.

    Parameters
    ----------
    function : ast.FunctionDef or ast.AsyncFunctionDef
        A parsed definition.
    """
    arguments = function.args
    names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]
    names += [arguments.vararg.arg] if arguments.vararg else []
    names += [argument.arg for argument in arguments.kwonlyargs]
    names += [arguments.kwarg.arg] if arguments.kwarg else []
    return [name for name in names if name not in IMPLICIT]


def dataclass_fields(node: ast.ClassDef) -> list[str]:
    """Return the annotated names in a class body: the parameters of a dataclass or a named tuple.

    Parameters
    ----------
    node : ast.ClassDef
        A parsed class.
    """
    targets = [item.target for item in node.body if isinstance(item, ast.AnnAssign)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def documented(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, int, str, list[str]]]:
    """Yield name, line, docstring and parameters of each public function, method and class.

    Parameters
    ----------
    tree : ast.AST
        A module or a class.
    prefix : str
        Name of the class with a dot, or nothing.
    """
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) or node.name.startswith("_"):
            continue
        docstring = ast.get_docstring(node) or ""
        name = prefix + node.name
        if isinstance(node, ast.ClassDef):
            inits = [item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
            names = signature_parameters(inits[0]) if inits else dataclass_fields(node)
            # The docstring of a class tells the parameters of its __init__.
            yield name, node.lineno, docstring, names
            yield from documented(node, f"{name}.")
        else:
            yield name, node.lineno, docstring, signature_parameters(node)


def check_source(source: str, path: str, complete: bool = False) -> list[str]:
    """Return one message for each docstring that differs from its signature.

    Parameters
    ----------
    source : str
        Text of a module.
    path : str
        Its name in messages.
    complete : bool
        Whether to miss parameters that a section leaves out.
    """
    problems = []
    for name, line, docstring, actual in documented(ast.parse(source, path)):
        told = documented_parameters(docstring)
        if told is None:
            continue
        where = f"{path}:{line}: {name}"
        problems += [f"{where}: documents {word!r}, which is not a parameter" for word in told if word not in actual]
        if complete:
            problems += [f"{where}: does not document {word!r}" for word in actual if word not in told]
    return problems


def main(arguments: list[str] | None = None) -> int:
    """Check the files and folders given; print the problems and return 1 if there are any.

    Parameters
    ----------
    arguments : list of str, optional
        Paths, and ``--complete``; those of the command line by default.
    """
    words = sys.argv[1:] if arguments is None else arguments
    complete = "--complete" in words
    roots = [Path(word) for word in words if word != "--complete"]
    files = [path for root in roots for path in (sorted(root.rglob("*.py")) if root.is_dir() else [root])]
    problems = []
    for path in files:
        problems += check_source(path.read_text(encoding="utf-8"), str(path), complete)
    print("\n".join(problems) if problems else f"{len(files)} files: docstrings agree with signatures")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
