from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

from spared_sc._core.arguments import checks_arguments
from spared_sc._core.benchmark_tables import ALL
from spared_sc._core.files import as_path, write_whole, writing
from spared_sc._core.report import logger
from spared_sc._core.validate import check_number, listing
from spared_sc.benchmark import _html
from spared_sc.benchmark._compare import compare
from spared_sc.benchmark._paper_table import paper_table
from spared_sc.benchmark._reference_external import reference_external
from spared_sc.benchmark._results import results
from spared_sc.benchmark._tables import COMPLETION, DONE, PREDICTION, read_cells

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FILE = "report.html"
_ALPHA = 0.05
_OF_PROTOCOL = {"expression": ("d2", "pcc_given_depth"), "spared": ("mse", "pcc"), "hest": ("pcc",)}
_OF_REGIME = ("mse", "deviance")  # the first one that a regime has


@checks_arguments
def report(out: str | Path, file: str | Path | None = None, *, alpha: float | None = None) -> Path:
    """Write the results of a benchmark as one page of HTML: tests, figures, tables, costs, and what is missing.

    Parameters
    ----------
    out
        Folder of a benchmark.
    file
        File to write, `report.html` in that folder by default. A file that is there is replaced.
    alpha
        Level of the tests. By default that of the manifest (`statistics: {alpha: 0.01}`), else 0.05.

    Returns
    -------
    The path of the page. It holds its figures, asks for no other file, and runs no script.

    Raises
    ------
    FileNotFoundError
        If the folder holds no tables of a benchmark.
    ValueError
        If the statistics settings of the manifest are unknown.
    OSError
        If the file cannot be written.

    Examples
    --------
    >>> import spared_sc as sp
    >>> page = sp.benchmark.report("benchmark_output")  # doctest: +SKIP
    """
    folder = as_path(str(out), "out")
    target = folder / _FILE if file is None else as_path(str(file), "file")
    scores, cells = results(folder), read_cells(folder)
    alpha = _alpha(folder) if alpha is None else alpha
    check_number("alpha", alpha, 0.0, 1.0)
    parts = [
        *_overview(cells),
        *_predictions(scores[scores["task"] == PREDICTION], alpha),
        *_completions(scores[scores["task"] == COMPLETION], alpha),
        *_data_sets(scores),
        *_costs(cells),
        *_published(alpha),
    ]
    with writing(target):
        write_whole(target, _html.page("Benchmark", parts).encode())
    logger.info("wrote %s", target)
    return target


def _alpha(folder: Path) -> float:
    """Level of the tests that the manifest asks for."""
    import yaml

    path = folder / "manifest.yaml"
    settings = (yaml.safe_load(path.read_text()).get("statistics") if path.exists() else None) or {}
    unknown = set(settings) - {"alpha"}
    if unknown:
        raise ValueError(f"{path}: 'statistics' has the unknown keys {listing(sorted(unknown))}; expected 'alpha'.")
    return settings.get("alpha", _ALPHA)


# --- parts ------------------------------------------------------------------------------------------------------------


def _overview(cells: pd.DataFrame) -> Iterator[str]:
    """What was run, by what, and what is missing."""
    n, done = len(cells), int((cells["status"] == DONE).sum())
    yield _html.paragraph(
        f"{done} of {n} cells are done: {cells['dataset'].nunique()} data sets of {cells['source'].nunique()} sources, "
        f"{cells['label'].nunique()} methods."
    )
    versions = sorted({text for text in cells["versions"] if text})
    for text in versions:
        named = ", ".join(f"{name} {version}" for name, version in json.loads(text).items())
        yield _html.paragraph(f"Computed with {named}.")
    if len(versions) > 1:
        yield _html.paragraph(
            "Cells were computed with different packages: small differences may be theirs.", missing=True
        )
    lost = cells[cells["status"] != DONE]
    if len(lost):
        yield _html.heading("What is missing")
        counts = ", ".join(f"{number} {status}" for status, number in lost["status"].value_counts().items())
        yield _html.paragraph(f"{len(lost)} cells have no scores: {counts}.", missing=True)
        columns = ["dataset", "label", "target", "loss", "regime", "share", "seed", "status", "error"]
        yield _html.folded("The cells and their reasons", _html.table(lost[columns], index=False))


