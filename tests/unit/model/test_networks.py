"""Networks: what comes back from their folders, and what they answer."""

from __future__ import annotations

import copy
import json
import resource
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from click.testing import CliRunner, Result
from encoders import write_encoder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression
from toy_store import write_store

from mmearth_data import InputError, Store
from mmearth_model import Checkpoint, Network, Output, evaluate, load_checkpoint, load_encoder, load_network
from mmearth_model.cli import cli
from mmearth_model.evaluation.finetune import FineTuneRecipe, finetune
from mmearth_model.evaluation.testing import check_network
from mmearth_model.heads.colours import PALETTE, class_colours
from mmearth_model.heads.network import NETWORK_FILES, is_network, save_network
from mmearth_model.tasks import LabelledSet, TaskKind, TaskSpec, open_files, open_task

NAMES = ("sentinel2", "esa_worldcover", "aster", "era5", "biome")
QUICK = FineTuneRecipe(epochs=1, warmup=0, lr=1e-2, batch_size=12)
EVERY_KIND = (
    "store:biome",
    "store:esa_worldcover/shares",
    "store:esa_worldcover/pixels",
    "store:aster.elevation/pixels",
    "labels",
)
"""Store tasks of every kind; ``labels`` is one with several labels, which no store has."""


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("networks")


@pytest.fixture(scope="module")
def store(here: Path) -> Store:
    return write_store(here / "toy.zarr", names=NAMES, shares=(0.5, 0.25))


@pytest.fixture(scope="module")
def checkpoint(here: Path, store: Store) -> Checkpoint:
    return write_encoder(here / "encoder", store, patch_size=24)


@pytest.fixture(scope="module")
def probe(here: Path, checkpoint: Checkpoint, store: Store) -> Path:
    """Folder of a linear probe on biomes."""
    evaluate([checkpoint], store, ["store:biome"], protocols=("linear",), seeds=1, baselines=(), keep=here / "probe", device="cpu")  # fmt: skip
    return here / "probe"


def opened(text: str, store: Store) -> LabelledSet:
    if text != "labels":
        return open_task(text, store)
    task = open_task("store:biome", store)
    kinds = np.stack([task.labels == 0, task.labels < 2, task.labels >= 0, task.labels < 0], axis=1).astype(np.int64)
    return replace(task, name="labels", kind=TaskKind.MULTI_LABEL, labels=kinds, classes=("a", "b", "all", "none"), shown=None)  # fmt: skip


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def refusal(result: Result) -> str:
    """The one line of a refusal."""
    assert result.exit_code == 2, (result.output, result.exception)
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    return line


# ---------------------------------------------------------------- what is tested again is the same


