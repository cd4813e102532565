"""What must hold of every call: the right result or a clear error, and nothing of the user's changed."""

from __future__ import annotations

import contextlib
import inspect
import os
import signal
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from fuzz import relations
from fuzz.arguments import FIRST, function, parameters
from helpers import dense
from properties.calls import check_refusal, snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fuzz.inputs import Input

HERE = Path(__file__).parent
LONGEST = 120  # seconds of a call


class Fault(AssertionError):
    """What must not happen; `kind` says what did."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


STRAY, WRONG, CHANGED = "stray exception", "silent wrong result", "changed input"


@dataclass
class Outcome:
    """What came of a call: a result, or an error that was raised on purpose."""

    result: Any = None
    error: Exception | None = None


def frozen(value: Any) -> Any:
    """A form of a first argument that compares by value."""
    if isinstance(value, AnnData):
        return snapshot(value) if value.obs.columns.is_unique else None
    if isinstance(value, pd.DataFrame):
        return value.copy()
    return value.copy() if isinstance(value, np.ndarray) else None


def unchanged(before: Any, value: Any) -> bool:
    if isinstance(value, pd.DataFrame):
        return before.equals(value)
    if isinstance(value, AnnData):
        return before is None or before == snapshot(value)
    return np.array_equal(before, value, equal_nan=False) if isinstance(value, np.ndarray) else True


def state() -> dict[str, Any]:
    """What belongs to the whole process."""
    import matplotlib as mpl
    import torch

    return {
        "numpy": np.random.get_state()[1].tobytes(),  # noqa: NPY002
        "torch": torch.get_rng_state().numpy().tobytes(),
        "threads": torch.get_num_threads(),
        "warnings": len(warnings.filters),
        "rcParams": {name: str(value) for name, value in mpl.rcParams.items()},
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "errors": np.geterr(),
    }


@contextlib.contextmanager
def limited() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TimeoutError(f"more than {LONGEST} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LONGEST)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def call(run: Callable[[], Any]) -> Outcome:
    """The outcome of a call, which must be ours and leave the process as it was."""
    import matplotlib.pyplot as plt

    before = state()
    with warnings.catch_warnings(record=True) as caught, limited(), contextlib.redirect_stdout(None):
        warnings.simplefilter("always")
        try:
            outcome = Outcome(run())
        except Exception as error:  # noqa: BLE001 - every kind is what this is about
            outcome = Outcome(error=error)
    plt.close("all")
    after = state()
    changed = [name for name in before if before[name] != after[name]]
    if changed:
        raise Fault(STRAY, f"changed of the process: {changed}")
    if outcome.error is not None:
        check_error(outcome.error)
    for warning in caught:
        if warning.category is not UserWarning or HERE not in Path(warning.filename).parents:
            raise Fault(STRAY, f"{warning.category.__name__} at {warning.filename}:{warning.lineno}: {warning.message}")
    return outcome


def check_error(error: Exception) -> None:
    try:
        check_refusal(error)
    except AssertionError as reason:
        raise Fault(STRAY, f"{type(error).__name__}: {str(error)[:400]} ({str(reason)[:300]})") from error


def same_error(one: Exception | None, other: Exception | None) -> bool:
    return type(one) is type(other)


def run(case: Input) -> Outcome:
    """Make the call, and check all that must hold of it; a `Fault` says what does not."""
    subject, values = case.first, case.arguments.values
    target = function(case.name)
    writes = "copy" in parameters(case.name)
    first = [] if not takes_first(case.name) else [subject]
    before = frozen(subject)
    finite = isinstance(subject, AnnData) and relations.all_finite(subject)
    outcome = call(lambda: target(*first, **({**values, "copy": True} if writes else values)))
    if not unchanged(before, subject):
        raise Fault(CHANGED, f"by a call that {'ended' if outcome.error is None else f'failed ({outcome.error})'}")
    if writes:
        outcome = in_place(case, outcome, before)
    if outcome.error is None and finite:
        check_finite(case, outcome)
    return outcome


def in_place(case: Input, copied: Outcome, before: Any) -> Outcome:
    """The same call without `copy=True`, which gives the same, or the same error and nothing else."""
    subject, values = case.first.copy(), case.arguments.values
    if any(name in values for name in ("save_model", "checkpoint", "store")):
        return copied
    outcome = call(lambda: function(case.name)(subject, **values))
    if not same_error(outcome.error, copied.error):
        raise Fault(WRONG, f"copy=True gives {copied.error!r}, in place {outcome.error!r}")
    if outcome.error is not None:
        if snapshot(subject) != before:
            raise Fault(CHANGED, f"in place, by a call that failed ({outcome.error})")
    elif snapshot(subject) != snapshot(copied.result):
        raise Fault(WRONG, f"in place other than copy=True: {relations.differing(subject, copied.result)}")
    return copied


def check_finite(case: Input, outcome: Outcome) -> None:
    """Layers and embeddings that were written hold finite numbers."""
    result = outcome.result
    if not isinstance(result, AnnData) or not isinstance(case.first, AnnData):
        return
    for attr in ("layers", "obsm"):
        for name in set(getattr(result, attr)) - set(getattr(case.first, attr)):
            values = dense(getattr(result, attr)[name])
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise Fault(WRONG, f"{attr}[{name!r}] is not finite")


def takes_first(name: str) -> bool:
    return next(iter(inspect.signature(function(name)).parameters), "") in FIRST


def explore(case: Input) -> Outcome:
    """The call, and, where it has a result, a relation between this result and that of another input."""
    outcome = run(case)
    if outcome.error is None and isinstance(case.first, AnnData):
        relations.check(case, outcome)
    return outcome
