"""Completion by functions of the user, on an AnnData that holds nothing of the hidden entries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sps

from spared_sc._core import validate
from spared_sc._core.keys import Key
from spared_sc._kernels.sections import Estimate
from spared_sc.tl._visible import VisibleData

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData

    from spared_sc._kernels.sections import Sections

    UserFunction = Callable[[AnnData], Any]

_CHANGED = 1e-4  # relative change of a visible value that counts as one


class UserFunctions(VisibleData):
    """Runs functions of the user on sections with hidden entries."""

    def complete(self, function: UserFunction, visible: Sections) -> Estimate:
        """Estimate of a function.

        Raises
        ------
        ValueError
            If it returns something else than values of all entries, or changed visible ones.
        """
        adata = self.adata(visible)
        result, sd = function(adata), None
        if isinstance(result, str):
            if result not in adata.layers:
                raise ValueError(
                    f"it returned {result!r}, and wrote no layer of that name (layers: {validate.listing(adata.layers)})"
                )
            sd = adata.layers.get(Key.sd(result))
            result = adata.layers[result]
        values = self._block(result, visible)
        known = visible.known
        changed = ~(np.abs(values - visible.values) <= _CHANGED * np.abs(visible.values) + 1e-6)[known]
        if changed.any():
            raise ValueError(f"it changed {int(changed.sum())} values of visible entries, which must stay as they are")
        return Estimate(values, sd=None if sd is None else self._block(sd, visible))

    def _block(self, result: Any, visible: Sections) -> np.ndarray:
        """A result as an array, spots x genes to complete."""
        array = result.toarray() if sps.issparse(result) else np.asarray(result)
        if array.dtype.kind not in "buif":
            raise ValueError(f"it returned a {type(result).__name__}, expected an array of numbers")
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
            array = array.astype(np.float32)
        if array.shape == (len(visible.known), self.var_names.size):
            return array[:, self.genes]
        if array.shape != visible.known.shape:
            raise ValueError(
                f"it returned the shape {array.shape}, expected {visible.known.shape} (spots x genes to complete) or "
                f"{(len(visible.known), self.var_names.size)} (spots x genes)"
            )
        return array
