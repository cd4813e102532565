"""tl.evaluate_completion."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sps
import torch
from scipy import stats
from sklearn.linear_model import Ridge

import spared_sc as sp
from helpers import KEY, dense
from helpers.evaluation import QUICK, SECTIONS, block, crps_by_quadrature, fill, registers, resolved_of, sections_of
from helpers.spackle import PARAMS
from spared_sc._kernels import metrics
from spared_sc._kernels.moran import lattice_weights, morans_i
from spared_sc._kernels.sections import Estimate
from spared_sc._models.completion.variational import _Model

HIDING = ("detected", "released", "spots", "blocks")


@pytest.fixture
def ready(collection):
    """Two libraries after the recipe, with 12 of the genes to complete."""
    return collection(**SECTIONS)


def tpm_of_what_is_left(adata, resolved, hidden: np.ndarray) -> np.ndarray:
    """log2(TPM + 1) of all counts of the genes to complete, the hidden ones too, by the totals of what is not hidden.

    A spot of whose genes to complete nothing is left keeps its total.
    """
    per_base = dense(adata.X)[resolved.order].astype(float) / adata.var["gene_length"].to_numpy()
    left = per_base.copy()
    for spot, gene in np.argwhere(hidden):
        left[spot, resolved.genes[gene]] = 0
    seen = left[:, resolved.genes].any(axis=1)
    whole, left = (table[:, adata.var["spared_keep"]].sum(axis=1) for table in (per_base, left))
    total = np.where(seen, left, whole)
    return np.log2(1 + 1e6 * per_base[:, resolved.genes] / total[:, None])


@pytest.fixture
def fake(monkeypatch):
    """Registers a completion method; what it is given is kept."""
    return registers(monkeypatch)


def numbers_in(thing) -> list[np.ndarray]:
    """Every number in a slot, however deep, explicit zeros of sparse matrices included."""
    if sps.issparse(thing):
        return [thing.tocoo().data.astype(float)]
    if isinstance(thing, pd.DataFrame):
        return [n for column in thing for n in numbers_in(thing[column].to_numpy())]
    if isinstance(thing, np.ndarray):
        return [thing.astype(float).ravel()] if thing.dtype.kind in "buif" else []
    if hasattr(thing, "items"):
        return [n for _, value in thing.items() for n in numbers_in(value)]
    return [np.array([thing], dtype=float)] if isinstance(thing, int | float) else []


SLOTS = ("X", "layers", "obs", "var", "obsm", "varm", "obsp", "varp", "uns")


@pytest.mark.filterwarnings("ignore:there is no noise floor")
@pytest.mark.parametrize("regime", HIDING)
@pytest.mark.parametrize("container", [sps.csr_matrix, np.asarray])
def test_functions_see_no_hidden_value_in_any_slot(ready, container, regime):
    rng = np.random.default_rng(0)
    # Every count and every value occurs once: it would be recognised anywhere.
    detected = dense(ready.X) > 0
    counts = np.where(detected, rng.permutation(detected.size).reshape(detected.shape) + 100_000, 0).astype(np.float32)
    ready.X = container(counts)
    values = np.where(detected, 1.0005 + 1e-3 * rng.permutation(detected.size).reshape(detected.shape), 0).astype(
        np.float32
    )
    ready.layers["log2tpm"] = container(values)
    ready.layers["copy"] = values
    ready.raw = ready
    ready.obs["total"] = counts.sum(axis=1)
    ready.obsm["table"] = values
    ready.varm["table"] = values.T
    ready.uns["values"] = {"deep": values}
    ready.obsm["X_image"] = rng.normal(size=(ready.n_obs, 3))
    where = {name: i for i, name in enumerate(ready.obs_names)}
    selected = ready.var["spared_selected"].to_numpy()
    n_hidden = []

    def look(adata):
        rows = [where[name] for name in adata.obs_names]
        true_counts, true_values = counts[rows], values[rows]
        hidden = (true_counts > 0) & (dense(adata.layers["detected"]) == 0)
        n_hidden.append(hidden.sum())
        assert not hidden[:, ~selected].any()
        assert adata.raw is None
        assert adata.filename is None
        every = np.concatenate([n for slot in SLOTS for n in numbers_in(getattr(adata, slot))])
        assert not np.isin(true_counts[hidden], every).any()
        assert not np.isin(true_values[hidden], every).any()
        for matrix in (adata.X, adata.layers["log2tpm"]):
            assert type(matrix) is type(container(counts))
            assert (dense(matrix)[hidden] == 0).all()
        # and everything else is there
        np.testing.assert_array_equal(dense(adata.X)[~hidden], true_counts[~hidden])
        np.testing.assert_array_equal(dense(adata.layers["log2tpm"])[~hidden], true_values[~hidden])
        np.testing.assert_array_equal(dense(adata.layers["detected"])[~hidden], (true_counts > 0)[~hidden])
        np.testing.assert_array_equal(adata.obsm["X_image"], ready.obsm["X_image"][rows])
        np.testing.assert_array_equal(adata.obs["library_id"], ready.obs["library_id"].iloc[rows])
        assert adata.var["spared_selected"].tolist() == selected.tolist()
        assert set(adata.obs) == {"array_row", "array_col", "library_id"}
        assert set(adata.obsm) == {"spatial", "X_image"}
        assert set(adata.layers) == {"log2tpm", "detected"}
        (adata.X.data if sps.issparse(adata.X) else adata.X)[:] = 0  # what a function does to it is its own business
        return fill(adata)

    sp.tl.evaluate_completion(
        ready, methods=look, regimes=regime, use_rep="X_image", allow_unrecorded_rep=True, **QUICK
    )
    sp.tl.evaluate_completion(
        ready, methods={"again": look}, regimes=regime, use_rep="X_image", allow_unrecorded_rep=True, **QUICK
    )
    assert n_hidden[0] == n_hidden[1] > 50
    np.testing.assert_array_equal(dense(ready.X), counts)


@pytest.mark.filterwarnings("ignore:.* spots have no count")  # where every gene of a spot is hidden
@pytest.mark.parametrize("regime", HIDING)
@pytest.mark.parametrize("container", [sps.csr_matrix, np.asarray])
@pytest.mark.parametrize("genes", ["selected", "every", "kept"])
def test_the_scale_does_not_tell_how_much_is_hidden(ready, genes, container, regime):
    if genes == "every":
        ready.var["spared_selected"] = True
    if genes == "kept":  # some genes have no part in the sum that is scaled
        ready.var["spared_keep"] = ready.var["spared_selected"] | (np.arange(ready.n_vars) < 20)
        sp.pp.normalize_tpm(ready)
    ready.X, ready.layers["log2tpm"] = container(dense(ready.X)), container(dense(ready.layers["log2tpm"]))
    seen = []

    def look(adata):
        seen.append(adata.copy())
        return fill(adata)

    scores = sp.tl.evaluate_completion(ready, methods=look, regimes=regime, **QUICK)
    clean, *again = seen
    assert not again
    rows = ready.obs_names.get_indexer(clean.obs_names)
    hidden = (dense(ready.X)[rows] > 0) & (dense(clean.X) == 0)
    assert hidden.sum() > 50
    np.testing.assert_array_equal(hidden, dense(ready.layers["detected"])[rows] & ~dense(clean.layers["detected"]))
    # the layer of all genes is what the visible counts alone make
    left = ready[rows].copy()
    left.X = container(np.where(hidden, 0, dense(ready.X)[rows]))
    np.testing.assert_array_equal(dense(clean.X), dense(left.X))
    sp.pp.normalize_tpm(left)
    np.testing.assert_allclose(dense(clean.layers["log2tpm"]), dense(left.layers["log2tpm"]), rtol=1e-5)
    lost = ~dense(left.X).any(axis=1)
    assert lost.any() == (genes == "every" and regime in ("spots", "blocks"))
    # and what is filled in is compared on that scale
    whole = resolved_of(ready)
    np.testing.assert_array_equal(whole.order, rows)
    truth = tpm_of_what_is_left(ready, whole, hidden[:, whole.genes])
    shift = np.where(hidden[:, whole.genes], np.abs(truth - whole.sections.values), 0)
    # of whole spots, the scale cannot be known, and the truth is the layer as it was
    assert shift.max() < 1e-5 if regime in ("spots", "blocks") else shift.max() > 0.3
    scores = scores[(scores["metric"] == "mse") & (scores["genes"] == "all") & (scores["method"] == "look")]
    for code, name in enumerate(("library_1", "library_2")):
        here = hidden[:, whole.genes] & (whole.sections.library == code)[:, None]
        row = scores.set_index("library").loc[name]
        assert row["value"] == pytest.approx(np.mean((truth[here] - 5) ** 2), rel=1e-5)
        assert row["n"] == here.sum()


@pytest.mark.parametrize("regime", ["spots", "blocks"])
def test_whole_spots_are_scored_on_the_layer_as_it_was(ready, regime):
    layer = dense(ready.layers["log2tpm"])[:, ready.var["spared_selected"]]
    where = {name: i for i, name in enumerate(ready.obs_names)}

    def off_by_two(adata):
        return np.where(block(adata) > 0, block(adata), layer[[where[name] for name in adata.obs_names]] + 2)

    scores = sp.tl.evaluate_completion(ready, methods=off_by_two, regimes=regime, **QUICK)
    scores = scores[(scores["genes"] == "all") & (scores["method"] == "off_by_two")].groupby("metric")["value"]
    np.testing.assert_allclose([scores.min()["mse"], scores.max()["mse"]], 4, rtol=1e-5)


@pytest.mark.parametrize("regime", HIDING)
def test_completers_of_the_package_see_no_hidden_value(ready, fake, regime):
    seen = fake(lambda sections: Estimate(np.full_like(sections.values, 5)))
    sp.tl.evaluate_completion(ready, methods="fake", regimes=regime, **QUICK)
    resolved, visible = resolved_of(ready), seen[0]
    whole = resolved.sections
    hidden = whole.known & ~visible.known
    assert hidden.sum() > 50
    assert not visible.values[~visible.known].any()
    assert not visible.counts.values[~visible.known].any()
    lost = np.where(hidden, whole.counts.values, 0).sum(axis=1)
    np.testing.assert_allclose(visible.counts.depth, whole.counts.depth - lost)
    expected = tpm_of_what_is_left(ready, resolved, hidden)
    np.testing.assert_allclose(visible.values[visible.known], expected[visible.known], rtol=1e-5)
    np.testing.assert_allclose(visible.total, 1e6, rtol=1e-5)


def test_a_completer_that_sees_hidden_values_is_flagged(ready):
    lengths, selected = ready.var["gene_length"].to_numpy(), ready.var["spared_selected"].to_numpy()
    truth = dense(ready.X) / lengths
    where = {name: i for i, name in enumerate(ready.obs_names)}
    rng = np.random.default_rng(0)

    def cheat(adata):
        total = (dense(adata.X) / lengths).sum(axis=1, keepdims=True)
        own = np.log2(1 + 1e6 * truth[[where[name] for name in adata.obs_names]][:, selected] / total)
        return np.where(block(adata) > 0, block(adata), own + rng.normal(0, 0.2, own.shape))

    with pytest.warns(UserWarning, match="'cheat' is below what the sampling noise allows"):
        scores = sp.tl.evaluate_completion(ready, methods=[cheat, fill, "gene_mean"], **QUICK)
    flags = scores.groupby("method")["flag"].unique().map(list)
    assert flags.to_dict() == {
        "cheat": ["below floor"],
        "fill": [""],
        "gene_mean": [""],
        "floor_low": [""],
        "floor_high": [""],
    }


def test_components_of_the_hidden_expression_are_refused_or_flagged(collection):
    """On shuffled counts nothing can be learned, but components of all entries give them away."""
    adata = collection(n_libraries=1, shape=(22, 22), n_genes=100, depth=300, image=False)
    adata.X = sps.csr_matrix(np.random.default_rng(0).permuted(adata.X.toarray(), axis=0))
    sp.pp.normalize_tpm(adata)
    n_detected = np.asarray((adata.X > 0).sum(axis=0)).ravel()
    adata.var["spared_selected"] = n_detected >= np.sort(n_detected)[-24]
    adata.obsm["X_pca"] = sc.pp.pca(block(adata), n_comps=20)

    def ridge(visible):
        values, components = block(visible), visible.obsm["X_pca"]
        for gene in values.T:
            seen = gene > 0
            gene[~seen] = Ridge().fit(components[seen], gene[seen]).predict(components[~seen])
        return values

    options = {**QUICK, "methods": [ridge, "sme", "gene_mean"], "regimes": "detected", "use_rep": "X_pca"}
    with pytest.raises(ValueError, match=r"obsm\['X_pca'\] is not recorded.*embed_patches.*allow_unrecorded_rep=True"):
        sp.tl.evaluate_completion(adata, **options)
    with pytest.warns(UserWarning, match="'ridge' is below what the sampling noise allows"):
        scores = sp.tl.evaluate_completion(adata, allow_unrecorded_rep=True, **options)
    scores = scores[(scores["metric"] == "mse") & (scores["genes"] == "all") & (scores["library"] != "all")]
    scores = scores.set_index("method")
    assert scores.loc["ridge", "value"] > 0.5 * scores.loc["floor_low", "value"]
    assert scores.index[scores["flag"] == "below floor"].tolist() == ["ridge"]


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("how", ["array", "sparse", "layer"])
def test_what_functions_may_return(ready, how, full):
    ready = ready[:, np.random.default_rng(0).permutation(ready.n_vars)].copy()  # names in no order

    def method(adata):
        values = np.where(dense(adata.layers["log2tpm"]) > 0, dense(adata.layers["log2tpm"]), 6.0)
        if how == "layer":
            adata.layers["mine"] = values
            adata.layers["mine_sd"] = np.ones(adata.shape)
            return "mine"
        values = values if full else values[:, adata.var["spared_selected"]]
        return values if how == "array" else sps.csr_matrix(values)

    scores = sp.tl.evaluate_completion(ready, methods={"mine": method}, regimes="detected", **QUICK)
    expected = sp.tl.evaluate_completion(ready, methods={"mine": lambda a: fill(a, 6.0)}, regimes="detected", **QUICK)
    has_sd = scores["metric"].str.startswith(("crps", "coverage"))
    assert has_sd.any() == (how == "layer")
    pd.testing.assert_frame_equal(scores[~has_sd].reset_index(drop=True), expected)


def nudge(adata):
    values = fill(adata)
    first = np.argwhere(block(adata) > 0)[7]
    values[tuple(first)] *= 1.0003
    return values


def everywhere(adata):
    return np.full(adata.shape, 5.0)


def holes(adata):
    return np.where(block(adata) > 0, block(adata), np.nan)


def infinite(adata):
    return np.where(block(adata) > 0, block(adata), np.inf)


def lost_spot(adata):
    return fill(adata)[1:]


def nothing(adata):
    return None


def no_layer(adata):
    return "mine"


def negative_width(adata):
    adata.layers["mine"] = np.where(dense(adata.layers["log2tpm"]) > 0, dense(adata.layers["log2tpm"]), 5)
    adata.layers["mine_sd"] = np.full(adata.shape, -1.0)
    return "mine"


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (nudge, "'nudge'.*changed 1 values of visible entries"),
        (everywhere, r"'everywhere'.*changed \d+ values of visible entries"),
        (holes, r"'holes'.*NaN or infinite values for \d+ hidden entries"),
        (infinite, "'infinite'.*NaN or infinite values"),
        (lost_spot, r"'lost_spot'.*shape \(\d+, 12\), expected \(\d+, 12\)"),
        (nothing, "'nothing'.*expected an array of numbers"),
        (no_layer, "'no_layer'.*wrote no layer"),
        (negative_width, "'negative_width'.*negative standard deviations"),
    ],
)
def test_results_that_cannot_be_scored_are_refused(ready, method, message):
    with pytest.raises(ValueError, match=message):
        sp.tl.evaluate_completion(ready, methods=[fill, method], regimes="detected", **QUICK)


@pytest.mark.parametrize("wrong", ["nan", "shape", "rate", "negative rate"])
def test_results_of_the_package_are_checked_as_well(ready, fake, wrong):
    def method(sections):
        values = np.full_like(sections.values, 5)
        rate = np.ones_like(values)
        if wrong == "nan":
            values[~sections.known] = np.nan
        if wrong == "shape":
            values = values[:, 1:]
        if wrong.endswith("rate"):
            rate[3, 4] = -1 if wrong == "negative rate" else np.nan
        return Estimate(values, rate)

    fake(method)
    regime = "thinning" if wrong.endswith("rate") else "released"
    with pytest.raises(ValueError, match=f"method 'fake', regime '{regime}'"):
        sp.tl.evaluate_completion(ready, methods="fake", regimes=regime, **QUICK)


def test_shares_of_the_curve(ready, fake):
    seen = fake(lambda sections: Estimate(np.full_like(sections.values, 5)))
    shares = (0.1, 0.4, 0.7)
    scores = sp.tl.evaluate_completion(ready, methods="fake", regimes=("detected", "spots"), shares=shares, **QUICK)
    n_known = sections_of(ready).known.sum()
    hidden = [1 - sections.known.sum() / n_known for sections in seen]
    np.testing.assert_allclose(hidden, [*shares, 0.1], atol=0.04)
    run = scores[["regime", "share"]].drop_duplicates().apply(tuple, axis=1).tolist()
    assert run == [("detected", 0.1), ("detected", 0.4), ("detected", 0.7), ("spots", 0.1)]
    counts = scores[(scores["metric"] == "mse") & (scores["genes"] == "all") & (scores["method"] == "fake")]
    totals = counts.groupby(["regime", "share"], sort=False)["n"].sum().tolist()
    assert totals == [n_known - sections.known.sum() for sections in seen]


def test_masks_are_the_same_for_all_methods_and_differ_otherwise(ready, fake):
    seen = fake(lambda sections: Estimate(np.full_like(sections.values, 5)))
    fake(lambda sections: Estimate(np.full_like(sections.values, 6)), "other")
    options = {**QUICK, "n_masks": 2, "regimes": ("detected", "released")}
    sp.tl.evaluate_completion(ready, methods=["fake", "other"], **options)
    sp.tl.evaluate_completion(ready, methods=["other"], **{**options, "regimes": ("released",)})
    sp.tl.evaluate_completion(ready, methods=["other"], **{**options, "random_state": 1})
    known = [sections.known for sections in seen]
    for first in range(0, 8, 2):
        np.testing.assert_array_equal(known[first], known[first + 1])
    np.testing.assert_array_equal(known[4], known[8])  # the other regimes make no difference
    different = [known[i] for i in (0, 2, 4, 6, 10, 11, 12, 13)]
    assert len({k.tobytes() for k in different}) == len(different)


def test_same_seed_same_table_whatever_the_order_of_spots_and_libraries(ready):
    rng = np.random.default_rng(0)

    def random_fill(adata):
        return fill(adata, np.random.default_rng(0).normal(5, 1, (adata.n_obs, 12)))

    options = {"methods": [random_fill, "additive"], "regimes": (*HIDING, "thinning"), **QUICK}
    first = sp.tl.evaluate_completion(ready, **options)
    pd.testing.assert_frame_equal(first, sp.tl.evaluate_completion(ready, **options))
    shuffled = ready[rng.permutation(ready.n_obs)].copy()
    names = shuffled.obs["library_id"].cat.categories[::-1]
    shuffled.obs["library_id"] = shuffled.obs["library_id"].cat.reorder_categories(names)
    pd.testing.assert_frame_equal(first, sp.tl.evaluate_completion(shuffled, **options))
    other = sp.tl.evaluate_completion(ready, **{**options, "random_state": 1})
    assert not np.allclose(other["value"].iloc[:20], first["value"].iloc[:20])


def by_hand(truth, estimate, library, gene, mean) -> dict[str, float]:
    """Metrics of the hidden entries of one library and group of genes."""
    error = estimate - truth
    correlations = [
        stats.pearsonr(truth[gene == g], estimate[gene == g])[0] for g in np.unique(gene) if (gene == g).sum() >= 10
    ]
    return {
        "mse": np.mean(error**2),
        "mae": np.mean(np.abs(error)),
        "r2": 1 - np.mean(error**2) / np.mean((truth - mean[gene]) ** 2),
        "pcc": np.mean(correlations) if correlations else np.nan,
    }


def test_the_table_is_what_its_metrics_say(ready, fake):
    rng = np.random.default_rng(3)
    resolved = resolved_of(ready)
    whole = resolved.sections
    estimate = (whole.values + rng.normal(0, 1, whole.values.shape)).astype(np.float32)
    sd = rng.uniform(0.3, 2, estimate.shape).astype(np.float32)
    seen = fake(lambda sections: Estimate(estimate, sd=sd))
    ready.obs["donor"] = ready.obs["library_id"].astype(str).map({"library_1": "x", "library_2": "y"})
    scores = sp.tl.evaluate_completion(ready, methods="fake", regimes="detected", subject_key="donor", **QUICK)
    assert list(scores) == "regime share mask method library subject genes metric value n flag".split()
    assert set(zip(scores["library"], scores["subject"], strict=True)) == {
        ("library_1", "x"),
        ("library_2", "y"),
        ("all", "all"),
    }
    scores = scores[scores["method"] == "fake"].set_index(["library", "genes", "metric"])
    visible = seen[0].known
    hidden = whole.known & ~visible
    values = tpm_of_what_is_left(ready, resolved, hidden)
    mean = np.array([values[visible[:, g], g].mean() for g in range(12)])
    order = np.argsort(whole.known.mean(axis=0), kind="stable")
    groups = {"all": range(12), "sparse": order[:4], "medium": order[4:8], "dense": order[8:]}
    for group, genes in groups.items():
        pooled = []
        for g in genes:
            where = hidden[:, g]
            pooled.append(stats.pearsonr(values[where, g], estimate[where, g])[0])
        assert scores.loc[("all", group, "pcc_pooled"), "value"] == pytest.approx(np.mean(pooled), rel=1e-5)
        for code, name in enumerate(("library_1", "library_2")):
            spot, gene = np.nonzero(hidden & np.isin(range(12), genes) & (whole.library == code)[:, None])
            truth, found = values[spot, gene], estimate[spot, gene].astype(float)
            expected = by_hand(truth, found, code, gene, mean)
            width, error = sd[spot, gene].astype(float), found - truth
            crps = [crps_by_quadrature(e, s) for e, s in zip(error[:5], width[:5], strict=True)]
            np.testing.assert_allclose(metrics.gaussian_crps(error[:5], width[:5]), crps, rtol=1e-5)
            expected["crps"] = metrics.gaussian_crps(error, width).mean()
            expected["crps_constant"] = metrics.gaussian_crps(error, np.sqrt(np.mean(error**2))).mean()
            inside = np.abs(error) < stats.norm.ppf(0.95) * width
            expected["coverage_90"] = inside.mean()
            decile = pd.qcut(found, 10, labels=False)
            for number in range(10):
                expected[f"coverage_90_d{number + 1}"] = inside[decile == number].mean()
            for metric, value in expected.items():
                row = scores.loc[(name, group, metric)]
                assert row["value"] == pytest.approx(value, rel=1e-5), (name, group, metric)
                if not metric.startswith(("pcc", "coverage_90_d")):
                    assert row["n"] == spot.size
            tenth = [scores.loc[(name, group, f"coverage_90_d{number}"), "n"] for number in range(1, 11)]
            assert sum(tenth) == spot.size


def test_structure_of_the_filled_values(ready, fake):
    resolved = resolved_of(ready)
    whole = resolved.sections
    rng = np.random.default_rng(3)
    estimate = rng.normal(8, 2, whole.values.shape).astype(np.float32)
    seen = fake(lambda sections: Estimate(estimate))
    scores = sp.tl.evaluate_completion(ready, methods="fake", regimes="detected", **QUICK)
    scores = scores[scores["method"] == "fake"].set_index(["library", "genes", "metric"])
    hidden = whole.known & ~seen[0].known
    values = tpm_of_what_is_left(ready, resolved, hidden)
    filled = np.where(hidden, estimate, values)
    for code, name in enumerate(("library_1", "library_2")):
        change = []
        rows = np.flatnonzero(whole.library == code)
        for g in range(12):
            spots = rows[whole.known[rows, g]]
            weights = lattice_weights(whole.lattice.subset(spots))
            one, other = (morans_i(weights, v[spots, g : g + 1], n_threads=1)[0] for v in (filled, values))
            change.append(one - other)
        row = scores.loc[(name, "all", "moran_change")]
        assert row["value"] == pytest.approx(np.nanmean(change), rel=1e-4)
        assert row["n"] == np.isfinite(change).sum()
        tables = [pd.DataFrame(np.where(whole.known, v, np.nan)[rows]) for v in (filled, values)]
        one, other = (table.corr(min_periods=10).to_numpy()[np.triu_indices(12, 1)] for table in tables)
        row = scores.loc[(name, "all", "correlation_error")]
        assert row["value"] == pytest.approx(np.nanmean(np.abs(one - other)), rel=1e-4)
        assert row["n"] == np.isfinite(one - other).sum() > 10


def test_thinning_scores_expected_counts_on_the_other_half(ready, fake):
    from sklearn.metrics import mean_poisson_deviance

    whole = resolved_of(ready)
    counts = whole.sections.counts
    rate = counts.depth[:, None] / 2 * counts.values.sum(axis=0) / counts.depth.sum()
    rate = rate.astype(np.float32)
    seen = fake(lambda sections: Estimate(sections.values, rate))
    fake(lambda sections: Estimate(sections.values), "without rates")
    methods = ["fake", "without rates", fill]
    scores = sp.tl.evaluate_completion(ready, methods=methods, regimes="thinning", **{**QUICK, "n_masks": 2})
    assert set(scores["method"]) == {"fake", "no_denoising", "perfect_denoising"}
    assert len(seen) == 3  # a method without rates is not asked again
    scores = scores[(scores["mask"] == 0) & (scores["method"] == "fake")].set_index(["library", "genes", "metric"])
    half = seen[0].counts.values
    other = counts.values - half
    assert (other >= 0).all()
    assert half.sum() == pytest.approx(other.sum(), rel=0.05)
    for code, name in enumerate(("library_1", "library_2")):
        rows = whole.sections.library == code
        row = scores.loc[(name, "all", "deviance")]
        assert row["value"] == pytest.approx(mean_poisson_deviance(other[rows].ravel(), rate[rows].ravel()), rel=1e-5)
        assert row["n"] == rows.sum() * 12
    decile = pd.qcut(rate.ravel(), 10, labels=False)
    for number in range(10):
        row = scores.loc[("all", "all", f"calibration_d{number + 1}")]
        here = decile == number
        assert row["value"] == pytest.approx(other.ravel()[here].sum() / rate.ravel()[here].sum(dtype=float), rel=1e-4)
        assert row["n"] == here.sum()


@pytest.mark.parametrize(("regime", "share"), [("thinning", 0.5), ("thinning_90", 0.1)])
def test_thinning_by_the_book(ready, fake, regime, share):
    """The scores of Open Problems by scanpy and scikit-learn, those of agreement in plain words."""
    import scanpy as sc
    from sklearn.metrics import mean_squared_error

    whole = resolved_of(ready)
    counts, library = whole.sections.counts, whole.sections.library
    rng = np.random.default_rng(0)
    program = rng.uniform(0.5, 1, (counts.depth.size, 1)) ** rng.choice([1, 2], 12)

    def rate_of(sections):
        seen = sections.counts
        return (seen.depth[:, None] * counts.values.sum(axis=0) / counts.depth.sum() * program).astype(np.float32)

    seen = fake(lambda sections: Estimate(sections.values, rate_of(sections)))
    scores = sp.tl.evaluate_completion(ready, methods="fake", regimes=regime, **QUICK)
    assert set(scores["regime"]) == {regime}
    assert set(scores["share"]) == {share}
    visible = seen[0].counts
    other, depth = counts.values - visible.values, counts.depth - visible.depth
    assert visible.values.sum() / counts.values.sum() == pytest.approx(1 - share, abs=0.03)
    assert visible.depth.sum() / counts.depth.sum() == pytest.approx(1 - share, abs=0.03)

    def normalised(values, depth):
        rest = depth - values.sum(axis=1)
        table = sc.AnnData(np.column_stack([values, rest]).astype(float))
        sc.pp.normalize_total(table, target_sum=1e4)
        sc.pp.log1p(table)
        return table.X[:, :-1]

    rate = rate_of(seen[0]).astype(float)
    held_out = normalised(other, depth)
    scored = {
        "fake": (rate, visible.depth),
        "no_denoising": (visible.values, visible.depth),
        "perfect_denoising": (other * (1 - share) / share, depth * (1 - share) / share),
    }
    by = scores[scores["genes"] == "all"].set_index(["method", "library", "metric"])["value"]
    for code, name in enumerate(("library_1", "library_2")):
        rows = library == code
        for method, (values, of_depth) in scored.items():
            error = mean_squared_error(held_out[rows], normalised(values, of_depth)[rows])
            assert by[method, name, "mse_log"] == pytest.approx(error, rel=1e-5, abs=1e-9)
            expected = (values * share / (1 - share))[rows]
            loss = np.mean(expected - other[rows] * np.log(expected + 1e-6))
            assert by[method, name, "poisson_loss"] == pytest.approx(loss, rel=1e-5)
        assert by["perfect_denoising", name, "poisson_loss"] < by["fake", name, "poisson_loss"]
        # correlation given depth: residuals of a parabola in the logarithm of the whole depth
        log_depth = np.log(counts.depth[rows])
        found, truth = (np.log2(1 + 1e6 * x[rows]) for x in (rate / visible.depth[:, None], other / depth[:, None]))
        left = [[y - np.polyval(np.polyfit(log_depth, y, 2), log_depth) for y in x.T] for x in (found, truth)]
        correlation = [stats.pearsonr(x, y)[0] for x, y in zip(*left, strict=True)]
        assert by["fake", name, "pcc_depth"] == pytest.approx(np.mean(correlation), rel=1e-4)


def test_structure_of_expected_counts_is_scored_without_the_noise_of_counts(fake):
    adata = sp.datasets.synthetic(n_libraries=2, n_genes=60, shape=(24, 24), depth=2000, image=False)
    sp.pp.normalize_tpm(adata)
    resolved = resolved_of(adata)
    sections = resolved.sections
    rate = adata.layers["rate"][resolved.order][:, resolved.genes] / 2
    share = rate / sections.counts.depth[:, None]
    near = (np.abs(np.subtract.outer(*[adata.obs["array_row"].to_numpy(float)[resolved.order]] * 2)) <= 8) & (
        np.abs(np.subtract.outer(*[adata.obs["array_col"].to_numpy(float)[resolved.order]] * 2)) <= 8
    )
    near &= sections.library[:, None] == sections.library
    smooth = (near / near.sum(axis=1, keepdims=True)) @ share * sections.counts.depth[:, None]
    noise = np.random.default_rng(0).gamma(4, 1 / 4, rate.shape)
    rates = {"right": rate, "smooth": smooth, "rough": rate * noise, "constant": 0 * rate + rate.mean(axis=0)}
    for name, values in rates.items():
        fake(lambda visible, values=values: Estimate(visible.values, values.astype(np.float32)), name)
    scores = sp.tl.evaluate_completion(adata, methods=list(rates), regimes="thinning", **QUICK)
    scores = scores[(scores["genes"] == "all") & (scores["library"] != "all")]
    by = scores.groupby(["metric", "method"])["value"].mean()
    for metric, limit in (("moran_error", 0.1), ("correlation_error", 0.1)):
        assert by[metric, "right"] < limit
        assert by[metric, "smooth"] > 1.3 * by[metric, "right"], metric
        assert by[metric, "rough"] > 1.3 * by[metric, "right"], metric
        assert by[metric, "constant"] > by[metric, "smooth"], metric
    assert by["pcc_depth", "right"] > max(by["pcc_depth", "smooth"], by["pcc_depth", "rough"])
    n = scores.set_index(["metric", "method"])["n"]
    assert (n["moran_error"] <= 60).all()
    assert (n["moran_error"] >= 20).all()


def test_true_rates_are_calibrated(fake):
    adata = sp.datasets.synthetic(n_libraries=2, n_genes=40, shape=(20, 20), depth=300, image=False)
    sp.pp.normalize_tpm(adata)
    resolved = resolved_of(adata)
    rate = (adata.layers["rate"][resolved.order][:, resolved.genes] / 2).astype(np.float32)
    fake(lambda sections: Estimate(sections.values, rate))
    scores = sp.tl.evaluate_completion(adata, methods="fake", regimes="thinning", **QUICK)
    calibration = scores[scores["metric"].str.startswith("calibration") & (scores["genes"] == "all")]
    assert len(calibration) == 10
    np.testing.assert_allclose(calibration["value"].iloc[2:], 1, atol=0.06)
    worse = rate * np.random.default_rng(0).lognormal(0, 0.5, rate.shape).astype(np.float32)
    fake(lambda sections: Estimate(sections.values, worse))
    again = sp.tl.evaluate_completion(adata, methods="fake", regimes="thinning", **QUICK)
    one, other = (table[table["metric"] == "deviance"]["value"].mean() for table in (scores, again))
    assert one < other
    top = again[(again["metric"] == "calibration_d10") & (again["genes"] == "all")]["value"].iloc[0]
    assert top < 0.9


def test_an_interrupted_evaluation_keeps_finished_masks(ready, fake):
    calls = []

    def method(sections):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return Estimate(np.full_like(sections.values, 5))

    fake(method)
    fake(method, "other")
    options = {**QUICK, "n_masks": 3, "methods": ["fake", "other"], "regimes": "detected"}
    with pytest.warns(UserWarning, match="interrupted"):
        scores = sp.tl.evaluate_completion(ready, **options)
    assert set(scores["mask"]) == {0}
    assert {"fake", "other"} <= set(scores["method"])
    calls[:] = [1] * 3
    with pytest.raises(KeyboardInterrupt):
        sp.tl.evaluate_completion(ready, **options)


@pytest.mark.filterwarnings("ignore:.*interrupted:UserWarning")
@pytest.mark.parametrize(
    ("method", "owner", "name", "number"),
    [
        ("paper", torch, "randint", 60),  # a batch in training; the first validation is at step 50
        ("factor", _Model, "step", 8),  # an iteration after all factors are there
    ],
)
def test_a_model_interrupted_in_its_fit_is_not_scored(ready, monkeypatch, method, owner, name, number):
    whole, calls = getattr(owner, name), []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == number:
            raise KeyboardInterrupt
        return whole(*args, **kwargs)

    monkeypatch.setattr(owner, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        sp.tl.evaluate_completion(ready, methods=["gene_mean", method], regimes="detected", **QUICK)
    assert len(calls) == number


def test_layers_that_are_no_logarithm_of_counts_have_no_floor(ready):
    ready.layers["log1p"] = np.log1p(ready.X.toarray() / 7)

    def method(adata):
        return np.where(dense(adata.layers["log1p"]) > 0, dense(adata.layers["log1p"]), 0.3)

    with pytest.warns(UserWarning, match="no noise floor.*unlike 'log1p'"):
        scores = sp.tl.evaluate_completion(ready, methods=method, regimes="detected", layer="log1p", **QUICK)
    assert set(scores["method"]) == {"method"}
    with pytest.raises(ValueError, match="'thinning' needs raw counts.*'log1p'"):
        sp.tl.evaluate_completion(ready, methods=method, regimes="thinning", layer="log1p", **QUICK)


@pytest.mark.filterwarnings("ignore:expected counts are not estimated")
def test_data_without_counts(ready):
    ready.layers["detected"] = sps.csr_matrix(ready.X > 0)
    ready.X = ready.layers["log2tpm"].copy()

    def method(adata):
        assert adata.X is None
        return fill(adata)

    with pytest.warns(UserWarning, match="no noise floor: it needs raw counts"):
        scores = sp.tl.evaluate_completion(ready, methods=method, regimes="spots", **QUICK)
    assert set(scores["method"]) == {"method"}
    with pytest.raises(ValueError, match="'thinning' needs raw counts"):
        sp.tl.evaluate_completion(ready, methods="gene_mean", regimes="thinning", **QUICK)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"methods": "magic dust"}, KeyError, "no completion method 'magic dust'.*'gene_mean'.*'counts'"),
        ({"methods": []}, ValueError, "no method to evaluate"),
        ({"methods": [3]}, TypeError, "among the methods has no name"),
        ({"methods": {"mine": 3}}, TypeError, "'mine' is a int"),
        ({"methods": [fill, fill]}, ValueError, "cannot be called 'fill'"),
        ({"methods": {"floor_low": fill}}, ValueError, "cannot be called 'floor_low'"),
        ({"regimes": "hard"}, KeyError, "no regime 'hard'.*'detected', 'released', 'spots', 'blocks', 'thinning'"),
        ({"regimes": ()}, KeyError, "no regime"),
        ({"n_masks": 0}, ValueError, "n_masks=0"),
        ({"shares": (0.2, 1.0)}, ValueError, "between 0 and 1"),
        ({"shares": (0.2,), "regimes": "spots"}, ValueError, "regime 'detected'"),
        ({"random_state": -1}, ValueError, "random_state=-1"),
        ({"subject_key": "donor"}, KeyError, "no column 'donor'"),
        ({"subject_key": "array_row"}, ValueError, "several values of adata.obs"),
        ({"use_rep": "X_image"}, KeyError, "X_image"),
        ({"layer": "nothing"}, KeyError, "no layer 'nothing'"),
        ({"device": "cuda:99"}, ValueError, "device 'cuda:99'"),
    ],
)
def test_arguments_are_checked(ready, options, error, message):
    with pytest.raises(error, match=message):
        sp.tl.evaluate_completion(ready, **{**QUICK, "methods": fill, "regimes": "detected", **options})


def test_a_regime_that_hides_nothing_is_refused(ready):
    few = ready[:2].copy()
    few.X = sps.csr_matrix(np.pad(np.ones((2, 1), np.float32), ((0, 0), (0, few.n_vars - 1))))
    del few.layers["detected"]
    few.var["spared_selected"] = np.arange(few.n_vars) == 0
    few.layers["log2tpm"] = few.X.copy()
    with pytest.raises(ValueError, match="'detected' hides 0 of the 2 detected entries"):
        sp.tl.evaluate_completion(few, methods=fill, regimes="detected", shares=(1e-6,), **QUICK)


def test_completers_with_parameters_of_their_own(ready):
    from spared_sc._models.completion.kernel import Kernel

    tuned = sp.tl.evaluate_completion(ready, methods="kernel", regimes="detected", **QUICK)
    same = sp.tl.evaluate_completion(ready, methods=Kernel(), regimes="detected", **QUICK)
    pd.testing.assert_frame_equal(tuned, same)
    methods = {
        "narrow": Kernel(bandwidth=0.7, shrinkage=1.0),
        "wide": Kernel(bandwidth=2.7, shrinkage=1.0),
        "fill": fill,
    }
    scores = sp.tl.evaluate_completion(ready, methods=methods, regimes=("detected", "thinning"), **QUICK)
    mse = scores[(scores["metric"] == "mse") & (scores["genes"] == "all")].groupby("method")["value"].mean()
    assert set(mse.index) == {*methods, "floor_low", "floor_high"}
    assert mse["narrow"] != mse["wide"]
    assert set(scores.loc[scores["metric"] == "deviance", "method"]) == {"narrow", "wide"}


@pytest.mark.parametrize("model", ["counts", "paper"])
def test_completers_that_learn_stay_unfitted_and_are_refused_once_fitted(ready, model):
    from spared_sc._models.completion.registry import COMPLETERS

    completer = COMPLETERS.make(model, PARAMS[model])
    scores = sp.tl.evaluate_completion(ready, methods=[completer], regimes="detected", **QUICK)
    assert set(scores["method"]) == {model, "floor_low", "floor_high"}
    assert not completer.fitted
    sp.tl.complete(ready, method=completer, device="cpu", show_progress_bar=False, **KEY)
    assert completer.fitted
    with pytest.raises(ValueError, match=f"'{model}' is fitted.*unfitted"):
        sp.tl.evaluate_completion(ready, methods=[completer], regimes="detected", **QUICK)
    with pytest.raises(ValueError, match="'mine' is fitted.*unfitted"):
        sp.tl.evaluate_completion(ready, methods={"mine": completer}, regimes="detected", **QUICK)
