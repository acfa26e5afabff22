"""Frozen encoders, their features, and what a comparison says of them."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from closeness import assert_near
from matplotlib import image
from safetensors.torch import save_file
from toy_store import KINDS, TINY, Columns, kinds, write_store

from mmearth_data import InputError, Store, load_catalog
from mmearth_model import (
    Checkpoint,
    ConvNeXtV2,
    EncoderConfig,
    Normaliser,
    evaluate,
    load_checkpoint,
    make_recipe,
    pretrain,
)
from mmearth_model.evaluation import RANDOM, baselines, pixels, write_results
from mmearth_model.evaluation.baselines import ImageStatistics, RandomFilters, load_convnext, own_input
from mmearth_model.evaluation.candidates import candidates
from mmearth_model.evaluation.features import Pooled, extract, features_key, pooled, whole_patches
from mmearth_model.evaluation.results import results_figure
from mmearth_model.tasks import LabelShare, StoreImages, open_task
from mmearth_model.tasks.store import redraw

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
    task = open_task("store:biome", store)
    features = extract(Pooled(encoder), checkpoint.normaliser, task.images, torch.device("cpu"))
    assert features.shape == (96, TINY["widths"][-1])  # type: ignore[index]
    batch = next(iter(store.loader(batch_size=96, shuffle=False)))
    images = checkpoint.normaliser.images(batch)
    with torch.inference_mode():
        maps = encoder.forward_features(images)[-1]
    assert_near(torch.from_numpy(features), maps.mean(dim=(2, 3)), "features")
    assert task.labels.tolist() == kinds(96).tolist()


def test_features_are_kept_under_what_decides_them(store: Store, checkpoint: Checkpoint, tmp_path: Path) -> None:
    task = open_task("store:biome", store)
    extractor, seen = Pooled(checkpoint.encoder()), list[int]()
    first = extract(extractor, checkpoint.normaliser, task.images, torch.device("cpu"), cache=tmp_path)
    (file,) = tmp_path.iterdir()
    again = extract(
        extractor, checkpoint.normaliser, task.images, torch.device("cpu"), cache=tmp_path, report=seen.append
    )
    assert np.array_equal(first, again)
    assert seen == [96]  # one report, none of a batch
    key = features_key(extractor, checkpoint.normaliser, task.images)
    assert file.name == f"{key}.npy"
    half = StoreImages(store.select(split="train"))
    assert features_key(extractor, checkpoint.normaliser, half) != key
    with torch.no_grad():
        extractor.encoder.stages[0][0].norm.weight[0] += 1e-3  # type: ignore[index, union-attr]
    assert features_key(extractor, checkpoint.normaliser, task.images) != key


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
    assert {(row.train_tiles, row.test_tiles) for row in result.rows} == {(48, 24)}
    for summary in result.summaries():
        rows = [
            r.accuracy
            for r in result.rows
            if (r.task, r.encoder, r.protocol) == (summary.task, summary.encoder, summary.protocol)
        ]
        assert (summary.mean, summary.deviation, summary.seeds) == pytest.approx(
            (np.mean(rows), np.std(rows, ddof=1), 2)
        )
        assert summary.mean > 1 / KINDS  # the toy's bands distinguish its kinds
        assert summary.low <= summary.mean <= summary.high


def test_only_a_run_that_has_seen_the_labels_or_their_kin_is_leaky(
    store: Store, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """Ecoregions give biomes away; one land cover gives the other away; random encoders have seen nothing."""
    sees_kin = checkpoint_of(store, tmp_path / "kin", modalities=("sentinel2", "eco_region", "dynamic_world"))
    sees_none = checkpoint_of(store, tmp_path / "none", modalities=("sentinel2", "sentinel1", "era5"))
    runs = [checkpoint, sees_kin, sees_none]
    tasks = [open_task(task, store) for task in TASKS]
    leaky = {c.name: {t.name for t in tasks if c.leaky_for(t)} for c in candidates(runs, tasks, seeds=1)}
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
    weights = [c.model.network().stem.conv.weight for c in (*found, *found)]  # type: ignore[misc, union-attr]
    assert torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], checkpoint.encoder().stem.conv.weight)  # type: ignore[arg-type, union-attr]


def test_tiles_are_divided_as_the_store_says_or_by_a_seeded_share(store: Store) -> None:
    task = open_task("store:biome", store)
    assert [len(part) for part in (task.parts.train, task.parts.validation, task.parts.test)] == [48, 24, 24]
    shares = [redraw(task, 0.3, seed).parts for seed in (0, 0, 1)]
    assert [len(part) for part in (shares[0].train, shares[0].validation, shares[0].test)] == [67, 0, 29]
    assert sorted([*shares[0].train, *shares[0].test]) == list(range(96))
    assert shares[0].test.tolist() == shares[1].test.tolist()
    assert set(shares[0].test) != set(shares[2].test)


@pytest.fixture
def _few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patches that filters are whitened by, and pixels that a probe is fitted to: a few suffice for the toy."""
    monkeypatch.setattr(baselines, "PATCHES", 2000)
    monkeypatch.setattr(pixels, "TRAIN_PIXELS", 1000)
    monkeypatch.setattr(pixels, "VALIDATION_PIXELS", 500)


