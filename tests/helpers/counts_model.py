"""Sections for tests of the completion that models counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sps
import torch

import spared_sc as sp
from helpers import KEY
from spared_sc._core.compute import Compute
from spared_sc.tl._resolve import resolve

if TYPE_CHECKING:
    import anndata as ad

    from spared_sc._kernels.sections import Sections


CPU = torch.device("cpu")

COMPUTE = Compute(device="cpu", show_progress_bar=False)


def synthetic(n_libraries=2, n_genes=20, shape=(8, 8), depth=100, **options) -> ad.AnnData:
    """Sections with TPM; every gene is completed, unless a mask says otherwise."""
    adata = sp.datasets.synthetic(n_libraries, n_genes, shape=shape, depth=depth, image=False, **options)
    sp.pp.normalize_tpm(adata)
    return adata


def resolved(adata, **options):
    return resolve(adata, **{"layer": "log2tpm", "mask_var": None, "spatial_key": "spatial", **KEY, **options})


def sections_of(adata, **options) -> Sections:
    return resolved(adata, **options).sections


def with_counts(adata, counts) -> ad.AnnData:
    """The same spots with other counts, and TPM of these."""
    adata = adata.copy()
    adata.X = sps.csr_matrix(counts, dtype=np.float32)
    for layer in ("log2tpm", "detected"):
        adata.layers.pop(layer, None)
    sp.pp.normalize_tpm(adata)
    return adata


def correlation_within_genes(log_rate, true_rate, library) -> float:
    """Mean over libraries and genes of the correlation over the spots, without what the depth of the spots makes."""

    def centred(x):
        x = x - np.log(true_rate.sum(axis=1, keepdims=True))
        x = x - np.array([x[library == code].mean(axis=0) for code in range(library.max() + 1)])[library]
        return x

    one, other = centred(log_rate), centred(np.log(true_rate))
    return float(np.mean((one * other).sum(axis=0) / np.sqrt((one**2).sum(axis=0) * (other**2).sum(axis=0))))


def with_silent_spots() -> tuple[Sections, np.ndarray, Sections]:
    """Sections, whole spots of them hidden, and what is left."""
    adata = synthetic(2, 60, shape=(12, 12), depth=400)
    adata.var["few"] = np.arange(adata.n_vars) < 20  # the others tell the depth of a spot
    sections = sections_of(adata, mask_var="few")
    spots = np.random.default_rng(0).choice(len(sections.known), size=30, replace=False)
    hidden = np.zeros_like(sections.known)
    hidden[spots] = sections.known[spots]
    return sections, hidden, sections.without(hidden)


def log_likelihood_in_plain_words(log_rate, counts, size, lost):
    """Zero-inflated negative binomial, of every entry."""
    rate = torch.exp(log_rate)
    log_chance = (
        torch.lgamma(counts + size)
        - torch.lgamma(size)
        - torch.lgamma(counts + 1)
        + size * torch.log(size / (size + rate))
        + torch.xlogy(counts, rate / (size + rate))
    )
    zero = torch.log(lost + (1 - lost) * torch.exp(log_chance))
    return torch.where(counts > 0, torch.log(1 - lost) + log_chance, zero)
