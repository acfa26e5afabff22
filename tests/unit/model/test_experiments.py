"""Experiments: what is planned, that nothing is run twice, and what the answer says."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from distributed import LocalCluster
from matplotlib import image
from rich.console import Console
from toy_store import TINY, write_store

from mmearth_data import FileInputError, InputError, RetryLater, Store, load_catalog
from mmearth_data import make_recipe as make_build_recipe
from mmearth_model import make_recipe, read_report
from mmearth_model.claims import claim
from mmearth_model.cli import cli
from mmearth_model.evaluation.terminal import render_results
from mmearth_model.experiments import run as running
from mmearth_model.experiments.run import Setting, run_experiment
from mmearth_model.experiments.spec import (
    EXPERIMENTS,
    Experiment,
    Selection,
    greedy,
    joined,
    plan_units,
    read_experiment,
)
from mmearth_model.spreading import Spreading, spread

MODALITIES = tuple(load_catalog().modalities.values())
TOY: dict[str, Any] = {
    "name": "toy",
    "question": "Does the biome help?",
    "baseline": "sentinel2",
    "variants": {
        "sentinel2": {"train": {"modalities": ["sentinel2"]}},
        "sentinel2+biome": {"train": {"modalities": ["sentinel2", "biome"]}},
        "random": {"network": "random"},
    },
    "scales": {
        "demo": {
            "recipe": "demo",
            "train": {
                **{k: list(v) if isinstance(v, tuple) else v for k, v in TINY.items()},
                "epochs": 1,
                "batch_size": 12,
            },
            "tasks": ["store:esa_worldcover"],
            "protocols": ["knn"],
            "seeds": 2,
        }
    },
}

ONE_SEED = {"demo": {**TOY["scales"]["demo"], "seeds": 1}}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("toy") / "toy.zarr", 64, shares=(0.5, 0.25))


def setting_of(store: Store, out: Path, **changes: Any) -> Setting:
    experiment = Experiment.model_validate({**TOY, **changes})
    return Setting(experiment=experiment, scale="demo", out=out, stores={"default": store.path}, data={}, device="cpu")


def test_every_shipped_experiment_can_be_planned_at_its_scales() -> None:
    assert {"sentinel2-only", "plus-elevation", "plus-biome", "leave-one-out", "best-subset", "loss-weighting", "image-patch-size", "stem", "pretraining-tiles", "imagenet", "label-efficiency", "decoder", "other-sensor", "other-region", "later-years", "modality-groups"} <= set(EXPERIMENTS.names())  # fmt: skip
    for name in EXPERIMENTS.names():
        experiment = read_experiment(name)
        assert experiment.name == name
        for scale in experiment.scales.values():
            units = plan_units(experiment, scale, MODALITIES, {})
            assert experiment.baseline in {unit.name for unit in units}, name
            assert len({unit.key for unit in units}) == len(units)
            for unit in units:
                make_recipe(scale.recipe, {"exclude": scale.exclude, **scale.train, **unit.variant.train})
            if scale.build is not None:
                assert make_build_recipe(None, dict(scale.build)).source == "synthetic"


def test_one_is_left_out_at_a_time() -> None:
    experiment = read_experiment("leave-one-out")
    units = plan_units(experiment, experiment.scale("demo"), MODALITIES, {})
    pretext = {m.name for m in MODALITIES if m.pretext} - {"sentinel2", "biome", "eco_region"}
    assert {unit.name for unit in units} == {"all"} | {f"without {name}" for name in pretext}
    for unit in units[1:]:
        assert unit.variant.train["exclude"] == ["biome", "eco_region", unit.name.removeprefix("without ")]


def test_a_greedy_search_follows_the_validation_values() -> None:
    worth = {"a": 0.1, "b": 0.3, "c": 0.0}

    def value(chosen: tuple[str, ...]) -> float:
        return sum(worth.get(name, 0.0) for name in chosen) - 0.01 * len(chosen)

    known: dict[str, float] = {}
    for _ in range(10):
        tried = greedy(["s"], list(worth), known)
        fresh = [chosen for chosen in tried if joined(chosen) not in known]
        if not fresh:
            break
        known |= {joined(chosen): value(chosen) for chosen in fresh}
    assert max(known, key=lambda name: known[name]) == "s+b+a"
    assert "s+a+b" not in known  # a was not the better first step
    assert set(known) == {"s", "s+a", "s+b", "s+c", "s+b+a", "s+b+c", "s+b+a+c"}


def test_an_experiment_ends_in_a_table_and_a_figure_and_is_never_run_twice(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the middle of a run, continued by the same call; paired differences are those of the rows."""
    setting = setting_of(store, tmp_path / "out")
    calls: list[str] = []
    pretrain, original = running.pretrain, running._probe

    def stop_once(*arguments: Any) -> Any:
        calls.append(arguments[1].key)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(running, "_probe", stop_once)
    with pytest.raises(KeyboardInterrupt):
        run_experiment(setting)
    done = {p.parent.name: p.stat().st_mtime_ns for p in (tmp_path / "out" / "runs").glob("*/result.json")}
    assert len(done) == 1
    (partly,) = read_report([tmp_path / "out"]).results
    assert "not finished: results of 1 runs so far" in partly.notes[-1]
    progress: list[tuple[int, int, str]] = []
    result = run_experiment(setting, progress=lambda *state: progress.append(state))
    assert [done for done, *_ in progress] == sorted(done for done, *_ in progress)
    assert (progress[0][:2], progress[-1][:2]) == ((1, 6), (6, 6))
    assert any("step" in what for *_, what in progress)
    assert any("features of" in what for *_, what in progress)
    assert len(calls) == 7  # six runs, one of them twice
    again = {p.parent.name: p.stat().st_mtime_ns for p in (tmp_path / "out" / "runs").glob("*/result.json")}
    assert len(again) == 6
    assert all(again[name] == stamp for name, stamp in done.items())
    run_experiment(setting)
    assert len(calls) == 7
    assert pretrain is running.pretrain

    with (tmp_path / "out" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["variant"] for row in rows} == set(TOY["variants"])
    values = {row.encoder: [r.value for r in result.rows if r.encoder == row.encoder and r.protocol == "knn-5"] for row in result.rows}  # fmt: skip
    (told,) = [row for row in rows if row["variant"] == "sentinel2+biome" and row["protocol"] == "knn-5"]
    expected = 100 * (np.mean(values["sentinel2+biome"]) - np.mean(values["sentinel2"]))
    assert float(told["difference"]) == pytest.approx(expected, abs=0.06)
    console = Console(width=80, color_system=None)
    with console.capture() as shown:
        console.print(render_results("toy", result, "sentinel2"))
    assert max(map(len, shown.get().splitlines())) <= 80
    signed = told["difference"]
    assert re.search(rf"(?<!\S){re.escape(signed)}(?!\S)", shown.get())
    assert "differences from sentinel2, with paired 95 % intervals" in " ".join(shown.get().split())
    assert "Synthetic tiles" in (tmp_path / "out" / "results.md").read_text()
    assert image.imread(tmp_path / "out" / "results.png")[..., 0].std() > 0.05
    with pytest.raises(InputError, match="expected the experiment of this folder"):
        run_experiment(setting_of(store, tmp_path / "out", question="Another?"))

    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(TOY))
    words = ["experiment", "toy.yaml", "--store", str(store.path), "--out", "out", "--html", "x.html"]
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(cli, words)
    assert found.exit_code == 0, found.output
    text = (tmp_path / "x.html").read_text(encoding="utf-8")
    assert re.findall(r'<section id="([^"]+)"', text)[:2] == ["runs", "losses"]
    (shown,) = read_report([tmp_path / "out"]).results
    assert {round(100 * d.value, 1) for d in shown.differences} == {
        float(row["difference"]) for row in rows if row["difference"] != "baseline"
    }


