"""ComBat, centering and splits, against independent readings of their definitions."""

from __future__ import annotations

import json

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sps

import spared_sc as sp
from spared_sc._kernels.combat import apply_combat, fit_combat

KEY = {"library_key": "library_id"}


@pytest.fixture
def batches():
    """Expression with a shift and a spread per batch, and the batch of each spot."""
    rng = np.random.default_rng(0)
    batch = np.repeat(["a", "b", "c"], [70, 90, 40])
    values = rng.normal(size=(200, 40)) * rng.gamma(3, size=40) + 3 * rng.normal(size=40)
    for i, name in enumerate("abc"):
        rows = batch == name
        values[rows] = values[rows] * rng.gamma(20, 1 / 20, size=40) + rng.normal(0.5 * i, 0.3, size=40)
    return values, batch


@pytest.fixture
def collection():
    adata = sp.datasets.synthetic(n_libraries=3, shape=(9, 9), n_genes=60, library_effect=0.5, image=False)
    sp.pp.recipe_spared(adata, **KEY, n_genes=24)
    return adata


def johnson(values, batch, location_ddof):
    """Johnson et al. (2007) gene by gene in plain loops; the two libraries differ in `location_ddof` only."""
    names = np.unique(batch)
    mean = sum((batch == n).mean() * values[batch == n].mean(axis=0) for n in names)
    residual = values - np.array([values[batch == n].mean(axis=0) for n in batch])
    variance = (residual**2).mean(axis=0)
    standard = (values - mean) / np.sqrt(variance)
    result = np.empty_like(standard)
    for name in names:
        z = standard[batch == name]
        n = len(z)
        gamma_hat, delta_hat = z.mean(axis=0), z.var(axis=0, ddof=1)
        gamma_bar, tau = gamma_hat.mean(), gamma_hat.var(ddof=location_ddof)
        v, s = delta_hat.mean(), delta_hat.var(ddof=1)
        shape, rate = 2 + v**2 / s, v + v**3 / s
        gamma, delta = gamma_hat.copy(), delta_hat.copy()
        moved = 1.0
        while moved > 1e-4:
            new_gamma = (n * tau * gamma_hat + delta * gamma_bar) / (n * tau + delta)
            new_delta = (rate + ((z - new_gamma) ** 2).sum(axis=0) / 2) / (n / 2 + shape - 1)
            # without an absolute value below, as both libraries have it
            moved = max((abs(new_gamma - gamma) / gamma).max(), (abs(new_delta - delta) / delta).max())
            gamma, delta = new_gamma, new_delta
        result[batch == name] = (z - gamma) / np.sqrt(delta)
    return result * np.sqrt(variance) + mean


def test_combat_equals_pycombat(batches):
    from pycombat import Combat

    values, batch = batches
    assert np.allclose(
        apply_combat(fit_combat(values, batch), values, batch), Combat().fit_transform(values, batch), atol=1e-12
    )


def test_combat_equals_scanpy_but_for_one_ddof(batches):
    import scanpy as sc

    values, batch = batches
    adata = ad.AnnData(values.copy())
    adata.obs["batch"] = batch
    adata.obs["batch"] = adata.obs["batch"].astype("category")
    scanpy = sc.pp.combat(adata, "batch", inplace=False)
    ours = apply_combat(fit_combat(values, batch), values, batch)
    assert np.allclose(johnson(values, batch, location_ddof=1), ours, atol=1e-8)
    assert np.allclose(johnson(values, batch, location_ddof=0), scanpy, atol=1e-8)
    assert 1e-6 < abs(ours - scanpy).max() < 0.05


def test_a_constant_gene_stays_and_harms_no_other(batches):
    values, batch = batches
    with_constant = np.column_stack([values, np.full(len(values), 3.5), np.zeros(len(values))])
    corrected = apply_combat(fit_combat(with_constant, batch), with_constant, batch)
    assert np.array_equal(corrected[:, -2:], with_constant[:, -2:])
    assert np.allclose(corrected[:, :-2], apply_combat(fit_combat(values, batch), values, batch))


def test_a_gene_that_differs_between_batches_only_stays(batches):
    values, batch = batches
    stepped = np.column_stack([values, np.where(batch == "a", 1.0, 2.0)])
    corrected = apply_combat(fit_combat(stepped, batch), stepped, batch)
    assert np.isfinite(corrected).all()
    assert np.array_equal(corrected[:, -1], stepped[:, -1])