def _predictions(scores: pd.DataFrame, alpha: float) -> Iterator[str]:
    """Comparisons of predictors by every protocol that was run."""
    for protocol, metrics in _OF_PROTOCOL.items():
        known = set(scores.loc[scores["protocol"] == protocol, "metric"])
        for metric in metrics:
            if metric in known:
                yield _html.heading(f"Prediction: {metric}, protocol {protocol}")
                yield from _comparison(scores, metric, alpha, protocol=protocol)
                yield from _by_data_set(scores, metric, protocol)


def _comparison(scores: pd.DataFrame, metric: str, alpha: float, **choice: Any) -> Iterator[str]:
    """The tests in words, their diagrams and tables."""
    import spared_sc as sp

    try:
        found = compare(scores, metric, alpha=alpha, **choice)
    except ValueError as error:
        yield _html.paragraph(f"No test: {error}", missing=True)
    else:
        yield _html.lines(str(found))
        yield _figure(
            lambda: sp.pl.critical_difference(found),
            "Mean ranks; bars join methods that do not differ by Nemenyi's test.",
        )
        yield _html.heading("Sensitivity: how many pairs differ", 3)
        yield _html.table(found.sensitivity)
        yield _html.folded(
            "All pairs, with differences and their 95 % intervals", _html.table(found.pairs, index=False)
        )
    yield _figure(
        lambda: sp.pl.benchmark_methods(scores, metric, **choice), "Relative to the best method of each data set."
    )
    yield _figure(lambda: sp.pl.benchmark_wins(scores, metric, **choice), "Data sets on which each method is the best.")


def _by_data_set(scores: pd.DataFrame, metric: str, protocol: str) -> Iterator[str]:
    import spared_sc as sp

    choice: dict[str, Any] = {"protocol": protocol}
    yield _figure(
        lambda: sp.pl.benchmark_data_sets(scores, metric, **choice),
        "Every data set: the best model of each target, large.",
    )
    yield _figure(lambda: sp.pl.benchmark_categories(scores, metric, **choice), "The best score by category.")
    yield _figure(
        lambda: sp.pl.benchmark_parameters(scores, metric, **choice), "Mean score against the number of parameters."
    )
    limit = scores[(scores["limit"] == "ceiling") & (scores["metric"] == metric) & (scores["gene"] == ALL)]
    limit = limit[limit["protocol"] == protocol]
    if len(limit):
        yield _html.heading("Ceiling: the score of a prediction without error, as estimated from noise", 3)
        yield _html.table(limit.groupby("dataset", sort=False)["value"].mean().to_frame("ceiling"))


def _completions(scores: pd.DataFrame, alpha: float) -> Iterator[str]:
    """Comparisons of completion methods by what was hidden."""
    for regime, rows in scores.groupby("regime", sort=False):
        metric = next((name for name in _OF_REGIME if name in set(rows["metric"])), None)
        if metric is None:
            yield _html.heading(f"Completion: {regime}")
            yield _html.paragraph("No method has a score.", missing=True)
            continue
        shares = sorted(rows["share"].dropna().unique())
        for share in shares or [None]:
            hidden = "" if share is None else f", {share:.0%} hidden"
            yield _html.heading(f"Completion: {metric}, {regime}{hidden}")
            yield from _of_regime(rows, metric, alpha, {"regime": regime} | ({} if share is None else {"share": share}))
        if len(shares) > 1:
            yield _curve(rows, metric, str(regime))


