"""Blocks of transformers."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

_HEAD_WIDTH = 64


class Attention(nn.Module):
    """Self-attention of the tokens, normalised first."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * n_heads * _HEAD_WIDTH, bias=False)
        self.out = nn.Linear(n_heads * _HEAD_WIDTH, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        query, key, value = self.qkv(self.norm(tokens)).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


def feedforward(width: int, hidden: int, dropout: float = 0.0) -> nn.Sequential:
    """Two linear layers, normalised first."""
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, hidden),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, width),
        nn.Dropout(dropout),
    )


class Block(nn.Module):
    """Attention and a feed-forward network, each added to what it sees."""

    def __init__(self, width: int, n_heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.Sequential(Attention(width, n_heads), nn.Dropout(dropout))
        self.feedforward = feedforward(width, hidden, dropout)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens + self.attention(tokens)
        return tokens + self.feedforward(tokens)
