"""Random collections through the functions that learn from libraries."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import spared_sc as sp
from helpers import dense
from properties.calls import attempt, call, reading
from properties.collections import MASKS, Case, collections, examples
from properties.reference import mask_of, pairs_alike, read_centered, read_combat, read_split, rows_by_library


@pytest.mark.slow
@examples("learning")
@given(
    case=collections(faults=("counts", "names", "library", "places", "layer", "split"), layer=True, masks=MASKS),
    data=st.data(),
)
def test_learning(case: Case, data):
    adata, library = case.adata, {"library_key": case.key}
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    common = {"mask_var": st.none(), "split_key": st.none(), "key_added": st.sampled_from(["new", "log2tpm"])}

    options = data.draw(st.fixed_dictionaries({}, optional=common))
    centered = attempt(
        sp.pp.center,
        adata,
        lambda: read_centered(case, adata, options),
        ["layers:log2tpm_delta", "layers:new", "var:log2tpm_mean"],
        **library,
        **options,
    )
    if centered:
        layer = options.get("key_added", "log2tpm_delta")
        values = dense(adata.layers["log2tpm"]).astype(float)
        attempt(
            sp.pp.uncenter,
            adata,
            lambda: {"layers:back": values},
            ["layers:back"],
            layer=layer,
            key_added="back",
            **({"mask_var": None} if "mask_var" in options else {}),
        )
        # of any layer, whatever its type
        shifted = values + adata.var["log2tpm_mean"].to_numpy()
        attempt(
            sp.pp.uncenter,
            adata,
            lambda: {"layers:shifted": shifted},
            ["layers:shifted"],
            layer="log2tpm",
            mean="log2tpm_mean",
            mask_var=None,
            key_added="shifted",
        )

    options = data.draw(st.fixed_dictionaries({}, optional={**common, "batch_key": st.just("donor")}))
    wanted = {}

    def read():
        wanted.update(read_combat(case, adata, options))
        return {slot: value for slot, value in wanted.items() if slot != "combat" and "key_added" not in options}

    if attempt(sp.pp.combat, adata, read, ["layers:log2tpm_combat", "layers:new"], **library, **options):
        corrected = dense(adata.layers[options.get("key_added", "log2tpm_combat")]).astype(float)
        assert np.isfinite(corrected).all()
        mask = mask_of(adata, options.get("mask_var", "spared_selected"), "spared_selected")
        np.testing.assert_array_equal(corrected[:, ~mask], dense(adata.layers["log2tpm"])[:, ~mask])
        if "combat" in wanted:
            np.testing.assert_allclose(corrected, wanted["combat"], rtol=0.01, atol=0.01)

    found, _ = call(sp.pp.find_duplicate_libraries, adata, **library)
    alike, reason = reading(lambda: pairs_alike(case, adata))
    assert isinstance(found, Exception) == (reason is not None), reason or found
    if reason is None:
        pairs = {(row.library, row.other): row.correlation for row in found.itertuples()}
        assert set(pairs) <= set(alike)
        for pair, correlation in alike.items():
            if abs(correlation - 0.95) > 1e-9:
                assert (pair in pairs) == (correlation > 0.95), pair
                assert abs(pairs.get(pair, correlation) - correlation) < 1e-9

    options = data.draw(
        st.fixed_dictionaries(
            {},
            optional={
                "subject_key": st.just("donor"),
                "intra_subject": st.just(True),
                "fractions": st.sampled_from([(0.5, 0.5, 0), (1, 0, 0), (0.4, 0.2, 0.4)]),
                "random_state": st.sampled_from([1, 2, -1]),
            },
        )
    )
    if case.column and data.draw(st.integers(0, 4)) == 0:
        names = adata.obs[case.column].dropna().unique().tolist()
        options["assignment"] = dict(zip(names, rng.choice(["train", "val", "test"], len(names)), strict=True))
    if attempt(
        sp.pp.split_libraries, adata, lambda: read_split(case, adata, options), ["obs:split"], **library, **options
    ):
        split = adata.obs["split"]
        of_library = {name: set(split.iloc[rows]) for name, rows in rows_by_library(case, adata).items()}
        assert all(len(splits) == 1 for splits in of_library.values())
        if "assignment" not in options:
            wanted = [
                n
                for n, share in zip(("train", "val", "test"), options.get("fractions", (1, 1, 1)), strict=True)
                if share
            ]
            assert set(split) == set(wanted)
            for group in case.groups:
                assert len(set().union(*(of_library[name] for name in group))) == 1
