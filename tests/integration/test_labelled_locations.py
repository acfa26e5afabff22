"""A table of labelled locations becomes a store: its labels are those of the file, wherever the store's data go."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
import xarray as xr
from click.testing import CliRunner, Result

from mmearth_data import Store, export, merge, open_store, subset, verify
from mmearth_data.catalog.tile import tile_ids
from mmearth_data.cli import cli
from mmearth_data.inspection.facts import plan_facts
from mmearth_data.inspection.summary import summarise

SEA = 4
"""Row of the table, counted from 0, at sea."""
PH = [6.5, 4.25, None, 7.0, 5.0, 8.125, 3.5, 6.0]
CROP = ["wheat", "maize", "wheat", "", "maize", "Ödland", "wheat", "maize"]
SPECIES = ["oak;beech", "beech", "pine", "oak", "oak", "", "pine;oak", "beech"]
SPLIT = ["train", "train", "train", "train", "train", "val", "test", "test"]
COLUMNS = ("soil pH", "crop", "species")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the table, its description, ecoregions that leave out one row, and the store."""
    folder = tmp_path_factory.mktemp("labelled")
    write_table(folder / "points.csv")
    (folder / "points.yaml").write_text(
        "licence: {name: CC-BY-4.0, url: https://example.org, attribution: Soil survey}\n"
        "labels: {soil pH: {name: pH, long_name: Soil pH, units: '1', range: [2, 10]}}\n"
    )
    land = gpd.GeoDataFrame(
        {"ECO_NAME": ["Po Basin mixed forests"]}, geometry=[shapely.box(10, 45, 11, 46)], crs="EPSG:4326"
    )
    land.to_file(folder / "eco.gpkg")
    done = build(folder)
    assert done.exit_code == 0, done.output
    assert "soil pH: value (numbers), 1 of 8 rows without, stored as pH" in done.output
    return folder


def write_table(path: Path, ph: list[float | None] = PH) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["lon", "lat", *COLUMNS, "part"])
        for k, cells in enumerate(zip(ph, CROP, SPECIES, SPLIT, strict=True)):
            writer.writerow([12.0 if k == SEA else 10.1 + 0.1 * k, 45.5, *cells])


def build(folder: Path, *more: str, table: str = "points.csv", out: str = "a.zarr") -> Result:
    labels = [word for column in COLUMNS for word in ("--label", column)]
    words = ["--source", "synthetic", "--ecoregions", str(folder / "eco.gpkg"), "--tile-size", "16", "--cloud", "100"]
    words += ["--tiles-file", str(folder / table), *labels, "--split-column", "part", *more]
    return CliRunner().invoke(
        cli, ["build", *words, "--modalities", "esa_worldcover,biome", "--out", str(folder / out)]
    )


@pytest.fixture(scope="module")
def store(folder: Path) -> Store:
    return open_store(folder / "a.zarr")


def rows_of(store: Store) -> list[int]:
    """Row of the table for each tile of the store."""
    return [round((lon - 10.1) / 0.1) for lon in store.coords["lon"].tolist()]


def expected_species(row: int) -> list[int] | None:
    names = SPECIES[row].split(";")
    return [int(name in names) for name in ("beech", "oak", "pine")] if SPECIES[row] else None


def assert_labels_are_those_of_the_table(store: Store) -> None:
    crops = [label.name for label in store.modalities["crop"].classes]
    assert crops == ["maize", "wheat", "Ödland"]
    for position, row in enumerate(rows_of(store)):
        tile = store[position]
        assert float(tile["pH"][0]) == PH[row] if PH[row] is not None else math.isnan(tile["pH"][0])
        assert int(tile["crop"]) == (crops.index(CROP[row]) if CROP[row] else 255)
        assert tile["species"].tolist() == (expected_species(row) or [255] * 3)


def test_every_row_but_that_at_sea_is_a_tile_with_its_labels(store: Store) -> None:
    assert sorted(rows_of(store)) == [row for row in range(8) if row != SEA]
    assert_labels_are_those_of_the_table(store)
    splits = dict(zip(rows_of(store), store.coords["split"].tolist(), strict=True))
    assert {row: ("train", "val", "test")[code] for row, code in splits.items()} == {row: SPLIT[row] for row in splits}
    assert verify(store.path).problems == ()


