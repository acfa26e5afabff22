"""MMEarth-Bench by the command line: probes, fine-tuning and networks, with an encoder that takes all its rasters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner, Result
from encoders import write_encoder
from mmearth_bench_files import write_task
from toy_store import write_store

from mmearth_model.cli import cli

TAKEN = ("sentinel2", "sentinel1", "aster", "canopy_height_eth")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("commands")
    for task in ("biomass", "soil_pH", "species"):
        write_task(folder, task, size_px=16)
    store = write_store(folder / "toy.zarr", names=(*TAKEN, "era5"), shares=(0.5, 0.25))
    write_encoder(folder / "encoder", store, inputs=TAKEN)
    return folder


def run(here: Path, *words: object) -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        return CliRunner().invoke(cli, [*map(str, words), "--device", "cpu"])


def rows(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, (result.output, result.exception)
    found: list[dict[str, Any]] = json.loads(result.stdout)["rows"]
    return found


def test_an_encoder_that_takes_all_rasters_is_probed_on_both_tests_with_published_partitions(here: Path) -> None:
    tests = [f"mmearth-bench-soil_pH@{test}" for test in ("random", "geographic")]
    words = [word for test in tests for word in ("--task", f"{test}=soil_pH")]
    options = ("--labels", "5%,50%,100%", "--protocol", "linear", "--baseline", "train-mean", "--seeds", 1, "--json")
    found = rows(run(here, "evaluate", "encoder", *words, *options))
    by = {(row["task"], row["encoder"], row["labels"]): row for row in found}
    assert len(by) == len(found) == 2 * 2 * 3
    assert {row["train_tiles"] for row in found if row["labels"] == "5%"} == {2}
    assert {row["train_tiles"] for row in found if row["labels"] == "50%"} == {18}
    for test in tests:
        assert by[test, "encoder", "100%"]["metrics"]["rmse"] > 0
    with h5py.File(here / "soil_pH" / "soil_pH.h5") as file:
        values = file["soil_pH"][:, 0]
    content = json.loads((here / "soil_pH" / "soil_pH_split_data.json").read_text())
    for share in ("5%", "100%"):
        error = values[content["geographic_test_indices"]] - values[content[f"train_{share}_indices"]].mean()
        rmse = by[tests[1], "train-mean", share]["metrics"]["rmse"]
        assert rmse == pytest.approx(np.sqrt((error**2).mean()), rel=1e-6)


def test_biomass_is_probed_and_fine_tuned_per_pixel_and_the_network_is_tested_on_africa(here: Path) -> None:
    task = ("--task", "mmearth-bench-biomass=biomass")
    (probe,) = rows(run(here, "evaluate", "encoder", *task, "--baseline", "none", "--seeds", 1, "--json"))
    assert (probe["protocol"], probe["metric"], probe["kind"]) == ("pixels", "r2", "pixel-regression")
    tuned = run(here, "finetune", "encoder", *task, "--epochs", 1, "--batch-size", 8, "--out", "net", "--json")
    (row,) = rows(tuned)
    assert (row["task"], row["protocol"]) == ("mmearth-bench-biomass@random", "finetune")
    assert set(row["metrics"]) == {"r2", "rmse"}
    (again,) = rows(run(here, "evaluate", "net", *task, "--json"))
    assert again["metrics"] == pytest.approx(row["metrics"])
    africa = ("--task", "mmearth-bench-biomass@geographic=biomass")
    (other,) = rows(run(here, "evaluate", "net", *africa, "--json"))
    assert (other["task"], other["test_tiles"]) == ("mmearth-bench-biomass@geographic", 10)
    assert other["metrics"] != row["metrics"]
    record = json.loads((here / "net" / "config.json").read_text())
    assert "CC-BY-4.0" in json.dumps(record)


def test_species_are_probed_and_fine_tuned_with_average_precision_and_recall(here: Path) -> None:
    task = ("--task", "mmearth-bench-species@geographic=species")
    probe = ("evaluate", "encoder", *task, "--baseline", "none", "--protocol", "knn", "--seeds", 1)
    found = rows(run(here, *probe, "--json"))
    found += rows(run(here, "finetune", "encoder", *task, "--epochs", 1, "--batch-size", 8, "--json"))
    for row in found:
        assert row["metric"] == "map_macro"
        assert row["low"] <= row["value"] <= row["high"]
        assert 0 <= row["metrics"]["recall_macro"] <= 1
    assert "map_macro, %" in run(here, *probe).stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("evaluate", "--task", "mmearth-bench-soil_pH=nowhere"), "expected a folder with soil_pH.h5"),
        (("evaluate", "--task", "mmearth-bench-soil_pH@south=soil_pH"), "expected mmearth-bench-soil_pH@random or"),
        (("evaluate", "--task", "mmearth-bench-species=species", "--baseline", "train-mean"), "expected a regression task, got mmearth-bench-species@random (multi-label)"),
        (("evaluate", "--task", "mmearth-bench-soil_pH=soil_pH", "--task", "mmearth-bench-soil_pH@random=soil_pH"), "got mmearth-bench-soil_pH@random twice"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_line_and_exit_code_2(here: Path, words: tuple[str, ...], expected: str) -> None:
    result = run(here, *words)
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert expected in line
