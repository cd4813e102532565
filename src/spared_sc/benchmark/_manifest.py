"""The manifest of a benchmark: everything that is run, read from YAML and checked before anything runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spared_sc._core.files import as_path
from spared_sc.benchmark._yaml import (
    Block,
    flag,
    many,
    near,
    number,
    one_of,
    optional,
    read_yaml,
    table,
    text,
    whole,
)

if TYPE_CHECKING:
    from spared_sc.datasets._entries import DataSet

PATCHES = "patches"  # in place of the name of features: the model reads the image
PROTOCOLS = ("expression", "spared", "hest")
_UNITS = {"B": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_SIZE = re.compile(r"\s*([\d.]+)\s*([A-Za-z]+)\s*")


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Sections to run on; exactly one of `catalogue`, `path` and `synthetic` says where they come from."""

    name: str
    catalogue: str | None = None
    path: Path | None = None
    synthetic: dict[str, Any] | None = None
    sections: tuple[str, ...] | None = None
    images: str | None = "hires"
    library_key: str = "library_id"
    subject_key: str | None = "subject"  # this column where it exists; another one must exist
    split_key: str | None = "split"  # the same
    split: dict[str, str] | None = None  # library -> train, val or test, in place of a column
    recipe: dict[str, Any] | None = field(default_factory=dict)  # of `pp.recipe_spared`; `None`: it has been run
    genes: tuple[str, ...] | None = None
    source: str = ""
    organism: str = ""
    tissue: str = ""
    technology: str = ""


@dataclass(frozen=True, kw_only=True)
class Features:
    """An embedding of the image, see `tl.embed_patches`."""

    name: str
    encoder: str
    weights: str = "pretrained"
    size: tuple[float, ...] | None = None
    n_rings: int = 0


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is learned, and by which loss."""

    target: str
    loss: str
    layer: str = "log2tpm"


@dataclass(frozen=True, kw_only=True)
class Model:
    """A predictor, once for each of its features."""

    model: str
    label: str
    params: dict[str, Any]  # all of them, defaults included
    features: tuple[tuple[str, ...], ...]  # names of features that are joined; empty, or `PATCHES` alone
    targets: tuple[Target, ...]
    datasets: tuple[str, ...]
    seeds: tuple[int, ...]
    device: str


@dataclass(frozen=True, kw_only=True)
class Method:
    """A completion method."""

    method: str
    label: str
    params: dict[str, Any]
    features: str | None
    datasets: tuple[str, ...]
    regimes: tuple[str, ...]
    shares: tuple[float, ...]
    seeds: tuple[int, ...]  # of the masks
    device: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A benchmark. All defaults stand in this module."""

    name: str
    datasets: tuple[Dataset, ...]
    features: tuple[Features, ...]
    patches: dict[str, Any] | None
    models: tuple[Model, ...]
    methods: tuple[Method, ...]
    protocols: tuple[str, ...]
    genes_scored: bool  # whether the scores of single genes are kept
    threads: int
    device: str  # of what is prepared; models and methods have their own
    memory: int | None  # bytes of one cell; `None`: what the machine has
    statistics: dict[str, Any]  # settings of `benchmark.compare` and the report


def read_manifest(path: str | Path) -> Manifest:
    """The manifest in a file; a ValueError that names the place in it if it cannot be used."""
    path = as_path(path, "manifest")
    try:
        return _manifest(Block(read_yaml(path), ""), path.parent, path.stem)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}" if path.name not in str(error) else str(error)) from error


