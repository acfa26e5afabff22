"""From stored tiles to features in one line: `ConvNeXtV2.preprocess` and `ConvNeXtV2.embed`."""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from toy_store import TINY, write_store

from mmearth_data import InputError, Store
from mmearth_model import (
    Checkpoint,
    ConvNeXtV2,
    EncoderConfig,
    Normaliser,
    TileDataset,
    convert,
    load_checkpoint,
    load_encoder,
    make_recipe,
    pretrain,
)
from mmearth_model.evaluation.embedding import embed

TILES = 48
SMALL = EncoderConfig(depths=(1, 1, 1, 1), widths=(8, 12, 16, 24), image_size=24)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Both product levels, whose statistics differ; a tenth of the pixels was never observed."""

    def change(arrays: dict[str, np.ndarray[Any, Any]]) -> None:
        raised = np.where(arrays["s2_level"] == 0, 500, 0).astype(np.uint16)[:, None, None, None]
        arrays["sentinel2"] = np.where(arrays["sentinel2"] > 0, arrays["sentinel2"] + raised, 0).astype(np.uint16)

    return write_store(tmp_path_factory.mktemp("toy") / "toy.zarr", TILES, change=change)


@pytest.fixture(scope="module")
def checkpoint(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    recipe = make_recipe("demo", {**TINY, "epochs": 1, "batch_size": 12, "inputs": ("sentinel2", "sentinel1")})
    return load_checkpoint(pretrain(store, recipe, tmp_path_factory.mktemp("run") / "run", device="cpu"))


@pytest.fixture
def encoder(checkpoint: Checkpoint) -> ConvNeXtV2:
    return load_encoder(checkpoint.folder)


def by_hand(store: Store, position: int) -> np.ndarray[Any, Any]:
    """Input for one tile, from the definition: z-scores of the model's bands by the statistics of its level, 0 if missing."""
    tile, parts = store[position], []
    for name in ("sentinel2", "sentinel1"):
        m = store.modalities[name]
        level = {0: "L1C", 1: "L2A"}[int(tile["tile"]["s2_level"])] if m.statistics_by == "s2_level" else "-"
        for band in m.model_bands:
            values = tile[name][m.bands.index(band)].astype(np.float64)
            missing = np.isnan(values) if np.isnan(m.nodata) else values == m.nodata
            entry = store.statistics["train"][name][level][band]
            parts.append(np.where(missing, 0, (values - entry["mean"]) / entry["std"]))
    return np.stack(parts)


def test_the_input_of_the_encoder_follows_its_definition(store: Store, encoder: ConvNeXtV2) -> None:
    images = encoder.preprocess(store)
    assert images.dtype == torch.float32
    assert images.shape == (TILES, encoder.config.in_channels, 32, 32)
    for position in (0, 1, 30):
        np.testing.assert_allclose(images[position].numpy(), by_hand(store, position), rtol=1e-4, atol=2e-5)


def sources(store: Store) -> dict[str, Any]:
    """The first eight tiles in every form that users have."""
    few = store.select(where=np.arange(TILES) < 8)
    return {
        "store": few,
        "loader": next(iter(few.loader(batch_size=8, shuffle=False))),
        "tensors": next(iter(DataLoader(TileDataset(few, batch_size=8, shuffle=False), batch_size=None))),
        "samples": next(iter(DataLoader(few.torch(), batch_size=8))),
        "modalities": next(iter(few.loader(batch_size=8, shuffle=False, modalities=["sentinel1", "sentinel2"]))),
    }


def test_every_form_of_the_same_tiles_gives_the_same_input(
    store: Store, checkpoint: Checkpoint, encoder: ConvNeXtV2
) -> None:
    forms = sources(store)
    expected = checkpoint.normaliser.images(forms["loader"])
    for name, form in forms.items():
        assert torch.equal(encoder.preprocess(form), expected), name
    for position in (0, 7, -1):
        wanted = encoder.preprocess(store)[position][None]
        assert torch.equal(encoder.preprocess(store[position]), wanted)
        assert torch.equal(encoder.preprocess(store.torch()[position]), wanted)


