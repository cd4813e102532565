"""Data sets as all cells of them read them: fetched, taken through the recipe and embedded once, and kept as files."""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sps

from spared_sc._core.files import write_whole
from spared_sc._core.locks import only_writer
from spared_sc._core.record import from_record, records_of
from spared_sc._core.validate import listing
from spared_sc.benchmark._yaml import near
from spared_sc.datasets._catalogue import entry_of

if TYPE_CHECKING:
    from anndata import AnnData

    from spared_sc.benchmark._cells import Job
    from spared_sc.benchmark._manifest import Dataset

_ABOUT = "benchmark"  # in `uns`: what later steps and the tables need to know
_EMBEDDING = "X_benchmark"
GENES = "spared_selected"
_BLOCK = 2**24  # bytes read at a time


# --- what a data set is read from -------------------------------------------------------------------------------------


def content_of(dataset: Dataset, known: Path | None = None) -> str:
    """Hash of what a data set is read from: its files, or what the catalogue says about them.

    `known` is a file of hashes from before: a file of the same size and time is not read again.
    """
    if dataset.catalogue is not None:
        entry = entry_of(dataset.catalogue)
        said = [entry.key, {name: asdict(one) for name, one in entry.sections.items()}, entry.source, entry.files]
        return hashlib.sha256(json.dumps([*said, entry.sha256], sort_keys=True, default=dict).encode()).hexdigest()
    if dataset.path is None:
        return "synthetic"
    if not dataset.path.exists():
        return "missing"
    files = (
        [dataset.path] if dataset.path.is_file() else sorted(path for path in dataset.path.rglob("*") if path.is_file())
    )
    hashes = _read_hashes(known)
    found = {str(path): _hash_of(path, hashes) for path in files}
    if known is not None and any(hashes.get(path) != one for path, one in found.items()) and known.parent.is_dir():
        with only_writer(known):
            write_whole(known, json.dumps(_read_hashes(known) | found, indent=0, sort_keys=True).encode())
    names = [path.relative_to(dataset.path).as_posix() for path in files]
    return hashlib.sha256(json.dumps([names, [one["sha256"] for one in found.values()]]).encode()).hexdigest()


def _read_hashes(known: Path | None) -> dict[str, dict[str, Any]]:
    try:
        return {} if known is None else json.loads(known.read_bytes())
    except (OSError, ValueError):
        return {}


