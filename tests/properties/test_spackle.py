"""Random collections through SpaCKLE."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

import spared_sc as sp
from helpers import dense
from properties.calls import Refused, attempt, call, copied_if_whole
from properties.collections import MASKS, Case, collections, examples
from properties.reference import check_completed, detected_of, mask_of, need, train_rows


@examples("spackle")
@given(
    case=collections(faults=("names", "library", "places", "layer", "split"), layer=True, masks=MASKS, most_spots=12),
    data=st.data(),
)
def test_spackle(case: Case, data):
    adata = case.adata
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    params = data.draw(
        st.fixed_dictionaries(
            {"n_steps": st.integers(1, 2)},
            optional={
                "n_rings": st.sampled_from([0, 1, 3, 4]),
                "mask_share": st.sampled_from([0.1, 0.9, 1.0]),
                "precomplete": st.just(False),
                "loss": st.sampled_from(["hidden", "some"]),
            },
        )
    )
    options = data.draw(
        st.fixed_dictionaries(
            {},
            optional={
                "mask_var": st.none(),
                "split_key": st.none(),
                "random_state": st.sampled_from([3, -1]),
                "batch_size": st.sampled_from([1, 7, 0]),
            },
        )
    )
    tiny = {"n_layers": 1, "n_heads": 1, "feedforward": 8, "train_batch_size": 4}
    options |= {"model": "paper", "model_params": {**tiny, **params}, "library_key": case.key, "device": "cpu"}
    refused = []

    def expected():
        try:
            need(case, "layer", "library", "places", *(["split"] if options.get("split_key", "split") else []))
            mask = mask_of(adata, options.get("mask_var", "spared_selected"), "spared_selected")
            detected = detected_of(case, adata) & mask
            train = train_rows(case, adata, options)
            wrong = {"n_rings": 4, "mask_share": 1.0, "loss": "some", "random_state": -1, "batch_size": 0}
            if any({**options, **params}.get(name) == value for name, value in wrong.items()):
                raise Refused("parameters")
            if not detected[train].any():
                raise Refused("nothing to learn from")
        except Refused as reason:
            refused.append(reason)
            raise
        # Which entries are held out is drawn, so that few of them may be none.
        result, _ = call(sp.tl.spackle_complete, adata, copy=True, **options)
        if isinstance(result, ValueError) and "too few detected entries" in str(result) and detected.sum() < 150:
            raise Refused("too few detected entries")
        return {}

    original = copied_if_whole(adata)
    if not attempt(sp.tl.spackle_complete, adata, expected, ["layers:spackle"], **options):
        return
    check_completed(case, adata, "spackle")
    mask = mask_of(adata, options.get("mask_var", "spared_selected"), "spared_selected")
    np.testing.assert_array_equal(
        dense(adata.layers["spackle"])[:, ~mask], dense(adata.layers["log2tpm"]).astype(float)[:, ~mask]
    )
    # The order of the spots does not matter.
    other = original[rng.permutation(adata.n_obs)].copy()
    call(sp.tl.spackle_complete, other, **options)
    np.testing.assert_array_equal(dense(other[adata.obs_names].layers["spackle"]), dense(adata.layers["spackle"]))