def test_a_tile_of_a_store_is_accepted(store: Store, encoder: ConvNeXtV2) -> None:
    for position in (0, 9):
        assert torch.equal(encoder.preprocess(store.tile(position)), encoder.preprocess(store)[position][None])


def test_embeddings_are_those_of_the_command(store: Store, checkpoint: Checkpoint, encoder: ConvNeXtV2) -> None:
    expected = torch.from_numpy(embed(checkpoint, store, device="cpu").values)
    features = encoder.embed(store)
    assert features.shape == (TILES, encoder.out_channels)
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(encoder.embed(store[5]), expected[5:6], rtol=0, atol=1e-6)
    for name, form in sources(store).items():
        torch.testing.assert_close(encoder.embed(form), expected[:8], rtol=0, atol=1e-6, msg=name)


def test_embedding_leaves_modes_and_gradients_alone(store: Store, checkpoint: Checkpoint) -> None:
    encoder = checkpoint.encoder(drop_path=0.9)
    still = encoder.embed(store)
    encoder.train()
    encoder.stages[0].eval()
    assert torch.equal(encoder.embed(store), still)
    assert encoder.training
    assert encoder.stages[1].training
    assert not encoder.stages[0].training
    head = torch.nn.Linear(encoder.out_channels, 3)
    head(still).sum().backward()  # features can be learned from
    assert head.weight.grad is not None
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_tiles_that_patches_do_not_divide_are_cropped_to_their_centre(tmp_path: Path) -> None:
    odd = write_store(tmp_path / "odd.zarr", 4, size_px=48)
    wide = ConvNeXtV2(EncoderConfig(depths=(1, 1, 1, 1), widths=(8, 8, 8, 8), patch_size=32, image_size=32)).eval()
    wide.normaliser = Normaliser([odd.modalities["sentinel2"]], odd.statistics, inputs=["sentinel2"])
    with torch.no_grad():
        expected = wide(wide.preprocess(odd)[:, :, 8:40, 8:40]).mean(dim=(2, 3))
    torch.testing.assert_close(wide.embed(odd), expected, rtol=0, atol=1e-6)


# ---------------------------------------------------------------- what would be wrong without an error


def without(batch: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in batch.items() if key != name}


def test_missing_inputs_are_named(store: Store, encoder: ConvNeXtV2) -> None:
    batch = next(iter(store.loader(batch_size=4)))
    with pytest.raises(InputError, match=r"expected a batch with sentinel1.*load it too"):
        encoder.preprocess(without(batch, "sentinel1"))
    with pytest.raises(InputError, match=r"expected a batch with sentinel2, sentinel1.*load them too"):
        encoder.preprocess({"tile": batch["tile"]})
    with pytest.raises(InputError, match="s2_level"):
        encoder.preprocess(without(batch, "tile"))
    with pytest.raises(InputError, match=r"toy\.zarr: expected sentinel1, which the encoder takes"):
        encoder.embed(store.select(modalities=["sentinel2"]))


@pytest.mark.parametrize("form", ["loader", "dataset", "samples"])
def test_a_normalised_batch_is_refused(store: Store, encoder: ConvNeXtV2, form: str) -> None:
    options: dict[str, Any] = {"batch_size": 4, "normalise": True}
    batch = {
        "loader": lambda: next(iter(store.loader(**options))),
        "dataset": lambda: next(iter(TileDataset(store, **options))),
        "samples": lambda: store.torch(normalise=True)[0],
    }[form]()
    with pytest.raises(
        InputError, match=r"sentinel2 as stored \(uint16\), got float32, so the batch is probably normalised"
    ):
        encoder.embed(batch)


