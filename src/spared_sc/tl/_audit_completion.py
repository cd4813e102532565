"""Whether completion is to be trusted on these very sections, gene by gene."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from spared_sc._core import validate
from spared_sc._core.keys import Key
from spared_sc._core.record import check_key, record
from spared_sc._core.report import logger, progress_bar
from spared_sc.tl._completers import complete, make_run, names
from spared_sc.tl._sections import resolve

if TYPE_CHECKING:
    from anndata import AnnData

    from spared_sc._kernels.sections import Estimate, Sections
    from spared_sc.tl._completers import Run

COMPLETE, AS_IS, DROP, NOT_AUDITED = "complete", "use as is", "drop", "not audited"
_HIDDEN_SHARE = 0.3  # of the detected entries
_LEAST_HIDDEN = 30  # entries of a gene, over all masks, for a verdict
_LEAST_MISSING = 0.01  # share of undetected spots below which there is nothing to complete
_LEAST_SKILL = 0.05  # of all genes together; less may come from better averages alone
_FALSE_DISCOVERIES = 0.05
_N_BOOTSTRAP = 1000
_METRICS = ("mse", "mse_depth_only", "mse_additive", "mse_gene_mean", "floor")
_COLUMNS = (*_METRICS, "skill", "skill_low", "skill_high", "rate_skill", "missing", "reliability")


def audit_completion(
    adata: AnnData,
    *,
    method: str = "residual",
    layer: str = Key.layers.log2tpm,
    mask_var: str | None = Key.var.selected,
    library_key: str | None = None,
    spatial_key: str = Key.obsm.spatial,
    n_masks: int = 3,
    key_added: str = "audit",
    device: str | None = None,
    batch_size: int | None = None,
    n_jobs: int | None = None,
    random_state: int = 0,
    show_progress_bar: bool | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Find out on your own sections for which genes completion is to be trusted.

    Detected entries are hidden, everything that is left is completed, and the hidden entries are compared with what was
    filled in. The same is done with two simple averages: depth alone, and additive effects of gene, spot and section. A
    gene is worth completing if the method beats the better of the two. Besides, the molecules are split into two halves
    (molecular cross-validation): what the halves have in common is signal, and expected counts from one half are
    compared with the other.

    Parameters
    ----------
    adata
        Spots x genes, with raw counts.
    method
        The completer to audit: `"residual"`, `"paper"` or a baseline, such as `"soft_impute_kernel"`.
    layer
        Layer to complete.
    mask_var
        Boolean column of `var`: the genes to audit. `"spared_selected"` is used when present, all genes otherwise.
    library_key
        Column of `obs` that names the library of each spot; needed with several libraries.
    spatial_key
        Name in `obsm` of the positions that stand in where there are no array coordinates.
    n_masks
        How often entries are hidden, 30 % of the detected ones each time. The method is run once more for the halves.
    key_added
        Beginning of the names of the new columns, and name of the record.
    device, batch_size
        Of models. `None` asks `sp.settings`.
    n_jobs
        Threads. `None` asks `sp.settings`.
    random_state
        Seed of masks, halves and the method.
    show_progress_bar
        Progress over the runs of the method. `None` asks `sp.settings`.
    copy
        Return a changed copy instead of changing `adata`.

    Returns
    -------
    `None`, or the changed copy with `copy=True`. Slots written; numbers are NaN for genes that were not audited:

    `var["audit_verdict"]`
        `"complete"`: filled values are nearer to the truth than simple averages. `"use as is"`: they are not, or hardly
        anything is missing, but the counts carry signal. `"drop"`: neither; the counts of the gene are noise at this
        depth. `"not audited"`: outside of the mask, or too few detected entries.
    `var["audit_mse"]`, `var["audit_mse_depth_only"]`, `var["audit_mse_additive"]`, `var["audit_mse_gene_mean"]`
        Mean squared error on hidden entries, in squared units of the layer.
    `var["audit_floor"]`
        The error that counting noise alone makes, estimated from the halves.
    `var["audit_skill"]`, `var["audit_skill_low"]`, `var["audit_skill_high"]`
        1 - error / error of the better of depth and additive effects, and its 95 % interval, by bootstrap of patches of
        neighbouring spots.
    `var["audit_rate_skill"]`
        The same for expected counts, by Poisson deviance on the other half of the molecules, beside depth alone. NaN
        for methods without expected counts.
    `var["audit_missing"]`
        Share of spots in which the gene was not detected.
    `var["audit_reliability"]`
        Correlation of the two halves of the counts over the spots, corrected for depth and library.
    `uns["spared_sc"]["audit"]`
        Parameters, and `summary` (in words), `harm` (whether completion should be left alone), `n_complete`,
        `n_use_as_is`, `n_drop`, `skill` with `skill_low` and `skill_high` of all genes together, and `coverage_90` of
        the method's intervals, where it has some.

    Raises
    ------
    KeyError
        If a named layer, column or method does not exist.
    ValueError
        If several libraries come without `library_key`, a parameter is out of range, or there are no raw counts.

    Notes
    -----
    Depth alone is the better of two: a trend of the values, and what counts at that depth and of that library would be.
    `"complete"` needs a skill above zero at a false discovery rate of 5 % over the genes (Benjamini and Hochberg), and
    expected counts that are better than those from depth alone; of a method without expected counts, halves that agree
    by more than chance. `harm` is true where there is no such gene, or where the skill of all genes together is below 5 %
    or not reliably above zero. The audit hides 30 % of the detected entries, so the method sees less than it does when it
    completes the sections: errors are rather too large.

    Splitting molecules: Batson, Royer and Webber (2019), Molecular cross-validation for single-cell RNA-seq.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=2, shape=(10, 10))
    >>> sp.pp.recipe_spared(adata, library_key="library_id", n_genes=16)
    >>> sp.tl.audit_completion(adata, method="soft_impute_kernel", library_key="library_id", n_masks=1)
    >>> sorted(set(adata.var["audit_verdict"]) - {"drop", "use as is"})
    ['complete', 'not audited']
    """
    validate.check_adata(adata)
    check_key(adata, key_added, attr="var")
    validate.check_number("n_masks", n_masks, 1, whole=True)
    if method not in names():
        raise KeyError(f"there is no method {method!r}: choose among {validate.listing(names(), 30)}.")
    run = make_run(random_state, device=device, batch_size=batch_size, n_jobs=n_jobs, show_progress_bar=False)
    resolved = resolve(adata, layer=layer, mask_var=mask_var, library_key=library_key, spatial_key=spatial_key)
    sections = resolved.sections
    if sections.counts is None:
        raise ValueError("the audit splits molecules, and needs raw counts: put them into adata.X or layers['counts'].")
    with progress_bar(total=n_masks + 1, desc="audit", show=show_progress_bar, unit="fit") as bar:
        patches = _patches(sections, np.random.default_rng([random_state, 101]))
        hidden = _on_hidden_entries(sections, method, run, n_masks, patches, bar.update)
        halves = _on_halves(sections, method, run, patches)
        bar.update()
    table, overall = _judge(sections, hidden, halves, np.random.default_rng([random_state, 102]))
    verdict = table.pop("verdict")
    summary, harm = _in_words(verdict, overall, method)
    logger.info(summary)
    adata = adata.copy() if copy else adata
    columns = {}
    for name in _COLUMNS:
        column = np.full(adata.n_vars, np.nan)
        column[resolved.genes] = table[name]
        columns[f"{key_added}_{name}"] = column
    verdicts = np.full(adata.n_vars, NOT_AUDITED, dtype=object)
    verdicts[resolved.genes] = verdict
    record(
        adata,
        key=key_added,
        function="tl.audit_completion",
        params={
            "method": method,
            "layer": layer,
            "mask_var": mask_var if mask_var in adata.var else None,
            "library_key": library_key,
            "lattice": resolved.lattice_kind,
            "n_masks": n_masks,
            "random_state": random_state,
        },
        slots={"var": {f"{key_added}_verdict": verdicts, **columns}},
        summary=summary,
        harm=harm,
        n_complete=int((verdict == COMPLETE).sum()),
        n_use_as_is=int((verdict == AS_IS).sum()),
        n_drop=int((verdict == DROP).sum()),
        **overall,
    )
    return adata if copy else None


