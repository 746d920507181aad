"""What the documentation shows is run as it stands; its links lead somewhere."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import toys

from edgerev.cli import main
from edgerev.config import check_config
from edgerev.toml import tomllib

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MORE = [ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
# of these, the Makefile and other tests take care
OUTSIDE = (
    "make ", "pip ", "sh ", "cd ", "systemctl ", "cc ", "./train ", "python3 ",
    "edgerev rss", "edgerev data fetch", "edgerev doctor", "edgerev bench",
    "edgerev serve", "edgerev build", "edgerev push", "curl ",
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("cache")


def blocks(language):
    """Return (page, text) of every fenced block in a language."""
    return [
        (page.name, text) for page in PAGES
        for text in re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    ]  # fmt: skip


def commands():
    """Return (page, words) of every command in a block of shell, comments and continuations taken care of."""
    found = []
    for page, text in blocks("sh"):
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words and not line.startswith(OUTSIDE):
                found.append((page, words))
    return found


def test_there_is_something_to_run():
    assert len(commands()) >= 4
    assert blocks("python")
    assert blocks("toml")


def test_commands_run_as_shown(tmp_path, monkeypatch, capsys):
    """In their order, in a folder with data and with the configuration of the README."""
    monkeypatch.chdir(tmp_path)
    Path("DIR").mkdir()
    random = np.random.default_rng(0)
    for part, count in (("train", 80), ("test", 20)):
        images = random.integers(0, 256, (count, 28, 28), dtype="u1")
        toys.write_npz(Path("DIR") / f"{part}.npz", images, np.arange(count) % 10)
    np.save("new.npy", random.integers(0, 256, (5, 28, 28), dtype="u1"))
    Path("config.toml").write_text(dict(blocks("toml"))["README.md"])
    for page, words in commands():
        assert words[0] == "edgerev", f"{page}: {words}"
        assert main(words[1:]) == 0, f"{page}: {shlex.join(words)}\n{capsys.readouterr().err}"
    assert Path("model.edgerev").exists()


def test_python_runs_as_shown(tmp_path):
    for page, text in blocks("python"):
        if page == "c.md":  # tests/test_c_model.py types all of that page
            continue
        done = subprocess.run([sys.executable, "-c", text], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, f"{page}: {done.stderr}"
        assert "Warning" not in done.stderr


def test_configurations_are_valid():
    for _, text in blocks("toml"):
        check_config(tomllib.loads(text))
    check_config(tomllib.loads((ROOT / "edgerev" / "cli" / "demo.toml").read_text(encoding="utf-8")))


def anchors(page):
    """Return what the headings of a page can be linked by."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, *MORE], ids=lambda page: page.name)
def test_links_resolve(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page):
    """Paths in code quotes, such as `kernels/layout.py`."""
    folders = "edgerev|kernels|deploy|tools|tests|docs"
    for name in re.findall(rf"`((?:{folders})/[\w/.]+)`", page.read_text(encoding="utf-8")):
        assert (ROOT / name).exists(), name
