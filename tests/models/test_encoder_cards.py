"""_models/encoder_cards."""

from __future__ import annotations

import pytest
import torch

import spared_sc as sp
from spared_sc._models import encoder_weights
from spared_sc._models.encoder_cards import CARDS
from spared_sc._models.encoder_networks import NetworkEncoder
from spared_sc._models.encoders import get_card, load_encoder

FOUNDATION = [card.name for card in CARDS.values() if card.foundation]


# Millions of parameters, as LazySlide's registry states them (Midnight's with a larger table of positions than is used).
PUBLISHED = {
    "uni": 303.4,
    "uni2-h": 681.4,
    "virchow": 631.2,
    "virchow2": 631.2,
    "h-optimus-0": 1130,
    "h-optimus-1": 1130,
    "prov-gigapath": 1130,
    "phikon": 85.8,
    "phikon-v2": 303.4,
    "midnight-12k": 1140,
}


def test_every_entry_says_what_one_has_to_know():
    rows = sp.tl.encoders().to_dict("index")
    assert {"classical", "shufflenet_v2_x0_5", "uni", "uni2-h", "virchow2", "midnight-12k"} <= set(rows)
    for name, row in rows.items():
        assert row["licence"], name
        assert row["citation"], name
        assert get_card(name.upper()) is CARDS[name]
    for name in FOUNDATION:
        assert CARDS[name].verified, name
        assert rows[name]["hub"].count("/") == 1
        assert rows[name]["input_size"] == 224


@pytest.mark.parametrize("name", FOUNDATION)
def test_foundation_encoders_have_the_architecture_that_they_say(name):
    card = CARDS[name]
    with torch.device("meta"):
        network = encoder_weights.build(card)
        encoder = NetworkEncoder(card, network, dim=card.dim, device=torch.device("meta"), weights="")
        features = encoder._pooled(torch.empty(2, 3, card.input_size, card.input_size))
    assert features.shape == (2, card.dim)
    if name in PUBLISHED:
        assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(PUBLISHED[name], rel=6e-3)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="no encoder 'resnet19'.*'classical'.*timm.list_models"):
        load_encoder("resnet19", weights="random")
    with pytest.raises(ValueError, match="no encoder 'resnet18.foo'"):  # there is a resnet18
        get_card("resnet18.foo")
    with pytest.raises(ValueError, match="encoder=3 cannot be used"):
        load_encoder(3)
    with pytest.raises(ValueError, match="timm has no weights for 'botnet50ts_256'"):
        load_encoder("botnet50ts_256", device="cpu")
