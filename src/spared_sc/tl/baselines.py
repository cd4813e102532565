"""Completion by simple methods, each tuned on detected entries that are hidden for the purpose."""

from __future__ import annotations

import inspect
import textwrap
from typing import TYPE_CHECKING, Any

from spared_sc._core import docs, validate
from spared_sc._core.keys import Key
from spared_sc._core.record import check_key

from ._completers import Run, complete
from ._sections import resolve, write

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData

# parameter -> smallest value, whether it is a whole number
_RANGES: dict[str, tuple[float, bool]] = {
    "shrinkage": (0, False),
    "kernel_shrinkage": (0, False),
    "spot_shrinkage": (0, False),
    "library_shrinkage": (0, False),
    "strength": (0, False),
    "penalty": (0, False),
    "bandwidth": (0.1, False),
    "n_rings": (1, True),
    "n_neighbors": (1, True),
    "rank": (1, True),
    "n_folds": (2, True),
    "most_entries": (1, True),
    "knn": (1, True),
    "t": (1, True),
}
_TUNED = "`None` chooses it on a tenth of the detected entries, which are hidden for the purpose."


_RAISES = """
KeyError
    If a named slot does not exist.
ValueError
    If several libraries come without `library_key`, the layer is not finite, no gene is detected, or a parameter is out
    of range.
FloatingPointError
    If values are too large to be squared.
"""
_WARNS = """
UserWarning
    If genes are detected in no spot: they stay as they are.
"""


def _documented(name: str, *, rate: str | None = None, zeros: bool = False, skip: bool = False) -> Callable:
    """Fill in what the docstrings of all completers share."""
    zero = " Zero, so still undetected, where the method finds nothing." if zeros else ""
    returns = f"""
    `None`, or the changed copy with `copy=True`. Slots written:

    `layers["{name}"]`
        Expression given detection, in the unit and container of the input layer. Equal to the input where detected,
        and for genes outside of the mask.{zero}"""
    if rate is not None:
        text = (
            "Expected counts at the depth of the spot, true zeros included; float32, container of the counts. Only "
            f"written where there are raw counts. It is {rate}."
        )
        returns += f"""
    `layers["{name}_rate"]`
{textwrap.indent(textwrap.fill(text, 108), " " * 8)}"""
    returns += f"""
    `uns["spared_sc"]["{name}"]`
        Parameters, those that were tuned as chosen."""
    more = ', use_rep="programs"' if name == "sme" else ""
    skipped = "  # doctest: +SKIP" if skip else ""
    example = f"""
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=2, shape=(8, 8), image=False)
    >>> sp.pp.recipe_spared(adata, library_key="library_id", n_genes=24)
    >>> sp.tl.{name}_complete(adata, library_key="library_id"{more}){skipped}
    >>> selected = adata[:, adata.var["spared_selected"]]
    >>> bool((selected.layers["{name}"].toarray() {">=" if zeros else ">"} 0).all()){skipped}
    True"""
    return docs.fill(
        data=docs.DATA, run=docs.RUN, tuned=_TUNED, returns=returns, raises=_RAISES, warns=_WARNS, example=example
    )


def _complete(
    name: str,
    *,
    adata: AnnData,
    layer: str,
    mask_var: str | None,
    library_key: str | None,
    spatial_key: str,
    key_added: str,
    n_jobs: int | None,
    random_state: int,
    copy: bool,
    use_rep: str | None = None,
    **params: Any,
) -> AnnData | None:
    """What all public functions of this module do."""
    from spared_sc._kernels.baselines import BASELINES

    validate.check_adata(adata)
    check_key(adata, key_added, source=layer)
    validate.check_number("random_state", random_state, 0, whole=True)
    accepted = inspect.signature(BASELINES[name]).parameters
    for parameter, value in params.items():
        if value is not None or accepted[parameter].default is not None:
            least, whole = _RANGES[parameter]
            validate.check_number(parameter, value, least, whole=whole)
    run = Run(seed=random_state, n_threads=validate.n_threads(n_jobs))
    resolved = resolve(
        adata, layer=layer, mask_var=mask_var, library_key=library_key, spatial_key=spatial_key, use_rep=use_rep
    )
    resolved.sections.check_size()
    estimate = complete(name, resolved.sections, run, **params)

    adata = adata.copy() if copy else adata
    shared = {
        "layer": layer,
        "mask_var": mask_var if mask_var in adata.var else None,
        "library_key": library_key,
        "random_state": random_state,
    }
    if use_rep is not None:
        shared["use_rep"] = use_rep
    write(adata, resolved, estimate, key_added=key_added, function=f"tl.{name}_complete", params={**shared, **params})
    return adata if copy else None


