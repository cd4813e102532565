"""The command line: the main job on real or made-up sections, and what is installed."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
import time
import warnings
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spared_sc import __version__
from spared_sc._core.files import as_path, writing
from spared_sc._core.names import check_library_name, file_name
from spared_sc._core.outputs import Unusable, complete_or_absent

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pandas as pd
    from anndata import AnnData

    from spared_sc._explorer.serve import Page
    from spared_sc.tl._fitted import FittedPredictor

_LIBRARY_KEY = "library_id"
# Sections that the demo looks for in the data folder: SpaRED's human lung organoids (VLO).
_DEMO_SECTIONS = Path("villacampa") / "lung_organoid"
# What goes wrong with files, values, devices and memory; anything else is a mistake of ours.
_ERRORS = (OSError, LookupError, ValueError, TypeError, ImportError, MemoryError, RuntimeError)
_DEMO_FILES = re.compile(r"completed\.h5ad|missing\.png|genes\.png|summary\.txt|completion_.*\.png")
_OF_SECTIONS = ("genes", "layers", "libraries", "library_key", "title", "no_image")  # options of `explore`
_EXPLORER = "explorer"  # folder of the demo's page
_FORMATS = (".h5ad", ".zarr")
# Words of messages that speak of Python's arguments -> the same for somebody who has the options of `predict`.
_WORDS = (
    (r"Extract others with `sp\.pp\.extract_patches\([^`]*\)`, or pass force=True", "Check --mpp, or pass --force"),
    (r"Write the patches to disk with `sp\.pp\.extract_patches\([^`]*\)`", "A tiled TIFF is read faster"),
    (r"Embed with (`sp\.tl\.embed_patches\([^`]*\)`) first", r"Put them back, or predict in Python after \1"),
    (r"extract the patches of all sections with (`[^`]*`)", r"fit the model to patches extracted with \1"),
    (r"use standardize='train'", "fit the model with standardize='train'"),
    (r"pass a smaller `size`, or check its `unit` \('\w+'\)", "check --mpp"),
    (r"the folder that `save` wrote", "the folder that `FittedPredictor.save` wrote as --model"),
    (r"\. Pass its new place as `image=`", ""),
    (r",? as `image=`", ""),
    (r"\bdevice '([^']*)' cannot be used here: (.*), or None\.", r"--device \1 cannot be used here: \2."),
    (r"`sp\.datasets\.catalogue\(\)` lists all: .*", "`spared-sc data list` lists all"),
    (r"force=True", "--force"),
    (r"`(genes|layers|libraries|export|library_key)=`", lambda match: f"--{match[1].replace('_', '-')}"),
    (r"`max_mb=(\d+)`", r"--max-mb \1"),
    (r"pass split_key=None", "pass --no-split"),
    (r"protocol='(\w+)'", r"--protocol \1"),
    (r"`(unit|values|name)=`", r"--\1"),
    (r"`img=False`", "--no-image"),
    (r"\b(mpp|pitch)=([-\w.]+)", r"--\1 \2"),
    (r"\bspot_diameter=([-\w.]+)", r"--spot-diameter \1"),
    (r"\bmin_tissue=([-\w.]+)", r"--min-tissue \1"),
    (r"`(mpp|pitch)=?`", r"--\1"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `spared-sc`: 0, 1 for an error, 2 for options that cannot be used, 130 for an interrupt."""
    options = _parser().parse_args(arguments)
    # Waiting threads that spin slow training down several times on a machine that is busy with something else.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        if options.command == "predict":
            return _predict(options)
        if options.command == "data":
            return _data(options)
        if options.command == "explore":
            return _explore(options)
        if options.command == "benchmark":
            return _benchmark(options)
        if options.command == "score":
            return _score(options)
        return _demo(options.output) if options.command == "demo" else _info()
    except KeyboardInterrupt:
        return _fail(options, "interrupted", 130)
    except Unusable as error:
        return _fail(options, in_options(str(error)), 2)
    except _ERRORS as error:
        logging.getLogger("spared_sc").debug("where it happened", exc_info=True)
        text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
        return _fail(options, in_options(text) or f"memory or files failed ({type(error).__name__})", 1)
    except Exception as error:  # one line for the user, the rest for a report
        logging.getLogger("spared_sc").debug("where it happened", exc_info=True)
        text = in_options(f"{type(error).__name__}: {error}")
        return _fail(options, f"{text} (a mistake of spared-sc: report it with SPARED_SC_VERBOSITY=debug)", 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="spared-sc", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="complete missing expression, on real sections if they are found")
    demo.add_argument("--output", type=Path, default=Path("demo_output"), help="folder to write (demo_output)")
    predict = commands.add_parser("predict", help="expression of a slide from its image, with a saved predictor")
    predict.add_argument("images", type=Path, nargs="+", metavar="SLIDE", help="image file of a slide, or several")
    predict.add_argument("--model", type=Path, required=True, help="folder that FittedPredictor.save wrote")
    predict.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        help="new file to write, .h5ad or .zarr; for several slides a folder, whose finished slides are skipped",
    )
    _add_cluster(predict)
    predict.add_argument("--mpp", type=float, help="micrometres per pixel, if the file does not say")
    predict.add_argument("--pitch", type=float, default=100.0, help="distance between spots in micrometres (100)")
    predict.add_argument("--spot-diameter", type=float, default=65.0, help="of a spot, in micrometres (65)")
    predict.add_argument("--kind", choices=("hex", "grid"), default="hex", help="lattice of the spots (hex)")
    predict.add_argument("--min-tissue", type=float, default=0.5, help="least share of a spot that is tissue (0.5)")
    predict.add_argument("--device", help="torch device (by default cuda, mps or cpu, whichever exists)")
    predict.add_argument(
        "--force", action="store_true", help="predict even if patches differ from training in size or resolution"
    )
    _add_data(commands.add_parser("data", help="data sets by name: list, describe, download and verify them"))
    _add_explore(commands.add_parser("explore", help="sections in a browser: a page that needs no network"))
    _add_benchmark(commands.add_parser("benchmark", help="models on data sets, as a manifest describes"))
    _add_score(commands.add_parser("score", help="score predictions of another tool on measured sections"))
    commands.add_parser("info", help="versions, devices and folders, for bug reports")
    return parser


