"""Files to explore, joined where there are several."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from spared_sc._core.keys import Key
from spared_sc._core.record import records_of
from spared_sc._core.slides import slides_of
from spared_sc._core.validate import check_adata, get_libraries, listing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData
    from spatialdata import SpatialData

LIBRARY_KEY = "library_id"
_FORMATS = (".h5ad", ".zarr")


def read_files(paths: Sequence[Path], library_key: str | None) -> tuple[AnnData | SpatialData, str | None]:
    """What the files hold, and the column of its libraries.

    Several files are joined: they keep the genes, layers and predictions that all of them have. The column that is looked
    for by default is `library_id`.
    """
    found = [_read(path) for path in paths]
    if len(found) == 1:
        key = LIBRARY_KEY if library_key is None and LIBRARY_KEY in getattr(found[0], "obs", ()) else library_key
        return found[0], key
    for path, one in zip(paths, found, strict=True):
        if not hasattr(one, "obs"):
            raise ValueError(f"{path} is a SpatialData store, which is shown alone: give it as the only path.")
    return _joined(found, [path.stem for path in paths], library_key), LIBRARY_KEY


def _read(path: Path) -> AnnData | SpatialData:
    import anndata

    if path.suffix not in _FORMATS:
        raise ValueError(f"{path} cannot be read: expected a name that ends in .h5ad or .zarr.")
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the file formats' versions
        if path.suffix == ".h5ad":
            return anndata.read_h5ad(path)
        if _is_spatialdata(path):
            import spatialdata

            return spatialdata.read_zarr(path)
        return anndata.read_zarr(path)


def _is_spatialdata(path: Path) -> bool:
    import zarr

    return "spatialdata_attrs" in zarr.open_group(path, mode="r").attrs


def _joined(adatas: list[AnnData], stems: list[str], library_key: str | None) -> AnnData:
    """One object with the libraries of all, named apart."""
    import anndata

    of_file = [_libraries(adata, stem, library_key) for adata, stem in zip(adatas, stems, strict=True)]
    count = Counter(name for names in of_file for name in dict.fromkeys(names))
    labels = [f"{stem} {i + 1}" if stems.count(stem) > 1 else stem for i, stem in enumerate(stems)]
    parts: list[AnnData] = []
    slides: dict[str, Any] = {}
    for adata, names, label in zip(adatas, of_file, labels, strict=True):
        new = {name: f"{name} ({label})" if count[name] > 1 else name for name in dict.fromkeys(names)}
        part = adata.copy()
        part.obs[LIBRARY_KEY] = [new[name] for name in names]
        parts.append(part)
        known = slides_of(adata)
        # The only image of a file is that of its only library, whatever it is called.
        only = next(iter(known.values())) if len(known) == len(new) == 1 else None
        slides |= {label: known.get(name, only) for name, label in new.items() if name in known or only is not None}
    common = set.intersection(*(set(part.var_names) for part in parts))
    if not common:
        raise ValueError(f"{listing(stems)} have no gene in common: show them one by one.")
    repeated = any(n > 1 for n in Counter(name for part in parts for name in part.obs_names).values())
    keys = labels if repeated else None
    whole = anndata.concat(parts, join="inner", merge="same", keys=keys, index_unique="-" if repeated else None)
    whole.uns = {Key.uns.spatial: slides, Key.uns.records: _common_records(parts)}
    selected = [set(part.var_names[part.var[Key.var.selected]]) for part in parts if Key.var.selected in part.var]
    if selected:
        whole.var[Key.var.selected] = whole.var_names.isin(set.union(*selected))
    return whole


def _libraries(adata: AnnData, stem: str, library_key: str | None) -> np.ndarray:
    """The library of every spot; a file that names none is one."""
    key = LIBRARY_KEY if library_key is None and LIBRARY_KEY in adata.obs else library_key
    libraries = get_libraries(check_adata(adata), key)
    names = [stem] if libraries.key is None and not slides_of(adata) else libraries.names
    return np.array(names, dtype=object)[libraries.codes]


def _common_records(adatas: list[AnnData]) -> dict[str, Any]:
    """Records of steps that all files went through, as those of the first: they name layers and their units."""
    first, *others = (records_of(adata) for adata in adatas)
    return {name: made for name, made in first.items() if all(name in records for records in others)}
