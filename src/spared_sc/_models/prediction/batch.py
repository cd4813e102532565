"""What a network is given: tokens, places and edges of some spots, and the targets of those that are predicted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from spared_sc._kernels.at_depth import size_by_moments
from spared_sc._kernels.prediction_shrinkage import expected_counts
from spared_sc._models.prediction.augment import transformed
from spared_sc._models.prediction.sampling import edges_among
from spared_sc._models.prediction.spots import MSE, NEGATIVE_BINOMIAL, present

if TYPE_CHECKING:
    from spared_sc._models.prediction.sampling import Chosen
    from spared_sc._models.prediction.spots import Spots

_LARGEST_LOG = 15.0  # of a rate over the one at the gene's share


@dataclass
class Targets:
    """Values that the loss compares with, on the device."""

    values: torch.Tensor  # (n, g), counts where they are compared
    known: torch.Tensor | None  # (n, g)
    # (n, g) counts at the gene's share; outputs are logarithms of what that is off by
    expected: torch.Tensor | None = None
    size: torch.Tensor | None = None  # (g,) of negative binomial counts

    @classmethod
    def of(cls, spots: Spots, device: torch.device) -> Targets:
        """Targets of spots, which are on the scale of the network's output."""

        def tensor(array: np.ndarray) -> torch.Tensor:
            return torch.as_tensor(array, dtype=torch.float32, device=device)

        if spots.loss == MSE:
            known = None if spots.known is None else torch.as_tensor(spots.known, device=device)
            return cls(tensor(present(spots.target, "target")), known)
        counts = present(spots.counts, "counts")
        expected = expected_counts(spots.flat(), present(spots.exposure, "exposure"))
        size = size_by_moments(counts, expected) if spots.loss == NEGATIVE_BINOMIAL else None
        return cls(tensor(counts), None, tensor(expected), None if size is None else tensor(size))

    def take(self, index: torch.Tensor) -> Targets:
        """Those of some spots."""
        known, expected = (None if x is None else x[index] for x in (self.known, self.expected))
        return replace(self, values=self.values[index], known=known, expected=expected)

    def loss(self, output: torch.Tensor) -> torch.Tensor:
        """Mean squared error over the known entries, or of counts the mean negative log-likelihood, but for a constant."""
        if self.expected is None:
            error = (output - self.values) ** 2
            return error.mean() if self.known is None else (error * self.known).sum() / self.known.sum().clamp(min=1)
        output = output.clamp(max=_LARGEST_LOG)  # here and below: else the likelihood would grow without bound
        rate = self.expected * output.exp()
        if self.size is None:
            return (rate - self.values * output).mean()
        return ((self.values + self.size) * torch.log1p(rate / self.size) - self.values * output).mean()


@dataclass(frozen=True)
class Batch:
    """Some spots of one or several sections, on the device; what the spots lack is `None`."""

    rows: torch.Tensor  # (m,) of the spots that are fitted or predicted
    predicted: torch.Tensor  # (m,) bool: what the batch is for; the others are context
    images: torch.Tensor | None  # (m, 3, side, side) float32, 0 to 255
    embedding: torch.Tensor | None  # (m, d)
    place: torch.Tensor | None  # (m, 2) int64, row and column on the array
    edges: torch.Tensor | None  # (2, e) int64: neighbours on the lattice, in both directions
    own: torch.Tensor | None  # (m,) code of the library in which nothing is looked up, -1 for none
    counts: torch.Tensor | None  # (m, g) float32, raw; in training
    targets: Targets | None  # of the predicted spots; in training

    @classmethod
    def of(
        cls,
        spots: Spots,
        chosen: Chosen,
        patches: np.ndarray | None,
        device: torch.device,
        *,
        image_size: int | None,
        own: np.ndarray | None,
        codes: torch.Tensor | None = None,
        targets: Targets | None = None,
    ) -> Batch:
        """Chosen spots and their patches, each by the symmetry in `codes`; in training with the `targets` of all spots."""
        rows = chosen.rows

        def tensor(array: np.ndarray | None, kind: torch.dtype) -> torch.Tensor | None:
            return None if array is None else torch.as_tensor(array[rows], dtype=kind, device=device)

        index = torch.as_tensor(rows, device=device)
        predicted = torch.as_tensor(chosen.predicted, device=device)
        edges = None if spots.lattice is None else torch.as_tensor(edges_among(spots.lattice, rows), device=device)
        return cls(
            rows=index,
            predicted=predicted,
            images=None if patches is None else to_images(patches, device, image_size, codes),
            embedding=tensor(spots.embedding, torch.float32),
            place=tensor(spots.place, torch.int64),
            edges=edges,
            own=tensor(own, torch.int64),
            counts=None if targets is None else tensor(spots.counts, torch.float32),
            targets=None if targets is None else targets.take(index[predicted]),
        )

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def tokens(self) -> torch.Tensor:
        """The embedding, or else the images."""
        return present(self.images if self.embedding is None else self.embedding, "patches")


def to_images(
    patches: np.ndarray, device: torch.device, image_size: int | None, codes: torch.Tensor | None = None
) -> torch.Tensor:
    """Patches uint8 (n, side, side, 3) as networks take them: float32 (n, 3, size, size), 0 to 255."""
    images = torch.from_numpy(np.require(patches, np.uint8, ["C", "W"])).to(device).permute(0, 3, 1, 2)
    if codes is not None:
        images = transformed(images, codes)
    images = images.float()
    if image_size is not None and images.shape[-1] != image_size:
        images = functional.interpolate(images, (image_size,) * 2, mode="bilinear", antialias=True)
    return images.contiguous(memory_format=torch.channels_last if device.type == "cuda" else torch.contiguous_format)