def _add_data(data: argparse.ArgumentParser) -> None:
    """Options of `spared-sc data`."""
    actions = data.add_subparsers(dest="action", required=True)
    chosen = {
        "list": actions.add_parser("list", help="all data sets"),
        "info": actions.add_parser("info", help="what is known of a data set, and how it is known"),
        "fetch": actions.add_parser("fetch", help="download a data set, as far as it is not on this machine"),
        "verify": actions.add_parser("verify", help="compare files with their checksums; fails if any has drifted"),
    }
    for name in ("info", "fetch"):
        chosen[name].add_argument("name", help="abbreviation or name of the data set")
    chosen["verify"].add_argument("name", nargs="?", help="abbreviation or name of a data set (all)")
    chosen["fetch"].add_argument("--sections", nargs="+", metavar="SECTION", help="sections or subjects (all)")
    chosen["fetch"].add_argument(
        "--images", choices=("hires", "full", "none"), default="hires", help="which images to fetch (hires)"
    )
    for action in chosen.values():
        action.add_argument("--catalogue", type=Path, help="TOML file with data sets of your own")


def _add_explore(explore: argparse.ArgumentParser) -> None:
    """Options of `spared-sc explore`."""
    text = "files to show, .h5ad or .zarr; without any, the catalogue of data sets"
    explore.add_argument("paths", nargs="*", type=Path, metavar="PATH", help=text)
    explore.add_argument("--export", type=Path, help="folder to write and keep (by default a temporary one)")
    explore.add_argument("--serve", action="store_true", help="serve the page at an address of this machine")
    explore.add_argument("--no-open", action="store_true", help="do not open the page in a browser")
    explore.add_argument("--genes", nargs="+", metavar="GENE", help="genes to show (the selected and predicted ones)")
    explore.add_argument("--layers", nargs="+", metavar="LAYER", help="layers and predictions to show")
    explore.add_argument("--libraries", nargs="+", metavar="LIBRARY", help="sections to show (all)")
    explore.add_argument("--library-key", help="column of obs with the section of each spot (library_id if it exists)")
    explore.add_argument("--title", help="title of the page (the name of the file)")
    explore.add_argument("--no-image", action="store_true", help="leave out the tissue images")
    explore.add_argument(
        "--report", type=Path, help="page of `spared-sc benchmark report`, for the catalogue to link to"
    )
    explore.add_argument("--max-mb", type=float, default=200.0, help="largest size of the folder in MB (200)")