def _of_regime(rows: pd.DataFrame, metric: str, alpha: float, choice: dict[str, Any]) -> Iterator[str]:
    import spared_sc as sp

    yield from _comparison(rows, metric, alpha, **choice)
    yield _figure(lambda: sp.pl.benchmark_methods(rows, metric, to_best=False, **choice), "Values of the data sets.")
    yield _tables_2_and_3(rows, choice)


def _curve(rows: pd.DataFrame, metric: str, regime: str) -> str:
    import spared_sc as sp

    table = completion_rows(rows)
    return _figure(
        lambda: sp.pl.completion_curve(table, metric=metric, regime=regime), "How completion worsens as more is hidden."
    )


def completion_rows(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores of completion as `sp.tl.evaluate_completion` gives them, with the data set in the column `set`."""
    rows = scores[scores["metric"] != ""]
    return rows.assign(
        set=rows["dataset"],
        mask=rows["seed"].astype(int),
        method=rows["label"].where(rows["limit"] == "", rows["limit"]),
        genes=rows["gene"],
        flag="",
    )[["set", "regime", "share", "mask", "method", "library", "subject", "genes", "metric", "value", "n", "flag"]]


def _tables_2_and_3(rows: pd.DataFrame, choice: dict[str, Any]) -> str:
    """Means over the data sets, as in the paper; of SpaCKLE by its neighbours where there are several."""
    numbers: dict[Literal[2, 3], str] = {2: "Means over data sets", 3: "SpaCKLE as published, by its neighbourhood"}
    parts = []
    for number, words in numbers.items():
        try:
            parts.append(_html.folded(words, _html.table(paper_table(number, rows, **choice))))
        except ValueError:  # of a regime without these metrics, or of scores without that method
            continue
    return "".join(parts)


def _data_sets(scores: pd.DataFrame) -> Iterator[str]:
    yield _html.heading("Data sets")
    columns = ["source", "organism", "tissue", "technology", "n_spots", "n_genes", "n_libraries"]
    yield _html.table(scores.groupby("dataset", sort=False)[columns].first())
    try:
        yield _html.folded("The same in the paper (table 1)", _html.table(paper_table(1, scores)))
    except ValueError as error:
        yield _html.paragraph(str(error), missing=True)


def _costs(cells: pd.DataFrame) -> Iterator[str]:
    """Mean costs of a cell, by method."""
    done = cells[cells["status"] == DONE]
    if done.empty:
        return
    yield _html.heading("Costs of a cell")
    numbers = done.assign(gib=done["peak_memory"].astype(float) / 2**30, parameters=done["n_parameters"].astype(float))
    groups = numbers.groupby(["task", "label"], sort=False)
    table = groups.agg(
        cells=("cell", "size"),
        seconds=("seconds", "mean"),
        cpu_seconds=("cpu_seconds", "mean"),
        largest_memory_gib=("gib", "max"),
        parameters=("parameters", "median"),
    )
    yield _html.table(table.reset_index(), index=False)


def _published(alpha: float) -> Iterator[str]:
    """What the authors of SpaRED published, apart from all that was computed here."""
    import spared_sc as sp

    scores = reference_external()
    yield _html.heading("Published scores, which enter no test above")
    yield _html.paragraph(
        "Scores of SpaRED's 26 data sets from its project page (Ruiz et al. 2025), by other code and other searches of "
        "learning rates."
    )
    found = compare(scores, "mse", alpha=alpha, published=True)
    yield _html.lines(str(found))
    yield _figure(lambda: sp.pl.critical_difference(found), "Mean ranks of the published errors.")
    if found.dunn is not None:
        words = "Table 4 of the paper, of these scores: Dunn's test with Bonferroni's correction"
        yield _html.folded(words, _html.table(found.dunn))


def _figure(draw: Callable[[], Figure | Axes], caption: str) -> str:
    """A figure, or why there is none."""
    try:
        return _html.figure(draw(), caption)
    except ValueError as error:
        return _html.paragraph(f"No figure ({caption.rstrip('.')}): {error}", missing=True)
