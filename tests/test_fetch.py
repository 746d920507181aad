"""Fetching data sets from a server on loopback that cuts connections, changes files and knows no ranges."""

import gzip
import hashlib
import io
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import toys
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgerev.data import fetch as fetching
from edgerev.data import open_dataset
from edgerev.data.fetch import Fetched, fetch
from edgerev.data.known import KNOWN, Known, RemoteFile
from edgerev.data.part import Part
from edgerev.errors import DataError, UsageError

CONTENT = np.random.default_rng(0).bytes(300_000)
PACKED = gzip.compress(CONTENT, mtime=0)
OTHER = gzip.compress(np.random.default_rng(1).bytes(300_000), mtime=0)
FILE = RemoteFile("values.gz", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))


class Remote:
    """A file on the server, and how it is sent: `cuts` has after how many bytes the next answers break off."""

    def __init__(self, data=PACKED, *, etag='"1"', modified="", ranges=True, heeds=True, length=True, cuts=(), to=""):
        self.data, self.etag, self.modified, self.ranges, self.heeds = data, etag, modified, ranges, heeds
        self.length, self.cuts, self.to = length, list(cuts), to


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        asked, condition = self.headers.get("Range", ""), self.headers.get("If-Range", "")
        self.server.log.append((self.path, asked, condition))
        assert self.headers["Accept-Encoding"] == "identity"
        remote = self.server.files.get(self.path)
        if remote is None:
            self.send_error(404)
        elif remote == "silent":
            self.server.over.wait()
            self.close_connection = True
        elif remote.to:
            self.send_response(302)
            self.send_header("Location", remote.to)
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            unchanged = not condition or condition in (remote.etag, remote.modified) or not remote.heeds
            self.send(remote, int(asked[6:-1]) if asked and remote.ranges and unchanged else None)

    def send(self, remote, start):
        total = len(remote.data)
        if start is not None and start >= total:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{total}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = remote.data[start or 0 :]
        self.send_response(200 if start is None else 206)
        if start is not None:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        for name, value in (("ETag", remote.etag), ("Last-Modified", remote.modified)):
            if value:
                self.send_header(name, value)
        if remote.length:
            self.send_header("Content-Length", str(len(body)))
        else:
            self.send_header("Connection", "close")
        self.end_headers()
        cut = remote.cuts.pop(0) if remote.cuts else len(body)
        self.wfile.write(body[:cut])
        self.close_connection = cut < len(body) or not remote.length

    def log_message(self, *words):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.log, self.over = {}, [], threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/"

    def handle_error(self, request, address):
        """Say nothing of clients that hang up."""

    def data(self, *mirrors, files=(FILE,)):
        """Return a data set on mirrors, which are folders of this server."""
        return Known("a toy", "CC0", tuple(f"{self.url}{mirror}/" for mirror in mirrors or "a"), tuple(files))

    def ranges(self):
        """Return where the requests so far began, and forget them."""
        starts = [int(asked[6:-1]) if asked else 0 for _, asked, _ in self.log]
        self.log.clear()
        return starts


