"""SpatialData objects of the same sections, whole and spoiled: what they give is what the AnnData gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fuzz import sections
from fuzz.arguments import draw, function, parameters
from fuzz.checks import CHANGED, WRONG, Fault, Outcome, call, same_error
from fuzz.damage import pick
from fuzz.inputs import FUNCTIONS, SLOW
from fuzz.relations import compare, tables_differ, written_slots
from helpers.sdata import as_spatialdata
from properties.calls import snapshot

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from spatialdata import SpatialData

TAKING = [name for name in FUNCTIONS if next(iter(parameters(name)), "") == "adata"]


def made(adata: AnnData, rng: np.random.Generator) -> SpatialData:
    """The object, its table with all that the AnnData has, but for positions and images."""
    sdata = as_spatialdata(
        adata,
        image=pick(rng, ["small", "pyramid"]),
        positions=bool(rng.random() < 0.5),
        shapes=pick(rng, ["circles", "squares"]),
    )
    table = sdata.tables["table"]
    table.var = adata.var.copy()
    for attr in ("layers", "obsm", "varm", "obsp"):
        for name, value in getattr(adata, attr).items():
            if name != "spatial":
                getattr(table, attr)[name] = value.copy()
    for name in ("spared_sc", "spatial_neighbors"):
        if name in adata.uns:
            table.uns[name] = adata.uns[name]
    return sdata


def spoil(sdata: SpatialData, rng: np.random.Generator) -> str:
    """Harm one part; what was done."""
    table = sdata.tables["table"]
    attrs, kind = table.uns["spatialdata_attrs"], int(rng.integers(14))
    region, i = pick(rng, list(sdata.shapes)), int(rng.integers(table.n_obs))
    if kind == 0:
        del sdata.images[pick(rng, list(sdata.images))]
    elif kind == 1:
        del sdata.shapes[region]
    elif kind == 2:
        table.obs["region"] = table.obs["region"].astype(str)
    elif kind == 3:
        table.obs["spot"] = table.obs["spot"] + 7
    elif kind == 4:
        del table.uns["spatialdata_attrs"]
    elif kind == 5:
        table.uns["spatialdata_attrs"] = {**attrs, "region_key": "nothing"}
    elif kind == 6:
        table.uns["spatialdata_attrs"] = {**attrs, "region": pick(rng, [None, [], "nothing", [region]])}
    elif kind == 7:
        del sdata.tables["table"]
    elif kind == 8:
        table.obs.loc[table.obs_names[i], "spot"] = table.obs["spot"].iloc[0]
    elif kind == 9:
        sdata.shapes[region] = sdata.shapes[region].iloc[:-1]
    elif kind == 10:
        del table.obs[pick(rng, ["region", "spot"])]
    elif kind == 11:
        table.obs["spot"] = table.obs["spot"].astype(pick(rng, ["float64", "str"]))
    elif kind == 12:
        table.uns["spatialdata_attrs"] = pick(rng, [None, "text", {}, [], {"region": region}])
    else:
        table.obs["region"] = pd.Categorical([None, *table.obs["region"].iloc[1:]])
    return f"spoiled {kind}"


class ObjectInput:
    """A call with a SpatialData object in place of an AnnData."""

    area = "spatialdata"

    def __init__(self, number: int, folder: Path) -> None:
        self.number, self.folder = number, folder
        self.rng = rng = np.random.default_rng([number, 31])
        weights = np.array([SLOW.get(name, 1.0) for name in TAKING])
        self.name = str(rng.choice(TAKING, p=weights / weights.sum()))
        self.kind = int(rng.integers(sections.N_KINDS))
        self.adata = sections.ready(self.kind).copy()
        self.sdata = made(self.adata, rng)
        self.changes = [spoil(self.sdata, rng)] if rng.random() < 0.5 else []
        self.arguments = draw(self.name, rng)

    @property
    def good(self) -> bool:
        return not self.changes and self.arguments.wrong is None

    def __repr__(self) -> str:
        return f"spatialdata {self.number}: sp.{self.name}(kind {self.kind} {self.changes}, {self.arguments.values})"


def frozen(sdata: SpatialData) -> dict[str, Any]:
    parts = {name: snapshot(table) for name, table in sdata.tables.items()}
    shapes = {name: shapes.to_wkb().to_dict("list") for name, shapes in sdata.shapes.items()}
    return {**parts, "shapes": repr(shapes), "images": list(sdata.images)}


def explore(case: ObjectInput) -> Outcome:
    values = dict(case.arguments.values)
    writes = {"copy": True} if "copy" in parameters(case.name) else {}
    ours = {name: {"library_id": "region"}.get(v, v) if isinstance(v, str) else v for name, v in values.items()}
    if case.arguments.wrong is not None:
        ours = values | ({"library_key": "region"} if case.arguments.wrong != "library_key" else {})
        ours = {name: value for name, value in ours.items() if name in parameters(case.name)}
    before = frozen(case.sdata)
    outcome = call(lambda: function(case.name)(case.sdata, **ours, **writes))
    if frozen(case.sdata) != before:
        raise Fault(CHANGED, f"SpatialData, {outcome.error!r}")
    if case.good and not case.name.startswith("pl."):
        other = call(lambda: function(case.name)(case.adata, **values, **writes))
        compare_with_anndata(case, outcome, other)
    return outcome


def causes_differ(theirs: pd.DataFrame, mine: pd.DataFrame) -> bool:
    """Whether likely causes of the same libraries contradict each other.

    Copies of an image of another size are others that may be meant, so one may name causes that the other cannot.
    """
    pairs = zip(theirs["likely_cause"], mine.loc[theirs.index, "likely_cause"], strict=True)
    named = [(set(filter(None, one.split(" or "))), set(filter(None, other.split(" or ")))) for one, other in pairs]
    return any(not (one <= other or other <= one) for one, other in named)


def compare_with_anndata(case: ObjectInput, outcome: Outcome, other: Outcome) -> None:
    if not same_error(outcome.error, other.error):
        raise Fault(WRONG, f"SpatialData gives {outcome.error!r}, AnnData {other.error!r}")
    if outcome.error is not None:
        return
    mine, theirs = outcome.result, other.result
    if isinstance(mine, pd.DataFrame):
        mine = mine.rename(columns={"region": "library_id"}).rename_axis(index=theirs.index.name)
        different = tables_differ(theirs, mine)
        if different == ["likely_cause"] and not causes_differ(theirs, mine):
            return
    elif hasattr(mine, "obs_names"):
        slots = {slot for slot in written_slots(case.adata, theirs) if slot != "obsm:spatial"}
        different = compare(theirs, mine, {slot for slot in slots if not slot.startswith("obs:")})
    else:
        return
    if different:
        raise Fault(WRONG, f"SpatialData and AnnData differ in {different}")
