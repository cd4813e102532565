"""Sphinx extension: tables of methods, slots, functions and files, written into `docs/generated` from the package itself."""

from __future__ import annotations

import ast
import inspect
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import spared_sc as sp
from spared_sc.benchmark._tables import CELLS, SCORES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pandas as pd

    from spared_sc.benchmark._tables import Column

# Headings of the API page, with words of the names below them. A function without a match comes under the last heading.
MODULES = {
    "datasets": ("Data sets", {"": r"."}),
    "pp": (
        "Preprocessing",
        {
            "Splits": r"librar",
            "Batch effects and deviations from the mean": r"combat|center",
            "Tissue images": r"alignment|patches|slide",
            "Spots, genes and values": r".",
        },
    ),
    "tl": (
        "Tools",
        {
            "Completion": r"complet|hide",
            "Prediction from the H&E image": r".",
        },
    ),
    "pl": (
        "Plots",
        {
            "Benchmarks": r"benchmark|critical|catalogue",
            "Completion": r"missing|audit|completion|training|spatial",
            "Images and predictions": r"alignment|patches|predict|gene_scores",
            "Sections and genes": r".",
        },
    ),
    "get": ("Tables", {"": r"."}),
    "benchmark": ("Benchmark", {"": r"."}),
}
SLOT = re.compile(r'(?:layers|obs|var|obsm|varm|obsp|varp|uns)(?:\["[^"\]]+"\])+')
ROLE = re.compile(r":\w+:`~?(?:spared_sc\.)?([^`]+)`")
KINDS = {
    "layers": "Layers",
    "obs": "Columns of obs",
    "var": "Columns of var",
    "obsm": "obsm and varm",
    "varm": "obsm and varm",
    "obsp": "obsp",
    'uns["spared_sc"]': "Records",
    "uns": "uns",
}