def _manifest(block: Block, folder: Path, stem: str) -> Manifest:
    datasets = block.take("datasets", _named(lambda value, place: _dataset(value, place, folder)))
    names = [dataset.name for dataset in datasets]
    features = block.take("features", _features, ())
    targets = block.take("targets", _targets, _targets([{"target": "expression"}], "targets"))
    patches = block.take("patches", optional(_patches), None)
    device = block.take("device", text, "cpu")
    defaults = _Defaults(
        datasets=tuple(names),
        features=tuple(one.name for one in features),
        patches=patches is not None,
        targets=targets,
        seeds=block.take("seeds", many(whole(0)), (0,)),
        steps=block.take("steps", optional(whole(1)), None),
        device=device,
    )
    models = block.take("models", lambda value, place: _each(value, place, defaults.model), ())
    methods = block.take("completion", lambda value, place: _completion(value, place, defaults), ())
    for place, ones in (("models", models), ("completion.methods", methods)):
        _check_labels(place, [one.label for one in ones])
    manifest = Manifest(
        name=block.take("name", text, stem),
        datasets=datasets,
        features=features,
        patches=patches,
        models=models,
        methods=methods,
        protocols=block.take("protocols", many(one_of(PROTOCOLS, "protocol")), PROTOCOLS[:2]),
        genes_scored=block.take("genes_scored", flag, True),
        threads=block.take("threads", whole(1), 1),
        device=device,
        memory=block.take("memory", optional(_bytes), None),
        statistics=block.take("statistics", table, {}),
    )
    block.end()
    if not models and not methods:
        block.refuse("there is nothing to run: give 'models', 'completion' or both")
    return manifest


# --- data sets and features -------------------------------------------------------------------------------------------


def _dataset(value: Any, place: str, folder: Path) -> Dataset:
    block = Block({"name": value} if isinstance(value, str) else value, place)
    name = block.take("name", text)
    path = block.take("path", lambda value, place: folder / Path(text(value, place)).expanduser(), None)
    synthetic = block.take("synthetic", optional(table), None)
    catalogue = block.take("catalogue", text, name if path is None and synthetic is None else None)
    if sum(one is not None for one in (path, synthetic, catalogue)) > 1:
        block.refuse("'path', 'synthetic' and 'catalogue' exclude each other: a data set comes from one place")
    entry = None if catalogue is None else _entry(catalogue, place)
    known = {} if entry is None else dict(entry.recipe)
    genes: int | tuple[str, ...] | None = block.take("genes", _genes, None)
    recipe = block.take("recipe", _recipe, {})
    if recipe is not None:
        recipe = {**{one: value for one, value in known.items() if one != "n_genes" or genes is None}, **recipe}
    if isinstance(genes, int):
        if recipe is None or "n_genes" in recipe:
            raise ValueError(
                f"{block.at('genes')}: a number of genes needs a recipe that does not give one: list names"
            )
        recipe, genes = {**recipe, "n_genes": genes}, None
    dataset = Dataset(
        name=name,
        catalogue=catalogue,
        path=path,
        synthetic=synthetic,
        sections=block.take("sections", optional(many(text)), None),
        images=block.take("images", optional(one_of(("hires", "full"), "kind of image")), "hires"),
        library_key=block.take("library_key", text, "library_id"),
        subject_key=block.take("subject_key", optional(text), Dataset.subject_key),
        split_key=block.take("split_key", optional(text), "split"),
        split=block.take("split", optional(_split), None),
        recipe=recipe,
        genes=genes,
        source=block.take("source", text, name if entry is None else entry.folder),
        organism=block.take("organism", text, "" if entry is None else entry.organism),
        tissue=block.take("tissue", text, "" if entry is None else entry.tissue),
        technology=block.take("technology", text, "" if entry is None else entry.technology),
    )
    block.end()
    return dataset


def _entry(name: str, place: str) -> DataSet:
    from spared_sc.datasets._catalogue import entry_of

    try:
        return entry_of(name)
    except (KeyError, ValueError) as error:
        raise ValueError(f"{place}: {error.args[0]}") from error


def _recipe(value: Any, place: str) -> dict[str, Any] | None:
    if isinstance(value, bool):
        return {} if value else None
    return optional(table)(value, place)


def _genes(value: Any, place: str) -> int | tuple[str, ...]:
    return many(text)(value, place) if isinstance(value, list) else whole(1)(value, place)


def _split(value: Any, place: str) -> dict[str, str]:
    part = one_of(("train", "val", "test"), "part of a split")
    return {name: part(one, f"{place}.{name}") for name, one in table(value, place).items()}


