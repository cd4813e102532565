"""Readers of the records of completed layers."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest

from spared_sc._core.completions import (
    completed_layers,
    denoised_layers,
    describe_layer,
    describe_method,
    layers_for_maps,
    measured_layers,
)


def made(layers: dict[str, dict | None]) -> ad.AnnData:
    """Layers, and the parameters of the completions that made them."""
    adata = ad.AnnData(np.ones((2, 2)), layers={name: np.ones((2, 2)) for name in layers})
    adata.uns["spared_sc"] = {
        name: {"function": "tl.complete", "params": params, "slots": [f'layers["{name}"]', f'layers["{name}_rate"]']}
        for name, params in layers.items()
        if params is not None
    }
    return adata


def test_layers_are_found_by_their_records():
    adata = made({"mine": {"method": "ridge", "layer": "log2tpm_combat"}, "log2tpm": None, "log2tpm_combat": None})
    adata.layers["mine_rate"] = adata.layers["other"] = np.ones((2, 2))
    assert completed_layers(adata) == ["mine"]
    assert measured_layers(adata) == ["log2tpm", "log2tpm_combat"]


def test_layers_of_default_names_need_no_record():
    adata = made({"log2tpm": None, "median": None, "spackle": None})
    assert completed_layers(adata) == ["median", "spackle"]
    assert measured_layers(adata) == ["log2tpm"]


def test_completion_of_a_completed_layer_is_not_measured():
    adata = made({"log2tpm": None, "median": {"method": "median", "layer": "log2tpm"}, "two": {"layer": "median"}})
    assert measured_layers(adata) == ["log2tpm"]
    assert completed_layers(adata) == ["median", "two"]


def test_maps_take_the_denoised_layer_where_there_is_one():
    adata = made({"log2tpm": None, "median": {"method": "median", "layer": "log2tpm"}, "mine": {"layer": "log2tpm"}})
    for name in ("mine_denoised", "spackle_denoised", "other_denoised"):
        adata.layers[name] = np.ones((2, 2))
    assert denoised_layers(adata) == ["mine_denoised", "spackle_denoised"]
    assert layers_for_maps(adata) == ["median", "mine_denoised", "spackle_denoised"]
    del adata.layers["mine"]  # of a completion with `write=["denoised"]`
    assert layers_for_maps(adata) == ["median", "mine_denoised", "spackle_denoised"]
    assert measured_layers(adata) == ["log2tpm"]


def test_nothing_is_found_where_nothing_is():
    adata = ad.AnnData(np.ones((2, 2)))
    assert completed_layers(adata) == denoised_layers(adata) == measured_layers(adata) == []


@pytest.mark.parametrize(
    ("key", "method", "words"),
    [
        ("spackle", "counts", "spackle: counts model"),
        ("spackle", "paper", "spackle: SpaCKLE (paper)"),
        ("median", "median", "median"),
        ("paper", "paper", "SpaCKLE (paper)"),
        ("mine", "ridge", "mine: ridge"),
    ],
)
def test_layers_are_described_by_what_made_them(key, method, words, tmp_path):
    adata = made({key: {"method": method, "layer": "log2tpm"}})
    adata.write_h5ad(tmp_path / "a.h5ad")
    for one in (adata, ad.read_h5ad(tmp_path / "a.h5ad")):
        assert describe_layer(one, key) == words
        if key != method:
            assert describe_layer(one, f"{key}_rate") == words.replace(key, f"{key}_rate", 1)
        assert describe_layer(one, "other") == "other"


def test_methods_without_words_keep_their_names():
    assert describe_method("soft_impute") == "soft_impute"
