"""From an AnnData to patches: the image of each library, its spots in that image, and the size of a patch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np

from spared_sc._core.keys import Key
from spared_sc._core.record import by_library, from_record, library_table, records_of
from spared_sc._core.report import logger, warn
from spared_sc._core.slides import entry_of, slides_of
from spared_sc._core.validate import array_places, check_number, get_positions, listing, n_threads
from spared_sc._images.assay import ASSAYS, Assay, check_assay
from spared_sc._images.measures import AGREE, factor, measure
from spared_sc._images.patches import Patches
from spared_sc._images.raster import CACHE_BYTES, ArraySource, Cache, Source
from spared_sc._images.scale import SIDES, STAINS, UNITS, recipe_of
from spared_sc._images.source import open_image
from spared_sc._images.store import StoredPatches, is_store, spot_names
from spared_sc._images.tissue import tissue_mask
from spared_sc._kernels.stain import to_reference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from spared_sc._core.validate import Libraries
    from spared_sc._images.patches import AnyPatches
    from spared_sc._images.scale import PatchScale
    from spared_sc._kernels.stain import Recolouring

V = TypeVar("V")
PerLibrary: TypeAlias = V | Mapping[str, V]  # one for all libraries, or one for each

IN_SLOT = ("hires", "lowres")  # images inside of uns["spatial"]
_LEAST_MPP, _MOST_MPP = 1e-3, 1e3  # that an image can have; beyond, another unit was meant
_SIZE, _UNIT, _OUTPUT_SIZE = 1.0, "spot", 224
_LONGEST = 2000  # pixels of the longer side of the image on which stains are measured


@dataclass(frozen=True)
class Located:
    """The image of one library, and its spots in it."""

    source: Source
    kind: str  # "file", "hires", "lowres", "array" or "spatialdata"
    where: str
    centres: np.ndarray  # (n, 2) x and y in pixels of the image
    zoom: float  # pixels of the image per unit of the spots' coordinates
    diameter: float  # of a spot, in pixels of the image; NaN where unknown
    um_per_px: float  # of the image; NaN where unknown
    scale_from: str  # "given", "microns_per_pixel", "image file", "spot diameter", "spot pitch" or "unknown"
    assay: str  # of the library; "unknown" where nothing names it


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How patches are cut; `None` where nothing was asked for."""

    size: float | None = None
    unit: str | None = None
    output_size: int | None = None
    mpp: PerLibrary[float] | None = None
    assay: PerLibrary[str] | None = None
    stain: str | None = None

    def asked(self) -> dict[str, Any]:
        """The arguments that were given."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def over(self, other: Cut) -> Cut:
        """Fill in the values of another where nothing was asked for."""
        return Cut(
            size=other.size if self.size is None else self.size,
            unit=other.unit if self.unit is None else self.unit,
            output_size=other.output_size if self.output_size is None else self.output_size,
            mpp=other.mpp if self.mpp is None else self.mpp,
            assay=other.assay if self.assay is None else self.assay,
            stain=other.stain if self.stain is None else self.stain,
        )


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """The record of `pp.extract_patches`."""

    cut: Cut
    spatial_key: str
    store: str | None
    sources: Mapping[str, Mapping[str, Any]]
    fingerprint: str


def resolve_patches(
    adata: AnnData,
    libraries: Libraries,
    *,
    follow: bool = True,
    image: Any = None,
    size: float | None = None,
    unit: str | None = None,
    output_size: int | None = None,
    mpp: PerLibrary[float] | None = None,
    assay: PerLibrary[str] | None = None,
    stain: str | None = None,
    like: PatchScale | None = None,
    spatial_key: str = Key.obsm.spatial,
    n_jobs: int | None = None,
) -> AnyPatches:
    """Patches of all spots, in their order.

    Arguments left out come from the record of `pp.extract_patches` where there is one (and `follow` is set), otherwise
    from the defaults of that function, which describes them. The recorded store is read unless something else was asked
    for. A recorded `mpp` applies to the recorded image only. Where there is no record, patches are cut of the scale
    `like`: of the same side in micrometres where both know it, and of the same colours.
    """
    asked = cut = Cut(size=size, unit=unit, output_size=output_size, mpp=mpp, assay=assay, stain=stain)
    past = _recorded(adata, libraries) if follow else None
    quiet = past is not None and image is None  # what was recorded has been told
    if past is not None:
        if spatial_key == Key.obsm.spatial:
            spatial_key = past.spatial_key
        cut, like = asked.over(past.cut), None
        if image is not None:
            cut = replace(cut, mpp=mpp)
        elif past.store is not None and cut == past.cut:
            return _stored_as_recorded(past, past.store, adata, libraries)
        else:
            known = [name for name in libraries.names if name in past.sources]
            image = {name: recorded_image(past.sources[name], entry_of(adata, name)) for name in known}
    if isinstance(image, str | Path) and is_store(image):
        return _stored(image, asked, adata, libraries)
    return _from_images(adata, libraries, image, cut, like, spatial_key=spatial_key, n_jobs=n_jobs, quiet=quiet)


def _recorded(adata: AnnData, libraries: Libraries) -> Recorded | None:
    """The record of `pp.extract_patches`, if there is one."""
    past = records_of(adata).get(Key.uns.patches, {})
    if past.get("function") != "pp.extract_patches":
        return None
    try:
        return _from_record(past, libraries)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"the record adata.uns['{Key.uns.records}']['{Key.uns.patches}'] cannot be followed (it lacks {error}, or was "
            "changed): call `sp.pp.extract_patches(adata, ...)` again."
        ) from error


def _from_record(past: Mapping[str, Any], libraries: Libraries) -> Recorded:
    params = from_record(past["params"])
    return Recorded(
        cut=Cut(
            mpp=_from_recordable(params["mpp"], libraries),
            assay=_from_recordable(params["assay"], libraries),
            **{name: params[name] for name in ("size", "unit", "output_size", "stain")},
        ),
        spatial_key=params["spatial_key"],
        store=params["store"],
        sources=recipe_of(past)["sources"],
        fingerprint=str(past["fingerprint"]),
    )


def recordable(value: PerLibrary[Any] | None) -> Any:
    """An argument as records hold it."""
    return library_table(value, values=value.values()) if isinstance(value, Mapping) else value


def _from_recordable(value: Any, libraries: Libraries) -> Any:
    """The argument again, without libraries that are gone."""
    if not isinstance(value, Mapping):
        return value
    return {name: one for name, one in by_library(value).items() if name in libraries.names}


def _stored_as_recorded(past: Recorded, store: str, adata: AnnData, libraries: Libraries) -> StoredPatches:
    """The patches of the recorded store, if its content is unchanged."""
    stored = StoredPatches.of(store, adata.obs_names, libraries)
    if stored.written != past.fingerprint:
        raise ValueError(
            f"the store {store!r} was rewritten after `sp.pp.extract_patches` recorded it, and now holds patches of "
            f"{_measures_of(stored.recipe)}: call `sp.pp.extract_patches(adata, image={store!r})` to use these, or write "
            "the former ones to another `store=`."
        )
    return stored


def _stored(store: str | Path, cut: Cut, adata: AnnData, libraries: Libraries) -> StoredPatches:
    """The patches of a store that was passed as the image."""
    stored = StoredPatches.of(store, adata.obs_names, libraries)
    for name, value in cut.asked().items():
        if value != stored.recipe.get(name):
            raise ValueError(
                f"the store {str(store)!r} holds patches of {_measures_of(stored.recipe)}, which {name}={value!r} cannot "
                f"change: leave out `{name}`, or cut patches anew with `sp.pp.extract_patches(adata, ...)`."
            )
    return stored


def _measures_of(recipe: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={recipe[name]!r}" for name in ("size", "unit", "output_size", "stain"))


def recorded_image(source: Mapping[str, Any], slide: Mapping[str, Any]) -> Any:
    """The image of a record, as `image=` takes it."""
    kind, where = source["source"], source["where"]
    if kind == "spatialdata":
        elements = slide["metadata"].get("source_images", {})
        named = [element for name, element in elements.items() if element_name(name) == where]
        if named:
            return named[0]
    if kind in ("array", "spatialdata", "store"):
        raise ValueError(
            f"the patches were cut from {where}, which the AnnData does not hold: pass it again as `image=`, or keep the "
            'patches with `sp.pp.extract_patches(adata, image=..., store="patches.zarr")`.'
        )
    return kind if kind in IN_SLOT else where


def _from_images(
    adata: AnnData,
    libraries: Libraries,
    image: Any,
    cut: Cut,
    like: PatchScale | None,
    *,
    spatial_key: str,
    n_jobs: int | None,
    quiet: bool,
) -> Patches:
    size = _SIZE if cut.size is None else cut.size
    unit = _UNIT if cut.unit is None else cut.unit
    output_size = _OUTPUT_SIZE if cut.output_size is None else cut.output_size
    check_number("size", size, 1e-9)
    if unit not in UNITS:
        raise ValueError(f"unit={unit!r} is unknown: choose one of {listing(UNITS)}.")
    check_number("output_size", output_size, *SIDES, whole=True)
    if cut.stain not in STAINS:
        raise ValueError(f"stain={cut.stain!r} is unknown: choose 'macenko', or None for the colours of the image.")
    threads = n_threads(n_jobs)
    located = locate(adata, libraries, image, spatial_key, mpp=cut.mpp, assay=cut.assay, quiet=quiet)
    for name, entry, rows in zip(libraries.names, located, libraries.rows(), strict=True):
        check_inside(adata, name, entry, adata.obs_names[rows])
    if like is not None:
        size, unit = like.measure
        output_size = like.output_size
        cut = replace(cut, stain=like.stain)
    sides = [_side(name, entry, float(size), unit) for name, entry in zip(libraries.names, located, strict=True)]
    if unit == "spot" and not quiet:
        _warn_of_sizes(libraries.names, located, sides)
    centres = np.empty((adata.n_obs, 2))
    for entry, rows in zip(located, libraries.rows(), strict=True):
        centres[rows] = entry.centres
    _warn_of_undivided(located)
    return Patches(
        [entry.source for entry in located],
        libraries.codes,
        centres,
        sides,
        output_size,
        _recipe(float(size), unit, int(output_size), cut.stain, libraries, located, sides),
        recolour=None if cut.stain is None else _recolourings(libraries, located),
        names=spot_names(libraries, adata.obs_names),
        n_threads=threads,
    )


def _recipe(
    size: float,
    unit: str,
    output_size: int,
    stain: str | None,
    libraries: Libraries,
    located: Sequence[Located],
    sides: Sequence[float],
) -> dict[str, Any]:
    """How the patches are made, as plain values."""
    sources = {
        name: {
            "source": entry.kind,
            "where": entry.where,
            "patch_px": side,
            "um_per_px": entry.um_per_px,
            "scale_from": entry.scale_from,
            "assay": entry.assay,
        }
        for name, entry, side in zip(libraries.names, located, sides, strict=True)
    }
    return {"size": size, "unit": unit, "output_size": output_size, "stain": stain, "sources": sources}


def _recolourings(libraries: Libraries, located: Sequence[Located]) -> list[Recolouring]:
    """The recolouring of every library, measured on the tissue of its whole image: its spots have no part in it."""
    result = []
    for name, entry in zip(libraries.names, located, strict=True):
        image, _ = entry.source.thumbnail(_LONGEST)
        recolour, measured = to_reference(image, tissue_mask(image))
        if not measured:
            warn(
                f"library {name!r}: the stains of {entry.where} cannot be told apart, as too little of it is stained, or "
                "not with haematoxylin and eosin. Its glass was brought to white; otherwise its colours are unchanged.",
            )
        result.append(recolour)
    return result


def _warn_of_sizes(names: Sequence[str], located: Sequence[Located], sides: Sequence[float]) -> None:
    """Say that patches show more tissue in some libraries than in others, as spots of several assays do."""
    widths = {
        name: side * entry.um_per_px
        for name, entry, side in zip(names, located, sides, strict=True)
        if entry.um_per_px > 0
    }
    if not widths:
        return
    least, most = min(widths, key=lambda name: widths[name]), max(widths, key=lambda name: widths[name])
    if widths[most] > (1 + AGREE) * widths[least]:
        warn(
            f"patches are {widths[least]:.4g} um in library {least!r} and {widths[most]:.4g} um in library {most!r}: models "
            "compare patches of one size. Give it with `unit='um'`."
        )


def _warn_of_undivided(located: Sequence[Located]) -> None:
    """Say that images which are decoded as a whole do not fit into the cache."""
    whole = [entry.source.undivided_bytes for entry in located]
    if sum(whole) > CACHE_BYTES:
        logger.warning(
            "the images of %d libraries can only be decoded as a whole and need %.1f GB together, of which %.1f GB are "
            "cached: reading all libraries in random order is slow. Write the patches to disk with "
            '`sp.pp.extract_patches(adata, store="patches.zarr")`.',
            sum(map(bool, whole)),
            sum(whole) / 1e9,
            CACHE_BYTES / 1e9,
        )


def _side(name: str, located: Located, size: float, unit: str) -> float:
    """Side of a patch in pixels of the library's image, logged."""
    if unit == "spot" and np.isnan(located.diameter):
        raise ValueError(
            f"the spots of library {name!r} have no diameter: uns['spatial'][{name!r}]['scalefactors'] has no "
            "'spot_diameter_fullres', and no assay is known that gives it. Add it, name the assay with `assay=`, or give "
            "the size with `unit='pixel'`."
        )
    if unit == "um" and np.isnan(located.um_per_px):
        raise ValueError(
            f"the scale of the image of library {name!r} is unknown: neither scale factors nor the image file give it, and "
            f"the spots give none (assay: {located.assay}). Pass `mpp=`, micrometres per pixel of the image, or name the "
            f"assay with `assay=` ({listing(ASSAYS)}), with `sp.pp.extract_patches`."
        )
    side = size if unit == "pixel" else size * located.diameter if unit == "spot" else size / located.um_per_px
    height, width = located.source.shape
    if side > min(height, width):
        raise ValueError(
            f"a patch of library {name!r} would be {side:.0f} pixels wide, more than its image ({width} x {height}, "
            f"{located.where}): pass a smaller `size`, or check its `unit` ({unit!r})."
        )
    known = located.um_per_px > 0
    scale = f"{located.um_per_px:.3g} um per pixel from {located.scale_from}" if known else "of unknown scale"
    logger.info("library %r: patches of %.1f pixels of %s, %s", name, side, located.where, scale)
    return side


