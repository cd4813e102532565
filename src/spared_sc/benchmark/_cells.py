"""Cells, the units of work of a benchmark, and the identifiers that say what decides the result of each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spared_sc._models.completion.registry import COMPLETERS
from spared_sc._models.prediction.registry import PREDICTORS
from spared_sc.benchmark._manifest import PATCHES, Dataset, Features, Manifest, Method, Model, Target
from spared_sc.benchmark._tables import COMPLETION, PREDICTION

if TYPE_CHECKING:
    from collections.abc import Callable

RESULTS = 1  # raised whenever a change of the package changes results: cells of before are then computed again
_LENGTH = 16  # hexadecimal digits of an identifier
# What is known of a data set and decides no result
_ABOUT = ("source", "organism", "tissue", "technology")


@dataclass(frozen=True, kw_only=True)
class Job:
    """Something for a worker process: a data set or features to prepare, or a cell to compute."""

    id: str
    kind: str  # "data", "features", "prediction" or "completion"
    needs: tuple[str, ...]  # identifiers of the jobs that come before
    threads: int
    device: str
    order: dict[str, Any]  # plain values that say what to do


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A unit of work, the row that describes it, and why it cannot run, if it cannot."""

    job: Job
    row: dict[str, Any]
    refused: str = ""

    @property
    def id(self) -> str:
        """Identifier."""
        return self.job.id


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All cells of a manifest, and the jobs that prepare what they share."""

    cells: tuple[Cell, ...]
    prepare: dict[str, Job]

    def needed(self, cells: Iterable[Cell]) -> Iterator[Job]:
        """What these cells need and they themselves, in an order in which each comes after what it needs."""
        seen: set[str] = set()

        def walk(job: Job) -> Iterator[Job]:
            if job.id not in seen:
                seen.add(job.id)
                for before in job.needs:
                    yield from walk(self.prepare[before])
                yield job

        for cell in cells:
            yield from walk(cell.job)


def identifier(values: Mapping[str, Any]) -> str:
    """Short hash of plain values."""
    text = json.dumps(values, sort_keys=True, default=str, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:_LENGTH]


def make_plan(manifest: Manifest, content_of: Callable[[Dataset], str]) -> Plan:
    """Every cell of the manifest; `content_of` gives the hash of what a data set is read from."""
    prepare: dict[str, Job] = {}
    cells: dict[str, Cell] = {}
    for dataset in manifest.datasets:
        data = _data_job(manifest, dataset, content_of(dataset))
        prepare[data.id] = data
        maker = _Maker(manifest, dataset, data, prepare)
        made = [maker.predictions(model) for model in manifest.models if dataset.name in model.datasets]
        made += [maker.completions(method) for method in manifest.methods if dataset.name in method.datasets]
        for cell in chain.from_iterable(made):
            if cell.id in cells:
                one, other = (f"{one.row['label']!r} on {one.row['dataset']!r}" for one in (cells[cell.id], cell))
                raise ValueError(f"{one} and {other} are the same computation: leave one out of the manifest.")
            cells[cell.id] = cell
    return Plan(cells=tuple(cells.values()), prepare=prepare)


def _data_job(manifest: Manifest, dataset: Dataset, content: str) -> Job:
    order = {name: value for name, value in asdict(dataset).items() if name not in (*_ABOUT, "name")}
    order["path"] = None if dataset.path is None else str(dataset.path)
    decides = {**order, "path": None, "content": content, "results": RESULTS}
    return Job(
        id=identifier(decides), kind="data", needs=(), threads=manifest.threads, device="cpu", order=_plain(order)
    )


@dataclass(frozen=True)
class _Maker:
    """Makes the cells of a data set."""

    manifest: Manifest
    dataset: Dataset
    data: Job
    prepare: dict[str, Job]

    def predictions(self, model: Model) -> Iterator[Cell]:
        for features in model.features:
            read = tuple(name for name in features if name != PATCHES)
            for target in model.targets:
                for seed in model.seeds:
                    order = {
                        "model": model.model,
                        "params": model.params,
                        "patches": self._patches(features),
                        **asdict(target),
                        "seed": seed,
                        "protocols": self.manifest.protocols,
                        "genes_scored": self.manifest.genes_scored,
                    }
                    row = {"label": _label(model, features), "target": target.target, "loss": target.loss}
                    yield self._cell(PREDICTION, order, read, row, model.device, self._refused(model, features, target))

    def completions(self, method: Method) -> Iterator[Cell]:
        read = (method.features,) if method.features else ()
        refused = ""
        if "embedding" in COMPLETERS[method.method].needs and not read:
            refused = f"{method.method!r} needs an embedding: give 'features'"
        for regime in method.regimes:
            for share in method.shares if regime == "detected" else (None,):
                for seed in method.seeds:
                    order = {
                        "model": method.method,
                        "params": method.params,
                        "regime": regime,
                        "share": share,
                        "layer": Target.layer,
                        "seed": seed,
                    }
                    row = {"label": method.label, "regime": regime, "share": share}
                    yield self._cell(COMPLETION, order, read, row, method.device, refused)

    def _cell(
        self, task: str, order: dict[str, Any], read: tuple[str, ...], row: dict[str, Any], device: str, refused: str
    ) -> Cell:
        threads = self.manifest.threads
        needs = (self.data.id, *(self._features(name) for name in read))
        order = _plain({**order, "features": read})
        decides = {**order, "features": needs, "task": task, "threads": threads, "device": device, "results": RESULTS}
        job = Job(id=identifier(decides), kind=task, needs=needs, threads=threads, device=device, order=order)
        described = {
            "task": task,
            "dataset": self.dataset.name,
            **{name: getattr(self.dataset, name) for name in _ABOUT},
            "model": order["model"],
            "features": "+".join(read) or (PATCHES if order.get("patches") is not None else ""),
            "params": json.dumps(order["params"], sort_keys=True),
            "seed": order["seed"],
            "threads": threads,
            **row,
        }
        return Cell(job=job, row=described, refused=refused)

    def _features(self, name: str) -> str:
        """Identifier of the job that embeds the data set, which is added where it is new."""
        features = next(one for one in self.manifest.features if one.name == name)
        order = {key: value for key, value in asdict(features).items() if key != "name"}
        weights = Path(features.weights).expanduser()
        decides = {**order, "data": self.data.id, "device": self.manifest.device, "card": _card(features)}
        decides["results"] = RESULTS
        decides["weights"] = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else features.weights
        job = Job(
            id=identifier(decides),
            kind="features",
            needs=(self.data.id,),
            threads=self.manifest.threads,
            device=self.manifest.device,
            order=_plain(order),
        )
        self.prepare[job.id] = job
        return job.id

    def _patches(self, features: tuple[str, ...]) -> dict[str, Any] | None:
        return (self.manifest.patches or {}) if PATCHES in features else None

    def _refused(self, model: Model, features: tuple[str, ...], target: Target) -> str:
        """Why a model cannot run on this data set, as far as is known before."""
        if target.loss in ("poisson", "nb") and not PREDICTORS[model.model].takes_counts:
            return f"{model.model!r} cannot be fitted to counts (loss {target.loss!r})"
        if features and self.dataset.images is None:
            return f"{model.model!r} reads images, and the data set is read without (images: null)"
        if "patches" in PREDICTORS[model.model].needs and PATCHES not in features:
            return f"{model.model!r} reads patches"
        return ""


def _card(features: Features) -> dict[str, Any]:
    from spared_sc._models.encoders import get_card

    return asdict(get_card(features.encoder))


def _label(model: Model, features: tuple[str, ...]) -> str:
    return f"{model.label}[{'+'.join(features)}]" if features else model.label


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """The same as JSON gives it back."""
    return json.loads(json.dumps(values, default=str))
