"""tl.score_prediction."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

import spared_sc as sp
from helpers import KEY
from helpers.prediction import SECTIONS, embed, predict, with_split
from spared_sc._core.lineage import unit_of


@pytest.fixture
def adata(collection):
    return collection(**SECTIONS, then=embed)


def test_scores_stand_beside_anchors_and_noise(adata):
    predict(adata)
    scores = sp.tl.score_prediction(adata, **KEY)
    summary = scores[(scores["library"] == "all") & (scores["gene"] == "all")].pivot(
        index="prediction", columns="metric", values="value"
    )
    assert summary.loc["predicted_ridge", "skill"] > 0.02
    assert summary.loc["predicted_ridge", "pcc"] > 0.2
    assert summary.loc["gene_mean", "skill"] == 0
    assert (
        0 < summary.loc["floor_low", "mse"] <= summary.loc["floor_high", "mse"] < summary.loc["predicted_ridge", "mse"]
    )
    assert summary.loc["predicted_ridge", "pcc"] < summary.loc["floor_high", "pcc"] <= 1
    # The anchors are what the predictors of that name give.
    for name in ("gene_mean", "depth_only", "position_only"):
        predict(adata, name)
    again = sp.tl.score_prediction(adata, **KEY)
    again = again[(again["library"] == "all") & (again["gene"] == "all") & (again["metric"] == "mse")]
    value = again.set_index("prediction")["value"]
    for name in ("gene_mean", "depth_only", "position_only"):
        assert value[name] == pytest.approx(value[f"predicted_{name}"])


def test_scores_are_on_detected_entries_of_the_measured_layer(adata):
    predict(adata)
    genes = adata.var_names.get_indexer(adata.obsm["predicted_ridge"].columns)
    truth = adata.layers["log2tpm"].toarray()[:, genes]
    known = adata.layers["detected"].toarray()[:, genes]
    guess = adata.obsm["predicted_ridge"].to_numpy()
    scores = sp.tl.score_prediction(adata, **KEY)
    mine = scores[(scores["prediction"] == "predicted_ridge") & (scores["gene"] == "all")]
    by_library = mine[mine["metric"] == "mse"].set_index("library")["value"]
    expected = []
    for name in by_library.index.drop("all"):
        rows = (adata.obs["library_id"] == name).to_numpy()
        entries = known[rows]
        expected.append(((truth - guess)[rows][entries] ** 2).mean())
        assert by_library[name] == pytest.approx(expected[-1], rel=1e-4)
    assert by_library["all"] == pytest.approx(np.mean(expected), rel=1e-4)
    row = mine[(mine["metric"] == "mse") & (mine["library"] == "all")].iloc[0]
    interval = stats.ttest_1samp(expected, 0).confidence_interval(0.95)
    assert (row["lower"], row["upper"]) == pytest.approx((interval.low, interval.high), rel=1e-3)
    assert (row["n_units"], row["unit"], row["note"]) == (4, "library", "")
    pooled = [stats.pearsonr(truth[known[:, g], g], guess[known[:, g], g]).statistic for g in range(len(genes))]
    assert mine[mine["metric"] == "pcc_pooled"]["value"].item() == pytest.approx(np.mean(pooled), abs=1e-4)


def test_only_honest_libraries_are_scored(adata):
    with_split(adata, l1="train", l2="train", l3="val", l4="test")
    predict(adata)
    scores = sp.tl.score_prediction(adata, **KEY)
    assert set(scores["library"]) == {"library_4", "all"}
    assert scores["lower"].isna().all()  # one library has no interval
    notes = scores[(scores["library"] == "all") & (scores["metric"] != "pcc_pooled") & scores["value"].notna()]["note"]
    assert set(notes) == {"fewer than 3 libraries"}
    adata.obs["split"] = adata.obs["split"].replace({"test": "val"})
    predict(adata)
    scores = sp.tl.score_prediction(adata, **KEY)
    assert set(scores.loc[scores["library"] != "all", "role"]) == {"val"}
    fitted = sp.tl.fit_predictor(adata, use_rep="X_test", split_key=None, **KEY)
    sp.tl.predict_expression(adata, model=fitted, key_added="seen", **KEY)
    with pytest.raises(ValueError, match="all libraries had a part in fitting"):
        sp.tl.score_prediction(adata, "seen", **KEY)


def test_genes_that_training_has_not_seen_are_not_scored(adata):
    with_split(adata, l1="train", l2="train", l3="val", l4="test")
    gene = adata.var_names[adata.var["spared_selected"]][3]
    rows = adata.obs["split"].eq("train").to_numpy()
    for values in (adata.X, adata.layers["log2tpm"], adata.layers["detected"]):
        column = values[:, adata.var_names.get_loc(gene)].tocoo()
        at = column.row[rows[column.row]]
        values[at, adata.var_names.get_loc(gene)] = 0
        values.eliminate_zeros()
    with pytest.warns(UserWarning, match=f"1 genes are undetected in every training library.*{gene}"):
        predict(adata)
    with pytest.warns(UserWarning, match="1 genes are undetected in every training library"):
        predict(adata, "knn")
    scores = sp.tl.score_prediction(adata, **KEY)
    of_gene = scores[(scores["gene"] == gene) & ~scores["prediction"].str.startswith("floor")]
    assert of_gene["value"].isna().all()
    genes = adata.obsm["predicted_knn"].columns
    test = adata[adata.obs["split"] == "test", genes]
    truth, known = test.layers["log2tpm"].toarray(), test.layers["detected"].toarray()
    known[:, genes.get_loc(gene)] = False
    errors = scores[(scores["gene"] == "all") & (scores["metric"] == "mse") & (scores["library"] == "library_4")]
    for key in ("predicted_ridge", "predicted_knn"):
        expected = ((test.obsm[key].to_numpy() - truth)[known] ** 2).mean()
        assert errors.set_index("prediction")["value"][key] == pytest.approx(expected, rel=1e-4)
    # The same of a model that was fitted before.
    with pytest.warns(UserWarning, match="1 genes are undetected in every training library"):
        fitted = sp.tl.fit_predictor(adata, use_rep="X_test", **KEY)
    sp.tl.predict_expression(adata, model=fitted, key_added="before", **KEY)
    again = sp.tl.score_prediction(adata, "before", **KEY)
    again = again[(again["gene"] == "all") & (again["metric"] == "mse") & (again["library"] == "library_4")]
    expected = errors.set_index("prediction")["value"]["predicted_ridge"]
    assert again.set_index("prediction")["value"]["before"] == pytest.approx(expected)


def test_donors_are_the_units(adata):
    predict(adata)
    scores = {}
    for donors in ("a a b c", "a a b b", "1 2 3 4"):
        names = dict(zip([f"library_{i}" for i in (1, 2, 3, 4)], donors.split(), strict=True))
        adata.obs["donor"] = adata.obs["library_id"].astype(str).map(names)
        found = sp.tl.score_prediction(adata, subject_key="donor", **KEY)
        found = found[(found["metric"] == "mse") & (found["gene"] == "all")]
        scores[donors] = found.query("prediction == 'predicted_ridge'").set_index("library")
    values = scores["a a b c"]["value"][["library_1", "library_2", "library_3", "library_4"]].to_numpy()
    for donors, of_units in {"a a b c": [values[:2].mean(), *values[2:]], "1 2 3 4": values}.items():
        row = scores[donors].loc["all"]
        interval = stats.ttest_1samp(of_units, 0).confidence_interval(0.95)
        expected = np.mean(of_units), interval.low, interval.high
        assert tuple(row[["value", "lower", "upper"]]) == pytest.approx(expected)
        assert (row["n_units"], row["unit"], row["note"]) == (len(of_units), "subject", "")
    few = scores["a a b b"].loc["all"]
    assert few["value"] == pytest.approx(values.mean())
    assert (few["n_units"], few["note"]) == (2, "fewer than 3 subjects")
    assert np.isnan([few["lower"], few["upper"]]).all()


def test_targets_in_another_unit_are_told(adata):
    sp.pp.center(adata)
    predict(adata, layer="log2tpm_delta")
    with pytest.warns(UserWarning, match="in the unit of 'log2tpm_delta'.*Pass layer='log2tpm_delta'"):
        sp.tl.score_prediction(adata, **KEY)
    with pytest.warns(UserWarning, match="no noise floor"):  # and no other
        scores = sp.tl.score_prediction(adata, layer="log2tpm_delta", **KEY)
    overall = scores[(scores["library"] == "all") & (scores["gene"] == "all") & (scores["metric"] == "skill")]
    assert overall.set_index("prediction").loc["predicted_ridge", "value"] > 0.02
    sp.tl.median_complete(adata, **KEY)
    sp.pp.uncenter(adata)
    assert unit_of(adata, "median") == "log2tpm"
    assert unit_of(adata, "median_denoised") == "log2tpm"
    assert unit_of(adata, "log2tpm_delta_restored") == "log2tpm"
    assert unit_of(adata, "log2tpm_delta") == "log2tpm_delta"


def test_scores_without_positions_or_entries(adata):
    predict(adata)
    bare = adata.copy()
    del bare.obsm["spatial"]
    bare.obs = bare.obs.drop(columns=["array_row", "array_col"])
    with pytest.warns(UserWarning, match=r"'position_only' is left out|no noise floor: the spots have no positions"):
        scores = sp.tl.score_prediction(bare, **KEY)
    assert list(scores["prediction"].unique()) == ["predicted_ridge", "gene_mean", "depth_only"]
    # A library in which nothing was detected has no score, and does not spoil those of the others.
    rows = np.flatnonzero(adata.obs["library_id"] == "library_4")
    for values in (adata.layers["log2tpm"], adata.layers["detected"], adata.X):
        values.data[values.indptr[rows[0]] : values.indptr[rows[-1] + 1]] = 0  # its rows follow one another
        values.eliminate_zeros()
    predict(adata)
    scores = sp.tl.score_prediction(adata, **KEY)
    mse = scores[(scores["gene"] == "all") & (scores["metric"] == "mse") & (scores["prediction"] == "predicted_ridge")]
    mse = mse.set_index("library")
    assert np.isnan(mse.loc["library_4", "value"])
    assert mse.loc["all", "lower"] <= mse["value"][:3].mean() <= mse.loc["all", "upper"]
    assert mse.loc["all", "value"] == pytest.approx(mse["value"][:3].mean())


def test_scores_refuse_what_does_not_fit(adata):
    with pytest.raises(KeyError, match="there is no prediction"):
        sp.tl.score_prediction(adata, **KEY)
    predict(adata)
    with pytest.raises(KeyError, match="no prediction 'X_test'"):
        sp.tl.score_prediction(adata, "X_test", **KEY)
    adata.var["few"] = adata.var["spared_selected"] & (np.arange(adata.n_vars) % 2 == 0)
    predict(adata, "gene_mean", mask_var="few", key_added="few")
    with pytest.raises(ValueError, match="predict different genes"):
        sp.tl.score_prediction(adata, **KEY)
    with_split(adata, l1="train", l2="train", l3="val", l4="test")
    predict(adata, "gene_mean")
    with pytest.raises(ValueError, match="fitted to different libraries"):
        sp.tl.score_prediction(adata, ["predicted_ridge", "predicted_gene_mean"], **KEY)
    with pytest.raises(ValueError, match="pass the same `library_key`"):
        sp.tl.score_prediction(adata, "predicted_ridge", library_key="split")
    part = adata[adata.obs["library_id"] == "library_1"].copy()
    with pytest.raises(ValueError, match="score the whole AnnData"):
        sp.tl.score_prediction(part, "predicted_ridge", **KEY)
    fewer = adata[:, adata.obsm["predicted_ridge"].columns[1:]].copy()
    with pytest.raises(ValueError, match="has no genes"):
        sp.tl.score_prediction(fewer, "predicted_ridge", **KEY)
