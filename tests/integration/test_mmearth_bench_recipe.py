"""The recipe ``mmearth-bench``: from a table of locations to inputs like those of MMEarth-Bench, and to a result."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from mmearth_data import Store, open_store
from mmearth_data.cli import cli
from mmearth_model import evaluate
from mmearth_model.tasks.mmearth_bench_form import bench_modalities

DAYS = 30


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("recipe"), np.random.default_rng(0)
    with (folder / "ph.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["lon", "lat", "date", "soil_pH", "split"])
        for number in range(12):
            lon, lat, value = 9 + 3 * rng.random(), 47 + 3 * rng.random(), 4 + 4 * rng.random()
            split = ("train", "train", "val", "test")[number % 4]
            table.writerow([f"{lon:.6f}", f"{lat:.6f}", f"2020-07-{number + 1:02d}", f"{value:.2f}", split])
    words = ["build", "--recipe", "mmearth-bench", "--source", "synthetic", "--tile-size", "16", "--label", "soil_pH"]
    words += ["--tiles-file", "ph.csv", "--date-column", "date", "--days", str(DAYS), "--out", "ph.zarr"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="module")
def store(here: Path) -> Store:
    return open_store(here / "ph.zarr")


def rows_of(here: Path) -> list[dict[str, str]]:
    with (here / "ph.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_store_has_every_modality_of_mmearth_bench(store: Store) -> None:
    assert {*bench_modalities(), "lon", "lat", "month"} <= set(store.modalities)
    assert set(store.coords["s2_level"].tolist()) == {1}  # L2A


def test_every_row_became_a_tile_with_its_label_split_and_a_scene_near_its_date(here: Path, store: Store) -> None:
    table = rows_of(here)
    places = np.array([[float(row["lon"]), float(row["lat"])] for row in table])
    assert len(store) == len(table)
    found = store.read("soil_pH", slice(0, len(store)))[:, 0]
    for tile in range(len(store)):
        at = np.array([store.coords["lon"][tile], store.coords["lat"][tile]])
        row = table[int(np.abs(places - at).sum(axis=1).argmin())]
        assert found[tile] == pytest.approx(float(row["soil_pH"]))
        assert store.coords["split"][tile] == {"train": 0, "val": 1, "test": 2}[row["split"]]
        days = store.coords["time"][tile] - np.datetime64(row["date"])
        assert abs(days) <= np.timedelta64(DAYS + 1, "D")


def test_its_label_is_a_task_with_the_train_mean_of_the_table(here: Path, store: Store) -> None:
    options: dict[str, Any] = {"baselines": ("train-mean", "statistics"), "protocols": ("linear",), "seeds": 1}
    rows = {row.encoder: row for row in evaluate([], store, ["store:soil_pH"], device="cpu", **options).rows}
    values = {part: [float(row["soil_pH"]) for row in rows_of(here) if row["split"] == part] for part in ("train", "test")}  # fmt: skip
    error = np.array(values["test"]) - np.mean(values["train"])
    assert rows["train-mean"].metrics["rmse"] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-5)
    assert np.isfinite(rows["image statistics"].value)
