"""Which files belong to which section."""

from __future__ import annotations

import pytest

from spared_sc.datasets._catalogue import entry_of
from spared_sc.datasets._section_files import belongs, check_one, needed_roles, sort_files


def sorted_of(key: str, paths: list[str]) -> dict[str, dict[str, str]]:
    entry = entry_of(key)
    found = sort_files(entry, entry.sections.values(), paths)
    return {name: files.one for name, files in found.items() if files.one}


def test_space_rangers_names_below_a_folder_of_the_section():
    inside = ["filtered_feature_bc_matrix.h5", "raw_feature_bc_matrix.h5", "web_summary.html", "analysis/pca.jpg"]
    spatial = ["tissue_positions_list.csv", "scalefactors_json.json", "tissue_hires_image.png", "aligned_fiducials.jpg"]
    paths = [f"a/V19D02-088_A1/outs/{name}" for name in [*inside, *(f"spatial/{name}" for name in spatial)]]
    assert sorted_of(
        "VLO", [*paths, "a/V19D02-088_A1/._x.h5", "__MACOSX/V19D02-088_A1/filtered_feature_bc_matrix.h5"]
    ) == {
        "V19D02-088_A1": {
            "counts": "a/V19D02-088_A1/outs/filtered_feature_bc_matrix.h5",
            "positions": "a/V19D02-088_A1/outs/spatial/tissue_positions_list.csv",
            "scalefactors": "a/V19D02-088_A1/outs/spatial/scalefactors_json.json",
            "hires": "a/V19D02-088_A1/outs/spatial/tissue_hires_image.png",
        }
    }


@pytest.mark.parametrize(
    ("paths", "counts"),
    [
        (["V19D02-088_A1_raw_feature_bc_matrix.h5"], 0),
        (["V19D02-088_A1_raw_feature_bc_matrix.h5", "V19D02-088_A1_filtered_feature_bc_matrix.h5"], 1),
        (["V19D02-088_A1/raw_feature_bc_matrix.h5", "V19D02-088_A1/filtered_feature_bc_matrix/matrix.mtx.gz"], 1),
        (
            [
                "V19D02-088_A1/raw_feature_bc_matrix/matrix.mtx.gz",
                "V19D02-088_A1/filtered_feature_bc_matrix/matrix.mtx.gz",
            ],
            1,
        ),
        (["V19D02-088_A1/filtered_feature_bc_matrix/matrix.mtx.gz", "V19D02-088_A1/filtered_feature_bc_matrix.h5"], 1),
    ],
)
def test_counts_are_the_filtered_ones_where_there_are_any(paths: list[str], counts: int):
    assert sorted_of("VLO", paths)["V19D02-088_A1"]["counts"] == paths[counts]


def test_parts_of_a_matrix_are_kept_together():
    folder = "V19D02-088_A1/filtered_feature_bc_matrix"
    raw = [f"V19D02-088_A1/raw_feature_bc_matrix/{name}" for name in ("barcodes.tsv.gz", "features.tsv.gz")]
    files = sorted_of("VLO", [f"{folder}/{n}" for n in ("matrix.mtx.gz", "barcodes.tsv.gz", "features.tsv.gz")] + raw)
    assert files["V19D02-088_A1"] == {
        "counts": f"{folder}/matrix.mtx.gz",
        "barcodes": f"{folder}/barcodes.tsv.gz",
        "features": f"{folder}/features.tsv.gz",
    }
    only = [*raw, "V19D02-088_A1/raw_feature_bc_matrix/matrix.mtx.gz"]
    assert sorted_of("VLO", only)["V19D02-088_A1"] == {"counts": only[2], "barcodes": only[0], "features": only[1]}


def test_the_longer_name_of_two_is_meant():
    short, long = "V1_Mouse_Brain_Sagittal_Anterior", "V1_Mouse_Brain_Sagittal_Anterior_Section_2"
    files = sorted_of("10XGMBSA", [f"{name}_filtered_feature_bc_matrix.h5" for name in (short, long)])
    assert {name: one["counts"] for name, one in files.items()} == {
        name: f"{name}_filtered_feature_bc_matrix.h5" for name in (short, long)
    }
    assert "V19D02-088_A1" not in sorted_of("VLO", ["V19D02-088_A10/filtered_feature_bc_matrix.h5"])


def test_names_that_the_catalogue_gives():
    names = [
        "GSM5213483_V19S23-097_A1_S1_Region1_colon_d0_rotated.tif.gz",
        "GSM5213483_V19S23-097_A1_S1_normalized_data.tsv.gz",
        "GSM5213483_V19S23-097_A1_S1_detected.jpg",
    ]
    assert sorted_of("PMI", names) == {"A1_S1": {"image": names[0], "normalized": names[1]}}
    assert sorted_of("HER2ST", ["x/ST-imgs/B/B4/slide.jpg", "ST-imgs/B/B5/B4.jpg", "other/B4.tsv.gz"]) == {
        "B4": {"image": "x/ST-imgs/B/B4/slide.jpg"},
        "B5": {"image": "ST-imgs/B/B5/B4.jpg"},
    }


@pytest.mark.parametrize("folder", ["Patient 1/H1_2", "Patient_1/Visium/H1-2", "x/Patient-1/sub/H1_2_run"])
def test_patterns_of_paths(folder: str):
    assert sorted_of("EHPCP1", [f"{folder}/filtered_feature_bc_matrix.h5"]).keys() == {"P1_H1-2"}
    assert sorted_of("EHPCP2", [f"{folder}/filtered_feature_bc_matrix.h5"]) == {}


def test_what_is_not_clear_is_refused_when_it_is_needed():
    entry = entry_of("VLO")
    section = entry.sections["V19D02-088_A1"]
    paths = [f"{copy}/V19D02-088_A1/filtered_feature_bc_matrix.h5" for copy in ("a", "b")]
    images = ["V19D02-088_A1.jpg", "V19D02-088_A1_annotated.jpg"]
    files = sort_files(entry, [section], paths + images)["V19D02-088_A1"]
    assert files.one == {}
    check_one(entry, section.name, files, {"positions"}, "here")
    with pytest.raises(
        ValueError, match=r"here holds several files that may be the counts of section .*'a/V19.*'b/V19"
    ):
        check_one(entry, section.name, files, {"counts"}, "here")
    with pytest.raises(ValueError, match=r"the image of section .*_annotated.jpg.*`files = \{ image = \.\.\. \}`"):
        check_one(entry, section.name, files, {"image"}, "here")


def test_what_is_needed():
    visium, figshare, st = (
        (entry, next(iter(entry.sections.values()))) for entry in map(entry_of, ("VLO", "VHS", "HER2ST"))
    )
    assert needed_roles(*visium, "hires") == {"counts", "positions", "scalefactors"}
    assert needed_roles(*visium, "full", ["x"]) == {"counts", "positions", "scalefactors", "image", "x"}
    assert needed_roles(*figshare, "hires") == {"counts", "positions", "scalefactors", "hires"}
    assert needed_roles(*figshare, None) == {"counts", "positions", "scalefactors"}
    assert needed_roles(*st, None) == {"counts", "spots"}
    assert needed_roles(*st, "hires") == needed_roles(*st, "full") == {"counts", "spots", "image"}


def test_archives_of_other_sections_are_told_apart():
    entry = entry_of("VLO")
    one = [entry.sections["V19D02-088_A1"]]
    assert belongs(entry, one, "data.tar.gz")
    assert belongs(entry, one, "V19D02-088_A1.zip")
    assert not belongs(entry, one, "V19D02-088_B1.zip")
