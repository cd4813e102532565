from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from spared_sc._core import docs
from spared_sc._core.completions import describe_method
from spared_sc._core.keys import Key
from spared_sc._core.sdata import accepts_spatialdata
from spared_sc._core.validate import check_adata, check_number, choose_key, listing
from spared_sc.pl._marks import BLACK, BLUE, ORANGE, VERMILION, check_genes, finish, height_in_points

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

_VERDICTS = {  # verdict -> colour, meaning
    "complete": (BLUE, "filled values beat depth and gene averages: use them"),
    "use as is": (ORANGE, "filling in brings no sure gain: keep the measured values"),
    "drop": (BLACK, "hardly more than noise: leave the gene out"),
}
_HARM = "Filling in would do harm here: do not use the filled values."
_COLUMNS = ("verdict", "skill", "skill_low", "skill_high", "missing", "floor", "mse_depth_only", "mse_additive")
_LIMIT = "0.6"
_LABEL_SIZE = 7  # points
_ROW = 1.25 * _LABEL_SIZE / 72  # inches for a gene with its name
_CHARACTERS = 12.5  # of the summary in an inch
_LINE = 0.24  # inches, of the summary


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
    """Show the audit of a completion: for which genes its values can be trusted, and how far.

    The summary stands on top, with a warning if completion would do harm. At the left, the genes by verdict. At the
    right, one row per gene, best first, in the colour of its verdict: the skill with its interval, and the share of
    spots without a count. Skill is the share of the error that filling in removes from the better of two simple
    estimates, depth only and additive (gene, spot and section): at 0 filling in is no better than those, below 0 it is
    worse. The grey mark is the best skill that the noise of the counts allows.

    Parameters
    ----------
    adata
        Spots x genes, with the results of `sp.tl.audit_completion`.
    key
        The `key_added` of that call. Needed when there are several audits.
    genes
        Genes to show at the right, such as markers. `None` shows all that were audited.
    n_genes
        Number of genes to show at the right, evenly spaced in the order of their skill, the best and the worst among
        them. `None` shows all.
    {others}

    Returns
    -------
    The figure. Genes are named if all names fit. Arrows stand for genes whose skill lies beyond the left end of the
    axis.

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
    >>> sp.tl.audit_completion(adata, method="additive", n_masks=1, library_key="library_id")
    >>> fig = sp.pl.audit(adata)
    """
    import matplotlib.pyplot as plt

    records = check_adata(adata).uns.get(Key.uns.records, {})
    audits = [name for name, record in records.items() if "harm" in record]
    key = choose_key(key, audits, "audit", "call `sp.tl.audit_completion(adata)`, which writes one")
    record, table = records[key], _audited(adata, key)
    shown = _shown(adata, table, genes, n_genes)
    size = figsize or (10.5, float(np.clip(2.5 + _ROW * len(shown), 5, 10)))
    lines = textwrap.wrap(str(record["summary"]), int(_CHARACTERS * size[0])) or [""]
    fig = plt.figure(figsize=size, layout="constrained")
    height = 0.1 + _LINE * len(lines)
    grid = fig.add_gridspec(2, 3, height_ratios=(height, size[1] - height), width_ratios=(3.4, 4.5, 1.4))
    if record["harm"]:
        fig.suptitle(_HARM, color=VERMILION, fontweight="bold")
    _write_summary(fig.add_subplot(grid[0, :], label="<summary>"), lines)
    _draw_verdicts(fig.add_subplot(grid[1, 0], label="<verdicts>"), table["verdict"], adata.n_vars)
    skill = fig.add_subplot(grid[1, 1], label="<skill>")
    missing = fig.add_subplot(grid[1, 2], label="<missing>", sharey=skill)
    marks = _draw_skill(skill, shown)
    _draw_missing(missing, shown)
    method = record.get("params", {}).get("method")
    skill.set_title("Does filling in pay?" + (f" ({describe_method(str(method))})" if method else ""))
    _name_genes(skill, shown, int(table["skill"].isna().sum()))
    fig.legend(handles=marks, loc="outside lower right", ncols=3, frameon=False)
    return finish(fig, show)


def _audited(adata: AnnData, key: str) -> pd.DataFrame:
    """The table of the audited genes."""
    columns = [f"{key}_{name}" for name in _COLUMNS]
    missing = [column for column in columns if column not in adata.var]
    if missing:
        raise KeyError(
            f"there is no adata.var[{missing[0]!r}]: call `sp.tl.audit_completion(adata, key_added={key!r})`, which writes it."
        )
    table = adata.var[columns].set_axis(_COLUMNS, axis=1)
    table["verdict"] = table["verdict"].astype(object)
    table = table[~table["verdict"].isin(["not audited", ""]) & table["verdict"].notna()]
    unknown = sorted(set(table["verdict"]) - set(_VERDICTS))
    if unknown:
        raise ValueError(
            f"adata.var['{key}_verdict'] holds {listing(unknown)}; expected {listing(_VERDICTS)}: "
            "run `sp.tl.audit_completion(adata)` again."
        )
    if table.empty:
        raise ValueError("no gene was audited: run `sp.tl.audit_completion(adata)` on genes of this object.")
    return table


