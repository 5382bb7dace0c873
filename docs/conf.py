"""Sphinx builds the site of `make docs` from the Markdown pages as they are, and from the docstrings of public names.

The source folder is the repository's root, so that a link works both here and on a code host.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pydantic
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging as sphinx_logging

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
log = sphinx_logging.getLogger(__name__)

project = "longtake"
author = "the longtake authors"
project_copyright = "the longtake authors"
html_title = "longtake"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
include_patterns = ["*.md", "docs/**.md", "docs/api/*.rst"]
exclude_patterns = [".venv", "out", "build"]
root_doc = "README"
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}

myst_heading_anchors = 3  # links to headings, as code hosts make them

# Docstrings write code between single backticks.
default_role = "code"
autodoc_typehints = "signature"
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True

nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(?!(blobstore|ltx2|tasks)\.[A-Za-z_0-9]+$).*"),  # only links to our public names must resolve
]

html_theme = "pydata_sphinx_theme"
html_theme_options = {
    "navbar_center": [],  # the sidebar has all pages, under their captions
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": False,
    "navigation_with_keys": False,
}
toc_object_entries = False
html_sidebars = {"**": ["globaltoc.html"]}
html_show_sourcelink = False
html_copy_source = False

ERROR_AFTER_ERROR = re.compile(r"(?<=\.) (?=\w[\w., ]*Error: )")
PUBLIC_PACKAGES = ("blobstore", "ltx2", "tasks")
# The README is the front page, and no code host would understand this in it.
NAVIGATION = """

```{toctree}
:hidden:
:caption: Use
docs/jobs
docs/editing
docs/extend
docs/models
docs/settings
docs/limits
docs/server
docs/takes
docs/operations
docs/upgrading
docs/joins
docs/small-model
```

```{toctree}
:hidden:
:caption: Understand
docs/architecture
docs/glossary
docs/reliability
docs/performance
docs/states
```

```{toctree}
:hidden:
:glob:
:caption: Decisions
docs/decisions/*
```

```{toctree}
:hidden:
:caption: API
docs/api/blobstore
docs/api/ltx2
docs/api/tasks
```

```{toctree}
:hidden:
:caption: Project
CONTRIBUTING
SECURITY
CHANGELOG
```
"""


def add_navigation(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the table of contents at the end of the front page."""
    if docname == root_doc:
        source[0] += NAVIGATION


def adapt_docstring(app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """Make reStructuredText of what our docstrings do besides: trees, lists of fields, several errors in a line."""
    if what == "module":
        lines.clear()
    fields = {field.name for field in dataclasses.fields(obj)} if dataclasses.is_dataclass(obj) else set()
    adapted: list[str] = []
    for line in lines:
        in_list = bool(adapted[-1:]) and adapted[-1].startswith((":param", " "))
        if line.partition(":")[0] in fields:
            adapted += [f":param {line}"] if in_list else ["", f":param {line}"]
        elif in_list and line and fields:  # the description of a field goes on
            adapted.append(f"    {line.strip()}")
        else:
            adapted += ERROR_AFTER_ERROR.sub("\n    ", line).splitlines() if line.startswith("    ") else [line]
    lines[:] = adapted


def shorten_signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None] | None:
    """Of a pydantic model only the names of its fields; their limits are in the pages."""
    if what == "class" and issubclass(obj, pydantic.BaseModel):
        return f"(*, {', '.join(obj.model_fields)})", None
    return None


def note_described_names(app: Sphinx, doctree: nodes.document) -> None:
    """Remember which names this page describes, and how many characters of text each has."""
    described = app.env.metadata[app.env.docname].setdefault("described", {})
    for entry in doctree.findall(addnodes.desc):
        signature, content = entry[0], entry[-1]
        if entry.get("domain") == "py" and isinstance(signature, addnodes.desc_signature):
            for name in signature["ids"]:
                described[name] = len(content.astext().strip())


def check_public_names(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn, which fails the build, about every public name that no page describes, or that has no docstring."""
    described: dict[str, int] = {}
    for metadata in env.metadata.values():
        described |= metadata.get("described", {})
    for package in PUBLIC_PACKAGES:
        module = importlib.import_module(package)
        for name in module.__all__:
            if not described.get(f"{package}.{name}"):
                log.warning("%s.%s is public, and no page in docs/api describes it", package, name)
        for name in undocumented(module):
            log.warning("%s is public and has no docstring", name)


def undocumented(module: ModuleType) -> Iterator[str]:
    """The public classes, functions and methods of a package that have no docstring of their own."""
    for name in module.__all__:
        thing = getattr(module, name)
        if inspect.isclass(thing):
            if not thing.__dict__.get("__doc__"):
                yield f"{module.__name__}.{name}"
            for member, value in vars(thing).items():
                function = getattr(value, "__func__", value)
                checked = inspect.isfunction(function) or isinstance(value, property)
                if checked and not member.startswith("_") and not inspect.getdoc(function):
                    yield f"{module.__name__}.{name}.{member}"
        elif inspect.isfunction(thing) and not thing.__doc__:
            yield f"{module.__name__}.{name}"


def add_index(app: Sphinx, exception: Exception | None) -> None:
    """Lead whoever opens the folder to the front page."""
    if exception is None and app.builder.format == "html":
        page = f'<!doctype html><meta http-equiv="refresh" content="0; url={root_doc}.html"><title>{project}</title>\n'
        (Path(app.outdir) / "index.html").write_text(page)


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    logging.getLogger("celery").setLevel(logging.ERROR)
    app.connect("source-read", add_navigation)
    app.connect("autodoc-process-docstring", adapt_docstring, priority=400)  # before napoleon's
    app.connect("autodoc-process-signature", shorten_signature)
    app.connect("doctree-read", note_described_names)
    app.connect("env-check-consistency", check_public_names)
    app.connect("build-finished", add_index)
