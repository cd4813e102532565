"""The explorer's page that the documentation links to."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import spared_sc as sp

if TYPE_CHECKING:
    from pathlib import Path


def live_explorer(static: Path) -> str:
    """A link to the page of the lung organoids where `measurements/explorer.py --live` has written it, else to a made-up one."""
    if (static / "explorer_vlo" / "index.html").is_file():
        return f"{_link('explorer_vlo', 'Open the page of the human lung organoids')}, completed and audited."
    if find_spec("bokeh") is None:
        return "This build has no example page: Bokeh is not installed."
    adata = sp.datasets.synthetic(n_libraries=2, n_genes=60, depth=1000)
    sp.pp.recipe_spared(adata, library_key="library_id", n_genes=24)
    sp.tl.complete(adata, method="kernel", library_key="library_id")
    title = "A made-up collection"
    sp.explore(adata, static / "explorer_example", library_key="library_id", title=title, open_browser=False)
    return f"{_link('explorer_example', 'Open an example page')} of a made-up collection."


def _link(folder: str, text: str) -> str:
    """HTML: a link in Markdown would become one to a copy of the file alone."""
    return f'<a href="_static/{folder}/index.html">{text}</a>'