@_documented("gene_mean", rate="the depth times the gene's share of all counts")
def gene_mean_complete(
    adata: AnnData,
    *,
    layer: str = Key.layers.log2tpm,
    mask_var: str | None = Key.var.selected,
    library_key: str | None = None,
    spatial_key: str = Key.obsm.spatial,
    key_added: str = "gene_mean",
    n_jobs: int | None = None,
    random_state: int = 0,
    copy: bool = False,
) -> AnnData | None:
    r"""Fill undetected entries with the mean of the gene's detected values.

    The least that any other method must beat. All libraries are taken together.

    Parameters
    ----------
    {data}
    {run}

    Returns
    -------
    {returns}

    Raises
    ------
    {raises}

    Warns
    -----
    {warns}

    Notes
    -----
    :math:`\hat x_{sg} = \mu_g`, the mean of :math:`x_{sg}` over the detected entries.

    Examples
    --------
    {example}
    """
    return _complete("gene_mean", **locals())


@_documented(
    "library_gene_mean",
    rate="the depth times the gene's share of the library's counts, which is drawn to its share of all",
)
def library_gene_mean_complete(
    adata: AnnData,
    *,
    layer: str = Key.layers.log2tpm,
    mask_var: str | None = Key.var.selected,
    library_key: str | None = None,
    spatial_key: str = Key.obsm.spatial,
    shrinkage: float | None = None,
    key_added: str = "library_gene_mean",
    n_jobs: int | None = None,
    random_state: int = 0,
    copy: bool = False,
) -> AnnData | None:
    r"""Fill undetected entries with the mean of the gene's detected values in the library.

    Where a library has few detected values, the mean is drawn to that over all libraries.

    Parameters
    ----------
    {data}
    shrinkage
        Number of detected values that the mean over all libraries counts for.
        {tuned}
    {run}

    Returns
    -------
    {returns}

    Raises
    ------
    {raises}

    Warns
    -----
    {warns}

    Notes
    -----
    With :math:`n_{lg}` detected values in library *l*, of mean :math:`m_{lg}`, and the mean :math:`\mu_g` of the
    gene: :math:`\hat x_{sg} = (n_{lg} m_{lg} + \tau \mu_g) / (n_{lg} + \tau)`.

    Examples
    --------
    {example}
    """
    return _complete("library_gene_mean", **locals())


@_documented(
    "depth_only", rate="for each gene a Poisson regression on the logarithm of the depth, its slope drawn to 1"
)
def depth_only_complete(
    adata: AnnData,
    *,
    layer: str = Key.layers.log2tpm,
    mask_var: str | None = Key.var.selected,
    library_key: str | None = None,
    spatial_key: str = Key.obsm.spatial,
    shrinkage: float | None = None,
    key_added: str = "depth_only",
    n_jobs: int | None = None,
    random_state: int = 0,
    copy: bool = False,
) -> AnnData | None:
    r"""Fill undetected entries with what the depth of the spot alone says of the gene.

    In normalised data the value of a gene, had it been detected, falls with the depth of the spot: a count of one is
    much where there are few. What a method adds to this is what it knows of expression. All libraries are taken
    together.

    Parameters
    ----------
    {data}
    shrinkage
        How strongly a gene's curve is drawn to that of all genes, as a number of detected values.
        {tuned}
    {run}

    Returns
    -------
    {returns}

    Raises
    ------
    {raises}
    ValueError
        If there are no raw counts.

    Warns
    -----
    {warns}

    Notes
    -----
    With the standardised logarithm *d* of the depth, which is the sum of all counts of a spot, :math:`\hat x_{sg} =
    \mu_g + a_g + b_g d_s + c_g d_s^2`. The coefficients minimise the squared error over the detected entries plus
    :math:`\tau` times the squared distance to the coefficients that all genes have in common.

    Examples
    --------
    {example}
    """
    return _complete("depth_only", **locals())


