"""Sphinx configuration; the build needs no network."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import spared_sc

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS / "_ext"))

# Sphinx reads only what lies below its own folder.
_copies = DOCS / "tutorials"
shutil.rmtree(_copies, ignore_errors=True)
_copies.mkdir()
for _notebook in sorted((DOCS.parent / "tutorials").glob("*.ipynb")):
    shutil.copy(_notebook, _copies)

project = "spared-sc"
author = "the spared-sc developers"
copyright = author
version = release = spared_sc.__version__

from live import live_explorer  # noqa: E402

extensions = [
    "generated",
    "results",
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_autodoc_typehints",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "_ext", "generated/_*", "**.ipynb_checkpoints"]
root_doc = "index"
default_role = "literal"  # in docstrings, a single backtick marks code

html_theme = "furo"
html_title = f"spared-sc {release}"

nb_execution_mode = "off"  # the notebooks hold their outputs; a test runs them
html_static_path = ["_static"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "substitution"]
myst_substitutions = {"live_explorer": live_explorer(DOCS / "_static")}
myst_heading_anchors = 3

autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_numpy_docstring = True
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_custom_sections = ["Returns"]  # prose and lists of slots, not names with types
typehints_document_rtype = False
typehints_defaults = None
always_use_bars_union = True

nitpicky = True
# There is no network at build time, hence no links into other projects.
nitpick_ignore_regex = [
    ("py:.*", r"(anndata|collections|distributed|matplotlib|numpy|pandas|pathlib|typing)\..*"),
    ("py:.*", r"(AnnData|Axes|Colormap|Figure|Iterator|Literal|Mapping|Path|Sequence|pd\..*)"),
    ("py:class", r"(Any|None|True|False|bool|dict|float|int|list|object|str|tuple)"),
    ("py:exc", r"\w*(Error|Warning)"),
    ("py:class", r"spared_sc\._(core\.settings\.Settings|models\..*)"),
]


def _tidy_returns(app, what, name, obj, options, lines):
    """Drop the colon that sphinx-autodoc-typehints puts before prose for napoleon's own Returns section."""
    if ".. rubric:: Returns" in lines:
        start = lines.index(".. rubric:: Returns")
        if ":" in lines[start : start + 3]:
            lines.remove(":")


def setup(app):
    app.connect("autodoc-process-docstring", _tidy_returns, priority=900)  # after the extensions