@pytest.mark.parametrize("name", EVERY_KIND)
def test_a_fine_tuned_network_has_the_figures_that_it_was_recorded_with(
    name: str, store: Store, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    task = opened(name, store)
    (tuned,) = finetune(checkpoint, task, QUICK, device="cpu", out=tmp_path / "out").rows
    network = load_network(tmp_path / "out")
    found = evaluate([network], store, [opened(name, store)], device="cpu")
    (row,) = found.rows
    assert row.protocol == "network"
    for field in ("value", "low", "high", "metrics", "counts", "guess", "train_tiles", "test_tiles", "leaky"):
        assert getattr(row, field) == getattr(tuned, field), field
    assert network.record["result"]["metrics"] == {key: pytest.approx(v, nan_ok=True) for key, v in row.metrics.items()}


@pytest.mark.parametrize(("name", "protocol"), [*((name, "linear") for name in EVERY_KIND), ("store:biome", "probe")])
def test_a_kept_probe_answers_as_it_did(
    name: str, protocol: Any, store: Store, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    task = opened(name, store)
    probed = evaluate([checkpoint], store, [task], protocols=("knn", protocol) if name == "store:biome" else (protocol,), seeds=2, baselines=(), keep=tmp_path / "kept", device="cpu")  # fmt: skip
    expected, _ = (row for row in probed.rows if row.protocol in (protocol, "pixels"))
    assert expected.seed == 0
    (row,) = evaluate([load_network(tmp_path / "kept")], store, [task], device="cpu").rows
    rounding = 1e-3 if task.kind.per_pixel else 0 if task.kind is not TaskKind.REGRESSION else 1e-6
    for metric, value in expected.metrics.items():
        assert row.metrics[metric] == pytest.approx(value, abs=rounding, rel=0, nan_ok=True), metric
    assert (row.test_tiles, row.train_tiles) == (expected.test_tiles, expected.train_tiles)


def test_a_probe_is_the_regression_of_scikit_learn_on_the_encoders_features(
    probe: Path, store: Store, checkpoint: Checkpoint
) -> None:
    features = checkpoint.encoder().embed(store).double().numpy()
    task = open_task("store:biome", store)
    train = task.parts.train
    standard = (features - features[train].mean(axis=0)) / features[train].std(axis=0)
    network = load_network(probe)
    strength = float(network.record["result"]["chosen"].removeprefix("C="))
    model = LogisticRegression(C=strength, tol=1e-9, max_iter=10_000).fit(standard[train], task.labels[train])
    found = network.predict(store)
    assert found.probabilities is not None
    assert np.abs(found.probabilities[:, model.classes_] - model.predict_proba(standard)).max() < 1e-3
    unseen = np.setdiff1d(np.arange(len(network.outputs)), model.classes_)
    assert len(unseen)
    assert not found.probabilities[:, unseen].any(), "classes without a training sample are never an answer"
    codes = np.array([label.code for label in store.modalities["biome"].classes])
    assert (found.answers == codes[model.predict(standard)]).mean() > 0.99


# ---------------------------------------------------------------- other tasks


def test_classes_are_matched_by_name_wherever_they_are(probe: Path, store: Store) -> None:
    network = load_network(probe)
    task = opened("store:biome", store)
    backwards = replace(task, name="backwards", shown=None, classes=task.classes[::-1], labels=len(task.classes) - 1 - task.labels)  # fmt: skip
    few = [int(index) for index in np.unique(task.labels)]
    place = np.full(len(task.classes), -1)
    place[few] = range(len(few))
    some = replace(task, name="some", shown=None, classes=tuple(task.classes[k] for k in few), labels=place[task.labels])  # fmt: skip
    rows = evaluate([network], None, [task, backwards, some], device="cpu").rows
    assert len({row.value for row in rows}) == 1
    assert {row.task for row in rows} == {"store:biome", "backwards", "some"}


def test_labels_are_matched_by_name_too(store: Store, checkpoint: Checkpoint, tmp_path: Path) -> None:
    task = opened("labels", store)
    finetune(checkpoint, task, QUICK, device="cpu", out=tmp_path / "out")
    order = [2, 0, 1]
    other = replace(task, classes=tuple(task.classes[k] for k in order), labels=task.labels[:, order])
    whole, some = (evaluate([load_network(tmp_path / "out")], None, [t], device="cpu").rows[0] for t in (task, other))
    assert (some.counts["f1"]["of"], whole.counts["f1"]["of"]) == (3, 4)
    network = load_network(tmp_path / "out")
    answers = network.predict(store).answers[task.parts.test]
    hits = (answers[:, :3] * task.labels[task.parts.test][:, :3]).sum()
    expected = 2 * hits / (answers[:, :3].sum() + task.labels[task.parts.test][:, :3].sum())
    assert some.value == pytest.approx(expected)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"classes": ("here", "there")}, "expected classes that"),
        ({"kind": TaskKind.SEGMENTATION}, "expected a single-label task"),
    ],
)
def test_a_task_that_a_network_cannot_answer_is_refused(
    change: dict[str, Any], reason: str, probe: Path, store: Store
) -> None:
    task = replace(opened("store:biome", store), shown=None, **change)
    with pytest.raises(InputError, match=reason) as caught:
        evaluate([load_network(probe)], None, [task], device="cpu")
    assert ";" in str(caught.value), "what to do"


