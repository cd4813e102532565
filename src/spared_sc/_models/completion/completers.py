"""The models by name, fitted to the sections that they complete: arrays in, an estimate out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from spared_sc._kernels.sections import Estimate
from spared_sc._models.completion import residual, spackle
from spared_sc._models.completion.factor import FactorParams, fit_factor

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from spared_sc._kernels.sections import Sections
    from spared_sc._models.training import Fit


def complete_residual(
    sections: Sections, *, device: torch.device, seed: int, show_progress_bar: bool | None, **params: Any
) -> Estimate:
    """Fit the stack of count model and simple estimates, and complete."""
    how = {"device": device, "seed": seed, "show_progress_bar": show_progress_bar}
    fitted = residual.fit_residual(sections, replace(residual.ResidualParams(), **params), **how)
    _refuse_half(fitted.fit)
    return residual.complete_residual(fitted, sections, **how)


def complete_factor(
    sections: Sections, *, device: torch.device, seed: int, show_progress_bar: bool | None, **params: Any
) -> Estimate:
    """Fit the count model, and complete."""
    from spared_sc._core.report import progress_bar

    params = replace(FactorParams(), **params)
    with progress_bar(total=params.n_steps, desc="factor", show=show_progress_bar) as bar:
        fitted = fit_factor(sections, params, device=device, seed=seed, on_step=bar.update)
    values, sd = fitted.given_detection(sections.count_scale())
    return Estimate(values, fitted.posterior_rate(sections.need_counts().values), sd)


def complete_paper(
    sections: Sections,
    *,
    device: torch.device,
    seed: int,
    show_progress_bar: bool | None,
    batch_size: int,
    n_threads: int,
    **params: Any,
) -> Estimate:
    """Fit SpaCKLE, and complete."""
    params = replace(spackle.SpackleParams(), **params)
    data = (sections.values, sections.known, sections.lattice, sections.library)
    how = {"device": device, "batch_size": batch_size, "n_threads": n_threads}
    fitted = spackle.fit_spackle(*data, None, params, seed=seed, show_progress_bar=show_progress_bar, **how)
    _refuse_half(fitted.fit)
    return Estimate(spackle.complete(fitted.network, params, *data, **how))


def _refuse_half(fit: Fit) -> None:
    """Nobody wants the score of a model that was interrupted in training: stop whoever asked for it as well."""
    if fit.stopped == "interrupted":
        raise KeyboardInterrupt


MODELS: dict[str, Callable[..., Estimate]] = {
    "residual": complete_residual,
    "factor": complete_factor,
    "paper": complete_paper,
}
