"""Scores of completion on measurements that were hidden before any step saw them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from spared_sc._core import validate
from spared_sc._core.keys import Key
from spared_sc._core.record import write_columns
from spared_sc._core.report import progress_bar, warn
from spared_sc._kernels.sections import Estimate

from ._completers import complete, make_run, names
from ._sections import rescaled_rows, resolve, warn_of_no_floor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import pandas as pd
    from anndata import AnnData

    from spared_sc._kernels.hidden_entries import Hidden, Score, Thinned, Truth
    from spared_sc._kernels.sections import Sections

    from ._sections import Resolved

COLUMNS = ("regime", "share", "mask", "method", "library", "subject", "genes", "metric", "value", "n", "flag")
BELOW_FLOOR = "below floor"
_NOT_BY_DEFAULT = ("sme", "magic", "alra")  # need an embedding or another library
_CHANGED = 1e-4  # relative change of a visible value that counts as one
_TOGETHER = "all"  # in place of a library and its subject


def evaluate_completion(
    adata: AnnData,
    *,
    methods: str | Iterable[str | Callable[[AnnData], Any]] | Mapping[str, Callable[[AnnData], Any]] | None = None,
    regimes: str | Sequence[str] = ("paper", "released"),
    shares: Sequence[float] | None = None,
    n_masks: int = 10,
    layer: str = Key.layers.log2tpm,
    mask_var: str | None = Key.var.selected,
    library_key: str | None = None,
    subject_key: str | None = None,
    spatial_key: str = Key.obsm.spatial,
    use_rep: str | None = None,
    device: str | None = None,
    batch_size: int | None = None,
    n_jobs: int | None = None,
    random_state: int = 0,
    show_progress_bar: bool | None = None,
) -> pd.DataFrame:
    """Hide measurements, complete the rest with several methods, and compare with what was hidden.

    Entries are hidden first: everything that a method sees, sums over spots included, is made from what is left. All
    methods get the same masks. They do not depend on the order of the spots.

    Parameters
    ----------
    adata
        Spots x genes.
    methods
        Names of completers, functions of your own, or both in a list; or a mapping of names to functions. By default
        all baselines that need nothing but the expression, and `"residual"`. A function gets a new AnnData without the
        hidden entries in any slot: counts in `X`, the layer, the layer of detections, the places on the array, the
        libraries, `obsm[spatial_key]` and `obsm[use_rep]`, and the genes to complete as the column `mask_var` (or
        `"spared_selected"`) of `var`. It returns the completed values as an array, spots x genes to complete or
        spots x all genes, or the name of a layer that it wrote. A layer of that name with `_sd` at the end is taken
        for the standard deviations.
    regimes
        What to hide, see Notes: any of `"paper"`, `"released"`, `"spots"`, `"blocks"` and `"thinning"`.
    shares
        Shares of the detected entries to hide in the regime `"paper"`, one after the other; 0.3 by default.
    n_masks
        Random masks in every regime.
    layer
        Layer to complete.
    mask_var
        Boolean column of `var`: the genes to complete. `"spared_selected"` is used when present, all genes otherwise.
    library_key
        Column of `obs` that names the library of each spot; needed with several libraries.
    subject_key
        Column of `obs` that names the donor of each library. Without it every library counts as a donor of its own.
    spatial_key
        Name in `obsm` of the positions that stand in where there are no array coordinates.
    use_rep
        Name in `obsm` of an embedding of the spots, such as of the image, for methods that use one.
    device, batch_size
        Of the networks. `None` asks `sp.settings`.
    n_jobs
        Threads. `None` asks `sp.settings`.
    random_state
        Seed of masks and methods. The same seed gives the same table.
    show_progress_bar
        Progress over regimes, masks and methods. `None` asks `sp.settings`.

    Returns
    -------
    A table with one value per row and the columns

    - `regime`, `share` (hidden), `mask` (0, 1, ...), `method`
    - `library` and `subject`; `"all"` where libraries are taken together
    - `genes`: `"all"`, or a third of the genes by the share of spots that detected them (`"sparse"`, `"medium"`,
      `"dense"`)
    - `metric`, `value`, and `n`: entries behind the value (genes for `moran_change`, pairs for `correlation_error`)
    - `flag`: `"below floor"` where a method is better than the sampling noise allows, else empty

    The rows of the methods `floor_low` and `floor_high` hold the noise floor of the squared error as a range.

    Raises
    ------
    KeyError
        If a named layer or column does not exist, or a method or regime is unknown.
    ValueError
        If a parameter is out of range, a regime hides nothing or needs raw counts that are not there, or a method
        returns an array of another shape, values that are not finite, or changed values of visible entries.
    TypeError
        If a method is neither a name nor a function.

    Warns
    -----
    UserWarning
        If the squared error of a method is below half of the lower noise floor (it is likely to have seen what was
        hidden), if the floor cannot be computed, or if the evaluation was interrupted: the table holds the complete
        masks then.

    Notes
    -----
    Regimes: `paper` hides every detected entry with the same chance; `released` hides a detected entry with chance
    min(0.3 / f, 0.9), where f is the share of spots that detected the gene, which makes 30 % of all entries, as the
    code released with the paper does; `spots` hides all detected entries of a random tenth of the spots of every
    library; `blocks` hides those of contiguous patches of up to two hops around a spot; `thinning` splits the
    molecules into two halves (molecular cross-validation, Batson et al. 2019): methods see one, and their expected
    counts are scored on the other, zeros included. Methods without expected counts have no rows there, and so have
    functions. A layer that is log2(1 + scaled count) is normalised anew by what is left of every spot, so that its scale
    does not tell how much is hidden; scores are on that scale.

    Metrics on hidden entries, per library:

    - `mse`, `mae`; `r2`: 1 - mse / mse of the gene's mean of visible entries
    - `pcc`: correlation per gene, averaged over genes with at least ten hidden entries that are not constant;
      `pcc_pooled`: over all libraries together, as in the paper
    - `moran_change`: mean over genes of Moran's I, on the graph of detected entries, of the values with the hidden ones
      filled in, minus that of the true ones
    - `correlation_error`: mean absolute difference between the correlations of pairs of genes over the spots that
      detected both, with the hidden values filled in and with the true ones (of more than 500 genes, 500 are taken,
      evenly over the shares of detection)
    - for methods with a standard deviation: `crps` of the Gaussian forecast (Gneiting and Raftery 2007);
      `crps_constant`, the same with the constant width that fits best, which is the root of the mean squared error on
      these very entries; `coverage_90` of the interval of 90 %, and per decile of the prediction
      `coverage_90_d1` to `coverage_90_d10`

    In `thinning`: `deviance`, the mean Poisson deviance, and over all libraries together `calibration_d1` to
    `calibration_d10`, held-out counts divided by expected ones per decile of the expected ones.

    The noise floor is the mean sampling variance of the hidden entries at two estimates of their rates, from a thinned
    half of the counts and from a zero-truncated Poisson; the layer must be log2(1 + scaled count) for it.

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
    ...     adata, methods=["gene_mean", typical], regimes="paper", n_masks=2, library_key="library_id"
    ... )
    >>> mse = scores[(scores["metric"] == "mse") & (scores["genes"] == "all")]
    >>> mse.groupby("method")["value"].mean().sort_values().index.tolist()
    ['floor_low', 'floor_high', 'gene_mean', 'typical']
    """
    import pandas as pd

    from spared_sc._kernels.hidden_entries import REGIMES, TOGETHER, Truth

    chosen = _methods(methods)
    plan = _plan(regimes, shares, n_masks)
    # One bar is enough: the methods' own would flicker below it.
    run = make_run(random_state, device=device, batch_size=batch_size, n_jobs=n_jobs, show_progress_bar=False)
    resolved = resolve(
        adata, layer=layer, mask_var=mask_var, library_key=library_key, spatial_key=spatial_key, use_rep=use_rep
    )
    libraries = {**dict(enumerate(resolved.libraries.names)), TOGETHER: _TOGETHER}
    subjects = {**dict(enumerate(validate.get_subjects(adata, subject_key, resolved.libraries))), TOGETHER: _TOGETHER}
    truth = Truth(resolved.sections, np.random.default_rng([random_state, len(REGIMES)]))
    _check_counts(truth, layer, thinning=any(regime == "thinning" for regime, _, _ in plan))
    clean = _Clean(adata, resolved, layer, mask_var or Key.var.selected, library_key, spatial_key, use_rep)

    def estimate(name: str, visible: Sections) -> Estimate:
        function = chosen[name]
        return complete(name, visible, run) if function is None else clean.run(function, visible)

    rows: list[tuple] = []
    without_rate = {name for name, function in chosen.items() if function is not None}
    with progress_bar(total=len(plan) * len(chosen), desc="evaluating", show=show_progress_bar, unit="fit") as bar:
        try:
            for regime, share, mask in plan:
                seed = [random_state, list(REGIMES).index(regime), round(1000 * share), mask]
                task = truth.hide(regime, share, np.random.default_rng(seed))
                scored = _score(task, regime, list(chosen), estimate, without_rate, bar.update)
                rows += [
                    (regime, share, mask, method, libraries[s.library], subjects[s.library], *s[1:], flag)
                    for method, s, flag in scored
                ]
        except KeyboardInterrupt:
            if not rows:
                raise
            warn("the evaluation was interrupted: the table holds the finished masks.")
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    for method, found in table[table["flag"] == BELOW_FLOOR].groupby("method", sort=False):
        warn(
            f"the squared error of {method!r} is below what the sampling noise allows (regime "
            f"{found['regime'].iloc[0]!r}, mask {found['mask'].iloc[0]}): it is likely to have seen hidden values.",
        )
    return table


def _methods(methods: Any) -> dict[str, Callable[[AnnData], Any] | None]:
    """Every method by its name: a function, or `None` for one of the package."""
    from spared_sc._kernels.baselines import BASELINES
    from spared_sc._kernels.metrics import FLOORS

    known = names()
    if methods is None:
        methods = [*(name for name in BASELINES if name not in _NOT_BY_DEFAULT), "residual"]
    if isinstance(methods, str) or callable(methods):
        methods = [methods]
    pairs = methods.items() if isinstance(methods, Mapping) else [(_name(method), method) for method in methods]
    chosen: dict[str, Callable[[AnnData], Any] | None] = {}
    for name, method in pairs:
        if not isinstance(method, str) and not callable(method):
            raise TypeError(f"the method {name!r} is a {type(method).__name__}: give a name or a function.")
        if isinstance(method, str) and method not in known:
            raise KeyError(f"there is no method {method!r}: choose among {validate.listing(known, len(known))}.")
        if name in chosen or name in FLOORS or (isinstance(method, str) and name != method):
            raise ValueError(f"a method cannot be called {name!r} here: give every function a name of its own.")
        chosen[name] = None if isinstance(method, str) else method
    if not chosen:
        raise ValueError("there is no method to evaluate: give at least one.")
    return chosen


def _name(method: Any) -> str:
    if isinstance(method, str):
        return method
    name = getattr(method, "__name__", None)
    if name is None:
        raise TypeError(
            f"a {type(method).__name__} among the methods has no name: pass names and functions as a mapping."
        )
    return name


def _plan(regimes: str | Sequence[str], shares: Sequence[float] | None, n_masks: int) -> list[tuple[str, float, int]]:
    """Regime, hidden share and number of every mask."""
    from spared_sc._kernels.hidden_entries import REGIMES

    validate.check_number("n_masks", n_masks, 1, whole=True)
    regimes = [regimes] if isinstance(regimes, str) else list(dict.fromkeys(regimes))
    unknown = [regime for regime in regimes if regime not in REGIMES]
    if unknown or not regimes:
        raise KeyError(f"there is no regime {validate.listing(unknown)}: choose among {validate.listing(REGIMES)}.")
    if shares is not None and "paper" not in regimes:
        raise ValueError("`shares` are those of the regime 'paper', which is not among the regimes.")
    shares = [REGIMES["paper"]] if shares is None else list(dict.fromkeys(float(share) for share in shares))
    if not shares or not all(0 < share < 1 for share in shares):
        raise ValueError(f"shares={shares} cannot be used: give numbers between 0 and 1.")
    pairs = [(r, share) for r in regimes for share in (shares if r == "paper" else [REGIMES[r]])]
    return [(regime, share, mask) for regime, share in pairs for mask in range(n_masks)]


def _check_counts(truth: Truth, layer: str, *, thinning: bool) -> None:
    """Say what cannot be computed without counts, or from a layer that is another function of them."""
    if truth.follows_counts:
        return
    if thinning:
        raise ValueError(
            f"the regime 'thinning' needs raw counts, and a layer that is log2(1 + scaled count), unlike {layer!r} "
            "here: pass a layer from `sp.pp.normalize_tpm(adata)`, or leave the regime out."
        )
    warn_of_no_floor(layer)


def _score(
    task: Hidden | Thinned,
    regime: str,
    methods: Sequence[str],
    estimate: Callable[[str, Sections], Estimate],
    without_rate: set[str],
    on_method: Callable[[], Any],
) -> list[tuple[str, Score, str]]:
    """Method, score and flag of everything on one mask; methods found to have no rates are noted."""
    rows = [(name, score, "") for name, score in task.floors()]
    for name in methods:
        if regime != "thinning" or name not in without_rate:
            try:
                found = estimate(name, task.visible)
                task.check(found)
            except ValueError as error:
                raise ValueError(f"method {name!r}, regime {regime!r}: {error}") from error
            if found.rate is None:
                without_rate.add(name)
            flag = BELOW_FLOOR if task.is_below_floor(found) else ""
            rows += [(name, score, flag) for score in task.scores(found)]
        on_method()
    return rows


class _Clean:
    """Runs functions of the user on an AnnData that holds nothing of the hidden entries."""

    def __init__(
        self,
        adata: AnnData,
        resolved: Resolved,
        layer: str,
        mask_var: str,
        library_key: str | None,
        spatial_key: str,
        use_rep: str | None,
    ):
        order = resolved.order
        self.sections = resolved.sections
        self.genes, self.layer, self.mask_var = resolved.genes, layer, mask_var
        self.values = resolved.values[order]
        self.counts = None if resolved.counts is None else resolved.counts[order]
        self.detected = validate.get_detected(adata)[order].astype(np.float32)
        columns = [Key.obs.array_row, Key.obs.array_col, library_key]
        self.obs = adata.obs[[column for column in columns if column in adata.obs]].iloc[order]
        self.var_names = adata.var_names
        self.obsm = {name: np.asarray(adata.obsm[name])[order] for name in (spatial_key, use_rep) if name in adata.obsm}

    def adata(self, visible: Sections) -> AnnData:
        """A new AnnData, spots in the order of the sections."""
        import pandas as pd
        from anndata import AnnData

        selected = np.isin(np.arange(self.var_names.size), self.genes)
        detected = write_columns(self.detected, self.genes, visible.known.astype(np.float32))
        factor = self.sections.rescaling(self.sections.known & ~visible.known)
        values = self.values if factor is None else rescaled_rows(self.values, factor)
        return AnnData(
            X=None if self.counts is None else write_columns(self.counts, self.genes, visible.need_counts().values),
            obs=self.obs.copy(),
            var=pd.DataFrame({self.mask_var: selected}, index=self.var_names),
            obsm={name: position.copy() for name, position in self.obsm.items()},
            layers={
                self.layer: write_columns(values, self.genes, visible.values),
                Key.layers.detected: detected.astype(bool),
            },
        )

    def run(self, function: Callable[[AnnData], Any], visible: Sections) -> Estimate:
        """What a function says of the hidden entries, once it left the visible ones alone."""
        adata = self.adata(visible)
        result, sd = function(adata), None
        if isinstance(result, str):
            if result not in adata.layers:
                raise ValueError(f"it returned {result!r}, and wrote no layer of that name")
            sd = adata.layers.get(Key.sd(result))
            result = adata.layers[result]
        values = self._block(result, visible)
        known = visible.known
        changed = ~(np.abs(values - visible.values) <= _CHANGED * np.abs(visible.values) + 1e-6)[known]
        if changed.any():
            raise ValueError(f"it changed {int(changed.sum())} values of visible entries, which must stay as they are")
        return Estimate(values, sd=None if sd is None else self._block(sd, visible))

    def _block(self, result: Any, visible: Sections) -> np.ndarray:
        """A result as an array, spots x genes to complete."""
        array = validate.dense(result)
        if array.dtype.kind not in "buif":
            raise ValueError(f"it returned a {type(result).__name__}, which is no array of numbers")
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
            array = array.astype(np.float32)
        if array.shape == (len(visible.known), self.var_names.size):
            return array[:, self.genes]
        if array.shape != visible.known.shape:
            raise ValueError(
                f"it returned the shape {array.shape}, where {visible.known.shape} (spots x genes to complete) or "
                f"{(len(visible.known), self.var_names.size)} (spots x genes) is due"
            )
        return array
