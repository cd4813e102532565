"""The eight symmetries of a square, to draw training patches from and to average predictions over."""

from __future__ import annotations

import torch

N_SYMMETRIES = 8


def symmetry(images: torch.Tensor, code: int) -> torch.Tensor:
    """Square images (..., side, side), mirrored where `code` is 4 or more, then turned by `code % 4` quarters."""
    if code >= 4:
        images = images.flip(-1)
    return torch.rot90(images, code % 4, (-2, -1))


def transformed(images: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Each of the images (n, ..., side, side) by the symmetry that `codes` (n,) names for it."""
    result = torch.empty_like(images)
    for code in range(N_SYMMETRIES):
        at = torch.nonzero(codes == code).squeeze(1)
        result[at] = symmetry(images[at], code)
    return result
