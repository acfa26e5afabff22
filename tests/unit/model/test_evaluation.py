"""Frozen encoders, their features, and what a comparison says of them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from closeness import assert_near
from toy_store import KINDS, TINY, kinds, write_store

from mmearth_data import InputError, Store
from mmearth_model import Checkpoint, evaluate, load_checkpoint, make_recipe, pretrain
from mmearth_model.evaluation import RANDOM
from mmearth_model.evaluation.evaluate import candidates, split_tiles
from mmearth_model.evaluation.features import extract, pooled, whole_patches
from mmearth_model.tasks import parse_task

TASKS = ("store:biome", "store:esa_worldcover")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_store(tmp_path_factory.mktemp("toy") / "toy.zarr", 96, shares=(0.5, 0.25))


def checkpoint_of(store: Store, out: Path, **changes: Any) -> Checkpoint:
    recipe = make_recipe("demo", {**TINY, "epochs": 1, "batch_size": 12, **changes})
    return load_checkpoint(pretrain(store, recipe, out, device="cpu"))


@pytest.fixture(scope="module")
def checkpoint(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return checkpoint_of(store, tmp_path_factory.mktemp("run") / "run", exclude=("biome", "eco_region"))


def test_features_are_the_mean_of_the_last_map_whatever_the_slices(store: Store, checkpoint: Checkpoint) -> None:
    encoder = checkpoint.encoder()
    task = parse_task("store:biome", store.modalities)
    features = extract(encoder, checkpoint.normaliser, store, [task], torch.device("cpu"))
    assert features.values.shape == (96, TINY["widths"][-1])  # type: ignore[index]
    batch = next(iter(store.loader(batch_size=96, shuffle=False)))
    images = checkpoint.normaliser.images(batch)
    with torch.inference_mode():
        maps = encoder.forward_features(images)[-1]
    assert_near(torch.from_numpy(features.values), maps.mean(dim=(2, 3)), "features")
    assert features.labels["store:biome"].tolist() == kinds(96).tolist()


def test_what_patches_do_not_divide_is_cut_around_the_middle(checkpoint: Checkpoint) -> None:
    images = torch.arange(21.0).expand(1, 12, 21, 21)
    assert whole_patches(checkpoint.encoder(), images)[0, 0, 0].tolist() == list(np.arange(2.0, 18.0))
    assert pooled(checkpoint.encoder(), torch.zeros(7, 12, 16, 16)).shape == (7, TINY["widths"][-1])  # type: ignore[index]


def test_every_encoder_is_probed_under_every_seed_and_protocol(store: Store, checkpoint: Checkpoint) -> None:
    result = evaluate([checkpoint], store, TASKS, seeds=2, device="cpu")
    found = {(row.task, row.encoder, row.seed, row.protocol) for row in result.rows}
    assert found == {
        (task, encoder, seed, protocol)
        for task in TASKS
        for encoder in (str(checkpoint.folder), RANDOM)
        for seed in (0, 1)
        for protocol in ("knn-5", "knn-20", "linear")
    }
    assert len(found) == len(result.rows)
    assert {(row.train_tiles, row.test_tiles) for row in result.rows} == {(72, 24)}
    for summary in result.summaries():
        rows = [
            r.accuracy
            for r in result.rows
            if (r.task, r.encoder, r.protocol) == (summary.task, summary.encoder, summary.protocol)
        ]
        assert (summary.mean, summary.deviation, summary.seeds) == pytest.approx(
            (np.mean(rows), np.std(rows, ddof=1), 2)
        )
        assert summary.mean > 1 / KINDS  # the toy's bands tell its kinds apart


def test_only_a_run_that_has_seen_the_labels_or_their_kin_is_leaky(
    store: Store, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """Ecoregions give biomes away; one land cover gives the other away; random encoders have seen nothing."""
    sees_kin = checkpoint_of(store, tmp_path / "kin", modalities=("sentinel2", "eco_region", "dynamic_world"))
    sees_none = checkpoint_of(store, tmp_path / "none", modalities=("sentinel2", "sentinel1", "era5"))
    runs = [checkpoint, sees_kin, sees_none]
    tasks = [parse_task(task, store.modalities) for task in TASKS]
    leaky = {c.name: c.leaky_for for c in candidates(runs, tasks, seeds=1)}
    assert leaky == {
        str(checkpoint.folder): {"store:esa_worldcover"},
        str(sees_kin.folder): set(TASKS),
        str(sees_none.folder): set(),
        RANDOM: set(),
    }
    rows = evaluate([sees_kin], store, TASKS[:1], protocols=["knn"], seeds=1, device="cpu").rows
    assert {row.encoder: row.leaky for row in rows} == {str(sees_kin.folder): True, RANDOM: False}


def test_random_encoders_are_the_seeds_and_nothing_else(store: Store, checkpoint: Checkpoint) -> None:
    found = [c for c in candidates([checkpoint], [], seeds=2) if c.name == RANDOM]
    weights = [c.encoder().stem.conv.weight for c in (*found, *found)]  # type: ignore[union-attr]
    assert torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], checkpoint.encoder().stem.conv.weight)  # type: ignore[arg-type, union-attr]


def test_tiles_are_divided_as_the_store_says_or_by_a_seeded_share(store: Store) -> None:
    labelled = np.ones(96, dtype=bool)
    labelled[[0, 95]] = False
    own = split_tiles(store, labelled, None, seed=0)
    assert [len(part) for part in (own.train, own.validation, own.test)] == [47, 24, 23]
    shares = [split_tiles(store, labelled, 0.3, seed) for seed in (0, 0, 1)]
    assert [len(part) for part in (shares[0].train, shares[0].validation, shares[0].test)] == [66, 0, 28]
    assert sorted([*shares[0].train, *shares[0].test]) == np.flatnonzero(labelled).tolist()
    assert shares[0].test.tolist() == shares[1].test.tolist()
    assert set(shares[0].test) != set(shares[2].test)


def test_a_checkpoint_is_all_that_is_needed_of_the_store_it_was_trained_on(
    store: Store, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    other = write_store(tmp_path / "other.zarr", 32, names=("sentinel2", "biome"))
    shutil.copytree(checkpoint.folder, tmp_path / "copied")
    rows = evaluate(
        [load_checkpoint(tmp_path / "copied")], other, TASKS[:1], seeds=1, test_share=0.5, device="cpu"
    ).rows
    assert all(row.test_tiles == 16 for row in rows)


@pytest.mark.parametrize(
    ("names", "task", "options", "expected"),
    [
        (("sentinel1", "biome"), "store:biome", {}, "expected sentinel2, which the encoder takes"),
        (("sentinel2", "era5"), "store:biome", {}, "--task: expected a store with labels"),
        (("sentinel2", "biome"), "store:biome", {"test_share": 1.5}, "--test-share"),
        (
            ("sentinel2", "biome"),
            "store:biome",
            {"test_share": 0.001},
            "expected labelled tiles to train and to test on",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    checkpoint: Checkpoint, tmp_path: Path, names: Any, task: str, options: Any, expected: str
) -> None:
    store = write_store(tmp_path / "toy.zarr", 16, names=names)
    with pytest.raises(InputError, match=expected) as error:
        evaluate([checkpoint], store, [task], seeds=1, device="cpu", **options)
    assert "\n" not in str(error.value)