@pytest.fixture(scope="module")
def other_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("other") / "toy.zarr", 80, shares=(0.5, 0.25))


def with_files(store: Store, folder: Path) -> Setting:
    """An experiment that reads a recipe, plain weights and labelled images from files."""
    (folder / "images" / "a").mkdir(parents=True)
    for file, content in (("recipe.yaml", "epochs: 3\n"), ("plain.pth", "weights"), ("images/a/1.tif", "pixels")):
        (folder / file).write_text(content)
    scale = {**TOY["scales"]["demo"], "recipe": str(folder / "recipe.yaml"), "tasks": ["m-eurosat"]}
    variants = {**TOY["variants"], "plain": {"network": "convnext"}}
    setting = setting_of(store, folder / "out", scales={"demo": scale}, variants=variants)
    return replace(setting, data={"m-eurosat": folder / "images"}, convnext=folder / "plain.pth")


def test_runs_of_one_experiment_share_store_recipe_data_and_weights(
    store: Store, other_store: Store, tmp_path: Path
) -> None:
    """By content: a path may change, and so may a remark in the recipe; what is learned from may not."""
    setting = with_files(store, tmp_path)
    running.prepare(setting, print)
    shutil.copytree(store.path, tmp_path / "moved.zarr")
    (tmp_path / "recipe.yaml").write_text("description: three passes\nepochs: 3\n")
    running.prepare(replace(setting, stores={"default": tmp_path / "moved.zarr"}, device="cpu"), print)
    with pytest.raises(InputError, match=f"stores.default: '{store.digest}' -> '{other_store.digest}'"):
        running.prepare(replace(setting, stores={"default": other_store.path}), print)
    for file, content, expected in (
        ("recipe.yaml", "epochs: 3\nclip_norm: 1\n", r"recipe\.clip_norm: None -> 1\.0"),
        ("plain.pth", "other weights", "convnext: "),
        ("images/a/1.tif", "other pixels", r"data\.m-eurosat: "),
    ):
        before = (tmp_path / file).read_text()
        (tmp_path / file).write_text(content)
        with pytest.raises(InputError, match=expected) as error:
            running.prepare(setting, print)
        assert "\n" not in str(error.value)
        (tmp_path / file).write_text(before)
    running.prepare(setting, print)


