"""Audit of a completion method on the user's own sections, gene by gene."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spared_sc._core import docs, validate
from spared_sc._core.compute import make_compute
from spared_sc._core.keys import Key
from spared_sc._core.record import check_key, record
from spared_sc._core.report import logger
from spared_sc._core.sdata import accepts_spatialdata
from spared_sc._models.device import check_device
from spared_sc.tl._resolve import resolve

if TYPE_CHECKING:
    from anndata import AnnData

    from spared_sc._kernels.sections import CompletionFunction


@accepts_spatialdata
@docs.fill()
def audit_completion(
    adata: AnnData,
    *,
    method: str = "counts",
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
    """Audit a completion method on your own sections: for which genes can its values be trusted?

    Detected entries are hidden, the rest is completed, and the hidden entries are compared with the filled values. Two
    simple methods are compared in the same way: depth alone, and additive effects of gene, spot and library. A gene is
    worth completing if the method beats the better of the two. In addition, the molecules are split into two halves
    (molecular cross-validation): the halves agree where a gene carries signal, and expected counts from one half are
    compared with the counts of the other.

    Parameters
    ----------
    adata
        Spots x genes, with raw counts.
    method
        Completion method to audit: `"counts"`, `"paper"` or a simple one, such as `"soft_impute_kernel"`.
    layer
        Layer to complete.
    {mask_var}
    {library_key}
    {spatial_key}
    n_masks
        Number of random masks, each of which hides 30 % of the detected entries. The method runs once per mask, and once
        more for the halves.
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
    `None`, or the changed copy with `copy=True`. Slots written; numbers are NaN for genes that were not audited:

    `var["audit_verdict"]`
        `"complete"`: filled values are closer to the truth than simple averages. `"use as is"`: they are not, or hardly
        anything is missing, but the counts carry signal. `"drop"`: neither; the counts of the gene are noise at this
        depth. `"not audited"`: not in the mask, or too few detected entries.
    `var["audit_mse"]`, `var["audit_mse_depth_only"]`, `var["audit_mse_additive"]`, `var["audit_mse_gene_mean"]`
        Mean squared error on hidden entries, in squared units of the layer.
    `var["audit_floor"]`
        Error from counting noise alone, estimated from the halves.
    `var["audit_skill"]`, `var["audit_skill_low"]`, `var["audit_skill_high"]`
        1 - error / error of the better of depth and additive effects, and its 95 % interval from a bootstrap of blocks of
        neighbouring spots.
    `var["audit_rate_skill"]`
        The same for expected counts, by Poisson deviance on the other half of the molecules, compared with depth alone.
        NaN for methods without expected counts.
    `var["audit_missing"]`
        Share of spots in which the gene was not detected.
    `var["audit_reliability"]`
        Correlation of the two halves of the counts over the spots, corrected for depth and library.
    `uns["spared_sc"]["audit"]`
        Parameters, and `summary` (in words), `harm` (whether the sections are better left alone), `n_complete`,
        `n_use_as_is`, `n_drop`, `skill` with `skill_low` and `skill_high` of all genes together, and `coverage_90` of
        the method's intervals, if it has any.

    Raises
    ------
    KeyError
        If a named layer, column or method does not exist.
    ValueError
        If there are several libraries and no `library_key`, a parameter is out of range, or there are no raw counts.

    Notes
    -----
    The depth baseline is the better of a regression on depth and the values expected from depth and library alone.
    `"complete"` requires a skill above zero at a false discovery rate of 5 % over the genes (Benjamini and Hochberg), and
    expected counts that beat those from depth alone; for a method without expected counts, halves that agree by more than
    chance. `harm` is true if there is no such gene, or if the skill of all genes together is below 5 % or not reliably
    above zero. The audit hides 30 % of the detected entries, so the method sees less than it does when it completes the
    sections: errors tend to be too large.

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
    from spared_sc._kernels.audit import AS_IS, COMPLETE, DROP, NOT_AUDITED, REFERENCES, audit
    from spared_sc._models.completion.registry import COMPLETERS

    validate.check_adata(adata)
    check_key(adata, key_added, attr="var")
    validate.check_number("n_masks", n_masks, 1, whole=True)
    method = COMPLETERS[method].name
    compute = check_device(
        make_compute(
            random_state=random_state,
            device=device,
            batch_size=batch_size,
            n_jobs=n_jobs,
            show_progress_bar=show_progress_bar,
        )
    )
    resolved = resolve(adata, layer=layer, mask_var=mask_var, library_key=library_key, spatial_key=spatial_key)
    sections = resolved.sections
    if sections.counts is None:
        raise ValueError("the audit splits molecules, and needs raw counts: put them into adata.X or layers['counts'].")

    def completer(name: str) -> CompletionFunction:
        method = COMPLETERS.make(name, {})
        return method.as_function(compute.without_bar())

    references = {name: completer(name) for name in REFERENCES}
    with compute.bar(n_masks + 1, "audit", "fit") as bar:
        found = audit(sections, completer(method), references, n_masks=n_masks, seed=random_state, on_fit=bar.update)
    summary = found.summary(method)
    logger.info(summary)
    adata = adata.copy() if copy else adata
    verdict = np.full(adata.n_vars, NOT_AUDITED, dtype=object)
    verdict[resolved.genes] = found.verdict
    columns = {f"{key_added}_verdict": verdict}
    for name, values in found.columns.items():
        columns[f"{key_added}_{name}"] = np.full(adata.n_vars, np.nan)
        columns[f"{key_added}_{name}"][resolved.genes] = values
    record(
        adata,
        key=key_added,
        function="tl.audit_completion",
        params={
            "method": method,
            "layer": layer,
            "mask_var": mask_var if mask_var in adata.var else None,
            "library_key": resolved.libraries.key,
            "lattice": resolved.lattice_kind,
            "n_masks": n_masks,
            "random_state": random_state,
        },
        slots={"var": columns},
        summary=summary,
        harm=found.harm,
        n_complete=found.count(COMPLETE),
        n_use_as_is=found.count(AS_IS),
        n_drop=found.count(DROP),
        skill=found.skill,
        skill_low=found.skill_low,
        skill_high=found.skill_high,
        coverage_90=found.coverage_90,
    )
    return adata if copy else None
