"""The explorer's page in a real browser, opened from its folder, with every host blocked."""

from __future__ import annotations

import csv
import sys
import webbrowser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import spared_sc as sp
from helpers import KEY, dense
from helpers.browser import browser, visit

pytest.importorskip("bokeh")

HOSTILE = [
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    '"); window.hacked = 1; ("',
    "../../etc/passwd",
    "$$x^2$$ \\(y\\)",
    "x" * 300,
    "nul\0and\u202ereversed é 基因",
    "=HYPERLINK(1)",
]
SHOWN = "document.querySelectorAll('.map .plot').length"


@pytest.fixture(scope="module")
def adata(collection):
    adata = collection(n_libraries=2, shape=(10, 10), n_genes=40, depth=150, recipe={"n_genes": 12})
    sp.tl.complete(adata, method="kernel", **KEY)
    sp.tl.predict_expression(adata, model="position_only", **KEY)
    adata.obs["half"] = pd.Categorical(np.where(adata.obs["array_row"] < 5, "upper", "lower"))
    return adata


@pytest.fixture(scope="module")
def chrome(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as context:
        yield context


@pytest.fixture(scope="module")
def site(adata, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sites") / "site"
    return sp.explore(adata, folder, title="Two sections", open_browser=False, **KEY)


@pytest.fixture
def opened(chrome, site):
    with visit(chrome, site.address) as visited:
        yield visited
    assert not visited.outside()
    assert not visited.complaints


def genes_of(opened) -> list[str]:
    return opened.page.locator("#genes .name").all_inner_texts()


def test_it_opens_from_a_file_and_asks_for_nothing_outside(opened, site):
    assert opened.page.url.startswith("file://")
    assert opened.page.evaluate(SHOWN) == 6  # 2 sections x measured, denoised, predicted
    loaded = {Path(address).name for address in opened.requests if "/data/" in address}
    assert sum(name.startswith("gene-") for name in loaded) == 1  # only the gene that is shown
    files = {path.name for path in site.folder.rglob("*.js")}
    assert {Path(address).name for address in opened.requests if address.endswith(".js")} <= files


def test_choosing_a_gene_changes_picture_and_title(opened, adata):
    names, before = genes_of(opened), opened.picture()
    assert sorted(names) == sorted(adata.var_names[adata.var["spared_selected"]])
    number = int(opened.page.locator("#genes li").nth(5).get_attribute("id").removeprefix("gene-"))
    opened.choose_gene(number)
    assert opened.page.title() == f"{names[5]} · Two sections"
    assert opened.page.inner_text("#gene") == names[5]
    assert (opened.picture() != before).any(axis=2).mean() > 0.1


PLACES = """() => {
    const {frame, model} = Bokeh.index.roots[0], {x, y} = model.renderers.at(-2).data_source.data;
    return [...x].map((one, i) => [frame.x_scale.compute(one), frame.y_scale.compute(y[i])]);
}"""


def colours(visited, low: float, high: float) -> np.ndarray:
    """Pixels in the middle of the spots of the first map, without the image, between these limits."""
    visited.page.fill("#image-opacity", "0")
    visited.page.fill("#spot-opacity", "100")
    visited.page.select_option(".scale select", "value")
    for which, limit in enumerate((low, high)):
        visited.page.locator(".scale input").nth(which).fill(str(limit))
        visited.page.locator(".scale input").nth(which).blur()
    visited.wait("true")
    picture = visited.picture()
    return np.array([picture[round(y) + 1, round(x) + 1] for x, y in visited.page.evaluate(PLACES)])


def viridis(values: np.ndarray, detected: np.ndarray, low: float, high: float) -> np.ndarray:
    import matplotlib as mpl

    expected = mpl.colormaps["viridis"]((values - low) / (high - low))[:, :3] * 255
    return np.where(detected[:, None], expected, (0xD5, 0xD9, 0xDD))


def test_spots_have_the_colours_of_their_values(opened, adata):
    """The pixel at every spot, against matplotlib's viridis of the measured value between the shown limits."""
    section = adata[adata.obs["library_id"] == "library_1", opened.page.inner_text("#gene")]
    values, seen = (dense(section.layers[layer]).ravel() for layer in ("log2tpm", "detected"))
    low, high = values[seen.astype(bool)].min(), values.max()
    found = colours(opened, low, high)
    assert len(found) == section.n_obs
    assert np.abs(found - viridis(values, seen.astype(bool), low, high)).max() < 12


def test_a_graphics_card_draws_many_spots_alike(collection, chrome, tmp_path):
    """A section that is large enough for WebGL, told that its stand-in is a card."""
    adata = collection(n_libraries=1, shape=(56, 56), n_genes=3, depth=60)
    sp.pp.normalize_tpm(adata, gene_lengths=None)
    page = sp.explore(adata, tmp_path / "site", genes=["Gene001"], open_browser=False, **KEY)
    pretend = "WebGLRenderingContext.prototype.getParameter = new Proxy(WebGLRenderingContext.prototype.getParameter, {"
    pretend += "apply: (real, card, [name]) => name === 0x9246 || name === 0x1F01 ? 'a card' : real.call(card, name)});"
    values, seen = (dense(adata[:, "Gene001"].layers["log2tpm"]).ravel(), dense(adata[:, "Gene001"].X).ravel() > 0)
    low, high = values[seen].min(), values.max()
    drawn = "Bokeh.index.roots[0].canvas_view.webgl !== null"
    with visit(chrome, page.address) as plain, visit(chrome, page.address, pretend) as by_card:
        assert not plain.page.evaluate(drawn)
        assert by_card.page.evaluate(drawn)
        for visited in (plain, by_card):
            wrong = np.abs(colours(visited, low, high) - viridis(values, seen, low, high)).max(axis=1) > 20
            assert wrong.mean() < 0.02  # of small spots, a rounded place may lie on the edge


def test_limits_by_hand_and_by_percentile(opened):
    text = "() => document.querySelector('.scale .ends').innerText"
    usual, before = opened.page.evaluate(text), opened.picture()
    high = opened.page.locator(".scale input").nth(1)
    high.fill("50")
    high.blur()
    opened.wait("true")
    assert opened.page.evaluate(text) != usual
    assert (opened.picture() != before).any(axis=2).mean() > 0.02
    opened.page.select_option(".scale select", "value")
    for which, limit in enumerate(("0", "20")):
        opened.page.locator(".scale input").nth(which).fill(limit)
        opened.page.locator(".scale input").nth(which).blur()
    assert opened.page.evaluate(text).split() == ["0", "20"]
    high.fill("-3")  # below the lower limit: refused
    high.blur()
    assert opened.page.evaluate(text).split() == ["0", "20"]


def test_maps_can_be_added_and_removed(opened):
    titles = "() => [...document.querySelectorAll('.map h3')].map((title) => title.innerText)"
    opened.page.check("#panels label:has-text('denoised − measured') input")
    opened.wait(f"{SHOWN} === 8")
    shown = opened.page.evaluate(titles)
    assert shown[:4] == ["measured", "denoised", "predicted (position_only)", "denoised − measured"]
    assert opened.page.locator(".scale").count() == 2
    opened.page.uncheck("#panels label:has-text('predicted (position_only)') >> nth=0")
    opened.wait(f"{SHOWN} === 6")
    opened.page.select_option("#column", label="half")
    opened.wait(f"{SHOWN} === 8")
    assert opened.page.locator(".legend button").all_inner_texts() == ["lower", "upper"] * 2
    opened.page.uncheck("#sections label:has-text('library_2') input")
    opened.wait(f"{SHOWN} === 4")


def test_zoom_is_linked_within_a_section(opened):
    ranges = "() => Bokeh.index.roots.map(({model: {x_range: x, y_range: y}}) => [x.start, x.end, y.start, y.end])"
    before = np.array(opened.page.evaluate(ranges))
    opened.page.locator(".map .plot").first.hover()
    opened.page.mouse.wheel(0, -300)
    opened.page.wait_for_timeout(300)
    after = np.array(opened.page.evaluate(ranges))
    width = np.diff(after[:, :2], axis=1) / np.diff(before[:, :2], axis=1)
    assert (width[:3] < 0.9).all()
    assert (after[:3] == after[0]).all()
    np.testing.assert_array_equal(after[3:], before[3:])  # another section has places of its own
    opened.page.click("#reset")
    np.testing.assert_allclose(opened.page.evaluate(ranges), before)


def test_maps_move_and_zoom_by_keyboard(opened):
    ranges = "() => Bokeh.index.roots.map(({model: {x_range: x, y_range: y}}) => [x.start, x.end, y.start, y.end])"
    before = np.array(opened.page.evaluate(ranges))
    opened.page.focus("#picture")
    while opened.page.evaluate("document.activeElement.closest('.plot') === null"):
        opened.page.keyboard.press("Tab")
    for key in ("ArrowRight", "ArrowUp", "+"):
        opened.page.keyboard.press(key)
    after = np.array(opened.page.evaluate(ranges))
    width, height = before[0, 1] - before[0, 0], before[0, 3] - before[0, 2]
    centre = after.reshape(-1, 2, 2).mean(axis=2) - before.reshape(-1, 2, 2).mean(axis=2)
    np.testing.assert_allclose(centre[:3], [[width / 10, height / 10]] * 3)
    np.testing.assert_allclose(after[:3, 1] - after[:3, 0], width / 1.4)
    np.testing.assert_array_equal(after[3:], before[3:])


def lasso(opened, which: int = 0) -> None:
    """Drag around the upper left part of a map."""
    opened.page.check("input[value=lasso]")
    box = opened.page.locator(".map .plot").nth(which).bounding_box()
    corners = [(0.02, 0.02), (0.6, 0.02), (0.6, 0.6), (0.02, 0.6), (0.02, 0.02)]
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in corners]
    opened.page.mouse.move(*places[0])
    opened.page.mouse.down()
    for place in places[1:]:
        opened.page.mouse.move(*place, steps=4)
    opened.page.mouse.up()
    opened.page.wait_for_selector("#selection:not([hidden])")


def test_a_lasso_selects_spots_which_can_be_saved(opened, adata, tmp_path):
    lasso(opened)
    name = opened.page.inner_text("#gene")
    assert opened.page.locator("#histogram rect").count() > 0
    with opened.page.expect_download() as download:
        opened.page.click("#csv")
    download.value.save_as(tmp_path / "spots.csv")
    with (tmp_path / "spots.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head[:3] == ["barcode", "library", f"{name}, measured"]
    assert opened.page.inner_text("#selection-heading") == f"{len(rows)} selected spots"
    chosen = adata[[row[0] for row in rows]]
    assert set(chosen.obs["library_id"]) == {"library_1"}
    all_xy = adata.obsm["spatial"][adata.obs["library_id"] == "library_1"]
    middle = (all_xy.min(axis=0) + all_xy.max(axis=0)) / 2
    assert 10 < len(rows) < 60
    assert (chosen.obsm["spatial"].mean(axis=0) < middle).all()
    values = dense(chosen[:, name].layers["kernel_denoised"]).ravel()
    np.testing.assert_allclose([float(row[3]) for row in rows], values, atol=0.05)
    opened.page.click("#clear")
    assert opened.page.locator("#selection").is_hidden()


def test_categories_select_their_spots(opened, adata):
    opened.page.select_option("#column", label="half")
    opened.wait(f"{SHOWN} === 8")
    opened.page.click(".legend button:has-text('upper') >> nth=0")
    n = ((adata.obs["half"] == "upper") & (adata.obs["library_id"] == "library_1")).sum()
    assert opened.page.inner_text("#selection-heading") == f"{n} selected spots"


def test_the_pointer_tells_the_values_of_a_spot(opened, adata):
    box = opened.page.locator(".map .plot").nth(1).bounding_box()
    place = opened.page.evaluate(
        """() => {
            const {frame, model} = Bokeh.index.roots[1], {x, y} = model.renderers.at(-2).data_source.data;
            return [frame.x_scale.compute(x[44]), frame.y_scale.compute(y[44])];
        }"""
    )
    opened.page.mouse.move(box["x"] + place[0] + 1, box["y"] + place[1] + 1)
    opened.page.wait_for_selector("#tip:not([hidden])")
    name = adata.obs_names[adata.obs["library_id"] == "library_1"][44]
    assert name in opened.page.inner_text("#tip")
    value = dense(adata[name, opened.page.inner_text("#gene")].layers["kernel_denoised"]).item()
    shown = opened.page.locator("#tip div:has-text('denoised') span").nth(1).inner_text()
    assert abs(float(shown) - value) < 0.1


def test_a_picture_can_be_saved(opened, tmp_path):
    with opened.page.expect_download() as download:
        opened.page.click("#picture")
    download.value.save_as(tmp_path / "maps.png")
    pixels = np.asarray(Image.open(tmp_path / "maps.png").convert("RGB"))
    assert pixels.shape[0] > 500
    assert (pixels.std(axis=2) > 20).mean() > 0.05  # coloured, not blank


def test_genes_by_keyboard_and_search(opened):
    names = genes_of(opened)
    opened.page.focus("#genes")
    opened.page.keyboard.press("ArrowDown")
    opened.page.keyboard.press("ArrowDown")
    opened.page.keyboard.press("ArrowUp")
    opened.wait(f"document.title.startsWith('{names[1]} ')")
    assert opened.page.get_attribute("#genes", "aria-activedescendant") in opened.page.locator(
        "#genes [aria-selected=true]"
    ).evaluate("(item) => item.id")
    opened.page.keyboard.press("End")
    opened.wait(f"document.title.startsWith('{names[-1]} ')")
    opened.page.fill("#search", names[3].lower())
    assert genes_of(opened) == [names[3]]
    opened.page.keyboard.press("ArrowDown")
    opened.wait(f"document.title.startsWith('{names[3]} ')")


def test_genes_are_sorted_by_their_numbers(opened, adata):
    genes = adata.var[adata.var["spared_selected"]]
    labels = opened.page.locator("#sort option").all_inner_texts()
    assert labels == ["by Moran's I", "by missing share", "by correlation given depth (position_only)", "by name"]
    opened.page.select_option("#sort", label="by Moran's I")
    assert genes_of(opened) == genes.sort_values("moran_i", ascending=False).index.tolist()
    opened.page.click("#order")
    assert genes_of(opened) == genes.sort_values("moran_i").index.tolist()
    opened.page.select_option("#sort", label="by missing share")
    share = 1 - dense(adata[:, genes.index].layers["detected"]).mean(axis=0)
    shown = [float(text.removesuffix(" %")) for text in opened.page.locator("#genes .value").all_inner_texts()]
    np.testing.assert_allclose(shown, np.sort(100 * share), atol=0.51)


def test_controls_can_be_reached_by_keyboard_and_have_names(opened):
    nameless = opened.page.evaluate(
        """() => [...document.querySelectorAll("input, select, button")].filter((one) =>
            !(one.labels?.length || one.ariaLabel || one.textContent.trim())).map((one) => one.outerHTML)"""
    )
    assert nameless == []
    reached = []
    for _ in range(8):
        opened.page.keyboard.press("Tab")
        reached.append(opened.page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert reached[:5] == ["skip", "search", "sort", "order", "genes"]


@pytest.mark.parametrize(("kernel", "opened"), [("IPKernelApp", 0), ("TerminalIPythonApp", 1)])
def test_a_page_opens_unless_in_a_notebook(adata, tmp_path, monkeypatch, kernel, opened):
    addresses = []
    monkeypatch.setattr(webbrowser, "open", lambda address: addresses.append(address) or True)
    shell = SimpleNamespace(config={kernel: {}})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    options = {"layers": "log2tpm", "genes": adata.var_names[0], "img": False}
    page = sp.explore(adata, tmp_path / "site", **options, **KEY)
    assert addresses == [page.address] * opened
    sp.explore(adata, tmp_path / "site", open_browser=not opened, **options, **KEY)
    assert addresses == [page.address]  # what was asked for


def test_bins_are_squares_that_a_lasso_selects(collection, chrome, tmp_path):
    adata = collection(n_libraries=1, lattice="grid", shape=(8, 8), n_genes=3, depth=300)
    sp.pp.normalize_tpm(adata, gene_lengths=None)
    factors = next(iter(adata.uns["spatial"].values()))["scalefactors"]
    factors |= {"bin_size_um": 8.0, "spot_diameter_fullres": 100.0}  # as wide as they lie apart
    page = sp.explore(adata, tmp_path / "site", img=False, open_browser=False, **KEY)
    with visit(chrome, page.address) as visited:
        visited.page.fill("#spot-size", "100")
        visited.wait("true")
        (left, top), (right, bottom) = np.array(visited.page.evaluate(PLACES)).reshape(8, 8, 2)[[0, -1], [0, -1]]
        step, picture = (right - left) / 7, visited.picture()
        corner = [(round(left + (i + 0.45) * step), round(top + (i + 0.45) * step)) for i in range(8)]
        assert all(picture[y + 1, x + 1].min() < 250 for x, y in corner)  # where circles would leave white
        lasso(visited)
        assert 10 < int(visited.page.inner_text("#selection-heading").split()[0]) < 40
        assert not visited.complaints


def test_a_section_that_the_model_was_fitted_to_is_marked(collection, chrome, tmp_path):
    adata = collection(n_libraries=2, shape=(8, 8), n_genes=20, depth=300, recipe={"n_genes": 4})
    adata.obs["split"] = adata.obs["library_id"].map({"library_1": "train", "library_2": "test"})
    sp.tl.predict_expression(adata, model="position_only", **KEY)
    page = sp.explore(adata, tmp_path / "site", open_browser=False, **KEY)
    with visit(chrome, page.address) as visited:
        marked = visited.page.locator(".map:has(.warning) .plot").evaluate_all(
            "(all) => all.map((one) => one.ariaLabel)"
        )
        assert marked == ["predicted (position_only), library_1"]
        assert not visited.complaints


def test_a_served_page_works_like_the_folder(adata, chrome, tmp_path):
    page = sp.explore(adata, tmp_path / "site", layers="log2tpm", serve=True, open_browser=False, **KEY)
    with visit(chrome, page.address) as visited:
        assert visited.page.evaluate(SHOWN) == 2
        assert all(address.startswith((page.address, "data:", "blob:")) for address in visited.requests)
        assert not visited.complaints
    page.close()


def test_spatialdata_is_shown_as_its_table(adata, tmp_path):
    pytest.importorskip("spatialdata")
    from helpers.sdata import as_spatialdata

    sdata = as_spatialdata(adata)
    sdata.tables["table"].layers["log2tpm"] = adata.layers["log2tpm"]
    options = {"layers": "log2tpm", "genes": adata.var_names[:6].tolist(), "open_browser": False}
    plain = sp.explore(adata, tmp_path / "plain", **options, **KEY)
    page = sp.explore(sdata, tmp_path / "site", **options)
    for name in ("gene-0", "gene-5"):
        contents = [(one.folder / "data" / f"{name}.js").read_bytes() for one in (plain, page)]
        assert contents[0] == contents[1]


def test_hostile_names_are_text(collection, chrome, tmp_path):
    adata = collection(n_libraries=2, shape=(6, 6), n_genes=len(HOSTILE), depth=200)
    adata.var_names = HOSTILE
    renamed = dict(zip(["library_1", "library_2"], HOSTILE[:2], strict=True))
    adata.obs["library_id"] = [renamed[name] for name in adata.obs["library_id"]]
    adata.uns["spatial"] = {renamed[name]: slide for name, slide in adata.uns["spatial"].items()}
    adata.obs[HOSTILE[1]] = [HOSTILE[i % 2] for i in range(adata.n_obs)]
    adata.obs_names = [f"{HOSTILE[i % 8]}{i}" for i in range(adata.n_obs)]
    adata.layers[HOSTILE[1]] = adata.X.copy()
    folder = tmp_path / "a <b>&'%41 site"
    page = sp.explore(adata, folder, layers=[HOSTILE[1]], title=HOSTILE[0], open_browser=False, **KEY)
    names = {path.name for path in folder.rglob("*")}
    assert all(name.isascii() and "script" not in name and len(name) < 30 for name in names)
    with visit(chrome, page.address) as visited:
        texts = visited.page.locator("#genes .name").evaluate_all("(names) => names.map((one) => one.textContent)")
        assert sorted(texts) == sorted(HOSTILE)
        assert visited.page.text_content("#title") == HOSTILE[0]
        for number, name in enumerate(HOSTILE):
            visited.choose_gene(number)
            assert visited.page.text_content("#gene") == name
        visited.page.select_option("#column", index=visited.page.locator("#column option").count() - 1)
        visited.wait(f"{SHOWN} === 4")
        assert set(visited.page.locator(".legend button").all_inner_texts()) == set(HOSTILE[:2])
        box = visited.page.locator(".map .plot").first.bounding_box()
        visited.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=4)
        lasso(visited)
        with visited.page.expect_download() as download:
            visited.page.click("#csv")
        download.value.save_as(tmp_path / "spots.csv")
        assert visited.page.evaluate("window.hacked") is None
        assert not visited.outside()
        assert not visited.complaints
    with (tmp_path / "spots.csv").open(newline="") as file:
        rows = list(csv.reader(line.replace("\0", "NUL") for line in file))
    wanted = {name.replace("\0", "NUL") for name in adata.obs_names}
    assert {row[0] for row in rows[1:]} <= wanted