def test_a_finished_experiment_does_not_ignore_another_store(store: Store, other_store: Store, tmp_path: Path) -> None:
    random = {"random": {"network": "random"}}
    setting = setting_of(store, tmp_path / "out", variants=random, baseline="random", scales=ONE_SEED)
    run_experiment(setting)
    with pytest.raises(InputError, match=r"stores\.default"):
        run_experiment(replace(setting, stores={"default": other_store.path}))


def test_the_store_of_an_experiment_is_that_of_its_runs(store: Store, tmp_path: Path) -> None:
    build = {"source": "synthetic", "tiles": 16, "tile_size": 64, "modalities": ["sentinel2", "esa_worldcover"]}
    scale = {**TOY["scales"]["demo"], "build": build}
    setting = replace(setting_of(store, tmp_path / "out", scales={"demo": scale}), stores={})
    own = running.prepare(setting, print).stores["default"]
    with pytest.raises(InputError, match=rf"stores\.default: None -> '{store.digest}'"):
        running.prepare(replace(setting, stores={"default": store.path}), print)
    shutil.rmtree(own)
    running.prepare(setting, print)  # built again, the same
    shutil.rmtree(own)
    shutil.copytree(store.path, own)
    with pytest.raises(InputError, match="own_store: "):
        running.prepare(setting, print)


def test_a_store_that_is_being_built_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    store = write_store(tmp_path / "toy.zarr", finish=False)
    with pytest.raises(InputError, match="expected a finished store"):
        run_experiment(setting_of(store, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_an_experiment_of_an_earlier_version_continues(store: Store, other_store: Store, tmp_path: Path) -> None:
    """It recorded neither its inputs nor fields of the recipe that were added since."""
    setting = setting_of(store, tmp_path / "out")
    running.prepare(setting, print)
    file = tmp_path / "out" / "experiment.json"
    content = json.loads(file.read_text())
    del content["recipe"]["engine"]
    file.write_text(json.dumps(content))
    running.prepare(setting, print)
    file.write_text(json.dumps({part: content[part] for part in ("experiment", "scale")}))
    running.prepare(setting, print)
    with pytest.raises(InputError, match=r"stores\.default"):
        running.prepare(replace(setting, stores={"default": other_store.path}), print)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"experiment": 1}'])
def test_a_damaged_record_is_named(store: Store, tmp_path: Path, content: str) -> None:
    setting = setting_of(store, tmp_path / "out")
    running.prepare(setting, print)
    (tmp_path / "out" / "experiment.json").write_text(content)
    with pytest.raises(FileInputError, match=r"experiment\.json: expected the record of an experiment"):
        run_experiment(setting)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "[1]", '[{"task": "store:biome"}]'])
def test_a_damaged_result_is_named_with_the_way_on(store: Store, tmp_path: Path, content: str) -> None:
    random = {"random": {"network": "random"}}
    setting = setting_of(store, tmp_path / "out", variants=random, baseline="random", scales=ONE_SEED)
    result = tmp_path / "out" / "runs" / "random-0" / "result.json"
    result.parent.mkdir(parents=True)
    (tmp_path / "out" / "claims").mkdir()
    result.write_text(content)
    with pytest.raises(FileInputError, match=r"result\.json: expected the result of a run.*remove this file") as error:
        run_experiment(setting)
    assert "\n" not in str(error.value)


def test_damaged_sums_are_named(store: Store, tmp_path: Path) -> None:
    random = {"random": {"network": "random"}}
    setting = setting_of(store, tmp_path / "out", variants=random, baseline="random", scales=ONE_SEED)
    run_experiment(setting)
    sums = tmp_path / "out" / "runs" / "random-0" / "sums.npz"
    for content in (b"", sums.read_bytes()[:100]):
        sums.write_bytes(content)
        with pytest.raises(FileInputError, match=r"sums\.npz: expected the sums of 2 results.*remove result\.json"):
            run_experiment(setting)


