"""The pages of the documentation as tests see them: blocks of code, and how they are to be run.

A comment before a block, ``<!-- test: ITEM; ITEM -->``, says more than the block itself:

    append WORDS   add these to each command of the block, so that it takes less time
    data NAME      DIR is a folder of the real data; without it, this block is skipped
    file NAME      the block is the contents of a file
    long           it takes minutes, or a device: run by the long tests
    shows          what the block before prints has these lines
"""

import argparse
import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

# What no test runs as it stands, and why. What is tried on a device or elsewhere is tested as the reason says.
OUTSIDE = {
    "pip ": "installs into the environment of these tests; tests/test_install.py installs a wheel into one of its own",
    "python3 -m venv ": "as above",
    "edgerev data fetch ": "downloads; tests/test_fetch.py does the same from a server of its own",
    "edgerev bench peers --torch ": "needs an environment with torch; tests/test_bench.py runs it without",
    "edgerev rss --attach 1234": "there is no such process; tests/test_rss.py attaches to its own",
    "sh bundle/install.sh": "installs on the device; tests/test_push.py does, from a copied bundle",
    "sh ~/.local/share/edgerev/": "as above",
}
# blocks of these languages are not run: sessions on a board with systemd, or with a broker, a folder and a sensor that
# feed a daemon (tests/test_mqtt.py, test_folder.py, test_stdin.py do), output, and what Sphinx takes
SHOWN = ("console", "text", "json", "{toctree}", "{include}", "{literalinclude}", "{verbs}", "{eval-rst}")
# what other test files type from these pages
ELSEWHERE = {("c.md", "sh"): "tests/test_c_model.py", ("c.md", "python"): "tests/test_c_model.py",
             ("c.md", "py"): "tests/test_c_model.py", ("onnx.md", "py"): "tests/test_ort_training.py"}  # fmt: skip
LONG_PAGES = ("csv-to-device.md",)  # much the same as the README, and more of it


class Block(NamedTuple):
    """A fenced block; `marks` are the items of the comment before it."""

    page: str
    language: str
    text: str
    marks: dict[str, str]


def blocks(path):
    """Return the blocks of a page, in their order."""
    pattern = r"^(?:<!-- test: (.*?) -->\n)?```(\S*)[^\n]*\n(.*?)^```$"
    found = re.findall(pattern, path.read_text(encoding="utf-8"), flags=re.M | re.S)
    return [
        Block(path.name, language, text, dict(item.partition(" ")[::2] for item in marks.split("; ") if item))
        for marks, language, text in found
    ]  # fmt: skip


def script(block):
    """Return what a shell is to run: the block without what is outside, with what is to be appended."""
    lines = []
    for line in block.text.splitlines():
        if line.startswith(tuple(OUTSIDE)):
            continue
        if "append" in block.marks and line.startswith("edgerev "):
            line = f"{re.sub(r' +# .*', '', line)} {block.marks['append']}"
        lines.append(line)
    return "\n".join(lines)


def options(parser):
    """Return the options of a parser, and options and names of those within it."""
    found = set()
    for action in parser._actions:
        found |= set(action.option_strings)
        if isinstance(action, argparse._SubParsersAction):
            found |= {word for sub in action.choices.values() for word in (*options(sub), sub.prog.split()[-1])}
    return found
