"""Estimates of the simple methods side by side, for the methods that combine them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spared_sc._kernels.threads import limited_threads
from spared_sc._models.completion.depth_only import DepthOnly, depth_values
from spared_sc._models.completion.diffusion import Diffusion
from spared_sc._models.completion.kernel import Kernel
from spared_sc._models.completion.library_gene_mean import LibraryGeneMean, library_values
from spared_sc._models.completion.neighbor_mean import NeighborMean, neighbor_values
from spared_sc._models.completion.ridge import Ridge
from spared_sc._models.completion.soft_impute import SoftImpute
from spared_sc._models.completion.soft_impute_kernel import SoftImputeKernel
from spared_sc._models.completion.trial import AdditiveFit, Trial

if TYPE_CHECKING:
    import numpy as np

    from spared_sc._kernels.sections import Sections
    from spared_sc._models.completion.trial import Tuned


@limited_threads(1)
def tune_all(sections: Sections, seed: int) -> Tuned:
    """Parameters of all methods that `base_features` runs."""
    trial = Trial(sections, seed)
    tuned = {"library_gene_mean": LibraryGeneMean().tune(trial)}
    if sections.counts is not None:
        tuned["depth_only"] = DepthOnly().tune(trial)
    tuned["additive"] = trial.additive
    tuned["neighbor_mean"] = NeighborMean().tune(trial, tuned["library_gene_mean"])
    tuned["kernel"] = Kernel().tune(trial)
    tuned["diffusion"] = Diffusion().tune(trial)
    tuned["soft_impute"] = SoftImpute().tune(trial)
    low_rank = trial.fit.low_rank(**tuned["soft_impute"])
    tuned["soft_impute_kernel"] = SoftImputeKernel().tune(trial, low_rank)
    tuned["ridge"] = Ridge().tune(trial, low_rank)
    return tuned


@limited_threads(1)
def base_features(sections: Sections, tuned: Tuned, *, seed: int = 0) -> tuple[list[str], list[np.ndarray]]:
    """Estimates of the values by the methods that can be stacked, and their names.

    `tuned` as of `tune_all`. Soft-impute comes with half and twice its penalty, too, ridge with a third and thrice.
    """
    fit = AdditiveFit(sections, tuned["additive"], seed=seed)
    library = library_values(sections, **tuned["library_gene_mean"])
    soft = tuned["soft_impute"]
    strong, low_rank, weak = (
        fit.low_rank(factor * soft["shrinkage"], soft["rank"]) for factor in (2, 1, 0.5)
    )  # in this order, since each starts from the one before
    penalty = tuned["ridge"]["penalty"]
    ridges = fit.ridge(low_rank, (penalty / 3, penalty, penalty * 3))
    features = {"library_gene_mean": library}
    if "depth_only" in tuned:
        features["depth_only"] = depth_values(sections, **tuned["depth_only"])
    features |= {
        "additive": fit.base,
        "neighbor_mean": neighbor_values(sections, library, **tuned["neighbor_mean"]),
        "kernel": fit.kernel(**tuned["kernel"]),
        "diffusion": fit.diffusion(**tuned["diffusion"]),
        "soft_impute_weak": fit.base + weak,
        "soft_impute": fit.base + low_rank,
        "soft_impute_strong": fit.base + strong,
        "soft_impute_kernel": fit.soft_impute_kernel(low_rank, **tuned["soft_impute_kernel"]),
        "ridge_weak": ridges[0],
        "ridge": ridges[1],
        "ridge_strong": ridges[2],
    }
    return list(features), list(features.values())
