"""The command line: the main job on real or made-up sections, and what is installed."""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spared_sc import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from anndata import AnnData

_LIBRARY_KEY = "library_id"
# Sections that the demo looks for in the data folder: SpaRED's human lung organoids (VLO).
_DEMO_SECTIONS = Path("villacampa") / "lung_organoid"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `spared-sc`."""
    parser = argparse.ArgumentParser(prog="spared-sc", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="complete missing expression, on real sections if they are found")
    demo.add_argument("--output", type=Path, default=Path("demo_output"), help="folder to write (demo_output)")
    predict = commands.add_parser("predict", help="expression of a slide from its image, with a saved predictor")
    predict.add_argument("image", type=Path, help="image file of the slide")
    predict.add_argument("--model", type=Path, required=True, help="folder that FittedPredictor.save wrote")
    predict.add_argument("-o", "--output", type=Path, required=True, help="file to write, .h5ad or .zarr")
    predict.add_argument("--mpp", type=float, default=None, help="micrometres per pixel, if the file does not say")
    predict.add_argument("--device", default=None, help="torch device (by default cuda, mps or cpu, whichever exists)")
    predict.add_argument(
        "--force", action="store_true", help="predict even if patches differ from training in size or resolution"
    )
    commands.add_parser("info", help="versions, devices and folders, for bug reports")
    options = parser.parse_args(arguments)
    # Waiting threads that spin slow training down several times on a machine that is busy with something else.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if options.command == "predict":
        return _predict(options)
    return _demo(options.output) if options.command == "demo" else _info()


def _predict(options: argparse.Namespace) -> int:
    import spared_sc as sp

    if options.output.suffix not in (".h5ad", ".zarr"):
        print(f"the output {options.output} must end in .h5ad or .zarr", file=sys.stderr)
        return 2
    if not options.output.absolute().parent.is_dir():
        print(f"there is no folder {options.output.absolute().parent} to write to", file=sys.stderr)
        return 2
    try:
        adata = sp.pp.tile_slide(options.image, mpp=options.mpp)
        sp.tl.predict_expression(
            adata, model=options.model, key_added="predicted", device=options.device, force=options.force
        )
    except (OSError, KeyError, ValueError, ImportError) as error:
        text = str(error.args[0] if isinstance(error, KeyError) else error)
        print(text.replace("force=True", "--force"), file=sys.stderr)
        return 1
    record = adata.uns["spared_sc"]["predicted"]
    card = record["card"]
    result = sp.get.predicted(adata, "predicted")
    write = result.write_h5ad if options.output.suffix == ".h5ad" else result.write_zarr
    write(options.output)
    print(f"{result.n_obs:,} spots x {result.n_vars} genes by {record['params']['model']}, written to {options.output}")
    print(
        f"scale: that of layer {card['layer']!r} in training, with the unit of {card['unit']!r};",
        f"loss on {card['loss']} entries",
    )
    flag = "predicted_out_of_distribution"
    if flag in adata.obs:
        print(f"{int(adata.obs[flag].sum()):,} spots look unlike the training data (obs[{flag!r}])")
    return 0


def _info() -> int:
    import platform
    from importlib.metadata import version

    from spared_sc import settings
    from spared_sc._models.training import devices

    print(f"spared-sc {__version__}, Python {platform.python_version()}, {platform.platform()}")
    for name in ("anndata", "scanpy", "squidpy", "numpy", "scipy", "numba", "torch"):
        print(f"{name} {version(name)}")
    print(f"devices: {', '.join(devices())}")
    print(settings)
    return 0


class _Report:
    """Lines that are printed, and kept for the summary."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def tell(self, text: str = "") -> None:
        self.lines.append(text)
        print(text, flush=True)


def _demo(output: Path) -> int:
    import matplotlib as mpl

    mpl.use("agg")  # figures are written, not shown
    import spared_sc as sp

    start, report = time.perf_counter(), _Report()
    output.mkdir(parents=True, exist_ok=True)
    adata, origin = _demo_sections()
    report.tell(f"spared-sc {__version__} on {origin}")
    report.tell()
    _select(adata, report)
    _complete(adata, report)
    missing = sp.get.missing_share(adata, library_key=_LIBRARY_KEY)
    gene = _telling_gene(adata, missing.mean(axis=1))
    layers = ["log2tpm", "spackle", "spackle_denoised"]
    figures = {
        f"completion_{gene}.png": sp.pl.spatial_compare(adata, gene, layers=layers, library_key=_LIBRARY_KEY, size=1.3),
        "missing.png": sp.pl.missing(adata, library_key=_LIBRARY_KEY),
        "genes.png": sp.pl.moran_ranking(adata),
    }
    for name, drawn in figures.items():
        _save(drawn, output / name)
    adata.write_h5ad(output / "completed.h5ad", compression="gzip")
    report.tell()
    report.tell(f"written to {output}/ in {time.perf_counter() - start:.0f} s altogether:")
    report.tell("  completed.h5ad   open it with scanpy.read_h5ad, and use")
    report.tell('                   layers["spackle_denoised"] for maps, clustering, embeddings, training targets;')
    report.tell('                   layers["spackle"], values given detection, to compare with the paper;')
    report.tell("                   the counts in X for tests")
    for name in figures:
        report.tell(f"  {name}")
    (output / "summary.txt").write_text("\n".join(report.lines) + "\n")
    return 0


