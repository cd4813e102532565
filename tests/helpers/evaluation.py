"""Completers that are known by heart, and tables of their scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import integrate, stats

from helpers import KEY, dense
from spared_sc._core.registry import About
from spared_sc._models.completion.base import Completer
from spared_sc._models.completion.registry import COMPLETERS
from spared_sc.tl._resolve import resolve

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from spared_sc._kernels.sections import CompletionFunction, Sections

QUICK = {**KEY, "n_masks": 1, "device": "cpu", "show_progress_bar": False}


def sections_of(adata, **options) -> Sections:
    return resolved_of(adata, **options).sections


def resolved_of(adata, *, mask_var="spared_selected"):
    return resolve(adata, layer="log2tpm", mask_var=mask_var, spatial_key="spatial", **KEY)


def registers(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Sections]]:
    """A function that registers a completion method until the test ends; the sections that it is given are returned."""
    seen: list[Sections] = []

    def register(function: CompletionFunction, name: str = "fake") -> list[Sections]:
        class Fake(Completer):
            about = About(name, f"{__name__}:{name}", "a toy")

            def complete(self, sections, compute):
                seen.append(sections)
                return function(sections)

        monkeypatch.setitem(globals(), name, Fake)
        monkeypatch.setitem(COMPLETERS._entries, name, Fake.about)
        return seen

    return register


def block(adata) -> np.ndarray:
    """The visible values of the genes to complete."""
    return dense(adata[:, adata.var["spared_selected"]].layers["log2tpm"])


def fill(adata, value=5.0) -> np.ndarray:
    """A completer that fills with a constant."""
    values = block(adata)
    return np.where(values > 0, values, value)


def crps_by_quadrature(error: float, sd: float) -> float:
    def below(x):
        return stats.norm.cdf(x, error, sd) ** 2

    def above(x):
        return stats.norm.sf(x, error, sd) ** 2

    far = abs(error) + 10 * sd
    return integrate.quad(below, -far, 0)[0] + integrate.quad(above, 0, far)[0]


SECTIONS = {
    "n_libraries": 2,
    "n_genes": 30,
    "shape": (10, 10),
    "depth": 120,
    "missing_spots": 0.1,
    "image": False,
    "recipe": {"n_genes": 12, "real_data_share": 0.4},
}
