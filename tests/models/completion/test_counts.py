"""The counts model: fit, layers, checkpoints, whole spots."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sps
import torch

import spared_sc as sp
from helpers import KEY, dense, spackle
from helpers.completion import estimate_of
from helpers.counts_model import (
    COMPUTE,
    correlation_within_genes,
    resolved,
    sections_of,
    synthetic,
    with_counts,
    with_silent_spots,
)
from spared_sc._kernels.masking import hide_detected
from spared_sc._kernels.truncated import truncated_moments
from spared_sc._models.completion import counts, variational
from spared_sc._models.completion.counts import CountsModel

if TYPE_CHECKING:
    from spared_sc._kernels.sections import Sections


LAYERS = ("spackle", "spackle_denoised", "spackle_denoised_sd", "spackle_rate", "spackle_sd")


@pytest.fixture(scope="module")
def made() -> ad.AnnData:
    return synthetic()


@pytest.fixture
def adata(made) -> ad.AnnData:
    """Two small libraries; about a third of the entries is not detected."""
    return made.copy()


def complete(adata, **options) -> ad.AnnData:
    return spackle.complete(adata, "counts", **options)


@pytest.fixture(scope="module")
def small() -> Sections:
    return sections_of(synthetic())


@pytest.fixture
def hidden(small) -> np.ndarray:
    return hide_detected(small.known, 0.3, np.random.default_rng(0))


def tiny(**params) -> CountsModel:
    return CountsModel(**{"n_iterations": 1, **params})


def fitted(sections, compute=COMPUTE, **params) -> counts.Fitted:
    model = tiny(**params)
    model.fit(sections, None, compute)
    return model.learned


def test_estimates_of_hidden_entries_do_not_know_them(adata, hidden):
    """The whole fit, the choice of all parameters included."""
    found = resolved(adata)
    place = np.zeros(adata.shape, dtype=bool)
    place[np.ix_(found.order, found.genes)] = hidden
    other = with_counts(adata, np.where(place, adata.X.toarray() + 5, adata.X.toarray()))
    estimates = []
    for sections in (found.sections, sections_of(other)):
        visible = sections.without(hidden)
        visible = replace(visible, values=visible.values.round(3))  # the rounding of float32 must not decide
        estimates.append(tiny().complete(visible, COMPUTE))
    for name in ("values", "rate", "sd"):
        one, two = (getattr(estimate, name) for estimate in estimates)
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4)


class Spy(counts.Trial):
    """The trial of the last fit."""

    last: counts.Trial

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        Spy.last = self


@pytest.fixture
def trial_of(monkeypatch):
    """The trial that a fit made; other truth may be put into it."""
    monkeypatch.setattr(counts, "Trial", Spy)

    def fit(sections, change=None) -> tuple[counts.Fitted, counts.Trial]:
        class Changed(Spy):
            def __init__(self, *args, **options):
                super().__init__(*args, **options)
                if change is not None:
                    self.truth = change(self)

        monkeypatch.setattr(counts, "Trial", Changed)
        return fitted(sections), Spy.last

    return fit


@pytest.mark.parametrize("with_counts_too", [False, True])
def test_nothing_is_learned_from_an_entry_that_an_estimate_saw(small, trial_of, with_counts_too):
    sections = small if with_counts_too else replace(small, counts=None, total=None)
    learned, trial = trial_of(sections)
    assert ("factor" in learned.names) == ("depth_only" in learned.names) == with_counts_too
    assert (trial.tuning & ~trial.hidden).sum() == 0
    assert trial.hidden.sum() == pytest.approx(0.2 * sections.known.sum(), rel=0.1)
    assert not (trial.train.known & trial.hidden).any()
    assert not trial.train.values[trial.hidden].any()
    if with_counts_too:
        assert not trial.train.counts.values[trial.hidden].any()


def test_the_score_is_of_entries_that_nothing_learned_from(small, trial_of):
    """A quarter of the hidden entries: another truth there changes the score and nothing else."""
    expected, trial = trial_of(small)
    scored = trial.hidden & ~trial.tuning
    assert expected.score["n_entries"] == scored.sum() == pytest.approx(0.05 * small.known.sum(), rel=0.1)
    other, _ = trial_of(small, lambda trial: np.where(trial.hidden & ~trial.tuning, trial.truth + 1, trial.truth))
    for name in ("stack", "width"):
        np.testing.assert_array_equal(getattr(other, name), getattr(expected, name))
    assert other.tuned == expected.tuned
    assert all(other.score[name] != expected.score[name] for name in expected.score if name != "n_entries")
    other, _ = trial_of(small, lambda trial: np.where(trial.tuning, trial.truth + 1, trial.truth))
    assert abs(other.stack[0] - expected.stack[0]) > 0.05


def test_the_score_is_a_mean_squared_error(small, trial_of):
    learned, trial = trial_of(small)
    scored = trial.hidden & ~trial.tuning
    error = (trial.fit.base - trial.truth)[scored].astype(float)
    assert learned.score["additive"] == pytest.approx(np.mean(error**2), rel=1e-5)
    mean = np.sum(trial.train.values, axis=0, where=trial.train.known) / trial.train.known.sum(axis=0)
    assert learned.score["gene_mean"] == pytest.approx(np.mean((trial.truth - mean)[scored] ** 2), rel=1e-4)
    assert learned.score.keys() == {"counts", "gene_mean", *learned.names, "n_entries"}


@pytest.fixture(scope="module")
def full_fit():
    """Sections, hidden entries, and what the default makes of the rest."""
    torch.set_num_threads(1)
    adata = synthetic(n_genes=30, shape=(11, 11), depth=150, random_state=2)
    found = resolved(adata)
    hidden = hide_detected(found.sections.known, 0.2, np.random.default_rng(1))
    visible = found.sections.without(hidden)
    true = adata.layers["rate"][found.order][:, found.genes].astype(float)
    return found.sections, hidden, CountsModel().complete(visible, COMPUTE), true


@pytest.mark.slow
def test_hidden_entries_are_estimated_better_than_by_simple_means_and_no_better_than_possible(full_fit):
    sections, hidden, estimate, true = full_fit
    truth, visible = sections.renormalised(hidden)[hidden], sections.without(hidden)

    def error(values):
        return np.mean((values[hidden] - truth) ** 2)

    others = {
        name: error(estimate_of(name, visible).values)
        for name in ("gene_mean", "additive", "kernel", "soft_impute_kernel")
    }
    best, _ = truncated_moments(true, np.full(true.shape[1], np.inf), visible.count_scale())
    assert error(estimate.values) < 0.95 * min(others.values())
    assert error(estimate.values) < 0.6 * others["gene_mean"]
    assert error(estimate.values) > error(best)


@pytest.mark.slow
def test_standard_deviations_are_those_of_the_errors(full_fit):
    sections, hidden, estimate, _ = full_fit
    error = (sections.renormalised(hidden) - estimate.values)[hidden]
    sd = estimate.sd[hidden]
    z = error / sd
    assert 0.8 < z.var() < 1.25
    assert abs(z.mean()) < 0.15
    # entries that are said to be less certain are
    wide = sd > np.median(sd)
    assert error[wide].std() > 1.2 * error[~wide].std()


@pytest.mark.slow
def test_expected_counts_are_calibrated(full_fit):
    sections, _, _, true = full_fit
    half, other = sections.thinned(np.random.default_rng(5))
    rate = CountsModel().complete(half, COMPUTE).rate
    assert rate.sum() == pytest.approx(half.counts.values.sum(), rel=0.05)
    expected = rate * (sections.counts.depth / half.counts.depth - 1)[:, None]
    assert 0.9 < other.sum() / expected.sum() < 1.1
    third = np.digitize(rate, np.quantile(rate, [1 / 3, 2 / 3]))
    for i in range(3):
        assert 0.85 < other[third == i].sum() / expected[third == i].sum() < 1.15
    # zeros count: it is the rate and not the expression given detection
    ours = correlation_within_genes(np.log(rate), true, sections.library)
    kernel = estimate_of("kernel", half).rate
    assert ours > correlation_within_genes(np.log(kernel), true, sections.library) > 0.5


@pytest.mark.parametrize("container", [sps.csr_matrix, np.asarray])
def test_layers_that_are_written(adata, container):
    adata.layers["log2tpm"] = container(adata.layers["log2tpm"].toarray())
    adata.var["mine"] = np.arange(adata.n_vars) % 2 == 0
    mine, counts = adata.var["mine"].to_numpy(), adata.X.toarray()
    result = complete(adata, mask_var="mine")
    assert set(result.layers) - set(adata.layers) == set(LAYERS)
    values, denoised, denoised_sd, rate, sd = (dense(result.layers[name]) for name in LAYERS)
    detected = counts > 0
    before = dense(adata.layers["log2tpm"])
    np.testing.assert_array_equal(result.X.toarray(), counts)
    np.testing.assert_array_equal(values[detected], before[detected])
    np.testing.assert_array_equal(values[:, ~mine], before[:, ~mine])
    np.testing.assert_array_equal(denoised[:, ~mine], before[:, ~mine])
    np.testing.assert_array_equal(rate[:, ~mine], counts[:, ~mine])
    assert not sd[:, ~mine].any()
    assert not denoised_sd[:, ~mine].any()
    assert (denoised_sd[:, mine] > 0).all()
    # TPM of the expected counts, by the total and the lengths that made TPM of the counts
    scale = (2.0**before - 1)[:, mine] / np.where(detected, counts, 1)[:, mine]
    known = detected[:, mine]
    np.testing.assert_allclose(denoised[:, mine][known], np.log2(1 + rate[:, mine] * scale)[known], atol=1e-3)
    assert not sd[detected].any()
    filled = ~detected & mine
    assert filled.sum() > 100
    assert (values[filled] > 0).all()
    assert (sd[filled] > 0).all()
    assert (rate[:, mine] > 0).all()
    for name in set(LAYERS) - {"spackle_rate"}:
        assert sps.issparse(result.layers[name]) == (container is sps.csr_matrix)
    assert sps.issparse(result.layers["spackle_rate"])
    record = result.uns["spared_sc"]["spackle"]
    assert record["params"]["method"] == "counts"
    assert record["params"]["fitted"] == "here"
    assert record["genes"].tolist() == adata.var_names[mine].tolist()
    assert "training" not in record
    assert {"counts", "factor", "additive", "n_entries"} <= record["score"].keys()
    assert record["tuned"].keys() >= {"additive", "soft_impute", "kernel"}
    assert record["weights"].keys() == {
        "intercept",
        "factor",
        "additive",
        "kernel",
        "diffusion",
        "soft_impute_kernel",
        "depth_only",
    }


def test_parameters_are_recorded_and_have_their_say(adata):
    given = {"n_iterations": 2, "hidden_share": 0.4}
    result, plain = complete(adata, params=given), complete(adata, params={"n_iterations": 2})
    ours, default = (a.uns["spared_sc"]["spackle"]["params"]["method_params"] for a in (result, plain))
    assert ours == given
    assert default == {**CountsModel().params(), "n_iterations": 2}
    assert abs(result.layers["spackle"] - plain.layers["spackle"]).max() > 1e-4


@pytest.mark.parametrize("name", ["n_rings", "mask_share", "precomplete", "loss", "n_layers", "n_heads", "feedforward"])
def test_parameters_of_the_other_model_are_refused(adata, name):
    value = {"mask_share": 0.3, "precomplete": True, "loss": "all"}.get(name, 1)
    with pytest.raises(TypeError, match=f"'counts' has no parameter '{name}'.*hidden_share.*n_iterations"):
        sp.tl.spackle_complete(adata, **KEY, model_params={name: value})
    assert "spackle" not in adata.layers


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_iterations": 0}, "n_iterations=0 cannot"),
        ({"n_iterations": 2.5}, "n_iterations=2.5 cannot"),
        ({"hidden_share": 0.9}, "hidden_share=0.9 cannot"),
        ({"hidden_share": "all"}, "hidden_share='all' cannot"),
    ],
)
def test_parameters_out_of_range(adata, params, message):
    with pytest.raises(ValueError, match=message):
        sp.tl.spackle_complete(adata, **KEY, model_params=params)


@pytest.mark.parametrize("suffix", ["", "_rate", "_sd"])
def test_layers_of_the_user_are_not_overwritten(adata, suffix):
    adata.layers[f"mine{suffix}"] = adata.X.copy()
    with pytest.raises(ValueError, match=rf'layers\["mine{suffix}"\] exists'):
        complete(adata, key_added="mine")


def test_one_seed_gives_one_result_whatever_the_order_of_spots_and_libraries(adata):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    expected, other = (complete(adata, random_state=seed) for seed in (0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    rng = np.random.default_rng(0)
    shuffled = adata[rng.permutation(adata.n_obs)].copy()
    shuffled.obs["library_id"] = shuffled.obs["library_id"].cat.reorder_categories(["library_2", "library_1"])
    for result in (complete(adata), complete(shuffled)[adata.obs_names]):
        for name in LAYERS:
            np.testing.assert_array_equal(dense(result.layers[name]), dense(expected.layers[name]))
        assert result.uns["spared_sc"]["spackle"]["score"] == expected.uns["spared_sc"]["spackle"]["score"]
    for name in ("spackle", "spackle_sd"):
        assert abs(other.layers[name] - expected.layers[name]).max() > 1e-4
    # the seed chooses what is hidden, and the count model of all entries does not depend on it: its shrinkage does
    one, two = (dense(result.layers["spackle_denoised"]) for result in (expected, other))
    assert min(np.corrcoef(*pair)[0, 1] for pair in zip(one.T, two.T, strict=True)) > 0.99


def test_the_order_of_genes_does_not_matter(adata):
    order = np.random.default_rng(0).permutation(adata.n_vars)
    expected, other = complete(adata), complete(adata[:, order].copy())[:, adata.var_names]
    for name in LAYERS:
        np.testing.assert_array_equal(dense(other.layers[name]), dense(expected.layers[name]))


def test_without_counts_there_are_no_rates(adata):
    adata.layers["detected"] = adata.X > 0
    adata.X = None
    with pytest.warns(UserWarning, match="expected counts are not estimated"):
        result = complete(adata)
    assert set(result.layers) - set(adata.layers) == {"spackle", "spackle_sd"}
    detected = dense(adata.layers["detected"])
    values, sd = (dense(result.layers[name]) for name in ("spackle", "spackle_sd"))
    np.testing.assert_array_equal(values[detected], dense(adata.layers["log2tpm"])[detected])
    assert (values[~detected] > 0).all()
    assert (sd[~detected] > 0).all()
    assert "factor" not in result.uns["spared_sc"]["spackle"]["score"]


def other_layer(adata, name) -> np.ndarray:
    counts = adata.X.toarray()
    if name == "log1p":
        return np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    if name == "centred":
        values = adata.layers["log2tpm"].toarray()
        return np.where(counts > 0, values - 15, 0)
    if name == "combat":
        sp.pp.combat(adata, **KEY)
        return np.where(counts > 0, dense(adata.layers["log2tpm_combat"]) - 14, 0)
    return 1e4 * counts / counts.sum(axis=1, keepdims=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["log1p", "centred", "combat", "cp10k"])
def test_any_layer_can_be_completed(name):
    adata = synthetic(n_genes=24, shape=(9, 9), depth=200)
    values = other_layer(adata, name)
    if name in ("centred", "combat"):
        assert (values < 0).any()
    hidden = hide_detected(adata.X.toarray() > 0, 0.2, np.random.default_rng(0))
    visible = np.where(hidden, 0, adata.X.toarray())
    given = ad.AnnData(sps.csr_matrix(visible), obs=adata.obs, var=adata.var[[]])
    given.layers["mine"] = np.where(hidden, 0, values).astype(np.float32)
    with pytest.warns(UserWarning, match="no denoised values: they need a layer that is log2"):
        result = complete(given, layer="mine", params={"n_iterations": 10})
    filled = result.layers["spackle"]
    assert filled.dtype == np.float32
    written = set(result.layers) - set(given.layers)
    assert written == set(LAYERS) - {"spackle_denoised", "spackle_denoised_sd"}
    assert all(np.isfinite(dense(result.layers[layer])).all() for layer in written)
    np.testing.assert_array_equal(filled[visible > 0], given.layers["mine"][visible > 0])
    mean = given.layers["mine"].sum(axis=0) / (visible > 0).sum(axis=0)
    truth = values[hidden]
    assert np.mean((filled[hidden] - truth) ** 2) < 0.8 * np.mean(
        (np.tile(mean, (len(values), 1))[hidden] - truth) ** 2
    )


def test_values_too_large_to_compute_with(adata):
    adata.layers["huge"] = adata.layers["log2tpm"] * np.float32(1e30)
    with pytest.raises(FloatingPointError, match="extreme values"):
        complete(adata, layer="huge")


def test_too_few_detected_entries(adata):
    with pytest.raises(ValueError, match=r"too few detected entries .*\(\d+ in 3 spots\)"):
        with pytest.warns(UserWarning, match="detected in no spot"):
            complete(adata[:3].copy())


def test_train_libraries_learn_from_nobody_else():
    adata = synthetic(n_libraries=4, n_genes=16, shape=(6, 6))
    names = dict(zip(adata.obs["library_id"].cat.categories, ["train", "val", "train", "test"], strict=True))
    adata.obs["split"] = adata.obs["library_id"].map(names).astype(str)
    rows = {name: (adata.obs["split"] == name).to_numpy() for name in ("train", "val", "test")}
    expected = complete(adata, params={"n_iterations": 1})
    for name in LAYERS:
        values = dense(expected.layers[name])
        assert np.isfinite(values).all()
        for here in rows.values():
            zero = dense(adata.X)[here] == 0
            assert (values[here][zero] > 0).all()

    def after_a_change(split, **options) -> ad.AnnData:
        counts = adata.X.toarray()
        counts[rows[split]] = counts[rows[split]][:, ::-1] + 2 * (counts[rows[split]][:, ::-1] > 0)
        return complete(with_counts(adata, counts), params={"n_iterations": 1}, **options)

    def differs(one, other, split) -> bool:
        changed = {
            bool((dense(one.layers[name])[rows[split]] != dense(other.layers[name])[rows[split]]).any())
            for name in LAYERS
        }
        assert len(changed) == 1
        return changed.pop()

    for split, same in (("test", ("train", "val")), ("val", ("train", "test"))):
        result = after_a_change(split)
        for name in rows:
            assert differs(result, expected, name) == (name not in same)
        one, other = (a.uns["spared_sc"]["spackle"] for a in (result, expected))
        assert one["score"] == other["score"]
        assert one["data"] == other["data"]
    result = after_a_change("train")
    assert all(differs(result, expected, name) for name in rows)
    # without the split they do
    assert differs(
        after_a_change("test", split_key=None), complete(adata, params={"n_iterations": 1}, split_key=None), "train"
    )


def test_a_gene_that_train_libraries_did_not_detect_stays(adata):
    adata.obs["split"] = adata.obs["library_id"].map({"library_1": "train", "library_2": "test"}).astype(str)
    counts = adata.X.toarray()
    counts[(adata.obs["split"] == "train").to_numpy(), 0] = 0
    counts[-1, 0] = 1
    adata = with_counts(adata, counts)
    with pytest.warns(UserWarning, match="1 genes are detected in no spot .*Gene001"):
        result = complete(adata)
    for name in ("spackle", "spackle_rate"):
        before = adata.layers["log2tpm"] if name == "spackle" else adata.X
        np.testing.assert_array_equal(dense(result.layers[name])[:, 0], dense(before)[:, 0])


def test_an_interrupt_before_the_last_fit_changes_nothing_and_goes_on_from_the_checkpoint(adata, tmp_path, monkeypatch):
    expected, before = complete(adata), adata.copy()
    tune = counts._tune

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(counts, "_tune", stop)  # after the fit without the hidden entries
    options = {**KEY, "model_params": {"n_iterations": 1}, "checkpoint": tmp_path / "state", "device": "cpu"}
    with pytest.raises(KeyboardInterrupt):
        sp.tl.spackle_complete(adata, **options)
    assert set(adata.layers) == set(before.layers)
    assert "spackle" not in adata.uns["spared_sc"]
    monkeypatch.setattr(counts, "_tune", tune)
    sweeps, sweep = [], variational._Model._sweep
    monkeypatch.setattr(variational._Model, "_sweep", lambda *args: sweeps.append(1) or sweep(*args))
    sp.tl.spackle_complete(adata, **options)
    n_sweeps = variational._FIRST_SWEEPS + 4 + 1  # of one fit
    assert len(sweeps) == 4 * n_sweeps  # to the halves of the molecules, and to all entries
    for name in LAYERS:
        np.testing.assert_array_equal(dense(adata.layers[name]), dense(expected.layers[name]))
    other = with_counts(adata, adata.X.toarray() + 1)
    for data, change in ((before, {"random_state": 1}), (before, {"model_params": {"n_iterations": 2}}), (other, {})):
        with pytest.raises(ValueError, match="belongs to another fit: remove"):
            sp.tl.spackle_complete(data, **(options | change))
    weights = next((tmp_path / "state").glob("all entries */weights-*"))
    weights.write_bytes(weights.read_bytes()[:-50])
    with pytest.raises(ValueError, match="damaged or cut short"):
        sp.tl.spackle_complete(before, **options)


def test_an_interrupt_in_the_first_fit_is_raised(adata, monkeypatch):
    sweep, sweeps = variational._Model._sweep, []

    def interrupted(model, bound):
        sweeps.append(1)
        if len(sweeps) == variational._FIRST_SWEEPS + 4 + 2:
            raise KeyboardInterrupt
        return sweep(model, bound)

    monkeypatch.setattr(variational, "_CONVERGED", -np.inf)
    monkeypatch.setattr(variational._Model, "_sweep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        complete(adata, params={"n_iterations": 3})


def test_a_checkpoint_holds_the_fits_of_all_splits(tmp_path):
    adata = synthetic(n_libraries=3, n_genes=16, shape=(6, 6))
    names = dict(zip(adata.obs["library_id"].cat.categories, ["train", "val", "test"], strict=True))
    adata.obs["split"] = adata.obs["library_id"].map(names).astype(str)
    expected = complete(adata)
    for _ in range(2):
        result = complete(adata, checkpoint=tmp_path / "state")
        for name in LAYERS:
            np.testing.assert_array_equal(dense(result.layers[name]), dense(expected.layers[name]))


def test_an_interrupt_in_the_last_fit_keeps_what_is_there(adata, monkeypatch):
    sweep, sweeps = variational._Model._sweep, []
    first = variational._FIRST_SWEEPS + 4 + 3  # sweeps of a fit of three iterations

    def interrupted(model, bound):
        sweeps.append(1)
        if len(sweeps) == 5 * first - 1:
            raise KeyboardInterrupt
        return sweep(model, bound)

    monkeypatch.setattr(variational, "_CONVERGED", -np.inf)
    monkeypatch.setattr(variational._Model, "_sweep", interrupted)
    with pytest.warns(UserWarning, match="interrupted: its state after step 6 of 8 is used"):
        result = complete(adata, params={"n_iterations": 3})
    assert result.uns["spared_sc"]["spackle"]["interrupted"]
    assert np.isfinite(dense(result.layers["spackle"])).all()
    sweeps.clear()
    with pytest.warns(UserWarning, match="interrupted"), pytest.raises(KeyboardInterrupt):
        # nobody wants the score of half a fit
        sp.tl.evaluate_completion(
            adata, methods=CountsModel(n_iterations=3), regimes="detected", n_masks=1, device="cpu", **KEY
        )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu(adata):
    on_cpu, on_gpu = (complete(adata, params={"n_iterations": 20}, device=device) for device in ("cpu", "cuda"))
    assert on_gpu.uns["spared_sc"]["spackle"]["device"] == "cuda"
    scores = [a.uns["spared_sc"]["spackle"]["score"]["counts"] for a in (on_cpu, on_gpu)]
    assert scores[0] == pytest.approx(scores[1], rel=0.02)


@pytest.fixture(scope="module")
def silenced():
    return with_silent_spots()


def test_whole_spots_are_completed_better_than_by_the_mean(silenced):
    sections, hidden, visible = silenced
    estimate = CountsModel().complete(visible, COMPUTE)
    truth = sections.renormalised(hidden)[hidden]
    mean = np.sum(visible.values, axis=0, where=visible.known) / visible.known.sum(axis=0)
    error = np.mean((estimate.values[hidden] - truth) ** 2)
    assert error < 0.9 * np.mean((np.broadcast_to(mean, hidden.shape)[hidden] - truth) ** 2)
    inside = np.abs(estimate.values[hidden] - truth) < 1.645 * estimate.sd[hidden]
    assert 0.8 < inside.mean() < 0.97


def test_the_bar_moves_over_the_whole_fit_and_says_what_it_will_cost(small, monkeypatch):
    bars = []

    class Bar:
        def __init__(self, total, desc, unit="step"):
            self.total, self.desc, self.n = total, desc, 0
            bars.append(self)

        def update(self, n=1):
            self.n += n

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(type(COMPUTE), "bar", lambda compute, total, desc, unit="step": Bar(total, desc, unit))
    tiny().complete(small, COMPUTE)
    assert [bar.n for bar in bars] == [bar.total for bar in bars] == [11, 18, 11]
    assert all("(about 1 s)" in bar.desc for bar in bars)


def test_silent_spots_alone_are_never_the_ones_that_are_hidden():
    """Most spots say nothing; what is hidden on purpose is among the others."""
    sections = sections_of(synthetic(1, 20, shape=(5, 4)))
    hidden = np.zeros_like(sections.known)
    hidden[np.random.default_rng(0).choice(20, size=12, replace=False)] = True
    visible = sections.without(hidden & sections.known)
    for seed in range(4):
        estimate = tiny().complete(visible, replace(COMPUTE, seed=seed))
        assert np.isfinite(estimate.sd).all()
        assert (estimate.sd > 0).all()


def test_too_few_hidden_entries():
    sections = sections_of(synthetic(1, 20, shape=(6, 6)))
    few = replace(sections, values=sections.values[:, :2], known=sections.known[:, :2])
    few = replace(few, counts=replace(sections.counts, values=sections.counts.values[:, :2]))
    assert few.known.sum() >= 50
    with pytest.raises(ValueError, match="too few hidden entries.*larger `hidden_share`"):
        tiny(hidden_share=0.02).complete(few, COMPUTE)
