"""datasets.catalogue, and the file that it reads."""

from __future__ import annotations

import json
import re
import tomllib
from typing import TYPE_CHECKING

import pytest

import spared_sc as sp
from spared_sc.datasets._catalogue import CLAIMS, entries, entry_of, read_catalogue
from spared_sc.datasets._sources import KINDS

if TYPE_CHECKING:
    from pathlib import Path

# Abbreviation, organism, sections, subjects, spots, percent missing before and after: the paper's Table 1.
TABLE_1 = """
VMB mouse 14 4 43804 89 28
MMBR mouse 8 2 34583 79 20
MHPC human 4 2 15684 79 21
PMI mouse 2 2 6234 79 7
VLMB mouse 5 2 12202 95 29
MHSI human 4 2 10474 92 21
MHCP2 human 2 2 7101 97 24
EHPCP2 human 10 1 24465 92 37
EHPCP1 human 7 1 20987 92 34
MMBP2 mouse 4 1 17353 88 25
MMBP1 mouse 4 1 17243 70 11
AHSCC human 4 1 10374 94 27
10XGHB human 2 1 9882 89 23
FMBC mouse 2 1 9132 80 24
10XGHBC human 2 1 7785 79 12
MMBO mouse 4 1 7184 87 17
10XGMBSP mouse 2 1 6644 79 21
MHPBTP1 human 4 1 5937 73 21
10XGMBC mouse 2 1 5709 80 18
10XGMBSA mouse 2 1 5520 75 15
FMOB mouse 2 1 2938 67 10
VLO human 4 1 1832 90 26
VKO human 3 1 1355 92 33
VHS human 4 1 19033 97 30
MHPBTP2 human 2 1 3163 97 30
MHCP1 human 2 1 2225 90 16
"""
BLOCK = """
[MINE]
name = "my_set"
title = "My set"
organism = "human"
tissue = "Skin"
technology = "visium"
folder = "mine"
source = [{ kind = "zenodo", record = 1 }]

[MINE.known]
tissue = "verified: I was there"

[MINE.sections]
S1 = { subject = "A", split = "train" }
"""


def test_the_sets_of_the_paper_are_those_of_its_table():
    table = sp.datasets.catalogue()
    spared = table[table["collection"] == "SpaRED"]
    columns = ["organism", "n_sections", "n_subjects", "spots", "missing_before", "missing_after"]
    rows = [" ".join(map(str, (key, *row[columns]))) for key, row in spared.iterrows()]
    assert rows == TABLE_1.split("\n")[1:-1]
    assert (len(spared), spared["n_sections"].sum(), spared["spots"].sum()) == (26, 105, 308_843)
    assert set(table.index[table["collection"] == ""]) == {"HER2ST", "BATIUK"}
    assert (spared["genes"] == [recipe["n_genes"] for recipe in spared["recipe"]]).all()
    few = {"VLMB", "MHSI", "MHCP2", "VHS", "MHPBTP2", "MHCP1"}
    assert set(spared.index[spared["genes"] == 32]) == few
    assert {key: recipe["spot_counts"][0] for key, recipe in spared["recipe"].items()} == {
        key: 800 if key == "MHSI" else 10 for key in spared.index
    }
    inter = spared["task"] == "inter-subject"
    assert (spared["combat"] == inter.map({True: "subject", False: "library_id"})).all()
    assert ((spared["n_subjects"] > 1) == inter).all()


def test_every_set_says_how_it_is_known():
    for entry in entries().values():
        assert set(entry.known) == set(CLAIMS)
        assert "unverified: the catalogue does not say" not in entry.known.values()
        assert entry.source
    unverified = sp.datasets.catalogue()["unverified"].str.split(", ")
    assert [key for key, names in unverified.items() if "licence" not in names] == []
    assert [key for key, names in unverified.items() if "source" not in names] == [
        key for key in unverified.index if key.startswith("10X")
    ]


def test_checksums_of_the_mirror_are_complete():
    hashed = {key: entry.sha256 for key, entry in entries().items() if entry.folder == "10x_genomics"}
    assert sum(map(len, hashed.values())) == 30
    for key, digests in hashed.items():
        assert {name.rpartition("_")[0] for name in digests} >= set(entries()[key].sections)


@pytest.mark.parametrize("name", ["VLO", "vlo", "villacampa_lung_organoid", "Villacampa_Lung_Organoid"])
def test_names(name: str):
    assert entry_of(name).key == "VLO"


@pytest.mark.parametrize("name", ["VL0", "villacampa_lung", "x", ""])
def test_unknown_names_list_what_is_near(name: str):
    near = {"VL0": "near are 'VLO' (villacampa_lung_organoid)", "villacampa_lung": "'VLO'"}.get(name, "no data set")
    with pytest.raises(ValueError, match=re.escape(near)) as caught:
        entry_of(name)
    assert "`sp.datasets.catalogue()` lists all: 'VMB'" in str(caught.value)