@_documented(
    "additive", rate="the depth times the gene's share of the library's counts, which is drawn to its share of all"
)
def additive_complete(
    adata: AnnData,
    *,
    layer: str = Key.layers.log2tpm,
    mask_var: str | None = Key.var.selected,
    library_key: str | None = None,
    spatial_key: str = Key.obsm.spatial,
    spot_shrinkage: float | None = None,
    library_shrinkage: float | None = None,
    key_added: str = "additive",
    n_jobs: int | None = None,
    random_state: int = 0,
    copy: bool = False,
) -> AnnData | None:
    r"""Fill undetected entries with the sum of an effect of the gene, of the spot, and of the gene in the library.

    Many methods here complete what this one leaves over.

    Parameters
    ----------
    {data}
    spot_shrinkage
        Penalty of the effects of spots, as a number of detected values.
        {tuned}
    library_shrinkage
        Penalty of the effects of genes in libraries, as a number of detected values.
        {tuned}
    {run}

    Returns
    -------
    {returns}

    Raises
    ------
    {raises}

    Warns
    -----
    {warns}

    Notes
    -----
    :math:`\hat x_{sg} = \mu_g + a_s + l_{b(s) g}` minimises, over the detected entries,

    .. math:: \sum_{sg} (x_{sg} - \hat x_{sg})^2 + \tau_a \sum_s a_s^2 + \tau_l \sum_{bg} l_{bg}^2.

    Examples
    --------
    {example}
    """
    return _complete("additive", **locals())


@_documented(
    "neighbor_mean",
    rate="the depth times the gene's share of the neighbours' counts, together with one spot of the library's share",
)
def neighbor_mean_complete(
    adata: AnnData,
    *,
    layer: str = Key.layers.log2tpm,
    mask_var: str | None = Key.var.selected,
    library_key: str | None = None,
    spatial_key: str = Key.obsm.spatial,
    n_rings: int | None = None,
    key_added: str = "neighbor_mean",
    n_jobs: int | None = None,
    random_state: int = 0,
    copy: bool = False,
) -> AnnData | None:
    r"""Fill undetected entries with the mean of the gene's detected values in the spots around.

    Undetected neighbours do not count. Where no neighbour has detected the gene, the value is the library's mean, as
    of `sp.tl.library_gene_mean_complete`.

    Parameters
    ----------
    {data}
    n_rings
        Size of the neighbourhood, in hops.
        {tuned}
    {run}

    Returns
    -------
    {returns}

    Raises
    ------
    {raises}

    Warns
    -----
    {warns}

    Notes
    -----
    With :math:`N(s)` the spots within `n_rings` hops, and :math:`\Omega` the detected entries:
    :math:`\hat x_{sg} = \sum_{t \in N(s), (t, g) \in \Omega} x_{tg} / \sum_{t \in N(s), (t, g) \in \Omega} 1`.

    Examples
    --------
    {example}
    """
    return _complete("neighbor_mean", **locals())


@_documented("kernel", rate="the depth times the gene's share of the counts around, the spot included")
def kernel_complete(
    adata: AnnData,
    *,
    layer: str = Key.layers.log2tpm,
    mask_var: str | None = Key.var.selected,
    library_key: str | None = None,
    spatial_key: str = Key.obsm.spatial,
    bandwidth: float | None = None,
    shrinkage: float | None = None,
    key_added: str = "kernel",
    n_jobs: int | None = None,
    random_state: int = 0,
    copy: bool = False,
) -> AnnData | None:
    r"""Fill undetected entries with the additive fit and what it leaves over around the spot.

    The additive fit (`sp.tl.additive_complete`) is tuned as well.

    Parameters
    ----------
    {data}
    bandwidth
        Width of the Gaussian kernel, in hops. It ends at three widths, and at eight hops.
        {tuned}
    shrinkage
        Weight of a residual of zero, in units of a neighbour at no distance.
        {tuned}
    {run}

    Returns
    -------
    {returns}

    Raises
    ------
    {raises}

    Warns
    -----
    {warns}

    Notes
    -----
    With the residuals :math:`r` of the additive fit :math:`\hat a`, the detected entries :math:`\Omega` and
    :math:`K_{st} = \exp(-h_{st}^2 / 2 b^2)`, where *h* counts hops:

    .. math:: \hat x_{sg} = \hat a_{sg} + \frac{\sum_{t \ne s} K_{st} r_{tg} [(t, g) \in \Omega]}
        {\sum_{t \ne s} K_{st} [(t, g) \in \Omega] + \tau}.

    The rate is the mean of a gamma-Poisson model whose prior has the library's share of the gene and the weight of
    some spots. Its kernel includes the spot. Kernel and weight are tuned on one half of the molecules to predict the
    other.

    Examples
    --------
    {example}
    """
    return _complete("kernel", **locals())