class _Hidden(NamedTuple):
    """Sums over the hidden entries of every patch and gene, (n_patches, n_genes)."""

    n: np.ndarray
    squares: dict[str, np.ndarray]  # of the errors, and the sampling variance as "floor"
    covered: float  # share of the entries inside of the 90 % interval; NaN without one


class _Halves(NamedTuple):
    """Deviance of the other half of the molecules, summed over every patch, and what the halves have in common."""

    method: np.ndarray | None  # (n_patches, n_genes)
    depth_only: np.ndarray
    reliability: np.ndarray  # (n_genes,)
    reliable: np.ndarray  # (n_genes,) whether it is more than chance


def _on_hidden_entries(
    sections: Sections, method: str, run: Run, n_masks: int, patches: np.ndarray, on_mask: Any
) -> _Hidden:
    from spared_sc._kernels.floor import noise_variances
    from spared_sc._kernels.masking import hide_detected
    from spared_sc._kernels.metrics import WIDTH_90

    shape = sections.known.shape
    variance = np.full(shape, np.nan)
    if sections.total is not None:
        variance = noise_variances(sections, np.random.default_rng([run.seed, 103]))[0]
    n = np.zeros(shape)
    squares = {"floor": np.zeros(shape)}
    covered = []
    for mask in range(n_masks):
        where = hide_detected(sections.known, _HIDDEN_SHARE, np.random.default_rng([run.seed, 104, 1 + mask]))
        visible, truth = sections.without(where), sections.renormalised(where)
        estimate = complete(method, visible, run)
        simple = {name: complete(name, visible, run) for name in ("depth_only", "additive", "gene_mean")}
        found = {"mse": estimate.values} | {f"mse_{name}": one.values for name, one in simple.items()}
        if sections.total is not None:
            found["mse_counts"] = _counts_at_depth(visible, simple)
        n += where
        for name, values in found.items():
            squares[name] = squares.get(name, 0) + np.where(where, (values - truth) ** 2, 0)
        squares["floor"] += np.where(where, variance, 0)
        if estimate.sd is not None:
            inside = np.abs(estimate.values - truth) <= WIDTH_90 * estimate.sd
            covered.append(inside[where].mean())
        on_mask()
    if "mse_counts" in squares:
        counts = squares.pop("mse_counts")
        better = counts.sum(axis=0) < squares["mse_depth_only"].sum(axis=0)
        squares["mse_depth_only"] = np.where(better, counts, squares["mse_depth_only"])
    sums = {name: _by_patch(values, patches) for name, values in squares.items()}
    return _Hidden(_by_patch(n, patches), sums, float(np.mean(covered)) if covered else np.nan)


