"""Random collections through the functions that read places."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

import spared_sc as sp
from properties.calls import attempt
from properties.collections import MASKS, Case, collections, examples
from properties.reference import check_completed, read_graph, read_median, read_moran, read_selected


@pytest.mark.slow
@examples("space")
@given(
    case=collections(faults=("names", "library", "places", "layer", "split"), layer=True, masks=MASKS), data=st.data()
)
def test_space(case: Case, data):
    adata, library = case.adata, {"library_key": case.key}
    options = data.draw(
        st.fixed_dictionaries(
            {},
            optional={
                "kind": st.sampled_from(["hex", "grid", "grid4", "hexagon"]),
                "n_rings": st.sampled_from([2, 3, 10**12, 0]),
            },
        )
    )
    rings = min(options.get("n_rings", 1), adata.n_obs)
    attempt(
        sp.pp.lattice_neighbors,
        adata,
        lambda: read_graph(case, adata, {**options, "n_rings": rings}),
        ["obsp:spatial_distances", "obsp:spatial_connectivities", "uns:spatial_neighbors"],
        **library,
        **options,
    )
    options = data.draw(
        st.fixed_dictionaries(
            {},
            optional={
                "median_completed": st.booleans(),
                "connectivity_key": st.sampled_from(["mine", "mine", "knn"]),
                "mask_var": st.none(),
                "split_key": st.none(),
            },
        )
    )
    attempt(sp.pp.moran, adata, lambda: read_moran(case, adata, options), ["var:moran_i"], **library, **options)
    options = data.draw(
        st.fixed_dictionaries({}, optional={"n_rings": st.sampled_from([1, 2, 10**12, 0]), "mask_var": st.none()})
    )
    rings = min(options.get("n_rings", 4), adata.n_obs)
    done = attempt(
        sp.tl.median_complete,
        adata,
        lambda: read_median(case, adata, {**options, "n_rings": rings}),
        ["layers:median"],
        **library,
        **options,
    )
    if done:
        check_completed(case, adata, "median")
    options = data.draw(
        st.fixed_dictionaries(
            {},
            optional={
                "n_genes": st.integers(0, 12),
                "score": st.sampled_from(["moran_i", "note", "geary"]),
                "subset_genes": st.just(True),
            },
        )
    )
    attempt(
        sp.pp.select_genes,
        adata,
        lambda: read_selected(case, adata, options),
        ["var:spared_selected"],
        again=not options.get("subset_genes"),
        **options,
    )