def _features(value: Any, place: str) -> tuple[Features, ...]:
    found = []
    for name, one in table(value, place).items():
        block = Block({"encoder": one} if isinstance(one, str) else one, f"{place}.{name}")
        if name == PATCHES or "+" in name or "/" in name:
            block.refuse(f"features cannot be called {name!r}: choose a name without '+' and '/', other than 'patches'")
        features = Features(
            name=name,
            encoder=block.take("encoder", _encoder),
            weights=block.take("weights", text, "pretrained"),
            size=block.take("size", optional(many(number)), None),
            n_rings=block.take("n_rings", whole(0), 0),
        )
        block.end()
        found.append(features)
    return tuple(found)


def _encoder(value: Any, place: str) -> str:
    from spared_sc._models.encoders import get_card

    try:
        return get_card(text(value, place)).name
    except (KeyError, ValueError) as error:
        raise ValueError(f"{place}: {error.args[0]}") from error


def _patches(value: Any, place: str) -> dict[str, Any]:
    block = Block(value, place)
    readers: dict[str, Callable[[Any, str], Any]] = {
        "size": number,
        "unit": one_of(("spot", "pixel", "um"), "unit"),
        "output_size": whole(1),
        "mpp": number,
        "assay": text,
        "stain": one_of(("macenko",), "normalisation of stains"),
    }
    found = {name: block.take(name, read, None) for name, read in readers.items()}
    block.end()
    return {name: one for name, one in found.items() if one is not None}


# --- models and methods -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Defaults:
    """What a model or a method takes from the rest of the manifest."""

    datasets: tuple[str, ...]
    features: tuple[str, ...]
    patches: bool
    targets: tuple[Target, ...]
    seeds: tuple[int, ...]
    steps: int | None
    device: str

    def model(self, value: Any, place: str) -> Model:
        from spared_sc._models.prediction.registry import PREDICTORS

        block = Block({"model": value} if isinstance(value, str) else value, place)
        model = block.take("model", one_of(PREDICTORS, "predictor"))
        known = list(PREDICTORS.params_table(model).index)
        if "steps" in block and "n_steps" not in known:
            block.refuse(f"{model!r} is not fitted in steps: leave out 'steps'")
        steps = block.take("steps", optional(whole(1)), self.steps)
        asked = block.take("params", table, {})
        if steps is not None and "n_steps" in known:
            asked = {"n_steps": steps, **asked}
        found = Model(
            model=model,
            label=block.take("label", text, model),
            params=_params(PREDICTORS, model, asked, block.at("params")),
            features=self._features(model, PREDICTORS[model].needs, block),
            targets=block.take("targets", _targets, self.targets),
            datasets=self._datasets(block),
            seeds=block.take("seeds", many(whole(0)), self.seeds),
            device=block.take("device", text, self.device),
        )
        block.end()
        return found

    def _datasets(self, block: Block) -> tuple[str, ...]:
        return block.take("datasets", many(one_of(self.datasets, "data set")), self.datasets)

    def _features(self, model: str, needs: Iterable[str], block: Block) -> tuple[tuple[str, ...], ...]:
        """Groups of joined features; by default one group for each of the manifest's features that the model can read."""
        able = ([] if "patches" in needs else [*self.features]) + ([] if "embedding" in needs else [PATCHES])
        reads = bool({"embedding", "tokens", "patches"} & set(needs))
        default = [(name,) for name in self.features if name in able] or [(PATCHES,)] if reads else [()]
        if "features" in block and not reads:
            block.refuse(f"{model!r} reads no image: leave out 'features'")
        one = one_of(able, f"input of {model!r} called")
        found = block.take("features", many(lambda value, place: many(one)(value, place)), tuple(default))
        joined = next((names for names in found if PATCHES in names and len(names) > 1), None)
        if joined:
            block.refuse(f"{PATCHES!r} cannot be joined with features")
        if (PATCHES,) in found and "embedding" in needs:
            block.refuse(f"{model!r} reads an embedding: describe one under 'features' of the manifest")
        return tuple(found)


