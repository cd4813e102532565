"""Random collections through the recipe and what follows it."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
from anndata import AnnData, read_h5ad
from hypothesis import given

import spared_sc as sp
from helpers import dense
from properties.calls import Refused, attempt, call, copied_if_whole
from properties.collections import Case, collections, examples
from properties.reference import FILTER_WRITES, need


def recipe_in_steps(adata: AnnData, case: Case, options: dict) -> AnnData:
    """The recipe by its four steps."""
    own = {name: options[name] for name in ("spot_counts", "gene_counts", "real_data_share") if name in options}
    adata = adata.copy()
    completed = options.get("moran_layer", "median") == "median"
    for step in (
        lambda a: sp.pp.spared_filter(a, library_key=case.key, **own),
        lambda a: sp.pp.normalize_tpm(a, gene_lengths=None),
        lambda a: sp.pp.moran(a, library_key=case.key, median_completed=completed),
        lambda a: sp.pp.select_genes(a, n_genes=options.get("n_genes")),
    ):
        result, _ = call(step, adata)
        if isinstance(result, Exception):
            raise Refused(str(result))
    return adata


@examples("whole way")
@given(case=collections(faults=("counts", "names", "library", "places", "split")), data=st.data())
def test_whole_way(case: Case, data, tmp_path_factory):
    adata = case.adata
    options = data.draw(
        st.fixed_dictionaries(
            {"spot_counts": st.just((0, 1e12)), "gene_counts": st.just((0, 1e12))},
            optional={
                "real_data_share": st.sampled_from([0.2, 0.5, 0.9]),
                "n_genes": st.integers(1, 12),
                "moran_layer": st.sampled_from(["log2tpm", "median"]),
            },
        )
    )
    original = copied_if_whole(adata)

    def expected():
        need(case)
        done = recipe_in_steps(adata, case, options)
        slots = {"var": ["spared_keep", "moran_i", "spared_selected"], "layers": ["log2tpm", "detected"]}
        return {f"{attr}:{name}": dense(getattr(done, attr)[name]) for attr in slots for name in slots[attr]}

    done = attempt(
        sp.pp.recipe_spared,
        adata,
        expected,
        [*FILTER_WRITES, "layers:log2tpm", "var:moran_i", "var:spared_selected"],
        again=False,
        library_key=case.key,
        gene_lengths=None,
        **options,
    )
    if not done:
        return

    def way(one: AnnData) -> AnnData | None:
        steps = (
            lambda a: sp.pp.recipe_spared(a, library_key=case.key, gene_lengths=None, **options),
            lambda a: sp.pp.lattice_neighbors(a, library_key=case.key),
            lambda a: sp.tl.median_complete(a, library_key=case.key),
            lambda a: sp.pp.center(a, library_key=case.key),
            lambda a: sp.pp.combat(a, layer="median", library_key=case.key),
        )
        for step in steps:
            result, _ = call(step, one)
            if isinstance(result, Exception):
                assert "ComBat compares batches" in str(result)
        return one

    # Neither the order of the spots nor the names of the libraries matter.
    rng = np.random.default_rng(0)
    first = way(original.copy())
    other = original[rng.permutation(original.n_obs)].copy()
    if case.column:
        names = sorted({str(name) for name in other.obs[case.column]})
        renamed = dict(zip(names, [f"L{i}" for i in rng.permutation(len(names))], strict=True))
        other.obs[case.column] = [renamed[str(name)] for name in other.obs[case.column]]
    other = way(other)
    assert set(other.obs_names) == set(first.obs_names)
    other = other[first.obs_names]
    np.testing.assert_allclose(other.var["moran_i"], first.var["moran_i"], atol=1e-9)
    assert set(other.layers) == set(first.layers)
    scores = first.var["moran_i"].dropna().sort_values().to_numpy()
    if np.diff(scores).min(initial=1) > 1e-9:  # else the last bits of equal scores decide
        assert other.var["spared_selected"].tolist() == first.var["spared_selected"].tolist()
        for layer in first.layers:
            tolerance = 1e-2 if "combat" in layer else 1e-5
            np.testing.assert_allclose(
                dense(other.layers[layer]).astype(float),
                dense(first.layers[layer]).astype(float),
                atol=tolerance,
                rtol=tolerance,
            )
        for graph in ("spatial_distances", "spatial_connectivities"):
            np.testing.assert_array_equal(dense(other.obsp[graph]), dense(first.obsp[graph]))

    if not any("/" in name for name in first.obs):  # files cannot hold the user's own column
        path = tmp_path_factory.mktemp("h5ad") / "a.h5ad"
        first.write_h5ad(path)
        back = read_h5ad(path)
        for layer in first.layers:
            np.testing.assert_array_equal(dense(back.layers[layer]), dense(first.layers[layer]))
        assert back.uns["spared_sc"].keys() == first.uns["spared_sc"].keys()
