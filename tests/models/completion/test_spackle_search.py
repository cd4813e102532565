"""SpaCKLE: search of the learning rate, losses, precision, devices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import spared_sc as sp
from helpers.saved import QUICK, layer
from spared_sc._core import validate
from spared_sc._models.completion import spackle


@pytest.fixture(scope="module")
def sections(collection):
    return collection(n_libraries=3, shape=(8, 8), n_genes=50, depth=500, image=False, recipe={"n_genes": 20})


@pytest.mark.filterwarnings("ignore:training diverged:UserWarning")
def test_search_keeps_the_best_of_ten_rates(sections, tmp_path):
    options = {**QUICK, "n_steps": 50, "copy": True}
    result = sp.tl.spackle_complete(sections, **options, learning_rate="search", checkpoint=tmp_path / "state")
    tried = result.uns["spared_sc"]["spackle"]["search"]
    np.testing.assert_allclose(tried["learning_rate"], 10 ** np.linspace(-5, -2, 10))
    best = int(np.argmin(tried["validation_mse"]))
    alone = sp.tl.spackle_complete(sections, **options, learning_rate=float(tried["learning_rate"][best]))
    np.testing.assert_array_equal(layer(result), layer(alone))
    training_of_best = result.uns["spared_sc"]["spackle"]["training"]["validation_mse"]
    assert training_of_best.min() == tried["validation_mse"][best]
    assert len(list((tmp_path / "state").iterdir())) == 10


def test_without_precompletion_undetected_entries_are_zero(sections):
    seen = []
    build = spackle._Neighbourhoods.__init__

    class Spy(spackle._Neighbourhoods):
        def __init__(self, values, known, *rest):
            seen.append((values, known))
            build(self, values, known, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spackle, "_Neighbourhoods", Spy)
        for precomplete in (True, False):
            sp.tl.spackle_complete(sections, **QUICK, n_steps=5, precomplete=precomplete, copy=True)
    zero = [(values[~known] == 0).all() for values, known in seen]
    assert zero == [False, False, True, True]


def test_the_loss_on_hidden_entries_is_what_it_says():
    params = spackle.SpackleParams(loss="hidden", train_batch_size=6, dropout=0.0)
    rng = np.random.default_rng(0)
    values = rng.normal(size=(9, 5)).astype(np.float32)
    known = rng.random((9, 5)) < 0.7
    lattice = validate.get_lattice(*grid(9))
    device = torch.device("cpu")
    data = spackle._Neighbourhoods(values, known, lattice, 1, device)
    network = spackle.SpackleNet(5, params).eval()
    spots = torch.arange(9)
    generator = torch.Generator().manual_seed(1)
    loss = spackle._training_loss(network, data, spots, params, generator).item()
    generator.manual_seed(1)
    draw = torch.randint(9, (6,), generator=generator)
    target, seen, padding, _ = data.batch(draw)
    hidden = seen & (torch.rand(target.shape, generator=generator) < 0.3)
    estimate = network(target.masked_fill(hidden, 0), padding).detach()
    errors = [(estimate[i, 0, g] - target[i, 0, g]).item() ** 2 for i in range(6) for g in range(5) if hidden[i, 0, g]]
    assert loss == pytest.approx(np.mean(errors), rel=1e-5)


def grid(n):
    import anndata as ad

    from spared_sc._core.validate import Libraries

    adata = ad.AnnData(np.ones((n, 1), dtype=np.float32))
    adata.obs["array_row"], adata.obs["array_col"] = np.divmod(np.arange(n), 3)
    return adata, Libraries(np.zeros(n, dtype=int), ["a"]), "spatial"


def test_mixed_precision_is_close_to_single(sections):
    options = {**QUICK, "n_steps": 20, "copy": True}
    single = sp.tl.spackle_complete(sections, **options)
    with sp.settings.override(mixed_precision=True):
        mixed = sp.tl.spackle_complete(sections, **options)
    difference = np.abs(layer(single) - layer(mixed))
    assert 0 < difference.max() < 0.5
    assert layer(mixed).dtype == np.float32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu(sections):
    on_cpu = sp.tl.spackle_complete(sections, **QUICK, n_steps=20, copy=True)
    with sp.settings.override(mixed_precision=False):
        on_gpu = sp.tl.spackle_complete(sections, **{**QUICK, "device": "cuda"}, n_steps=20, copy=True)
    assert on_gpu.uns["spared_sc"]["spackle"]["device"] == "cuda"
    scores = [a.uns["spared_sc"]["spackle"]["score"]["spackle"] for a in (on_cpu, on_gpu)]
    assert scores[0] == pytest.approx(scores[1], rel=0.2)
