"""From an AnnData to patches: which image of each library, where its spots are in it, and how large a patch is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spared_sc._core.keys import Key
from spared_sc._core.record import as_given
from spared_sc._core.report import logger
from spared_sc._core.validate import array_places, check_number, get_positions, listing, n_threads
from spared_sc._images.patches import Patches
from spared_sc._images.source import CACHE_BYTES, ArraySource, Cache, Source, open_image
from spared_sc._images.store import StoredPatches, is_store, spot_names

if TYPE_CHECKING:
    from anndata import AnnData

    from spared_sc._core.validate import Libraries

UNITS = ("spot", "pixel", "um")
IN_SLOT = ("hires", "lowres")  # images inside of uns["spatial"]
_SIZE, _UNIT, _OUTPUT_SIZE = 1.0, "spot", 224
# Space Ranger's spot_diameter_fullres is that of a circle of 65 um, although spots are 55 um wide.
_CIRCLE_UM = 65.0
# From centre to centre of neighbouring spots: Visium, and the arrays of 1,000 spots before it.
_PITCH_UM = {"hex": 100.0, "grid": 200.0}
# Diameter that stands in for a missing one, as a share of the pitch: the same circle, and the 100 um of the old arrays.
_CIRCLE_OF_PITCH = {"hex": 0.65, "grid": 0.5}
_AGREE = 0.1  # relative difference of two lengths that are taken for the same


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
    scale_from: str  # "scale factors", "spot pitch", "given" or "unknown"


def resolve_patches(
    adata: AnnData,
    libraries: Libraries,
    *,
    follow: bool = True,
    image: Any = None,
    size: float | None = None,
    unit: str | None = None,
    output_size: int | None = None,
    mpp: float | None = None,
    spatial_key: str = Key.obsm.spatial,
    n_jobs: int | None = None,
) -> Patches | StoredPatches:
    """Patches of all spots, in their order.

    What is left out is taken from the record of `pp.extract_patches` where there is one, and is the default of that
    function otherwise. Its store is read when nothing else was asked for.

    Parameters
    ----------
    follow
        Whether the record has a say.
    image
        `"hires"`, `"lowres"`, a path, an array, an image of a SpatialData object, or a dictionary library -> one of these.
        The path may be that of a store. `None` takes the recorded image, else what `uns["spatial"]` says.
    size, unit
        Side of the square: in spot diameters (`"spot"`), pixels of the image (`"pixel"`) or micrometres (`"um"`).
    output_size
        Side of the patches in pixels after resizing.
    mpp
        Micrometres per pixel of the image, where that is known better than from the spots. A recorded one is of the
        recorded image only.
    """
    past = _recorded(adata) if follow else {}
    given = {"size": size, "unit": unit, "output_size": output_size, "mpp": mpp}
    wanted = {name: past.get(name) if value is None else value for name, value in given.items()}
    if spatial_key == Key.obsm.spatial:
        spatial_key = past.get("spatial_key", spatial_key)
    if image is not None:
        wanted["mpp"] = mpp
    elif past:
        if past["store"] is not None and all(wanted[name] == past[name] for name in wanted):
            return _stored_as_recorded(past, adata, libraries)
        slides, sources = adata.uns.get(Key.uns.spatial, {}), past["sources"]
        image = {name: _again(sources[name], slides.get(name, {})) for name in libraries.names if name in sources}
    if isinstance(image, str | Path) and is_store(image):
        stored = StoredPatches.of(image, adata.obs_names, libraries)
        other = [name for name, value in given.items() if value not in (None, stored.recipe.get(name))]
        if other:
            raise ValueError(
                f"the patches of the store {str(image)!r} are made, and {other[0]}={given[other[0]]!r} is not what they "
                f"were made with ({_measures_of(stored.recipe)}): leave that out, or cut patches anew with "
                "`sp.pp.extract_patches(adata, ...)`."
            )
        return stored
    return _from_images(
        adata,
        libraries,
        image=image,
        size=_SIZE if wanted["size"] is None else wanted["size"],
        unit=_UNIT if wanted["unit"] is None else wanted["unit"],
        output_size=_OUTPUT_SIZE if wanted["output_size"] is None else wanted["output_size"],
        mpp=wanted["mpp"],
        spatial_key=spatial_key,
        n_jobs=n_jobs,
    )


def _recorded(adata: AnnData) -> dict[str, Any]:
    """What `pp.extract_patches` recorded; empty where it did not."""
    past = adata.uns.get(Key.uns.records, {}).get(Key.uns.patches, {})
    if past.get("function") != "pp.extract_patches":
        return {}
    sources = sources_by_library(as_given(past["sources"]))
    return as_given(past["params"]) | {"sources": sources, "fingerprint": past["fingerprint"]}


def sources_by_library(sources: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Recorded images of libraries; files give back the parts of a name with "/" one inside of the other."""
    result = {}
    for name, one in sources.items():
        if "patch_px" in one:
            result[name] = one
        else:
            result |= {f"{name}/{rest}": source for rest, source in sources_by_library(one).items()}
    return result


