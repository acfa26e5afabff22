"""Columns of users' tables as labels: what a cell means, how classes are numbered, and what is refused."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
from sites_world import many_sites

from mmearth_data import make_recipe
from mmearth_data.building.prepare import prepare
from mmearth_data.catalog.modality import Kind
from mmearth_data.errors import FileInputError, InputError
from mmearth_data.recipes import LabelColumn
from mmearth_data.sampling.files import read_rows
from mmearth_data.sources.base import Survey
from mmearth_data.sources.labels.reading import identifier, read_labels
from mmearth_data.sources.labels.table import Label

CELLS = {
    "pH": ["6.5", "", "4.25", "NA", "-1"],
    "crop": ["wheat", "maize", "n/a", "maize", "Ödland"],
    "species": ["oak;beech", "beech", "", "pine | oak;oak", "nan"],
    "tags": ['["b", "a"]', "[]", "", '["a"]', '["c"]'],
    "plot": ["10", "9", "9", "", "10"],
}
ROWS = [2, 3, 4, 5, 6]
"""Line of each row in the file: the names of the columns are the first."""


def table(folder: Path, cells: dict[str, list[str]] | None = None, delimiter: str = ",", name: str = "p.csv") -> Path:
    columns = cells or CELLS
    path = folder / name
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, delimiter=delimiter)
        writer.writerow(["lon", "lat", *columns])
        writer.writerows(zip(range(5), range(5), *columns.values(), strict=True))
    return path


def labels(
    path: Path, *asked: str, description: Path | None = None, taken: frozenset[str] = frozenset()
) -> list[Label]:
    return list(read_labels(path, read_rows(path), asked, description, taken))


def refused(path: Path, *asked: str, description: Path | None = None, taken: frozenset[str] = frozenset()) -> str:
    with pytest.raises(FileInputError) as caught:
        labels(path, *asked, description=description, taken=taken)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("cells", "classes"),
    [
        (["010", "10", "1E1", "", "10"], ["010", "10", "1E1"]),
        (["007", "7", "7.0", "NA", "+7"], ["+7", "007", "7", "7.0"]),
        (["9007199254740993", "9007199254740992", "", "", ""], ["9007199254740992", "9007199254740993"]),
        (["3.0", "3", "", "4.0", "4"], ["3", "4"]),  # whole numbers in tables with gaps
    ],
)
def test_codes_that_are_equal_as_numbers_are_different_classes(
    tmp_path: Path, cells: list[str], classes: list[str]
) -> None:
    path = table(tmp_path, {"code": cells, "weight": ["1.50", "1.5", "2", "", "3E0"]})
    code, weight = labels(path, "code:class", "weight")
    assert [label.name for label in code.modality.classes] == classes
    np.testing.assert_array_equal(weight.values[:, 0], np.array([1.5, 1.5, 2, np.nan, 3], np.float32))
    (code,) = labels(table(tmp_path, {"code": cells}, name="q.csv", delimiter=";"), "code:class")
    assert [label.name for label in code.modality.classes] == classes


def test_numbers_are_values_and_empty_cells_are_missing(tmp_path: Path) -> None:
    (label,) = labels(table(tmp_path), "pH")
    m = label.modality
    assert (m.kind, m.bands, m.dtype.name, m.units) == (Kind.TILE_CONTINUOUS, ("pH",), "float32", "1")
    np.testing.assert_array_equal(label.values, np.array([6.5, np.nan, 4.25, np.nan, -1], np.float32)[:, None])
    assert m.histogram_range == (-1, 6.5)
    assert (m.pretext, m.input) == (False, False)
    assert "value" in label.note
    assert "2 of 5 rows without" in label.note


def test_text_is_a_class_numbered_by_sorted_names(tmp_path: Path) -> None:
    (label,) = labels(table(tmp_path), "crop")
    m = label.modality
    assert (m.kind, m.dtype.name, m.nodata) == (Kind.TILE_CATEGORICAL, "uint8", 255)
    assert [(one.code, one.name) for one in m.classes] == [(0, "maize"), (1, "wheat"), (2, "Ödland")]
    assert label.values.tolist() == [1, 0, 255, 0, 2]


def test_separated_text_and_json_lists_are_several_classes(tmp_path: Path) -> None:
    species, tags = labels(table(tmp_path), "species", "tags")
    assert species.modality.kind is Kind.TILE_MULTI_LABEL
    assert species.modality.bands == ("beech", "oak", "pine")
    assert species.values.tolist() == [[1, 1, 0], [1, 0, 0], [255] * 3, [0, 1, 1], [255] * 3]
    assert tags.modality.bands == ("a", "b", "c")
    assert tags.values.tolist() == [[1, 1, 0], [0, 0, 0], [255] * 3, [1, 0, 0], [0, 0, 1]]


def test_whole_numbers_are_values_unless_classes_are_asked_for(tmp_path: Path) -> None:
    path = table(tmp_path)
    (value,) = labels(path, "plot")
    assert value.modality.kind is Kind.TILE_CONTINUOUS
    assert "write plot:class" in value.note
    (classes,) = labels(path, "plot:class")
    assert [one.name for one in classes.modality.classes] == ["9", "10"], "sorted as numbers"
    assert classes.values.tolist() == [1, 0, 0, 255, 1]
    (several,) = labels(path, "plot:multi")
    assert several.values.tolist() == [[0, 1], [1, 0], [1, 0], [255, 255], [0, 1]]


def test_a_spreadsheet_s_decimal_commas_and_gaps(tmp_path: Path) -> None:
    path = table(tmp_path, {"pH": ["6,5", "NA", "4,25", "", "7"]}, delimiter=";")
    np.testing.assert_array_equal(
        labels(path, "pH")[0].values[:, 0], np.array([6.5, np.nan, 4.25, np.nan, 7], np.float32)
    )


@pytest.mark.parametrize("suffix", ["parquet", "geojson", "gpkg"])
def test_other_files_give_the_same_labels(tmp_path: Path, suffix: str) -> None:
    points = gpd.GeoSeries.from_xy([5.0, 6, 7], [45.0, 46, 47], crs=4326)
    frame = gpd.GeoDataFrame(
        {"pH": [6.5, math.nan, 4.25], "crop": ["wheat", None, "maize"], "alive": [True, False, True]}, geometry=points
    )
    path = tmp_path / f"points.{suffix}"
    frame.to_parquet(path) if suffix == "parquet" else frame.to_file(path)
    number, crop, alive = labels(path, "pH", "crop", "alive:class")
    np.testing.assert_array_equal(number.values[:, 0], np.array([6.5, np.nan, 4.25], np.float32))
    assert crop.values.tolist() == [1, 255, 0]
    assert len(set(alive.values.tolist())) == 2
    assert read_rows(path).index.tolist() == [1, 2, 3]


def test_lists_of_parquet_are_several_classes(tmp_path: Path) -> None:
    frame = pd.DataFrame({"lon": [1.0, 2, 3], "lat": [1.0, 2, 3], "species": [["oak", "beech"], [], None]})
    frame.to_parquet(tmp_path / "p.parquet")
    (label,) = labels(tmp_path / "p.parquet", "species")
    assert label.modality.bands == ("beech", "oak")
    assert label.values.tolist() == [[1, 1], [0, 0], [255, 255]]


def test_the_file_beside_the_table_describes_it(tmp_path: Path) -> None:
    path = table(tmp_path)
    (tmp_path / "classes.csv").write_text("code,name,colour\n20,maize,#ffff00\n300,wheat,#00ff00\n7,Ödland,\n")
    (tmp_path / "p.yaml").write_text(
        "licence: {name: CC-BY-4.0, url: 'https://x.org', attribution: Survey}\n"
        "labels:\n"
        "  pH: {name: acidity, long_name: Soil pH, units: '1', range: [2, 10], pretext: true}\n"
        "  crop: {classes: classes.csv}\n"
        "  species: {classes: [pine, oak, {name: beech, colour: '#112233'}, elm]}\n"
    )
    number, crop, species = labels(path, "pH", "crop", "species")
    m = number.modality
    assert (m.name, m.long_name, m.histogram_range, m.pretext) == ("acidity", "Soil pH", (2, 10), True)
    assert m.licence.name == crop.modality.licence.name == "CC-BY-4.0"
    assert crop.modality.dtype.name == "uint16"
    assert crop.values.tolist() == [300, 20, 65535, 20, 7]
    assert species.modality.bands == ("pine", "oak", "beech", "elm")
    assert species.modality.classes[2].colour == "#112233"
    assert species.values.tolist()[0] == [0, 1, 1, 0]
    plain = labels(table(tmp_path, name="other.csv"), "pH")[0].modality
    assert (plain.name, plain.licence.name) == ("pH", "unknown")


def test_cells_may_hold_the_codes_of_described_classes(tmp_path: Path) -> None:
    path = table(tmp_path)
    (tmp_path / "d.yaml").write_text("labels: {plot: {classes: [{name: field, code: 9}, {name: fallow, code: 10}]}}\n")
    (label,) = labels(path, "plot:class", description=tmp_path / "d.yaml")
    assert label.values.tolist() == [10, 9, 9, 255, 10]
    assert [one.name for one in label.modality.classes] == ["field", "fallow"]


def test_a_recipe_beside_the_table_is_no_description(tmp_path: Path) -> None:
    path = table(tmp_path)
    (tmp_path / "p.yaml").write_text("labels: [pH]\ntiles: 5\n")
    assert labels(path, "pH")[0].modality.name == "pH"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["nosuch"], "the column 'nosuch' (--label)"),
        (["Crop"], "did you mean 'crop'?"),
        (["crop:value"], "4 of 5 rows have other content (row 2: 'wheat'; row 3: 'maize'"),
        (["crop:number"], "--label crop: expected one of class, value, multi after the colon, got 'number'"),
        (["tags:class"], None),
        (["geometry"], "the geometry"),
        (["lon"], "would be stored as lon"),
    ],
)
def test_columns_that_cannot_be_labels_are_refused(tmp_path: Path, asked: list[str], words: str | None) -> None:
    path = table(tmp_path)
    if words is None:
        assert labels(path, *asked)[0].modality.kind is Kind.TILE_CATEGORICAL, "text of JSON is a class if asked for"
        return
    assert words in refused(path, *asked, taken=frozenset({"lon"}))


@pytest.mark.parametrize(
    ("cells", "asked", "words"),
    [
        (
            ["6.5", "7", "7.1", "n.d.", "6"],
            "a",
            "1 of 5 rows have other content (row 5: 'n.d.'); correct them, leave them empty",
        ),
        ([""] * 5, "a", "got 5 empty cells"),
        (["1e39", "1", "2", "3", "4"], "a", "fit float32"),
        (['["x"]', '["y"', '["z"]', "", ""], "a", "JSON lists"),
        (["[]", "[]", "", "", ""], "a", "empty lists only"),
        (['["x", {}]', '["y"]', "", "", ""], "a", "JSON lists"),
    ],
)
def test_cells_that_cannot_be_labels_are_refused(tmp_path: Path, cells: list[str], asked: str, words: str) -> None:
    assert words in refused(table(tmp_path, {"a": cells}), asked)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("labels: {crop: {classes: [maize]}}", "2 of 5 rows have other content (row 2: 'wheat'; row 6"),
        ("labels: {crop: {units: m}}", "crop: the description has units"),
        ("labels: {pH: {classes: [a]}}", "pH: the description has classes"),
        ("labels: {corp: {long_name: x}}", "did you mean 'crop'?"),
        ("labels: {crop: {name: soil-ph}}", "got 'soil-ph'"),
        ("labels: {crop: {name: pH}}", "would be stored as pH"),
        ("labels: {crop: {colour: red}}", "colour"),
        ("labels: {crop: {classes: absent.csv}}", "absent.csv"),
        ("labels: {crop: {classes: [{name: maize, code: 1}, {name: wheat}, Ödland]}}", "for every class, or for none"),
        ("labels: {crop: {classes: [maize, maize, wheat]}}", "different names"),
        ("labels: {pH: {range: [9, 2]}}", "increasing"),
        ("labels: 5", "labels"),
        ("", "empty"),
    ],
)
def test_descriptions_that_do_not_suit_are_refused(tmp_path: Path, text: str, words: str) -> None:
    path = table(tmp_path)
    (tmp_path / "d.yaml").write_text(text)
    with pytest.raises(InputError) as caught:
        labels(path, "pH", "crop", description=tmp_path / "d.yaml")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_more_classes_than_codes_are_refused(tmp_path: Path) -> None:
    count = 65_536
    frame = pd.DataFrame({"lon": np.zeros(count), "lat": np.zeros(count), "name": [f"n{k}" for k in range(count)]})
    frame.to_parquet(tmp_path / "p.parquet")
    assert "at most 65,535 classes" in refused(tmp_path / "p.parquet", "name")
    frame.iloc[1:].to_parquet(tmp_path / "p.parquet")
    (label,) = labels(tmp_path / "p.parquet", "name")
    assert len(np.unique(label.values)) == 65_535
    assert label.modality.nodata not in label.values


def test_names_become_identifiers_that_do_not_clash(tmp_path: Path) -> None:
    path = table(tmp_path, {"soil pH": ["1", "2", "3", "4", "5.5"], "soil-pH": ["1"] * 5})
    assert labels(path, "soil pH")[0].modality.name == identifier("soil pH") == "soil_pH"
    assert "stored as soil_pH" in labels(path, "soil pH")[0].note
    assert "would be stored as soil_pH" in refused(path, "soil pH", "soil-pH")


@pytest.mark.parametrize("text", ["", ":class", " : value"])
def test_an_option_without_a_column_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="expected COLUMN"):
        LabelColumn.parse(text)


def test_the_identity_has_values_and_descriptions_but_no_paths(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, other = (labels(table(tmp_path / name), "crop")[0].identity() for name in ("a", "b"))
    assert one == other
    assert str(tmp_path) not in json.dumps(one)
    changed = {**CELLS, "crop": ["maize", *CELLS["crop"][1:]]}
    assert labels(table(tmp_path, changed), "crop")[0].identity()["values"] != one["values"]


def test_all_tiles_of_a_site_of_files_have_its_labels(tmp_path: Path) -> None:
    world = many_sites(tmp_path, 3)
    (tmp_path / "sites.csv").write_text("site,ph,tree\ns02,6.5,oak\ns00,,beech\n")
    given = {"source": f"rasters:{world.file}", "tile_size": 32, "tiles_file": tmp_path / "sites.csv"}
    prepared = prepare(make_recipe(None, given | {"labels": ("ph", "tree")}))
    places = prepared.plan.spread(100)
    answers = [answer for answer in prepared.source.survey(places) if isinstance(answer, Survey)]
    assert len(answers) == 8, "two sites of 64 px"
    for answer in answers:
        oak = answer.facts["site"] == "s02"
        assert answer.facts["table_row"] == (2 if oak else 3)
        np.testing.assert_array_equal(answer.values["ph"], [6.5 if oak else np.nan])
        assert int(answer.values["tree"]) == int(oak)
    assert any("tree: class, 2 classes" in note for note in prepared.notes)


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("id", "would be stored as id"),
        ("bbox", "stored as bbox"),
        ("region", "stored as region, the name of .* a condition of Store.select"),
        ("date", "stored as date"),
        ("modalities", "stored as modalities"),
        ("a" * 300, "at most 100 characters, got 300"),
    ],
)
def test_names_of_columns_and_very_long_ones_are_refused(tmp_path: Path, column: str, words: str) -> None:
    (tmp_path / "t.csv").write_text(f"lon,lat,{column}\n9,45,1\n9.1,45,2\n")
    given = {"source": "synthetic", "tile_size": 64, "tiles_file": tmp_path / "t.csv", "labels": [column]}
    with pytest.raises(FileInputError, match=words):
        prepare(make_recipe(None, given))


def test_a_table_without_rows_is_refused_as_such(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("lon,lat,pH\n")
    given = {"source": "synthetic", "tile_size": 64, "tiles_file": tmp_path / "t.csv", "labels": ["pH"]}
    with pytest.raises(FileInputError, match="got a table without rows"):
        prepare(make_recipe(None, given))
