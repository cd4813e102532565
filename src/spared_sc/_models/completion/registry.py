"""Completion methods by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spared_sc._core.registry import About, Registry

if TYPE_CHECKING:
    from spared_sc._models.completion.base import Completer

COMPLETERS: Registry[Completer] = Registry(
    "completion method",
    __package__,
    About("gene_mean", ".gene_mean:GeneMean", "mean of the gene's detected values"),
    About(
        "library_gene_mean",
        ".library_gene_mean:LibraryGeneMean",
        "mean of the gene's detected values in the library, shrunk towards the mean over all libraries",
    ),
    About("depth_only", ".depth_only:DepthOnly", "regression of the gene on the depth of the spot", needs=("counts",)),
    About(
        "counts_at_depth",
        ".counts_at_depth:CountsAtDepth",
        "negative binomial counts at the depth of the spot and the library's share of the gene",
        needs=("counts",),
    ),
    About("additive", ".additive:Additive", "effect of the gene, of the spot, and of the gene in the library"),
    About(
        "neighbor_mean", ".neighbor_mean:NeighborMean", "mean of the gene's detected values within some rings of spots"
    ),
    About("kernel", ".kernel:Kernel", "additive, and its residuals smoothed by a Gaussian kernel"),
    About(
        "diffusion",
        ".diffusion:Diffusion",
        "additive, and its residuals spread over the graph of neighbours",
        paper="Zhou et al. (2004)",
    ),
    About(
        "soft_impute",
        ".soft_impute:SoftImpute",
        "additive, and a low-rank matrix of its residuals",
        paper="Mazumder et al. (2010), Hastie et al. (2015)",
    ),
    About(
        "soft_impute_kernel",
        ".soft_impute_kernel:SoftImputeKernel",
        "soft_impute, and its residuals smoothed by a Gaussian kernel",
    ),
    About("ridge", ".ridge:Ridge", "additive, and its residuals regressed on other genes and on the neighbourhood"),
    About(
        "stack",
        ".stack:Stack",
        "linear combination of the methods above, learned on hidden entries",
        paper="Wolpert (1992), Breiman (1996)",
    ),
    About(
        "sme",
        ".sme:SME",
        "mean over nearby spots of similar morphology and expression, zeros counted",
        needs=("embedding",),
        paper="Pham et al. (2023), stLearn",
        by_default=False,
    ),
    About(
        "magic",
        ".magic:Magic",
        "diffusion over a graph of spots with similar expression",
        needs=("counts",),
        paper="van Dijk et al. (2018)",
        by_default=False,
    ),
    About(
        "alra",
        ".alra:Alra",
        "low-rank approximation that keeps likely true zeros at zero",
        paper="Linderman et al. (2022)",
        by_default=False,
    ),
    About(
        "median",
        ".median:Median",
        "adaptive median of the surrounding spots, zeros counted",
        paper="Mejia et al. (2023), SEPAL",
    ),
    About("counts", ".counts:CountsModel", "count model and simple estimates, combined"),
    About(
        "factor",
        ".factor:Factor",
        "count model alone: zero-inflated negative binomial with smooth factors",
        needs=("counts",),
        by_default=False,
    ),
    About(
        "paper",
        ".paper:SpaCKLE",
        "transformer over the neighbourhood of a spot, as published",
        paper="Ruiz et al. (2025), SpaCKLE",
        by_default=False,
    ),
)
