"""Folders change under what is open, and runs and stores move: everything is found, or the option that helps is named."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from toy_store import TINY, write_store

from mmearth_data import open_store
from mmearth_model import load_checkpoint, make_recipe, pretrain
from mmearth_model.cli import cli
from mmearth_model.weights.store_record import find_store, where_store_is


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store, and a run on it that was begun from there with relative paths."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_store(Path("toy.zarr"))
        recipe = make_recipe("demo", {**TINY, "epochs": 1, "batch_size": 12, "exclude": ["biome", "eco_region"]})
        pretrain(open_store("toy.zarr"), recipe, Path("runs/one"), device="cpu")
    return folder


@pytest.fixture
def moved(made: Path, tmp_path: Path) -> Path:
    """The whole folder at another path; nothing is left at the first one."""
    shutil.copytree(made, tmp_path / "elsewhere")
    config = next((tmp_path / "elsewhere" / "runs" / "one").glob("step-*/config.json"))
    config.write_text(config.read_text().replace(str(made), str(tmp_path / "gone")))
    return tmp_path / "elsewhere"


def evaluate(run: Path, *more: object) -> Result:
    words = [
        "evaluate",
        run,
        "--task",
        "store:biome",
        "--protocol",
        "knn",
        "--baseline",
        "none",
        "--device",
        "cpu",
        *more,
    ]
    return CliRunner().invoke(cli, [str(word) for word in words])


def test_a_store_reads_on_after_the_process_went_elsewhere(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    store = open_store("toy.zarr")
    expected = store.read("esa_worldcover", slice(0, 48))
    store, lazy, loader = open_store("toy.zarr"), store.dataset, store.loader(batch_size=48, shuffle=False)
    monkeypatch.chdir("/")
    assert store.path == made / "toy.zarr"
    np.testing.assert_array_equal(store.read("esa_worldcover", slice(0, 48)), expected)
    np.testing.assert_array_equal(next(iter(loader))["esa_worldcover"], expected)
    np.testing.assert_array_equal(lazy["esa_worldcover"].fillna(0).astype("u1").to_numpy(), expected)
    again = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(again.read("esa_worldcover", slice(0, 48)), expected)


def test_a_checkpoint_reads_on_too(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)
    checkpoint = load_checkpoint("runs/one")
    monkeypatch.chdir("/")
    assert checkpoint.tensors()


def test_a_run_says_where_its_store_is_in_both_ways(made: Path) -> None:
    for record in (made / "runs" / "one" / "run.json", *(made / "runs" / "one").glob("step-*/config.json")):
        store = json.loads(record.read_text())["store"]
        assert (store["path"], store["relative"]) == (str(made / "toy.zarr"), "../../toy.zarr")


def test_run_and_store_move_together(moved: Path) -> None:
    result = evaluate(moved / "runs" / "one")
    assert result.exit_code == 0, result.output
    assert str(moved / "toy.zarr") in result.output.replace("\n", "")


def test_a_run_that_moves_alone_finds_its_store_where_it_was(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "runs" / "one", tmp_path / "one")
    checkpoint = load_checkpoint(tmp_path / "one")
    assert find_store(checkpoint.config["store"], tmp_path / "one").path == made / "toy.zarr"


@pytest.mark.parametrize("command", ["evaluate", "finetune"])
def test_where_neither_is_there_the_option_is_named_and_helps(moved: Path, tmp_path: Path, command: str) -> None:
    (moved / "toy.zarr").rename(tmp_path / "hidden.zarr")
    result = CliRunner().invoke(cli, [command, str(moved / "runs" / "one"), "--task", "store:biome"])
    assert result.exit_code == 2
    assert "--store STORE" in result.stderr.splitlines()[-1]
    assert str(moved / "toy.zarr") in result.stderr
    if command == "evaluate":
        helped = evaluate(moved / "runs" / "one", "--store", tmp_path / "hidden.zarr")
        assert helped.exit_code == 0, helped.output


def test_of_two_stores_the_one_it_learned_from_is_taken(made: Path, tmp_path: Path) -> None:
    other = write_store(tmp_path / "toy.zarr", tiles=16)
    record = {**where_store_is(other, tmp_path / "runs" / "one"), "digest": open_store(made / "toy.zarr").digest}
    record["relative"] = Path("toy.zarr").as_posix()
    shutil.copytree(made / "toy.zarr", tmp_path / "runs" / "one" / "toy.zarr")
    assert find_store(record, tmp_path / "runs" / "one").path == tmp_path / "runs" / "one" / "toy.zarr"


def test_a_moved_run_resumes(moved: Path) -> None:
    recipe = make_recipe("demo", {**TINY, "epochs": 1, "batch_size": 12, "exclude": ["biome", "eco_region"]})
    assert pretrain(open_store(moved / "toy.zarr"), recipe, moved / "runs" / "one", device="cpu").is_dir()