def test_a_new_batch_is_brought_to_the_others(batches):
    values, batch = batches
    known = batch != "c"
    fit = fit_combat(values[known], batch[known])
    corrected = apply_combat(fit, values, batch)
    assert np.array_equal(corrected[known], apply_combat(fit, values[known], batch[known]))

    def distance(x):
        reference = x[known].mean(axis=0)
        return np.abs(x[~known].mean(axis=0) - reference).mean(), np.abs(
            np.log(x[~known].std(axis=0) / x[known].std(axis=0))
        ).mean()

    assert distance(corrected)[0] < 0.4 * distance(values)[0]
    assert distance(corrected)[1] < 0.8 * distance(values)[1]


def test_a_new_batch_of_many_spots_is_hardly_shrunk():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(3000, 30))
    batch = np.repeat(["a", "b", "new"], 1000)
    values[batch == "a"] += 2 * rng.normal(size=30)  # batches do differ, says the prior
    values[batch == "b"] *= rng.gamma(2, size=30)
    values[batch == "new"] = 3 * values[batch == "new"] + 2
    fit = fit_combat(values[batch != "new"], batch[batch != "new"])
    corrected = apply_combat(fit, values, batch)[batch == "new"]
    assert np.allclose(corrected.mean(axis=0), fit.mean, atol=0.1)
    assert np.allclose(corrected.std(axis=0), np.sqrt(fit.variance), rtol=0.05)


def test_a_new_batch_of_one_spot_is_shrunk_to_the_prior(batches):
    values, batch = batches
    fit = fit_combat(values, batch)
    one = apply_combat(fit, values[:1], np.array(["new"]))
    assert np.isfinite(one).all()


def test_combat_learns_from_train_libraries_only(collection):
    collection.obs["split"] = collection.obs["library_id"].map(
        {"library_1": "train", "library_2": "train", "library_3": "test"}
    )
    sp.pp.combat(collection, **KEY)
    before = collection.layers["log2tpm_combat"].copy()
    changed = collection.copy()
    test = (changed.obs["library_id"] == "library_3").to_numpy()
    scale = sps.diags_array(np.where(test, 2.0, 1.0))
    changed.layers["log2tpm"] = sps.csr_matrix(scale @ changed.layers["log2tpm"]).astype(np.float32)
    sp.pp.combat(changed, **KEY)
    after = changed.layers["log2tpm_combat"]
    assert np.array_equal(before[~test].toarray(), after[~test].toarray())
    assert not np.array_equal(before[test].toarray(), after[test].toarray())
    record = collection.uns["spared_sc"]["log2tpm_combat"]
    assert list(record["batches"]) == ["library_1", "library_2"]
    assert list(record["new_batches"]) == ["library_3"]


def test_combat_touches_the_selected_genes_only(collection):
    sp.pp.combat(collection, **KEY)
    others = ~collection.var["spared_selected"].to_numpy()
    assert (collection.layers["log2tpm_combat"][:, others] != collection.layers["log2tpm"][:, others]).nnz == 0
    assert isinstance(collection.layers["log2tpm_combat"], sps.csr_matrix)


def test_saved_combat_gives_the_same(collection, tmp_path):
    sp.pp.combat(collection, **KEY, save_model=tmp_path / "model")
    expected = collection.layers["log2tpm_combat"].toarray()
    genes = collection.var_names[::-1]
    new = collection[:, genes].copy()
    del new.layers["log2tpm_combat"]
    del new.uns["spared_sc"]["log2tpm_combat"]
    sp.pp.combat(new, **KEY, model=tmp_path / "model")
    assert np.array_equal(new[:, collection.var_names].layers["log2tpm_combat"].toarray(), expected)

    selected = collection.var_names[collection.var["spared_selected"]]
    fewer = collection[:, collection.var_names != selected[0]].copy()
    sp.pp.combat(fewer, **KEY, model=tmp_path / "model", key_added="again")
    assert np.array_equal(
        fewer.layers["again"].toarray(), collection[:, fewer.var_names].layers["log2tpm_combat"].toarray()
    )
    card = json.loads((tmp_path / "model" / "card.json").read_text())
    assert card["genes"] == selected.tolist()