def test_the_row_at_sea_is_listed_with_its_number(store: Store) -> None:
    rejected = pd.read_parquet(Path(str(store.path)) / "rejected.parquet")
    assert rejected["reason"].tolist() == ["at_sea"]
    assert rejected["detail"].tolist()[0].startswith(f"row {SEA + 2}: "), "the column names are row 1"
    assert int(rejected["tile_id"][0]) == int(tile_ids([12.0], [45.5], 16)[0])
    assert summarise(store).rejected == {"at_sea": 1}


def test_other_readers_see_the_labels(store: Store) -> None:
    plain = xr.open_zarr(str(store.path), mask_and_scale=False, chunks=None)
    there = plain["tile_id"].values != 0
    np.testing.assert_array_equal(plain["species"].values[there], store.read("species", slice(0, 8))[there])
    assert plain["species_band"].values.tolist() == ["beech", "oak", "pine"]
    assert plain["species"].attrs["flag_values"] == [0, 1]
    assert plain["species"].attrs["flag_meanings"] == "absent present"
    assert plain["crop"].attrs["flag_meanings"] == "maize wheat odland"
    assert plain["pH"].attrs["licence"] == "CC-BY-4.0"
    tiles = pd.read_parquet(Path(str(store.path)) / "tiles.parquet").set_index("id")
    assert {"pH", "crop", "species_beech", "species_oak", "species_pine"} <= set(tiles.columns)
    assert json.loads(tiles["facts"].iloc[0])["table_row"] == rows_of(store)[0] + 2
    data = store.to_xarray()
    assert data["pH"].dims == ("tile", "pH_band")
    assert np.isnan(data["pH"].values).sum() == 1


def test_a_selection_by_label(store: Store) -> None:
    assert sorted(rows_of(store.select(species="oak"))) == [0, 3, 6]
    assert sorted(rows_of(store.select(species=["beech", "pine"]))) == [0, 1, 2, 6, 7]
    assert sorted(rows_of(store.select(crop="wheat", split="train"))) == [0, 2]


def test_inspection_counts_the_labels(store: Store) -> None:
    summary = summarise(store)
    labels = {label.name: label for label in summary.labels}
    assert {row.name: row.total for row in labels["crop"].classes} == {"maize": 2, "wheat": 3, "Ödland": 1}
    assert labels["crop"].unlabelled == 1
    assert {row.name: row.total for row in labels["species"].classes} == {"beech": 3, "oak": 3, "pine": 2}
    assert {row.name: dict(row.tiles) for row in labels["species"].classes}["oak"] == {"train": 2, "test": 1}
    assert labels["species"].unlabelled == 1
    train = [PH[row] for row in range(8) if SPLIT[row] == "train" and row != SEA and PH[row] is not None]
    figures = store.statistics["train"]["pH"]["-"]["pH"]
    assert figures["count"] == len(train)
    assert figures["mean"] == pytest.approx(np.mean([value for value in train if value is not None]))
    histogram = store.class_histograms["all"]["species"]
    assert {code: entry["tiles"] for code, entry in histogram.items()} == {"0": 3, "1": 3, "2": 2}
    shown = dict(plan_facts(store[0], store.modalities.values())[1].rows)
    row = rows_of(store)[0]
    assert shown["species"] == (", ".join(sorted(SPECIES[row].split(";"))) if SPECIES[row] else "not observed")