def _select(adata: AnnData, report: _Report) -> None:
    """Run the recipe, which selects spots and genes."""
    import spared_sc as sp

    report.tell(
        f"read       {adata.n_obs:,} spots x {adata.n_vars:,} genes, {adata.obs[_LIBRARY_KEY].nunique()} sections"
    )
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always", UserWarning)
        sp.pp.recipe_spared(adata, library_key=_LIBRARY_KEY)
    kept = adata.uns["spared_sc"]["spared_filter"]["summary"]
    selected = adata[:, adata.var["spared_selected"]]
    missing = 1 - selected.layers["detected"].mean()
    report.tell(f"recipe     {kept['n_spots']:,} spots and {kept['n_genes']:,} genes have enough data")
    report.tell(f"           {selected.n_vars} genes selected by Moran's I")
    report.tell(f"missing    {kept['missing_share_before']:.0%} of all entries, {missing:.0%} in the selected genes")
    for note in notes:
        report.tell(f"note       {note.message}")


def _complete(adata: AnnData, report: _Report) -> None:
    """Complete the selected genes, and show the error on hidden entries."""
    import spared_sc as sp

    sp.tl.median_complete(adata, library_key=_LIBRARY_KEY)
    began = time.perf_counter()
    sp.tl.spackle_complete(adata, library_key=_LIBRARY_KEY)
    record = adata.uns["spared_sc"]["spackle"]
    detected = adata[:, adata.var["spared_selected"]].layers["detected"]
    n_filled = int(detected.shape[0] * detected.shape[1] - detected.sum())
    report.tell(f"completed  {n_filled:,} entries filled, in {time.perf_counter() - began:.0f} s on {record['device']}")
    of_kind = adata.var.loc[adata.var["spared_selected"], "spackle_verdict"].value_counts()
    report.tell(f"verdicts   {', '.join(f'{n} genes {kind}' for kind, n in of_kind.items())}")
    report.tell()
    _tell_score(report, record["score"])


def _save(drawn: Any, path: Path) -> None:
    """Write a plot, given its figure or its axes."""
    from matplotlib import pyplot as plt
    from matplotlib.figure import Figure

    figure = drawn if isinstance(drawn, Figure) else drawn.figure
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)


_SCORED = {
    "counts": "the default model",
    "factor": "count model alone",
    "soft_impute_kernel": "low rank and neighbours",
    "kernel": "neighbours",
    "additive": "additive effects of gene, spot, section",
    "depth_only": "depth of the spot",
    "gene_mean": "mean of the gene",
}


def _demo_sections() -> tuple[AnnData, str]:
    """Real sections from the data folder if there are any, otherwise a synthetic collection."""
    import spared_sc as sp

    if sp.settings.data_dir is not None:
        folder = sp.settings.data_dir / _DEMO_SECTIONS
        sections = sorted(path.parent for path in folder.glob("*/spatial"))
        if sections:
            adata = sp.datasets.read_visium(sections, library_key=_LIBRARY_KEY)
            return adata, "human lung organoids (Gracia Villacampa et al. 2021), real Visium sections"
        print(f"no sections in {folder}: the demo runs on a made-up collection", file=sys.stderr)
    # Shallow, so that much is missing, as in real sections.
    adata = sp.datasets.synthetic(n_libraries=3, n_genes=1200, depth=1000, library_key=_LIBRARY_KEY)
    return adata, "a made-up collection (set SPARED_SC_DATA_DIR to run on real sections)"


def _telling_gene(adata: AnnData, missing: pd.Series) -> str:
    """Of the genes with much, but not most, of their data missing, the one whose pattern explains most."""
    share = missing[(missing > 0.3) & (missing < 0.6)]
    candidates = adata.var.loc[share.index if len(share) else missing.index, "spackle_skill"]
    return str(candidates.idxmax())


def _tell_score(report: _Report, score: dict[str, float]) -> None:
    report.tell(
        f"error on {int(score['n_entries']):,} detected entries that were hidden before any value was filled in"
    )
    report.tell("(mean squared error of log2(TPM + 1); lower is better)")
    for name, label in _SCORED.items():
        if name in score:
            report.tell(f"  {label:<40} {score[name]:.3f}")
    if score["counts"] >= score["additive"]:
        report.tell("The model does not beat additive effects here: do not read spatial detail into what it filled.")