def locate(
    adata: AnnData,
    libraries: Libraries,
    image: Any,
    spatial_key: str,
    *,
    mpp: PerLibrary[float] | None = None,
    assay: PerLibrary[str] | None = None,
    quiet: bool = False,
) -> list[Located]:
    """The image of every library, its spots in pixels of it, and its scale.

    `mpp` and `assay` may differ between libraries; statements that contradict each other are told, unless `quiet`.
    """
    given, named = per_library(mpp, libraries, "mpp"), per_library(assay, libraries, "assay")
    for one in given.values():
        if one is not None:
            check_number("mpp", one, _LEAST_MPP, _MOST_MPP)
    assays = {name: None if one is None else check_assay(one) for name, one in named.items()}
    positions = get_positions(adata, spatial_key)
    chosen = _images_of(image, libraries)
    places = array_places(adata, libraries)
    cache = Cache()
    located = []
    for name, rows in zip(libraries.names, libraries.rows(), strict=True):
        slide = entry_of(adata, name)
        found = _image(adata, name, slide, chosen[name], cache)
        of_library = (positions[rows], None if places is None else places[rows])
        located.append(_located(name, slide, found, *of_library, given[name], assays[name], quiet=quiet))
    return located


def _located(
    name: str,
    slide: Mapping[str, Any],
    found: tuple[Source, str, str],
    positions: np.ndarray,
    places: np.ndarray | None,
    mpp: float | None,
    assay: Assay | None,
    *,
    quiet: bool,
) -> Located:
    """One library: its image as `_image` found it, its spots in pixels of it, and its scale."""
    source, kind, where = found
    to_pixels = source.from_spots
    if kind in IN_SLOT:
        to_pixels = np.eye(2, 3) * _factor(name, slide["scalefactors"], kind)
    zoom = float(np.sqrt(abs(np.linalg.det(to_pixels[:, :2]))))
    if source.scale_fault and mpp is None and not quiet:
        warn(f"library {name!r}: {source.scale_fault}; the scale is not taken from the file. Pass it as `mpp=`.")
    measures = measure(
        name, slide, positions, places, zoom=zoom, of_file=source.um_per_px, mpp=mpp, asked=assay, quiet=quiet
    )
    return Located(
        source=source,
        kind=kind,
        where=where,
        centres=positions @ to_pixels[:, :2].T + to_pixels[:, 2],
        zoom=zoom,
        diameter=measures.diameter * zoom,
        um_per_px=measures.um_per_px,
        scale_from=measures.scale_from,
        assay=measures.assay,
    )


