"""benchmark.score: predictions of other tools, scored as our own."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

import spared_sc as sp

KEY = {"library_key": "library_id"}
pytestmark = pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning")


@pytest.fixture(scope="module")
def truth():
    adata = sp.datasets.synthetic(n_libraries=4, shape=(9, 9), n_genes=60, depth=800, image=False)
    sp.pp.recipe_spared(adata, n_genes=20, gene_lengths=None, **KEY)
    parts = {"library_1": "train", "library_2": "train", "library_3": "val", "library_4": "test"}
    adata.obs["split"] = adata.obs["library_id"].astype(str).map(parts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of sections that differ
        sp.tl.predict_expression(adata, model="ridge", use_rep="programs", **KEY)
    return adata


@pytest.fixture(scope="module")
def predicted(truth) -> pd.DataFrame:
    return truth.obsm["predicted_ridge"]


def values(scores: pd.DataFrame, name: str) -> pd.DataFrame:
    rows = scores[scores["prediction"] == name].drop(columns="prediction")
    return rows.sort_values(["library", "gene", "metric"], ignore_index=True)


@pytest.mark.parametrize("protocol", ["expression", "spared", "hest"])
def test_scores_are_those_of_the_same_predictions_made_here(truth, predicted, protocol):
    ours = sp.tl.score_prediction(truth, "predicted_ridge", protocol=protocol, **KEY)
    theirs = sp.benchmark.score(predicted.iloc[::-1, ::-1], truth, unit="log2tpm", protocol=protocol, **KEY)
    assert set(theirs["prediction"]) == (set(ours["prediction"]) - {"predicted_ridge"}) | {"predicted_external"}
    pd.testing.assert_frame_equal(values(theirs, "predicted_external"), values(ours, "predicted_ridge"), rtol=1e-4)
    for anchor in ("gene_mean", "ceiling") if protocol != "spared" else ("gene_mean", "depth_only", "floor_low"):
        pd.testing.assert_frame_equal(values(theirs, anchor), values(ours, anchor), rtol=1e-4)


def test_other_units_give_the_same_scores(truth, predicted):
    depth = np.asarray(truth.X.sum(axis=1)).ravel()
    share = (2**predicted - 1) / 1e6
    expected = values(sp.benchmark.score(predicted, truth, **KEY), "predicted_external")
    for unit, table in {"log1p_cp10k": np.log1p(1e4 * share), "counts": share.mul(depth, axis=0)}.items():
        found = values(sp.benchmark.score(table, truth, unit=unit, **KEY), "predicted_external")
        pd.testing.assert_frame_equal(found, expected, rtol=1e-3, atol=1e-5)


def test_z_scores_have_correlations_only(truth, predicted):
    table = (predicted - predicted.mean()) / predicted.std()
    with pytest.warns(UserWarning, match="z-scores stand for no counts") as caught:
        scores = sp.benchmark.score(table, truth, **KEY)
    assert sum(warning.category is UserWarning for warning in caught) == 1
    rows = values(scores, "predicted_external").set_index("metric")["value"]
    assert rows[["d2", "d2_own"]].isna().all()
    assert rows["pcc"].notna().any()
    ours = values(sp.tl.score_prediction(truth, "predicted_ridge", **KEY), "predicted_ridge")
    kept = ours["metric"] == "pcc"
    np.testing.assert_allclose(rows["pcc"].to_numpy(), ours.loc[kept, "value"], rtol=1e-4, atol=1e-5)


def test_roles_come_from_the_split_or_from_what_is_predicted(truth, predicted):
    test = truth.obs["split"] == "test"
    scores = sp.benchmark.score(predicted[test], truth, **KEY)
    assert set(scores.loc[scores["library"] != "all", "role"]) == {"test"}
    covered = truth.obs["library_id"] != "library_1"
    scores = sp.benchmark.score(predicted[covered], truth, split_key=None, **KEY)
    assert set(scores["library"]) == {"library_2", "library_3", "library_4", "all"}
    assert set(scores.loc[scores["library"] != "all", "role"]) == {"test"}
    scores = sp.benchmark.score(predicted, truth, split_key=None, **KEY)
    assert set(scores.loc[scores["library"] != "all", "role"]) == {"held out"}
    with pytest.raises(ValueError, match=r"of the train split \('split'\).*split_key=None"):
        sp.benchmark.score(predicted[truth.obs["split"] == "train"], truth, **KEY)


def test_only_predicted_spots_of_scored_libraries_count(truth, predicted):
    kept = np.arange(truth.n_obs) % 5 != 0
    scores = sp.benchmark.score(predicted[kept], truth, split_key=None, **KEY)
    ours = sp.benchmark.score(predicted[kept], truth[kept].copy(), split_key=None, **KEY)
    pd.testing.assert_frame_equal(values(scores, "predicted_external"), values(ours, "predicted_external"))


def test_one_section_has_no_anchors_and_says_so(truth, predicted):
    one = truth[truth.obs["library_id"] == "library_4"].copy()
    with pytest.warns(UserWarning, match="no anchor can learn from others"):
        scores = sp.benchmark.score(predicted, one, split_key=None)
    assert scores.loc[scores["metric"] == "d2", "value"].isna().all()
    own = values(scores[scores["library"] != "all"], "predicted_external")
    ours = sp.tl.score_prediction(truth, "predicted_ridge", **KEY)
    assert np.isfinite(own.loc[own["metric"] == "pcc_given_depth", "value"]).all()
    expected = values(ours[ours["library"] == "library_4"], "predicted_ridge")
    np.testing.assert_allclose(
        own["value"][own["metric"] == "pcc"], expected["value"][expected["metric"] == "pcc"], rtol=1e-4
    )
    with pytest.raises(ValueError, match="add the sections that the tool has learned from"):
        sp.benchmark.score(predicted, one, split_key=None, protocol="spared")


def test_files_and_slots_are_read(truth, predicted, tmp_path):
    expected = sp.benchmark.score(predicted, truth, **KEY)
    made = sp.get.predicted(truth, "predicted_ridge")
    truth_file = tmp_path / "truth.h5ad"
    truth.write_h5ad(truth_file)
    predicted.to_csv(tmp_path / "table.csv")
    predicted.to_csv(tmp_path / "table.tsv", sep="\t")
    predicted.to_parquet(tmp_path / "table.parquet")
    made.write_h5ad(tmp_path / "table.h5ad")
    made.layers["image"], made.obsm["mine"], made.X = made.X, predicted, np.zeros(made.shape, dtype=np.float32)
    for source, options in [
        *((tmp_path / f"table.{kind}", {}) for kind in ("csv", "tsv", "parquet", "h5ad")),
        (made, {"values": "image"}),
        (made, {"values": "mine"}),
    ]:
        found = sp.benchmark.score(source, truth_file, **KEY, **options)
        pd.testing.assert_frame_equal(found, expected, rtol=1e-3, atol=1e-5)
    with pytest.raises(KeyError, match=r"no layer or table 'other'.*'image'.*'mine'"):
        sp.benchmark.score(made, truth, values="other", **KEY)
    with pytest.raises(FileNotFoundError, match=r"no file .*none.csv"):
        sp.benchmark.score(tmp_path / "none.csv", truth, **KEY)
    with pytest.raises(ValueError, match=r"'table.xlsx'.*'.h5ad'"):
        sp.benchmark.score(tmp_path / "table.xlsx", truth, **KEY)
    with pytest.raises(ValueError, match="columns that are no numbers"):
        sp.benchmark.score(predicted.assign(GENE="x"), truth, **KEY)
    with pytest.raises(ValueError, match=r"unit='tpm' is unknown.*'log2tpm'"):
        sp.benchmark.score(predicted, truth, unit="tpm", **KEY)


def test_a_missing_layer_is_made_and_the_input_stays(truth, predicted, capsys):
    bare = truth.copy()
    del bare.layers["log2tpm"]
    before = bare.copy()
    scores = sp.benchmark.score(predicted, bare, unit="log2tpm", **KEY)
    assert np.isfinite(values(scores, "predicted_external")["value"]).any()
    assert "made from their counts" in capsys.readouterr().out
    assert set(bare.layers) == set(before.layers)
    assert set(bare.obsm) == set(before.obsm)
    pd.testing.assert_frame_equal(bare.obs, before.obs)
