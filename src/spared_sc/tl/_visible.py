"""An AnnData that holds nothing of the entries that are hidden."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spared_sc._core import validate
from spared_sc._core.keys import Key
from spared_sc._core.record import write_columns
from spared_sc.tl._resolve import rescaled_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from spared_sc._kernels.sections import Sections
    from spared_sc.tl._resolve import Resolved


class VisibleData:
    """Makes an AnnData of what is visible of some sections; nothing else of the user's object is in it."""

    def __init__(
        self, adata: AnnData, resolved: Resolved, *, layer: str, mask_var: str | None, obsm: Sequence[str | None]
    ) -> None:
        order = resolved.order
        self.sections = resolved.sections
        self.genes, self.layer, self.mask_var = resolved.genes, layer, mask_var or Key.var.selected
        self.values = resolved.values[order]
        self.counts = None if resolved.counts is None else resolved.counts[order]
        self.detected = validate.get_detected(adata)[order].astype(np.float32)
        columns = [Key.obs.array_row, Key.obs.array_col, resolved.libraries.key]
        self.obs = adata.obs[[column for column in columns if column in adata.obs]].iloc[order]
        self.var_names = adata.var_names
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
            layers={
                self.layer: write_columns(values, self.genes, visible.values),
                Key.layers.detected: detected.astype(bool),
            },
        )