def _counts_at_depth(visible: Sections, simple: dict[str, Estimate]) -> np.ndarray:
    """Values given detection, of counts that nothing but the depth and the library has a say in.

    Negative binomial, with a dispersion for every gene by moments, made up for the share of the counts that is hidden.
    """
    from spared_sc._kernels.truncated import truncated_moments

    rate, of_library, of_all = (simple[name].rate.astype(float) for name in ("depth_only", "additive", "gene_mean"))
    rate *= _ratio(of_library, of_all, default=1.0) / (1 - _HIDDEN_SHARE)
    squares = (rate**2).sum(axis=0)
    excess = (
        (visible.need_counts().values.astype(float) ** 2).sum(axis=0) / (1 - _HIDDEN_SHARE) - squares - rate.sum(axis=0)
    )
    size = 1 / np.maximum(_ratio(excess, squares, default=0.0), 1e-3)
    return truncated_moments(rate, size, visible.count_scale())[0]


def _on_halves(sections: Sections, method: str, run: Run, patches: np.ndarray) -> _Halves:
    from spared_sc._kernels.metrics import poisson_deviance

    half, other = sections.thinned(np.random.default_rng([run.seed, 105]))
    rate = complete(method, half, run).rate
    reference = complete("depth_only", half, run).rate
    depth = np.maximum(half.need_counts().depth, 1)[:, None]
    other_depth = np.maximum(sections.need_counts().depth - half.need_counts().depth, 1)[:, None]
    # A half has about as many molecules as the other, but not exactly.
    scale = other_depth / depth
    one, two = (
        _within_libraries(np.sqrt(counts / total * total.mean()), sections.library)
        for counts, total in ((half.need_counts().values, depth), (other, other_depth))
    )
    spread = np.sqrt((one**2).sum(axis=0) * (two**2).sum(axis=0))
    correlation = np.divide((one * two).sum(axis=0), spread, out=np.zeros(len(spread)), where=spread > 0)
    return _Halves(
        None if rate is None else _by_patch(poisson_deviance(other, rate * scale), patches),
        _by_patch(poisson_deviance(other, reference * scale), patches),
        correlation,
        correlation * np.sqrt(len(one)) > 2.33,  # one in a hundred by chance
    )