def write(folder: Path) -> None:
    """All generated pages and tables."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tables = {
        "api": api(),
        "slots": slots(),
        "modules": modules(),
        "completers": table(sp.tl.completers(), method="", summary="summary", needs="needs", paper="source"),
        "predictors": table(
            sp.tl.predictors(),
            model="",
            summary="summary",
            needs="needs",
            paper="source",
            pretrained="pretrained weights",
        ),
        "encoders": encoders(),
        "datasets": datasets(),
        "benchmark_cells": columns(CELLS),
        "benchmark_scores": columns(SCORES),
    }
    for name, text in tables.items():
        (folder / f"_{name}.md").write_text(text)
    for name in public_names():
        (folder / f"spared_sc.{name}.rst").write_text(stub(name))


# --- functions --------------------------------------------------------------------------------------------------------


def public_names() -> list[str]:
    """Every public function, `module.function`."""
    return [f"{module}.{name}" for module in MODULES for name in getattr(sp, module).__all__]


def docstring(name: str) -> str:
    """Docstring of a public function."""
    module, _, function = name.partition(".")
    return inspect.getdoc(getattr(getattr(sp, module), function)) or ""


def stub(name: str) -> str:
    """Page of one function."""
    title = f"sp.{name}"
    return f"{title}\n{'=' * len(title)}\n\n.. autofunction:: spared_sc.{name}\n"


def api() -> str:
    """Functions by module and heading, with the first line of their docstrings."""
    lines = []
    for module, (title, groups) in MODULES.items():
        lines += [f"## {title}: `sp.{module}`", ""]
        left = list(getattr(sp, module).__all__)
        for heading, words in groups.items():
            names = [name for name in left if re.search(words, name)]
            left = [name for name in left if name not in names]
            lines += [f"### {heading}", ""] if heading and names else []
            lines += rows(
                ["function", ""], [(_link(f"{module}.{name}"), _first_line(f"{module}.{name}")) for name in names]
            )
    pages = "\n".join(f"generated/spared_sc.{name}" for name in public_names())
    return "\n".join([*lines, "```{toctree}", ":hidden:", "", pages, "```", ""])


def _link(name: str) -> str:
    return f"{{doc}}`sp.{name} <generated/spared_sc.{name}>`"


def _first_line(name: str) -> str:
    return plain(docstring(name).split("\n\n")[0])


# --- slots ------------------------------------------------------------------------------------------------------------


def slots() -> str:
    """What every slot holds and who writes it, by kind; slots that share both share a row."""
    contents: dict[str, str] = {}
    writers: dict[str, list[str]] = {}
    for name in public_names():
        for slot, text in documented_slots(name):
            if contents.get(slot, "By ").startswith("By "):  # recipes name the function that says it
                contents[slot] = text
            writers[slot] = [*dict.fromkeys([*writers.get(slot, []), name])]
    tables: dict[str, dict[tuple[str, str], list[str]]] = {title: {} for title in KINDS.values()}
    for slot, content in contents.items():
        kind = next(title for prefix, title in KINDS.items() if slot.startswith(prefix + "["))
        row = (content, ", ".join(f"`{name}`" for name in writers[slot]))
        tables[kind].setdefault(row, []).append(f"`{slot}`")
    lines = []
    for kind, entries in tables.items():
        cells = [(", ".join(names), content, who) for (content, who), names in entries.items()]
        lines += [f"## {kind}", "", *rows(["slot", "content", "written by"], cells)]
    return "\n".join(lines)


def documented_slots(name: str) -> Iterator[tuple[str, str]]:
    """Slots in the Returns section of a docstring, each with its first sentence."""
    section = re.search(r"^Returns\n-+\n(.*?)(?=^\w[\w ]*\n-+\n|\Z)", docstring(name), flags=re.MULTILINE | re.DOTALL)
    # Entries are a term and an indented text, or a list item with both.
    entries = re.split(r"\n(?=`|- )", section[1] if section else "")
    for entry in entries:
        head, _, text = entry.split("\n\n")[0].partition(": " if entry.startswith("- ") else "\n")
        sentence = re.split(r"(?<=[.;])\s", plain(text) + " ")[0].rstrip(".; ")
        sentence = sentence[:1].upper() + sentence[1:]
        for slot in SLOT.findall(head):
            yield slot, sentence


# --- methods ----------------------------------------------------------------------------------------------------------


def table(frame: pd.DataFrame, **columns: str) -> str:
    """Columns of a table of methods under new headings; the first one is the index."""
    headings = [heading or key for key, heading in columns.items()]
    cells = [
        [f"`{name}`" if not heading else str(row[key]) for key, heading in columns.items()]
        for name, row in frame.iterrows()
    ]
    return "\n".join(rows(headings, cells))


def encoders() -> str:
    """Encoders that were trained on histology."""
    frame = sp.tl.encoders()
    frame = frame[frame["source"] == "hub"].assign(
        features=lambda f: [f"{dim:,.0f}" for dim in f["dim"]],
        scale=lambda f: [", ".join(f"{mpp:g}" for mpp in scales) or "not stated" for scales in f["mpp"]],
        access=lambda f: ["gated" if gated else "open" for gated in f["gated"]],
    )
    return table(
        frame, encoder="", features="features", scale="trained at, µm per pixel", licence="licence", access="access"
    )


def datasets() -> str:
    """Data sets that are loaded by name."""
    frame = sp.datasets.catalogue()
    printed = frame["spots"].notna()  # in Table 1 of the paper
    columns = {
        "splits": lambda row: f"{row.train} / {row.val} / {row.test}",
        "spots": lambda row: f"{row.spots:,}" if printed[row.Index] else "",
        "missing": lambda row: f"{row.missing_before} / {row.missing_after}" if printed[row.Index] else "",
        "paper": lambda row: f"[{_authors(row)}](https://doi.org/{row.doi})" if row.doi else _authors(row),
    }
    frame = frame.assign(**{name: [text(row) for row in frame.itertuples()] for name, text in columns.items()})
    return table(
        frame,
        name="",
        title="title",
        organism="organism",
        splits="train / val / test",
        spots="spots",
        missing="missing, before / after",
        folder="folder",
        paper="data of",
    )


def _authors(row: Any) -> str:
    return row.citation.split(",")[0]


def columns(described: Iterable[Column]) -> str:
    """Columns of a table of the benchmark."""
    return "\n".join(rows(["column", "type", ""], [(f"`{one.name}`", one.kind, one.meaning) for one in described]))


# --- files ------------------------------------------------------------------------------------------------------------


def modules() -> str:
    """Every file of the package, with the first line of its docstring."""
    source = Path(sp.__file__).parent
    lines = []
    for folder in [source, *sorted(path for path in source.rglob("*") if path.is_dir())]:
        files = [path for path in sorted(folder.glob("*.py")) if path.read_text().strip()]
        if files:
            name = folder.relative_to(source.parent).as_posix()
            lines += [f"### `{name}`", "", *rows(["file", ""], [(f"`{path.name}`", sentence(path)) for path in files])]
    return "\n".join(lines)


def sentence(path: Path) -> str:
    """First line of a module's docstring, or of the function that it is named after."""
    tree = ast.parse(path.read_text())
    named = [node for node in tree.body if getattr(node, "name", None) == path.stem.removeprefix("_")]
    texts = [text for node in (tree, *named) if (text := ast.get_docstring(node))]
    return plain(texts[0].split("\n\n")[0]) if texts else ""


# --- text -------------------------------------------------------------------------------------------------------------


def rows(headings: list[str], cells: Any) -> list[str]:
    """A Markdown table, and an empty line."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in cells]
    return [f"| {' | '.join(row)} |" for row in [headings, ["---"] * len(headings), *escaped]] + [""]


def plain(text: str) -> str:
    """Docstring text as one line of Markdown."""
    return " ".join(ROLE.sub(r"`\1`", text).split())


def setup(app: Any) -> dict[str, bool]:
    """Write before Sphinx looks for pages."""
    app.connect("config-inited", lambda app, config: write(Path(app.srcdir) / "generated"))
    return {"parallel_read_safe": True}