def per_library(value: Any, libraries: Libraries, argument: str) -> dict[str, Any]:
    """The value of every library, from one for all or a dictionary of them."""
    if not isinstance(value, Mapping) or hasattr(value, "children"):  # a pyramid of images is a mapping too
        return dict.fromkeys(libraries.names, value)
    of_library = {str(name): one for name, one in value.items()}
    unknown = [name for name in of_library if name not in libraries.names]
    missing = [name for name in libraries.names if name not in of_library]
    if missing and unknown:
        raise KeyError(
            f"`{argument}` has no entry for library {missing[0]!r}; its entries are {listing(of_library)}, the libraries "
            f"{listing(libraries.names)}: name one for each."
        )
    return {name: of_library.get(name) for name in libraries.names}


def _images_of(image: Any, libraries: Libraries) -> dict[str, Any]:
    """The image that was asked for, of each library."""
    several = image is None or isinstance(image, Mapping) or (isinstance(image, str) and image in IN_SLOT)
    if not several and len(libraries.names) > 1:
        raise ValueError(
            f"one image was given for {len(libraries.names)} libraries: pass a dictionary such as "
            f"image={{{libraries.names[0]!r}: ..., {libraries.names[1]!r}: ...}}."
        )
    return per_library(image, libraries, "image")


