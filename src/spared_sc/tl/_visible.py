"""An AnnData that holds nothing of the entries that are hidden, and its completion by functions of the user."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import scipy.sparse as sps

from spared_sc._core import validate
from spared_sc._core.keys import Key
from spared_sc._core.record import write_columns
from spared_sc._kernels.sections import Estimate, Sections
from spared_sc.tl._resolve import Resolved, rescaled_rows

if TYPE_CHECKING:
    from anndata import AnnData

UserFunction: TypeAlias = Callable[["AnnData"], Any]
_CHANGED = 1e-4  # relative change of a visible value that counts as one


class VisibleData:
    """Makes an AnnData of what is visible of some sections; nothing else of the user's object is in it."""

    def __init__(
        self, adata: AnnData, resolved: Resolved, *, layer: str, mask_var: str | None, obsm: Sequence[str | None]
    ) -> None:
        order = resolved.order
        self.sections, self.genes = resolved.sections, resolved.genes
        self.layer, self.mask_var = layer, mask_var or Key.var.selected
        self.values = resolved.values[order]
        self.counts = None if resolved.counts is None else resolved.counts[order]
        self.detected = validate.get_detected(adata)[order].astype(np.float32)
        columns = [Key.obs.array_row, Key.obs.array_col, resolved.libraries.key]
        self.obs = adata.obs[[column for column in columns if column in adata.obs]].iloc[order]
        self.var_names = adata.var_names
        records = adata.uns.get(Key.uns.records, {})
        self.records = {name: records[name] for name in obsm if name in records}  # of image embeddings
        self.obsm = {name: np.asarray(adata.obsm[name])[order] for name in obsm if name in adata.obsm}

    def adata(self, visible: Sections) -> AnnData:
        """A new AnnData of the visible entries, spots in the order of the sections."""
        import pandas as pd
        from anndata import AnnData

        counts = visible.counts
        selected = np.isin(np.arange(self.var_names.size), self.genes)
        detected = write_columns(self.detected, self.genes, visible.known.astype(np.float32))
        factor = self.sections.rescaling(self.sections.known & ~visible.known)
        values = self.values if factor is None else rescaled_rows(self.values, factor)
        return AnnData(
            X=None if self.counts is None or counts is None else write_columns(self.counts, self.genes, counts.values),
            obs=self.obs.copy(),
            var=pd.DataFrame({self.mask_var: selected}, index=self.var_names),
            obsm={name: array.copy() for name, array in self.obsm.items()},
            uns={Key.uns.records: self.records} if self.records else None,
            layers={
                self.layer: write_columns(values, self.genes, visible.values),
                Key.layers.detected: detected.astype(bool),
            },
        )


def complete_by_user(function: UserFunction, data: VisibleData, visible: Sections) -> Estimate:
    """Estimate of a function of the user; anything but values of all entries, with visible ones unchanged, is an error."""
    adata = data.adata(visible)
    result, sd = function(adata), None
    if isinstance(result, str):
        if result not in adata.layers:
            raise ValueError(
                f"it returned {result!r}, and wrote no layer of that name (layers: {validate.listing(adata.layers)})"
            )
        sd = adata.layers.get(Key.sd(result))
        result = adata.layers[result]
    values = _block(result, data, visible)
    changed = ~(np.abs(values - visible.values) <= _CHANGED * np.abs(visible.values) + 1e-6)[visible.known]
    if changed.any():
        raise ValueError(f"it changed {int(changed.sum())} values of visible entries, which must stay as they are")
    return Estimate(values, sd=None if sd is None else _block(sd, data, visible))


def _block(result: Any, data: VisibleData, visible: Sections) -> np.ndarray:
    """A result as an array, spots x genes to complete."""
    array = result.toarray() if sps.issparse(result) else np.asarray(result)
    if array.dtype.kind not in "buif":
        raise ValueError(f"it returned a {type(result).__name__}, expected an array of numbers")
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
        array = array.astype(np.float32)
    shape, whole = visible.known.shape, (len(visible.known), data.var_names.size)
    if array.shape not in (shape, whole):
        raise ValueError(
            f"it returned the shape {array.shape}, expected {shape} (spots x genes to complete) or "
            f"{whole} (spots x genes)"
        )
    if array.shape == whole:
        return array[:, data.genes]
    return array[:, np.argsort(np.argsort(data.genes))]  # the function saw the genes in the order of the data
