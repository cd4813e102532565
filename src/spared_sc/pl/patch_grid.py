from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spared_sc._core.keys import Key
from spared_sc._core.validate import check_adata, check_number, get_libraries, listing
from spared_sc._images.resolve import resolve_patches

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

    from anndata import AnnData
    from matplotlib.figure import Figure

_PANEL_WIDTH = 1.7  # inches
_UNITS = {"spot": "spot diameters", "pixel": "pixels of the image", "um": "µm"}
_LONGEST_NAME = 22  # characters that fit above a panel


def patches(
    adata: AnnData,
    spots: Sequence[str] | None = None,
    *,
    n_spots: int = 12,
    image: Any = None,
    size: float | None = None,
    unit: Literal["spot", "pixel", "um"] | None = None,
    output_size: int | None = None,
    library_key: str | None = None,
    spatial_key: str = Key.obsm.spatial,
    n_cols: int = 6,
    random_state: int = 0,
    figsize: tuple[float, float] | None = None,
    show: bool | None = None,
) -> Figure:
    """Patches of some spots, as encoders and predictors get them.

    Parameters
    ----------
    adata
        Spots x genes, with positions.
    spots
        Names in `adata.obs_names`, in this order. `None` draws some at random, as many of each library.
    n_spots
        How many to draw.
    image, size, unit, output_size
        As in :func:`spared_sc.pp.extract_patches`. `None` takes what it recorded, or its defaults.
    library_key
        Column of `adata.obs` that tells the libraries apart; `None` only where there is one library.
    spatial_key
        Slot of `adata.obsm` with positions (x, y) in pixels of the full-resolution image; by default the one that
        `extract_patches` recorded, or `"spatial"`.
    n_cols
        Patches in a row.
    random_state
        Seed of the choice.
    figsize
        Width and height of the figure in inches; by default it grows with the panels.
    show
        Whether to call `plt.show()`; `None` means no.

    Returns
    -------
    The figure.

    Raises
    ------
    KeyError
        If there is no such spot, or there are no positions.
    FileNotFoundError
        If the image or the store of patches is not where it was.
    ValueError
        If patches cannot be cut, or `spots` is empty.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=2)
    >>> fig = sp.pl.patches(adata, library_key="library_id", size=3)
    >>> plt.close(fig)
    """
    import matplotlib.pyplot as plt

    check_adata(adata, genes=False)
    check_number("n_spots", n_spots, 1, whole=True)
    check_number("n_cols", n_cols, 1, whole=True)
    libraries = get_libraries(adata, library_key)
    if spots is None:
        rows = _draw(libraries.rows(), n_spots, np.random.default_rng(random_state))
    else:
        spots = [spots] if isinstance(spots, str) else list(spots)
        rows = adata.obs_names.get_indexer(spots)
        if not spots or (rows < 0).any():
            missing = [spot for spot, row in zip(spots, rows, strict=True) if row < 0]
            raise KeyError(
                f"there are no spots {listing(missing, 5)} in adata.obs_names (such as {listing(adata.obs_names, 3)}): "
                "pass names that are there as `spots=`, or None."
            )
    resolved = resolve_patches(
        adata,
        libraries,
        image=image,
        size=size,
        unit=unit,
        output_size=output_size,
        spatial_key=spatial_key,
    )
    pixels = resolved.read(rows)

    n_cols = min(n_cols, len(rows))
    n_rows = -(-len(rows) // n_cols)
    fig, axes = plt.subplots(
        n_rows,
        n_cols,
        squeeze=False,
        figsize=figsize or (_PANEL_WIDTH * n_cols, (_PANEL_WIDTH + 0.4) * n_rows + 0.4),
        layout="constrained",
    )
    for unused in axes.flat[len(rows) :]:
        unused.remove()
    for ax, row, patch in zip(axes.flat, rows, pixels, strict=False):
        ax.imshow(patch)
        ax.set(xticks=[], yticks=[])
        lines = [adata.obs_names[row]] + ([libraries.names[libraries.codes[row]]] if len(libraries.names) > 1 else [])
        ax.set_title("\n".join(map(_short, lines)), fontsize=7)
    what = resolved.recipe
    fig.suptitle(f"{what['size']:g} {_UNITS[what['unit']]} wide, as {what['output_size']} pixels", fontsize=9)
    if show:
        plt.show()
    return fig


def _draw(rows: list[np.ndarray], n_spots: int, generator: np.random.Generator) -> np.ndarray:
    """Spots in equal numbers of each library, as far as there are so many."""
    orders = [generator.permutation(of_library) for of_library in rows]
    turns = np.concatenate([np.arange(len(order)) for order in orders])
    chosen = np.concatenate(orders)[np.argsort(turns, kind="stable")][:n_spots]
    return np.sort(chosen)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
