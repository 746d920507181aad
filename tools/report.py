"""The benchmark report: chapters measured one after another, kept as they come, and one page of all.

Each chapter's figures are a file of their own as soon as they are there, so what was interrupted goes on where it was.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import edgerev
from edgerev.errors import EdgerevError, UsageError
from edgerev.tools.report_chapters import Chapter, Choice
from edgerev.tools.report_page import write_page

Report = dict[str, Any]  # by chapter: `figures` or `left_out`, `seconds`, `measured`


def make_report(
    folder: str, chapters: Sequence[Chapter], choice: Choice, *, again: bool = False,
    tell: Callable[[Chapter, float], None] = lambda *_: None,
) -> dict[str, str]:
    """Measure what is not measured yet, and write the page; return its path, and why chapters were left out, by name.

    Parameters
    ----------
    folder : where the page, ``report.json`` and the figures of each chapter go; made if it is not there
    again : whether to measure all anew
    tell : called before each chapter, with the minutes left as far as they are known

    Raises
    ------
    UsageError
        The folder has figures that were measured in another way; nothing was measured.
    """
    place = Path(folder) / "figures"
    place.mkdir(parents=True, exist_ok=True)
    report: Report = {} if again else {
        chapter.name: found for chapter in chapters if (found := _kept(place, chapter, choice)) is not None
    }  # fmt: skip
    left = [chapter for chapter in chapters if chapter.name not in report]
    for number, chapter in enumerate(left):
        tell(chapter, sum(other.minutes[choice.quick] for other in left[number:]))
        report[chapter.name] = found = _measured(chapter, choice)
        _write(place / f"{chapter.name}.json", found)
    whole = {chapter.name: report[chapter.name] for chapter in chapters}
    _write(Path(folder) / "report.json", whole)
    page = os.path.join(folder, "index.html")
    write_page(page, chapters, whole)
    return {"page": page, **{name: found["left_out"] for name, found in whole.items() if "left_out" in found}}


def _measured(chapter: Chapter, choice: Choice) -> dict[str, Any]:
    lacking, start = chapter.needs(choice), time.perf_counter()
    found: dict[str, Any] = {"how": _how(choice), "measured": time.strftime("%Y-%m-%d %H:%M")}
    if lacking:
        return {**found, "left_out": lacking}
    try:
        figures = chapter.measure(choice)
    except EdgerevError as error:  # one chapter that fails costs no other
        return {**found, "left_out": f"failed: {error}"}
    return {**found, "figures": figures, "seconds": round(time.perf_counter() - start, 1)}


def _how(choice: Choice) -> dict[str, Any]:
    return {"version": edgerev.__version__, "quick": choice.quick}


def _kept(place: Path, chapter: Chapter, choice: Choice) -> dict[str, Any] | None:
    """Return a chapter that was measured before; one that was left out is tried again."""
    path = place / f"{chapter.name}.json"
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        how, figures = found["how"], found.get("figures")
    except (ValueError, LookupError, AttributeError) as error:
        raise UsageError(f"{path}: {error!r}; expected figures of a report; remove it, or add --again") from error
    if figures is None:
        return None
    if how != _how(choice):
        raise UsageError(
            f"{path} was measured with {how}; expected {_how(choice)}, for all figures are to be of one kind; name "
            "another folder, or add --again"
        )
    return found


def _write(path: Path, value: Any) -> None:
    """Write a file whole, or leave what was there."""
    new = path.with_name(f".{path.name}-new")
    new.write_text(json.dumps(value, indent=1), encoding="utf-8")
    os.replace(new, path)
