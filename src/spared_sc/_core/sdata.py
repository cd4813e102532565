"""SpatialData objects in place of an AnnData: their table, with its regions as libraries, and their images."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeGuard, TypeVar

import numpy as np

from spared_sc._core.arguments import checks_arguments
from spared_sc._core.keys import Key
from spared_sc._core.record import become, shallow_copy
from spared_sc._core.report import logger
from spared_sc._core.slides import entry_of, slides_of
from spared_sc._core.validate import listing, region_attrs

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

    P = ParamSpec("P")
    R = TypeVar("R")

_TABLE = "table"
# Images of the object, the name of the one to use, and their coordinate system; references that no file can hold.
_ELEMENTS = ("source_images", "source_image", "coordinate_system")
_MOST_CHANNELS = 4  # of an image that can be drawn; fluorescence may have more
_CORNERS = 5  # of a square, the first one twice
_BINS = re.compile(r"(?:^|_)square_(\d{3})um$")  # regions of Visium HD, as spatialdata-io names them
_LONGEST = 2000  # pixels of the longer side of an image that is drawn


def accepts_spatialdata(
    function: Callable[Concatenate[AnnData, P], R],
) -> Callable[Concatenate[AnnData | SpatialData, P], R]:
    """Let a public function take a SpatialData object as `adata`, and work on its table."""
    function = checks_arguments(function)

    @wraps(function)
    def accepting(adata: AnnData | SpatialData, *args: P.args, **kwargs: P.kwargs) -> R:
        if not _is_spatialdata(adata):
            return function(adata, *args, **kwargs)
        with as_anndata(adata) as table:
            return without_elements(function(table, *args, **kwargs))

    return accepting


def _is_spatialdata(thing: Any) -> TypeGuard[SpatialData]:
    """Without importing spatialdata, which takes seconds."""
    return any(
        cls.__name__ == "SpatialData" and cls.__module__.startswith("spatialdata") for cls in type(thing).__mro__
    )


@contextmanager
def as_anndata(sdata: SpatialData) -> Iterator[AnnData]:
    """The table for the duration of the block, with positions and images in the usual slots.

    What the block writes is in the table afterwards, and spots that it drops are dropped from the shapes of their regions
    too; an error or an interrupt leaves the object as it was.
    """
    table = _table(sdata)
    attrs = region_attrs(table)
    regions = _regions(table, attrs)
    work = shallow_copy(table)
    own = {attr: Key.uns.spatial in getattr(table, attr) for attr in ("obsm", "uns")}
    _lend(sdata, work, regions, attrs)
    lent = work.__dict__
    yield work
    if work.__dict__ is lent:  # nothing was written
        return
    for attr, there in own.items():
        if not there:
            getattr(work, attr).pop(Key.uns.spatial, None)
        elif attr == "uns":
            work.uns[Key.uns.spatial] = table.uns[Key.uns.spatial]
    before = {region: sdata.shapes[region] for region in regions if region in sdata.shapes}
    try:
        if work.n_obs != table.n_obs:
            _drop_shapes(sdata, work, regions, attrs)
        become(table, work)
    except BaseException:
        for region, shapes in before.items():
            sdata.shapes[region] = shapes
        raise


def without_elements(result: Any) -> Any:
    """The result of a function, without references to the images of the object where it is an AnnData."""
    slides = result.uns.get(Key.uns.spatial) if hasattr(result, "uns") else None
    for slide in slides.values() if isinstance(slides, Mapping) else ():
        metadata = slide.get("metadata") if isinstance(slide, Mapping) else None
        if isinstance(metadata, dict):
            for name in _ELEMENTS:
                metadata.pop(name, None)
    return result


def _table(sdata: SpatialData) -> AnnData:
    names = list(sdata.tables)
    if not names:
        raise ValueError("the SpatialData object has no table: expression is needed.")
    if len(names) > 1 and _TABLE not in names:
        raise ValueError(
            f"the SpatialData object has several tables ({listing(names)}): pass one, `sdata.tables[...]`."
        )
    return sdata.tables[_TABLE if _TABLE in names else names[0]]


def _regions(table: AnnData, attrs: Mapping[str, Any]) -> list[str]:
    """Names of the regions, refused unless the columns that link the table to them are there."""
    if attrs.get("region") is None:
        return []
    for key in ("region_key", "instance_key"):
        if attrs.get(key) not in table.obs:
            raise KeyError(
                f'the table names no column of its {key!r} (uns["{Key.uns.regions}"] has {attrs.get(key)!r}; columns: '
                f"{listing(table.obs)}): link it to its regions again, with `spatialdata.models.TableModel.parse`."
            )
    return [str(region) for region in np.atleast_1d(attrs["region"])]


def _lend(sdata: SpatialData, table: AnnData, regions: list[str], attrs: Mapping[str, Any]) -> None:
    """Put positions and images into the table, where it has none."""
    located = _places(sdata, table, regions, attrs)
    if located is None:
        return
    systems, places = located
    if Key.obsm.spatial not in table.obsm and np.isfinite(places).all():
        table.obsm[Key.obsm.spatial] = places
    slides = dict(slides_of(table))
    for region in systems:
        slide, given = _slide(sdata, region, systems), entry_of(table, region)
        slides[region] = {name: {**slide.get(name, {}), **given.get(name, {})} for name in {*slide, *given}}
    table.uns[Key.uns.spatial] = slides


def _places(
    sdata: SpatialData, table: AnnData, regions: list[str], attrs: Mapping[str, Any]
) -> tuple[dict[str, str], np.ndarray] | None:
    """Coordinate system of every region, and positions (n_spots, 2) of the spots in it; `None` without shapes."""
    from spatialdata.transformations import get_transformation

    if not regions or any(region not in sdata.shapes for region in regions):
        return None
    places, systems = np.full((table.n_obs, 2), np.nan), {}
    region_of = _region_of(table, attrs)
    for region in regions:
        shapes = sdata.shapes[region]
        rows = np.flatnonzero(region_of == region)
        instances = table.obs[attrs["instance_key"]].iloc[rows]
        if not shapes.index.is_unique or not instances.isin(shapes.index).all():
            logger.info("region %r: some spots have no shape of their own; images are not used", region)
            continue
        centre = shapes.geometry.centroid.loc[instances]
        here = np.column_stack([centre.x, centre.y])
        given = table.obsm[Key.obsm.spatial][rows] if Key.obsm.spatial in table.obsm else None
        for system, to_system in get_transformation(shapes, get_all=True).items():
            matrix = to_system.to_affine_matrix(("x", "y"), ("x", "y"))
            moved = here @ matrix[:2, :2].T + matrix[:2, 2]
            if given is None or np.allclose(given[:, :2], moved, rtol=1e-3, atol=1):
                systems[region], places[rows] = system, moved
                break
        else:
            logger.info('region %r: obsm["spatial"] is in none of its coordinate systems; images are not used', region)
    return systems, places


def _slide(sdata: SpatialData, region: str, systems: dict[str, str]) -> dict[str, Any]:
    """The entry of uns["spatial"] of a region: a small image, scale factors, and the largest image itself."""
    from spatialdata.transformations import get_transformation

    system = systems[region]
    # Regions that share a coordinate system find their images by name; the longest match counts ("s1" and "s10").
    sharing = [other for other, its_own in systems.items() if its_own == system]
    here = {name: image for name, image in sdata.images.items() if system in get_transformation(image, get_all=True)}
    images = {
        name: image
        for name, image in here.items()
        if len(sharing) == 1 or region == max(filter(name.startswith, sharing), key=len, default=None)
    }
    metadata: dict[str, Any] = {"source_images": here, "coordinate_system": system}
    slide: dict[str, Any] = {"images": {}, "scalefactors": {}, "metadata": metadata}
    matrix = get_transformation(sdata.shapes[region], system).to_affine_matrix(("x", "y"), ("x", "y"))
    zoom = float(np.sqrt(abs(np.linalg.det(matrix[:2, :2]))))
    slide["scalefactors"] = _spot_size(sdata.shapes[region], region, zoom)
    if not images:
        return slide
    finest = min(images, key=lambda name: _pixel_size(images[name], system))
    metadata["source_image"] = finest
    levels = [level for image in images.values() for level in _levels(image)]
    small = [level for level in levels if max(level.sizes["x"], level.sizes["y"]) <= _LONGEST]
    by_size = sorted(small or levels, key=lambda level: level.sizes["x"])
    drawn = by_size[-1] if small else by_size[0]
    step = -(-max(drawn.sizes["x"], drawn.sizes["y"]) // _LONGEST)  # above 1 where there is no small one
    matrix = get_transformation(drawn, system).to_affine_matrix(("x", "y"), ("x", "y"))
    if only_scales(matrix) and drawn.sizes["c"] <= _MOST_CHANNELS:
        slide["images"]["hires"] = np.asarray(drawn.transpose("y", "x", "c").data[::step, ::step])
        slide["scalefactors"]["tissue_hires_scalef"] = 1 / (step * float(matrix[0, 0]))
    return slide


def _spot_size(shapes: Any, region: str, zoom: float) -> dict[str, float]:
    """Scale factors that circles or squares give: the diameter of a circle, or the side of a square, which is a bin."""
    if "radius" in shapes:
        return {"spot_diameter_fullres": 2 * float(np.median(shapes["radius"])) * zoom}
    geometry = shapes.geometry
    if not (geometry.geom_type == "Polygon").all() or not (geometry.count_coordinates() == _CORNERS).all():
        return {}
    factors = {"spot_diameter_fullres": float(np.sqrt(np.median(geometry.area))) * zoom}
    bins = _BINS.search(region)
    return factors | ({"bin_size_um": float(bins[1])} if bins else {})


def only_scales(matrix: np.ndarray) -> bool:
    """Whether a map (2 or 3, 3) from pixels scales x and y alike, without rotation, and moves by at most a pixel."""
    scale = matrix[0, 0]
    return bool(
        scale > 0
        and np.allclose(matrix[:2, :2], scale * np.eye(2), rtol=0, atol=0.01 * scale)
        and np.allclose(matrix[:2, 2], 0, atol=scale)
    )


def _levels(image: Any) -> list[Any]:
    """The resolutions of an image, finest first."""
    if hasattr(image, "children"):  # a pyramid
        return [next(iter(level.values())) for level in image.children.values()]
    return [image]


def _pixel_size(image: Any, system: str) -> float:
    from spatialdata.transformations import get_transformation

    matrix = get_transformation(_levels(image)[0], system).to_affine_matrix(("x", "y"), ("x", "y"))
    return float(np.sqrt(abs(np.linalg.det(matrix[:2, :2]))))


def _region_of(table: AnnData, attrs: Mapping[str, Any]) -> np.ndarray:
    """Name of the region (n_spots,) that each spot is in."""
    return table.obs[attrs["region_key"]].astype(str).to_numpy()


def _drop_shapes(sdata: SpatialData, table: AnnData, regions: list[str], attrs: Mapping[str, Any]) -> None:
    """Drop the shapes of the spots that were dropped, and regions without any spot."""
    if not regions:
        return
    region_of = _region_of(table, attrs)
    left = [region for region in regions if region in region_of]
    for region in regions:
        if region not in sdata.shapes:
            continue
        kept = table.obs[attrs["instance_key"]].to_numpy()[region_of == region]
        shapes = sdata.shapes[region]
        logger.info("kept %d of %d shapes of region %r", len(kept), len(shapes), region)
        if region in left:
            sdata.shapes[region] = shapes[shapes.index.isin(kept)]
        else:
            del sdata.shapes[region]
    if len(left) < len(regions):
        table.uns[Key.uns.regions] = {**attrs, "region": left}
        table.obs[attrs["region_key"]] = table.obs[attrs["region_key"]].cat.remove_unused_categories()
