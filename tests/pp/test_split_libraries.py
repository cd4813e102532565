"""pp.split_libraries."""

from __future__ import annotations

import numpy as np
import pytest

import spared_sc as sp
from helpers import KEY


@pytest.fixture
def sections(collection):
    """Twelve libraries of five donors."""
    adata = collection(n_libraries=12, shape=(5, 5), n_genes=30, image=False)
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
    with pytest.raises(KeyError, match="4 libraries are not in the published split of VKO"):
        sp.pp.split_libraries(adata, **KEY, assignment="VKO")
    with pytest.raises(ValueError, match="no data set 'VL'; near are 'VLO'"):
        sp.pp.split_libraries(adata, **KEY, assignment="VL")
    adata.obs["library_id"] = adata.obs["library_id"].cat.rename_categories(
        ["V19D02-085_B1", "V19D02-085_C1", "V19D02-085_D1", "other"]
    )
    with pytest.warns(UserWarning, match=r"VKO has no test split: it is one of 15 of the 26 sets .*MHPC"):
        sp.pp.split_libraries(adata[adata.obs["library_id"] != "other"].copy(), **KEY, assignment="vko")


@pytest.mark.parametrize("fractions", [(0.5, 0.5), (0, 0.5, 0.5), (0.5, 0.2, 0.2), (1.2, -0.2, 0)])
def test_fractions(sections, fractions):
    with pytest.raises(ValueError, match="three shares"):
        sp.pp.split_libraries(sections, **KEY, subject_key="donor", fractions=fractions)