def _image(adata: AnnData, name: str, slide: Mapping[str, Any], image: Any, cache: Cache) -> tuple[Source, str, str]:
    """The image itself, what it is, and its name."""
    images, metadata = slide["images"], slide["metadata"]
    elements = metadata.get("source_images", {})  # those of a SpatialData object
    if image is None:
        path = metadata.get("source_image_path")
        if "source_image" in metadata:
            image = elements[metadata["source_image"]]
        elif path is not None:
            if not Path(str(path)).expanduser().exists():
                instead = [f"image={key!r} for the smaller one in the AnnData" for key in IN_SLOT if key in images][:1]
                remedy = " or ".join(["its new place as `image=`", *instead])
                raise FileNotFoundError(
                    f"library {name!r} has its image in {str(path)!r} (uns['spatial'][{name!r}]['metadata']"
                    f"['source_image_path']), where there is none any more: pass {remedy}."
                )
            image = str(path)
        else:
            image = next((key for key in IN_SLOT if key in images), None)
    if image is None:
        raise ValueError(
            f"library {name!r} has no image ({_where_images_are(adata, name, images)}): pass the path of its image file "
            f"as `image=`, or as `image={{{name!r}: ...}}` among several libraries."
        )
    if isinstance(image, str) and image in IN_SLOT:
        if image not in images:
            raise KeyError(
                f"library {name!r} has no image {image!r} (images: {listing(images)}): pass `image=` another."
            )
        array = np.asarray(images[image])
        where = f"the {image} image of library {name!r}"
        return ArraySource(array, where, kind=image), image, where
    source = open_image(image, coordinate_system=metadata.get("coordinate_system"), cache=cache)
    known = [element_name(key) for key, element in elements.items() if element is image]
    return source, source.kind, known[0] if known else source.where