@_documented("diffusion")
def diffusion_complete(
    adata: AnnData,
    *,
    layer: str = Key.layers.log2tpm,
    mask_var: str | None = Key.var.selected,
    library_key: str | None = None,
    spatial_key: str = Key.obsm.spatial,
    strength: float | None = None,
    key_added: str = "diffusion",
    n_jobs: int | None = None,
    random_state: int = 0,
    copy: bool = False,
) -> AnnData | None:
    r"""Fill undetected entries with the additive fit and what it leaves over, spread over the graph of neighbours.

    The additive fit (`sp.tl.additive_complete`) is tuned as well.

    Parameters
    ----------
    {data}
    strength
        How strongly neighbours are held together.
        {tuned}
    {run}

    Returns
    -------
    {returns}

    Raises
    ------
    {raises}

    Warns
    -----
    {warns}

    Notes
    -----
    The residual of gene *g* is replaced by the :math:`z` that minimises :math:`\sum_{s \in \Omega_g} (z_s - r_{sg})^2
    + \lambda \sum_{s \sim t} (z_s - z_t)^2`, which solves :math:`(W_g + \lambda L) z = W_g r_g` with the detected
    entries on the diagonal of :math:`W_g` and the graph Laplacian :math:`L`. All genes are solved for at once by
    conjugate gradients. Source: label propagation on graphs, Zhou et al. (2004), in the form of a ridge penalty on
    differences.

    Examples
    --------
    {example}
    """
    return _complete("diffusion", **locals())


@_documented("soft_impute", rate="a factorisation of the counts")
def soft_impute_complete(
    adata: AnnData,
    *,
    layer: str = Key.layers.log2tpm,
    mask_var: str | None = Key.var.selected,
    library_key: str | None = None,
    spatial_key: str = Key.obsm.spatial,
    shrinkage: float | None = None,
    rank: int = 24,
    key_added: str = "soft_impute",
    n_jobs: int | None = None,
    random_state: int = 0,
    copy: bool = False,
) -> AnnData | None:
    r"""Fill undetected entries with the additive fit and a matrix of low rank.

    Finds programmes of genes that go up and down together, whatever their place. The additive fit
    (`sp.tl.additive_complete`) is tuned as well.

    Parameters
    ----------
    {data}
    shrinkage
        Penalty of the singular values, as a part of the largest singular value of the residuals.
        {tuned}
    rank
        Largest rank.
    {run}

    Returns
    -------
    {returns}

    Raises
    ------
    {raises}

    Warns
    -----
    {warns}

    Notes
    -----
    With the residuals :math:`r` of the additive fit and the detected entries :math:`\Omega`, the matrix minimises
    :math:`\tfrac12 \sum_\Omega (r_{sg} - z_{sg})^2 + \lambda \lVert Z \rVert_*`, by alternating least squares
    (Mazumder, Hastie and Tibshirani 2010; Hastie et al. 2015).

    The rate is a Poisson factorisation with the depth as exposure (Lee and Seung 2001), whose factors of the
    spots are smoothed over their neighbours. Rank and smoothing are tuned on one half of the molecules to
    predict the other.

    Examples
    --------
    {example}
    """
    return _complete("soft_impute", **locals())


