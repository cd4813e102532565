"""Scores of completion on measurements that were hidden before any step saw them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from spared_sc._core import docs, validate
from spared_sc._core.compute import Compute, make_compute
from spared_sc._core.keys import Key
from spared_sc._core.lineage import check_rep
from spared_sc._core.report import warn
from spared_sc._core.sdata import accepts_spatialdata
from spared_sc._kernels.masking import REGIMES, THINNINGS
from spared_sc._kernels.metrics import CONTROLS, FLOORS
from spared_sc._models.completion.base import Completer
from spared_sc._models.completion.registry import COMPLETERS
from spared_sc._models.device import check_device
from spared_sc.tl._resolve import resolve, warn_of_no_floor
from spared_sc.tl._visible import UserFunction, VisibleData, complete_by_user

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from spared_sc._kernels.hidden_entries import Mask, MethodScore, Truth
    from spared_sc._kernels.sections import CompletionFunction

Method: TypeAlias = Completer | UserFunction
COLUMNS = ("regime", "share", "mask", "method", "library", "subject", "genes", "metric", "value", "n", "flag")
BELOW_FLOOR = "below floor"
_FLOOR_STREAM = 5  # of random numbers, beside those of the masks
_ALL = "all"  # in place of a library and its subject


@accepts_spatialdata
@docs.fill()
def evaluate_completion(
    adata: AnnData,
    *,
    methods: str | Method | Iterable[str | Method] | Mapping[str, str | Method] | None = None,
    regimes: str | Sequence[str] = ("detected", "released"),
    shares: Sequence[float] | None = None,
    n_masks: int = 10,
    layer: str = Key.layers.log2tpm,
    mask_var: str | None = Key.var.selected,
    library_key: str | None = None,
    subject_key: str | None = None,
    spatial_key: str = Key.obsm.spatial,
    use_rep: str | None = None,
    allow_unrecorded_rep: bool = False,
    device: str | None = None,
    batch_size: int | None = None,
    n_jobs: int | None = None,
    random_state: int = 0,
    show_progress_bar: bool | None = None,
) -> pd.DataFrame:
    """Hide measurements, complete the rest with several methods, and compare with what was hidden.

    Entries are hidden first: everything that a method sees, totals of spots included, is computed from what is left. All
    methods get the same masks, which do not depend on the order of the spots.

    Parameters
    ----------
    {adata}
    methods
        Names of completion methods, `Completer` objects, functions of your own, or all of these in a list; or a mapping
        of names to functions or objects. The default is every simple method that needs the expression only, and
        `"counts"`. A function gets a new AnnData without the hidden entries in any slot: counts in `X`, the layer, the
        layer of detections, the places on the array, the libraries, `obsm[spatial_key]` and `obsm[use_rep]`, and the
        genes to complete as the column `mask_var` (or `"spared_selected"`) of `var`. It returns the completed values as
        an array, spots x genes to complete or spots x all genes, or the name of a layer that it wrote. A layer of that
        name with the suffix `_sd` is read as the standard deviations.
    regimes
        What to hide, see Notes: any of `"detected"`, `"released"`, `"spots"`, `"blocks"`, `"thinning"` and
        `"thinning_90"`.
    shares
        Shares of the detected entries to hide in the regime `"detected"`, one after the other; 0.3 by default.
    n_masks
        Number of random masks in every regime.
    layer
        Layer to complete.
    {mask_var}
    {library_key}
    {subject_key}
    {spatial_key}
    {use_rep}
    {allow_unrecorded_rep}
    {device}
    {batch_size}
    {n_jobs}
    {random_state}
    {show_progress_bar}

    Returns
    -------
    A table with one value per row and the columns

    - `regime`, `share` (hidden), `mask` (0, 1, ...), `method`
    - `library` and `subject`; `"all"` where libraries are taken together
    - `genes`: `"all"`, or a third of the genes by the share of spots that detected them (`"sparse"`, `"medium"`,
      `"dense"`)
    - `metric`, `value`, and `n`: entries behind the value (genes for `moran_change` and `moran_error`, pairs for
      `correlation_error`)
    - `flag`: `"below floor"` if the squared error of a method is below the lower noise floor, over all libraries and by
      more than two standard errors; else empty

    The rows of the methods `floor_low` and `floor_high` hold the noise floor of the squared error as a range, those of
    `no_denoising` and `perfect_denoising` the controls of `mse_log` and `poisson_loss`.

    Raises
    ------
    KeyError
        If a named layer or column does not exist, or a method or regime is unknown.
    ValueError
        If a parameter is out of range, the embedding may hold hidden entries, a regime hides nothing or needs raw counts that are missing, or a method returns
        an array of another shape, values that are not finite, or changed values of visible entries.
    TypeError
        If a method is neither a name nor a `Completer` nor a function.

    Warns
    -----
    UserWarning
        If the squared error of a method is below the lower noise floor (it has probably seen what was hidden), if
        the floor cannot be computed, or if the evaluation was interrupted: the table then holds the complete masks.

    Notes
    -----
    Regimes: `detected` hides every detected entry with the same probability. `released` hides a detected entry with
    probability min(0.3 / f, 0.9), where f is the share of spots that detected the gene; this amounts to 30 % of all
    entries, as in the code released with the paper. `spots` hides all detected entries of a random tenth of the spots of
    every library, `blocks` those of contiguous blocks of up to two hops around a spot. `thinning` splits the molecules
    into two halves (molecular cross-validation, Batson et al. 2019): methods see one half, and their expected counts are
    scored on the other, zeros included. `thinning_90` shows nine tenths of the molecules and scores on the last, as the
    denoising task of Open Problems does. Methods without expected counts, functions among them, have no rows there. A layer of log2(1 + scaled count) is normalised again by what is left of every spot, so that its scale does not reveal
    how much is hidden; scores are on that scale. Where all genes to complete are hidden, no visible value has a scale,
    and the hidden values stay as they are.

    Metrics on hidden entries, per library:

    - `mse`, `mae`; `r2`: 1 - mse / mse of the gene's mean of visible entries
    - `pcc`: correlation per gene, averaged over genes with at least ten hidden entries that are not constant;
      `pcc_pooled`: over all libraries together, as in the paper
    - `moran_change`: Moran's I of the values with the hidden ones filled in, minus that of the true values, on the graph
      of detected entries; mean over genes
    - `correlation_error`: mean absolute difference between the correlations of pairs of genes over the spots that
      detected both, with the hidden values filled in and with the true ones (of more than 500 genes, 500 are taken,
      evenly over the shares of detection)
    - for methods with a standard deviation: `crps` of the Gaussian forecast (Gneiting and Raftery 2007);
      `crps_constant`, the same with the constant width that fits best, the root of the mean squared error on these very
      entries; `coverage_90` of the 90 % interval, and per decile of the prediction `coverage_90_d1` to
      `coverage_90_d10`

    Metrics in `thinning` and `thinning_90`:

    - `deviance`, the mean Poisson deviance; over all libraries together `calibration_d1` to `calibration_d10`, held-out
      counts divided by expected ones per decile of the expected ones
    - `pcc_depth`: correlation per gene of log2(CPM + 1) of expected and of held-out counts, zeros included, given log
      depth and its square; mean over genes, zero for an estimate that the depth explains
    - `moran_error`, `correlation_error`: mean absolute error of Moran's I and of the correlations of pairs of genes, of
      expected counts divided by depth. What they are compared with comes from products of visible and held-out counts
      (divided by depth), which noise does not bias: one around each spot of the other, and one gene's with the other's,
      divided by the covariances of the two parts. Only genes whose parts correlate by at least 0.1 and three standard
      errors. An estimate that is too smooth has too high a Moran's I and too strong correlations.
    - `mse_log`, `poisson_loss`: the scores of Open Problems, squared error of log(1 + count) after scaling to a depth of
      10,000, and rate - count log(rate + 1e-6)

    The rows of `no_denoising` and `perfect_denoising` hold these two for the visible counts as they are, and for the
    held-out counts themselves.

    The noise floor is the mean sampling variance of the hidden entries at two estimates of their rates, from a thinned
    half of the counts and from a zero-truncated Poisson. It requires a layer of log2(1 + scaled count).

    Examples
    --------
    >>> import numpy as np
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=2, shape=(8, 8), depth=300, image=False)
    >>> sp.pp.recipe_spared(adata, library_key="library_id", n_genes=16)
    >>> def typical(visible):
    ...     "Fill with the mean of all visible values."
    ...     values = visible[:, visible.var["spared_selected"]].layers["log2tpm"].toarray()
    ...     return np.where(values > 0, values, values[values > 0].mean())
    >>> scores = sp.tl.evaluate_completion(
    ...     adata, methods=["gene_mean", typical], regimes="detected", n_masks=2, library_key="library_id"
    ... )
    >>> mse = scores[(scores["metric"] == "mse") & (scores["genes"] == "all")]
    >>> mse.groupby("method")["value"].mean().sort_values().index.tolist()
    ['floor_low', 'floor_high', 'gene_mean', 'typical']
    """
    from spared_sc._kernels.hidden_entries import Truth, list_masks

    chosen = _methods(methods)
    regimes, shares = _regimes(regimes, shares)
    validate.check_number("n_masks", n_masks, 1, whole=True)
    compute = check_device(
        make_compute(
            random_state=random_state,
            device=device,
            batch_size=batch_size,
            n_jobs=n_jobs,
            show_progress_bar=show_progress_bar,
        )
    )
    check_rep(adata, use_rep, allow_unrecorded=allow_unrecorded_rep)
    resolved = resolve(
        adata, layer=layer, mask_var=mask_var, library_key=library_key, spatial_key=spatial_key, use_rep=use_rep
    )
    subjects = validate.get_subjects(adata, subject_key, resolved.libraries)
    truth = Truth(resolved.sections, np.random.default_rng([random_state, _FLOOR_STREAM]))
    thinned = [regime for regime in regimes if regime in THINNINGS]
    if thinned and not truth.follows_counts:
        raise ValueError(
            f"the regime {thinned[0]!r} needs raw counts, and a layer that is log2(1 + scaled count), unlike {layer!r} "
            "here: pass a layer from `sp.pp.normalize_tpm(adata)`, or leave the regime out."
        )
    if not truth.follows_counts:
        warn_of_no_floor(layer)
    data = VisibleData(adata, resolved, layer=layer, mask_var=mask_var, obsm=(spatial_key, use_rep))
    scores = _evaluate(truth, list_masks(regimes, shares, n_masks), chosen, data, compute)
    return _table(scores, resolved.libraries.names, subjects)


def _evaluate(
    truth: Truth, masks: Sequence[Mask], methods: dict[str, Method], data: VisibleData, compute: Compute
) -> list[MethodScore]:
    """Scores of all methods on all masks, or on the finished ones after an interrupt."""
    from spared_sc._kernels.hidden_entries import evaluate

    # One bar is enough: the methods' own would flicker below it.
    quiet = compute.without_bar()

    def completion_function(method: Method) -> CompletionFunction:
        if isinstance(method, Completer):
            return method.as_function(quiet)
        return lambda visible: complete_by_user(method, data, visible)

    functions = {name: completion_function(method) for name, method in methods.items()}
    rateless = [name for name, method in methods.items() if not isinstance(method, Completer)]
    scores: list[MethodScore] = []
    with compute.bar(len(masks) * len(methods), "evaluating", "fit") as bar:
        fits = evaluate(truth, masks, functions, without_rate=rateless, seed=compute.seed, on_fit=bar.update)
        try:
            for of_mask in fits:
                scores += of_mask
        except KeyboardInterrupt:
            if not scores:
                raise
            warn("the evaluation was interrupted: the table holds the finished masks.")
    return scores


def _table(scores: Sequence[MethodScore], libraries: Sequence[str], subjects: Sequence[str]) -> pd.DataFrame:
    """One row per score, with a warning for each method that is likely to have seen what was hidden."""
    import pandas as pd

    from spared_sc._kernels.hidden_entries import TOGETHER

    units = dict(enumerate(zip(libraries, subjects, strict=True))) | {TOGETHER: (_ALL, _ALL)}
    rows = []
    for scored in scores:
        mask, (code, genes, metric, value, n) = scored.mask, scored.score
        flag = BELOW_FLOOR if scored.below_floor else ""
        rows.append((mask.regime, mask.share, mask.number, scored.method, *units[code], genes, metric, value, n, flag))
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    for method, flagged in table[table["flag"] == BELOW_FLOOR].groupby("method", sort=False):
        warn(
            f"the squared error of {method!r} is below what the sampling noise allows (regime "
            f"{flagged['regime'].iloc[0]!r}, mask {flagged['mask'].iloc[0]}): it is likely to have seen hidden values.",
        )
    return table


def _methods(methods: Any) -> dict[str, Method]:
    """Every method by its name: a function of the user, or a completer."""
    if methods is None:
        methods = [name for name in COMPLETERS if COMPLETERS[name].by_default]
    if isinstance(methods, str | Completer) or callable(methods):
        methods = [methods]
    pairs = methods.items() if isinstance(methods, Mapping) else [(_name(method), method) for method in methods]
    chosen: dict[str, Method] = {}
    for name, method in pairs:
        if name in chosen or name in (*FLOORS, *CONTROLS) or (isinstance(method, str) and name != method):
            raise ValueError(f"a method cannot be called {name!r} here: give every function a name of its own.")
        if isinstance(method, str):
            method = COMPLETERS.make(method, {})
        if not isinstance(method, Completer) and not callable(method):
            raise TypeError(
                f"the method {name!r} is a {type(method).__name__}: give a name, a Completer or a function."
            )
        if getattr(method, "fitted", False):
            raise ValueError(f"the method {name!r} is fitted and may have seen hidden entries: pass it unfitted.")
        chosen[name] = method
    if not chosen:
        raise ValueError("there is no method to evaluate: give at least one.")
    return chosen


def _name(method: Any) -> str:
    name = method if isinstance(method, str) else getattr(method, "name", None) or getattr(method, "__name__", None)
    if name is None:
        raise TypeError(
            f"a {type(method).__name__} among the methods has no name: pass names and functions as a mapping."
        )
    return name


def _regimes(regimes: str | Sequence[str], shares: Sequence[float] | None) -> tuple[list[str], list[float]]:
    """Regimes, and the shares of the regime `"detected"`, checked."""
    regimes = [regimes] if isinstance(regimes, str) else list(dict.fromkeys(regimes))
    unknown = [regime for regime in regimes if regime not in REGIMES]
    if unknown or not regimes:
        raise KeyError(f"there is no regime {validate.listing(unknown)}: choose among {validate.listing(REGIMES)}.")
    if shares is not None and "detected" not in regimes:
        raise ValueError(
            "`shares` are those of the regime 'detected', which is not among the regimes: leave `shares` out, or add the regime."
        )
    shares = [REGIMES["detected"]] if shares is None else list(dict.fromkeys(float(share) for share in shares))
    if not shares or not all(0 < share < 1 for share in shares):
        raise ValueError(f"shares={shares} cannot be used: give numbers between 0 and 1.")
    return regimes, shares
