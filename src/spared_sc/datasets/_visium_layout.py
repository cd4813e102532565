"""Which files of a folder belong to a Visium section: as Space Ranger writes them, and as repositories deliver them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from spared_sc._core.report import logger
from spared_sc._core.validate import listing
from spared_sc.datasets._counts_10x import MtxFiles
from spared_sc.datasets._files import content, names_in

if TYPE_CHECKING:
    from pathlib import Path

# Repositories put the name of the sample before or behind the name that Space Ranger gives, and compress every file.
_ROLES = {
    role: re.compile(rf"^(?P<before>.*?){pattern}(?P<behind>.*?)\.(?P<end>{ends})(?:\.gz)?$", re.IGNORECASE)
    for role, pattern, ends in (
        ("filtered", r"filtered_(?:feature|gene)_bc_matri(?:x|ces_h5|ces)", "h5"),
        ("raw", r"raw_(?:feature|gene)_bc_matri(?:x|ces_h5|ces)", "h5"),
        ("positions", r"(?:aggr_)?tissue_positions(?:_list)?", "parquet|csv|txt"),
        ("scalefactors", r"scalefactors(?:_json)?", "json"),
        ("hires", "tissue_hires_image", "png|jpg|jpeg|tiff|tif"),
        ("lowres", "tissue_lowres_image", "png|jpg|jpeg|tiff|tif"),
        ("aggregation", "aggregation", "csv"),
        ("matrix", "matrix", "mtx"),
        ("features", "(?:features|genes)", "tsv"),
        ("barcodes", "barcodes", "tsv"),
    )
}
_MTX = ("matrix", "features", "barcodes")
_ANY_COUNTS = ("filtered", "raw", "matrix", "filtered folder", "raw folder")
_COUNTS_FOLDER = re.compile(r"^(?P<before>.*?)(?P<kind>filtered|raw)_(?:feature|gene)_bc_matri(?:x|ces)(?P<behind>.*)$")
_SPATIAL_FOLDER = re.compile(r"^(?:(?P<before>.*?)[_.-])?spatial$", re.IGNORECASE)
_BIN_FOLDER = re.compile(r"^square_(\d+)um$")
_SEPARATORS = "_-. "
PARTS = "a folder `spatial` and counts such as filtered_feature_bc_matrix.h5"


@dataclass
class Layout:
    """The files of one section, or of one aggregated run."""

    folder: Path
    counts: Path | MtxFiles
    filtered: bool  # whether the counts hold the spots in tissue only
    positions: Path | None
    scalefactors: Path | None
    images: dict[str, Path] = field(default_factory=dict)  # hires, lowres
    aggregation: Path | None = None
    spatial: list[Path] = field(default_factory=list)  # folders in which spatial files were looked for
    bin_um: int | None = None  # side of a bin of Visium HD, as the folder's name says

    @property
    def counts_path(self) -> Path:
        """The file to name in messages about the counts."""
        return self.counts.matrix if isinstance(self.counts, MtxFiles) else self.counts

    @property
    def counts_name(self) -> str:
        """What the counts are called in the folder."""
        return self.counts.name


@dataclass
class _Found:
    """Files by the sample that their names say, and then by role; the first of a role is the preferred one."""

    samples: dict[str, dict[str, list[Path]]] = field(default_factory=dict)

    def add(self, sample: str, role: str, path: Path) -> None:
        self.samples.setdefault(sample, {}).setdefault(role, []).append(path)

    def having(self, *roles: str) -> list[str]:
        """Samples with a file of any of the roles."""
        return sorted(sample for sample, files in self.samples.items() if files.keys() & set(roles))


def role_of(path: str) -> str | None:
    """What a file is by the name that Space Ranger gives it; parts of a raw matrix, by their folder, as `"raw matrix"`."""
    folder, _, name = path.rpartition("/")
    role = next((role for role, pattern in _ROLES.items() if pattern.match(name)), None)
    kind = _COUNTS_FOLDER.match(folder.rpartition("/")[2])
    return f"raw {role}" if role in _MTX and kind and kind["kind"] == "raw" else role


def in_order(paths: Iterable[Path]) -> list[Path]:
    """Files of one role, the preferred one first."""
    return sorted(paths, key=_rank)


def section_folder(folder: Path, bin_size: int | None) -> tuple[Path, int | None]:
    """The folder with the counts: `outs` inside of it, or that of the bins of Visium HD; and the size of the bins."""
    if bin_size is not None and (isinstance(bin_size, bool) or not isinstance(bin_size, int | float | np.integer)):
        raise TypeError(f"bin_size={bin_size!r} is no number: pass the side of a bin in um, such as 8.")
    named = _BIN_FOLDER.match(folder.name)
    if named:
        if bin_size not in (None, int(named[1])):
            raise ValueError(f"bin_size={bin_size} does not fit the folder {folder}: pass the folder of the run.")
        return folder, int(named[1])
    places = [folder, folder / "binned_outputs", folder / "outs", folder / "outs" / "binned_outputs"]
    bins = {
        int(match[1]): path
        for place in places
        if place.is_dir()
        for path in names_in(place)
        if path.is_dir() and (match := _BIN_FOLDER.match(path.name))
    }
    if bins:
        if bin_size is None and len(bins) > 1:
            raise ValueError(
                f"{folder} holds bins of {', '.join(f'{size} um' for size in sorted(bins))}: choose with "
                f"bin_size={min(bins, key=lambda size: abs(size - 8))}."
            )
        size = min(bins) if bin_size is None else bin_size
        if size not in bins:
            raise ValueError(f"bin_size={bin_size} is not in {folder}, which holds {listing(sorted(bins))} (um).")
        return bins[size], size
    if bin_size is not None:
        raise ValueError(
            f"bin_size={bin_size} is for Visium HD, and {folder} has no folders such as square_008um (it holds "
            f"{content(folder)}): leave bin_size out."
        )
    outs = folder / "outs"
    return (
        outs if outs.is_dir() and not _looked_through(folder, []).having("filtered", "raw", "matrix") else folder
    ), None


def find_layout(folder: Path, counts_file: str | None, bin_um: int | None = None) -> Layout:
    """The files of the section in a folder; `counts_file` chooses among several."""
    spatial = [path for path in names_in(folder) if path.is_dir() and _SPATIAL_FOLDER.match(path.name)]
    found = _looked_through(folder, spatial)
    if counts_file is None:
        sample = _only_sample(folder, found)
        counts, filtered = _usual_counts(found.samples[sample])
    else:
        counts, sample = _named_counts(folder, counts_file)
        filtered = "raw" not in counts.name

    def pick(role: str) -> Path | None:
        return _of_sample(folder, found, role, sample, counts.name)

    images = {role: path for role in ("hires", "lowres") if (path := pick(role)) is not None}
    return Layout(
        folder=folder,
        counts=counts,
        filtered=filtered,
        positions=pick("positions"),
        scalefactors=pick("scalefactors"),
        images=images,
        aggregation=pick("aggregation"),
        spatial=[*spatial, folder],
        bin_um=bin_um,
    )


def spatial_layout(layout: Layout, folder: Path) -> Layout:
    """The layout with the spatial files of another folder."""
    found = _Found()
    _add_files(found, folder, "")
    samples = found.having("positions", "scalefactors", "hires", "lowres")
    if len(samples) > 1:
        raise ValueError(
            f"{folder} holds spatial files of several samples: {listing(samples)}. Keep those of one section."
        )
    files = found.samples[samples[0]] if samples else {}
    return replace(
        layout,
        positions=files["positions"][0] if "positions" in files else None,
        scalefactors=files["scalefactors"][0] if "scalefactors" in files else None,
        images={role: files[role][0] for role in ("hires", "lowres") if role in files},
        spatial=[folder],
    )


def _looked_through(folder: Path, spatial: list[Path]) -> _Found:
    """Everything in a folder and its folders of spatial files."""
    found = _Found()
    for place in spatial:
        match = _SPATIAL_FOLDER.match(place.name)
        _add_files(found, place, (match["before"] or "") if match else "")
    _add_files(found, folder, "")
    for path in names_in(folder):
        match = _COUNTS_FOLDER.match(path.name)
        if path.is_dir() and match:
            found.add(_sample(match["before"], match["behind"]), f"{match['kind']} folder", path)
    return found


def _add_files(found: _Found, folder: Path, sample: str) -> None:
    by_role: dict[str, list[tuple[str, Path]]] = {}
    for path in names_in(folder):
        if not path.is_file():
            continue
        for role, pattern in _ROLES.items():
            match = pattern.match(path.name)
            if match:
                own = _sample(match["before"], match["behind"])
                by_role.setdefault(role, []).append((own or sample, path))
                break
    for role, files in by_role.items():
        for own, path in sorted(files, key=lambda file: _rank(file[1])):
            found.add(own, role, path)


def _rank(path: Path) -> tuple[int, bool, bool, str]:
    """Parquet before csv, png before jpg and tiff, newer names and plain files first."""
    name = path.name.lower()
    plain = name.removesuffix(".gz")
    ends = (".parquet", ".csv", ".txt", ".png", ".jpg", ".jpeg", ".tiff", ".tif")
    end = next((at for at, ending in enumerate(ends) if plain.endswith(ending)), len(ends))
    return end, "tissue_positions_list" in name, name.endswith(".gz"), name


def _sample(before: str, behind: str) -> str:
    """The name of the sample, from what stands around the usual name."""
    before = _COUNTS_FOLDER.sub(r"\g<before>\g<behind>", before)  # matrix.mtx.gz behind the name of its folder
    return "_".join(filter(None, (part.strip(_SEPARATORS) for part in (before, behind))))


def _only_sample(folder: Path, found: _Found) -> str:
    """The sample that has counts."""
    samples = found.having(*_ANY_COUNTS)
    if not samples:
        raise FileNotFoundError(_no_counts(folder))
    if len(samples) > 1 and "" in samples and "positions" in found.samples[""]:
        logger.info("%s: left out the counts of %s", folder, listing(sample for sample in samples if sample))
        return ""
    if len(samples) > 1:
        names = [_usual_counts(found.samples[sample])[0].name for sample in samples]
        raise ValueError(
            f"{folder} holds several files of counts, of the samples {listing(samples)}: choose one with "
            f"counts_file={names[0]!r}, or read all of them with paths={{name: folder}} and counts_file={{name: file}} "
            f"for the files {listing(names)}."
        )
    return samples[0]


def _usual_counts(files: dict[str, list[Path]]) -> tuple[Path | MtxFiles, bool]:
    """The counts of a sample and whether they are filtered: filtered before raw, h5 before folder."""
    for kind in ("filtered", "raw"):
        if kind in files:
            return files[kind][0], kind == "filtered"
        if f"{kind} folder" in files:
            return mtx_files(files[f"{kind} folder"][0]), kind == "filtered"
    return _triple(files["matrix"][0].parent, files), "raw" not in files["matrix"][0].name


def _named_counts(folder: Path, counts_file: str) -> tuple[Path | MtxFiles, str]:
    """The counts called so, and the sample that their name says."""
    path = folder / counts_file
    if not path.exists():
        raise FileNotFoundError(f"there is no counts_file={counts_file!r} in {folder}, which holds {content(folder)}.")
    if path.is_dir():
        match = _COUNTS_FOLDER.match(path.name)
        return mtx_files(path), _sample(match["before"], match["behind"]) if match else ""
    for role in ("filtered", "raw", "matrix"):
        match = _ROLES[role].match(path.name)
        if match:
            sample = _sample(match["before"], match["behind"])
            if role != "matrix":
                return path, sample
            return _triple(path.parent, _looked_through(path.parent, []).samples[sample]), sample
    if path.name.endswith(".h5ad"):
        raise ValueError(f"counts_file={counts_file!r} is an AnnData: read it with anndata.read_h5ad({str(path)!r}).")
    if not path.name.endswith((".h5", ".h5.gz")):
        raise ValueError(
            f"counts_file={counts_file!r} cannot be used: expected an .h5 file or a folder with matrix.mtx.gz."
        )
    return path, ""


def mtx_files(folder: Path) -> MtxFiles:
    """The three files of the matrix in a folder, or in the folder of its only genome."""
    found = _looked_through(folder, [])
    samples = found.having("matrix")
    if not samples:
        inside = [path for path in names_in(folder) if path.is_dir() and _looked_through(path, []).having("matrix")]
        if len(inside) == 1:
            return mtx_files(inside[0])
        raise FileNotFoundError(
            f"{folder} holds {content(folder)} and no matrix.mtx.gz: expected matrix.mtx, features.tsv and barcodes.tsv, "
            f"each also as .gz{', in one folder' if inside else ''}."
        )
    if len(samples) > 1:
        names = [found.samples[sample]["matrix"][0].name for sample in samples]
        raise ValueError(
            f"{folder} holds several matrices: {listing(names)}. Choose one with counts_file={folder.name + '/' + names[0]!r}."
        )
    return _triple(folder, found.samples[samples[0]])


def _triple(folder: Path, files: dict[str, list[Path]]) -> MtxFiles:
    missing = [role for role in _MTX if role not in files]
    if missing:
        raise FileNotFoundError(
            f"{folder} has {listing(path.name for role in _MTX for path in files.get(role, []))} but no file of "
            f"{listing(missing)} with the same prefix; it holds {content(folder)}. Rename or copy it: expected "
            "matrix.mtx, features.tsv (or genes.tsv) and barcodes.tsv, each also as .gz."
        )
    return MtxFiles(*(files[role][0] for role in _MTX))


def _of_sample(folder: Path, found: _Found, role: str, sample: str, counts: str) -> Path | None:
    """The file of a role that belongs to the counts of `sample`."""
    samples = found.having(role)
    if sample in samples:
        return found.samples[sample][role][0]
    near = [other for other in samples if other and sample and _same_sample(sample, other)]
    if len(found.having(*_ANY_COUNTS)) <= 1:  # one section: a file without a prefix is its own, too
        near = near or [other for other in samples if "" in (sample, other)]
    if len(near) == 1:
        return found.samples[near[0]][role][0]
    if not samples:
        return None
    files = listing(found.samples[other][role][0].name for other in samples)
    raise ValueError(
        f"{folder} has the counts {counts} (sample {sample!r}) and the files {files} of other samples: they do not belong "
        "together by their names. Give the files of one section the same prefix, or put each section into its own folder."
    )


def _same_sample(one: str, other: str) -> bool:
    """Whether one name is the other with something before or behind it, as GSM1_S1 and S1."""
    short, long = sorted((one, other), key=len)
    return bool(re.search(rf"(?:^|[_.\- ]){re.escape(short)}(?:$|[_.\- ])", long))


def _no_counts(folder: Path) -> str:
    names = {path.name for path in names_in(folder)}
    inside = [child for child in _children(folder) if _is_section(child)]
    segmented = "segmented_outputs" in names or folder.name == "segmented_outputs"
    if inside:
        remedy = f"It has section folders inside: pass one or a list of {listing(str(child) for child in inside)}"
    elif segmented or any("feature_cell_matrix" in name for name in names):
        remedy = (
            "Cells of segmented_outputs have no lattice and are not read: pass the folder of the run with its "
            "binned_outputs, and bin_size=8"
        )
    elif any(name.endswith((".tar.gz", ".tar", ".zip", ".tgz")) for name in names):
        remedy = "Unpack its archives first"
    elif any(name.endswith(".h5ad") for name in names):
        remedy = "Read an .h5ad file with anndata.read_h5ad"
    elif names & {".zgroup", "zarr.json"} or folder.suffix == ".zarr":
        remedy = "Read a zarr store with anndata.read_zarr or spatialdata.read_zarr"
    else:
        remedy = f"Pass a Space Ranger folder ({PARTS}); counts with another name are chosen with counts_file="
    return f"{folder} has no counts; it holds {content(folder)}. {remedy}."


def _children(folder: Path) -> Iterable[Path]:
    children = [path for path in names_in(folder) if path.is_dir()]
    return sorted({*children, *(path for child in children for path in names_in(child) if path.is_dir())})


def _is_section(folder: Path) -> bool:
    found = _looked_through(folder, [folder / "spatial"] if (folder / "spatial").is_dir() else [])
    return bool(found.having("positions") and found.having(*_ANY_COUNTS))
