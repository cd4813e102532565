"""Patches of the tissue image around the spots: how they are cut, and their store on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from spared_sc._core import docs, validate
from spared_sc._core.keys import Key
from spared_sc._core.record import record
from spared_sc._core.sdata import accepts_spatialdata
from spared_sc._images.resolve import recordable, resolve_patches
from spared_sc._images.scale import recorded_recipe
from spared_sc._images.store import StoredPatches, write_store

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from anndata import AnnData


@accepts_spatialdata
@docs.fill()
def extract_patches(
    adata: AnnData,
    *,
    image: Any = None,
    size: float | None = None,
    unit: Literal["spot", "pixel", "um"] | None = None,
    output_size: int | None = None,
    mpp: float | Mapping[str, float] | None = None,
    assay: str | Mapping[str, str] | None = None,
    stain: Literal["macenko"] | None = None,
    store: str | Path | None = None,
    overwrite: bool = False,
    library_key: str | None = None,
    spatial_key: str = Key.obsm.spatial,
    n_jobs: int | None = None,
    show_progress_bar: bool | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Decide how patches are cut from the tissue image, check it, and write them to disk on demand.

    A patch is a square of the image around a spot, resized with antialiasing. Pixels never enter the AnnData: it records
    how patches are cut, and functions that need patches follow the record. With `store` they are also written to disk,
    once, and read from there.

    Parameters
    ----------
    {adata}
    image
        Image to cut from, 8-bit RGB. `None` takes, for each library, the file named by
        `uns["spatial"][library]["metadata"]["source_image_path"]`, else the hires image in `uns["spatial"]`, else the
        lowres image. Or `"hires"` or `"lowres"`; the path of the image in whose pixels the spots' positions are given
        (JPEG, PNG, TIFF, OME-TIFF; whole-slide formats with OpenSlide); such an image as an array (y, x, c) or
        (c, y, x); an image of a SpatialData object; or a dictionary library -> one of these. A path may also be that of
        a store; its patches are used as they are, without `size`, `unit`, `output_size`, `mpp`, `assay` and `stain`.
    size
        Side of the square in `unit`; 1 by default.
    unit
        `"spot"` (the default): diameters of a spot from the scale factors (on Visium, Space Ranger's circle of 65 µm).
        Without scale factors the diameter is a share of the distance between spots: 0.65 on a hexagonal array, 0.5 with
        assay `"st"`, and the whole bin with `"visium_hd"`. `"pixel"`: pixels of the image. `"um"`: micrometres.
    output_size
        Side of the patches in pixels; 224 by default.
    mpp
        Micrometres per pixel of the image, or a dictionary library -> micrometres per pixel. By default the scale follows,
        for each library, from the first of these that there is: `microns_per_pixel` of the scale factors; the resolution
        that the image file states; diameter and distance of the spots, if the assay is known. Where two of them differ by
        more than a tenth, a warning names both. Otherwise the scale is unknown: it is never concluded from a square array.
    assay
        Assay of the spots, or a dictionary library -> assay: `"visium"` (hexagonal, 100 µm apart), `"visium_hd"` (square
        bins of `bin_size_um` of the scale factors), `"st"` (square, 200 µm apart, spots of 100 µm), `"dbit"` (square, of no
        fixed width) or `"other"`. By default it is `assay` of `uns["spatial"][library]["metadata"]`, else what the
        chemistry or `bin_size_um` says, else `"visium"` where the spots lie on Visium's hexagonal array.
    stain
        `"macenko"` brings the colours of every image to those of one reference (Macenko et al., 2009): glass becomes white,
        and haematoxylin and eosin get the reference's colours and strengths. They are measured on the tissue of the whole
        image, at most about 2,000 pixels wide and high, and do not depend on the spots. A warning is given, and only
        glass is corrected, if fewer than 1,000 pixels are stained or two stains cannot be told apart. `None` leaves the
        colours as they are.
    store
        Folder (`.zarr`) to write the patches to.
    overwrite
        Replace a store that holds other patches. Any other folder or file is never replaced.
    {others}

    Returns
    -------
    `None`, or the changed copy with `copy=True`. Slots written:

    `uns["spared_sc"]["patches"]`
        Parameters; for each library under `sources` the image, the side of a patch in its pixels, the scale
        (`um_per_px`, NaN where unknown), where it is from (`scale_from`) and the assay;
        `fingerprint`, equal for equal patches, by which a changed store is noticed.

    Raises
    ------
    FileNotFoundError
        If the image file is gone.
    ValueError
        If the image is damaged or not 8-bit RGB, spots lie outside of it, a patch is larger than it, its scale is
        needed and unknown, the assay does not have such an array, or there is no such `stain` or `assay`.
    FileExistsError
        If the store holds other patches and `overwrite` was not asked for, or is something else.
    KeyError
        If there are no positions, or the image that was asked for is not in `uns["spatial"]`.

    Notes
    -----
    At the border of an image, patches are filled with its mirror image, so that no spot is dropped. A pyramid is read at
    the lowest resolution that has enough pixels. The same call finishes a store that was interrupted.

    References
    ----------
    Macenko et al. (2009), A method for normalizing histology slides for quantitative analysis, IEEE International Symposium
    on Biomedical Imaging, 1107-1110.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=2)
    >>> sp.pp.extract_patches(adata, library_key="library_id", output_size=64)
    >>> sources = adata.uns["spared_sc"]["patches"]["sources"]
    >>> sources["source"].tolist(), sources["patch_px"].round(1).tolist()
    (['hires', 'hires'], [13.5, 13.5])
    """
    validate.check_adata(adata, genes=False)
    libraries = validate.get_libraries(adata, library_key)
    patches = resolve_patches(
        adata,
        libraries,
        follow=False,
        image=image,
        size=size,
        unit=unit,
        output_size=output_size,
        mpp=mpp,
        assay=assay,
        stain=stain,
        spatial_key=spatial_key,
        n_jobs=n_jobs,
    )
    fingerprint = patches.fingerprint()  # reads some: a damaged image is found now
    if store is not None:
        store = write_store(patches, store, overwrite=overwrite, show_progress_bar=show_progress_bar)
    elif isinstance(patches, StoredPatches):  # `image` named a store
        store, fingerprint = patches.folder, patches.written
    adata = adata.copy() if copy else adata
    record(
        adata,
        key=Key.uns.patches,
        function="pp.extract_patches",
        params={
            "size": patches.recipe["size"],
            "unit": patches.recipe["unit"],
            "output_size": patches.recipe["output_size"],
            "mpp": recordable(mpp),
            "assay": recordable(assay),
            "stain": patches.recipe["stain"],
            "store": store,
            "library_key": libraries.key,
            "spatial_key": spatial_key,
        },
        slots={},
        sources=recorded_recipe(patches.recipe)["sources"],
        fingerprint=fingerprint,
    )
    return adata if copy else None
