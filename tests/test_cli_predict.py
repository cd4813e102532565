"""Several slides in one call of the command line."""

from __future__ import annotations

import shutil

import anndata as ad
import numpy as np
import pytest
from PIL import Image

from helpers.image_prediction import SECTIONS, embed, of_libraries
from spared_sc.cli import main

pytestmark = pytest.mark.filterwarnings("ignore:the mean embedding of a section:UserWarning")


@pytest.fixture(scope="module")
def folder(collection, tmp_path_factory):
    """A model, two slides and a file that is none."""
    import spared_sc as sp

    folder = tmp_path_factory.mktemp("slides")
    adata = collection(**SECTIONS, then=embed)
    fitted = sp.tl.fit_predictor(of_libraries(adata, 1, 2, 3), target="log2tpm", library_key="library_id")
    fitted.save(folder / "model")
    image = adata.uns["spatial"]["library_4"]["images"]["hires"]
    Image.fromarray(image).save(folder / "one.png")
    Image.fromarray(image[::-1].copy()).save(folder / "two.png")
    (folder / "bad.png").write_text("no image")
    (folder / "um").write_text(str(fitted.card.data.embeddings["X_classical"].patches.um_per_px))
    return folder


def predict(folder, out, *slides, options=()) -> int:
    images = [str(folder / f"{name}.png") for name in slides]
    model = ["--model", str(folder / "model"), "--mpp", (folder / "um").read_text()]
    return main(["predict", *images, *model, "-o", str(out), *options])


def test_slides_are_predicted_one_by_one_and_finished_ones_skipped(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert predict(folder, out, "one", "bad", "two") == 1
    shown = capsys.readouterr()
    assert "2 slides predicted, 1 failed, 0 were done" in shown.out
    assert f"spared-sc predict: {folder / 'bad.png'}: " in shown.err
    assert "Traceback" not in shown.err
    assert sorted(path.name for path in out.iterdir()) == ["one.h5ad", "two.h5ad"]
    assert predict(folder, tmp_path / "alone.h5ad", "one") == 0
    alone, among = (ad.read_h5ad(path) for path in (tmp_path / "alone.h5ad", out / "one.h5ad"))
    np.testing.assert_array_equal(alone.X, among.X)
    capsys.readouterr()
    before = (out / "one.h5ad").read_bytes()
    assert predict(folder, out, "one", "two") == 0
    assert "0 slides predicted, 0 failed, 2 were done" in capsys.readouterr().out
    assert (out / "one.h5ad").read_bytes() == before


@pytest.mark.slow
def test_slides_on_a_cluster(folder, tmp_path, capsys):
    assert predict(folder, tmp_path / "out", "one", "bad", "two", options=["--workers", "1"]) == 1
    assert "2 slides predicted, 1 failed" in capsys.readouterr().out
    assert predict(folder, tmp_path / "alone.h5ad", "two") == 0
    alone, among = (ad.read_h5ad(path) for path in (tmp_path / "alone.h5ad", tmp_path / "out" / "two.h5ad"))
    np.testing.assert_array_equal(alone.X, among.X)


def test_outputs_that_do_not_fit(folder, tmp_path, capsys):
    assert predict(folder, tmp_path / "out.h5ad", "one", "two") == 2
    assert "must be a folder, for several slides" in capsys.readouterr().err
    assert predict(folder, tmp_path / "out", "one") == 2
    assert "must end in .h5ad or .zarr" in capsys.readouterr().err
    (tmp_path / "sub").mkdir()
    shutil.copy(folder / "one.png", tmp_path / "sub" / "two.png")
    images = [str(folder / "two.png"), str(tmp_path / "sub" / "two.png")]
    assert main(["predict", *images, "--model", str(folder / "model"), "-o", str(tmp_path / "out")]) == 2
    assert "would be written to one file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
