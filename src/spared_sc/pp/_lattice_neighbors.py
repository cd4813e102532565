"""The lattice of the spots as a graph under squidpy's own names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sps

from spared_sc._core import docs, validate
from spared_sc._core.keys import Key
from spared_sc._core.record import record
from spared_sc._core.report import logger
from spared_sc._core.sdata import accepts_spatialdata

if TYPE_CHECKING:
    from anndata import AnnData


@accepts_spatialdata
@docs.fill()
def lattice_neighbors(
    adata: AnnData,
    *,
    library_key: str | None = None,
    spatial_key: str = Key.obsm.spatial,
    kind: str | Mapping[str, str] = "auto",
    n_rings: int = 1,
    key_added: str = "spatial",
    copy: bool = False,
) -> AnnData | None:
    """Connect the spots that touch on the capture array.

    Neighbours come from `obs["array_row"]` and `obs["array_col"]`, library by library, so they are exact at any share
    of missing spots: six on Visium's hexagonal array, eight (or four) on a square grid. Without array coordinates,
    spots touch that are at most 1.2 times the pitch apart in `obsm[spatial_key]`.

    Parameters
    ----------
    {adata}
    kind
        `"hex"`, `"grid"` (eight neighbours), `"grid4"` (four), or `"auto"`: hexagonal in a library where row + column
        is always even, or always odd, and square with eight neighbours otherwise. A dictionary gives the kind of some
        libraries by name; the others are `"auto"`.
    n_rings
        Connect spots at most this many hops apart. A hop leads from a spot to a neighbour that is present.
    key_added
        Prefix of the new slots; `"spatial"` gives the names that squidpy reads.
    {others}

    Returns
    -------
    `None`, or the changed copy with `copy=True`. Slots written:

    `obsp["spatial_connectivities"]`
        One where two spots are connected; sparse float32.
    `obsp["spatial_distances"]`
        Hops between connected spots; sparse float32.
    `uns["spatial_neighbors"]`
        The names of the two matrices and the parameters, as squidpy writes them.
    `uns["spared_sc"]["spatial_neighbors"]`
        Parameters.

    Raises
    ------
    ValueError
        If two spots of a library share a place, or several libraries come without `library_key`.
    KeyError
        If there are no positions, or `kind` names a library that is not there.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=2)
    >>> sp.pp.lattice_neighbors(adata, library_key="library_id")
    >>> int(adata.obsp["spatial_connectivities"].sum(axis=1).max())
    6
    """
    validate.check_adata(adata)
    validate.check_number("n_rings", n_rings, 1, whole=True)
    libraries = validate.get_libraries(adata, library_key)
    lattice = validate.get_lattice(adata, libraries, spatial_key, kind=kind)
    indptr, indices, hops = lattice.hops(int(n_rings))
    distances = sps.csr_matrix((hops.astype(np.float32), indices, indptr), shape=(adata.n_obs, adata.n_obs))
    distances.sort_indices()
    connectivities = distances.copy()
    connectivities.data[:] = 1
    lonely = int((np.diff(lattice.indptr) == 0).sum())
    kinds = validate.recorded_kinds(lattice, libraries)
    logger.info("lattice %s: %d spots, %d of them without a neighbour", kinds, adata.n_obs, lonely)

    adata = adata.copy() if copy else adata
    names = {"connectivities_key": f"{key_added}_connectivities", "distances_key": f"{key_added}_distances"}
    squidpy_params = {"coord_type": "grid", "n_rings": int(n_rings), "kind": kinds}
    record(
        adata,
        key=f"{key_added}_neighbors",
        function="pp.lattice_neighbors",
        params={
            "library_key": libraries.key,
            "spatial_key": spatial_key,
            "kind": kinds,
            "n_rings": int(n_rings),
        },
        slots={
            "obsp": {names["connectivities_key"]: connectivities, names["distances_key"]: distances},
            "uns": {f"{key_added}_neighbors": {**names, "params": squidpy_params}},
        },
    )
    return adata if copy else None
