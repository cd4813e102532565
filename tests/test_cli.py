"""The command line."""

from __future__ import annotations

import anndata as ad
import pytest
import tifffile
from PIL import Image

import spared_sc as sp
from helpers import KEY
from helpers.image_prediction import SECTIONS, embed, of_libraries
from spared_sc import cli


@pytest.fixture
def adata(collection):
    return collection(**SECTIONS, then=embed)


def slide_of(adata, number, path):
    """The image of a section as a file, and the same spots on it."""
    one = of_libraries(adata, number)
    slide = one.uns["spatial"][f"library_{number}"]
    Image.fromarray(slide["images"]["hires"]).save(path)
    scale = slide["scalefactors"]["tissue_hires_scalef"]
    return one, scale


@pytest.mark.parametrize("ending", ["h5ad", "zarr"])
@pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning")
@pytest.mark.filterwarnings("ignore:Consolidated metadata:UserWarning")
def test_command_line(adata, tmp_path, capsys, ending):
    one, scale = slide_of(adata, 4, tmp_path / "slide.png")
    fitted = sp.tl.fit_predictor(of_libraries(adata, 1, 2, 3), novelty=True, **KEY)
    fitted.save(tmp_path / "model")
    um = fitted.card.data.patches.um_per_px
    output = tmp_path / f"out.{ending}"
    options = [str(tmp_path / "slide.png"), "--model", str(tmp_path / "model"), "-o", str(output), "--mpp", str(um)]
    assert cli.main(["predict", *options]) == 0
    said = capsys.readouterr().out
    assert "scale: that of layer 'log2tpm' in training, with the unit of 'log2tpm'" in said
    assert "look unlike the training data" in said
    result = getattr(ad, f"read_{ending}")(output)
    assert result.var_names.tolist() == fitted.genes
    assert result.n_obs > 20
    assert {"array_row", "array_col", "predicted_out_of_distribution"} <= set(result.obs)
    assert result.uns["spared_sc"]["predicted"]["card"]["layer"] == "log2tpm"
    # Much finer than in training, by what the user says of the file: refused, and nothing written.
    output.rename(tmp_path / "before")
    assert cli.main(["predict", *options[:-1], str(um / 3)]) == 1
    said = capsys.readouterr().err
    assert "those of training" in said
    assert "--force" in said
    assert "force=True" not in said
    assert not output.exists()


def test_command_line_says_the_unit_of_a_completed_layer_and_names_a_damaged_file(adata, tmp_path, capsys):
    sp.tl.median_complete(adata, **KEY)
    fitted = sp.tl.fit_predictor(of_libraries(adata, 1, 2, 3), layer="median", **KEY)
    fitted.save(tmp_path / "model")
    slide = adata.uns["spatial"]["library_4"]["images"]["hires"]
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, slide, photometric="rgb", tile=(64, 64), compression="zlib")
    options = ["--model", str(tmp_path / "model"), "-o", str(tmp_path / "out.h5ad")]
    options += ["--mpp", str(fitted.card.data.patches.um_per_px)]
    assert cli.main(["predict", str(path), *options]) == 0
    assert "layer 'median' in training, with the unit of 'log2tpm'" in capsys.readouterr().out
    content = bytearray(path.read_bytes())
    content[3000:3100] = bytes(100)
    path.write_bytes(content)
    assert cli.main(["predict", str(path), *options]) == 1
    assert "slide.tif cannot be read" in capsys.readouterr().err


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


def test_command_line_says_what_is_wrong(tmp_path, capsys):
    image = tmp_path / "slide.png"
    assert cli.main(["predict", str(image), "--model", "nowhere", "-o", str(tmp_path / "out.csv")]) == 2
    assert "must end in .h5ad or .zarr" in capsys.readouterr().err
    assert cli.main(["predict", str(image), "--model", "nowhere", "-o", str(tmp_path / "out.h5ad")]) == 1
    assert "slide.png" in capsys.readouterr().err
    assert cli.main(["predict", str(image), "--model", "nowhere", "-o", str(tmp_path / "no" / "out.h5ad")]) == 2
    assert "there is no folder" in capsys.readouterr().err