@_documented(
    "soft_impute_kernel", rate="a factorisation of the counts, corrected by the counts around, the spot included"
)
def soft_impute_kernel_complete(
    adata: AnnData,
    *,
    layer: str = Key.layers.log2tpm,
    mask_var: str | None = Key.var.selected,
    library_key: str | None = None,
    spatial_key: str = Key.obsm.spatial,
    shrinkage: float | None = None,
    rank: int = 24,
    bandwidth: float | None = None,
    kernel_shrinkage: float | None = None,
    key_added: str = "soft_impute_kernel",
    n_jobs: int | None = None,
    random_state: int = 0,
    copy: bool = False,
) -> AnnData | None:
    """Fill undetected entries with the additive fit, a matrix of low rank, and what both leave over around the spot.

    The additive fit (`sp.tl.additive_complete`) is tuned as well.

    Parameters
    ----------
    {data}
    shrinkage
        Penalty of the singular values, as a part of the largest singular value of the residuals.
        {tuned}
    rank
        Largest rank.
    bandwidth
        Width of the Gaussian kernel, in hops. It ends at three widths, and at eight hops.
        {tuned}
    kernel_shrinkage
        Weight of a residual of zero, in units of a neighbour at no distance.
        {tuned}
    {run}

    Returns
    -------
    {returns}

    Raises
    ------
    {raises}

    Warns
    -----
    {warns}

    Notes
    -----
    The sum of the estimate of `sp.tl.soft_impute_complete` and of its residuals smoothed as in
    `sp.tl.kernel_complete`. The rate is that of `sp.tl.soft_impute_complete` times the ratio of the counts around the
    spot to those that it expects there; kernel and weight are tuned on one half of the molecules to predict the
    other.

    Examples
    --------
    {example}
    """
    return _complete("soft_impute_kernel", **locals())


@_documented("ridge")
def ridge_complete(
    adata: AnnData,
    *,
    layer: str = Key.layers.log2tpm,
    mask_var: str | None = Key.var.selected,
    library_key: str | None = None,
    spatial_key: str = Key.obsm.spatial,
    penalty: float | None = None,
    rank: int = 24,
    key_added: str = "ridge",
    n_jobs: int | None = None,
    random_state: int = 0,
    copy: bool = False,
) -> AnnData | None:
    """Fill undetected entries with the additive fit and a regression on the other genes and on the spots around.

    The additive fit (`sp.tl.additive_complete`), and soft-impute (`sp.tl.soft_impute_complete`), which fills the gaps
    of the other genes, are tuned as well.

    Parameters
    ----------
    {data}
    penalty
        Ridge penalty.
        {tuned}
    rank
        Largest rank of soft-impute.
    {run}

    Returns
    -------
    {returns}

    Raises
    ------
    {raises}

    Warns
    -----
    {warns}

    Notes
    -----
    For each gene, the residuals of the additive fit are regressed on those of the other genes in the spot, gaps
    filled by soft-impute, and on the mean of all genes' filled residuals around the spot, with Gaussian weights of
    width one hop. With more than 256 genes, a gene is regressed on the 128 others that it correlates with most.
    Weights are learned from 20,000 spots at most.

    Examples
    --------
    {example}
    """
    return _complete("ridge", **locals())


@_documented("stack", rate="a log-linear combination of the methods' rates")
def stack_complete(
    adata: AnnData,
    *,
    layer: str = Key.layers.log2tpm,
    mask_var: str | None = Key.var.selected,
    library_key: str | None = None,
    spatial_key: str = Key.obsm.spatial,
    n_folds: int = 5,
    most_entries: int = 1_000_000,
    key_added: str = "stack",
    n_jobs: int | None = None,
    random_state: int = 0,
    copy: bool = False,
) -> AnnData | None:
    """Fill undetected entries with the combination of simple methods that does best on hidden ones.

    The methods are the mean of the gene in the library, depth alone (with raw counts), additive, mean of the
    neighbours, kernel, diffusion, soft-impute (at half, once and twice the penalty), soft-impute with kernel, and
    ridge (at a third, once and thrice the penalty).

    Parameters
    ----------
    {data}
    n_folds
        Parts of the detected entries, each of which is hidden once.
    most_entries
        Largest number of hidden entries that the weights are learned from.
    {run}

    Returns
    -------
    {returns}

    Raises
    ------
    {raises}

    Warns
    -----
    {warns}

    Notes
    -----
    Stacked regression (Wolpert 1992, Breiman 1996): every detected entry is hidden once, the methods estimate it from
    the rest, and their estimates are combined by least squares, with a ridge penalty of 1 on the standardised
    estimates. Each method is tuned once, on all detected entries.

    The rate is a Poisson regression of one half of the molecules on the logarithms of the methods' rates from the
    other half, applied to their rates from all.

    Examples
    --------
    {example}
    """
    return _complete("stack", **locals())


