"""The site that `make docs` builds: references are complete, pictures are those of the code, nothing is left out."""

import ast
import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pages import options
from test_page import browser  # noqa: F401

import edgerev
from edgerev.cli import VERBS, verb_parser

DOCS = Path(__file__).parents[1] / "docs"
API = (DOCS / "api.md").read_text(encoding="utf-8")
MODULES = (DOCS / "modules.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def pictures():
    spec = importlib.util.spec_from_file_location("pictures", DOCS / "pictures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.PICTURES


def test_every_public_name_is_in_the_reference():
    told = re.findall(r"^\.\. auto\w+:: edgerev\.(\w+)$", API, flags=re.M)
    assert sorted(told) == sorted(edgerev.__all__)


def test_modules_that_pages_name_are_in_the_reference():
    """Those that code of the documentation imports from."""
    told = set(re.findall(r"^\.\. automodule:: ([\w.]+)$", MODULES, flags=re.M)) | {"edgerev"}
    examples = [path.read_text(encoding="utf-8") for path in (DOCS / "examples").glob("*.py")]
    pages = [path.read_text(encoding="utf-8") for path in DOCS.glob("*.md")]
    codes = [code for page in pages for code in re.findall(r"^```py(?:thon)?\n(.*?)^```", page, flags=re.M | re.S)]
    imported = {
        node.module for code in (*examples, *codes) for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "edgerev"
    }  # fmt: skip
    assert imported - told == {"edgerev.presets", "edgerev.kernels.targets"}  # `preset` is public; a name, no interface


def test_every_page_is_in_the_navigation():
    listed = re.findall(r"^```\{toctree\}\n(.*?)^```", (DOCS / "index.md").read_text(encoding="utf-8"), re.M | re.S)
    names = {line for text in listed for line in text.splitlines() if line and not line.startswith(":")}
    assert names == {path.stem for path in DOCS.glob("*.md")} - {"index"}


@pytest.mark.parametrize("name", ["arena", "step", "coupling", "way"])
def test_pictures_are_those_of_the_code(pictures, name):
    """Drawn anew with `python docs/pictures.py`."""
    text = pictures[name]()
    assert text == (DOCS / "images" / f"{name}.svg").read_text(encoding="utf-8")
    assert "<title" in text
    assert "<desc" in text


@pytest.mark.parametrize("name", ["arena", "step", "coupling", "way"])
def test_pictures_are_shown_with_a_text_for_those_who_do_not_see_them(name):
    assert any(re.search(rf"!\[[^\]]{{15,}}\]\(images/{name}\.svg\)", page.read_text()) for page in DOCS.glob("*.md"))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("sphinx", reason="the site is built by `make docs`, with edgerev[docs]")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-d", "doctrees"]
    done = subprocess.run([*command, DOCS, "html"], cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return folder / "html"


@pytest.mark.long
def test_the_site_has_every_name_verb_and_option(site):
    api, modules, cli = ((site / f"{page}.html").read_text(encoding="utf-8") for page in ("api", "modules", "cli"))
    for name in edgerev.__all__:
        assert f'id="edgerev.{name}"' in api, name
    for name in dir(edgerev.Learner):
        assert name.startswith("_") or f'id="edgerev.Learner.{name}"' in api, name
    for name in re.findall(r"^\.\. automodule:: ([\w.]+)$", MODULES, flags=re.M):
        tree = ast.parse(Path(importlib.import_module(name).__file__).read_text(encoding="utf-8"))
        defined = [node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
        for node in defined:
            assert node.name.startswith("_") or f'id="{name}.{node.name}"' in modules, f"{name}.{node.name}"
    for verb in VERBS:
        assert f"<h2>edgerev {verb}<" in cli, verb
        for word in options(verb_parser(verb)) - {"-h", "--help"}:
            assert re.search(rf'<span class="pre">{word}\b|<h3>edgerev {verb} {word}<', cli), f"{verb} {word}"


@pytest.mark.long
def test_the_site_needs_nothing_from_elsewhere(site):
    """No fonts, styles or scripts of other hosts; links to read on are all that leads away."""
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        for tag in re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*>", text):
            assert not re.search(r'(?:src|href)="(?:https?:)?//', tag), f"{page.name}: {tag}"
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?(?:https?:)?//", style.read_text(encoding="utf-8")), style.name


@pytest.mark.long
@pytest.mark.parametrize("width", [360, 760, 1010, 1100, 1280, 1440, 1700])
def test_no_page_is_wider_than_the_window(site, browser, width):  # noqa: F811
    """Tables and code may be moved sideways within the page, but not the page."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    wide = {}
    for path in sorted(site.glob("*.html")):
        page.goto(path.as_uri())
        found = page.evaluate("document.querySelector('.page').scrollWidth")
        if found > width:
            wide[path.name] = found
    page.close()
    assert not wide