def _shown(adata: AnnData, table: pd.DataFrame, genes: str | Sequence[str] | None, n_genes: int | None) -> pd.DataFrame:
    """The genes of the right panel, best first."""
    check_number("n_genes", 1 if n_genes is None else n_genes, 1, whole=True)
    if genes is not None:
        table = table[table.index.isin(check_genes(genes, adata.var_names, "adata.var_names", "genes"))]
    table = table[table["skill"].notna()].sort_values("skill", ascending=False, kind="stable")
    if table.empty:
        raise ValueError("none of the genes has a skill: leave `genes` out, or audit more genes.")
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
    for i, (name, (colour, words)) in enumerate(reversed(_VERDICTS.items())):
        n, y = int((verdict == name).sum()), (i + 0.6) / len(_VERDICTS)
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
    ax.set_xlabel(f"{rest:,} other genes were not audited" if rest else "")
    ax.set(xlim=(-0.5, 2.9), ylim=(0, len(verdict)), xticks=[], ylabel="audited genes", title="Verdict")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.spines[["top", "right", "bottom"]].set_visible(False)


def _draw_skill(ax: Axes, table: pd.DataFrame) -> list[Line2D]:
    """Skill, interval and the limit that noise sets, a row for every gene; returns the entries of the legend."""
    from matplotlib.lines import Line2D

    row = np.arange(len(table))
    skill, low, high = (table[name].to_numpy(dtype=float) for name in ("skill", "skill_low", "skill_high"))
    limit = 1 - table["floor"] / table[["mse_depth_only", "mse_additive"]].min(axis=1)
    points = min(height_in_points(ax) / len(table), 8)
    for name, (colour, _) in _VERDICTS.items():
        mask = (table["verdict"] == name).to_numpy()
        if mask.any():
            ax.hlines(row[mask], low[mask], high[mask], color=colour, linewidth=max(0.25 * points, 0.3), alpha=0.6)
            ax.scatter(skill[mask], row[mask], s=max(0.6 * points, 1.5) ** 2, color=colour, linewidths=0, label=name)
    ax.scatter(limit, row, marker="|", s=max(points, 3) ** 2, color=_LIMIT, label="limit set by noise", zorder=0)
    ax.axvline(0, color="black", linewidth=1)
    left, right = _ends(np.concatenate([skill, low]), np.concatenate([skill, high, limit]))
    beyond = skill < left
    if beyond.any():
        colours = [_VERDICTS[name][0] for name in table["verdict"][beyond]]
        edge = np.full(beyond.sum(), left)
        ax.scatter(edge, row[beyond], marker="<", s=20, c=colours, clip_on=False, label="further left", zorder=3)
    label = "skill: share of the averages' error removed\n(0: no better than averages, below 0: worse)"
    ax.set(xlim=(left, right), xlabel=label)
    ax.spines[["top", "right"]].set_visible(False)
    # Large enough to see; the colours are named beside the bar.
    marks = [
        Line2D([], [], color="black", alpha=0.6, marker="o", markersize=5, label="skill and its interval"),
        Line2D([], [], color=_LIMIT, marker="|", markersize=9, linestyle="", label="limit set by noise"),
        Line2D([], [], color="black", marker="<", markersize=5, linestyle="", label="further left"),
    ]
    return marks if beyond.any() else marks[:2]


def _ends(low: np.ndarray, high: np.ndarray) -> tuple[float, float]:
    """Ends of the axis of skill: few extreme genes, which may be very negative, must not squeeze all others."""
    left = min(np.nanpercentile(low, 2), -0.05)
    right = max(np.nanpercentile(high, 98), 0.05)
    pad = 0.03 * (right - left)
    return left - pad, min(right, 1) + pad


def _draw_missing(ax: Axes, table: pd.DataFrame) -> None:
    colours = [_VERDICTS[name][0] for name in table["verdict"]]
    width = min(max(0.6 * height_in_points(ax) / len(table), 0.5), 12)
    ax.hlines(np.arange(len(table)), 0, 100 * table["missing"], colors=colours, linewidth=width)
    ax.set(xlim=(0, 100), xlabel="spots without\na count (%)")
    ax.tick_params(axis="y", left=False, labelleft=False)
    ax.spines[["top", "right"]].set_visible(False)


def _name_genes(ax: Axes, table: pd.DataFrame, n_without: int) -> None:
    """Names where all fit, else their number."""
    ax.set_ylim(len(table) - 0.5, -0.5)
    without = f" ({n_without} without a skill left out)" if n_without else ""
    if height_in_points(ax) >= 1.1 * _LABEL_SIZE * len(table):
        ax.set_yticks(np.arange(len(table)), table.index, fontsize=_LABEL_SIZE, fontstyle="italic")
        ax.tick_params(axis="y", length=0)
        ax.set_ylabel(without.strip(" ()"))
    else:
        ax.set(yticks=[], ylabel=f"{len(table):,} genes, best first{without}")