def _add_benchmark(parser: argparse.ArgumentParser) -> None:
    """Options of `spared-sc benchmark`."""
    steps = parser.add_subparsers(dest="step", required=True)
    plan = steps.add_parser("plan", help="list the cells: what would run, what is done, what is refused")
    plan.add_argument("manifest", type=Path, help="YAML file that describes the benchmark")
    plan.add_argument("-o", "--output", type=Path, help="folder of the benchmark, for what is done already")
    plan.add_argument("--ids", action="store_true", help="print the identifiers of the cells that can run, and no more")
    run = steps.add_parser("run", help="run the cells that are not done, and write the tables")
    run.add_argument("manifest", type=Path, help="YAML file that describes the benchmark")
    run.add_argument("-o", "--output", type=Path, required=True, help="folder of the benchmark")
    run.add_argument("--shard", metavar="I/N", help="only this part of the plan, such as 2/8")
    run.add_argument("--cell", action="append", metavar="ID", help="only this cell; may be given several times")
    run.add_argument("--retry", action="store_true", help="run failed cells again, too")
    _add_cluster(run)
    report = steps.add_parser("report", help="write tests, figures and tables as one page of HTML")
    report.add_argument("folder", type=Path, help="folder of the benchmark")
    report.add_argument("-o", "--output", type=Path, help="file to write (report.html in the folder)")
    report.add_argument("--alpha", type=float, help="level of the tests (that of the manifest, else 0.05)")
    merge = steps.add_parser("merge", help="put together shards that ran in folders of their own")
    merge.add_argument("folders", nargs="+", metavar="FOLDER", help="folders of the shards")
    merge.add_argument("-o", "--output", type=Path, required=True, help="folder of the whole")


def _add_score(score: argparse.ArgumentParser) -> None:
    """Options of `spared-sc score`."""
    score.add_argument("predictions", type=Path, help="spots x genes: .h5ad, .zarr, .csv, .tsv or .parquet")
    score.add_argument("--truth", type=Path, required=True, help="measured sections with raw counts, .h5ad or .zarr")
    score.add_argument("--name", default="external", help="name of the tool (external)")
    score.add_argument(
        "--unit", help="unit of the predictions: log2tpm, log1p_cp10k, counts or zscore (recognised by their levels)"
    )
    score.add_argument("--values", help="layer of the predictions, or their table in obsm (X)")
    score.add_argument(
        "--protocol", choices=("expression", "spared", "hest"), default="expression", help="(expression)"
    )
    score.add_argument("--library-key", help="column of obs of the truth with the section of each spot")
    score.add_argument("--subject-key", help="column of obs of the truth with the donor of each spot")
    split = score.add_mutually_exclusive_group()
    split.add_argument(
        "--split-key", default="split", help="column of obs of the truth with train, val and test (split)"
    )
    split.add_argument("--no-split", action="store_true", help="the tool has learned from none of these sections")
    score.add_argument("-o", "--output", type=Path, help="file for all scores, also those of single genes (.csv)")
    score.add_argument("--add-to", type=Path, metavar="FOLDER", help="benchmark whose tables get the scores as rows")
    score.add_argument("--dataset", help="name of the data set in that benchmark")


def in_options(text: str) -> str:
    """A message of the package in one line, in the words of the command line."""
    for pattern, words in _WORDS:
        text = re.sub(pattern, words, text)
    return " ".join(text.split())


def _fail(options: argparse.Namespace, text: str, code: int) -> int:
    print(f"spared-sc {options.command}: {text}", file=sys.stderr)
    return code


def _predict(options: argparse.Namespace) -> int:
    output = as_path(str(options.output), "--output")
    several = len(options.images) > 1
    if several != (output.suffix not in _FORMATS):
        wanted = "be a folder, for several slides" if several else "end in .h5ad or .zarr"
        return _fail(options, f"the output {options.output} must {wanted}", 2)
    if several:
        return _predict_all(options, output)
    _predict_slide(options.images[0], output, options)
    return 0


