"""What the documentation shows is run as it stands; its links lead somewhere, its options exist."""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import toys
from loopback import HOST
from pages import ELSEWHERE, LONG_PAGES, OUTSIDE, PAGES, ROOT, SHOWN, blocks, options, script
from test_sandbox import device  # noqa: F401

from edgerev import Learner, preset
from edgerev.cli import VERBS, main, verb_parser
from edgerev.config import check_config
from edgerev.daemon.settings import ServeSettings, read_table
from edgerev.toml import tomllib

MORE = [ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
PORT = "8350"  # of the daemon, as pages have it
HOSTS = ("pi@raspberrypi", "gateway")  # devices, as pages have them
ALL = [block for page in PAGES for block in blocks(page)]
RUN = ("sh", "python")

pytestmark = pytest.mark.usefixtures("cache")


# -- blocks --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Give a folder with what pages take for granted: data, configurations, a model."""
    folder = tmp_path_factory.mktemp("prepared")
    random = np.random.default_rng(0)
    (folder / "DIR").mkdir()
    for part, count in (("train", 80), ("test", 20)):
        images = random.integers(0, 256, (count, 28, 28), dtype="u1")
        toys.write_npz(folder / "DIR" / f"{part}.npz", images, np.arange(count) % 10)
    np.save(folder / "new.npy", random.integers(0, 256, (5, 28, 28), dtype="u1"))
    (folder / "config.toml").write_text('net.preset = "images"\ntrain.epochs = 1\ntrain.budget = "8MiB"\n')
    (folder / "edgerev.toml").write_text(f'[serve]\nmodel = "fan.edgerev"\nlisten = "127.0.0.1:{PORT}"\n')
    for name in ("train", "train.py", "torch_train.py"):  # of the reader, to be measured
        (folder / name).write_text("#!/usr/bin/env python3\nprint('trained')\n")
        (folder / name).chmod(0o755)
    words = ["train", str(folder / "config.toml"), "--data", str(folder / "DIR"), "-o", str(folder / "model.edgerev")]
    assert main(words) == 0
    learner = Learner(preset("table", (8,), 4))
    learner.classes = ["even", "loose", "off", "unbalanced"]
    learner.save(str(folder / "fan.edgerev"))  # of the quick start, as the daemon's page wants it
    return folder


class Typist:
    """Somebody who types the blocks of a page, one after the other, into a folder; `env` is that of the commands."""

    def __init__(self, folder, bin=None):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = str(free.getsockname()[1])
        self.folder, self.said, self.daemon = folder, "", None
        path = ":".join(map(str, [*([bin] if bin else []), Path(sys.executable).parent, os.environ["PATH"]]))
        self.env = {**os.environ, "PATH": path}
        if (folder / "edgerev.toml").exists():
            text = (folder / "edgerev.toml").read_text()
            (folder / "edgerev.toml").write_text(text.replace(PORT, self.port))

    def type(self, block):
        """Do what a block says; it must end well."""
        text = block.text.replace(f"127.0.0.1:{PORT}", f"127.0.0.1:{self.port}")
        if "file" in block.marks:
            (self.folder / block.marks["file"]).write_text(text)
        elif "shows" in block.marks:
            printed = [line.split() for line in self.said.splitlines()]
            for line in filter(None, text.splitlines()):
                assert line.split() in printed, f"{block.page}: {line!r} is not in\n{self.said}"
        elif block.language in RUN and (block.page, block.language) not in ELSEWHERE:
            words = script(block._replace(text=text))
            if block.language == "python":
                self.run([sys.executable, "-W", "error", "-c", text], block)
            elif words.startswith("edgerev serve "):
                self.serve(words)
            elif words.strip():
                self.run(["bash", "-e", "-c", words], block)

    def run(self, words, block):
        done = subprocess.run(words, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, f"{block.page}: {words[-1]}\n{done.stdout}{done.stderr}"
        self.said = done.stdout

    def serve(self, words):
        """Start the daemon, and wait until it answers."""
        self.daemon = subprocess.Popen(
            shlex.split(words), cwd=self.folder, env=self.env, stderr=subprocess.PIPE, text=True
        )
        assert "serving" in self.daemon.stderr.readline()
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v1/status", timeout=60) as answer:
            assert answer.status == 200

    def leave(self):
        """End the daemon, if there is one."""
        if self.daemon is not None:
            self.daemon.send_signal(signal.SIGTERM)
            try:
                assert self.daemon.wait(timeout=60) == 0, self.daemon.stderr.read()
            finally:
                self.daemon.kill()
                self.daemon.stderr.close()


def type_page(path, folder, prepared, shared_data, wanted, bin=None):
    """Type the blocks of a page that are wanted, in a copy of the prepared folder."""
    shutil.copytree(prepared, folder, dirs_exist_ok=True)
    (folder.parent / "deploy").symlink_to(ROOT / "deploy")  # pages are read in a folder below the checkout
    for block in blocks(path):
        for name in re.findall(r"edgerev train .* -o (\S+)", block.text):
            for made in folder.glob(f"{name}*"):
                made.unlink()  # that page makes its own
    typist = Typist(folder, bin)
    try:
        for block in filter(wanted, blocks(path)):
            if "data" in block.marks:
                if shared_data is None:
                    continue
                shutil.move(folder / "DIR", folder / "DIR-made-up")
                (folder / "DIR").symlink_to(shared_data / block.marks["data"])
            typist.type(block)
            if "data" in block.marks:
                (folder / "DIR").unlink()
                shutil.move(folder / "DIR-made-up", folder / "DIR")
    finally:
        typist.leave()


SHORT = [path for path in PAGES if path.name not in LONG_PAGES]
LONG = [path for path in PAGES if path not in SHORT or any("long" in block.marks for block in blocks(path))]


@pytest.mark.parametrize("path", SHORT, ids=lambda path: path.name)
def test_pages_work_as_typed(path, tmp_path, prepared):
    type_page(path, tmp_path / "try", prepared, None, lambda block: "long" not in block.marks)


@pytest.fixture
def bin_with_ssh(request, tmp_path):
    """Give a folder with an `ssh` that takes the hosts of the pages for a device that is an ARM sandbox."""
    running = request.getfixturevalue("device")
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "ssh").write_text(
        f"#!{sys.executable}\nimport os, sys\nwords = sys.argv[1:]\n"
        f"at = min(words.index(host) for host in {HOSTS} if host in words)\n"
        f"ssh = {shlex.split(running.ssh)!r}\nssh[0] = {shutil.which('ssh')!r}\n"
        f"os.execv(ssh[0], [*ssh, {HOST!r}, *words[at + 1:]])\n"
    )
    (folder / "ssh").chmod(0o755)
    return folder


@pytest.mark.long
@pytest.mark.parametrize("path", LONG, ids=lambda path: path.name)
def test_long_blocks_work_as_typed(path, tmp_path, prepared, request):
    """With all blocks before them; where a page pushes, to a device that is an ARM sandbox."""
    found = blocks(path)
    try:
        data = request.getfixturevalue("shared_data")
    except pytest.skip.Exception:
        data = None  # the blocks that want it are left out
    pushes = any("push " in block.text for block in found if "long" in block.marks)
    bin = request.getfixturevalue("bin_with_ssh") if pushes else None
    type_page(path, tmp_path / "try", prepared, data, lambda block: True, bin)


def test_every_block_is_run_or_said_why_not():
    for block in ALL:
        known = block.language in RUN or block.language in SHOWN or (block.page, block.language) in ELSEWHERE
        assert known or block.language == "toml" or "file" in block.marks, block
    assert sum(block.language == "sh" for block in ALL) > 15
    assert sum("long" in block.marks for block in ALL) > 3


@pytest.mark.parametrize("start", OUTSIDE)
def test_what_is_outside_is_still_there(start):
    assert any(line.startswith(start) for block in ALL for line in block.text.splitlines())


def test_configurations_are_valid():
    texts = [block.text for block in ALL if block.language == "toml"]
    texts.append((ROOT / "edgerev" / "cli" / "demo.toml").read_text(encoding="utf-8"))
    assert len(texts) > 2
    for text in texts:
        data = tomllib.loads(text)
        read_table(ServeSettings, data["serve"], "serve") if "serve" in data else check_config(data)


# -- commands within the text --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_options_in_the_text_exist(path):
    """Of commands in code quotes, such as those that figures were made with."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    for quoted in re.findall(r"`(edgerev [a-z][^`]*)`", text):
        command = " ".join(quoted.split()).partition(" -- ")[0]
        words = shlex.split(command)
        assert words[1] in {*VERBS, "VERB"}, command
        if words[1] == "VERB":
            continue
        known = options(verb_parser(words[1]))
        for word in words[2:]:
            assert not word.startswith("-") or word in known, command
        assert words[1] != "bench" or len(words) == 2 or words[2] in known, command


# -- links ---------------------------------------------------------------------------------------------------------


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
