"""The catalogue's page, in a real browser with every host blocked."""

from __future__ import annotations

import pytest

import spared_sc as sp
from helpers.browser import browser, visit
from spared_sc._explorer.catalogue import catalogue_page
from spared_sc._explorer.write import write_catalogue

ROWS = "#sets tbody tr"


@pytest.fixture(scope="module")
def chrome(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as context:
        yield context


def address(folder, table) -> str:
    write_catalogue(table, folder)
    return (folder / "index.html").as_uri()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return address(tmp_path_factory.mktemp("sites") / "catalogue", catalogue_page())


@pytest.fixture
def opened(chrome, site):
    with visit(chrome, site) as visited:
        yield visited
    assert not visited.outside()
    assert not visited.complaints


def shown(opened) -> list[str]:
    return opened.page.locator(f"{ROWS} th").all_inner_texts()


def test_all_data_sets_are_listed_and_sorted(opened):
    table = sp.datasets.catalogue()
    assert shown(opened) == sorted(table.index, key=str.lower)
    assert opened.page.inner_text("#summary").startswith(
        f"{len(table)} data sets, {table['n_sections'].sum()} sections"
    )
    opened.page.click("#sets thead button:has-text('spots')")
    known = table["spots"].dropna().astype(int)
    assert shown(opened)[: len(known)] == known.sort_values(kind="stable").index.tolist()
    opened.page.click("#sets thead button:has-text('spots')")
    assert shown(opened)[-1] == known.idxmin()


def test_filters(opened):
    table = sp.datasets.catalogue()
    opened.page.select_option("[aria-label=Organism]", "mouse")
    assert set(shown(opened)) == set(table.index[table["organism"] == "mouse"])
    opened.page.fill("input[type=search]", "bone")
    assert shown(opened) == ["MMBO"]
    assert opened.page.locator("#tissues tbody tr").count() == 1
    opened.page.fill("input[type=search]", "nothing at all")
    assert shown(opened) == []


def test_details_and_published_scores(opened):
    opened.page.click(f"{ROWS} button:text-is('VLO')")
    assert opened.page.title() == "VLO · Data sets"
    details = opened.page.inner_text("#details")
    row = sp.datasets.catalogue().loc["VLO"]
    for text in (
        'sp.datasets.load("VLO")',
        str(row["citation"]),
        str(row["doi"]),
        f"{row['missing_before']} % of all entries, {row['missing_after']} % in the {row['genes']} selected genes",
        f"{row['train']} train, {row['val']} validation, {row['test']} test",
    ):
        assert text in details
    scores = sp.benchmark.reference_external()
    ours = scores[(scores["dataset"] == "VLO") & (scores["metric"] == "mse")].sort_values("value")
    assert opened.page.locator(".scores tbody th").all_inner_texts() == ours["model"].tolist()
    best = opened.page.locator(".scores tbody td").first.inner_text()
    assert best == f"{ours['value'].min():.3f}"


def test_what_is_wrong_with_a_split_is_told(opened):
    opened.page.click(f"{ROWS} button:text-is('MMBR')")
    assert "of the test split of MMBR are in the train split of MMBP2" in opened.page.inner_text("#details")


def test_the_report_of_a_benchmark_lies_beside(chrome, opened, tmp_path):
    assert opened.page.locator("#report").is_hidden()
    write_catalogue(catalogue_page(report=True), tmp_path / "site", b"<!doctype html><title>Benchmark</title>")
    with visit(chrome, (tmp_path / "site" / "index.html").as_uri()) as visited:
        visited.page.click("#report a")
        assert visited.page.title() == "Benchmark"


def test_sums_by_tissue(opened):
    table = sp.datasets.catalogue()
    cells = opened.page.locator("#tissues tbody tr", has_text="Prostate cancer").first.locator("td").all_inner_texts()
    ours = table[table["tissue"] == "Prostate cancer"]
    assert [cell.replace(",", "") for cell in cells[1:]] == [
        str(len(ours)),
        str(ours["n_sections"].sum()),
        str(ours["spots"].sum()),
    ]


def test_sets_can_be_chosen_by_keyboard(opened):
    opened.page.focus(f"{ROWS}:nth-child(3) button")
    opened.page.keyboard.press("Enter")
    assert opened.page.title() == f"{shown(opened)[2]} · Data sets"


def test_hostile_texts_are_text_and_no_links(chrome, tmp_path):
    table = catalogue_page()
    hostile = "</script><img src=x onerror='window.hacked=1'>"
    table["sets"][0] |= dict.fromkeys(("title", "tissue", "citation", "notes", "licence"), hostile)
    table["sets"][0] |= {"source": "javascript:window.hacked=1", "key": hostile}
    with visit(chrome, address(tmp_path / "site", table)) as visited:
        visited.page.click(f"{ROWS} button:has-text('onerror')")
        assert visited.page.text_content("#details h2") == f"{hostile}: {hostile}"
        links = visited.page.locator("#details a").evaluate_all("(links) => links.map((link) => link.protocol)")
        assert set(links) == {"https:"}  # of the doi
        assert visited.page.evaluate("window.hacked") is None
        assert not visited.complaints
