"""Random collections through the completion methods that need linear algebra only."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import spared_sc as sp
from helpers import dense
from helpers.completion import WITH_RATE
from properties.calls import Refused, attempt, call, copied_if_whole
from properties.collections import MASKS, Case, collections, examples
from properties.reference import check_completed, counts_of, detected_of, mask_of, need, train_rows
from spared_sc._models.completion.registry import COMPLETERS

SIMPLE = [name for name in COMPLETERS if name not in ("sme", "magic", "counts", "factor", "paper")]


@pytest.mark.slow
@examples("simple methods")
@given(
    case=collections(faults=("names", "library", "places", "layer", "split"), layer=True, masks=MASKS, most_spots=20),
    data=st.data(),
)
def test_simple_methods(case: Case, data):
    adata = case.adata
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    method = data.draw(st.sampled_from(SIMPLE))
    options = data.draw(
        st.fixed_dictionaries(
            {"method": st.just(method), "library_key": st.just(case.key), "n_jobs": st.just(1)},
            optional={"mask_var": st.none(), "split_key": st.none(), "random_state": st.sampled_from([3, -1])},
        )
    )
    by_split = method != "median" and options.get("split_key", "split") is not None

    def expected():
        need(case, "layer", "library", "places", *(["split"] if by_split else []))
        if options.get("random_state") == -1:
            raise Refused("parameters")
        mask = mask_of(adata, options.get("mask_var", "spared_selected"), "spared_selected")
        rows = train_rows(case, adata, options) if by_split else slice(None)
        if not (detected_of(case, adata) & mask)[rows].any():
            raise Refused("nothing to learn from")
        return {}

    original = copied_if_whole(adata)
    of_rate = [f"layers:{method}_rate", f"layers:{method}_denoised"] if method in WITH_RATE else []
    slots = [f"layers:{method}", *of_rate]
    if not attempt(sp.tl.complete, adata, expected, slots, **options):
        return
    check_completed(case, adata, method)
    mask = mask_of(adata, options.get("mask_var", "spared_selected"), "spared_selected")
    np.testing.assert_array_equal(
        dense(adata.layers[method])[:, ~mask], dense(adata.layers["log2tpm"]).astype(float)[:, ~mask]
    )
    if method in WITH_RATE:
        rate = dense(adata.layers[f"{method}_rate"])
        assert np.isfinite(rate).all()
        assert (rate >= 0).all()
        np.testing.assert_array_equal(rate[:, ~mask], np.asarray(counts_of(adata), dtype=float)[:, ~mask])
    # The order of the spots does not matter.
    other = original[rng.permutation(adata.n_obs)].copy()
    call(sp.tl.complete, other, **options)
    for name in (slot.partition(":")[2] for slot in slots):
        if name not in adata.layers:  # no denoised values without a scale
            assert "denoised" in name
            continue
        np.testing.assert_array_equal(dense(other[adata.obs_names].layers[name]), dense(adata.layers[name]))