@pytest.mark.usefixtures("_few_samples")
def test_every_kind_of_store_task_is_probed(store: Store, checkpoint: Checkpoint) -> None:
    tasks = ["store:esa_worldcover/shares", "store:esa_worldcover/pixels", "store:biome"]
    result = evaluate(
        [checkpoint], store, tasks, protocols=["knn", "linear"], seeds=1, device="cpu",
        labels=[LabelShare.parse(text) for text in ("50%", "100%")], baselines=["random", "statistics", "rcf"],
    )  # fmt: skip
    by_kind = {row.task: row.metric for row in result.rows}
    assert by_kind == dict(zip(tasks, ("r2", "jaccard", "accuracy"), strict=True))
    assert {row.protocol for row in result.rows if row.task == tasks[1]} == {"pixels"}
    assert {row.train_tiles for row in result.rows if row.task == "store:biome"} == {24, 48}
    assert all(row.low <= row.value <= row.high for row in result.rows if row.metric != "r2")  # R2 of few is skewed
    differences = result.differences(RANDOM)
    assert {d.encoder for d in differences} >= {
        str(checkpoint.folder),
        "image statistics",
        "random convolutional features",
    }
    for d in differences:
        values = {row.encoder: row.value for row in result.rows if (row.task, row.protocol, row.labels) == (d.task, d.protocol, d.labels)}  # fmt: skip
        assert d.value == pytest.approx(values[d.encoder] - values[RANDOM])
        assert d.low <= d.value <= d.high


def test_results_are_written_as_tables_and_a_figure(store: Store, checkpoint: Checkpoint, tmp_path: Path) -> None:
    shares = [LabelShare.parse(text) for text in ("25%", "100%")]
    result = evaluate([checkpoint], store, TASKS, protocols=["knn"], seeds=2, labels=shares, device="cpu")
    write_results(result, tmp_path / "out", {"synthetic": True})
    summaries = result.summaries()
    markdown = (tmp_path / "out" / "results.md").read_text().splitlines()
    assert len(markdown) == 2 + len(summaries)
    with (tmp_path / "out" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["mean"] for row in rows] == [f"{100 * s.mean:.1f}" for s in summaries]
    assert len(json.loads((tmp_path / "out" / "results.json").read_text())["rows"]) == len(result.rows)
    assert image.imread(tmp_path / "out" / "results.png")[..., 0].std() > 0.05


def test_image_statistics_are_numpys() -> None:
    images = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    found = ImageStatistics(2)(images)
    flat = images.numpy().reshape(3, 2, -1)
    percentiles = np.percentile(flat, (5, 25, 50, 75, 95), axis=-1)
    expected = np.concatenate([flat.mean(-1), flat.std(-1, ddof=1), flat.min(-1), flat.max(-1), *percentiles], axis=1)
    assert found == pytest.approx(expected, abs=1e-6)
    assert found.shape[1] == ImageStatistics(2).width
    assert (
        ImageStatistics(2).digest != "image statistics 2"
    )  # of releases with four statistics, whose files may be there