def _hash_of(path: Path, hashes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    stat = path.stat()
    mark = {"size": stat.st_size, "time": stat.st_mtime_ns}
    before = hashes.get(str(path), {})
    if before.items() >= mark.items():
        return before
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return {**mark, "sha256": digest.hexdigest()}


# --- preparing --------------------------------------------------------------------------------------------------------


def prepare_data(job: Job) -> AnnData:
    """The data set after the recipe, with what the tables say about it."""
    import spared_sc as sp

    order = job.order
    adata = _with_sections(_read(order), order)
    keys = _keys(adata, order)
    if order["split"] is not None:
        _set_split(adata, order, keys)
    recipe = order["recipe"]
    if recipe is not None:
        options: dict[str, Any] = {name: keys[name] for name in ("library_key", "split_key")}
        sp.pp.recipe_spared(adata, n_jobs=job.threads, **{**options, **recipe})
    if order["genes"] is not None:
        _choose_genes(adata, order["genes"])
    libraries = 1 if keys["library_key"] is None else int(adata.obs[keys["library_key"]].nunique())
    about = {"dataset_hash": _content_hash(adata), "n_spots": adata.n_obs, "n_libraries": libraries, "keys": keys}
    adata.uns[_ABOUT] = json.dumps(about)
    return adata


def about(adata: AnnData) -> dict[str, Any]:
    """What was found when the data set was prepared."""
    return json.loads(adata.uns[_ABOUT])


def _read(order: dict[str, Any]) -> AnnData:
    import anndata as ad

    import spared_sc as sp

    if order["synthetic"] is not None:
        options: dict[str, Any] = {
            name: tuple(one) if isinstance(one, list) else one for name, one in order["synthetic"].items()
        }
        return sp.datasets.synthetic(**options)
    if order["path"] is None:
        return sp.datasets.load(
            order["catalogue"],
            sections=order["sections"],
            images=order["images"],
            library_key=order["library_key"],
        )
    path = Path(order["path"])
    if not path.exists():
        raise FileNotFoundError(f"there is nothing at {path.name}, which the manifest names: check its path")
    if path.suffix in (".h5ad", ".zarr"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the file formats' versions
            return ad.read_h5ad(path) if path.suffix == ".h5ad" else ad.read_zarr(path)
    if not path.is_dir():
        raise ValueError(f"{path.name} cannot be read: give an .h5ad, a .zarr or a folder of Visium sections")
    sections = [path] if (path / "spatial").is_dir() else sorted(one for one in path.iterdir() if one.is_dir())
    return sp.datasets.read_visium(sections, library_key=order["library_key"], load_images=order["images"] is not None)


def _keys(adata: AnnData, order: dict[str, Any]) -> dict[str, str | None]:
    """Columns of `obs`; the default ones where they exist."""
    from spared_sc.benchmark._manifest import Dataset

    found = {}
    for name in ("library_key", "subject_key", "split_key"):
        key = order[name]
        default = key == getattr(Dataset, name)
        if key is not None and key not in adata.obs:
            if not default:
                raise KeyError(f"there is no column {key!r} ({name}) in obs: {near(key, adata.obs.columns)}")
            key = None
        found[name] = key
    return found


def _with_sections(adata: AnnData, order: dict[str, Any]) -> AnnData:
    """The libraries that are asked for; of the catalogue, no others were read."""
    wanted, key = order["sections"], order["library_key"]
    if wanted is None or order["catalogue"] is not None:
        return adata
    if key not in adata.obs:
        raise KeyError(f"sections are chosen, and there is no column {key!r} in obs: {near(key, adata.obs.columns)}")
    names = adata.obs[key].astype(str)
    missing = next((name for name in wanted if name not in set(names)), None)
    if missing is not None:
        raise KeyError(f"there is no section {missing!r} in obs[{key!r}]: {near(missing, names.unique())}")
    return adata[names.isin(wanted)].copy()


def _set_split(adata: AnnData, order: dict[str, Any], keys: dict[str, str | None]) -> None:
    """Write the manifest's split into `obs`."""
    if keys["library_key"] is None:
        raise KeyError(f"a split needs libraries: there is no column {order['library_key']!r} in obs")
    names = adata.obs[keys["library_key"]].astype(str)
    unnamed = sorted(set(names) ^ set(order["split"]))
    if unnamed:
        raise ValueError(f"the split of the manifest and the libraries differ in {listing(unnamed)}: name each library")
    adata.obs["split"] = names.map(order["split"]).to_numpy()
    keys["split_key"] = "split"


def _choose_genes(adata: AnnData, genes: list[str]) -> None:
    missing = [gene for gene in genes if gene not in adata.var_names]
    if missing:
        raise KeyError(
            f"{len(missing)} genes of the manifest are not there, such as {listing(missing, 3)}: leave them out"
        )
    adata.var[GENES] = np.isin(adata.var_names, genes)


def _content_hash(adata: AnnData) -> str:
    """Hash of counts, layers, names, positions, libraries, splits, images and selected genes."""
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if sps.issparse(value):
            value = value.tocsr().sorted_indices()
            for part in (value.indptr.astype(np.int64), value.indices.astype(np.int64), value.data):
                add(part)
        elif isinstance(value, np.ndarray) and value.dtype != object:
            digest.update(f"{value.dtype.str}{value.shape}".encode())
            digest.update(np.ascontiguousarray(value).view(np.uint8).data if value.size else b"")
        elif isinstance(value, dict):
            for name in sorted(value):
                digest.update(f"{name}:".encode())
                add(value[name])
        else:
            digest.update(json.dumps(np.asarray(value).astype(str).tolist()).encode())

    add(adata.X)
    for values in (adata.layers, adata.obsm):
        add({name: np.asarray(one) if hasattr(one, "columns") else one for name, one in values.items()})
    add(adata.obs_names)
    add(adata.var_names)
    for frame in (adata.obs, adata.var):
        add({name: frame[name].to_numpy() for name in frame})
    add({name: one for name, one in adata.uns.items() if name == "spatial"})
    return digest.hexdigest()


# --- features ---------------------------------------------------------------------------------------------------------


def prepare_features(job: Job, adata: AnnData) -> AnnData:
    """The embedding alone, with its record, as an AnnData without genes."""
    import spared_sc as sp

    keys, order = about(adata)["keys"], job.order
    sp.tl.embed_patches(
        adata,
        encoder=order["encoder"],
        weights=order["weights"],
        size=order["size"],
        n_rings=order["n_rings"],
        library_key=keys["library_key"],
        key_added=_EMBEDDING,
        device=job.device,
        show_progress_bar=False,
    )
    alone = adata[:, :0].copy()
    record = {name: one for name, one in adata.uns["spared_sc"].items() if name == _EMBEDDING}
    alone.uns, alone.layers, alone.obsp = {"spared_sc": record}, {}, {}
    alone.obs, alone.obsm = alone.obs[[]], {_EMBEDDING: adata.obsm[_EMBEDDING]}
    return alone


def attach(adata: AnnData, features: dict[str, AnnData]) -> dict[str, str]:
    """Put embeddings into the data set, and return what the tables say of their encoders."""
    identities = []
    for name, embedded in features.items():
        adata.obsm[name] = embedded.obsm[_EMBEDDING]
        record = dict(records_of(embedded)[_EMBEDDING])
        record["slots"] = [f'obsm["{name}"]']
        adata.uns["spared_sc"] = {**adata.uns.get("spared_sc", {}), name: record}
        identities.append(from_record(record["encoder"]))
    return {
        "encoder": "+".join(str(one["name"]) for one in identities),
        "encoder_revision": "+".join(str(one["weights"]) for one in identities),
    }
