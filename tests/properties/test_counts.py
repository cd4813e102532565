"""Random collections through the functions that read counts."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import scipy.sparse as sps
from hypothesis import given

import spared_sc as sp
from properties.calls import attempt
from properties.collections import Case, collections, draw_genes, examples
from properties.reference import FILTER, FILTER_WRITES, check_missing_share, read_filter, read_normalised


@examples("counts")
@given(case=collections(faults=("counts", "names", "library", "split")), data=st.data())
def test_counts(case: Case, data):
    adata, library = case.adata, {"library_key": case.key}
    options = {**data.draw(FILTER), **draw_genes(data.draw, adata)}
    again = not options.get("subset_spots", True) and not options.get("subset_genes", False)
    attempt(
        sp.pp.spared_filter,
        adata,
        lambda: read_filter(case, adata, options),
        FILTER_WRITES,
        again=again,
        **library,
        **options,
    )
    gene_lengths, lengths = case.lengths
    options = data.draw(
        st.fixed_dictionaries(
            {}, optional={"target_sum": st.sampled_from([1.0, 1e4, 0, np.inf, np.nan]), "mask_var": st.none()}
        )
    )
    attempt(
        sp.pp.normalize_tpm,
        adata,
        lambda: read_normalised(case, adata, lengths, options),
        ["layers:log2tpm", "var:gene_length"],
        gene_lengths=gene_lengths,
        **options,
    )
    if "log2tpm" in adata.layers:
        assert adata.layers["log2tpm"].dtype == np.float32
        assert sps.issparse(adata.layers["log2tpm"]) == sps.issparse(adata.layers.get("counts", adata.X))
    check_missing_share(case, adata)
