"""_models/prediction/section_layers."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy import special, stats
from torch import nn

from spared_sc._models.prediction import section_layers
from spared_sc._models.prediction.section_layers import (
    PlaceEmbedding,
    SectionHeads,
    SectionTransformer,
    augmented,
    in_chunks,
    size_factors,
    with_isolated,
    zinb_loss,
)

pytestmark = pytest.mark.usefixtures("seeded")


def test_recomputing_changes_no_gradient():
    kept = SectionTransformer(2, 32, 1, 16, 0.3)
    recomputing = copy.deepcopy(kept)
    recomputing.recompute = True
    spots = torch.rand(9, 32)
    losses = []
    for transformer in (kept, recomputing):
        torch.manual_seed(1)  # of the dropout
        losses.append(transformer(spots).square().sum())
        losses[-1].backward()
    torch.testing.assert_close(losses[0], losses[1])
    for one, other in zip(kept.parameters(), recomputing.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def stem() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.GELU(), nn.Flatten())


def test_chunks_change_nothing_at_inference(monkeypatch):
    layer, images = stem().eval(), torch.rand(11, 3, 6, 6)
    expected = layer(images)
    for size in (1, 4, 11):
        monkeypatch.setattr(section_layers, "_STEM_SPOTS", size)
        torch.testing.assert_close(in_chunks(layer, images), expected)


def test_recomputed_chunks_train_alike(monkeypatch):
    monkeypatch.setattr(section_layers, "_STEM_SPOTS", 4)
    kept, images = stem(), torch.rand(10, 3, 6, 6)
    recomputing, expected = copy.deepcopy(kept), copy.deepcopy(kept)
    for layer, recompute in ((kept, False), (recomputing, True)):
        in_chunks(layer, images, recompute=recompute).square().sum().backward()
    # Three chunks of sizes that differ by one at most.
    torch.cat([expected(images[:4]), expected(images[4:7]), expected(images[7:])]).square().sum().backward()
    for layer in (kept, recomputing):
        for name, value in expected.state_dict().items():
            torch.testing.assert_close(layer.state_dict()[name], value)
        for one, other in zip(layer.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad)


def test_a_single_patch_can_be_trained_on():
    last = nn.Sequential(nn.Conv2d(3, 4, 6), nn.BatchNorm2d(4), nn.Flatten())  # one value per channel
    result = in_chunks(last, torch.rand(1, 3, 6, 6))
    assert result.shape == (1, 4)
    assert result.isfinite().all()


@pytest.mark.parametrize("last", [(5, 9), (9, 3), (40, 17)])
def test_places_are_looked_up_or_interpolated(last):
    layer = PlaceEmbedding(10, 4)
    rng = np.random.default_rng(0)
    train = torch.from_numpy(np.vstack([rng.integers(0, np.add(last, 1), (20, 2)), last]))
    layer.cover(train)
    place = np.vstack([train.numpy(), [[0, 0], [200, 300], [200, 0]]])
    found = layer(torch.from_numpy(place)).detach().numpy()
    expected = 0
    for axis, table in enumerate((layer.row, layer.column)):
        entries = table.weight.detach().numpy()
        at = np.minimum(place[:, axis], last[axis])
        if last[axis] > 9:
            at = at * 9 / last[axis]
        expected = expected + np.stack([np.interp(at, np.arange(10), column) for column in entries.T], axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_places_of_a_fitting_array_have_entries_of_their_own():
    layer = PlaceEmbedding(10, 4)
    layer.cover(torch.tensor([[3, 9]]))
    torch.testing.assert_close(
        layer(torch.tensor([[2, 7], [3, 0]])),
        torch.stack([layer.row.weight[2] + layer.column.weight[7], layer.row.weight[3] + layer.column.weight[0]]),
    )


def test_isolated_spots_are_their_own_neighbours():
    edges = torch.tensor([[0, 1, 3, 1], [1, 0, 1, 3]])
    assert with_isolated(edges, 5).T.tolist() == [[0, 1], [1, 0], [3, 1], [1, 3], [2, 2], [4, 4]]
    assert with_isolated(edges[:, :0], 2).T.tolist() == [[0, 0], [1, 1]]


def zinb_by_scipy(counts, mean, dispersion, logit):
    extra = special.expit(logit)
    drawn = stats.nbinom.pmf(counts, dispersion, dispersion / (dispersion + mean))
    return -np.log(extra * (counts == 0) + (1 - extra) * drawn)


def test_likelihood_of_zero_inflated_counts_is_scipys():
    rng = np.random.default_rng(1)
    counts = rng.integers(0, 6, (40, 3)) * rng.integers(0, 2, (40, 3))
    mean, dispersion, logit = (rng.gamma(1, 3, (40, 3)), rng.gamma(1, 2, (40, 3)) + 0.05, rng.normal(0, 3, (40, 3)))
    mean[0], counts[0] = 0, 0  # of a spot without a count
    found = zinb_loss(*(torch.from_numpy(x).double() for x in (counts, mean, dispersion, logit)))
    np.testing.assert_allclose(found.numpy(), zinb_by_scipy(counts, mean, dispersion, logit), rtol=1e-6, atol=1e-9)


def test_loss_of_counts_is_the_mean_over_entries_at_the_size_of_the_spot():
    rng = np.random.default_rng(2)
    heads, hidden = SectionHeads(6, 3).double(), torch.from_numpy(rng.normal(size=(8, 6)))
    counts = rng.poisson(2, (8, 3))
    size = rng.gamma(2, size=8)
    found = heads.count_loss(hidden, torch.from_numpy(counts).double(), torch.from_numpy(size)).item()

    def linear(layer):
        return hidden.numpy() @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()

    mean = np.exp(linear(heads.log_mean)) * size[:, None]
    dispersion = np.log1p(np.exp(linear(heads.dispersion)))
    assert found == pytest.approx(zinb_by_scipy(counts, mean, dispersion, linear(heads.dropout)).mean(), rel=1e-6)


def test_loss_of_counts_is_finite_for_extreme_values():
    heads = SectionHeads(2, 3)
    hidden = torch.tensor([[1e4, -1e4], [-1e4, 1e4], [0, 0]], requires_grad=True)
    loss = heads.count_loss(hidden, torch.tensor([[0.0, 5, 1e5], [3, 0, 1], [0, 0, 0]]), torch.tensor([1.0, 2, 0]))
    loss.backward()
    assert loss.isfinite()
    assert hidden.grad.isfinite().all()


def test_size_factors_are_totals_over_their_median():
    counts = torch.tensor([[1.0, 3], [0, 0], [2, 6], [5, 5]])
    assert size_factors(counts).tolist() == [0.5, 0, 1, 1.25]
    assert size_factors(torch.zeros(2, 3)).tolist() == [1, 1]


def test_copies_are_weighted_by_their_scores():
    heads = SectionHeads(6, 3)
    copies = [torch.rand(4, 6) for _ in range(3)]
    found = heads.distilled(copies)
    for spot in range(4):
        score = [heads.scored(one[spot]).item() for one in copies]
        each = [heads.expression(one[spot]).detach().numpy() for one in copies]
        expected = sum(weight * values for weight, values in zip(special.softmax(score), each, strict=True))
        np.testing.assert_allclose(found[spot].detach().numpy(), expected, rtol=1e-4, atol=1e-6)


def test_patches_of_a_section_are_changed_alike():
    image = torch.rand(3, 9, 9) * 255
    copies = [augmented(image.expand(4, 3, 9, 9)) for _ in range(60)]
    assert all(torch.equal(one, one[:1].expand_as(one)) for one in copies)
    grey = [torch.equal(one[:, 0], one[:, 1]) for one in copies]
    assert 0 < sum(grey) < 20  # one in ten
    coloured = [one for one, is_grey in zip(copies, grey, strict=True) if not is_grey]
    # Nearly every angle is another image, and the pixel in the middle stays where it is.
    assert len({one.sum().item() for one in coloured}) > len(coloured) / 2
    assert all(torch.allclose(one[0, :, 4, 4], image[:, 4, 4]) for one in coloured)
