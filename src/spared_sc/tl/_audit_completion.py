"""Audit of a completion method on the user's own sections, gene by gene."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from spared_sc._core import docs, validate
from spared_sc._core.compute import make_compute
from spared_sc._core.keys import Key
from spared_sc._core.lineage import check_rep
from spared_sc._core.record import check_key, record
from spared_sc._core.report import announce, warn
from spared_sc._core.sdata import accepts_spatialdata
from spared_sc._models.device import check_device
from spared_sc.tl._resolve import resolve, spread_over_genes

if TYPE_CHECKING:
    from anndata import AnnData

    from spared_sc._core.compute import Compute
    from spared_sc._kernels.audit import Audit
    from spared_sc._kernels.sections import Sections
    from spared_sc._models.completion.base import Completer

_QUICK = 2  # splits, and the least from which verdicts are drawn after an interrupt
_LONG = 10.0  # seconds that are worth announcing


@accepts_spatialdata
@docs.fill()
def audit_completion(
    adata: AnnData,
    *,
    method: str | Completer = "counts",
    layer: str = Key.layers.log2tpm,
    mask_var: str | None = Key.var.selected,
    library_key: str | None = None,
    spatial_key: str = Key.obsm.spatial,
    use_rep: str | None = None,
    allow_unrecorded_rep: bool = False,
    n_splits: int = 5,
    quick: bool = False,
    key_added: str = "audit",
    device: str | None = None,
    batch_size: int | None = None,
    n_jobs: int | None = None,
    random_state: int = 0,
    show_progress_bar: bool | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Audit a completion method on your own sections: for which genes is which of its layers better than averages?

    The molecules are split into two halves (molecular cross-validation). The method completes one half, and its expected
    counts and filled values are compared with the other half, gene by gene, beside simple averages. The verdicts are
    those of :func:`spared_sc.tl.spackle_complete`, which has three splits of its own; the audit takes more splits, for any
    method, and gives intervals.

    Parameters
    ----------
    adata
        Spots x genes, with raw counts.
    method
        Completion method to audit: a name of :func:`spared_sc.tl.completers`, or a `Completer` that is not fitted.
    layer
        Layer to complete.
    {mask_var}
    {library_key}
    {spatial_key}
    {use_rep}
    {allow_unrecorded_rep}
    n_splits
        Number of random splits of the molecules, at least 2. The method runs once for each.
    quick
        Take 2 splits, whatever `n_splits`: more genes stay undecided.
    key_added
        Prefix of the new columns, and name of the record.
    {device}
    {batch_size}
    {n_jobs}
    {random_state}
    {show_progress_bar}
    {copy}

    Returns
    -------
    `None`, or the changed copy with `copy=True`. The summary is printed. Slots written; numbers are NaN for genes outside
    of the mask:

    `var["audit_verdict"]`
        `"complete"`: filled values have been shown to be better than averages. `"denoise"`: expected counts have, and
        with them the denoised layer. `"undecided"`: neither. `"not audited"`: outside of the mask.
    `var["audit_skill"]`, `var["audit_skill_low"]`, `var["audit_skill_high"]`
        Share of the Poisson deviance beyond depth x the gene's share that the method's expected counts explain, and its
        95 % interval. NaN for a method without expected counts.
    `var["audit_gain"]`, `var["audit_gain_low"]`, `var["audit_gain_high"]`
        Share of the squared error that the filled values remove, given detection, and its 95 % interval. The error is that
        of the better of two averages: the gene's mean, and the values expected of counts at depth x the gene's share. NaN
        if no entry was filled.
    `var["audit_missing"]`
        Share of spots in which the gene was not detected.
    `var["audit_n_molecules"]`
        Count of the gene in all sections.
    `uns["spared_sc"]["audit"]`
        Parameters, and `summary` (in words), `harm` (whether nothing is gained), `n_complete`, `n_denoise`,
        `n_undecided`, `n_splits` (finished ones), and `skill` and `gain` of all genes together with `_low` and `_high`.

    Raises
    ------
    KeyError
        If a named layer, column, embedding or method does not exist.
    TypeError
        If the method is neither a name nor a `Completer`.
    ValueError
        If there are several libraries and no `library_key`, a parameter is out of range, there are no raw counts, the
        method is fitted, or it uses no embedding or lacks one.

    Warns
    -----
    UserWarning
        If nothing is gained: no gene has a verdict but `"undecided"`, or neither skill nor gain of all genes together is
        above zero with its interval. Or if the audit was interrupted after at least two splits: the results are those of
        the finished ones. An interrupt before that ends the call, and nothing is written.

    Notes
    -----
    Two kinds of evidence, in standard errors, are tested at a false discovery rate of 5 % over the genes (Benjamini and
    Hochberg), as for the verdicts of the method `"counts"`:

    - Pattern: the weight of the logarithm of expected counts / (depth x the gene's share) that makes the other half's
      counts likeliest. For a method without expected counts, the score of the filled values beyond those expected at
      depth, in entries without a count in the first half.
    - Given detection: the squared error of the method's values, on entries with a count in the other half. Where the
      first half has a count, too, the method's estimate counts, not the value it was given. The verdict that a completion
      with `"counts"` writes takes the values of its count model instead of those of the combination.

    `"complete"` needs both, `"denoise"` a pattern and a skill above zero.

    The two halves of a spot are not equally large. Expected counts are multiplied by the ratio of their depths. Values
    given detection have no such factor: the value of a single count changes with the depth, that of a large count does
    not. The filled values and the gene's mean are therefore moved by what the difference in depth changes in the values
    expected at depth x the gene's share.

    The method sees half of the molecules, so the audit is on the careful side. All splits have the same molecules, and
    standard errors of their mean allow for that: five splits have 0.6 of the variance of one. Intervals are normal, and
    say nothing about other sections.

    Splitting molecules: Batson, Royer and Webber (2019), Molecular cross-validation for single-cell RNA-seq.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=2, shape=(10, 10), image=False)
    >>> sp.pp.recipe_spared(adata, library_key="library_id", n_genes=16)
    >>> sp.tl.audit_completion(adata, method="kernel", library_key="library_id", quick=True)  # doctest: +ELLIPSIS
    audit of 'kernel': 2 fits, each to half of the molecules.
    'kernel' on 16 genes: ...
    """
    from spared_sc._kernels.audit import NOT_AUDITED
    from spared_sc._kernels.verdicts import COMPLETE, DENOISE, UNDECIDED

    validate.check_adata(adata)
    check_key(adata, key_added, attr="var")
    validate.check_number("n_splits", n_splits, 2, whole=True)
    completer = _completer(method)
    if use_rep is not None and not completer.uses_embedding:
        raise ValueError(f"method {completer.name!r} uses no embedding: leave out `use_rep`.")
    check_rep(adata, use_rep, allow_unrecorded=allow_unrecorded_rep)
    compute = check_device(
        make_compute(
            random_state=random_state,
            device=device,
            batch_size=batch_size,
            n_jobs=n_jobs,
            show_progress_bar=show_progress_bar,
            write=("completed", "rate"),
        )
    )
    resolved = resolve(
        adata, layer=layer, mask_var=mask_var, library_key=library_key, spatial_key=spatial_key, use_rep=use_rep
    )
    sections = resolved.sections
    if sections.counts is None:
        raise ValueError("the audit splits molecules, and needs raw counts: put them into adata.X or layers['counts'].")
    found, n_finished = _audit(sections, completer, _QUICK if quick else n_splits, compute)
    summary = found.summary(completer.name)
    columns = {"verdict": found.verdict}
    for name, interval in (("skill", found.skill), ("gain", found.gain)):
        columns |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
    columns["missing"] = 1 - sections.known.mean(axis=0)
    columns["n_molecules"] = sections.counts.values.sum(axis=0, dtype=np.float64)
    pooled: dict[str, Any] = {}
    for name, interval in (("skill", found.pooled_skill), ("gain", found.pooled_gain)):
        pooled |= {
            name: interval.value.item(),
            f"{name}_low": interval.low.item(),
            f"{name}_high": interval.high.item(),
        }
    adata = adata.copy() if copy else adata
    slots = {
        f"{key_added}_{name}": spread_over_genes(values, resolved.genes, adata.n_vars, other=NOT_AUDITED)
        for name, values in columns.items()
    }
    record(
        adata,
        key=key_added,
        function="tl.audit_completion",
        params={
            "method": completer.name,
            "method_params": completer.params(),
            "layer": layer,
            "mask_var": mask_var if mask_var in adata.var else None,
            "library_key": resolved.libraries.key,
            "lattice": resolved.lattice_kinds,
            "use_rep": use_rep,
            "allow_unrecorded_rep": allow_unrecorded_rep,
            "n_splits": n_splits,
            "quick": quick,
            "random_state": random_state,
        },
        slots={"var": slots},
        summary=summary,
        harm=found.harm,
        n_complete=found.count(COMPLETE),
        n_denoise=found.count(DENOISE),
        n_undecided=found.count(UNDECIDED),
        n_splits=n_finished,
        **pooled,
    )
    announce(summary)
    if found.harm:
        warn(f"nothing is gained with {completer.name!r} over all genes: use the measured values.")
    return adata if copy else None