def test_a_batch_of_other_things_than_arrays_is_refused(store: Store, encoder: ConvNeXtV2) -> None:
    batch = next(iter(store.loader(batch_size=4)))
    for other, found in (({"sentinel2": 1}, "int"), ({"sentinel2": store["sentinel2"]}, "DataArray")):
        with pytest.raises(InputError, match=f"expected sentinel2 as an array or a tensor, got {found}; give a batch"):
            encoder.preprocess({**batch, **other})
    with pytest.raises(InputError, match="sentinel2 as an array or a tensor, got DataArray"):
        encoder.preprocess(store.dataset)
    with pytest.raises(InputError, match=r"batch\['tile'\] as coordinates by name, got int"):
        encoder.preprocess({**batch, "tile": 5})


def test_a_batch_that_lacks_bands_is_refused(store: Store, encoder: ConvNeXtV2) -> None:
    batch = next(iter(store.loader(batch_size=4, bands={"sentinel2": ["B4", "B3", "B2"]})))
    with pytest.raises(InputError, match=r"sentinel2 with all 13 stored bands .*got shape \(4, 3, 32, 32\)"):
        encoder.preprocess(batch)


@pytest.mark.parametrize(
    "given", [torch.zeros(2, 12, 32, 32), np.zeros((2, 12, 32, 32), np.float32), "planet.zarr", None, [1, 2]]
)
def test_other_objects_than_tiles_are_refused(encoder: ConvNeXtV2, given: Any) -> None:
    with pytest.raises(InputError, match=r"expected a batch of Store\.loader.*got .*encoder\(images\)"):
        encoder.preprocess(given)


def test_an_encoder_without_statistics_reports_how_to_add_them(store: Store) -> None:
    encoder = ConvNeXtV2(SMALL).eval()
    with pytest.raises(InputError, match=r"load_encoder\(path, store=store\)"):
        encoder.embed(store)
    encoder.normaliser = Normaliser([store.modalities["sentinel1"]], store.statistics, inputs=["sentinel1"])
    with pytest.raises(InputError, match=r"normaliser of 12 bands, as the encoder takes, got one of 8 \(sentinel1\)"):
        encoder.embed(store)
    encoder.normaliser = Normaliser([store.modalities["sentinel2"]], store.statistics, inputs=["sentinel2"])
    assert encoder.embed(store).shape == (TILES, 24)


# ---------------------------------------------------------------- weights without statistics


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """File of plain ConvNeXt V2 weights of 12 bands, with the names that their authors use."""
    torch.manual_seed(0)
    config = EncoderConfig(stem="original", image_size=56)
    encoder = ConvNeXtV2(config)
    with torch.no_grad():
        for parameter in encoder.parameters():
            torch.nn.init.normal_(parameter, std=0.05)
    from mmearth_model.weights.checkpoints import ENCODER_ONLY, write_checkpoint

    shape = {"stem": "original", "image_size": 56}
    entry = {"architecture": ENCODER_ONLY, "model": {"encoder": shape}, "loss": {}, "normaliser": None, "recipe": {}, "store": {"path": ""}, "progress": {}}  # fmt: skip
    (tmp_path / "mine").mkdir()
    write_checkpoint(tmp_path / "mine", {"model.encoder": encoder}, entry)
    return convert(tmp_path / "mine", tmp_path / "theirs.safetensors", to="timm")


