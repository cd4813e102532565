from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from spared_sc._core import docs
from spared_sc._core.audits import VERDICTS, audit_key, audit_table
from spared_sc._core.record import records_of
from spared_sc._core.sdata import accepts_spatialdata
from spared_sc._core.validate import check_adata, check_number
from spared_sc._kernels.verdicts import COMPLETE, DENOISE, UNDECIDED
from spared_sc.pl._marks import BLUE, ORANGE, VERMILION, check_genes, check_size, finish, height_in_points

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

_LOOKS = {  # verdict -> colour, meaning
    COMPLETE: (BLUE, "filled values beat averages: use the completed layer"),
    DENOISE: (ORANGE, "expected counts beat depth x share: use the denoised layer"),
    UNDECIDED: ("0.55", "nothing is shown at this depth: use the measured values"),
}
_SCORES = {  # column -> title, what it is a share of
    "skill": ("Expected counts", "skill: share of\nthe deviance explained"),
    "gain": ("Filled values", "gain: share of\nthe error removed"),
}
_HARM = "Over all genes nothing is gained: use the measured values."
_LABEL_SIZE = 7  # points
_ROW = 1.25 * _LABEL_SIZE / 72  # inches for a gene with its name
_CHARACTERS = 12.5  # of the summary in an inch
_LINE = 0.24  # inches, of the summary
_WIDTHS = {"verdicts": 3.4, "skill": 3.4, "gain": 3.4, "missing": 1.4}  # inches


@accepts_spatialdata
@docs.fill()
def audit(
    adata: AnnData,
    *,
    key: str | None = None,
    genes: str | Sequence[str] | None = None,
    n_genes: int | None = None,
    figsize: tuple[float, float] | None = None,
    show: bool | None = None,
) -> Figure:
    """Show the audit of a completion: for which genes its layers are better than averages, and how far.

    The summary stands on top, with a warning if nothing is gained. At the left, the genes by verdict. At the right, one
    row per gene in the colour of its verdict, in the order of :func:`spared_sc.get.audit`: skill and gain with their 95 %
    intervals, and the share of spots without a count. At 0 the method is no better than averages, below 0 it is worse.

    Parameters
    ----------
    adata
        Spots x genes, with the results of `sp.tl.audit_completion`.
    key
        The `key_added` of that call. Needed when there are several audits.
    genes
        Genes to show at the right, such as markers. `None` shows all that were audited.
    n_genes
        Number of genes to show at the right, evenly spaced in their order, the first and the last among them. `None`
        shows all.
    {others}

    Returns
    -------
    The figure. Genes are named if all names fit. Arrows stand for genes whose value lies beyond the left end of the
    axis. Without expected counts there is no skill.

    Raises
    ------
    KeyError
        If there is no such audit, or one of `genes` is not in the object.
    ValueError
        If there are several audits and no `key`, or if no gene or none of `genes` was audited.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=2, shape=(8, 8), n_genes=20, depth=300, image=False)
    >>> sp.pp.normalize_tpm(adata)
    >>> sp.tl.audit_completion(adata, method="kernel", quick=True, library_key="library_id")  # doctest: +ELLIPSIS
    audit of 'kernel': ...
    >>> fig = sp.pl.audit(adata)
    """
    import matplotlib.pyplot as plt

    key = audit_key(check_adata(adata), key)
    record, table = records_of(adata)[key], audit_table(adata, key)
    shown = _shown(adata, table, genes, n_genes)
    scores = [name for name in _SCORES if table[name].notna().any()]
    widths = [_WIDTHS[name] for name in ("verdicts", *scores, "missing")]
    size = figsize or (sum(widths) + 0.6, float(np.clip(2.5 + _ROW * len(shown), 5, 10)))
    check_size(size)
    lines = textwrap.wrap(str(record["summary"]), int(_CHARACTERS * size[0])) or [""]
    fig = plt.figure(figsize=size, layout="constrained")
    height = 0.1 + _LINE * len(lines)
    grid = fig.add_gridspec(2, len(widths), height_ratios=(height, size[1] - height), width_ratios=widths)
    if record["harm"]:
        fig.suptitle(_HARM, color=VERMILION, fontweight="bold")
    _write_summary(fig.add_subplot(grid[0, :], label="<summary>"), lines)
    _draw_verdicts(fig.add_subplot(grid[1, 0], label="<verdicts>"), table["verdict"], adata.n_vars)
    first, beyond = None, False
    for at, name in enumerate(scores, start=1):
        ax = fig.add_subplot(grid[1, at], label=f"<{name}>", sharey=first)
        beyond |= _draw_score(ax, shown, name)
        if first is None:
            first = ax
        else:
            ax.tick_params(axis="y", left=False, labelleft=False)
    missing = fig.add_subplot(grid[1, -1], label="<missing>", sharey=first)
    _draw_missing(missing, shown)
    _name_genes(missing if first is None else first, shown)
    fig.legend(handles=_marks(beyond), loc="outside lower right", ncols=2, frameon=False)
    return finish(fig, show)


def _shown(adata: AnnData, table: pd.DataFrame, genes: str | Sequence[str] | None, n_genes: int | None) -> pd.DataFrame:
    """The genes of the panels at the right."""
    check_number("n_genes", 1 if n_genes is None else n_genes, 1, whole=True)
    if genes is not None:
        table = table[table.index.isin(check_genes(genes, adata.var_names, "adata.var_names", "genes"))]
    if table.empty:
        raise ValueError("none of the genes was audited: leave `genes` out, or audit more genes.")
    at = np.linspace(0, len(table) - 1, min(n_genes or len(table), len(table))).round().astype(int)
    return table.iloc[at]


