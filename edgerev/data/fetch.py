"""Fetching the files of a known data set over HTTP, resumed where the last attempt ended, and verified.

A part is gone on with by a Range request, with If-Range where the server gave an ETag or a time of change: a server
that has another file by now, or knows no ranges, sends all of it and the part begins anew. Where it lets a change slip
through, the digest finds it (RFC 9110, sections 13.1.5 and 14).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edgerev.data.known import KNOWN, Known, RemoteFile
from edgerev.data.part import Origin, Part, content_problem
from edgerev.errors import DataError, UsageError

if TYPE_CHECKING:
    import httpx

TIMEOUT_SECONDS = 30.0  # without a byte
MOST_ATTEMPTS = 20  # at one mirror, each of which brought something

Show = Callable[[str, int, "int | None"], None]


class Fetched(NamedTuple):
    """A file of a data set that is there now.

    Attributes
    ----------
    path : where
    kept : whether it was there before
    """

    path: Path
    kept: bool


class _RefusedError(Exception):
    """A mirror does not have the file; asking again would not help."""


def known(name: str) -> Known:
    """Return a known data set.

    Parameters
    ----------
    name : str
        Its name.

    Raises
    ------
    UsageError
        There is none of this name.
    """
    if name not in KNOWN:
        raise UsageError(f"no data set {name!r} to fetch; expected one of {', '.join(KNOWN)}; change the name")
    return KNOWN[name]


def fetch(
    data: Known, folder: str | os.PathLike[str], *, force: bool = False, show: Show = lambda name, done, total: None,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> list[Fetched]:  # fmt: skip
    """Fetch the files of a data set that are not there yet.

    Parameters
    ----------
    data : Known
        What to fetch.
    folder : str or os.PathLike
        Where to; made if it is not there.
    force : bool
        Whether to replace files that are there but are others; the right ones stay in any case.
    show : callable
        Called with a file's name, its bytes so far, and its size or None, as they come.
    timeout_seconds : float
        How long to wait for a connection, and for every next byte.

    Returns
    -------
    list of Fetched
        All files.

    Raises
    ------
    DataError
        No mirror has a right file, or it cannot be written. What came of it stays, as NAME.part.
    UsageError
        A file that is there is another one, or httpx is not installed.
    """
    where = Path(folder)
    try:
        where.mkdir(parents=True, exist_ok=True)
        there = {file: _find(where, file, force) for file in data.files}
        if not all(there.values()):
            with _client(timeout_seconds) as client:
                for file in data.files:
                    if there[file] is None:
                        _fetch_file(client, data, where / file.name, file, show)
    except FileExistsError as error:
        raise UsageError(f"{where} is no folder; expected one, or a new name; change it") from error
    except OSError as error:
        raise DataError(
            f"cannot keep the data set in {where} ({error}); expected a folder that can be read and written, with room "
            "for its files; free some space, or choose another"
        ) from error
    return [Fetched(there[file] or where / file.name, there[file] is not None) for file in data.files]


def _find(folder: Path, file: RemoteFile, force: bool) -> Path | None:
    """Return where a file lies already, packed or not; None if it is to be fetched."""
    found = None
    for path in _names(folder, file):
        if not os.path.lexists(path):
            continue
        problem = "is no file" if not path.is_file() else content_problem(path, file, path.suffix == ".gz")
        if not problem:
            found = path
        elif not force or path.is_dir():
            raise UsageError(
                f"{path} {problem}; expected the file of the data set, or none; move it away, or add --force to "
                "replace it"
            )
    return found


def _names(folder: Path, file: RemoteFile) -> list[Path]:
    """List the names under which a file may lie in a folder: a data set is read packed or unpacked."""
    return [folder / name for name in dict.fromkeys((file.name, file.name.removesuffix(".gz")))]


def _client(timeout_seconds: float) -> httpx.Client:
    try:
        import httpx
    except ImportError as error:
        raise UsageError("fetching needs httpx; install it with `pip install 'edgerev[data]'`") from error
    # unpacked or packed on the way, the bytes would not be those of the file
    headers = {"Accept-Encoding": "identity"}
    return httpx.Client(follow_redirects=True, timeout=timeout_seconds, headers=headers)


def _fetch_file(client: httpx.Client, data: Known, target: Path, file: RemoteFile, show: Show) -> None:
    with Part(target) as part:
        urls = [mirror + file.name for mirror in data.mirrors]
        urls.sort(key=lambda url: url != part.origin.url)  # first where the part came from
        problems = []
        for url in urls:
            problem = _from_mirror(client, url, file, part, show)
            if not problem:
                break
            problems.append(f"{url} {problem}")
        else:
            rest = "run it again to go on from what came" if part.size else "check the network, and try again later"
            raise DataError(
                f"cannot fetch {target}: {'; '.join(problems)}; expected the file from one of {len(urls)} mirrors; "
                f"{rest}, or put the file there yourself"
            )
        part.finish()
        for other in _names(target.parent, file)[1:]:  # another one, which was to be replaced
            other.unlink(missing_ok=True)


def _from_mirror(client: httpx.Client, url: str, file: RemoteFile, part: Part, show: Show) -> str:
    """Bring the part to its end from one mirror; return what was wrong, or nothing."""
    import httpx

    problem = ""
    for _ in range(MOST_ATTEMPTS):
        in_one = False  # whether all of it came in one answer, so that another attempt would bring the same
        if not part.has_all(url):
            had = part.size if part.origin.url == url else 0
            try:
                in_one = _receive(client, url, file, part, show)
            except _RefusedError as error:
                return str(error)
            except httpx.HTTPError as error:
                problem = f"broke off ({type(error).__name__}: {error})"
                if part.size > had:
                    continue
                return problem
        found = content_problem(part.path, file, file.name.endswith(".gz"))
        if not found:
            return ""
        part.clear()
        problem = f"sent what {found}"
        if in_one:
            break
    return problem


def _receive(client: httpx.Client, url: str, file: RemoteFile, part: Part, show: Show) -> bool:
    """Ask for what is missing and append it; return whether it was all of the file."""
    most = file.content_bytes + file.content_bytes // 1000 + 1024  # what gzip makes of bytes without any order
    origin, headers = part.origin, {}
    going_on = origin.url == url and part.size > 0
    if going_on:
        headers["Range"] = f"bytes={part.size}-"
        if origin.validator:
            headers["If-Range"] = origin.validator
    with client.stream("GET", url, headers=headers) as response:
        if going_on and response.status_code in (206, 416) and not _fits(response, part):
            part.clear()  # of another file, though the server did not say so
        elif response.status_code == 200 or (going_on and response.status_code == 206):
            _append(response, url, most, part, file.name, show)
            return response.status_code == 200
        else:
            raise _RefusedError(f"answers {response.status_code} {response.reason_phrase}".rstrip())
    return _receive(client, url, file, part, show)


def _append(response: httpx.Response, url: str, most: int, part: Part, name: str, show: Show) -> None:
    if response.status_code == 200:
        length = response.headers.get("Content-Length", "")
        part.begin(Origin(url, _validator(response), int(length) if length.isdigit() else None))
    total = part.origin.total_bytes
    show(name, part.size, total)
    for block in response.iter_raw():
        if part.size + len(block) > most:
            part.clear()
            raise _RefusedError(f"sends more than {most:,d} B, which the file cannot have")
        part.write(block)
        show(name, part.size, total)


def _fits(response: httpx.Response, part: Part) -> bool:
    """Return whether an answer to a Range request goes on where the part ends, in the same file."""
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if response.status_code != 206 or span is None or int(span[1]) != part.size:
        return False
    total, validator = part.origin.total_bytes, _validator(response)
    same_size = total is None or span[2] in ("*", str(total))
    return same_size and (not validator or validator == part.origin.validator)


def _validator(response: httpx.Response) -> str:
    """Return what identifies this version of a file in If-Range, where weak ETags do not count."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "")
