"""MAGIC, by its own package."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING

import numpy as np
import pytest

import spared_sc as sp
from helpers import KEY
from helpers.completion import SECTIONS, estimate_of, sections_of

if TYPE_CHECKING:
    from anndata import AnnData

    from spared_sc._kernels.sections import Sections


@pytest.fixture(scope="module")
def ready(collection) -> AnnData:
    """Two libraries after the recipe."""
    return collection(**SECTIONS)


@pytest.fixture(scope="module")
def sections(ready) -> Sections:
    return sections_of(ready)


def test_magic_is_brought_to_the_unit_of_the_layer(sections):
    magic = pytest.importorskip("magic")
    estimate = estimate_of("magic", sections, knn=4, t=2)
    depth = sections.counts.depth
    scaled = sections.counts.values * (np.median(depth) / depth)[:, None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        diffused = magic.MAGIC(knn=4, t=2, n_jobs=1, random_state=0, verbose=0).fit_transform(np.sqrt(scaled))
    for gene in range(diffused.shape[1]):
        known = sections.known[:, gene]
        slope, level = np.polyfit(diffused[known, gene], sections.values[known, gene].astype(float), 1)
        np.testing.assert_allclose(estimate.values[:, gene], level + slope * diffused[:, gene], atol=5e-3)


def test_magic_says_how_to_install_it(ready, monkeypatch):
    monkeypatch.setitem(sys.modules, "magic", None)
    with pytest.raises(ImportError, match=r'pip install "spared-sc\[impute\]"'):
        sp.tl.complete(ready.copy(), method="magic", **KEY)