@pytest.fixture(scope="module")
def running():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.over.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def server(running, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    running.files.clear()
    running.log.clear()
    return running


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def is_right(folder):
    return names(folder) == ["values.gz"] and gzip.decompress((folder / "values.gz").read_bytes()) == CONTENT


def test_what_is_fetched_is_kept(server, tmp_path):
    plain = RemoteFile("labels.csv", hashlib.sha256(b"label\n1\n").hexdigest(), 8)
    server.files.update({"/a/values.gz": Remote(), "/a/labels.csv": Remote(b"label\n1\n")})
    data, folder = server.data(files=[FILE, plain]), tmp_path / "new" / "set"
    paths = [folder / "values.gz", folder / "labels.csv"]
    assert fetch(data, folder) == [Fetched(path, False) for path in paths]
    assert names(folder) == ["labels.csv", "values.gz"]
    assert paths[0].read_bytes() == PACKED
    assert server.ranges() == [0, 0]
    before = [path.stat().st_ino for path in paths]
    for force in (False, True):
        assert fetch(data, folder, force=force) == [Fetched(path, True) for path in paths]
    assert [path.stat().st_ino for path in paths] == before
    assert server.log == []


@pytest.mark.parametrize("identified", [{"etag": '"abc"'}, {"etag": "", "modified": "Tue, 03 Nov 2026 10:00:00 GMT"}])
def test_a_cut_connection_is_gone_on_with(server, tmp_path, identified):
    server.files["/a/values.gz"] = Remote(cuts=[100_000, 1, 60_000], **identified)
    fetch(server.data(), tmp_path)
    assert is_right(tmp_path)
    conditions = {condition for _, _, condition in server.log[1:]}
    assert conditions == {identified.get("modified") or '"abc"'}
    assert server.ranges() == [0, 100_000, 100_001, 160_001]


def test_the_next_run_goes_on(server, tmp_path):
    server.files["/a/values.gz"] = Remote(cuts=[100_000, 0])
    with pytest.raises(DataError, match=r"values\.gz broke off \(Remote.*run it again to go on from what came"):
        fetch(server.data(), tmp_path)
    assert names(tmp_path) == ["values.gz.part", "values.gz.part.json"]
    assert (tmp_path / "values.gz.part").read_bytes() == PACKED[:100_000]
    server.log.clear()
    fetch(server.data("b", "a"), tmp_path)  # first from where the part came from
    assert is_right(tmp_path)
    assert server.log == [("/a/values.gz", "bytes=100000-", '"1"')]


def test_an_interrupted_run_leaves_what_came(server, tmp_path):
    def interrupt(name, done, total):
        assert (name, total) == ("values.gz", len(PACKED))
        if done > 50_000:
            raise KeyboardInterrupt

    server.files["/a/values.gz"] = Remote()
    with pytest.raises(KeyboardInterrupt):
        fetch(server.data(), tmp_path, show=interrupt)
    came = (tmp_path / "values.gz.part").stat().st_size
    assert came > 50_000
    fetch(server.data(), tmp_path)
    assert is_right(tmp_path)
    assert server.ranges() == [0, came]


CHANGES = {  # first ETag, then what the server has, then where its requests begin
    "found by the server": ('"1"', Remote(etag='"2"'), [100_000]),
    "found by the ETag": ('"1"', Remote(etag='"2"', heeds=False), [100_000, 0]),
    "found by the digest": ('"1"', Remote(etag='"1"'), [100_000, 0]),
    "no ETag": ("", Remote(etag=""), [100_000, 0]),
    "a weak ETag": ('W/"1"', Remote(etag='W/"1"'), [100_000, 0]),
    "an ETag at last": ("", Remote(etag='"1"'), [100_000, 0]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_file_starts_over(server, tmp_path, change):
    etag, changed, starts = CHANGES[change]
    server.files["/a/values.gz"] = Remote(OTHER, etag=etag, cuts=[100_000, 0])
    with pytest.raises(DataError, match="broke off"):
        fetch(server.data(), tmp_path)
    server.files["/a/values.gz"] = changed
    server.log.clear()
    fetch(server.data(), tmp_path)
    assert is_right(tmp_path)
    assert server.ranges() == starts


@pytest.mark.parametrize(("other", "cut"), [(OTHER + b"more", 100_000), (OTHER * 2, len(PACKED) + 100)])
def test_a_file_of_another_size_starts_over(server, tmp_path, other, cut):
    """Without an ETag the size in Content-Range tells, or that the server has nothing at that place."""
    server.files["/a/values.gz"] = Remote(other, etag="", cuts=[cut, 0])
    with pytest.raises(DataError, match="broke off"):
        fetch(server.data(), tmp_path)
    server.files["/a/values.gz"] = Remote(etag="")
    server.log.clear()
    fetch(server.data(), tmp_path)
    assert is_right(tmp_path)
    assert server.ranges() == [cut, 0]


def test_a_server_without_ranges_starts_over(server, tmp_path):
    server.files["/a/values.gz"] = Remote(ranges=False, cuts=[100_000, 150_000])
    fetch(server.data(), tmp_path)
    assert is_right(tmp_path)
    server.files["/a/values.gz"] = Remote(ranges=False, cuts=[100_000, 90_000])
    with pytest.raises(DataError, match="broke off"):
        fetch(server.data(), tmp_path / "less")


def test_attempts_come_to_an_end(server, tmp_path):
    server.files["/a/values.gz"] = Remote(cuts=[10] * 100)
    with pytest.raises(DataError, match="broke off"):
        fetch(server.data(), tmp_path)
    assert server.ranges() == list(range(0, 10 * fetching.MOST_ATTEMPTS, 10))


def test_mirrors_are_tried_in_turn(server, tmp_path):
    server.files.update({
        "/b/values.gz": Remote(OTHER), "/c/values.gz": Remote(cuts=[1000, 0]), "/d/values.gz": Remote(),
    })  # fmt: skip
    data = server.data("a", "b", "c", "d", "e")
    gone = data._replace(mirrors=("http://127.0.0.1:1/", *data.mirrors))
    fetch(gone, tmp_path)
    assert is_right(tmp_path)
    assert [path[1] for path, *_ in server.log] == ["a", "b", "c", "c", "d"]


def test_without_a_right_mirror_nothing_is_left(server, tmp_path):
    server.files["/b/values.gz"] = Remote(OTHER)
    server.files["/c/values.gz"] = Remote(PACKED[:-9], length=False)
    server.files["/d/values.gz"] = Remote(gzip.compress(bytes(len(CONTENT) + 1)))
    server.files["/e/values.gz"] = Remote(b"<html>", etag='W/"1"')
    server.files["/f/values.gz"] = Remote(bytes(400_000))
    server.files["/g/values.gz"] = Remote(bytes(400_000), length=False)
    with pytest.raises(DataError) as caught:
        fetch(server.data(*"abcdefg"), tmp_path)
    other = hashlib.sha256(gzip.decompress(OTHER)).hexdigest()
    for part in (
        r"^cannot fetch .*/values\.gz: http://127\.0\.0\.1:\d+/a/values\.gz answers 404 Not Found; ",
        rf"/b/values\.gz sent what has 300,000 B of sha256 {other}, not 300,000 B of {FILE.sha256}; ",
        r"/c/values\.gz sent what is no whole gzip file \(Compressed file ended.*\); ",
        r"/d/values\.gz sent what holds more than 300,000 B; ",
        r"/e/values\.gz sent what is no whole gzip file \(Not a gzipped file.*\); ",
        r"/f/values\.gz sends more than 301,324 B, which the file cannot have; ",
        r"/g/values\.gz sends more than 301,324 B, which .*; expected the file from one of 7 mirrors; check the net",
    ):
        assert re.search(part, str(caught.value)), part
    assert names(tmp_path) == []


def test_a_silent_server_is_left(server, tmp_path):
    server.files.update({"/a/values.gz": "silent", "/b/values.gz": Remote()})
    fetch(server.data("a", "b"), tmp_path, timeout_seconds=0.05)
    assert is_right(tmp_path)
    with pytest.raises(DataError, match=r"broke off \(ReadTimeout: timed out\); expected the file from one of 1"):
        fetch(server.data("a"), tmp_path / "new", timeout_seconds=0.05)


def test_a_mirror_may_redirect(server, tmp_path):
    server.files.update({"/a/values.gz": Remote(to="/elsewhere"), "/elsewhere": Remote(cuts=[1000])})
    fetch(server.data(), tmp_path)
    assert is_right(tmp_path)
    assert [path for path, *_ in server.log] == ["/a/values.gz", "/elsewhere"] * 2
    server.files["/a/values.gz"].to = "/a/values.gz"
    with pytest.raises(DataError, match="TooManyRedirects"):
        fetch(server.data(), tmp_path / "new")


def test_a_whole_part_is_only_verified(server, tmp_path, monkeypatch):
    def lose_power(part):
        raise KeyboardInterrupt

    server.files["/a/values.gz"] = Remote()
    with monkeypatch.context() as patch:
        patch.setattr(Part, "finish", lose_power)
        with pytest.raises(KeyboardInterrupt):
            fetch(server.data(), tmp_path)
    assert server.ranges() == [0]
    fetch(server.data(), tmp_path)
    assert is_right(tmp_path)
    assert server.log == []


@pytest.mark.parametrize("note", [b"", b"{", b"[]", b'{"url": 3}', b'{"url": "x", "total_bytes": 5}', None])
def test_a_part_of_unknown_origin_starts_over(server, tmp_path, note):
    (tmp_path / "values.gz.part").write_bytes(OTHER[:1000])
    if note is not None:
        (tmp_path / "values.gz.part.json").write_bytes(note)
    server.files["/a/values.gz"] = Remote()
    fetch(server.data(), tmp_path)
    assert is_right(tmp_path)
    assert server.ranges() == [0]


def test_files_that_are_others_are_replaced_only_by_force(server, tmp_path):
    server.files["/a/values.gz"] = Remote()
    for name, data in (("values.gz", OTHER), ("values.gz", PACKED[:-1]), ("values", CONTENT[1:])):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UsageError, match=rf"{name} (has|is|holds) .*; expected the file of the .* add --force"):
            fetch(server.data(), tmp_path)
        assert (tmp_path / name).read_bytes() == data
        assert server.log == []
        assert fetch(server.data(), tmp_path, force=True) == [Fetched(tmp_path / "values.gz", False)]
        assert is_right(tmp_path)
        (tmp_path / "values.gz").unlink()
        server.log.clear()
    (tmp_path / "values.gz").mkdir()
    for force in (False, True):
        with pytest.raises(UsageError, match=r"values\.gz is no file; expected the file"):
            fetch(server.data(), tmp_path, force=force)


def test_unpacked_files_are_kept(server, tmp_path):
    """Beside a packed one they would be read twice."""
    (tmp_path / "values").write_bytes(CONTENT)
    assert fetch(server.data(), tmp_path) == [Fetched(tmp_path / "values", True)]
    assert names(tmp_path) == ["values"]


def test_one_process_at_a_time(server, tmp_path):
    with Part(tmp_path / "values.gz"), pytest.raises(DataError, match=r"values\.gz\.part is in use; expected no other"):
        fetch(server.data(), tmp_path)


def test_folders_that_cannot_be_written(server, tmp_path, monkeypatch):
    def full(*where):
        raise OSError(28, "No space left on device")

    server.files["/a/values.gz"] = Remote()
    monkeypatch.setattr("edgerev.data.part.write_all", full)
    with pytest.raises(DataError, match=r"cannot keep the data set in .*No space left.*; free some space"):
        fetch(server.data(), tmp_path)
    assert names(tmp_path) == []
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="file is no folder; expected one"):
        fetch(server.data(), tmp_path / "file")


def test_without_httpx(server, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(UsageError, match=r"fetching needs httpx; install it with `pip install 'edgerev\[data\]'`"):
        fetch(server.data(), tmp_path)
    (tmp_path / "values.gz").write_bytes(PACKED)
    assert fetch(server.data(), tmp_path)[0].kept


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.integers(0, len(PACKED)), max_size=6), st.booleans(), st.sampled_from(['"1"', 'W/"1"', ""]),
    st.booleans(), st.booleans(), st.sampled_from([PACKED, OTHER]),
)  # fmt: skip
def test_whatever_a_server_does_the_name_means_the_right_file(
    server, tmp_path_factory, cuts, ranges, etag, heeds, length, before
):
    folder = tmp_path_factory.mktemp("any")
    server.files["/a/values.gz"] = Remote(before, cuts=[*cuts, 0], ranges=ranges, etag=etag)
    for remote in (None, Remote(cuts=cuts, ranges=ranges, etag=etag, heeds=heeds, length=length), Remote(etag=etag)):
        if remote:
            server.files["/a/values.gz"] = remote
        try:
            fetch(server.data(), folder)
        except DataError:
            assert "values.gz" not in names(folder)
        else:
            assert is_right(folder)
            break
    assert is_right(folder)


