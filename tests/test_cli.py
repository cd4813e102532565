"""The command line."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
import urllib.request
import webbrowser
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

import spared_sc as sp
from helpers import KEY
from helpers.image_prediction import SECTIONS, embed, of_libraries
from helpers.locks import written_by_another
from helpers.repositories import play
from spared_sc import cli

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = [sys.executable, "-c", "import sys; from spared_sc.cli import main; sys.exit(main())"]
PYTHON = ("=True", "=False", "sp.", "mpp=", "`mpp`", "image=", "Traceback")  # what users of a shell have no use for


@pytest.fixture
def adata(collection):
    return collection(**SECTIONS, then=embed)


@pytest.fixture
def fitted(adata):
    return sp.tl.fit_predictor(of_libraries(adata, 1, 2, 3), novelty=True, **KEY)


@pytest.fixture
def options(adata, fitted, tmp_path) -> list[str]:
    """Those of a run that succeeds; the folder holds a slide and a model."""
    Image.fromarray(slide_of(adata)).save(tmp_path / "slide.png")
    fitted.save(tmp_path / "model")
    um = fitted.card.data.embeddings["X_classical"].patches.um_per_px
    return options_of(tmp_path, "slide.png", **{"--mpp": um})


def slide_of(adata) -> np.ndarray:
    """The image of a section that no model here is fitted to."""
    return adata.uns["spatial"]["library_4"]["images"]["hires"]


def options_of(folder, image, **changed) -> list[str]:
    values = {"--model": folder / "model", "-o": folder / "out.h5ad", **changed}
    return ["predict", str(folder / image), *(str(word) for pair in values.items() for word in pair)]


def changed(options, **values) -> list[str]:
    """The options with another value for some; `image` is the one without a name."""
    options = list(options)
    for name, value in values.items():
        if name == "image":
            options[1] = str(value)
        elif f"--{name}" in options:
            options[options.index(f"--{name}") + 1] = str(value)
        else:
            options += [f"--{name}", str(value)]
    return options


def left_behind(folder) -> list[str]:
    """What is in the folder besides the slide and the model."""
    return sorted(path.name for path in folder.iterdir() if path.name not in ("slide.png", "model"))


@pytest.mark.parametrize("ending", ["h5ad", "zarr"])
@pytest.mark.filterwarnings("ignore:the mean embedding of a section:UserWarning")
def test_predictions_are_written_and_can_be_drawn(options, fitted, tmp_path, ending):
    options[options.index("-o") + 1] = f"out.{ending}"
    options[1], options[options.index("--model") + 1] = "slide.png", "model"
    ran = subprocess.run([*PROGRAM, *options], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert left_behind(tmp_path) == [f"out.{ending}"]
    assert "target: expression, zeros included, in the unit of layer 'log2tpm' in training" in ran.stdout
    assert "look unlike the training data" in ran.stdout
    assert "UserWarning" not in ran.stderr  # of the line that warned
    assert "fit the model to patches extracted with" in ran.stderr  # of the synthetic image, whose spots are others
    result = getattr(ad, f"read_{ending}")(tmp_path / f"out.{ending}")
    assert result.var_names.tolist() == fitted.genes
    assert result.n_obs > 20
    assert {"array_row", "array_col", "predicted_ridge_out_of_distribution"} <= set(result.obs)
    record = result.uns["spared_sc"]["predicted_ridge"]
    assert record["card"]["target"] == "expression"
    assert record["params"]["fitted"] == str(tmp_path / "model")
    slide = result.uns["spatial"]["slide"]
    assert slide["metadata"]["source_image_path"] == str(tmp_path / "slide.png")  # from any other folder
    gene = fitted.genes[0]
    figure = sp.pl.predicted(result, gene).figure
    panel = figure.axes[0]
    assert len(panel.images) == 1
    drawn = np.concatenate([one.get_array() for one in panel.collections if one.get_array() is not None])
    np.testing.assert_allclose(drawn, np.asarray(result.X)[:, 0])
    np.testing.assert_array_equal(sp.get.predicted(result).X, result.X)
    expected = fitted.predict(sp.pp.tile_slide(tmp_path / "slide.png", mpp=float(options[-1])))
    np.testing.assert_allclose(result.X, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore")  # of the two packages
@pytest.mark.parametrize("table", [False, True])
def test_scanpy_and_squidpy_draw_what_was_written(options, tmp_path, table):
    import matplotlib.pyplot as plt
    import scanpy as sc
    import squidpy as sq

    assert cli.main(options) == 0
    result = ad.read_h5ad(tmp_path / "out.h5ad")
    result = sp.get.predicted(result) if table else result
    gene = result.var_names[0]
    panel = sc.pl.spatial(result, color=gene, show=False)[0]
    other = plt.figure().subplots()
    sq.pl.spatial_scatter(result, color=gene, ax=other)
    for axes in (panel, other):
        assert len(axes.images) == 1
        values = np.sort(np.asarray(axes.collections[0].get_array()))
        np.testing.assert_allclose(values, np.sort(np.asarray(result.X)[:, 0]), rtol=1e-6)
    plt.close("all")


def test_genes_whose_names_no_table_in_a_file_can_have(adata, tmp_path, capsys):
    adata.var_names = [f"a/{name}" for name in adata.var_names]
    fitted = sp.tl.fit_predictor(of_libraries(adata, 1, 2, 3), **KEY)
    fitted.save(tmp_path / "model")
    Image.fromarray(slide_of(adata)).save(tmp_path / "slide.png")
    um = fitted.card.data.embeddings["X_classical"].patches.um_per_px
    assert cli.main(options_of(tmp_path, "slide.png", **{"--mpp": um, "-o": tmp_path / "out.zarr"})) == 0
    assert "to draw a gene" not in capsys.readouterr().out
    assert ad.read_zarr(tmp_path / "out.zarr").var_names.tolist() == fitted.genes


def damaged(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    path.write_bytes(content)


@pytest.mark.parametrize("name", [" slide .png", "x" * 240 + ".png", "a\\b.png"])
def test_the_image_may_have_any_name(options, tmp_path, name):
    (tmp_path / "slide.png").rename(tmp_path / name)
    assert cli.main(changed(options, image=tmp_path / name)) == 0
    libraries = list(ad.read_h5ad(tmp_path / "out.h5ad").uns["spatial"])
    assert len(libraries) == 1


def test_a_damaged_model_is_named_in_one_line_without_a_traceback(options, tmp_path):
    damaged(next((tmp_path / "model").glob("weights-*")))
    ran = subprocess.run([*PROGRAM, *options], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stderr.count("\n") == 1
    assert ran.stderr.startswith("spared-sc predict: ")
    assert "is damaged or cut short" in ran.stderr
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image": "none.png"}, "there is no image '.*none.png': it may have been moved"),
        ({"image": "."}, "is a folder: pass the image file in it"),
        ({"image": __file__}, "test_cli.py cannot be read"),
        ({"model": "none"}, "none is no saved model .*give the folder that `FittedPredictor.save` wrote as --model"),
        ({"model": "."}, "is no saved model .*no card.json"),
        ({"model": __file__}, "is no saved model .*a file"),
        ({"mpp": -1}, "--mpp -1.0 cannot be used: give a number"),
        ({"mpp": 1e6}, r"\(--mpp 1e\+06\).*check --mpp and --pitch"),
        ({"min-tissue": 2}, "--min-tissue 2.0 cannot be used"),
        ({"spot-diameter": 0}, "--spot-diameter 0.0 cannot be used"),
    ],
)
def test_errors_name_files_and_options(options, tmp_path, capsys, monkeypatch, values, message):
    monkeypatch.chdir(tmp_path)
    assert cli.main(changed(options, **values)) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("spared-sc predict: ")
    assert re.search(message, said), said
    assert not any(word in said for word in PYTHON)
    assert left_behind(tmp_path) == []


def test_messages_about_devices_and_weights_in_the_words_of_the_command_line():
    from spared_sc._models.training import resolve_device

    with pytest.raises(ValueError, match="cannot be used here") as raised:
        resolve_device("none")
    assert re.fullmatch(
        "--device none cannot be used here: choose one of [^=]*cpu[^=]*\\.", cli.in_options(str(raised.value))
    )


def test_the_scale_must_be_that_of_training(options, tmp_path, capsys):
    finer = changed(options, mpp=float(options[-1]) / 3)
    assert cli.main(finer) == 1
    said = capsys.readouterr().err
    assert "those of training" in said
    assert "Check --mpp, or pass --force." in said
    assert not any(word in said for word in PYTHON)
    assert left_behind(tmp_path) == []
    assert cli.main([*finer, "--force"]) == 0
    said = capsys.readouterr().err
    assert "WARNING: the patches of library 'slide' are" in said
    assert "predicting anyway (--force)" in said


def test_an_image_without_a_scale_needs_mpp(options, tmp_path, capsys):
    assert cli.main(options[:-2]) == 1
    assert "does not say how large its pixels are: give micrometres per pixel, --mpp." in capsys.readouterr().err


def test_an_image_without_tissue(options, tmp_path, capsys):
    Image.new("RGB", (200, 200), "white").save(tmp_path / "white.png")
    assert cli.main(changed(options, image=tmp_path / "white.png")) == 1
    assert "With --min-tissue 0 all" in capsys.readouterr().err


@pytest.mark.parametrize("output", ["out.csv", "out", "no/out.h5ad", "slide.png", "old.h5ad", "old.zarr"])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(options, tmp_path, capsys, output):
    (tmp_path / "old.h5ad").write_text("of the user")
    (tmp_path / "old.zarr").mkdir()
    options[options.index("-o") + 1] = str(tmp_path / output)
    options[options.index("--model") + 1] = "none"  # of which nothing is said
    assert cli.main(options) == 2
    said = capsys.readouterr().err
    expected = {"no": "there is no folder", "old": "exists: remove it, or give another name as --output"}
    assert expected.get(output[: output.find("/")] if "/" in output else output[:3], "must end in .h5ad") in said
    assert (tmp_path / "old.h5ad").read_text() == "of the user"


def test_models_that_read_something_else_than_an_image_are_refused(adata, options, tmp_path, capsys):
    train = of_libraries(adata, 1, 2, 3)
    sp.tl.fit_predictor(train, model="depth_only", **KEY).save(tmp_path / "depth")
    assert cli.main(changed(options, model=tmp_path / "depth")) == 1
    assert "(depth_only) reads counts, and an image has none" in capsys.readouterr().err
    train.obsm["X_mine"] = train.obsm["X_classical"][:, :5]
    sp.tl.fit_predictor(train, use_rep="X_mine", **KEY).save(tmp_path / "mine")
    assert cli.main(changed(options, model=tmp_path / "mine")) == 1
    assert "reads the embedding 'X_mine'" in capsys.readouterr().err


def test_the_unit_of_a_completed_layer_and_a_damaged_image(adata, tmp_path, capsys):
    sp.tl.median_complete(adata, **KEY)
    fitted = sp.tl.fit_predictor(of_libraries(adata, 1, 2, 3), target="median", **KEY)
    fitted.save(tmp_path / "model")
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, slide_of(adata), photometric="rgb", tile=(64, 64), compression="zlib")
    um = fitted.card.data.embeddings["X_classical"].patches.um_per_px
    assert cli.main(options_of(tmp_path, "slide.tif", **{"--mpp": um})) == 0
    assert "target: layer 'median', in the unit of layer 'log2tpm' in training" in capsys.readouterr().out
    content = bytearray(path.read_bytes())
    content[3000:3100] = bytes(100)
    path.write_bytes(content)
    assert cli.main(options_of(tmp_path, "slide.tif", **{"--mpp": um, "-o": tmp_path / "other.h5ad"})) == 1
    assert "slide.tif cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "other.h5ad").exists()


@pytest.mark.parametrize(
    ("stopped", "code", "message"),
    [(KeyboardInterrupt(), 130, "interrupted"), (OSError("no space left"), 1, "no space")],
)
def test_nothing_is_left_where_writing_stops_half_way(options, tmp_path, capsys, monkeypatch, stopped, code, message):
    def write(self, path):
        path.write_bytes(b"half of it")
        raise stopped

    monkeypatch.setattr(ad.AnnData, "write_h5ad", write)
    assert cli.main(options) == code
    assert f"spared-sc predict: {message}" in capsys.readouterr().err
    assert left_behind(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals of POSIX")
def test_an_interrupt_ends_the_program_at_once(options, fitted, tmp_path):
    um = fitted.card.data.embeddings["X_classical"].patches.um_per_px
    large = Image.open(tmp_path / "slide.png").resize((3000, 3000))
    large.save(tmp_path / "slide.png")
    run = subprocess.Popen([*PROGRAM, *changed(options, mpp=um / 2), "--force"], stderr=subprocess.PIPE, text=True)
    said = ""
    while "spots on the tissue" not in said:  # the longest part follows
        line = run.stderr.readline()
        assert line, said
        said += line
    time.sleep(0.2)
    run.send_signal(signal.SIGINT)
    said += run.communicate(timeout=60)[1]
    assert run.returncode == 130, said
    assert said.splitlines()[-1] == "spared-sc predict: interrupted"
    assert "Traceback" not in said
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize(("counts", "warned"), [(0.5, False), (0.8, True)])
def test_the_demo_says_where_the_model_is_no_better_than_additive_effects(capsys, counts, warned):
    report = cli._Report()
    score = {"counts": counts, "additive": 0.7, "kernel": 0.6, "n_entries": 1000, "unknown": 3.0}
    cli._tell_score(report, score)
    said = capsys.readouterr().out
    assert said == "\n".join(report.lines) + "\n"
    assert "1,000 detected entries" in said
    order = ["the default model", "neighbours", "additive effects of gene, spot, section"]
    assert [line.rsplit(maxsplit=1)[0].strip() for line in report.lines[2:5]] == order
    assert ("does not beat additive effects" in said) == warned
    assert "unknown" not in said


@pytest.mark.parametrize("kind", ["folder", "store", "link"])
def test_an_output_that_is_something_else_stays(options, tmp_path, capsys, kind):
    """`-o thesis.zarr`: a folder of the user, an earlier store, or a link to nowhere."""
    output = tmp_path / "thesis.zarr"
    if kind == "link":
        output.symlink_to(tmp_path / "nowhere")
    else:
        output.mkdir()
        (output / ("zarr.json" if kind == "store" else "notes.txt")).write_text("years of work")
    before = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}
    options[options.index("-o") + 1] = str(output)
    assert cli.main(options) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"spared-sc predict: {output} exists: remove it, or give another name as --output"
    ]
    assert before == {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}


@pytest.mark.parametrize(
    "output", ["/proc/out.h5ad", "/proc/out.zarr", "file/out.h5ad", "x" * 240 + ".zarr", "a\0b.h5ad", ""]
)
def test_a_place_that_cannot_be_written_is_told_in_one_line(options, tmp_path, capsys, monkeypatch, output):
    from spared_sc.pp import _tile_slide

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_tile_slide, "tile_slide", lambda *_: pytest.fail("the work was begun"))
    (tmp_path / "file").write_text("mine")
    options[options.index("-o") + 1] = output
    assert cli.main(options) in (1, 2)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("spared-sc predict: ")
    assert left_behind(tmp_path) == ["file"]


def test_a_mistake_of_ours_is_told_in_one_line(options, tmp_path, capsys, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("division by\nzero")

    monkeypatch.setattr(cli, "_predicted_slide", fail)
    assert cli.main(options) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "ZeroDivisionError: division by zero (a mistake of spared-sc: report it with SPARED_SC_VERBOSITY" in said[0]


def test_what_a_killed_program_left_is_removed_by_the_next(options, tmp_path):
    left = tmp_path / ".out.h5ad.spared-sc-part"
    left.mkdir()
    (left / "out.h5ad").write_bytes(b"half of it")
    (tmp_path / ".out.h5ad.lock").write_text("process 1")
    assert cli.main(options) == 0
    assert left_behind(tmp_path) == ["out.h5ad"]


def test_one_program_writes_an_output(options, tmp_path, capsys, monkeypatch):
    from spared_sc._core import locks

    monkeypatch.setattr(locks, "_WAIT", 0.1)
    with written_by_another(tmp_path / "out.h5ad") as writer:
        assert cli.main(options) == 1
        assert f"is being written by process {writer}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "before", ["nothing", "empty", "demo", "mine", "mine among the demo's", "mine in the demo's page", "a file"]
)
def test_the_demo_replaces_an_earlier_demo_alone(tmp_path, capsys, monkeypatch, before):
    def write(folder, *_):
        (folder / "summary.txt").write_text("new")

    monkeypatch.setattr(cli, "_write_demo", write)
    output = tmp_path / "demo"
    if before == "a file":
        output.write_text("mine")
    elif before != "nothing":
        output.mkdir()
    if "demo" in before:
        (output / "summary.txt").write_text("old")
        (output / "completion_A.png").write_text("old")
        (output / "explorer" / "data").mkdir(parents=True)
        (output / "explorer" / "index.html").write_text("old")
        (output / "explorer" / "data" / "gene-0.js").write_text("old")
    if before.startswith("mine in"):
        (output / "explorer" / "data" / "notes.txt").write_text("mine")
    elif before.startswith("mine"):
        (output / "missing.png").write_text("mine")
    if before.startswith("mine among"):
        (output / "notes.txt").write_text("mine")
    files = {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    if before in ("nothing", "empty", "demo"):
        assert cli.main(["demo", "--output", str(output)]) == 0
        assert {path.name: path.read_text() for path in output.iterdir()} == {"summary.txt": "new"}
    else:
        assert cli.main(["demo", "--output", str(output)]) == 2
        assert "exists: remove it, or give another name as --output" in capsys.readouterr().err
        assert files == {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


@pytest.mark.parametrize(
    "hidden", [OSError(28, "No space left on device"), RuntimeError("... 'No space left on device' ...")]
)
def test_a_full_disk_is_told_in_one_line(options, tmp_path, capsys, monkeypatch, hidden):
    def write(self, path):
        path.write_bytes(b"half of it")
        raise hidden

    monkeypatch.setattr(ad.AnnData, "write_h5ad", write)
    assert cli.main(options) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert "out.h5ad cannot be written (No space left on device): free some space. Nothing was changed." in said
    assert left_behind(tmp_path) == []


def test_data_list_and_info(capsys):
    assert cli.main(["data", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(sp.datasets.catalogue())
    assert lines[1].split() == ["VMB", "mouse", "14", "43,804", "Vicari", "Mouse", "Brain"]
    assert cli.main(["data", "info", "mmbr"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "licence: unknown unverified: read it on the page of the record" in text
    assert "published: sections 8, subjects 2, spots 34583" in text
    assert "verified: Table 1 of the paper" in text
    assert "of the test split of MMBR are in the train split of MMBP2" in text
    assert cli.main(["data", "info", "VL0"]) == 1
    said = capsys.readouterr().err
    assert "near are 'VLO' (villacampa_lung_organoid)" in said
    assert said.endswith("`spared-sc data list` lists all\n")


def test_data_fetch_and_verify(server, tmp_path, monkeypatch, capsys):
    play(server, monkeypatch, "VHS")
    with sp.settings.override(data_dir=None, cache_dir=tmp_path):
        arguments = ["data", "fetch", "VHS", "--sections", "V11T17-102_A1", "--images", "none"]
        assert cli.main(arguments) == 0
        said = capsys.readouterr()
        assert "downloading 4 files of VHS (0.0 MB) from https://figshare.scilifelab.se/" in said.err
        assert said.out.splitlines()[-1].startswith("4 files, ")
        assert cli.main(["data", "verify"]) == 0
        assert capsys.readouterr().out == "4 fine\n"
        next(tmp_path.rglob("*_list.csv")).write_text("")
        assert cli.main(["data", "verify", "VHS"]) == 1
        said = capsys.readouterr().out
        assert said.startswith("changed: ")
        assert said.endswith("3 fine, 1 changed\n")
        server.files.clear()
        assert cli.main(["data", "fetch", "VHS"]) == 1
        said = capsys.readouterr().err
    assert "files of VHS are not on this machine" in said
    assert not [word for word in PYTHON if word in said]


def test_data_of_the_user(tmp_path, capsys):
    path = tmp_path / "own.toml"
    path.write_text("[MINE]\nname = 1\n")
    assert cli.main(["data", "list", "--catalogue", str(path)]) == 1
    assert "[MINE] has name = 1: expected a text" in capsys.readouterr().err
    assert cli.main(["data", "verify", "--catalogue", str(tmp_path / "none.toml")]) == 1
    assert "there is no catalogue" in capsys.readouterr().err


@pytest.fixture
def saved(collection, tmp_path) -> Path:
    adata = collection(n_libraries=2, shape=(6, 6), n_genes=12, recipe={"n_genes": 4})
    adata.write_h5ad(tmp_path / "two.h5ad")
    return tmp_path / "two.h5ad"


def test_explore_writes_a_page_and_opens_it(saved, tmp_path, capsys, monkeypatch):
    pytest.importorskip("bokeh")
    opened = []
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) or True)
    assert cli.main(["explore", str(saved), "--export", str(tmp_path / "site")]) == 0
    assert opened == [(tmp_path / "site" / "index.html").as_uri()]
    assert opened[0] in capsys.readouterr().out
    assert len(list((tmp_path / "site" / "data").glob("gene-*.js"))) == 4
    assert cli.main(["explore", str(saved), "--export", str(tmp_path / "site"), "--no-open"]) == 0
    assert len(opened) == 1


def test_explore_serves_a_page_until_an_interrupt(saved):
    pytest.importorskip("bokeh")
    command = [*PROGRAM, "explore", str(saved), "--serve", "--no-open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        address = process.stdout.readline().split()[-1]
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(address + "data/page.js", timeout=10) as answer:
            assert answer.read().startswith(b"SparedExplorer.receive(")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--genes", "FOO"], 1, "there is no gene 'FOO'"),
        (["--layers", "foo"], 1, "pass some of those as --layers"),
        (["--max-mb", "1"], 1, "--max-mb 2"),
        (["--export", "."], 2, "give another name as --export"),
    ],
)
def test_errors_of_explore_name_its_options(saved, tmp_path, capsys, monkeypatch, arguments, code, message):
    pytest.importorskip("bokeh")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["explore", str(saved), "--no-open", *arguments]) == code
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not any(word in said for word in PYTHON)


def test_explore_without_a_file_shows_the_catalogue(tmp_path, capsys):
    assert cli.main(["explore", "--export", str(tmp_path / "site"), "--no-open"]) == 0
    assert "catalogue.js" in (tmp_path / "site" / "index.html").read_text()
    (tmp_path / "mine.html").write_text("the report")
    assert (
        cli.main(["explore", "--export", str(tmp_path / "site"), "--report", str(tmp_path / "mine.html"), "--no-open"])
        == 0
    )
    assert (tmp_path / "site" / "report.html").read_text() == "the report"
    assert cli.main(["explore", "a.h5ad", "--report", "b.html"]) == 2
    assert cli.main(["explore", "--no-image", "--no-open"]) == 2
    assert "--no-image is an option of sections" in capsys.readouterr().err


@pytest.fixture
def sections(collection, tmp_path) -> Path:
    adata = collection(n_libraries=3, shape=(7, 7), n_genes=20, recipe={"n_genes": 6, "gene_lengths": None})
    adata.write_h5ad(tmp_path / "sections.h5ad")
    adata.to_df("log2tpm").iloc[::-1, :6].add(0.1).to_csv(tmp_path / "predictions.csv")
    return tmp_path


def test_score_prints_a_summary_and_writes_all_scores(sections, capsys):
    files = [str(sections / "predictions.csv"), "--truth", str(sections / "sections.h5ad")]
    options = ["--library-key", "library_id", "--unit", "log2tpm", "--name", "tool"]
    out = sections / "scores.csv"
    bench = ["--add-to", str(sections / "bench"), "--dataset", "toy"]
    assert cli.main(["score", *files, *options, "-o", str(out), *bench]) == 0
    said = capsys.readouterr()
    assert "predicted_tool" in said.out
    assert "6 of 6 predicted genes and 147 of 147 predicted spots" in said.err
    written = pd.read_csv(out)
    assert {"predicted_tool", "gene_mean", "ceiling"} <= set(written["prediction"])
    assert set(sp.benchmark.results(sections / "bench")["label"]) >= {"tool", "gene_mean"}
    assert cli.main(["score", *files, *options, "-o", str(out)]) == 2  # what is there stays
    assert "scores.csv exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--unit", "tpm"], 1, r"unit='tpm' is unknown: choose 'log2tpm'"),
        (["--values", "other"], 1, r"there is no file|no layer or table"),
        (["--dataset", "toy"], 2, "--add-to and --dataset go together"),
    ],
)
def test_errors_of_score_name_its_options(sections, capsys, options, code, message):
    adata = ad.read_h5ad(sections / "sections.h5ad")
    adata.write_h5ad(sections / "predictions.h5ad")
    files = [
        str(sections / "predictions.h5ad"),
        "--truth",
        str(sections / "sections.h5ad"),
        "--library-key",
        "library_id",
    ]
    assert cli.main(["score", *files, *options]) == code
    assert re.search(message, capsys.readouterr().err)


def test_benchmark_report_writes_a_page(sections, capsys):
    files = [
        str(sections / "predictions.csv"),
        "--truth",
        str(sections / "sections.h5ad"),
        "--library-key",
        "library_id",
    ]
    bench = ["--add-to", str(sections / "bench"), "--dataset", "toy", "--unit", "log2tpm"]
    assert cli.main(["score", *files, *bench]) == 0
    assert cli.main(["benchmark", "report", str(sections / "bench"), "-o", str(sections / "page.html")]) == 0
    assert "page.html" in capsys.readouterr().out
    assert "No test" in (sections / "page.html").read_text()
    assert cli.main(["benchmark", "report", str(sections / "none")]) == 1
    assert "holds no cells.parquet" in capsys.readouterr().err