def _judge(
    sections: Sections, hidden: _Hidden, halves: _Halves, rng: np.random.Generator
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Columns of the audit, and the skill of all genes together."""
    n = hidden.n.sum(axis=0)
    table = {name: _ratio(hidden.squares[name].sum(axis=0), n) for name in _METRICS}
    by_depth = table["mse_depth_only"] <= table["mse_additive"]
    reference = np.where(by_depth, hidden.squares["mse_depth_only"], hidden.squares["mse_additive"])
    # The simple averages together: whichever is better over all genes.
    sums = {name: hidden.squares[name].sum(axis=1, keepdims=True) for name in ("mse_depth_only", "mse_additive")}
    best = min(sums.values(), key=np.sum)
    n_patches = len(hidden.n)
    weights = rng.multinomial(n_patches, np.full(n_patches, 1 / n_patches), _N_BOOTSTRAP)
    skill, low, high, chance = _skill(hidden.squares["mse"], reference, weights)
    together = _skill(hidden.squares["mse"].sum(axis=1, keepdims=True), best, weights)
    rate_skill, signal = np.full(n.size, np.nan), halves.reliable
    if halves.method is not None:
        rate_skill, rate_low, _, _ = _skill(halves.method, halves.depth_only, weights)
        signal = rate_low > 0
    missing = 1 - sections.known.mean(axis=0)
    enough = n >= _LEAST_HIDDEN
    helps = enough & (missing >= _LEAST_MISSING) & signal
    helps[helps] = _discoveries(chance[helps])
    verdict = np.where(helps, COMPLETE, np.where(halves.reliable, AS_IS, DROP)).astype(object)
    verdict[~enough] = NOT_AUDITED
    table |= {
        "skill": skill,
        "skill_low": low,
        "skill_high": high,
        "rate_skill": rate_skill,
        "missing": missing,
        "reliability": halves.reliability,
        "verdict": verdict,
    }
    overall = {name: float(part[0]) for name, part in zip(("skill", "skill_low", "skill_high"), together, strict=False)}
    return table, overall | {"coverage_90": hidden.covered}


def _in_words(verdict: np.ndarray, overall: dict[str, float], method: str) -> tuple[str, bool]:
    """The summary, and whether completion would do harm."""
    n = {name: int((verdict == name).sum()) for name in (COMPLETE, AS_IS, DROP, NOT_AUDITED)}
    audited = len(verdict) - n[NOT_AUDITED]
    hardly = overall["skill_low"] > 0 and overall["skill"] < _LEAST_SKILL
    harm = hardly or not overall["skill_low"] > 0 or n[COMPLETE] == 0
    interval = f"95 % interval {overall['skill_low']:.0%} to {overall['skill_high']:.0%}"
    if harm:
        first = (
            f"Do not complete these sections with {method!r}: filled values are {'hardly' if hardly else 'not reliably'} "
            f"nearer to the truth than simple averages (error removed: {overall['skill']:.0%}, {interval})."
        )
    else:
        first = (
            f"Completion with {method!r} removes {overall['skill']:.0%} of the error of simple averages ({interval})."
        )
    second = (
        f" Of {audited} genes, complete {n[COMPLETE]}, use {n[AS_IS]} as measured, and leave out {n[DROP]} whose counts "
        "are little more than noise."
    )
    return first + second, harm


def _patches(sections: Sections, rng: np.random.Generator) -> np.ndarray:
    """(n_spots,) number of the patch of up to two hops around a random spot that each spot belongs to."""
    indptr, indices, _ = sections.lattice.hops(2)
    patch = np.full(len(sections.known), -1)
    number = 0
    for spot in rng.permutation(patch.size):
        if patch[spot] < 0:
            around = indices[indptr[spot] : indptr[spot + 1]]
            patch[around[patch[around] < 0]] = number
            patch[spot] = number
            number += 1
    return patch


def _by_patch(values: np.ndarray, patches: np.ndarray) -> np.ndarray:
    """Sums over the spots of every patch, (n_patches, n_genes)."""
    from spared_sc._kernels.lowrank import members

    return members(patches) @ values


def _skill(
    squares: np.ndarray, reference: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """1 - ratio of sums over patches, its 95 % interval, and the chance that it is not above zero."""
    skill = 1 - _ratio(squares.sum(axis=0), reference.sum(axis=0))
    drawn = 1 - _ratio(weights @ squares, weights @ reference)
    low, high = np.nanquantile(np.nan_to_num(drawn), [0.025, 0.975], axis=0)
    chance = (1 + (drawn <= 0).sum(axis=0)) / (1 + len(weights))
    return skill, low, high, chance


def _discoveries(chance: np.ndarray) -> np.ndarray:
    """Which of the tests pass at the false discovery rate (Benjamini and Hochberg, 1995)."""
    order = np.argsort(chance, kind="stable")
    passes = chance[order] <= _FALSE_DISCOVERIES * np.arange(1, chance.size + 1) / max(chance.size, 1)
    last = np.flatnonzero(passes).max(initial=-1)
    result = np.zeros(chance.size, dtype=bool)
    result[order[: last + 1]] = True
    return result


def _within_libraries(values: np.ndarray, library: np.ndarray) -> np.ndarray:
    """Values less the mean of their library."""
    from spared_sc._kernels.lowrank import members

    of_library = members(library)
    mean = (of_library @ values) / np.asarray(of_library.sum(axis=1)).reshape(-1, 1)
    return values - mean[library]


def _ratio(one: np.ndarray, other: np.ndarray, *, default: float = np.nan) -> np.ndarray:
    return np.divide(one, other, out=np.full(np.shape(one), default), where=other > 0)