def _stored_as_recorded(past: Mapping[str, Any], adata: AnnData, libraries: Libraries) -> StoredPatches:
    """The patches of the recorded store, if it holds what it held then."""
    stored = StoredPatches.of(past["store"], adata.obs_names, libraries)
    if stored.written != past["fingerprint"]:
        raise ValueError(
            f"the store {past['store']!r} was written anew after `sp.pp.extract_patches` recorded it, and now holds "
            f"patches of {_measures_of(stored.recipe)}: call `sp.pp.extract_patches(adata, image={past['store']!r})` to "
            "use these, or write the former ones to another `store=`."
        )
    return stored


def _measures_of(recipe: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={recipe[name]!r}" for name in ("size", "unit", "output_size"))


def _again(source: dict[str, Any], slide: Mapping[str, Any]) -> Any:
    """The image that was used before, as `image=` takes it."""
    kind, where = source["source"], source["where"]
    if kind == "spatialdata":
        elements = slide.get("metadata", {}).get("source_images", {})
        found = [element for name, element in elements.items() if element_name(name) == where]
        if found:
            return found[0]
    if kind in ("array", "spatialdata", "store"):
        raise ValueError(
            f"the patches were cut from {where}, which the AnnData does not hold: pass it again as `image=`, or keep the "
            'patches with `sp.pp.extract_patches(adata, image=..., store="patches.zarr")`.'
        )
    return kind if kind in IN_SLOT else where


def _from_images(
    adata: AnnData,
    libraries: Libraries,
    *,
    image: Any,
    size: float,
    unit: str,
    output_size: int,
    mpp: float | None,
    spatial_key: str,
    n_jobs: int | None,
) -> Patches:
    check_number("size", size, 1e-9)
    if unit not in UNITS:
        raise ValueError(f"unit={unit!r} cannot be used: choose one of {listing(UNITS)}.")
    check_number("output_size", output_size, 8, 4096, whole=True)
    threads = n_threads(n_jobs)
    located = locate(adata, libraries, image, mpp, spatial_key)
    for name, one, rows in zip(libraries.names, located, libraries.rows(), strict=True):
        check_inside(adata, name, one, adata.obs_names[rows])
    sides = [_side(name, one, float(size), unit) for name, one in zip(libraries.names, located, strict=True)]
    centres = np.empty((adata.n_obs, 2))
    for name, one, side, rows in zip(libraries.names, located, sides, libraries.rows(), strict=True):
        if side > min(one.source.shape):
            height, width = one.source.shape
            raise ValueError(
                f"a patch of library {name!r} would be {side:.0f} pixels wide, which is more than its image ({width} x "
                f"{height}, {one.where}) has: pass a smaller `size`, or check its `unit` ({unit!r})."
            )
        centres[rows] = one.centres
        scale = f"{one.um_per_px:.3g} um per pixel from {one.scale_from}" if one.um_per_px > 0 else "of unknown scale"
        logger.info("library %r: patches of %.1f pixels of %s, %s", name, side, one.where, scale)
    whole = [one.source.undivided_bytes for one in located]
    if sum(whole) > CACHE_BYTES:
        logger.warning(
            "the images of %d libraries can only be decoded as a whole and need %.1f GB together, of which %.1f GB are "
            "kept: reading all libraries in random order is slow. Write the patches to disk with "
            '`sp.pp.extract_patches(adata, store="patches.zarr")`.',
            sum(map(bool, whole)),
            sum(whole) / 1e9,
            CACHE_BYTES / 1e9,
        )
    recipe = {
        "size": float(size),
        "unit": unit,
        "output_size": int(output_size),
        "sources": {
            name: {
                "source": one.kind,
                "where": one.where,
                "patch_px": side,
                "um_per_px": one.um_per_px,
                "scale_from": one.scale_from,
            }
            for name, one, side in zip(libraries.names, located, sides, strict=True)
        },
    }
    sources = [one.source for one in located]
    names = spot_names(libraries, adata.obs_names)
    return Patches(sources, libraries.codes, centres, sides, output_size, recipe, names=names, n_threads=threads)


def _side(name: str, one: Located, size: float, unit: str) -> float:
    """Side of a patch in pixels of the library's image."""
    if unit == "pixel":
        return size
    if unit == "spot" and np.isnan(one.diameter):
        raise ValueError(
            f"the spots of library {name!r} have no diameter: uns['spatial'][{name!r}]['scalefactors'] has no "
            "'spot_diameter_fullres', and the spots do not form a lattice. Add it, or give the size with "
            "`unit='pixel'`."
        )
    if unit == "um" and np.isnan(one.um_per_px):
        raise ValueError(
            f"nothing says how large a pixel of the image of library {name!r} is: neither scale factors nor the "
            "distance between spots. Pass `mpp=`, its micrometres per pixel, or give the size in spot diameters "
            "(`unit='spot'`)."
        )
    return size * one.diameter if unit == "spot" else size / one.um_per_px


def locate(adata: AnnData, libraries: Libraries, image: Any, mpp: float | None, spatial_key: str) -> list[Located]:
    """The image of every library, its spots in pixels of it, and its scale."""
    if mpp is not None:
        check_number("mpp", mpp, 1e-6)
    positions = get_positions(adata, spatial_key)
    chosen = _per_library(image, libraries)
    places = array_places(adata, libraries)
    cache = Cache()
    located = []
    for name, rows in zip(libraries.names, libraries.rows(), strict=True):
        slide = adata.uns.get(Key.uns.spatial, {}).get(name, {})
        source, kind, where = _image(name, slide, chosen[name], cache)
        factors = slide.get("scalefactors", {})
        to_pixels = source.from_spots
        if kind in IN_SLOT:
            to_pixels = np.eye(2, 3) * _factor(name, factors, kind)
        centres = positions[rows] @ to_pixels[:, :2].T + to_pixels[:, 2]
        zoom = float(np.sqrt(abs(np.linalg.det(to_pixels[:, :2]))))
        diameter, um, scale_from = _measures(name, factors, positions[rows], None if places is None else places[rows])
        um /= zoom
        if mpp is not None:
            if abs(um / mpp - 1) > _AGREE:
                logger.warning(
                    "library %r: mpp=%g was given, but %s gives %.4g um per pixel of %s; mpp is used",
                    *(name, mpp, scale_from, um, where),
                )
            um, scale_from = float(mpp), "given"
        located.append(Located(source, kind, where, centres, zoom, diameter * zoom, um, scale_from))
    return located


def _per_library(image: Any, libraries: Libraries) -> dict[str, Any]:
    """The image that was asked for, of each library."""
    if isinstance(image, Mapping) and not hasattr(image, "children"):
        unknown = [name for name in image if str(name) not in libraries.names]
        chosen = {str(name): one for name, one in image.items()}
        missing = [name for name in libraries.names if name not in chosen]
        if missing and unknown:
            raise KeyError(
                f"`image` has no entry for library {missing[0]!r}; its entries are {listing(image)}, the libraries "
                f"{listing(libraries.names)}: name an image for each."
            )
        return {name: chosen.get(name) for name in libraries.names}
    if image is not None and not (isinstance(image, str) and image in IN_SLOT) and len(libraries.names) > 1:
        raise ValueError(
            f"one image was given for {len(libraries.names)} libraries: pass a dictionary such as "
            f"image={{{libraries.names[0]!r}: ..., {libraries.names[1]!r}: ...}}."
        )
    return dict.fromkeys(libraries.names, image)


def _image(name: str, slide: Mapping[str, Any], image: Any, cache: Cache) -> tuple[Source, str, str]:
    """The image itself, what it is, and its name."""
    images, metadata = slide.get("images", {}), slide.get("metadata", {})
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
            f"library {name!r} has no image (images: {listing(images)}): pass the path of its image file as `image=`"
            f", or as `image={{{name!r}: ...}}` among several libraries."
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


def element_name(name: str) -> str:
    """What an image of a SpatialData object is called in records and messages."""
    return f"the image {name!r} of the SpatialData object"


def _factor(name: str, factors: Mapping[str, Any], kind: str) -> float:
    if f"tissue_{kind}_scalef" not in factors:
        raise KeyError(
            f'uns["spatial"][{name!r}]["scalefactors"] has no "tissue_{kind}_scalef" (it has {listing(factors)}): add the '
            "scale of that image, or pass another one as `image=`."
        )
    return float(factors[f"tissue_{kind}_scalef"])


def _measures(
    name: str, factors: Mapping[str, Any], positions: np.ndarray, places: np.ndarray | None
) -> tuple[float, float, str]:
    """Diameter of a spot and micrometres, per unit of the spots' coordinates, and where the second is from."""
    kind, pitch = spot_pitch(positions, places)
    diameter = float(factors.get("spot_diameter_fullres", np.nan))
    by_pitch = _PITCH_UM.get(kind, np.nan) / pitch
    by_circle = _CIRCLE_UM / diameter
    if np.isnan(diameter):
        diameter = _CIRCLE_OF_PITCH.get(kind, np.nan) * pitch
    if "microns_per_pixel" in factors:
        return diameter, float(factors["microns_per_pixel"]), "scale factors"
    if kind == "hex" and abs(by_circle / by_pitch - 1) > _AGREE:
        logger.info(
            "library %r: its spot_diameter_fullres is not that of Space Ranger's circles of 65 um, or the spots are not "
            "100 um apart; the scale is taken from the distance",
            name,
        )
        return diameter, by_pitch, "spot pitch"
    if kind in ("hex", "") and not np.isnan(by_circle):
        return diameter, by_circle, "scale factors"
    return diameter, by_pitch, "unknown" if np.isnan(by_pitch) else "spot pitch"


def spot_pitch(positions: np.ndarray, places: np.ndarray | None) -> tuple[str, float]:
    """Kind of lattice and distance between neighbouring spots, in units of `positions`.

    `"hex"` as on Visium, `"grid"` for squares, `"other"` for every other place of a square grid, `""` where there is no
    lattice to be seen. The map from places to positions gives the distance; without places, nearest spots do.
    """
    from spared_sc._kernels import lattice

    one = np.zeros(len(positions), dtype=int)
    if places is not None and len(positions) > 3:
        design = np.column_stack([np.ones(len(places)), places])
        fit, _, rank, _ = np.linalg.lstsq(design, positions, rcond=None)
        unit = np.sqrt(abs(np.linalg.det(fit[1:]))) if rank == 3 else 0.0
        apart = np.abs(positions - design @ fit).max() if rank == 3 else np.inf
        if unit > 0 and apart < unit:
            row, column = np.linalg.norm(fit[1:], axis=1)
            if lattice.guess_kind(places, one) == "grid":
                return "grid", float(unit)
            # A hexagonal array of pitch d has columns d / 2 apart, and rows d * sqrt(3) / 2.
            if abs(row / column / np.sqrt(3) - 1) < _AGREE:
                return "hex", float(unit * 2 / 3**0.25)
            return "other", float(np.hypot(row, column))
    if len(positions) < 2:
        return "", np.nan
    from scipy.spatial import cKDTree

    nearest = cKDTree(positions).query(positions, k=2)[0][:, 1]
    pitch = float(np.median(nearest))
    if pitch > 0 and np.quantile(nearest, 0.9) < 1.2 * pitch:
        touching = np.diff(lattice.from_pixels(positions, one).indptr)
        if np.median(touching) > 4:
            return "hex", pitch
    return "", pitch


def check_inside(adata: AnnData, name: str, one: Located, names: Any) -> None:
    """Refuse positions outside of the image, with the likely reason."""
    height, width = one.source.shape

    def outside(xy: np.ndarray) -> np.ndarray:
        return ~((xy >= 0) & (xy <= (width, height))).all(axis=1)

    off = outside(one.centres)
    if not off.any():
        return
    slide = adata.uns.get(Key.uns.spatial, {}).get(name, {})
    factors = slide.get("scalefactors", {})
    small = [key for key in IN_SLOT if key != one.kind and f"tissue_{key}_scalef" in factors]
    fitting = [
        key for key in small if not outside(one.centres / one.zoom * float(factors[f"tissue_{key}_scalef"])).any()
    ]
    if not outside(one.centres[:, ::-1]).any():
        reason = (
            "with x and y exchanged all lie inside: x (the column) comes first, try "
            "`adata.obsm['spatial'] = adata.obsm['spatial'][:, ::-1]`"
        )
    elif fitting:
        of_slot = fitting[0] in slide.get("images", {})
        reason = (
            f"divided by the scale of the {fitting[0]} image all lie inside: the positions are in pixels of the full "
            f"resolution, and this is the {fitting[0]} image. "
            + (f"Pass image={fitting[0]!r}" if of_slot else "Pass the image of full resolution as `image=`")
        )
    elif off.mean() > 0.5:
        reason = "pass the image in whose pixels the positions are measured, or check the scale factors"
    else:
        reason = "check the positions with `sp.pp.check_alignment`, or drop those spots"
    x, y = one.centres.max(axis=0)
    raise ValueError(
        f"{int(off.sum())} of {len(off)} spots of library {name!r} (such as {listing(np.asarray(names)[off], 1)}) lie "
        f"outside of {one.where}: it has {width} x {height} pixels, and the spots reach to x = {x:.0f}, y = {y:.0f}; "
        f"{reason}."
    )