def test_weights_without_statistics_take_those_of_a_store(weights: Path, store: Store) -> None:
    with pytest.raises(InputError, match=r"load_encoder\(path, store=store\)"):
        load_encoder(weights).embed(store)
    expected = Normaliser([store.modalities["sentinel2"]], store.statistics, inputs=["sentinel2"])
    batch = next(iter(store.loader(batch_size=TILES, shuffle=False)))
    for given in (store, store.path):
        encoder = load_encoder(weights, store=given)
        assert torch.equal(encoder.preprocess(batch), expected.images(batch))
    bands = ("B12", "B11", "B9", "B8", "B8A", "B7", "B6", "B5", "B4", "B3", "B2", "B1")
    turned = load_encoder(weights, store=store, bands={"sentinel2": bands}).preprocess(batch)
    order = [bands.index(band) for band in store.modalities["sentinel2"].model_bands]
    assert torch.equal(turned[:, order], expected.images(batch))
    with pytest.raises(InputError, match="got 3"):
        load_encoder(weights, store=store, bands={"sentinel2": ["B2", "B3", "B4"]})
    with pytest.raises(InputError, match="pass store too"):
        load_encoder(weights, bands={"sentinel2": bands})


def test_a_store_replaces_the_statistics_of_a_checkpoint(store: Store, checkpoint: Checkpoint, tmp_path: Path) -> None:
    def change(arrays: dict[str, np.ndarray[Any, Any]]) -> None:
        arrays["sentinel2"] = np.where(arrays["sentinel2"] > 0, arrays["sentinel2"] // 2, 0).astype(np.uint16)

    other = write_store(tmp_path / "other.zarr", TILES, change=change)
    of_run = load_encoder(checkpoint.folder).preprocess(other)
    of_other = load_encoder(checkpoint.folder, store=other).preprocess(other)
    assert abs(float(of_other[:, 0].mean())) < 0.1 < abs(float(of_run[:, 0].mean()))
    with pytest.raises(InputError, match="a checkpoint records its bands"):
        load_encoder(checkpoint.folder, store=other, bands={"sentinel2": ["B2"]})
    poor = write_store(tmp_path / "poor.zarr", 16, names=("sentinel2",))
    with pytest.raises(InputError, match=r"poor\.zarr: expected sentinel1"):
        load_encoder(checkpoint.folder, store=poor)


# ---------------------------------------------------------------- it is no part of the network


def test_statistics_do_not_change_the_network(store: Store, checkpoint: Checkpoint, encoder: ConvNeXtV2) -> None:
    plain = ConvNeXtV2(checkpoint.encoder_config).eval()
    assert list(encoder.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in encoder.named_modules()] == [name for name, _ in plain.named_modules()]
    plain.load_state_dict(encoder.state_dict(), strict=True)
    images = encoder.preprocess(store)[:2]
    with torch.no_grad():
        expected = plain(images)
        for other in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
            assert torch.equal(other(images), expected)
            assert torch.equal(other.preprocess(store), encoder.preprocess(store))
        exported = torch.export.export(encoder, (images,)).module()
        assert torch.equal(exported(images), torch.export.export(plain, (images,)).module()(images))
        torch.testing.assert_close(torch.compile(encoder, backend="eager")(images), expected)
    memory = io.BytesIO()
    torch.save(encoder.state_dict(), memory)
    assert b"normaliser" not in memory.getvalue()


@pytest.mark.skipif(not torch.accelerator.is_available(), reason="no accelerator")
def test_batches_on_an_accelerator_stay_there(store: Store, checkpoint: Checkpoint) -> None:
    device = torch.accelerator.current_accelerator()
    assert device is not None
    encoder, host = load_encoder(checkpoint.folder).to(device), load_encoder(checkpoint.folder)
    for form in sources(store).values():
        assert encoder.preprocess(form).device.type == device.type
        torch.testing.assert_close(encoder.preprocess(form).cpu(), host.preprocess(form), rtol=0, atol=1e-6)
        torch.testing.assert_close(encoder.embed(form).cpu(), host.embed(form), rtol=1e-3, atol=1e-4)
    batch = next(iter(DataLoader(store.torch(), batch_size=8)))
    moved = {k: v.to(device) for k, v in batch.items() if k != "tile"} | {
        "tile": {"s2_level": batch["tile"]["s2_level"].to(device)}
    }
    torch.testing.assert_close(encoder.embed(moved).cpu(), host.embed(batch), rtol=1e-3, atol=1e-4)
