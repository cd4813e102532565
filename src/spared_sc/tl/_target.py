"""What a predictor learns: expression or values given detection, completed from its train sections, or a layer."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from spared_sc import __version__
from spared_sc._core import validate
from spared_sc._core.files import write_whole, writing
from spared_sc._core.locks import only_writer
from spared_sc._core.report import logger
from spared_sc._core.settings import settings
from spared_sc._models.completion.registry import COMPLETERS
from spared_sc._models.device import check_device
from spared_sc._models.prediction.spots import MSE
from spared_sc.tl._resolve import resolve

if TYPE_CHECKING:
    from anndata import AnnData

    from spared_sc._core.compute import Compute
    from spared_sc._kernels.sections import Sections
    from spared_sc._models.prediction.spots import Spots

EXPRESSION, GIVEN_DETECTION = "expression", "given_detection"
# For regression, the count model is as good as the default completion, which fits it five times.
_COMPLETERS = {EXPRESSION: "factor", GIVEN_DETECTION: "counts"}
COMPLETED = tuple(_COMPLETERS)  # targets that are completed from the train sections of every fit


@dataclass(frozen=True)
class CompletedTarget:
    """Values to learn, completed from the spots that are learned from and from no others."""

    kind: str  # of `COMPLETED`
    sections: Sections  # of all spots, in an order of their own
    place: np.ndarray  # (n_spots,) row of the sections for every row of the AnnData
    names: np.ndarray  # (n_genes,)

    def learned(self, spots: Spots, rows: np.ndarray, compute: Compute) -> Spots:
        """The spots in these rows of the AnnData, with completed values as their target."""
        if spots.loss != MSE:  # of counts, which need no completion
            return spots
        order = np.argsort(self.place[rows])
        sections = self.sections.of_spots(self.place[rows][order])
        seen = np.flatnonzero(sections.known.any(axis=0))
        genes = seen[np.argsort(self.names[seen], kind="stable")]  # no result depends on their order
        target = np.zeros((len(rows), len(self.names)), dtype=np.float32)
        target[np.ix_(order, genes)] = self._kept(sections.of_genes(genes), compute)
        return replace(spots, target=target, known=None)

    def _kept(self, sections: Sections, compute: Compute) -> np.ndarray:
        """Completed values, from the folder of the settings where they are there; else they are kept in it."""
        if settings.labels_dir is None:
            return self._completed(sections, compute)
        path = settings.labels_dir / f"{self._identity(sections, compute)}.npy"
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with only_writer(path, wait=np.inf):
            if path.exists():
                logger.info("took completed labels from %s", path)
                return np.load(path)
            values = self._completed(sections, compute)
            with writing(path), io.BytesIO() as file:
                np.save(file, values)
                write_whole(path, file.getvalue())
        return values

    def _identity(self, sections: Sections, compute: Compute) -> str:
        """Hash of all that decides completed values."""
        counts, lattice = sections.need_counts(), sections.lattice
        arrays = [sections.values, sections.known, sections.library, counts.values, counts.depth, sections.total]
        arrays += [lattice.indptr, lattice.indices, lattice.kinds]
        digest = hashlib.sha256(f"{__version__} {self.kind} {_COMPLETERS[self.kind]} {compute.seed}".encode())
        for array in map(np.asarray, arrays):
            digest.update(f"{array.dtype.str} {array.shape} ".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:32]

    def _completed(self, sections: Sections, compute: Compute) -> np.ndarray:
        """Completed values of all entries: what was detected stays, or all of them denoised."""
        denoised = self.kind == EXPRESSION
        write = frozenset({"denoised" if denoised else "completed"})
        compute = check_device(replace(compute, checkpoint=None, write=write), networks=True)
        completer = COMPLETERS.make(_COMPLETERS[self.kind], {})
        estimate = completer.as_function(compute)(sections)
        if denoised:
            return np.log2(1 + estimate.need_rate() * sections.count_scale())
        return np.where(sections.known, sections.values, estimate.need_values())


def completed_target(
    adata: AnnData, kind: str, genes: np.ndarray, *, layer: str, library_key: str | None, spatial_key: str
) -> tuple[CompletedTarget, np.ndarray, np.ndarray]:
    """The target, and of every entry the raw count and the count at a scaled expression of one, in rows of the AnnData."""
    validate.get_counts(adata)  # an error that names the remedy, where there are none
    resolved = resolve(adata, layer=layer, mask_var=None, library_key=library_key, spatial_key=spatial_key, genes=genes)
    sections = resolved.sections
    if sections.total is None:
        raise ValueError(
            f"target={kind!r} needs a layer that is log2(1 + scaled count), unlike {layer!r}: pass layer= one from "
            "`sp.pp.normalize_tpm(adata)`, or the name of a layer as `target=`."
        )
    place = np.empty_like(resolved.order)
    place[resolved.order] = np.arange(len(place))
    target = CompletedTarget(kind, sections, place, adata.var_names[genes].to_numpy().astype(str))
    return target, resolved.to_rows(sections.need_counts().values), resolved.to_rows(sections.exposure())