@pytest.mark.usefixtures("_few_samples")
def test_random_filters_are_products_of_whitened_patches(store: Store, checkpoint: Checkpoint) -> None:
    task = open_task("store:biome", store)
    one, same, other = (RandomFilters.draw(task, own_input(task), seed) for seed in (0, 0, 1))
    assert one.digest == same.digest != other.digest
    (batch,) = task.images.batches(np.arange(4), 4, ("sentinel2",))
    images = own_input(task).images(batch)
    filters, offsets = one.filters[0], one.offsets[0]
    patches = torch.nn.functional.unfold(images, filters.shape[-1])  # (B, C k k, L)
    response = torch.einsum("fc,bcl->bfl", filters.flatten(1), patches) + offsets[:, None]
    expected = torch.cat([(response - 0.5).relu().mean(-1), (-response - 0.5).relu().mean(-1)], dim=1)
    assert_near(torch.from_numpy(one(images)[:, : 2 * len(filters)]), expected, "filters")
    assert [part.shape[-1] for part in one.filters] == [3, 5, 7]
    assert sum(len(part) for part in one.filters) == baselines.FILTERS


def test_plain_convnext_weights_are_read_under_both_names(tmp_path: Path) -> None:
    """Written as the authors and as timm name them, from the same numbers, and run to the same features."""
    encoder = ConvNeXtV2(EncoderConfig(size="atto", stem="original", patch_size=32, image_size=224, in_channels=3))
    authors, timm = {}, {}
    for name, tensor in encoder.state_dict().items():
        tensor = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(len(name))) * 0.1
        parts = name.split(".")
        shaped = tensor.reshape(1, 1, 1, -1) if "grn" in name else tensor
        if parts[0] == "stem":
            authors[f"downsample_layers.0.{int(parts[1] == 'norm')}.{parts[2]}"] = tensor
            timm[f"stem.{int(parts[1] == 'norm')}.{parts[2]}"] = tensor
        elif parts[0] == "downsample":
            stage, second = int(parts[1]) + 1, int(parts[2] == "conv")
            authors[f"downsample_layers.{stage}.{second}.{parts[3]}"] = tensor
            timm[f"stages.{stage}.downsample.{second}.{parts[3]}"] = tensor
        else:
            authors[name] = shaped
            tail = ".".join(parts[3:])
            for ours, theirs in {"dwconv": "conv_dw", "pwconv1": "mlp.fc1", "pwconv2": "mlp.fc2", "grn.gamma": "mlp.grn.weight", "grn.beta": "mlp.grn.bias"}.items():  # fmt: skip
                tail = tail.replace(ours, theirs)
            timm[f"stages.{parts[1]}.blocks.{parts[2]}.{tail}"] = tensor
    torch.save({"model": authors}, tmp_path / "authors.pth")
    save_file(timm, tmp_path / "timm.safetensors")
    sentinel2 = load_catalog().find("sentinel2")
    loaded = [load_convnext(tmp_path / name, sentinel2) for name in ("authors.pth", "timm.safetensors")]
    assert loaded[0][1].model_bands == ("B4", "B3", "B2")
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(loaded[0][0](images), loaded[1][0](images))
    assert torch.equal(loaded[0][0].stages[2][1].pwconv1.weight, authors["stages.2.1.pwconv1.weight"])  # type: ignore[index, union-attr]
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="or a ConvNeXt V2, got 1 tensors"):
        load_convnext(tmp_path / "other.safetensors", sentinel2)


def test_a_file_task_reaches_a_checkpoint_by_band_names(checkpoint: Checkpoint, test_data: Path) -> None:
    """EuroSAT's order is its own; what the encoder sees is the checkpoint's, and what RGB lacks is said."""
    task = f"eurosat-ms={test_data / 'eurosat_ms'}"
    result = evaluate([checkpoint], None, [task], seeds=1, device="cpu", baselines=["statistics"])
    assert {row.test_tiles for row in result.rows} == {10}
    assert not result.filled
    opened = open_task(task)
    candidate = candidates([checkpoint], [opened], 1)[0]
    (batch,) = opened.images.batches(np.array([3]), 1, ("sentinel2",))
    image = candidate.model.input(opened).images(batch)[0]
    with rasterio.open(test_data / "eurosat_ms" / opened.ids[3]) as file:
        b8a = file.read(13)
    own = own_input(opened).statistics["sentinel2"]["L1C"]["B8A"]
    place = checkpoint.normaliser.modalities["sentinel2"].model_bands.index("B8A")
    assert image[place].numpy() == pytest.approx((b8a - own["mean"]) / own["std"], abs=1e-4)