def test_quantities_of_another_unit_are_refused(store: Store, checkpoint: Checkpoint, tmp_path: Path) -> None:
    task = opened("store:aster.elevation/pixels", store)
    finetune(checkpoint, task, QUICK, device="cpu", out=tmp_path / "out")
    network = load_network(tmp_path / "out")
    assert [output.units for output in network.outputs] == ["m"]
    other = replace(network, outputs=(replace(network.outputs[0], units="ft"),))
    with pytest.raises(InputError, match=r"has \(elevation in ft\), got elevation in m"):
        check_network(other, task)


def test_images_of_a_level_without_statistics_are_refused(probe: Path, store: Store) -> None:
    network = load_network(probe)
    statistics = copy.deepcopy(network.normaliser.statistics)
    statistics["sentinel2"]["L1C"] = {band: {"count": 0, "mean": 0.0, "std": 0.0} for band in statistics["sentinel2"]["L1C"]}  # fmt: skip
    inputs = list(network.normaliser.modalities.values())
    some = replace(network, normaliser=type(network.normaliser)(inputs, {"train": statistics}, inputs=["sentinel2"]))
    assert some.levels == ("L2A",)
    with pytest.raises(InputError, match=r"expected images of L2A, .* got L1C in 6 of 12 test samples"):
        check_network(some, open_task("store:biome", store))


def test_a_network_tested_on_another_size_says_so(probe: Path, tmp_path: Path) -> None:
    other = write_store(tmp_path / "large.zarr", 16, names=NAMES, size_px=48)
    (row,) = evaluate([load_network(probe)], other, ["store:biome"], device="cpu").rows
    assert row.remarks()[-1] == "linear on store:biome and images of 24 px, tested on 48 px"


def test_only_labels_that_the_encoder_learned_are_leaky(here: Path, store: Store, tmp_path: Path) -> None:
    knows = write_encoder(tmp_path / "knows", store, targets=("sentinel2", "biome"))
    evaluate([knows], store, ["store:biome"], protocols=("linear",), seeds=1, baselines=(), keep=tmp_path / "kept", device="cpu")  # fmt: skip
    rows = evaluate([load_network(tmp_path / "kept"), load_network(here / "probe")], store, ["store:biome"]).rows
    assert [row.leaky for row in rows] == [True, False]


# ---------------------------------------------------------------- what comes back