def _where_images_are(adata: AnnData, name: str, images: Mapping[str, Any]) -> str:
    """What there is instead, for the message that a library has no image."""
    slides = slides_of(adata)
    if name in slides or not slides:
        return f"images: {listing(images)}"
    fitting = [column for column in adata.obs if set(adata.obs[column].astype(str)) <= set(map(str, slides))]
    remedy = f"; their names are in adata.obs[{fitting[0]!r}]: try library_key={fitting[0]!r}" if fitting else ""
    return f"uns['spatial'] has entries of {listing(slides)}{remedy}"


def element_name(name: str) -> str:
    """Name of an image of a SpatialData object in records and messages."""
    return f"the image {name!r} of the SpatialData object"


def _factor(name: str, factors: Mapping[str, Any], kind: str) -> float:
    if f"tissue_{kind}_scalef" not in factors:
        raise KeyError(
            f'uns["spatial"][{name!r}]["scalefactors"] has no "tissue_{kind}_scalef" (it has {listing(factors)}): add the '
            "scale of that image, or pass another one as `image=`."
        )
    return factor(name, factors, f"tissue_{kind}_scalef")


def check_inside(adata: AnnData, name: str, located: Located, names: Any) -> None:
    """Refuse positions outside of the image, with the likely reason."""
    height, width = located.source.shape

    def outside(xy: np.ndarray) -> np.ndarray:
        return np.asarray(~((xy >= 0) & (xy <= (width, height))).all(axis=1))

    off = outside(located.centres)
    if not off.any():
        return
    slide = entry_of(adata, name)
    factors = slide["scalefactors"]
    small = [key for key in IN_SLOT if key != located.kind and f"tissue_{key}_scalef" in factors]
    fitting = [
        key
        for key in small
        if not outside(located.centres / located.zoom * factor(name, factors, f"tissue_{key}_scalef")).any()
    ]
    if not outside(located.centres[:, ::-1]).any():
        reason = (
            "with x and y exchanged all lie inside: x (the column) comes first, try "
            "`adata.obsm['spatial'] = adata.obsm['spatial'][:, ::-1]`"
        )
    elif fitting:
        of_slot = fitting[0] in slide["images"]
        reason = (
            f"divided by the scale of the {fitting[0]} image all lie inside: the positions are in pixels of the full "
            f"resolution, and this is the {fitting[0]} image. "
            + (f"Pass image={fitting[0]!r}" if of_slot else "Pass the image of full resolution as `image=`")
        )
    elif off.mean() > 0.5:
        reason = "pass the image in whose pixels the positions are measured, or check the scale factors"
    else:
        reason = "check the positions with `sp.pp.check_alignment`, or drop those spots"
    x, y = located.centres.max(axis=0)
    raise ValueError(
        f"{int(off.sum())} of {len(off)} spots of library {name!r} (such as {listing(np.asarray(names)[off], 1)}) lie "
        f"outside of {located.where}: it has {width} x {height} pixels, and the spots reach to x = {x:.0f}, y = {y:.0f}; "
        f"{reason}."
    )