def _completer(method: str | Completer) -> Completer:
    """The method, which must not have seen any of the molecules."""
    from spared_sc._models.completion.base import Completer
    from spared_sc._models.completion.registry import COMPLETERS

    completer = COMPLETERS.make(method, {}) if isinstance(method, str) else method
    if not isinstance(completer, Completer):
        raise TypeError(f"method is a {type(method).__name__}: give a name or a Completer.")
    if getattr(completer, "fitted", False):
        raise ValueError(f"the method {completer.name!r} is fitted and may have seen both halves: pass it unfitted.")
    return completer


def _audit(sections: Sections, completer: Completer, n_splits: int, compute: Compute) -> tuple[Audit, int]:
    """Conclusion from all splits, or from the finished ones after an interrupt, and their number."""
    from spared_sc._kernels.audit import conclude, evidence_of

    announce(f"audit of {completer.name!r}: {n_splits} fits, each to half of the molecules.")
    # One bar is enough: the method's own would flicker below it.
    function = completer.as_function(compute.without_bar())
    start, evidence = time.perf_counter(), []
    with compute.bar(n_splits, "audit", "fit") as bar:
        try:
            for number in range(n_splits):
                rng = np.random.default_rng([compute.seed, 7, number])
                evidence.append(evidence_of(sections, function, rng, n_threads=compute.n_threads))
                bar.update()
                left = (n_splits - 1) * (time.perf_counter() - start)
                if number == 0 and left > _LONG:
                    announce(f"audit of {completer.name!r}: at most {left:.0f} s more.")
        except KeyboardInterrupt:
            if len(evidence) < _QUICK:
                raise
            warn(f"the audit was interrupted: the results are those of {len(evidence)} of {n_splits} splits.")
    return conclude(sum(evidence[1:], start=evidence[0]), len(evidence)), len(evidence)