def test_a_checkpoint_of_other_bands_is_refused(store: Store, tmp_path: Path, test_data: Path) -> None:
    from dataclasses import replace

    from mmearth_model.evaluation.features import input_normaliser

    sentinel1 = load_catalog().find("sentinel1")
    statistics = {"train": {"sentinel1": {"-": {b: {"count": 1, "mean": 0.0, "std": 1.0} for b in sentinel1.bands}}}}
    normaliser = Normaliser([replace(sentinel1, input=True)], statistics, inputs=["sentinel1"])
    task = open_task(f"eurosat-ms={test_data / 'eurosat_ms'}")
    with pytest.raises(
        InputError, match=r"expected a checkpoint that takes sentinel2 \(B1, .* got one that takes sentinel1"
    ):
        input_normaliser(normaliser, task)


@pytest.mark.parametrize(
    ("levels", "refused"),
    [((1, 1, 1), None), ((1, 255, 1), None), ((1, 0, 1), "L1C in 1 of 48"), ((255, 255, 255), "no level in 48")],
)
def test_a_store_is_refused_for_a_level_without_statistics_and_not_for_tiles_without_a_level(
    levels: tuple[int, int, int], refused: str | None, tmp_path: Path
) -> None:
    """Levels of the first tile, the second, and all others; the statistics are of L2A."""
    from mmearth_model.evaluation.features import input_normaliser

    def change(arrays: Columns) -> None:
        arrays["s2_level"][:] = (*levels[:2], *[levels[2]] * (len(arrays["s2_level"]) - 2))

    task = open_task(TASKS[0], write_store(tmp_path / "toy.zarr", 48, change=change))
    sentinel2 = load_catalog().find("sentinel2")
    ones = {band: {"count": 1, "mean": 0.0, "std": 1.0} for band in sentinel2.model_bands}
    normaliser = Normaliser([sentinel2], {"train": {"sentinel2": {"L2A": ones}}}, inputs=["sentinel2"])
    if refused is None:
        assert input_normaliser(normaliser, task).levels == ("L2A",)
        return
    with pytest.raises(InputError, match=f"expected images of L2A, .* got {refused}"):
        input_normaliser(normaliser, task)


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
        (("sentinel2",), "store:biome", {}, "--task: expected a store with labels"),
        (("sentinel2", "biome"), "store:biome", {"test_share": 1.5}, "--test-share"),
        (
            ("sentinel2", "biome"),
            "store:biome",
            {"test_share": 0.001},
            "expected labelled samples to train and to test on",
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


def test_a_forest_plot_has_a_row_per_encoder_and_protocol_and_the_level_of_guessing(
    store: Store, checkpoint: Checkpoint
) -> None:
    result = evaluate([checkpoint], store, ["store:biome"], protocols=["knn"], seeds=1, device="cpu")
    task = open_task("store:biome", store)
    train, test = task.labels[task.parts.train], task.labels[task.parts.test]
    most = np.bincount(train).argmax()
    assert [row.guess for row in result.rows] == pytest.approx([(test == most).mean()] * len(result.rows))
    (axis,) = results_figure(result, synthetic=True).axes
    rows = [label.get_text() for label in axis.get_yticklabels()]
    assert [name.split()[-1] for name in rows] == ["knn-5", "knn-20"] * 2
    assert "random init" in rows[2]
    assert axis.get_title(loc="left") == "store:biome (synthetic)"
    words = [text.get_text() for text in axis.texts]
    assert f"guessing {100 * (test == most).mean():.1f}" in words
    for s, text in zip(result.summaries(), words, strict=False):
        assert text.startswith(f"{100 * s.mean:.1f}")
