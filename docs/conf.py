"""How Sphinx builds the site from these pages; `make docs` does it."""

import os
import re
import sys

sys.path.insert(0, os.path.dirname(__file__))

import edgerev

project = "edgerev"
author = "the edgerev authors"
release = edgerev.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc", "verbs"]

source_suffix = {".md": "markdown", ".rst": "restructuredtext"}  # numpydoc brings autosummary, which wants the latter
myst_heading_anchors = 3  # links such as page.md#heading work on a code host, too
myst_enable_extensions = ["colon_fence"]
suppress_warnings = ["myst.header"]  # a page taken from the README begins below its title

default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings tell shapes and units
numpydoc_show_class_members = False
add_module_names = False

html_theme = "furo"
html_title = f"edgerev {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False


def at_home(app, docname, source):
    """Turn links out of this folder into links within the site, where these pages are on it."""
    for name, page in (("README", "figures"), ("CONTRIBUTING", "contributing"), ("CHANGELOG", "changelog")):
        source[0] = re.sub(rf"\]\(\.\./{name}\.md(#[\w-]+)?\)", f"]({page}.md)", source[0])


def readable(app, what, name, obj, options, lines):
    """Fit docstrings to numpydoc: a parameter's words may go on in the next line; modules share a page."""
    for place in range(len(lines) - 1, 0, -1):
        before, line = lines[place - 1], lines[place]
        if re.match(r"[\w*, ]+ : ", before) and re.match(r" +[^A-Z\s]", line):
            lines[place - 1 : place + 1] = [f"{before} {line.strip()}"]
        elif what == "module" and line and not line.strip("-"):
            lines[place - 1 : place + 1] = [f".. rubric:: {before}", ""]


def alias(app, what, name, obj, skip, options):
    """Leave out the fields of named tuples, which the class's own text tells."""
    return True if str(getattr(obj, "__doc__", "")).startswith("Alias for field number") else None


def setup(app):
    """Connect what this file adds."""
    app.connect("source-read", at_home)
    app.connect("autodoc-process-docstring", readable, priority=400)  # before numpydoc
    app.connect("autodoc-skip-member", alias)