def test_combat_refuses(collection, tmp_path):
    one = collection[collection.obs["library_id"] == "library_1"].copy()
    before = set(one.layers)
    with pytest.raises(ValueError, match="fewer than two to learn from .* leave ComBat out"):
        sp.pp.combat(one, **KEY)
    with pytest.raises(KeyError, match="no column 'donor'"):
        sp.pp.combat(collection, **KEY, batch_key="donor")
    with pytest.raises(FileNotFoundError, match="is no saved model"):
        sp.pp.combat(one, **KEY, model=tmp_path / "nothing")
    assert set(one.layers) == before
    sp.pp.combat(collection, **KEY, save_model=tmp_path / "model")
    collection.layers["other"] = collection.layers["log2tpm"].copy()
    with pytest.raises(ValueError, match="corrects layer 'log2tpm', not 'other'"):
        sp.pp.combat(collection, **KEY, layer="other", model=tmp_path / "model")
    foreign = ad.AnnData(collection.X.copy(), obs=collection.obs)
    foreign.layers["log2tpm"] = collection.layers["log2tpm"].copy()
    with pytest.raises(ValueError, match="none of the model's genes"):
        sp.pp.combat(foreign, **KEY, model=tmp_path / "model")


def test_combat_warns_of_what_it_leaves(collection):
    adata = collection.copy()
    adata.obs["batch"] = adata.obs["library_id"].astype(str)
    adata.obs.iloc[0, adata.obs.columns.get_loc("batch")] = "alone"
    with pytest.warns(UserWarning, match="one batches have|1 batches have one spot"):
        sp.pp.combat(adata, **KEY, batch_key="batch")
    constant = collection.copy()
    gene = np.flatnonzero(constant.var["spared_selected"])[0]
    layer = constant.layers["log2tpm"].tolil()
    layer[:, gene] = 2.0
    constant.layers["log2tpm"] = layer.tocsr()
    with pytest.warns(UserWarning, match="1 genes do not vary"):
        sp.pp.combat(constant, **KEY)
    assert (constant.layers["log2tpm_combat"][:, [gene]].toarray() == 2).all()


def test_center_and_back(collection):
    collection.obs["split"] = np.where(collection.obs["library_id"] == "library_3", "val", "train")
    sp.pp.center(collection, **KEY)
    train = (collection.obs["split"] == "train").to_numpy()
    selected = collection.var["spared_selected"].to_numpy()
    values = collection.layers["log2tpm"].toarray()
    expected = values.copy()
    for gene in np.flatnonzero(selected):
        expected[:, gene] = values[:, gene] - np.mean([values[spot, gene] for spot in np.flatnonzero(train)])
    assert np.allclose(collection.layers["log2tpm_delta"].toarray(), expected, atol=1e-5)
    assert (collection.var["log2tpm_mean"][~selected] == 0).all()
    sp.pp.uncenter(collection)
    assert np.allclose(collection.layers["log2tpm_delta_restored"].toarray(), values, atol=1e-5)
    with pytest.raises(KeyError, match="name its means"):
        sp.pp.uncenter(collection, layer="log2tpm")


# --- splits ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def sections():
    """Twelve libraries of five donors."""
    adata = sp.datasets.synthetic(n_libraries=12, shape=(5, 5), n_genes=30, image=False)
    donor = {f"library_{i + 1}": "ABCDEEEEAABC"[i] for i in range(12)}
    adata.obs["donor"] = adata.obs["library_id"].map(donor)
    return adata


@pytest.mark.parametrize("seed", range(10))
def test_subjects_never_cross(sections, seed):
    sp.pp.split_libraries(sections, **KEY, subject_key="donor", random_state=seed)
    assert (sections.obs.groupby("donor", observed=True)["split"].nunique() == 1).all()
    assert (sections.obs.groupby("library_id", observed=True)["split"].nunique() == 1).all()
    assert set(sections.obs["split"]) == {"train", "val", "test"}
    share = sections.obs["split"].value_counts(normalize=True)
    assert share["train"] == share.max()


def test_split_does_not_depend_on_the_order(sections):
    shuffled = sections[np.random.default_rng(0).permutation(sections.n_obs)].copy()
    for adata in (sections, shuffled):
        sp.pp.split_libraries(adata, **KEY, subject_key="donor", random_state=3)
    assert (shuffled.obs["split"].astype(str) == sections.obs["split"][shuffled.obs_names].astype(str)).all()


def test_split_within_one_subject_only_by_name(sections):
    with pytest.raises(ValueError, match="subjects are unknown.*intra_subject=True"):
        sp.pp.split_libraries(sections, **KEY)
    sections.obs["donor"] = "A"
    with pytest.raises(ValueError, match="1 subjects cannot fill 3 splits"):
        sp.pp.split_libraries(sections, **KEY, subject_key="donor")
    sp.pp.split_libraries(sections, **KEY, subject_key="donor", intra_subject=True)
    assert set(sections.obs["split"]) == {"train", "val", "test"}


