from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from spared_sc._core import docs
from spared_sc._core.keys import Key
from spared_sc._core.sdata import accepts_spatialdata
from spared_sc._core.validate import Libraries, check_adata, check_number, check_seed, get_libraries, listing
from spared_sc._images.resolve import resolve_patches
from spared_sc.pl._marks import as_list, finish, make_grid

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.figure import Figure

_PANEL_WIDTH = 1.7  # inches
_UNITS = {"spot": "spot diameters", "pixel": "pixels of the image", "um": "µm"}
_LONGEST_NAME = 22  # characters that fit above a panel


@accepts_spatialdata
@docs.fill()
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
    """Show the patches of some spots, as encoders and predictors see them.

    Parameters
    ----------
    {adata}
    spots
        Names in `adata.obs_names`, in this order. `None` draws some at random, equally many from each library.
    n_spots
        Number of spots to draw at random.
    image, size, unit, output_size
        As in :func:`spared_sc.pp.extract_patches`. `None` takes its recorded values, or its defaults.
    spatial_key
        Key in `obsm` of the spots' positions, x and y in pixels of the full-resolution image. The default is the one
        that `extract_patches` recorded, or `"spatial"`.
    n_cols
        Patches in a row.
    random_state
        Seed of the choice.
    {others}

    Returns
    -------
    The figure.

    Raises
    ------
    KeyError
        If a spot or the positions do not exist.
    FileNotFoundError
        If the image or the store of patches is not where it was.
    ValueError
        If patches cannot be cut, or `spots` is empty.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=2)
    >>> fig = sp.pl.patches(adata, library_key="library_id", size=3)
    """
    check_adata(adata, genes=False)
    check_number("n_spots", n_spots, 1, whole=True)
    check_number("n_cols", n_cols, 1, whole=True)
    libraries = get_libraries(adata, library_key)
    rows = _chosen(adata, libraries, spots, n_spots, random_state)
    resolved = resolve_patches(
        adata, libraries, image=image, size=size, unit=unit, output_size=output_size, spatial_key=spatial_key
    )
    n_cols = min(n_cols, len(rows))
    size_inches = figsize or (_PANEL_WIDTH * n_cols, (_PANEL_WIDTH + 0.4) * -(-len(rows) // n_cols) + 0.4)
    panels = make_grid(None, len(rows), n_cols, size_inches, layout="constrained")
    for panel, row, patch in zip(panels.axes, rows, resolved.read(rows), strict=True):
        panel.imshow(patch)
        panel.set(xticks=[], yticks=[])
        names = [adata.obs_names[row]] + [libraries.names[libraries.codes[row]]] * (len(libraries.names) > 1)
        panel.set_title("\n".join(map(_short, names)), fontsize=7)
    recipe = resolved.recipe
    width = f"{recipe['size']:g} {_UNITS[recipe['unit']]} wide, as {recipe['output_size']} pixels"
    panels.figure.suptitle(width, fontsize=9)
    return finish(panels.figure, show)


def _chosen(
    adata: AnnData, libraries: Libraries, spots: Sequence[str] | None, n_spots: int, random_state: int
) -> np.ndarray:
    """Rows of the spots to draw."""
    if spots is None:
        return _draw(libraries.rows(), n_spots, np.random.default_rng(check_seed(random_state)))
    names = as_list(spots)
    rows = adata.obs_names.get_indexer(names)
    if not names or (rows < 0).any():
        missing = [name for name, row in zip(names, rows, strict=True) if row < 0]
        raise KeyError(
            f"there are no spots {listing(missing, 5)} in adata.obs_names (such as {listing(adata.obs_names, 3)}): "
            "pass names that are there as `spots=`, or None."
        )
    return rows


def _draw(rows: list[np.ndarray], n_spots: int, generator: np.random.Generator) -> np.ndarray:
    """Spots in equal numbers of each library, as far as there are so many."""
    orders = [generator.permutation(of_library) for of_library in rows]
    turns = np.concatenate([np.arange(len(order)) for order in orders])
    chosen = np.concatenate(orders)[np.argsort(turns, kind="stable")][:n_spots]
    return np.sort(chosen)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
