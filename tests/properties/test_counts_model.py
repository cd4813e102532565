"""Random collections through the counts model."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import spared_sc as sp
from helpers import dense
from properties.calls import Refused, attempt, call, copied_if_whole
from properties.collections import MASKS, Case, collections, examples
from properties.reference import check_completed, counts_of, detected_of, mask_of, need, train_rows


@pytest.mark.slow
@examples("counts model")
@given(
    case=collections(faults=("names", "library", "places", "layer", "split"), layer=True, masks=MASKS, most_spots=40),
    data=st.data(),
)
def test_counts_model(case: Case, data):
    adata = case.adata
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    params = data.draw(
        st.fixed_dictionaries(
            {"n_iterations": st.integers(1, 2)}, optional={"hidden_share": st.sampled_from([0.1, 0.5, 0.9])}
        )
    )
    options = data.draw(
        st.fixed_dictionaries(
            {"model_params": st.just(params), "library_key": st.just(case.key), "device": st.just("cpu")},
            optional={"mask_var": st.none(), "split_key": st.none(), "random_state": st.sampled_from([3, -1])},
        )
    )

    def expected():
        need(case, "layer", "library", "places", *(["split"] if options.get("split_key", "split") else []))
        if params.get("hidden_share") == 0.9 or options.get("random_state") == -1:
            raise Refused("parameters")
        mask = mask_of(adata, options.get("mask_var", "spared_selected"), "spared_selected")
        n_detected = (detected_of(case, adata) & mask)[train_rows(case, adata, options)].sum()
        if n_detected < 50:
            raise Refused("too few detected entries")
        return {}

    original = copied_if_whole(adata)
    blocks = ("", "_rate", "_sd", "_denoised", "_denoised_sd")
    columns = [f"var:spackle_{name}" for name in ("skill", "skill_se", "verdict")]
    slots = [f"layers:spackle{block}" for block in blocks]
    if not attempt(sp.tl.spackle_complete, adata, expected, slots + columns, again=False, **options):
        return
    check_completed(case, adata, "spackle")
    mask = mask_of(adata, options.get("mask_var", "spared_selected"), "spared_selected")
    detected = detected_of(case, adata)
    rate, sd = (dense(adata.layers[slot.partition(":")[2]]) for slot in slots[1:3])
    np.testing.assert_array_equal(rate[:, ~mask], np.asarray(counts_of(adata), dtype=float)[:, ~mask])
    for values in (rate, sd):
        assert np.isfinite(values).all()
        assert (values >= 0).all()
    assert not sd[:, ~mask].any()
    assert not sd[detected].any()
    # The order of the spots does not matter.
    other = original[rng.permutation(adata.n_obs)].copy()
    call(sp.tl.spackle_complete, other, **options)
    for name in (slot.partition(":")[2] for slot in slots):
        if name not in adata.layers:  # no denoised values without a scale
            assert "denoised" in name
            continue
        np.testing.assert_array_equal(dense(other[adata.obs_names].layers[name]), dense(adata.layers[name]))
