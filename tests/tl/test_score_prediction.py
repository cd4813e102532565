"""tl.score_prediction."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import mean_poisson_deviance

import spared_sc as sp
from helpers import KEY
from helpers.prediction import SECTIONS, embed, predict, with_split
from spared_sc._core.lineage import unit_of


@pytest.fixture
def adata(collection):
    return collection(**SECTIONS, then=embed)


def overall(scores):
    """Scores of all genes and libraries, predictions x metrics."""
    rows = scores[(scores["library"] == "all") & (scores["gene"] == "all")]
    return rows.pivot(index="prediction", columns="metric", values="value")


def raw(adata):
    """Counts of the predicted genes, depth, library and what one count adds to the scaled expression."""
    genes = adata.var_names.get_indexer(adata.obsm["predicted_ridge"].columns)
    counts, values = adata.X.toarray()[:, genes], adata.layers["log2tpm"].toarray()[:, genes]
    depth = adata.X.toarray().sum(axis=1)
    spot, gene = (counts > 0).argmax(axis=1), np.arange(adata.n_obs)
    scale = (2 ** values[gene, spot] - 1) / counts[gene, spot]  # equal for all genes: there are no lengths
    return counts, depth, adata.obs["library_id"].astype(str).to_numpy(), scale[:, None]


def test_expression_is_scored_on_raw_counts_of_all_spots(adata):
    predict(adata, loss="all")
    scores = sp.tl.score_prediction(adata, **KEY)
    counts, depth, library, scale = raw(adata)
    guess = adata.obsm["predicted_ridge"].to_numpy()
    mine = scores[scores["prediction"] == "predicted_ridge"].set_index(["metric", "library", "gene"])["value"]
    for name in np.unique(library):
        here, train = library == name, library != name
        deviances, pcc = [], []
        for i, gene in enumerate(adata.obsm["predicted_ridge"].columns):
            observed = counts[here, i]
            expected = np.maximum((2 ** np.maximum(guess[here, i], 0) - 1) / scale[here, 0], 1e-9)
            share = depth[here] * counts[train, i].sum() / depth[train].sum()
            deviances.append([mean_poisson_deviance(observed, rate) for rate in (expected, share)])
            assert mine["d2", name, gene] == pytest.approx(1 - deviances[-1][0] / deviances[-1][1], abs=1e-4)
            own = depth[here] * observed.sum() / depth[here].sum()
            scaled = expected * observed.sum() / expected.sum()
            d2_own = 1 - mean_poisson_deviance(observed, scaled) / mean_poisson_deviance(observed, own)
            assert mine["d2_own", name, gene] == pytest.approx(d2_own, abs=1e-4)
            pcc.append(stats.pearsonr(guess[here, i], np.log1p(1e4 * observed / depth[here])).statistic)
            assert mine["pcc", name, gene] == pytest.approx(pcc[-1], abs=1e-5)
        left, total = np.sum(deviances, axis=0)
        assert mine["d2", name, "all"] == pytest.approx(1 - left / total, abs=1e-4)
        assert mine["pcc", name, "all"] == pytest.approx(np.mean(pcc), abs=1e-5)
        assert mine["negative", name, "all"] == pytest.approx(np.mean(np.array(pcc) < 0))
    row = scores.query("prediction == 'predicted_ridge' and metric == 'd2' and library == 'all' and gene == 'all'")
    interval = stats.ttest_1samp([mine["d2", name, "all"] for name in np.unique(library)], 0).confidence_interval(0.95)
    assert tuple(row[["value", "lower", "upper"]].iloc[0])[1:] == pytest.approx((interval.low, interval.high))
    assert (row["n_units"].item(), row["unit"].item(), row["note"].item()) == (4, "library", "")


def test_anchors_and_ceiling_of_expression(adata):
    predict(adata, loss="all")
    summary = overall(sp.tl.score_prediction(adata, **KEY))
    assert list(summary.columns) == ["constant", "d2", "d2_own", "negative", "pcc", "pcc_given_depth", "positive"]
    assert set(summary.index) == {"predicted_ridge", "gene_mean", "depth_only", "position_only", "ceiling"}
    flat = summary.loc["gene_mean"]
    np.testing.assert_allclose(flat[["d2", "d2_own", "pcc", "pcc_given_depth"]].to_numpy(float), 0, atol=1e-9)
    assert (flat["constant"], flat["negative"], flat["positive"]) == (1, 0, 0)
    assert abs(summary.loc["depth_only", "pcc_given_depth"]) < 0.02
    for metric in ("pcc", "pcc_given_depth"):
        assert 0.1 < summary.loc["predicted_ridge", metric] < summary.loc["ceiling", metric] <= 1
    assert np.isnan(summary.loc["ceiling", ["constant", "negative", "positive"]].to_numpy(float)).all()
    # The anchors are what the predictors of that name learn from all entries.
    for name in ("depth_only", "position_only"):
        predict(adata, name, loss="all")
    again = overall(sp.tl.score_prediction(adata, **KEY))
    for name in ("depth_only", "position_only"):
        np.testing.assert_allclose(again.loc[f"predicted_{name}"], again.loc[name], rtol=1e-5, atol=1e-9)


def test_scores_of_expression_do_not_depend_on_the_order_of_spots(adata):
    predict(adata, loss="all")
    turned = adata[np.random.default_rng(0).permutation(adata.n_obs)].copy()
    one, other = (sp.tl.score_prediction(data, random_state=3, **KEY) for data in (adata, turned))
    np.testing.assert_allclose(one["value"], other["value"], rtol=1e-5, atol=1e-7)


def test_without_the_unit_of_the_layer_there_is_no_deviance(adata):
    sp.pp.center(adata)
    predict(adata, loss="all")
    predict(adata, target="log2tpm_delta", key_added="delta")
    with pytest.warns(UserWarning, match="'delta' predicts in the unit of 'log2tpm_delta'") as warned:
        scores = sp.tl.score_prediction(adata, **KEY)
    assert len(warned) == 1
    of_delta = scores[(scores["prediction"] == "delta") & scores["metric"].isin(["d2", "d2_own"])]
    assert of_delta["value"].isna().all()
    assert set(of_delta["note"]) == {"predicted in the unit of 'log2tpm_delta', not of 'log2tpm'"}
    summary = overall(scores)
    assert summary.loc["predicted_ridge", ["d2", "d2_own"]].notna().all()
    assert summary.loc["delta", "pcc"] > 0.1
    with pytest.warns(UserWarning, match="no d2 and d2_own.*'log2tpm_delta'.*not log2"):
        scores = sp.tl.score_prediction(adata, "delta", layer="log2tpm_delta", **KEY)
    assert overall(scores).loc["delta", ["d2", "d2_own"]].isna().all()
    assert set(scores.query("prediction == 'delta' and metric == 'd2'")["note"]) == {
        "layers['log2tpm_delta'] is not log2(1 + scaled count)"
    }


def test_expression_of_a_saved_model_is_compared_with_its_mean(adata):
    train = adata[adata.obs["library_id"] != "library_4"].copy()
    new = adata[adata.obs["library_id"] == "library_4"].copy()
    sp.tl.predict_expression(new, model=sp.tl.fit_predictor(train, use_rep="X_test", **KEY), key_added="ridge")
    summary = overall(sp.tl.score_prediction(new))
    assert set(summary.index) == {"ridge", "gene_mean", "ceiling"}
    assert summary.loc["gene_mean", "d2"] == pytest.approx(0)
    assert summary.loc["ridge", "d2_own"] > 0


def test_means_of_detected_entries_are_no_share_to_compare_with(adata):
    train = adata[adata.obs["library_id"] != "library_4"].copy()
    new = adata[adata.obs["library_id"] == "library_4"].copy()
    fitted = sp.tl.fit_predictor(train, model="ridge", target="log2tpm", loss="all", use_rep="X_test", **KEY)
    sp.tl.predict_expression(new, model=fitted, key_added="ridge")
    scores = sp.tl.score_prediction(new)
    d2 = scores[scores["metric"] == "d2"]
    assert d2["value"].isna().all()
    assert d2["note"].str.contains("does not tell the gene's share").all()
    assert overall(scores).loc["ridge", ["d2_own", "pcc"]].notna().all()


def test_test_splits_are_scored_as_one(adata):
    with_split(adata, l1="train", l2="train", l3="test", l4="test")
    predict(adata, loss="all")
    counts, depth, library, _ = raw(adata)
    truth, guess = np.log1p(1e4 * counts / depth[:, None]), adata.obsm["predicted_ridge"].to_numpy()

    def mean_pcc(names):
        rows = np.isin(library, names)
        return np.mean([stats.pearsonr(truth[rows, i], guess[rows, i]).statistic for i in range(truth.shape[1])])

    scores = sp.tl.score_prediction(adata, protocol="hest", **KEY)
    mine = scores[(scores["prediction"] == "predicted_ridge") & (scores["gene"] == "all")].set_index("library")
    assert set(scores["metric"]) == {"pcc"}
    assert set(mine.index) == {"library_3, library_4", "all"}
    assert mine.loc["all", "value"] == pytest.approx(mean_pcc(["library_3", "library_4"]), abs=1e-5)
    assert (mine.loc["all", "unit"], mine.loc["all", "note"]) == ("fold", "fewer than 3 folds")
    assert set(scores["prediction"]) == {"predicted_ridge", "gene_mean", "depth_only", "position_only", "ceiling"}
    # Without a split, libraries of one donor are held out together.
    adata.obs["donor"] = adata.obs["library_id"].map(
        dict(zip([f"library_{i}" for i in (1, 2, 3, 4)], "aabc", strict=True))
    )
    predict(adata, loss="all", split_key=None, subject_key="donor")
    guess = adata.obsm["predicted_ridge"].to_numpy()
    scores = sp.tl.score_prediction(adata, protocol="hest", **KEY)
    mine = scores[(scores["prediction"] == "predicted_ridge") & (scores["gene"] == "all")].set_index("library")
    folds = [["library_1", "library_2"], ["library_3"], ["library_4"]]
    expected = [mean_pcc(names) for names in folds]
    assert mine.loc[[", ".join(names) for names in folds], "value"].tolist() == pytest.approx(expected, abs=1e-5)
    assert mine.loc["all", "value"] == pytest.approx(np.mean(expected), abs=1e-5)
    assert (mine.loc["all", "n_units"], mine.loc["all", "unit"]) == (3, "fold")


def test_an_unknown_protocol_is_refused(adata):
    predict(adata)
    with pytest.raises(ValueError, match=r"protocol='paper' is unknown: choose 'expression', 'spared', 'hest'"):
        sp.tl.score_prediction(adata, protocol="paper", **KEY)


def test_scores_stand_beside_anchors_and_noise(adata):
    predict(adata)
    scores = sp.tl.score_prediction(adata, **KEY, protocol="spared")
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
    again = sp.tl.score_prediction(adata, **KEY, protocol="spared")
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
    scores = sp.tl.score_prediction(adata, **KEY, protocol="spared")
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
    scores = sp.tl.score_prediction(adata, **KEY, protocol="spared")
    assert set(scores["library"]) == {"library_4", "all"}
    assert scores["lower"].isna().all()  # one library has no interval
    notes = scores[(scores["library"] == "all") & (scores["metric"] != "pcc_pooled") & scores["value"].notna()]["note"]
    assert set(notes) == {"fewer than 3 libraries"}
    adata.obs["split"] = adata.obs["split"].replace({"test": "val"})
    predict(adata)
    scores = sp.tl.score_prediction(adata, **KEY, protocol="spared")
    assert set(scores.loc[scores["library"] != "all", "role"]) == {"val"}
    fitted = sp.tl.fit_predictor(adata, use_rep="X_test", split_key=None, **KEY)
    sp.tl.predict_expression(adata, model=fitted, key_added="seen", **KEY)
    with pytest.raises(ValueError, match="all libraries had a part in fitting"):
        sp.tl.score_prediction(adata, "seen", **KEY, protocol="spared")


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
    scores = sp.tl.score_prediction(adata, **KEY, protocol="spared")
    of_gene = scores[(scores["gene"] == gene) & ~scores["prediction"].str.startswith("floor")]
    assert of_gene["value"].isna().all()
    expression = sp.tl.score_prediction(adata, **KEY)
    assert expression[expression["gene"] == gene]["value"].isna().all()
    assert expression[(expression["gene"] != gene) & (expression["metric"] == "pcc")]["value"].notna().any()
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
        fitted = sp.tl.fit_predictor(adata, target="log2tpm", use_rep="X_test", **KEY)
    sp.tl.predict_expression(adata, model=fitted, key_added="before", **KEY)
    again = sp.tl.score_prediction(adata, "before", **KEY, protocol="spared")
    again = again[(again["gene"] == "all") & (again["metric"] == "mse") & (again["library"] == "library_4")]
    expected = errors.set_index("prediction")["value"]["predicted_ridge"]
    assert again.set_index("prediction")["value"]["before"] == pytest.approx(expected)


def test_donors_are_the_units(adata):
    predict(adata)
    scores = {}
    for donors in ("a a b c", "a a b b", "1 2 3 4"):
        names = dict(zip([f"library_{i}" for i in (1, 2, 3, 4)], donors.split(), strict=True))
        adata.obs["donor"] = adata.obs["library_id"].astype(str).map(names)
        found = sp.tl.score_prediction(adata, subject_key="donor", **KEY, protocol="spared")
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
    predict(adata, target="log2tpm_delta")
    with pytest.warns(UserWarning, match="in the unit of 'log2tpm_delta'.*Pass layer='log2tpm_delta'"):
        sp.tl.score_prediction(adata, **KEY, protocol="spared")
    with pytest.warns(UserWarning, match="no noise floor"):  # and no other
        scores = sp.tl.score_prediction(adata, layer="log2tpm_delta", **KEY, protocol="spared")
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
        scores = sp.tl.score_prediction(bare, **KEY, protocol="spared")
    assert list(scores["prediction"].unique()) == ["predicted_ridge", "gene_mean", "depth_only"]
    # A library in which nothing was detected has no score, and does not spoil those of the others.
    rows = np.flatnonzero(adata.obs["library_id"] == "library_4")
    for values in (adata.layers["log2tpm"], adata.layers["detected"], adata.X):
        values.data[values.indptr[rows[0]] : values.indptr[rows[-1] + 1]] = 0  # its rows follow one another
        values.eliminate_zeros()
    predict(adata)
    scores = sp.tl.score_prediction(adata, **KEY, protocol="spared")
    mse = scores[(scores["gene"] == "all") & (scores["metric"] == "mse") & (scores["prediction"] == "predicted_ridge")]
    mse = mse.set_index("library")
    assert np.isnan(mse.loc["library_4", "value"])
    assert mse.loc["all", "lower"] <= mse["value"][:3].mean() <= mse.loc["all", "upper"]
    assert mse.loc["all", "value"] == pytest.approx(mse["value"][:3].mean())


def test_scores_refuse_what_does_not_fit(adata):
    with pytest.raises(KeyError, match="there is no prediction"):
        sp.tl.score_prediction(adata, **KEY, protocol="spared")
    predict(adata)
    with pytest.raises(KeyError, match="no prediction 'X_test'"):
        sp.tl.score_prediction(adata, "X_test", **KEY, protocol="spared")
    adata.var["few"] = adata.var["spared_selected"] & (np.arange(adata.n_vars) % 2 == 0)
    predict(adata, "gene_mean", mask_var="few", key_added="few")
    with pytest.raises(ValueError, match="predict different genes"):
        sp.tl.score_prediction(adata, **KEY, protocol="spared")
    with_split(adata, l1="train", l2="train", l3="val", l4="test")
    predict(adata, "gene_mean")
    with pytest.raises(ValueError, match="fitted to different libraries"):
        sp.tl.score_prediction(adata, ["predicted_ridge", "predicted_gene_mean"], **KEY, protocol="spared")
    with pytest.raises(ValueError, match="pass the same `library_key`"):
        sp.tl.score_prediction(adata, "predicted_ridge", library_key="split", protocol="spared")
    part = adata[adata.obs["library_id"] == "library_1"].copy()
    with pytest.raises(ValueError, match="score the whole AnnData"):
        sp.tl.score_prediction(part, "predicted_ridge", **KEY, protocol="spared")
    fewer = adata[:, adata.obsm["predicted_ridge"].columns[1:]].copy()
    with pytest.raises(ValueError, match="has no genes"):
        sp.tl.score_prediction(fewer, "predicted_ridge", **KEY, protocol="spared")