def test_split_as_assigned(sections):
    given = dict.fromkeys(sections.obs["library_id"].unique(), "train") | {"library_2": "val", "library_11": "val"}
    sp.pp.split_libraries(sections, **KEY, subject_key="donor", assignment=given)
    assert set(sections.obs.loc[sections.obs["split"] == "val", "library_id"]) == {"library_2", "library_11"}
    with pytest.raises(ValueError, match=r"1 subjects are in several splits \('B'\)"):
        sp.pp.split_libraries(sections, **KEY, subject_key="donor", assignment=given | {"library_2": "test"})
    with pytest.raises(KeyError, match="1 libraries are not in `assignment` \\('library_12'"):
        sp.pp.split_libraries(
            sections, **KEY, subject_key="donor", assignment={k: v for k, v in given.items() if k != "library_12"}
        )
    with pytest.raises(ValueError, match="'training'; expected only 'train', 'val', 'test'"):
        sp.pp.split_libraries(sections, **KEY, subject_key="donor", assignment=given | {"library_1": "training"})


def test_published_split():
    names = ["V19D02-088_A1", "V19D02-088_B1", "V19D02-088_C1", "V19D02-088_D1"]
    adata = sp.datasets.synthetic(n_libraries=4, shape=(5, 5), n_genes=20, image=False)
    adata.obs["library_id"] = adata.obs["library_id"].cat.rename_categories(names)
    sp.pp.split_libraries(adata, **KEY, assignment="VLO")
    assert adata.obs.groupby("library_id", observed=True)["split"].first().tolist() == ["train", "train", "val", "test"]
    with pytest.raises(KeyError, match="4 libraries are not in SpaRED's VKO"):
        sp.pp.split_libraries(adata, **KEY, assignment="VKO")
    with pytest.raises(KeyError, match="no published split 'VL'"):
        sp.pp.split_libraries(adata, **KEY, assignment="VL")


def test_published_catalogue():
    from spared_sc._core.catalogue import spared_splits

    splits = spared_splits()
    assert len(splits) == 26
    assert sum(len(sections) for sections in splits.values()) == 105
    assert len({section for sections in splits.values() for section in sections}) == 97
    assert sum("test" in sections.values() for sections in splits.values()) == 11
    assert all({"train", "val"} <= set(sections.values()) for sections in splits.values())


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0, 0.5, 0.5), (0.5, 0.2, 0.2), (1.2, -0.2, 0)])
def test_fractions(sections, fractions):
    with pytest.raises(ValueError, match="three shares"):
        sp.pp.split_libraries(sections, **KEY, subject_key="donor", fractions=fractions)


def with_copy(adata, noise):
    """The collection with library_1 once more, as another pipeline version would count it."""
    rng = np.random.default_rng(0)
    again = adata[adata.obs["library_id"] == "library_1"].copy()
    again.X = sps.csr_matrix(rng.binomial(again.X.toarray().astype(int), 1 - noise).astype(np.float32))
    again.obs["library_id"] = "again"
    again.obs["donor"] = "Z"
    again.obs_names = [f"{name}_again" for name in again.obs_names]
    return ad.concat([adata, again])


@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_copies_are_found_and_stay_together(noise):
    adata = sp.datasets.synthetic(n_libraries=6, shape=(12, 12), n_genes=60, image=False)
    adata.obs["donor"] = adata.obs["library_id"].astype(str)
    adata = with_copy(adata, noise)
    pairs = sp.pp.find_duplicate_libraries(adata, **KEY)
    assert pairs[["library", "other"]].to_numpy().tolist() == [["again", "library_1"]]
    assert pairs["n_shared"].tolist() == [144]
    for seed in range(5):
        sp.pp.split_libraries(adata, **KEY, subject_key="donor", random_state=seed)
        assert adata.obs["split"][adata.obs["library_id"].isin(["again", "library_1"])].nunique() == 1
    given = dict.fromkeys(adata.obs["library_id"].unique(), "train") | {"again": "test"}
    with pytest.warns(UserWarning, match=r"'again' \(test\) and 'library_1' \(train\) look like copies"):
        sp.pp.split_libraries(adata, **KEY, subject_key="donor", assignment=given)


def test_sections_of_one_block_are_no_copies(data_dir):
    for folder in ("lung_organoid", "kidney_organoid"):
        paths = sorted(p.parent for p in (data_dir / "villacampa" / folder).glob("*/spatial"))
        adata = sp.datasets.read_visium(paths, load_images=False)
        assert sp.pp.find_duplicate_libraries(adata, **KEY).empty
