"""Saved models, whole and damaged, applied to other sections: what they gave before, or an error that says what to do."""

from __future__ import annotations

import json
import shutil
import warnings
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from anndata import read_h5ad, read_zarr

import spared_sc as sp
from fuzz import sections
from fuzz.arguments import WRONG as WRONG_VALUES
from fuzz.checks import CHANGED, WRONG, Fault, Outcome, call
from fuzz.damage import ODD, change, pick
from fuzz.relations import results_differ
from fuzz.sections import KEY, QUICK
from helpers.models import card_of, put_card
from properties.calls import snapshot

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

KINDS = ("predictor", "network", "counts", "paper", "combat")
SHORT = {"n_steps": 2, "train_batch_size": 4}
PARAMS = {
    "counts": {"n_iterations": 1},
    "paper": {**SHORT, "n_layers": 1, "feedforward": 8},
    "factor": {"n_iterations": 1},
}
NETWORK = {"backbone": "torchvision:shufflenet_v2_x0_5", "weights": "random", **SHORT}


@cache
def saved(kind: str, folder: Path) -> Path:
    """A model of two libraries."""
    path, adata = folder / f"whole {kind}", sections.ready(1).copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "predictor":
            sp.tl.fit_predictor(adata, model="ridge", target="log2tpm", **KEY, **QUICK).save(path)
        elif kind == "network":
            options = {"model": "bleep", "target": "log2tpm", "model_params": NETWORK}
            sp.tl.fit_predictor(adata, **options, **KEY, **QUICK).save(path)
        elif kind == "combat":
            sp.pp.combat(adata, save_model=path, key_added="mine", **KEY)
        else:
            options = {"method": kind, "method_params": PARAMS[kind], "key_added": "mine", "save_model": path}
            sp.tl.complete(adata, **options, **KEY, **QUICK)
    return path


class ModelInput:
    """A saved model, and sections to apply it to."""

    area = "files"

    def __init__(self, number: int, folder: Path) -> None:
        self.number, self.folder = number, folder
        self.rng = rng = np.random.default_rng([number, 47])
        weights = np.array([4, 0.5, 2, 1, 3])
        self.model = str(rng.choice(KINDS, p=weights / weights.sum()))
        self.whole = saved(self.model, folder)
        self.adata, self.changes = sections.ready(int(rng.integers(sections.N_KINDS))).copy(), []
        if rng.random() < 0.5:
            self.adata, self.changes = change(self.adata, rng)
        self.path, self.done = self.whole, ""
        if rng.random() < 0.6:
            self.path = folder / "damaged"
            shutil.rmtree(self.path, ignore_errors=True)
            shutil.copytree(self.whole, self.path)
            self.done = damage(self.path, rng)
        self.through = pick(rng, ["", "", "h5ad", "zarr"])

    @property
    def good(self) -> bool:
        return not self.changes and not self.done

    def __repr__(self) -> str:
        return f"files {self.number}: {self.model} {self.done!r}, sections {self.changes}, through {self.through!r}"


SIGNED = "signed card"  # edited by a program that writes a right hash


def damage(folder: Path, rng: np.random.Generator) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path, kind = (
        pick(rng, files),
        pick(rng, ["cut", "flip", "remove", "card", "card", SIGNED, SIGNED, "other", "fields"]),
    )
    content = path.read_bytes()
    if kind == "cut":
        path.write_bytes(content[: int(rng.integers(len(content)))])
    elif kind == "flip":
        at = int(rng.integers(len(content)))
        path.write_bytes(content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :])
    elif kind == "remove":
        path.unlink()
    elif kind == "other":
        path.write_bytes(pick(rng, [b"", b"{}", b"[]", b"null", b"\xff\xfe", b"[" * 9999, b"1e999"]))
    else:
        signed = kind == SIGNED
        kind += f" {edit(next(file for file in files if file.suffix == '.json'), rng)}"
        if signed:
            put_card(folder, card_of(folder))
    return f"{kind} {path.name}"


def edit(path: Path, rng: np.random.Generator) -> str:
    """Replace, remove or add one value somewhere in a JSON file."""
    card: Any = json.loads(path.read_text())
    part, where = card, []
    while isinstance(part, dict | list) and part:
        key = pick(rng, list(part)) if isinstance(part, dict) else int(rng.integers(len(part)))
        where.append(str(key))
        if not isinstance(part[key], dict | list) or not part[key] or rng.random() < 0.3:
            break
        part = part[key]
    values = [
        value
        for value in [*ODD, *WRONG_VALUES, 7, "a", -3]
        if isinstance(value, str | int | float | list | dict | None)
    ]
    if rng.random() < 0.2 and isinstance(part, dict):
        del part[key]
    else:
        part[key] = pick(rng, values)
    path.write_text(json.dumps(card, default=str))
    return ".".join(where)


def apply(case: ModelInput, path: Path, adata: AnnData) -> Outcome:
    def run() -> Any:
        if case.model in ("predictor", "network"):
            return sp.tl.load_predictor(path).predict(adata, force=True, **KEY, **QUICK)
        if case.model == "combat":
            return sp.pp.combat(adata, model=path, key_added="mine", copy=True, **KEY)
        return sp.tl.complete(adata, method=path, key_added="mine", copy=True, **KEY, **QUICK)

    return call(run)


def explore(case: ModelInput) -> Outcome:
    """A damaged model is refused, or gives what the whole one gives; sections that went through a file give the same."""
    before, files = snapshot(case.adata), contents(case.path)
    outcome = apply(case, case.path, case.adata)
    if snapshot(case.adata) != before or contents(case.path) != files:
        raise Fault(CHANGED, f"by a saved model, {outcome.error!r}")
    if outcome.error is not None:
        return outcome
    if case.done and not case.done.startswith(SIGNED):  # such a card may be that of another model
        agree(case, outcome, apply(case, case.whole, case.adata), "the whole model")
    if case.through:
        back = through(case)
        if back is not None:
            agree(case, outcome, apply(case, case.path, back), f"through {case.through}")
    return outcome


def agree(case: ModelInput, one: Outcome, other: Outcome, what: str) -> None:
    if other.error is not None:
        raise Fault(WRONG, f"{what}: refused ({other.error!r})")
    different = results_differ(case.adata, one.result, other.result)
    if different:
        raise Fault(WRONG, f"{what}: differ in {different}")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def through(case: ModelInput) -> AnnData | None:
    """The sections, written and read; none where anndata cannot write them."""
    path = case.folder / f"through.{case.through}"
    shutil.rmtree(path, ignore_errors=True)
    path.unlink(missing_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            getattr(case.adata.copy(), f"write_{case.through}")(path)
        except Exception:  # noqa: BLE001 - a name or a value of the user that no file holds
            return None
        return (read_h5ad if case.through == "h5ad" else read_zarr)(path)