def _write_summary(ax: Axes, lines: list[str]) -> None:
    """The summary over the whole width: the layout gives it a row of its own, and must not make room at its sides."""
    from matplotlib.transforms import blended_transform_factory

    ax.set_axis_off()
    across = blended_transform_factory(ax.figure.transFigure, ax.transAxes)
    ax.text(0.01, 1, "\n".join(lines), transform=across, va="top").set_in_layout(False)


def _draw_verdicts(ax: Axes, verdict: pd.Series, n_vars: int) -> None:
    """One stacked bar of the audited genes, with the verdicts in words beside it."""
    from matplotlib.ticker import MaxNLocator
    from matplotlib.transforms import ScaledTranslation

    bottom, below = 0, ax.transAxes + ScaledTranslation(0, -8 / 72, ax.figure.dpi_scale_trans)
    # From the bottom up, so that what can be completed is on top.
    for i, name in enumerate(reversed(VERDICTS)):
        colour, words = _LOOKS[name]
        n, y = int((verdict == name).sum()), (i + 0.6) / len(VERDICTS)
        share = 100 * n / len(verdict)
        percent = "under 1" if 0 < share < 1 else f"{share:.0f}"
        ax.bar(0, n, bottom=bottom, width=0.8, color=colour, edgecolor="white", linewidth=0.5, label=name)
        if n:
            line = {"arrowstyle": "-", "color": colour, "shrinkA": 0, "shrinkB": 0}
            ax.annotate("", (0.4, bottom + n / 2), xytext=(0.32, y), textcoords=ax.transAxes, arrowprops=line)
        text = f"{name}: {n:,} gene{'' if n == 1 else 's'} ({percent} %)"
        ax.text(0.34, y, text, transform=ax.transAxes, va="center", fontweight="bold")
        ax.text(0.34, y, textwrap.fill(words, 28), transform=below, va="top", fontsize="small")
        bottom += n
    rest = n_vars - len(verdict)
    ax.set_xlabel(f"{rest:,} other genes\nwere not audited" if rest else "", loc="left")
    ax.set(xlim=(-0.5, 2.9), ylim=(0, len(verdict)), xticks=[], ylabel="audited genes", title="Verdict")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.spines[["top", "right", "bottom"]].set_visible(False)


def _draw_score(ax: Axes, table: pd.DataFrame, name: str) -> bool:
    """Skill or gain with its interval, a row for every gene that has one; whether some lie beyond the axis."""
    row = np.arange(len(table))
    value, low, high = (table[column].to_numpy(dtype=float) for column in (name, f"{name}_low", f"{name}_high"))
    points = min(height_in_points(ax) / len(table), 8)
    left, right = _ends(low, high)
    beyond = value < left
    for verdict, (colour, _) in _LOOKS.items():
        mask = (table["verdict"] == verdict).to_numpy() & np.isfinite(value)
        ends = np.clip([low[mask], high[mask]], left, right)
        ax.hlines(row[mask], *ends, color=colour, linewidth=max(0.25 * points, 0.3), alpha=0.6)
        ax.scatter(value[mask], row[mask], s=max(0.6 * points, 1.5) ** 2, color=colour, linewidths=0, label=verdict)
        out = mask & beyond
        edge = np.full(out.sum(), left)
        ax.scatter(edge, row[out], marker="<", s=20, color=colour, clip_on=False, label=f"{verdict}, left", zorder=3)
    ax.axvline(0, color="black", linewidth=1)
    title, label = _SCORES[name]
    ax.set(xlim=(left, right), xlabel=label, title=title)
    ax.spines[["top", "right"]].set_visible(False)
    return bool(beyond.any())


def _marks(beyond: bool) -> list[Line2D]:
    """Entries of the legend, large enough to see; the colours are named beside the bar."""
    from matplotlib.lines import Line2D

    point = Line2D([], [], color="black", alpha=0.6, marker="o", markersize=5, label="estimate and 95 % interval")
    arrow = Line2D([], [], color="black", marker="<", markersize=5, linestyle="", label="further left")
    return [point, arrow] if beyond else [point]


def _ends(low: np.ndarray, high: np.ndarray) -> tuple[float, float]:
    """Ends of an axis: few extreme genes, which may be very negative, must not squeeze all others."""
    finite = np.isfinite(low)
    left = min(np.percentile(low[finite], 5), -0.05) if finite.any() else -0.05
    right = max(np.percentile(high[finite], 98), 0.05) if finite.any() else 0.05
    pad = 0.03 * (right - left)
    return max(left, -1) - pad, min(right, 1) + pad


def _draw_missing(ax: Axes, table: pd.DataFrame) -> None:
    colours = [_LOOKS[name][0] for name in table["verdict"]]
    width = min(max(0.6 * height_in_points(ax) / len(table), 0.5), 12)
    ax.hlines(np.arange(len(table)), 0, 100 * table["missing"], colors=colours, linewidth=width)
    ax.set_xlim(0, 100)
    ax.set_xlabel("undetected\nspots (%)", loc="right")
    ax.tick_params(axis="y", left=False, labelleft=False)
    ax.spines[["top", "right"]].set_visible(False)


def _name_genes(ax: Axes, table: pd.DataFrame) -> None:
    """Names where all fit, else their number."""
    ax.set_ylim(len(table) - 0.5, -0.5)
    if height_in_points(ax) >= 1.1 * _LABEL_SIZE * len(table):
        ax.set_yticks(np.arange(len(table)), table.index, fontsize=_LABEL_SIZE, fontstyle="italic")
        ax.tick_params(axis="y", length=0)
    else:
        ax.set(yticks=[], ylabel=f"{len(table):,} genes, best first")