def test_a_file_adds_sets(tmp_path: Path):
    path = tmp_path / "own.toml"
    path.write_text(BLOCK)
    table = sp.datasets.catalogue(path)
    assert table.index.tolist() == [*sp.datasets.catalogue().index, "MINE"]
    assert table.loc["MINE", ["name", "n_sections", "train", "source"]].tolist() == [
        "my_set",
        1,
        1,
        "https://zenodo.org/records/1",
    ]
    assert table.loc["MINE", "unverified"] == ", ".join(name for name in CLAIMS if name != "tissue")
    with pytest.raises(FileNotFoundError, match="there is no catalogue"):
        sp.datasets.catalogue(tmp_path / "other.toml")
    for taken in (BLOCK.replace("MINE", "VLO"), BLOCK.replace("my_set", "villacampa_lung_organoid")):
        path.write_text(taken)
        with pytest.raises(ValueError, match=r"has the abbreviation or name of VLO of the package"):
            sp.datasets.catalogue(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[MINE]", "[MINE", "own.toml is no TOML"),
        ('name = "my_set"', "", r"\[MINE\] lacks 'name'"),
        ('title = "My set"', 'titel = "My set"', r"\[MINE\] has the field 'titel' \(did you mean 'title'\?\)"),
        ('title = "My set"', "title = 1", r"\[MINE\] has title = 1: expected a text"),
        ('organism = "human"', 'organism = "yeast"', r"\[MINE\] has organism = 'yeast': choose from 'human', 'mouse'"),
        ('technology = "visium"', 'technology = "x"', r"\[MINE\] has technology = 'x': choose from 'visium', 'st'"),
        ('folder = "mine"', 'folder = "../x"', r"\[MINE\] names the file '../x'"),
        ('"zenodo"', '"ftp"', r"\[MINE\] source 1 has no known kind: expected kind = one of 'mendeley'"),
        (", record = 1", "", r"\[MINE\] source 1 lacks 'record'"),
        ("record = 1", 'record = "1"', r"\[MINE\] source 1 has record = '1': expected int"),
        ("record = 1", "record = 1, x = 1", r"\[MINE\] source 1 has the field 'x'"),
        ("record = 1", 'record = 1, holds = "x"', r"\[MINE\] source 1 has holds = 'x'"),
        ("verified: I", "I", r"\[MINE\] known has tissue = 'I was there': expected 'verified: <by what>'"),
        ('tissue = "verified', 'color = "verified', r"\[MINE\] known has the field 'color'"),
        ('subject = "A", ', "", r"\[MINE\] sections, 'S1' lacks 'subject'"),
        ('"train"', '"training"', r"\[MINE\] sections, 'S1' has split = 'training'"),
        ("S1 =", '"S/1" =', "cannot be a library name"),
        ('"train"', '"train", ids = { counts = "1" }', r"'S1' ids has counts = '1': expected the number"),
        ('"train"', '"train", extra = [1]', r"'S1' extra holds 1: expected texts"),
        ("[MINE.known]", "notes = [1]\n[MINE.known]", r"\[MINE\] notes holds 1: expected texts"),
        ("[MINE.known]", "[MINE.files]\nimage = 1\n[MINE.known]", r"\[MINE\] files holds 1: expected texts"),
        (
            "[MINE.known]",
            '[MINE.files]\na = "{sect}"\n[MINE.known]',
            r"files holds '\{sect\}': what stands in braces is one of",
        ),
        ('"zenodo", record = 1', '"files", urls = [], files = ["a"]', r"source 1 urls is empty: give at least 1"),
        ('"zenodo", record = 1', '"files", urls = ["{x}"], files = ["a"]', r"source 1 urls holds '\{x\}'"),
        ('"zenodo", record = 1', '"files", urls = ["{"], files = ["a"]', r"source 1 urls holds '\{'"),
        ("[MINE.sections]", '[MINE.sha256]\n"a" = "12"\n[MINE.sections]', r"\[MINE\] sha256, 'a' is no sha256"),
        ("[MINE.sections]", "[MINE.section]", r"\[MINE\] has the field 'section' \(did you mean 'sections'\?\)"),
    ],
)
def test_a_fault_is_named_by_block_and_field(old: str, new: str, message: str):
    assert read_catalogue(BLOCK, "own.toml")["MINE"].sections["S1"].split == "train"
    assert old in BLOCK
    with pytest.raises(ValueError, match=message):
        read_catalogue(BLOCK.replace(old, new), "own.toml")


ODD = ["", 1, 1.5, True, [], [1], {}, {"a": 1}, "{", "../x", "a" * 300]


def test_odd_values_are_refused_or_read(tmp_path: Path):
    """Whatever stands in a field: a ValueError that names the block, or a set that can be shown."""
    block = tomllib.loads(BLOCK)["MINE"]
    fields = [
        *block,
        "notes",
        "files",
        "sha256",
        "recipe",
        "published",
        "combat",
        "licence",
        "doi",
        "citation",
        "collection",
    ]
    for field in fields:
        for value in ODD:
            text = "\n".join(f"{key} = {toml(one)}" for key, one in {**block, field: value}.items())
            path = tmp_path / "own.toml"
            path.write_text(f"[MINE]\n{text}\n")
            try:
                table = sp.datasets.catalogue(path)
            except ValueError as error:
                assert "[MINE]" in str(error) or "library name" in str(error)  # noqa: PT017
            else:
                assert table.index[-1] == "MINE"
                entry_of("MINE", path).statements()


def toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {toml(one)}" for key, one in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def test_every_kind_of_source_is_used():
    assert {block["kind"] for entry in entries().values() for block in entry.source} == set(KINDS)
