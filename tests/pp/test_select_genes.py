"""pp.select_genes."""

from __future__ import annotations

import numpy as np
import pytest

import spared_sc as sp
from helpers.pp import small

# squidpy's docstrings name parameters that docrep does not know
pytestmark = pytest.mark.filterwarnings("ignore:.*is not a valid key!:SyntaxWarning")


@pytest.mark.parametrize(
    ("n_scored", "n_genes", "expected"), [(321, None, 128), (320, None, 32), (33, None, 32), (500, 7, 7), (500, 1, 1)]
)
def test_number_of_selected_genes(n_scored, n_genes, expected):
    rng = np.random.default_rng(0)
    adata = small(np.ones((2, 600)))
    score = rng.normal(size=600)
    score[rng.permutation(600)[n_scored:]] = np.nan
    adata.var["moran_i"] = score
    sp.pp.select_genes(adata, n_genes=n_genes)
    best = sorted(np.flatnonzero(np.isfinite(score)), key=lambda gene: -score[gene])[:expected]
    assert set(np.flatnonzero(adata.var["spared_selected"])) == set(best)


def test_selection_breaks_ties_by_name_and_follows_the_mask():
    adata = small(np.ones((2, 6)))
    adata.var["moran_i"] = [0.5, 0.5, 0.9, 0.5, 0.5, 0.1]
    adata = adata[:, [3, 5, 1, 0, 2, 4]].copy()
    adata.var["spared_keep"] = adata.var_names != "g002"
    sp.pp.select_genes(adata, n_genes=2)
    assert set(adata.var_names[adata.var["spared_selected"]]) == {"g000", "g001"}
    sp.pp.select_genes(adata, n_genes=2, mask_var=None, subset_genes=True)
    assert adata.var_names.tolist() == ["g000", "g002"]


def test_fewer_genes_than_asked_for_are_all_selected():
    adata = small(np.ones((2, 6)))
    adata.var["moran_i"] = [0.5, np.nan, 0.9, 0.5, np.nan, 0.1]
    with pytest.warns(UserWarning, match="4 genes have a score, 5 were asked for.*real_data_share"):
        sp.pp.select_genes(adata, n_genes=5)
    assert adata.var["spared_selected"].tolist() == [True, False, True, True, False, True]