@pytest.fixture(scope="module")
def alone(store: Store, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the runs of one process end in."""
    out = tmp_path_factory.mktemp("alone") / "out"
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run_experiment(setting_of(store, out, scales=ONE_SEED))
    finally:
        torch.set_num_threads(before)
    return results_of(out)


def results_of(out: Path) -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in (out / "runs").glob("*/result.json")}


@pytest.mark.parametrize(
    "where",
    ["cluster", *(pytest.param(name, marks=pytest.mark.slow) for name in ("processes", "cluster of processes"))],
)
def test_several_processes_find_what_one_finds(
    where: str, store: Store, tmp_path: Path, alone: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker of the cluster is a thread behind its own socket, or, in the long form, a process."""
    monkeypatch.setattr("os.cpu_count", lambda: 2)  # so that each of the two computes with one thread, as `alone` did
    setting, told = setting_of(store, tmp_path / "out", scales=ONE_SEED), list[str]()
    if where == "processes":
        run_experiment(setting, workers=2, report=told.append)
    else:
        own = where == "cluster of processes"
        with LocalCluster(
            n_workers=1, threads_per_worker=1, processes=own, protocol="tcp://", dashboard_address="127.0.0.1:0"
        ) as cluster:
            run_experiment(setting, scheduler=cluster.scheduler_address, report=told.append)
    assert results_of(tmp_path / "out") == alone
    assert sorted(line for line in told if line.endswith(": finished")) == sorted(f"{key}: finished" for key in alone)


def test_a_process_that_dies_is_an_error_with_the_way_on() -> None:
    """The work kills its process; it imports nothing of the tests, which would take most of the time."""
    with pytest.raises(RetryLater, match="the same command continues"):
        list(spread(signal.raise_signal, [signal.SIGKILL], Spreading()))


def test_processes_end_when_the_experiment_is_stopped() -> None:
    """The signal reaches this process alone; runs that take minutes are not waited for."""
    begin = time.monotonic()
    found = spread(time.sleep, [0, 300, 300, 300], Spreading(2))
    assert next(found) == (0, None)
    children = multiprocessing.active_children()
    found.close()  # type: ignore[attr-defined]  # a generator, which an interrupted caller leaves like this
    assert time.monotonic() - begin < 100
    assert children
    assert not any(child.is_alive() for child in children)


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmearth_data.building.cluster.CONNECT_S", 1)
    with pytest.raises(InputError, match="--scheduler: expected the address"):
        list(spread(abs, [1], Spreading(scheduler="tcp://127.0.0.1:9")))


def test_a_claim_is_held_by_one_and_falls_to_others_when_its_owner_dies(tmp_path: Path) -> None:
    path = tmp_path / "claims" / "a"
    with claim(path) as ours, claim(path) as theirs:
        assert (ours, theirs) == (True, False)
    assert not path.exists()
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True)  # fmt: skip
    path.write_text(json.dumps({"host": os.uname().nodename, "pid": int(dead.stdout)}))
    with claim(path) as ours:
        assert ours
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1}))
    with claim(path) as ours:
        assert not ours
    os.utime(path, (0, 0))
    with claim(path) as ours:
        assert ours


def test_selections_take_years_places_and_the_first_training_tiles(store: Store) -> None:
    assert len(running.select(store, Selection(tiles=10))) == 10 + 32
    west = running.select(store, Selection(bboxes=((0, -90, 1.05, 90),)))
    assert west.coords["lon"].max() <= 1.0
    assert len(running.select(store, Selection(years=(2019,)))) == 64
    with pytest.raises(InputError, match="expected tiles of"):
        running.select(store, Selection(years=(1999,)))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"baseline": "none"}, "baseline: expected one of"),
        ({"colour": "red"}, "colour"),
        ({"scales": {}}, "scales"),
        ({"search": "random"}, "search"),
    ],
)
def test_an_experiment_that_says_what_it_may_not_is_refused(tmp_path: Path, change: Any, expected: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**TOY, **change}))
    with pytest.raises(FileInputError, match=expected):
        read_experiment(str(path))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nosuch"], "expected an experiment (best-subset"),
        (["plus-biome", "--scale", "paper"], "expected the data of m-bigearthnet"),
        (["imagenet"], "expected plain ConvNeXt V2 weights"),
        (["other-sensor"], "expected --scale paper"),
    ],
)
def test_what_an_experiment_lacks_is_said_before_anything_is_written(
    tmp_path: Path, arguments: list[str], expected: str
) -> None:
    result = CliRunner().invoke(cli, ["experiment", *arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert expected in result.stderr
    assert not (tmp_path / "out").exists()