@_documented("sme", zeros=True)
def sme_complete(
    adata: AnnData,
    *,
    layer: str = Key.layers.log2tpm,
    mask_var: str | None = Key.var.selected,
    library_key: str | None = None,
    spatial_key: str = Key.obsm.spatial,
    use_rep: str,
    n_rings: int = 3,
    n_neighbors: int | None = None,
    key_added: str = "sme",
    n_jobs: int | None = None,
    random_state: int = 0,
    copy: bool = False,
) -> AnnData | None:
    r"""Fill undetected entries with a mean over nearby spots of like morphology and expression, zeros counted.

    The method of stLearn, on any embedding of the spots. As undetected neighbours count as zero, the values are low.

    Parameters
    ----------
    {data}
    use_rep
        Name in `obsm` of an embedding of the spots, such as of their images.
    n_rings
        Size of the neighbourhood, in hops.
    n_neighbors
        Number of neighbours that the mean is taken over, those of largest weight. stLearn takes 3.
        {tuned}
    {run}

    Returns
    -------
    {returns}

    Raises
    ------
    {raises}
    ValueError
        If the embedding holds values that are not finite.

    Warns
    -----
    {warns}

    Notes
    -----
    :math:`\hat x_{sg} = \sum_t w_{st} x_{tg} / \sum_t w_{st}` over the `n_neighbors` spots of largest weight within
    `n_rings` hops, where :math:`w_{st}` is the cosine between the embeddings of the spots times the correlation
    between their expression, both zero where negative. Source: Pham et al. (2023), stLearn. There, expression is
    compared by principal components, and the spot itself is among its neighbours.

    Examples
    --------
    {example}
    """
    return _complete("sme", **locals())


@_documented("magic", skip=True)
def magic_complete(
    adata: AnnData,
    *,
    layer: str = Key.layers.log2tpm,
    mask_var: str | None = Key.var.selected,
    library_key: str | None = None,
    spatial_key: str = Key.obsm.spatial,
    knn: int = 5,
    t: int | None = None,
    key_added: str = "magic",
    n_jobs: int | None = None,
    random_state: int = 0,
    copy: bool = False,
) -> AnnData | None:
    """Fill undetected entries by MAGIC: diffusion over a graph of spots of like expression.

    Uses the package `magic-impute`, an optional part: `pip install "spared-sc[impute]"`. Places play no role.

    Parameters
    ----------
    {data}
    knn
        Number of nearest spots that set the width of the kernel.
    t
        Number of diffusion steps. MAGIC's own default is 3.
        {tuned}
    {run}

    Returns
    -------
    {returns}

    Raises
    ------
    {raises}
    ValueError
        If there are no raw counts.
    ImportError
        If `magic-impute` is not installed.

    Warns
    -----
    {warns}

    Notes
    -----
    Counts of the genes to complete are scaled to the median depth and their square roots diffused, as its authors
    advise. The result is brought to the unit of the layer by a straight line for each gene, fitted to the detected
    entries. Source: van Dijk et al. (2018).

    Examples
    --------
    {example}
    """
    return _complete("magic", **locals())


@_documented("alra", zeros=True)
def alra_complete(
    adata: AnnData,
    *,
    layer: str = Key.layers.log2tpm,
    mask_var: str | None = Key.var.selected,
    library_key: str | None = None,
    spatial_key: str = Key.obsm.spatial,
    rank: int | None = None,
    key_added: str = "alra",
    n_jobs: int | None = None,
    random_state: int = 0,
    copy: bool = False,
) -> AnnData | None:
    """Fill undetected entries by ALRA: a matrix of low rank that keeps true zeros.

    Undetected entries of the layer, which is to hold normalised log counts, are taken for zeros. Places play no role.

    Parameters
    ----------
    {data}
    rank
        Rank of the matrix. `None` takes the last singular value before a gap that stands out by six standard
        deviations from the gaps of the last fifth.
    {run}

    Returns
    -------
    {returns}

    Raises
    ------
    {raises}

    Warns
    -----
    {warns}

    Notes
    -----
    The matrix comes from a randomised singular value decomposition. For each gene, entries that are no larger than
    the magnitude of its most negative one become zero, and the others are brought to the mean and the standard
    deviation of the detected values. Source: Linderman et al. (2022).

    Examples
    --------
    {example}
    """
    return _complete("alra", **locals())
