"""Two-dimensional histograms of measured against filled or predicted values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spared_sc.pl._marks import Panels, pcc_text


def draw_pairs(
    panels: Panels,
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    edges: Sequence[np.ndarray],
    equality: str,
    counted: str,
    shrink: float = 0.8,
) -> None:
    """A histogram and the line of equality in each panel, with one colour scale; the first of a pair lies to the right."""
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import LogLocator, MaxNLocator

    axes = list(panels.axes.flat)
    counts = [np.histogram2d(*pair, bins=edge)[0].T for pair, edge in zip(pairs, edges, strict=True)]
    norm = LogNorm(1, max(2, max(count.max() for count in counts)))
    for ax, edge, count in zip(axes, edges, counts, strict=True):
        ticks = MaxNLocator(6).tick_values(edge[0], edge[-1])[1:-1]
        mesh = ax.pcolormesh(edge, edge, np.ma.masked_equal(count, 0), norm=norm, cmap="viridis", rasterized=True)
        ax.plot(edge[[0, -1]], edge[[0, -1]], color="black", linewidth=1, linestyle="--", label=equality)
        ax.set(aspect="equal", xticks=ticks, yticks=ticks)
        ax.spines[["top", "right"]].set_visible(False)
    whole = LogLocator(subs=(1, 2, 5))
    bar = panels.figure.colorbar(mesh, ax=axes, label=counted, shrink=shrink, aspect=25, ticks=whole, format="%d")
    bar.minorticks_off()


def bin_edges(pairs: Sequence[tuple[np.ndarray, np.ndarray]], n_bins: int) -> np.ndarray:
    """Edges of bins that hold all values, for both axes."""
    return np.histogram_bin_edges(np.concatenate([values for pair in pairs for values in pair]), bins=n_bins)


def agreement(mse: float, pcc: float, n_entries: int) -> str:
    """Error, correlation and number of entries, for the title of a panel."""
    return f"MSE {mse:.3g}, PCC {pcc_text(pcc)}, {n_entries:,} entries"
