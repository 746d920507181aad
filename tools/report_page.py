"""The page of the benchmark report: one file with its plots and its raw figures."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from edgerev.errors import UsageError
from edgerev.tools.plotting import plotter
from edgerev.tools.report_chapters import Chapter
from edgerev.tools.report_plots import PLOTS

_LISTS = ("rows", "depths", "batches", "threads")  # of figures, each becomes a table


def write_page(path: str, chapters: Sequence[Chapter], report: dict[str, Any]) -> None:
    """Write the page.

    Parameters
    ----------
    report : as `edgerev.tools.report.make_report` keeps it

    Raises
    ------
    UsageError
        jinja2 or matplotlib is not installed.
    """
    template = page_template()
    sections = [_section(chapter, report[chapter.name]) for chapter in chapters]
    raw = json.dumps(report).replace("<", "\\u003c")  # or a text could end the script that holds it
    text = template.render(sections=sections, raw=raw)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def page_template() -> Any:
    """Return the template of the page, and find out whether plots can be drawn; see `write_page`."""
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise UsageError(f"a report needs jinja2 ({error}); install it: pip install 'edgerev[report]'") from error
    plotter()
    folder = os.path.join(os.path.dirname(__file__), "templates")
    environment = Environment(loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("report.html")


def _section(chapter: Chapter, found: dict[str, Any]) -> dict[str, Any]:
    figures = found.get("figures")
    section = {
        "name": chapter.name, "title": chapter.title, "text": chapter.text, "command": chapter.command,
        "measured": found["measured"], "seconds": found.get("seconds"), "left_out": found.get("left_out", ""),
        "facts": [], "tables": [], "plots": [],
    }  # fmt: skip
    if figures is not None:
        section["facts"] = [
            (_words(name), _shown(name, value)) for name, value in figures.items()
            if not isinstance(value, (list, dict)) and value is not None
        ]  # fmt: skip
        section["tables"] = [_table(figures[name]) for name in _LISTS if _is_table(figures.get(name))]
        section["plots"] = PLOTS[chapter.name](figures) if chapter.name in PLOTS else []
    return section


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    flat = [_flat(row) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    return {
        "head": [_words(name) for name in names],
        "rows": [[_shown(name, row.get(name)) for name in names] for row in flat],
    }


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row without rows in it: what is by name gets a column for each."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            flat |= {f"{name} {inner}": other for inner, other in value.items()}
        elif isinstance(value, list):
            flat |= {f"{name} {number + 1}": other for number, other in enumerate(value)}
        else:
            flat[name] = value
    return flat


def _words(name: str) -> str:
    return name.replace("_", " ")


def _shown(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,d}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)
