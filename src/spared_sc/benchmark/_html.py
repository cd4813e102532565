"""Pieces of a page of HTML that needs no other file and no network."""

from __future__ import annotations

import base64
import html
import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STYLE = """
body { font-family: system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; line-height: 1.45 }
table { border-collapse: collapse; font-size: 0.85rem; margin: 0.5rem 0 }
th, td { padding: 0.2rem 0.6rem; border-bottom: 1px solid #ddd; text-align: right }
th:first-child, td:first-child { text-align: left }
pre { background: #f5f5f5; padding: 0.8rem; white-space: pre-wrap; font-size: 0.85rem }
img { max-width: 100% }
figure { margin: 1rem 0 } figcaption { font-size: 0.85rem; color: #555 }
.wide { overflow-x: auto }
.missing { color: #b03000 }
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # nothing is fetched, no script runs


def page(title: str, parts: Iterable[str]) -> str:
    """The whole page."""
    return "\n".join([
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{html.escape(title)}</h1>",
        *parts,
        "</body></html>",
        "",
    ])  # fmt: skip


def heading(text: str, level: int = 2) -> str:
    """A heading."""
    return f"<h{level}>{html.escape(text)}</h{level}>"


def paragraph(text: str, *, missing: bool = False) -> str:
    """A paragraph; one about what is missing stands out."""
    return f"<p{' class=missing' if missing else ''}>{html.escape(text)}</p>"


def lines(text: str) -> str:
    """Text with its line breaks."""
    return f"<pre>{html.escape(text)}</pre>"


def table(frame: pd.DataFrame, *, index: bool = True) -> str:
    """A table, with numbers in three digits."""
    shown = frame.copy()
    for i, kind in enumerate(shown.dtypes):
        if kind.kind == "f":
            shown.isetitem(i, [_number(value) for value in shown.iloc[:, i]])
    return f'<div class="wide">{shown.to_html(escape=True, border=0, index=index, na_rep="")}</div>'


def _number(value: Any) -> str:
    return f"{value:.3g}" if value == value else ""


def folded(summary: str, content: str) -> str:
    """Content that shows after a click on its summary."""
    return f"<details><summary>{html.escape(summary)}</summary>{content}</details>"


def figure(drawn: Figure | Axes, caption: str) -> str:
    """A plot as an image inside the page; the plot is closed."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    fig: Any = drawn if hasattr(drawn, "savefig") else drawn.figure
    content = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "spared-sc"}):  # equal plots are equal bytes
        fig.savefig(content, format="svg", metadata={"Date": None}, bbox_inches="tight")
    plt.close(fig)
    text = base64.b64encode(content.getvalue()).decode()
    words = html.escape(caption, quote=True)
    return (
        f'<figure><img alt="{words}" src="data:image/svg+xml;base64,{text}"><figcaption>{words}</figcaption></figure>'
    )