# -- the command line ----------------------------------------------------------------------------------------------


def test_fetched_data_can_be_opened(server, tmp_path, monkeypatch, cli):
    made = toys.write_idx(tmp_path / "made", *toys.images(12), compress=True)
    files = []
    for path in sorted(made.iterdir()):
        content = gzip.decompress(path.read_bytes())
        server.files[f"/a/{path.name}"] = Remote(path.read_bytes())
        files.append(RemoteFile(path.name, hashlib.sha256(content).hexdigest(), len(content)))
    monkeypatch.setitem(KNOWN, "toy", server.data(files=files))
    monkeypatch.chdir(tmp_path)
    for says, options in (("fetched and verified", []), ("was there already, the right one", ["--force"])):
        done = cli("data", "fetch", "toy", *options)
        assert (done.code, done.err) == (0, "")
        lines = [rf"toy/train-{kind}-ubyte\.gz: {says}.*\n" for kind in ("images-idx3", "labels-idx1")]
        assert re.fullmatch("".join(lines) + "toy: a toy; CC0\n", done.out)
    assert len(open_dataset("toy").train) == 12
    (tmp_path / "toy" / "train-labels-idx1-ubyte.gz").write_bytes(b"")
    assert cli("data", "fetch", "toy").code == 2
    server.files.clear()
    assert cli("data", "fetch", "toy", "-o", "other").code == 1
    assert names(tmp_path / "other") == []


def test_names_that_are_not_known(cli, tmp_path):
    done = cli("data", "fetch", "minst", "-o", tmp_path / "new")
    assert (done.code, done.out) == (2, "")
    assert done.err == "edgerev: error: no data set 'minst' to fetch; expected one of mnist; change the name\n"
    assert not (tmp_path / "new").exists()
    assert cli("data").code == 2


def test_progress_on_a_terminal(server, tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    from edgerev.cli import main

    server.files["/a/values.gz"] = Remote(ranges=False, cuts=[200_000, 250_000])
    monkeypatch.setitem(KNOWN, "toy", server.data())
    monkeypatch.setattr("sys.stderr", Terminal())
    assert main(["data", "fetch", "toy", "-o", str(tmp_path)]) == 0
    assert "values.gz: " in sys.stderr.getvalue()


def test_digests_are_those_of_the_real_files(shared_data):
    for file in KNOWN["mnist"].files:
        content = gzip.decompress((shared_data / "mnist" / file.name).read_bytes())
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (file.sha256, file.content_bytes)