@pytest.mark.parametrize("name", EVERY_KIND)
def test_a_network_answers_batches_tiles_and_stores_alike(
    name: str, store: Store, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    task = opened(name, store)
    finetune(checkpoint, task, QUICK, device="cpu", out=tmp_path / "out")
    network = load_network(tmp_path / "out")
    assert network.window_px == 24, "tiles of 32 px, whole patches of 24 px"
    found = network.predict(store[:5])
    batch = next(iter(store.loader(batch_size=5, shuffle=False, modalities=["sentinel2"])))
    assert np.array_equal(network.predict(batch).answers, found.answers)
    assert np.allclose(network.predict(store.tile(2)).answers[0], found.answers[2], rtol=1e-5, atol=1e-6)
    side = (24, 24) if task.kind.per_pixel else ()
    outputs = () if task.kind.classes or task.kind.per_pixel else (len(network.outputs),)
    assert found.answers.shape == (5, *outputs, *side)
    if task.kind.continuous:
        assert found.probabilities is None
        return
    assert found.probabilities is not None
    assert found.probabilities.shape == (5, len(network.outputs), *side)
    if task.kind.classes:
        assert np.allclose(found.probabilities.sum(axis=1), 1)
        codes = np.array([output.code for output in network.outputs])
        assert np.array_equal(found.answers, codes[found.probabilities.argmax(axis=1)])


def test_a_network_knows_where_it_comes_from(probe: Path, store: Store, checkpoint: Checkpoint) -> None:
    import hashlib

    network = load_network(probe)
    record = network.record
    digest = hashlib.sha256((checkpoint.folder / "model.safetensors").read_bytes()).hexdigest()
    assert record["encoder_digest"] == f"sha256:{digest}"
    assert (record["synthetic"], record["labels"], record["seed"]) == (True, "100%", 0)
    assert record["samples"] == {"train": 24, "validation": 12, "test": 12}
    assert record["store"]["digest"] == store.digest
    assert [entry["name"] for entry in record["learned"]] == ["sentinel2", "era5"]
    assert record["label"] == {"name": "biome", "kind": "tile/categorical"}
    assert {name for entry in record["licences"] for name in entry["modalities"]} == {"sentinel2", "era5", "biome"}
    named = {entry["name"] for entry in record["licences"] if "biome" in entry["modalities"]}
    assert named == {store.modalities["biome"].licence.name}
    assert [(o.name, o.code, o.colour) for o in network.outputs] == [(c.name, c.code, c.colour) for c in store.modalities["biome"].classes]  # fmt: skip
    assert network.name == probe.as_posix() or network.name.endswith("probe")


def test_the_encoder_of_a_network_is_an_encoder(store: Store, checkpoint: Checkpoint, tmp_path: Path) -> None:
    finetune(checkpoint, open_task("store:biome", store), QUICK, device="cpu", out=tmp_path / "out")
    network = load_network(tmp_path / "out")
    tuned = load_encoder(tmp_path / "out")
    assert torch.equal(tuned.embed(store), network.encoder.embed(store))
    assert not torch.equal(tuned.embed(store), checkpoint.encoder().embed(store))
    taken = load_checkpoint(tmp_path / "out")
    assert [m.name for m in taken.learned] == ["sentinel2", "era5", "biome"]
    assert open_task("store:biome", store).conflicts(taken.learned[-1]), "it has seen the labels"
    (again,) = finetune(taken, open_task("store:biome", store), QUICK, device="cpu").rows
    assert again.leaky


def test_a_network_is_written_whole_and_only_over_a_network(
    probe: Path, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    network = load_network(probe)
    save_network(tmp_path / "net", network)
    assert {path.name for path in (tmp_path / "net").iterdir()} <= NETWORK_FILES
    for name in NETWORK_FILES:
        (tmp_path / "net" / name).touch()
    save_network(tmp_path / "net", network)
    (tmp_path / "net" / "notes.txt").write_text("mine")
    taken = shutil.copytree(checkpoint.folder, tmp_path / "encoder")
    damaged = shutil.copytree(probe, tmp_path / "damaged")
    (damaged / "config.json").write_text('{"architecture": "network"')
    for folder in (tmp_path / "net", taken, damaged):
        before = {path: path.read_bytes() for path in folder.iterdir()}
        with pytest.raises(InputError, match="expected a new folder or an earlier network"):
            save_network(folder, network)
        assert {path: path.read_bytes() for path in folder.iterdir()} == before


# ---------------------------------------------------------------- what is refused


def edited(probe: Path, folder: Path, **changes: Any) -> Path:
    """Copy a network with other sections."""
    shutil.copytree(probe, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": 2}, "expected a network in format 1, got format 2 of a newer version; upgrade mmearth"),
        ({"architecture": "mp-mae"}, "got a pretrained encoder; fine-tune it"),
        ({"architecture": "UNet"}, "of an earlier version"),
        ({"architecture": "something"}, "something else"),
        ({"architecture": []}, "something else"),
        ({"module": "os.system"}, "module: expected one of"),
        ({"kind": "pixel-regression"}, "a TileProbe for a pixel-regression task"),
        ({"kind": "guess"}, "kind: expected one of"),
        ({"window_px": 0}, "window_px: expected a number of at least 1"),
        ({"window_px": -8}, "window_px"),
        ({"window_px": 10**12}, "window_px: expected a number of at most"),
        ({"window_px": 12}, "windows of 12 px, patches of 24"),
        ({"scale": {"mean": [0.0], "std": [0.0]}}, "scale.std.0"),
        ({"scale": {"mean": [float("nan")], "std": [1.0]}}, "scale.mean.0"),
        ({"scale": {"mean": [0.0, 0.0], "std": [1.0]}}, "scales of"),
        ({"outputs": []}, "outputs: expected at least 1"),
        ({"outputs": [{"name": "a"}] * 70_000}, "outputs: expected at most"),
        ({"outputs": [{"name": "a", "code": 1}] * 14}, "without unique codes"),
        ({"outputs": [{"name": "a", "code": 1}]}, "another shape of"),
        ({"outputs": [{"name": "a", "code": 1, "colour": "red"}]}, "colour"),
        ({"record": []}, "record"),
        ({"normaliser": {}}, "targets"),
        ({"normaliser": {"targets": []}}, "expected the normalisation"),
        ({"task": None}, "task"),
    ],
)
def test_a_damaged_configuration_is_one_clear_line(
    changes: dict[str, Any], reason: str, probe: Path, tmp_path: Path
) -> None:
    folder = edited(probe, tmp_path / "net", **changes)
    with pytest.raises(InputError) as caught:
        load_network(folder)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_band_that_was_never_observed_has_no_statistics(probe: Path, tmp_path: Path) -> None:
    """A store of one level has none of the other: count 0, and null for all else."""
    normaliser = json.loads((probe / "config.json").read_text())["normaliser"]
    levels = next(iter(normaliser["statistics"]["train"].values()))
    band = next(iter(next(iter(levels.values()))))
    unseen = {"count": 0, "mean": None, "std": None}
    for bands in levels.values():
        bands[band] = unseen
    network = load_network(edited(probe, tmp_path / "net", normaliser=normaliser))
    assert all(
        bands[band] == unseen
        for bands in network.normaliser.to_config()["statistics"]["train"][network.normaliser.inputs[0]].values()
    )


def test_an_encoder_that_is_not_in_the_file_takes_no_memory(probe: Path, tmp_path: Path) -> None:
    config = json.loads((probe / "config.json").read_text())
    encoder = {**config["encoder"], "widths": [65_536] * 4, "depths": [2] * 4}
    folder = edited(probe, tmp_path / "net", encoder=encoder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match="expected the weights of the architecture"):
        load_network(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19, "KiB: 8 TB of weights"


def change(tensors: dict[str, torch.Tensor], name: str, value: torch.Tensor | None) -> dict[str, torch.Tensor]:
    return {key: tensor for key, tensor in {**tensors, name: value}.items() if tensor is not None}


def test_damaged_weights_are_one_clear_line(probe: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(probe, tmp_path / "net")
    file = folder / "model.safetensors"
    whole, tensors = file.read_bytes(), load_file(file)
    for name, value, reason in (
        ("head.weight", None, "without head.weight"),
        ("head.extra", torch.zeros(1), "with the unknown head.extra"),
        ("head.weight", torch.zeros(3, 3), "with another shape of head.weight"),
        ("head.offset", torch.full_like(tensors["head.offset"], torch.nan), "got other values in head.offset"),
        ("head.offset", tensors["head.offset"] > 0, "got other values in head.offset"),
    ):
        save_file(change(tensors, name, value), file)
        with pytest.raises(InputError, match=reason):
            load_network(folder)
    for content in (whole[: len(whole) // 2], b"", b"\xff" * 64):
        file.write_bytes(content)
        with pytest.raises(InputError, match="expected a complete safetensors file"):
            load_network(folder)


def test_what_is_no_network_is_named(probe: Path, checkpoint: Checkpoint, tmp_path: Path) -> None:
    runs = tmp_path / "run"
    shutil.copytree(checkpoint.folder, runs / "step-00000001")
    for path, what in (
        (tmp_path / "nosuch", "got nothing there; correct the path"),
        (tmp_path, "got a folder without; correct the path"),
        (probe / "config.json", "got a file; correct the path"),
        (checkpoint.folder, "got a pretrained encoder; fine-tune it (mmearth-train finetune"),
        (runs, "got a run, whose checkpoint is a pretrained encoder; fine-tune it (mmearth-train finetune"),
    ):
        with pytest.raises(InputError) as caught:
            load_network(path)
        assert what in str(caught.value)
    for text in ("{", "[" * 100_000, "[]", "nul", "\x00"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(InputError):
            load_network(tmp_path)
        assert not is_network(tmp_path)


LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just([]), st.just({}),
    st.just([[]]), st.just({"": None}), st.sampled_from([2**31, 2**63, 10**400, -1, 0, "mean", "B4"]),
)  # fmt: skip


def places(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Ways to every part of a JSON value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [way] * bool(way) + [place for key, part in inside for place in places(part, (*way, key))]


def loaded_or_refused(folder: Path) -> Network | str:
    try:
        return load_network(folder)
    except InputError as error:
        return str(error)


def encoder_or_refused(folder: Path) -> tuple[Any, ...] | str:
    try:
        taken = load_checkpoint(folder)
        return taken.learned, taken.store["path"], taken.normaliser, taken.encoder_config
    except InputError as error:
        return str(error)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_change_of_the_configuration_is_read_or_refused_in_one_line(
    data: st.DataObject, probe: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "net"
    if not folder.exists():
        shutil.copytree(probe, folder)
    config = json.loads((probe / "config.json").read_text())
    config["record"] = {key: config["record"][key] for key in ("learned", "store", "samples", "seed")}
    config["normaliser"]["modalities"] = config["normaliser"]["modalities"][:1]
    way = data.draw(st.sampled_from(places(config)))
    at = config
    for key in way[:-1]:
        at = at[key]
    if data.draw(st.booleans()):
        at[way[-1]] = data.draw(LEAVES)
    else:
        del at[way[-1]]
    (folder / "config.json").write_text(json.dumps(config))
    taken = encoder_or_refused(folder)
    assert isinstance(taken, tuple) or ("\n" not in taken and str(folder) in taken)
    answer = loaded_or_refused(folder)
    if isinstance(answer, str):
        assert "\n" not in answer
        assert str(folder) in answer
    else:
        assert answer.name
        assert answer.store


# ---------------------------------------------------------------- on the command line


@pytest.fixture
def commands(here: Path, probe: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(here)
    return here


BIOME = ("--task", "store:biome", "--device", "cpu")
PROBED = ("evaluate", "encoder", *BIOME, "--protocol", "linear", "--baseline", "none", "--seeds", 1, "--cache", "cache")


def test_networks_and_probes_are_rows_of_one_table(commands: Path) -> None:
    result = run(*PROBED, "probe", "--json", "--out", "mixed")
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rows"]
    assert [(row["encoder"], row["protocol"]) for row in rows] == [("encoder", "linear"), ("probe", "network")]
    assert rows[0]["metrics"] == rows[1]["metrics"]
    shown = run("evaluate", "probe", *BIOME)
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.startswith("Networks on toy.zarr, synthetic")
    assert "linear on store:biome" in shown.stdout
    told = json.loads(run("report", "probe", "mixed", "--json").stdout)["results"]
    assert [(found["title"], found["synthetic"]) for found in told] == [("Frozen encoders", True), ("Frozen encoders and networks", True)]  # fmt: skip
    assert [entry["mean"] for found in told for entry in found["entries"]] == [rows[0]["value"]] * 3


def test_the_command_keeps_the_probe_that_its_table_shows(commands: Path) -> None:
    result = run(*PROBED, "--keep-probe", "kept", "--json")
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)["rows"]
    assert load_network(commands / "kept").record["result"] == row


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--task", "store:esa_worldcover"), "--keep-probe: expected one task, whose probe is saved, got 2"),
        (("--labels", "50%,100%"), "--keep-probe: expected one share of labels"),
        (("encoder",), "--keep-probe: expected one checkpoint"),
        (
            ("--protocol", "probe"),
            "expected a single linear protocol, linear or probe, got linear, probe",
        ),
        (("--test-share", "0.5"), "--test-share: expected none with --keep-probe"),
        (("--keep-probe", "encoder"), "--keep-probe encoder: expected a new folder or an earlier network"),
        (("--keep-probe", "toy.zarr"), "--keep-probe toy.zarr: expected a new folder or an earlier network"),
        (("--out", "kept"), "--keep-probe: expected another folder than --out"),
        (("probe", "probe"), "expected each network once, got probe twice"),
        (("--padding", "same", "probe"), "--padding: expected none for the network probe"),
        (("--test-share", "0.5", "probe"), "--test-share: expected none with a network"),
    ],
)
def test_a_probe_that_cannot_be_kept_is_refused_before_anything_is_computed(
    words: tuple[str, ...], reason: str, commands: Path
) -> None:
    before = sorted(commands.rglob("*"))
    last = words if "--keep-probe" in words else (*words, "--keep-probe", "new") if "--out" not in words else (*words, "--keep-probe", "kept")  # fmt: skip
    given = [word for word in PROBED if word != "cache"]
    line = refusal(run(*given, "other-cache", *last))
    assert reason in line
    assert sorted(commands.rglob("*")) == before


def test_a_probe_of_neighbours_cannot_be_kept(commands: Path) -> None:
    words = ["knn" if word == "linear" else word for word in PROBED]
    assert "expected a single linear protocol" in refusal(run(*words, "--keep-probe", "new"))


@pytest.mark.parametrize(
    "words",
    [
        ("--protocol", "knn"),
        ("--baseline", "random"),
        ("--labels", "50%"),
        ("--seeds", "1"),
        ("--test-share", "0.5"),
        ("--convnext", "x.pth"),
        ("--keep-probe", "x"),
        ("--cache", "x"),
    ],
)
def test_options_of_probes_have_no_effect_on_networks_and_are_refused(words: tuple[str, str], commands: Path) -> None:
    assert words[0] in refusal(run("evaluate", "probe", *BIOME, *words))


def test_the_encoder_of_a_network_is_embedded_with_and_fine_tuned_further(commands: Path, store: Store) -> None:
    import geopandas

    embedded = run("embed", "toy.zarr", "--checkpoint", "probe", "--out", "x.parquet", "--cache", "cache", "--device", "cpu")  # fmt: skip
    assert embedded.exit_code == 0, embedded.output
    values = np.stack(geopandas.read_parquet(commands / "x.parquet")["embedding"].to_numpy())
    assert np.allclose(values, load_encoder(commands / "encoder").embed(store).numpy())
    tuned = run("finetune", "probe", *BIOME, "--epochs", 1, "--json", "--out", "further")
    assert tuned.exit_code == 0, tuned.output
    assert json.loads(tuned.stdout)["rows"][0]["leaky"]
    assert [m["name"] for m in load_network(commands / "further").record["learned"]] == ["sentinel2", "era5", "biome"]


# ---------------------------------------------------------------- files


def write_images(folder: Path, brightness: float) -> Path:
    """A table of images of two classes, that differ in B4."""
    rng = np.random.default_rng(3)
    folder.mkdir()
    lines = ["path,label,part"]
    for k in range(24):
        image = brightness * (1000 + 20 * rng.random((2, 24, 24)))
        image[1] += 300 * brightness * (k % 2)
        with rasterio.open(
            folder / f"{k}.tif", "w", driver="GTiff", width=24, height=24, count=2, dtype="uint16"
        ) as file:
            file.write(image.astype(np.uint16))
        lines.append(f"{k}.tif,{'ab'[k % 2]},{('train', 'val', 'test')[k // 8]}")
    (folder / "table.csv").write_text("\n".join(lines))
    return folder / "table.csv"


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_network_keeps_the_statistics_that_it_was_trained_with(checkpoint: Checkpoint, tmp_path: Path) -> None:
    spec = TaskSpec(
        name="mine", layout="table", kind="single-label", bands=["B3", "B4"], level="L2A", scale=1, offset=0,
        classes=("a", "b"), colours=("#112233", "#445566"), licence="CC-BY-4.0", splits={"column": "part"},
    )  # fmt: skip
    same, bright = (open_files(spec, write_images(tmp_path / str(b), b)) for b in (1.0, 2.0))
    evaluate([checkpoint], None, [same], protocols=("linear",), seeds=1, baselines=(), keep=tmp_path / "kept", device="cpu")  # fmt: skip
    network = load_network(tmp_path / "kept")
    recorded = network.normaliser.statistics["sentinel2"]["L2A"]["B3"]["mean"]
    (batch,) = same.images.batches(same.parts.train, 8, ("sentinel2",))
    assert recorded == pytest.approx(batch["sentinel2"][:, 2].mean(), rel=1e-6), "of the training images of its task"
    for task in (same, bright):
        (row,) = evaluate([network], None, [task], device="cpu").rows
        (batch,) = task.images.batches(task.parts.test, 8, ("sentinel2",))
        batch = {**batch, "sentinel2": batch["sentinel2"].astype(np.uint16)}
        assert row.value == (network.predict(batch).answers == task.labels[task.parts.test]).mean()
    assert [(o.code, o.colour) for o in network.outputs] == [(0, "#112233"), (1, "#445566")]
    assert any(use["name"] == "CC-BY-4.0" and use["modalities"] == ["mine"] for use in network.record["licences"])
    assert network.record["store"] is None
    assert network.store == {"path": ""}
    assert "was trained on files; give --store STORE" in run("evaluate", tmp_path / "kept", *BIOME).stderr
    other = replace(network, normaliser=type(network.normaliser)(list(network.normaliser.modalities.values()), {"train": {"sentinel2": {"L1C": network.normaliser.statistics["sentinel2"]["L2A"]}}}, inputs=["sentinel2"]))  # fmt: skip
    with pytest.raises(InputError, match=r"expected images of L1C.* got L2A in 8 of 8 test samples"):
        check_network(other, same)


# ---------------------------------------------------------------- colours


def test_every_class_has_a_colour_that_no_other_has() -> None:
    many = [Output(name=str(k), code=k) for k in range(3000)]
    assert class_colours(many[:8]) == PALETTE
    found = class_colours(many)
    assert len(set(found)) == 3000
    assert all(len(colour) == 7 and int(colour[1:], 16) >= 0 for colour in found)
    own = replace(many[1], colour=PALETTE[0])
    assert class_colours([many[0], own]) == (PALETTE[1], PALETTE[0])


def test_a_task_file_gives_every_class_a_colour_or_none() -> None:
    fields: dict[str, Any] = {"name": "mine", "layout": "folder", "kind": "single-label", "bands": ["B4", "B3", "B2"]}
    spec = TaskSpec(**fields, classes=("a", "b"), colours=("#00ff00", "#A0a0a0"))
    assert spec.colours == ("#00ff00", "#A0a0a0")
    for colours in (("#00ff00",), ("#00ff00", "green")):
        with pytest.raises((InputError, ValueError), match="colours"):
            TaskSpec(**fields, classes=("a", "b"), colours=colours)
    with pytest.raises(InputError, match="colours"):
        TaskSpec(**{**fields, "kind": "regression"}, classes=("a",), colours=("#00ff00",))
