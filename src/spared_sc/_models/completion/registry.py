"""Completion methods by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spared_sc._core.registry import About, Registry

if TYPE_CHECKING:
    from spared_sc._models.completion.base import Completer

COMPLETERS: Registry[Completer] = Registry(
    "completion method",
    __package__,
    About(
        name="gene_mean",
        where=".gene_mean:GeneMean",
        summary="mean of the gene's detected values",
    ),
    About(
        name="library_gene_mean",
        where=".library_gene_mean:LibraryGeneMean",
        summary="mean of the gene's detected values in the library, shrunk towards the mean over all libraries",
    ),
    About(
        name="depth_only",
        where=".depth_only:DepthOnly",
        needs=("counts",),
        summary="regression of the gene on the depth of the spot",
    ),
    About(
        name="additive",
        where=".additive:Additive",
        summary="effect of the gene, of the spot, and of the gene in the library",
    ),
    About(
        name="neighbor_mean",
        where=".neighbor_mean:NeighborMean",
        summary="mean of the gene's detected values within some rings of spots",
    ),
    About(
        name="kernel",
        where=".kernel:Kernel",
        summary="additive, and its residuals smoothed by a Gaussian kernel",
    ),
    About(
        name="diffusion",
        where=".diffusion:Diffusion",
        paper="Zhou et al. (2004)",
        summary="additive, and its residuals spread over the graph of neighbours",
    ),
    About(
        name="soft_impute",
        where=".soft_impute:SoftImpute",
        paper="Mazumder et al. (2010), Hastie et al. (2015)",
        summary="additive, and a low-rank matrix of its residuals",
    ),
    About(
        name="soft_impute_kernel",
        where=".soft_impute_kernel:SoftImputeKernel",
        summary="soft_impute, and its residuals smoothed by a Gaussian kernel",
    ),
    About(
        name="ridge",
        where=".ridge:Ridge",
        summary="additive, and its residuals regressed on other genes and on the neighbourhood",
    ),
    About(
        name="stack",
        where=".stack:Stack",
        paper="Wolpert (1992), Breiman (1996)",
        summary="linear combination of the methods above, learned on hidden entries",
    ),
    About(
        name="sme",
        where=".sme:SME",
        needs=("embedding",),
        paper="Pham et al. (2023), stLearn",
        summary="mean over nearby spots of similar morphology and expression, zeros counted",
    ),
    About(
        name="magic",
        where=".magic:Magic",
        needs=("counts",),
        paper="van Dijk et al. (2018)",
        summary="diffusion over a graph of spots with similar expression",
    ),
    About(
        name="alra",
        where=".alra:Alra",
        paper="Linderman et al. (2022)",
        summary="low-rank approximation that keeps likely true zeros at zero",
    ),
    About(
        name="median",
        where=".median:Median",
        paper="Mejia et al. (2023), SEPAL",
        summary="adaptive median of the surrounding spots, zeros counted",
    ),
    About(
        name="counts",
        where=".counts:CountsModel",
        summary="count model and simple estimates, combined by a stack and a small network",
    ),
    About(
        name="factor",
        where=".factor:Factor",
        needs=("counts",),
        summary="count model alone: zero-inflated negative binomial with smooth factors",
    ),
    About(
        name="paper",
        where=".paper:SpaCKLE",
        paper="Ruiz et al. (2025), SpaCKLE",
        summary="transformer over the neighbourhood of a spot, as published",
    ),
)