def _params(registry: Any, name: str, asked: Mapping[str, Any], place: str) -> dict[str, Any]:
    """All parameters of a predictor or a completion method, checked."""
    known = list(registry.params_table(name).index)
    for one in asked:
        if one not in known:
            raise ValueError(f"{place}: {name!r} has no parameter {one!r}: {near(one, known)}")
    asked = {one: tuple(value) if isinstance(value, list) else value for one, value in asked.items()}
    try:
        return registry.make(name, asked).params()
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"{place}: {error.args[0]}") from error


def _targets(value: Any, place: str) -> tuple[Target, ...]:
    from spared_sc.tl._task import losses_of

    found = []
    for i, one in enumerate(value if isinstance(value, list) else [value]):
        block = Block({"target": one} if isinstance(one, str) else one, f"{place}[{i}]")
        target = block.take("target", text)
        losses = losses_of(target)
        chosen = block.take("loss", many(one_of(losses, f"loss of {target!r} called")), losses[:1])
        layer = block.take("layer", text, Target.layer)
        block.end()
        found += [Target(target=target, loss=loss, layer=layer) for loss in chosen]
    if len(set(found)) < len(found) or not found:
        raise ValueError(f"{place}: a target and loss occur twice, or there is none")
    return tuple(found)


def _completion(value: Any, place: str, defaults: _Defaults) -> tuple[Method, ...]:
    from spared_sc._kernels.masking import REGIMES
    from spared_sc._models.completion.registry import COMPLETERS

    block = Block(value, place)
    regimes = block.take("regimes", many(one_of(REGIMES, "regime")), ("detected",))
    shares = block.take("shares", many(_share), (REGIMES["detected"],))
    masks = block.take("masks", whole(1), 10)
    datasets = defaults._datasets(block)

    def method(value: Any, place: str) -> Method:
        block = Block({"method": value} if isinstance(value, str) else value, place)
        name = block.take("method", one_of(COMPLETERS, "completion method"))
        found = Method(
            method=name,
            label=block.take("label", text, name),
            params=_params(COMPLETERS, name, block.take("params", table, {}), block.at("params")),
            features=block.take("features", optional(one_of(defaults.features, "features called")), None),
            datasets=block.take("datasets", many(one_of(defaults.datasets, "data set")), datasets),
            regimes=block.take("regimes", many(one_of(REGIMES, "regime")), regimes),
            shares=block.take("shares", many(_share), shares),
            seeds=tuple(range(block.take("masks", whole(1), masks))),
            device=block.take("device", text, defaults.device),
        )
        block.end()
        return found

    methods = block.take("methods", lambda value, place: _each(value, place, method))
    block.end()
    return methods


def _share(value: Any, place: str) -> float:
    share = number(value, place)
    if not 0 < share < 1:
        raise ValueError(f"{place}: found {value!r}, expected a number between 0 and 1")
    return share


# --- small things -----------------------------------------------------------------------------------------------------


def _each(value: Any, place: str, read: Callable[[Any, str], Any]) -> tuple[Any, ...]:
    ones = value if isinstance(value, list) else [value]
    return tuple(read(one, f"{place}[{i}]") for i, one in enumerate(ones))


def _named(read: Callable[[Any, str], Dataset]) -> Callable[[Any, str], tuple[Dataset, ...]]:
    def read_all(value: Any, place: str) -> tuple[Dataset, ...]:
        found = _each(value, place, read)
        _check_labels(place, [one.name for one in found])
        if not found:
            raise ValueError(f"{place}: the list is empty")
        return found

    return read_all


def _check_labels(place: str, names: list[str]) -> None:
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise ValueError(f"{place}: {twice!r} occurs twice: give each a name (`name`, `label`) of its own")


def _bytes(value: Any, place: str) -> int:
    found = _SIZE.fullmatch(str(value))
    if not found or found[2].upper() not in _UNITS:
        raise ValueError(f"{place}: found {value!r}, expected a size such as '8 GiB'")
    return int(float(found[1]) * _UNITS[found[2].upper()])
