"""_models/prediction/attention."""

from __future__ import annotations

import torch
from torch import nn

from spared_sc._models.prediction.attention import Attention, Block


def test_a_block_is_torchs():
    torch.manual_seed(0)
    ours = Block(128, 2, 48, 0.0)
    theirs = nn.TransformerEncoderLayer(128, 2, 48, 0.0, "gelu", batch_first=True, norm_first=True)
    pairs = {
        theirs.self_attn.in_proj_weight: ours.attention[0].qkv.weight,
        theirs.self_attn.out_proj.weight: ours.attention[0].out.weight,
        theirs.self_attn.out_proj.bias: ours.attention[0].out.bias,
        theirs.linear1.weight: ours.feedforward[1].weight,
        theirs.linear1.bias: ours.feedforward[1].bias,
        theirs.linear2.weight: ours.feedforward[4].weight,
        theirs.linear2.bias: ours.feedforward[4].bias,
    }
    with torch.no_grad():
        theirs.self_attn.in_proj_bias.zero_()
        for parameter, value in pairs.items():
            parameter.copy_(value)
    tokens = torch.rand(2, 7, 128)
    torch.testing.assert_close(ours(tokens), theirs(tokens), rtol=1e-4, atol=1e-5)


def test_attention_has_heads_of_64():
    assert Attention(32, 3).qkv.weight.shape == (3 * 3 * 64, 32)
