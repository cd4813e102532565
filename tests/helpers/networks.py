"""Small networks, their patches and short fits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from spared_sc._core.compute import Compute
from spared_sc._kernels.lattice import from_array
from spared_sc._models.prediction.batch import Batch, Targets
from spared_sc._models.prediction.bleep import Bleep
from spared_sc._models.prediction.egn import Egn
from spared_sc._models.prediction.image_regression import ImageRegression
from spared_sc._models.prediction.sampling import Chosen
from spared_sc._models.prediction.spots import Spots

CPU = torch.device("cpu")


COMPUTE = Compute(device="cpu", batch_size=16, show_progress_bar=False)


SIDE, N_GENES = 32, 5


TINY = {"backbone": "timm:test_resnet", "weights": "random"}


SHORT = {"n_steps": 4, "train_batch_size": 8, "validate_every": 2}


GUIDED = {"encoder": "timm:test_resnet", "weights": "random", "image_size": SIDE, "token_size": 16, "width": 32}


GUIDED |= {"depth": 2, "n_heads": 1, "feedforward": 32, "n_exemplars": 3, "warmup_steps": 1}


def regression(**params) -> ImageRegression:
    return ImageRegression(**{**TINY, **SHORT, **params})


def contrastive(**params) -> Bleep:
    return Bleep(**{**TINY, **SHORT, "loss_chunk": 5, "n_neighbours": 4, **params})


def guided(**params) -> Egn:
    return Egn(**{**SHORT, **GUIDED, **params})


class Patches:
    """Patches in memory that keep a list of what was read."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels
        self.pixels.flags.writeable = False  # as those of a memory map
        self.reads: list[int] = []

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, rows: np.ndarray) -> np.ndarray:
        self.reads.append(len(rows))
        return self.pixels[rows]


def make_spots(n=24, n_libraries=3, seed=0, side=SIDE) -> Spots:
    """Spots whose expression is the colour of their patch; each has neighbours in the rows before and after."""
    rng = np.random.default_rng(seed)
    colour = rng.integers(40, 215, size=(n, 1, 1, 3))
    pixels = np.clip(colour + rng.integers(-40, 40, size=(n, side, side, 3)), 0, 255).astype(np.uint8)
    target = colour[:, 0, 0] / 50 @ np.random.default_rng(9).normal(size=(3, N_GENES)) + 3
    library, (row, column) = np.arange(n) % n_libraries, np.divmod(np.arange(n), 2 * n_libraries)
    place = np.stack([row, 2 * column + row % 2], axis=1)
    return Spots(
        library,
        place=place,
        lattice=from_array(place, library),
        patches=Patches(pixels),
        target=target.astype(np.float32),
        counts=np.random.default_rng(seed).poisson(np.exp2(target)).astype(np.float32),
    )


def on_lattice(n_libraries=2, shape=(5, 4), *, tokens="patches", seed=0) -> Spots:
    """Sections of a hexagonal lattice with gaps, of patches or of an embedding, in random order of rows."""
    rng = np.random.default_rng(seed)
    row, column = (index.ravel() for index in np.indices(shape))
    place = np.tile(np.column_stack([row, 2 * column + row % 2]), (n_libraries, 1))
    kept = rng.permutation(len(place))[: len(place) * 9 // 10]
    library = np.repeat(np.arange(n_libraries), len(row))[kept]
    spots = make_spots(len(kept), seed=seed)
    spots = replace(spots, library=library, place=place[kept], lattice=from_array(place[kept], library, kind="hex"))
    embedding = rng.normal(size=(len(kept), 7)).astype(np.float32)
    return spots if tokens == "patches" else replace(spots, patches=None, embedding=embedding)


def batch_of(spots: Spots, rows: np.ndarray, own: np.ndarray | None = None) -> Batch:
    """Training batch of some spots."""
    chosen, targets = Chosen(rows, np.ones(len(rows), dtype=bool)), Targets.of(spots, CPU)
    patches = spots.patches.pixels[rows]
    return Batch.of(spots, chosen, patches, CPU, image_size=None, own=own, targets=targets)


def some_known(spots: Spots, seed=0) -> Spots:
    return replace(spots, known=np.random.default_rng(seed).random(spots.target.shape) < 0.6)


def weights_of(predictor) -> dict[str, np.ndarray]:
    return predictor.state()[0]
