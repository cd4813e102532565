"""Fits of a predictor to the folds of a task, each of which predicts the libraries of its fold."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from spared_sc._core import validate
from spared_sc._core.report import logger, warn
from spared_sc._kernels.folds import plan
from spared_sc._kernels.threads import limited_threads
from spared_sc._models.prediction.spots import MSE
from spared_sc.tl._fitted import INNER_FITS, Prediction, fit_fold
from spared_sc.tl._target import EXPRESSION

if TYPE_CHECKING:
    from spared_sc._core.compute import Compute
    from spared_sc.tl._task import Task


def cross_fit(task: Task, compute: Compute) -> Prediction:
    """Predict every library: by one fit with a split, otherwise by a fit to the libraries of other groups."""
    groups = task.groups
    _check_groups(task.split, groups)
    folds, roles = plan(task.split, groups, validates=task.predictor.validates, least_train=task.predictor.least_train)
    if task.data.leak:
        roles = ["train" if role == "train" else "seen" for role in roles]
        warn(
            f"{task.data.leak}, including those predicted here: these predictions are not scored. Make a split, and the "
            "layer with it, or choose a layer that uses one section at a time, such as 'log2tpm' or 'median'.",
        )
    if task.completed is not None and task.spots.loss == MSE:
        inner = INNER_FITS if task.data.target == EXPRESSION and not task.predictor.validates else 0
        logger.info("%d fits; labels are completed up to %d times", len(folds), len(folds) * (1 + inner))
    values = np.empty((len(task.spots), len(task.genes)), dtype=np.float32)
    flags = None if task.novelty_features is None else np.zeros(len(task.spots), dtype=bool)
    reports, skills = {}, []
    for i, fold in enumerate(folds):
        here = compute.below(f"fold-{i}") if len(folds) > 1 else compute
        fitted = fit_fold(task, fold, here)
        if fitted.predictor.interrupted and len(folds) > 1:
            raise KeyboardInterrupt(
                f"interrupted in fit {i + 1} of {len(folds)}; nothing was written. With checkpoint='folder' the same call "
                "resumes there."
            )
        rows = np.flatnonzero(fold.predicted[task.spots.library])
        spots = task.spots.take(rows)
        with limited_threads(compute.network_threads):
            values[rows] = fitted.values_of(spots, here, spots.library)
        if flags is not None and task.novelty_features is not None and fitted.novelty is not None:
            flags[rows] = fitted.novelty.out_of_distribution(task.novelty_features[rows])
        if fitted.support is not None:
            skills.append(fitted.support.skill)
        reports[f"fit_{i}"] = fitted.predictor.report()
    return Prediction(
        values=values,
        genes=task.genes,
        out_of_distribution=flags,
        roles=dict(zip(task.sketches, roles, strict=True)),
        groups=dict(zip(task.sketches, groups.tolist(), strict=True)),
        details={"device": compute.device, "fits": reports, "card": asdict(task.data)},
        skill=np.mean(skills, axis=0) if skills else None,
    )


def _check_groups(split: np.ndarray | None, groups: np.ndarray) -> None:
    """Refuse a single group without a split; warn of donors on both sides of a split."""
    if split is None:
        if len(np.unique(groups)) < 2:
            raise ValueError(
                "there is one library (or subject) and no split, so nothing is left to predict: add sections, name parts "
                "of the section as libraries with `library_key=`, or fit with `sp.tl.fit_predictor(adata)` to predict "
                "another slide."
            )
        return
    siblings = sorted(set(groups[split == "train"]) & set(groups[split != "train"]))
    if siblings:
        warn(
            f"{validate.listing(siblings, 5)} have libraries in 'train' and in other parts of the split: scores say little "
            "about other donors. `sp.pp.split_libraries(adata, subject_key=...)` keeps donors together.",
        )