def _predict_slide(image: Path, output: Path, options: argparse.Namespace) -> None:
    """Predict one slide into a new file."""
    with _messages_in_options(), complete_or_absent(output) as part:
        result, key = _predicted_slide(image, options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the file formats' versions
            (result.write_h5ad if output.suffix == ".h5ad" else result.write_zarr)(part)
    _tell_result(result, key, output)


def _predict_all(options: argparse.Namespace, folder: Path) -> int:
    """Predict the slides that are not done yet, each a task of its own; one that fails does not stop the others."""
    import spared_sc as sp

    outputs = {image: folder / f"{_library_name(image)}.h5ad" for image in options.images}
    twice = [image for image, output in outputs.items() if list(outputs.values()).count(output) > 1]
    if twice or len(outputs) < len(options.images):
        return _fail(options, f"two slides would be written to one file ({(twice or options.images)[0]})", 2)
    _check_inputs(sp.tl.load_predictor(options.model), options.model)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    todo = [image for image, output in outputs.items() if not output.exists()]
    print(f"{len(todo)} of {len(outputs)} slides to predict", file=sys.stderr)
    failed = 0
    with _cluster(options) as client:
        for image, problem in _predicted_slides({image: outputs[image] for image in todo}, options, client):
            failed += bool(problem)
            if problem:
                print(f"spared-sc predict: {image}: {problem}", file=sys.stderr)
    print(f"{len(todo) - failed} slides predicted, {failed} failed, {len(outputs) - len(todo)} were done")
    return 1 if failed else 0


def _predicted_slides(
    outputs: Mapping[Path, Path], options: argparse.Namespace, client: Any
) -> Iterator[tuple[Path, str]]:
    """Every slide with what went wrong, in the order in which they end."""
    if client is None:
        for image, output in outputs.items():
            yield image, _slide_task(image, output, options)
        return
    from distributed import as_completed

    resources = {"GPU": 1} if (options.device or "").startswith("cuda") else None
    images = {
        client.submit(_slide_task, image.absolute(), output, options, pure=False, resources=resources): image
        for image, output in outputs.items()
    }
    for future in as_completed(images):
        error = future.exception()
        yield images[future], future.result() if error is None else f"{type(error).__name__}: {error}"


def _slide_task(image: Path, output: Path, options: argparse.Namespace) -> str:
    """Predict a slide, and return what went wrong; nothing if all is well."""
    try:
        _predict_slide(image, output, options)
    except _ERRORS as error:
        return in_options(str(error.args[0] if isinstance(error, KeyError) and error.args else error)) or repr(error)
    return ""


@contextmanager
def _messages_in_options() -> Iterator[None]:
    """Log lines and warnings in the words of the command line."""
    from spared_sc import settings

    logger = logging.getLogger("spared_sc")

    def reword(entry: logging.LogRecord) -> bool:
        entry.msg, entry.args = in_options(entry.getMessage()), ()
        return True

    def log(message: Warning | str, *_: Any, **__: Any) -> None:
        logger.warning("%s", message)

    logger.addFilter(reword)
    try:
        with settings.override(verbosity=settings.verbosity or "warning"), warnings.catch_warnings():
            warnings.showwarning = log
            warnings.simplefilter("default", UserWarning)
            yield
    finally:
        logger.removeFilter(reword)


def _explore(options: argparse.Namespace) -> int:
    if options.paths and options.report:
        raise Unusable("--report is an option of the catalogue: leave out the PATH")
    page = _sections_page(options) if options.paths else _catalogue_page(options)
    print(f"written to {page.folder}/, open {page.address}", flush=True)
    if not options.no_open and not page.open():
        print("no browser could be opened here", file=sys.stderr)
    if page.server is not None:
        print("serving until Ctrl-C", file=sys.stderr)
        with suppress(KeyboardInterrupt):
            page.server.wait()
        page.close()
    return 0


def _sections_page(options: argparse.Namespace) -> Page:
    import spared_sc as sp
    from spared_sc._explorer.read import read_files

    with _messages_in_options():
        adata, library_key = read_files(options.paths, options.library_key)
        return sp.explore(
            adata,
            options.export,
            genes=options.genes,
            layers=options.layers,
            library_key=library_key,
            libraries=options.libraries,
            img=not options.no_image,
            title=options.title or ", ".join(path.stem for path in options.paths),
            max_mb=options.max_mb,
            serve=options.serve,
            open_browser=False,
        )


def _catalogue_page(options: argparse.Namespace) -> Page:
    from spared_sc._explorer.catalogue import catalogue_page
    from spared_sc._explorer.serve import LocalServer, Page
    from spared_sc._explorer.write import place, write_catalogue

    given = [name for name in _OF_SECTIONS if getattr(options, name)]
    if given:
        raise Unusable(f"--{given[0].replace('_', '-')} is an option of sections: give the PATH of a file, too")
    folder = place(options.export)
    report = None if options.report is None else options.report.read_bytes()
    write_catalogue(catalogue_page(report=report is not None), folder, report)
    return Page(folder, LocalServer(folder) if options.serve else None)


def _library_name(image: Path) -> str:
    """The name of the file, in a form that a library can have."""
    try:
        return check_library_name(image.stem)
    except ValueError:
        return file_name(image.stem)


def _predicted_slide(image: Path, options: argparse.Namespace) -> tuple[AnnData, str]:
    """Spots x genes with the predictions in `X`, and in `obsm` under the name that is returned."""
    import spared_sc as sp

    fitted = sp.tl.load_predictor(options.model)
    _check_inputs(fitted, options.model)
    print(f"model      {fitted}", file=sys.stderr)
    adata = sp.pp.tile_slide(
        image,
        mpp=options.mpp,
        spot_diameter=options.spot_diameter,
        pitch=options.pitch,
        kind=options.kind,
        min_tissue=options.min_tissue,
        library_id=_library_name(image),
        library_key=_LIBRARY_KEY,
    )
    print(f"slide      {adata.n_obs:,} spots on the tissue of {image}", file=sys.stderr)
    key = f"predicted_{fitted.name}"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*with such gene names cannot be written")  # see below
        sp.tl.predict_expression(
            adata, model=fitted, key_added=key, library_key=_LIBRARY_KEY, device=options.device, force=options.force
        )
    adata.uns["spared_sc"][key]["params"]["fitted"] = str(options.model.absolute())
    result = sp.get.predicted(adata, key)
    if not any("/" in gene for gene in fitted.genes):  # files hold no table with such columns
        result.obsm[key] = adata.obsm[key]  # for `sp.pl.predicted`
    return result, key


def _check_inputs(fitted: FittedPredictor, folder: Path) -> None:
    """Refuse a model that reads something else than an image."""
    if "log_depth" in fitted.needs:
        raise ValueError(f"the model in {folder} ({fitted.name}) reads counts, and an image has none.")
    unknown = [name for name, made in fitted.card.data.embeddings.items() if made.encoder is None]
    if unknown:
        raise ValueError(
            f"the model in {folder} reads the embedding {unknown[0]!r}, which no encoder made: make it in Python, "
            "and predict with `sp.tl.predict_expression`."
        )


def _target(card: Mapping[str, Any]) -> str:
    """What a model predicts, in words."""
    target = card["target"]
    kinds = {"expression": "expression, zeros included", "given_detection": "values given detection"}
    return kinds.get(target, f"layer {target!r}")


def _tell_result(result: AnnData, key: str, output: Path) -> None:
    record = result.uns["spared_sc"][key]
    card, name = record["card"], record["params"]["model"]
    print(f"{result.n_obs:,} spots x {result.n_vars} genes by {name}, written to {output}")
    print(
        f"target: {_target(card)}, in the unit of layer {card['unit']!r} in training;",
        f"loss {card['loss']}",
    )
    flag = f"{key}_out_of_distribution"
    if flag in result.obs:
        print(f"{int(result.obs[flag].sum()):,} spots look unlike the training data (obs[{flag!r}])")
    if key in result.obsm:
        print(
            f"to draw a gene: sp.pl.predicted(anndata.read_{output.suffix[1:]}({str(output)!r}), {result.var_names[0]!r})"
        )


def _data(options: argparse.Namespace) -> int:
    from spared_sc import settings

    actions = {"list": _list_data, "info": _describe_data, "fetch": _fetch_data, "verify": _verify_data}
    with settings.override(verbosity=settings.verbosity or "warning"):
        return actions[options.action](options)


def _list_data(options: argparse.Namespace) -> int:
    from pandas import isna

    import spared_sc as sp

    print(f"{'name':<9} {'organism':<8} {'sections':>8} {'spots':>7}  title")
    for key, row in sp.datasets.catalogue(options.catalogue).iterrows():
        spots = "" if isna(row["spots"]) else f"{row['spots']:,}"
        print(f"{key:<9} {row['organism']:<8} {row['n_sections']:>8} {spots:>7}  {row['title']}")
    return 0


def _describe_data(options: argparse.Namespace) -> int:
    import textwrap

    from spared_sc.datasets._catalogue import entry_of
    from spared_sc.datasets._splits import split_faults

    entry = entry_of(options.name, options.catalogue)
    print(f"{entry.key} ({entry.name})")
    for name, (value, known) in entry.statements().items():
        print(f"{name}: {value or 'unknown'}")
        print(textwrap.fill(known, 110, initial_indent="    ", subsequent_indent="    "))
    for text in (*entry.notes, *split_faults(entry)):
        print(textwrap.fill(f"note: {text}", 114, subsequent_indent="    "))
    return 0


def _fetch_data(options: argparse.Namespace) -> int:
    import spared_sc as sp

    images = None if options.images == "none" else options.images
    with sp.settings.override(verbosity="info"):
        table = sp.datasets.fetch(options.name, options.sections, images=images, catalogue=options.catalogue)
    for row in table.itertuples():
        print(f"{row.section:<24} {row.role:<12} {row.bytes / 1e6:>10,.1f} MB  {row.path}")
    print(f"{len(table)} files, {table['bytes'].sum() / 1e6:,.1f} MB")
    return 0


def _verify_data(options: argparse.Namespace) -> int:
    import spared_sc as sp

    table = sp.datasets.verify(options.name, catalogue=options.catalogue)
    drifted = table[table["status"].isin(["changed", "missing"])]
    for row in drifted.itertuples():
        print(f"{row.status}: {row.path} (by {row.checked_against})")
    counts = table["status"].value_counts()
    print(", ".join(f"{n} {status}" for status, n in counts.items()) or "there are no files of data sets here")
    return int(len(drifted) > 0)


def _benchmark(options: argparse.Namespace) -> int:
    import spared_sc as sp

    if options.step == "plan":
        return _benchmark_plan(options)
    if options.step == "report":
        return _benchmark_report(options)
    with sp.settings.override(verbosity=sp.settings.verbosity or "info"), _messages_in_options():
        if options.step == "merge":
            cells = sp.benchmark.merge(options.output, options.folders)
        else:
            with _cluster(options) as client:
                cells = sp.benchmark.run(
                    options.manifest,
                    options.output,
                    client=client,
                    shard=options.shard,
                    cells=options.cell,
                    retry=options.retry,
                )
    counted = ", ".join(f"{number} {status}" for status, number in cells["status"].value_counts().items())
    print(f"{len(cells)} cells: {counted}")
    for row in cells[~cells["status"].isin(["done", "not run", "refused"])].itertuples():
        print(f"{row.cell}  {row.status}  {row.label} on {row.dataset}: {row.error}")
    if "not run" not in set(cells["status"]):
        print(f"written to {options.output}: cells.parquet, scores.parquet")
    return 0


def _benchmark_plan(options: argparse.Namespace) -> int:
    import spared_sc as sp

    plan = sp.benchmark.plan(options.manifest, options.output)
    if options.ids:
        print(*plan.loc[plan["status"] != "refused", "cell"], sep="\n")
        return 0
    plan["share"] = plan["share"].map(lambda share: "" if share != share else share)
    columns = ["cell", "task", "dataset", "label", "target", "loss", "regime", "share", "seed", "status", "error"]
    print(plan[columns].to_string(index=False, max_colwidth=80))
    counted = ", ".join(f"{number} {status}" for status, number in plan["status"].value_counts().items())
    print(f"{len(plan)} cells: {counted}")
    return 0


def _benchmark_report(options: argparse.Namespace) -> int:
    import matplotlib as mpl

    import spared_sc as sp

    mpl.use("agg")  # figures are written, not shown
    with _messages_in_options():
        page = sp.benchmark.report(options.folder, options.output, alpha=options.alpha)
    print(f"written to {page}")
    return 0


def _score(options: argparse.Namespace) -> int:
    import spared_sc as sp

    if (options.add_to is None) != (options.dataset is None):
        raise Unusable("--add-to and --dataset go together: name the folder of the benchmark and the data set in it")
    names = ("name", "unit", "values", "library_key", "subject_key")
    arguments: dict[str, Any] = {name: getattr(options, name) for name in names}
    arguments["split_key"] = None if options.no_split else options.split_key
    files = options.predictions, options.truth
    with ExitStack() as stack:
        part = None if options.output is None else stack.enter_context(complete_or_absent(options.output))
        with sp.settings.override(verbosity=sp.settings.verbosity or "info"), _messages_in_options():
            scores = sp.benchmark.score(*files, protocol=options.protocol, **arguments)
            if options.add_to is not None:
                arguments |= {"out": options.add_to, "dataset": options.dataset, "protocols": [options.protocol]}
                sp.benchmark.add(*files, **arguments)
        if part is not None:
            scores.to_csv(part, index=False)
    print(sp.get.prediction_summary(scores).T.to_string(float_format="{:.3f}".format))
    if options.output is not None:
        print(f"scores of single genes and sections: {options.output}")
    return 0


def _add_cluster(parser: argparse.ArgumentParser) -> None:
    """Options of what runs on a cluster."""
    cluster = parser.add_mutually_exclusive_group()
    cluster.add_argument("--workers", type=int, metavar="N", help="so many dask workers on this machine")
    cluster.add_argument(
        "--scheduler", metavar="ADDRESS", help="a dask cluster that runs already, such as tcp://host:8786"
    )


@contextmanager
def _cluster(options: argparse.Namespace) -> Iterator[Any]:
    """A client of the cluster that is asked for, if one is."""
    if options.workers is None and options.scheduler is None:
        yield None
        return
    from distributed import Client, LocalCluster

    if options.scheduler is not None:
        with Client(options.scheduler) as client:
            yield client
        return
    if options.workers < 1:
        raise Unusable(f"--workers {options.workers}: give a number from 1")
    # A worker only waits for the process of its cell: the memory of that is watched there.
    local = LocalCluster(n_workers=options.workers, threads_per_worker=1, memory_limit=None, dashboard_address=":0")
    with local as cluster, Client(cluster) as client:
        yield client


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
    start, report = time.perf_counter(), _Report()
    output = as_path(str(output), "--output")
    with writing(output):
        output.parent.mkdir(parents=True, exist_ok=True)
    with complete_or_absent(output, replaceable=_is_demo) as part:
        part.mkdir()
        _write_demo(part, output, report, start)
    return 0


def _is_demo(folder: Path) -> bool:
    """Whether a folder is empty, or holds the files of an earlier demo and nothing else."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {""}
    if _EXPLORER in names:
        from spared_sc._explorer.write import is_page

        names -= {_EXPLORER} if is_page(folder / _EXPLORER) else set()
    return not names or ("summary.txt" in names and all(_DEMO_FILES.fullmatch(name) for name in names))


def _write_demo(folder: Path, output: Path, report: _Report, start: float) -> None:
    """The demo's work; its files go into a folder that becomes the output."""
    import spared_sc as sp

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
        _save(drawn, folder / name)
    adata.write_h5ad(folder / "completed.h5ad", compression="gzip")
    has_page = find_spec("bokeh") is not None
    if has_page:
        title = f"spared-sc demo: {origin.partition(' (')[0]}"
        sp.explore(adata, folder / _EXPLORER, library_key=_LIBRARY_KEY, title=title, open_browser=False)
    report.tell()
    report.tell(f"written to {output}/ in {time.perf_counter() - start:.0f} s altogether:")
    report.tell("  completed.h5ad   open it with scanpy.read_h5ad, and use")
    report.tell('                   layers["spackle_denoised"] for maps, clustering, embeddings, training targets;')
    report.tell('                   layers["spackle"], values given detection, to compare with the paper;')
    report.tell("                   the counts in X for tests")
    for name in figures:
        report.tell(f"  {name}")
    if has_page:
        report.tell("  explorer/        a page: open it in a browser to see every gene on the tissue:")
        report.tell(f"                   {(output / _EXPLORER / 'index.html').as_uri()}")
    (folder / "summary.txt").write_text("\n".join(report.lines) + "\n")


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