@pytest.mark.parametrize("command", [["inspect", "{}"], ["inspect", "{}", "--html", "r.html"], ["describe", "{}"]])
def test_reports_and_cards_name_the_labels(
    store: Store, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    more = ["--out", "cards"] if command[0] == "describe" else []
    done = CliRunner().invoke(cli, [word.format(store.path) for word in command] + more)
    assert done.exit_code == 0, done.output
    texts = [path.read_text() for path in tmp_path.rglob("*") if path.suffix in (".html", ".md", ".json")]
    whole = done.output + "".join(texts)
    for words in ("crop", "species", "pH"):
        assert words in whole


def test_copies_keep_the_labels(store: Store, tmp_path: Path) -> None:
    part = subset(store.path, tmp_path / "part.zarr", split="train")
    rest = subset(store.path, tmp_path / "rest.zarr", split=["val", "test"])
    both = merge([part.path, rest.path], tmp_path / "both.zarr")
    for copy in (part, both):
        assert_labels_are_those_of_the_table(copy)
        assert verify(copy.path).problems == ()
    assert both.modalities["species"] == store.modalities["species"]
    assert both.statistics["all"]["pH"] == store.statistics["all"]["pH"]


def test_exports_keep_the_labels(store: Store, tmp_path: Path) -> None:
    notes: list[str] = []
    target = export(store.path, tmp_path / "h5", form="mmearth-h5", note=notes.append)
    assert any("pH, crop, species" in note and "tile_info" in note for note in notes)
    info = json.loads(next(target.glob("*tile_info.json")).read_text())
    rows = {round((entry["lon"] - 10.1) / 0.1): entry["labels"] for entry in info.values()}
    for row, entry in rows.items():
        names = sorted(SPECIES[row].split(";")) if SPECIES[row] else None
        given = {"pH": PH[row], "crop": CROP[row] or None, "species": names}
        assert entry == {name: value for name, value in given.items() if value is not None}
    tiffs = export(store.path, tmp_path / "tiff", form="geotiff")
    assert pd.read_parquet(tiffs / "tiles.parquet")["pH"].notna().sum() == 6


def test_the_same_command_resumes_and_a_changed_label_is_named(folder: Path) -> None:
    before = open_store(folder / "a.zarr").digest
    assert build(folder).exit_code == 0
    assert open_store(folder / "a.zarr").digest == before
    write_table(folder / "changed.csv", [6.75, *PH[1:]])
    (folder / "changed.yaml").write_text((folder / "points.yaml").read_text())
    done = build(folder, table="changed.csv")
    assert done.exit_code == 2
    assert "pH in row 2: 6.5 -> 6.75" in done.output
    assert "Traceback" not in done.output
    (folder / "other.yaml").write_text("labels: {soil pH: {name: pH, range: [0, 14]}}\n")
    done = build(folder, "--labels-file", str(folder / "other.yaml"))
    assert done.exit_code == 2
    assert "labels.pH.description" in done.output


def test_the_same_place_twice_is_refused_with_its_rows(folder: Path) -> None:
    text = (folder / "points.csv").read_text()
    (folder / "twice.csv").write_text(text + text.splitlines()[3] + "\n")
    done = build(folder, table="twice.csv", out="twice.zarr")
    assert done.exit_code == 2
    assert "in rows 4, 10" in done.output
    assert not (folder / "twice.zarr").exists()


def test_a_table_at_sea_only_is_refused(folder: Path) -> None:
    lines = (folder / "points.csv").read_text().splitlines()
    (folder / "sea.csv").write_text("\n".join([lines[0], lines[SEA + 1]]) + "\n")
    done = build(folder, table="sea.csv", out="sea.zarr")
    assert done.exit_code == 2
    assert "in no ecoregion" in done.output


def test_labels_without_a_table_are_refused(folder: Path) -> None:
    words = ["build", "--source", "synthetic", "--label", "pH", "--out", str(folder / "none.zarr")]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 2
    assert "give --tiles-file or --polygons" in done.output


def test_labels_are_tasks(store: Store) -> None:
    tasks: Any = pytest.importorskip("mmearth_model.tasks.store")
    labelled = {
        name: tasks.open_store_task(tasks.StoreImages(store), tasks.parse_task(f"store:{name}", store.modalities))
        for name in ("pH", "crop", "species")
    }
    assert {name: task.kind.value for name, task in labelled.items()} == {
        "pH": "regression",
        "crop": "single-label",
        "species": "multi-label",
    }
    rows = np.array(rows_of(store))
    for task in labelled.values():
        assert {int(row) for row in rows[task.parts.test]} == {6, 7}
    train = labelled["pH"].parts.train
    assert dict(zip(rows[train].tolist(), labelled["pH"].labels[train, 0].tolist(), strict=True)) == {
        0: 6.5,
        1: 4.25,
        3: 7.0,
    }
    species = labelled["species"]
    for position in species.parts.used.tolist():
        assert species.labels[position].tolist() == expected_species(int(rows[position]))
    assert species.classes == ("beech", "oak", "pine")
