"""What is shown of an AnnData."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import spared_sc as sp
from helpers import KEY, dense
from spared_sc._explorer.collect import MEASURED, PREDICTED, SD, collect, find_panels


@pytest.fixture
def adata(collection):
    adata = collection(n_libraries=2, shape=(8, 8), n_genes=30, depth=200, recipe={"n_genes": 8})
    sp.tl.median_complete(adata, **KEY)
    sp.tl.complete(adata, method="kernel", **KEY)
    sp.tl.predict_expression(adata, model="position_only", **KEY)
    return adata


def collected(adata, **options):
    usual = dict.fromkeys(("genes", "layers", "obs", "scores", "libraries"))
    return collect(adata, **{**usual, "library_key": "library_id", "spatial_key": "spatial", "img": True, **options})


def test_all_results_are_offered_on_their_scales(adata):
    adata.layers["kernel_denoised_sd"] = dense(adata.layers["kernel_denoised"]) * 0.1
    panels = find_panels(adata, None)
    assert [panel.name for panel in panels] == [
        *("log2tpm", "median", "kernel", "kernel_denoised", "kernel_denoised_sd", "predicted_position_only"),
    ]
    scale = {panel.name: panel.scale for panel in panels}
    assert scale.pop("kernel_denoised_sd") not in scale.values()
    assert len(set(scale.values())) == 1
    assert {panel.unit for panel in panels if panel.kind != SD} == {"log2(TPM + 1)"}
    assert [panel.zeros for panel in panels] == [False, False, False, True, True, True]
    assert [panel.title for panel in panels] == [
        *("measured", "given detection (median)", "given detection (kernel)", "denoised", "sd of denoised values"),
        "predicted (position_only)",
    ]


def test_differences_are_those_of_one_scale(adata):
    made = collected(adata)
    names = [panel.name for panel in made.panels]
    assert [(names[a], names[b]) for a, b in made.differences] == [
        ("kernel_denoised", "log2tpm"),
        ("predicted_position_only", "kernel_denoised"),
        ("predicted_position_only", "log2tpm"),
    ]
    adata.uns["spared_sc"]["predicted_position_only"]["card"]["unit"] = "other"
    names = [panel.name for panel in collected(adata).panels]
    assert [(names[a], names[b]) for a, b in collected(adata).differences] == [("kernel_denoised", "log2tpm")]


def test_values_are_those_of_the_slots_in_the_order_of_the_sections(adata):
    shuffled = adata[np.random.default_rng(0).permutation(adata.n_obs)].copy()
    made = collected(shuffled, libraries=["library_2", "library_1"])
    rows = made.rows
    assert [section.name for section in made.sections] == ["library_2", "library_1"]
    assert shuffled.obs["library_id"].iloc[rows[:64]].eq("library_2").all()
    gene = made.genes[3]
    for panel in made.panels:
        slot = shuffled.obsm[panel.name][gene] if panel.kind == PREDICTED else shuffled[:, gene].layers[panel.name]
        expected = slot.to_numpy() if panel.kind == PREDICTED else dense(slot).ravel()
        np.testing.assert_allclose(made.values(panel, gene), expected[rows])
    np.testing.assert_array_equal(made.detected(gene), dense(shuffled[:, gene].X).ravel()[rows] > 0)


def test_genes_are_the_selected_and_predicted_ones(adata):
    selected = adata.var_names[adata.var["spared_selected"]].tolist()
    assert collected(adata).genes == selected
    del adata.var["spared_selected"], adata.obsm["predicted_position_only"]
    assert collected(adata).genes == adata.var_names.tolist()
    assert collected(adata, genes=["Gene005", "Gene001"]).genes == ["Gene005", "Gene001"]
    with pytest.raises(KeyError, match="there is no gene 'none'"):
        collected(adata, genes=["none"])


def test_a_slide_without_counts_shows_its_prediction(adata):
    slide = sp.get.predicted(adata, "predicted_position_only")
    slide.obsm["predicted_position_only"] = adata.obsm["predicted_position_only"]
    made = collected(slide)
    assert [panel.kind for panel in made.panels] == [PREDICTED]
    assert made.detected(made.genes[0]) is None
    assert made.differences == []


def test_columns_of_obs_become_maps(adata):
    n = adata.n_obs
    adata.obs["cluster"] = pd.Categorical(["b", "a"] * (n // 2), categories=["b", "a", "unused"])
    adata.uns["cluster_colors"] = ["red", "#00ff00", "blue"]
    adata.obs["text"] = pd.array(["x", None] * (n // 2), dtype="string")
    adata.obs["flag"] = [True, False] * (n // 2)
    adata.obs["share"] = np.linspace(0, 1, n)
    adata.obs["many"] = [f"name {i}" for i in range(n)]
    columns = {column.name: column for column in collected(adata).columns}
    assert not {"many", "array_row", "array_col", "in_tissue", "library_id"} & set(columns)
    np.testing.assert_array_equal(columns["depth (total count)"].values, dense(adata.X).sum(axis=1))
    assert columns["cluster"].categories == ["b", "a"]
    assert columns["cluster"].colours == ["#ff0000", "#00ff00"]
    assert columns["cluster"].values[:3].tolist() == [0, 1, 0]
    assert columns["text"].categories == ["x"]
    assert np.isnan(columns["text"].values[1])
    assert columns["flag"].categories == ["False", "True"]
    assert columns["flag"].values[:2].tolist() == [1, 0]
    np.testing.assert_array_equal(columns["share"].values, adata.obs["share"])
    assert [column.name for column in collected(adata, obs=["flag"]).columns] == ["flag"]
    with pytest.raises(ValueError, match="makes no map"):
        collected(adata, obs=["many"])
    with pytest.raises(KeyError, match="there is no column 'none'"):
        collected(adata, obs=["none"])


def test_numbers_of_genes(adata):
    scores = sp.tl.score_prediction(adata, **KEY)
    adata.var["kernel_skill"] = np.arange(30.0)
    adata.var["audit_skill"] = 1.0
    made = collected(adata, scores=scores)
    genes = made.genes
    label = "correlation given depth (position_only)"
    assert list(made.gene_numbers) == ["skill (kernel)", "Moran's I", "missing share", label]
    np.testing.assert_array_equal(made.gene_numbers["skill (kernel)"], adata.var.loc[genes, "kernel_skill"])
    np.testing.assert_array_equal(made.gene_numbers["Moran's I"], adata.var.loc[genes, "moran_i"])
    np.testing.assert_allclose(
        made.gene_numbers["missing share"], (dense(adata[:, genes].X) == 0).mean(axis=0), rtol=1e-6
    )
    of_gene = scores[(scores["metric"] == "pcc_given_depth") & (scores["library"] == "all")]
    of_gene = of_gene[of_gene["prediction"] == "predicted_position_only"].set_index("gene")["value"]
    np.testing.assert_array_equal(made.gene_numbers[label], of_gene[genes])


def test_verdicts_are_those_of_the_audit_or_else_of_the_completion(adata):
    assert collected(adata).verdicts is None
    adata.var["kernel_verdict"] = "denoise"
    assert collected(adata).verdicts == ["denoise"] * 8
    adata.uns["spared_sc"]["audit"] = {"function": "tl.audit_completion", "params": {}}
    adata.var["audit_verdict"] = ["complete"] * 15 + ["undecided"] * 15
    assert collected(adata).verdicts == adata.var.loc[collected(adata).genes, "audit_verdict"].tolist()


def test_spots_lie_on_the_image_and_have_the_size_of_spots_or_bins(adata):
    slide = adata.uns["spatial"]["library_1"]
    scale = slide["scalefactors"]["tissue_hires_scalef"]
    section = collected(adata).sections[0]
    np.testing.assert_allclose(section.xy, scale * adata.obsm["spatial"][section.rows])
    assert section.size == pytest.approx(scale * slide["scalefactors"]["spot_diameter_fullres"])
    assert not section.square
    slide["scalefactors"]["bin_size_um"] = 8.0
    assert collected(adata).sections[0].square
    assert collected(adata, img=False).sections[0].image is None


def test_sections_that_a_predictor_knows_are_named(collection):
    adata = collection(n_libraries=3, shape=(8, 8), n_genes=30, depth=200, recipe={"n_genes": 8})
    adata.obs["split"] = adata.obs["library_id"].map({"library_1": "train", "library_2": "train", "library_3": "test"})
    sp.tl.predict_expression(adata, model="position_only", **KEY)
    made = collected(adata)
    (at,) = [i for i, panel in enumerate(made.panels) if panel.kind == PREDICTED]
    assert made.fitted == [{at: "the model was fitted to this section"}] * 2 + [{}]
    del adata.obsm["predicted_position_only"], adata.obs["split"]
    sp.tl.predict_expression(adata, model="position_only", **KEY)
    assert collected(adata).fitted == [{}, {}, {}]


def test_nothing_to_show_is_said(adata):
    raw = adata.copy()
    for name in list(raw.layers):
        del raw.layers[name]
    del raw.obsm["predicted_position_only"]
    with pytest.raises(ValueError, match=r"nothing to show.*recipe_spared"):
        collected(raw)
    with pytest.raises(KeyError, match="there is no layer or prediction 'none'"):
        collected(adata, layers=["none"])


def test_other_layers_are_shown_on_request(adata):
    made = collected(adata, layers=["rate"])
    assert [(panel.title, panel.unit, panel.kind != MEASURED) for panel in made.panels] == [("rate", "rate", True)]
