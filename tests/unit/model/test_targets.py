from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from mmearth_data import InputError, Kind, Modality, load_catalog
from mmearth_model.data.targets import REFERENCE_MISSING_CODES, Normaliser, Window

B, SIZE = 6, 16
L1C, L2A, NONE = 0, 1, 255
NAMES = (
    "sentinel2", "sentinel1", "aster", "canopy_height_eth", "dynamic_world", "esa_worldcover",
    "era5", "lat", "lon", "month", "biome", "eco_region",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def modalities() -> dict[str, Modality]:
    catalog = load_catalog().modalities
    return {name: catalog[name] for name in NAMES}


def raw_batch(modalities: dict[str, Modality], seed: int = 0) -> dict[str, Any]:
    """Stored values of every type, a fifth of them missing."""
    rng = np.random.default_rng(seed)
    batch: dict[str, Any] = {}
    for modality in modalities.values():
        if not modality.stored:
            continue
        shape = (B, *modality.array_shape(SIZE))
        if modality.kind.is_categorical:
            values = rng.choice([label.code for label in modality.classes], shape).astype(modality.dtype)
        elif modality.dtype.kind == "f":
            values = rng.normal(-12, 5, shape).astype(modality.dtype)
        else:
            values = rng.integers(1, min(60_000, np.iinfo(modality.dtype).max - 10), shape).astype(modality.dtype)
        batch[modality.name] = np.where(rng.random(shape) < 0.2, modality.dtype.type(modality.nodata), values)
    batch["tile"] = {
        "tile_id": np.arange(B, dtype=np.uint64),
        "lat": np.array([0.0, 30.0, -90.0, 45.0, 12.5, 60.0]),
        "lon": np.array([0.0, 180.0, -90.0, 135.0, -0.5, 5.0]),
        "time": np.array(
            ["2017-03-05", "2018-12-31", "NaT", "2020-06-01", "2019-01-01", "2019-09-30"], "datetime64[ms]"
        ),
        "s2_level": np.array([L2A, L1C, L2A, L2A, L1C, L2A], dtype=np.uint8),
    }
    return batch


def entry(mean: float | None, std: float | None, count: int = 100) -> dict[str, Any]:
    return {"count": count, "mean": mean, "std": std, "min": mean, "max": mean}


def statistics(modalities: dict[str, Modality]) -> dict[str, Any]:
    """Different for every band and level."""
    train: dict[str, Any] = {}
    for modality in modalities.values():
        if modality.kind.is_continuous:
            levels = ("L1C", "L2A") if modality.statistics_by == "s2_level" else ("-",)
            train[modality.name] = {
                level: {
                    band: entry(10.0 + 3 * k + 500 * position, 2.0 + k + position)
                    for k, band in enumerate(modality.bands)
                }
                for position, level in enumerate(levels)
            }
    return {"train": train, "all": {}}


def normaliser(modalities: dict[str, Modality], stats: dict[str, Any] | None = None, **changes: Any) -> Normaliser:
    stats = statistics(modalities) if stats is None else stats
    options: dict[str, Any] = {"inputs": ["sentinel2"], "targets": list(modalities), **changes}
    return Normaliser(list(modalities.values()), stats, **options)


def test_every_value_is_z_scored_by_its_band_and_level(modalities: dict[str, Modality]) -> None:
    batch, stats = raw_batch(modalities), statistics(modalities)["train"]
    out = normaliser(modalities)(batch)
    for name, modality in modalities.items():
        if not (modality.kind.is_continuous and modality.stored):
            continue
        target = out.targets[name]
        assert target.values.dtype == torch.float32
        assert target.values.shape[1] == len(modality.model_bands)
        for b in range(B):
            by_level = modality.statistics_by == "s2_level"
            level = ("L1C", "L2A")[batch["tile"]["s2_level"][b]] if by_level else "-"
            for k, band in enumerate(modality.model_bands):
                stored = batch[name][b, modality.bands.index(band)]
                seen = ~np.isnan(stored) if math.isnan(modality.nodata) else stored != modality.nodata
                scale = stats[name][level][band]
                expected = np.where(seen, (stored.astype(np.float64) - scale["mean"]) / scale["std"], 0)
                np.testing.assert_allclose(target.values[b, k].numpy(), expected, rtol=1e-5, atol=1e-5)
                assert np.array_equal(target.valid[b, k].numpy(), seen)


def test_the_input_is_the_target_of_its_modality(modalities: dict[str, Modality]) -> None:
    batch, normalise = raw_batch(modalities), normaliser(modalities)
    out = normalise(batch)
    assert out.images.shape == (B, 12, SIZE, SIZE)
    assert normalise.in_channels == 12
    assert torch.equal(out.images, out.targets["sentinel2"].values)
    assert torch.equal(normalise.images(batch), out.images)
    assert "B10" not in modalities["sentinel2"].model_bands


def test_several_inputs_are_stacked_in_order(modalities: dict[str, Modality]) -> None:
    batch = raw_batch(modalities)
    out = normaliser(modalities, inputs=["aster", "sentinel2"])(batch)
    assert torch.equal(out.images, torch.cat([out.targets["aster"].values, out.targets["sentinel2"].values], dim=1))


def test_class_codes_become_positions_among_the_classes(modalities: dict[str, Modality]) -> None:
    batch = raw_batch(modalities)
    out = normaliser(modalities)(batch)
    for name, modality in modalities.items():
        if not modality.kind.is_categorical:
            continue
        target = out.targets[name]
        codes = [label.code for label in modality.classes]
        seen = batch[name] != modality.nodata
        assert target.values.dtype == torch.int64
        assert np.array_equal(target.valid.numpy(), seen)
        expected = np.array(
            [codes.index(code) if there else 0 for code, there in zip(batch[name].flat, seen.flat, strict=True)]
        )
        assert np.array_equal(target.values.numpy(), expected.reshape(seen.shape))


def test_codes_beyond_an_int16_keep_their_meaning(modalities: dict[str, Modality]) -> None:
    """65535 is eco_region's no-data and 40,000 no class; neither may wrap around."""
    batch = raw_batch(modalities)
    batch["eco_region"] = np.array([0, 845, 65535, 40_000, 7, 300], dtype=np.uint16)
    target = normaliser(modalities)(batch).targets["eco_region"]
    assert target.values.tolist() == [0, 845, 0, 0, 7, 300]
    assert target.valid.tolist() == [True, True, False, False, True, True]
    batch["sentinel2"][:] = 60_000
    values = normaliser(modalities)(batch).targets["sentinel2"].values
    assert float(values[0, 0, 0, 0]) == pytest.approx((60_000 - 510) / 3, rel=1e-6)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_codes_of_no_class_are_missing(modalities: dict[str, Modality], dtype: str) -> None:
    layer = dataclasses.replace(modalities["dynamic_world"], dtype=np.dtype(dtype))
    batch = raw_batch(modalities)
    largest = np.iinfo(dtype).max
    batch["dynamic_world"] = np.resize(np.array([0, 12, largest, 3, 9], dtype=dtype), (B, 1, SIZE, SIZE))
    target = normaliser({**modalities, "dynamic_world": layer})(batch).targets["dynamic_world"]
    assert target.valid.flatten()[:5].tolist() == [False, False, False, True, True]
    assert target.values.flatten()[:5].tolist() == [0, 0, 0, 2, 8]


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", "uint16", "int32", "uint32"])
def test_quantities_of_any_type_become_float32(modalities: dict[str, Modality], dtype: str) -> None:
    batch = raw_batch(modalities)
    nodata = math.nan if dtype.startswith("f") else 32_767
    layer = dataclasses.replace(modalities["aster"], dtype=np.dtype(dtype), nodata=nodata)
    batch["aster"] = np.full((B, 2, SIZE, SIZE), 32_000, dtype=dtype)
    batch["aster"][0] = layer.nodata
    target = normaliser({**modalities, "aster": layer})(batch).targets["aster"]
    assert target.values.dtype == torch.float32
    assert not target.valid[0].any()
    assert target.valid[1:].all()
    assert target.values[1, :, 0, 0].tolist() == pytest.approx([(32_000 - 10) / 2, (32_000 - 13) / 3])


def test_the_reference_misses_tree_cover_only(modalities: dict[str, Modality]) -> None:
    batch = raw_batch(modalities)
    batch["esa_worldcover"][:, 0, 0, :3] = [10, 20, 100]
    batch["dynamic_world"][:, 0, 0, 0] = 1
    out = Normaliser.of_preset(
        "reference", list(modalities.values()), statistics(modalities), inputs=["sentinel2"], targets=list(modalities)
    )(batch)
    assert out.targets["esa_worldcover"].valid[:, 0, 0, :3].tolist() == [[False, True, True]] * B
    assert out.targets["esa_worldcover"].values[:, 0, 0, 1:3].tolist() == [[1, 10]] * B
    assert out.targets["dynamic_world"].valid[:, 0, 0, 0].all()
    for preset in ("default", "paper"):
        whole = Normaliser.of_preset(
            preset, list(modalities.values()), statistics(modalities), inputs=["sentinel2"], targets=list(modalities)
        )(batch)
        assert whole.targets["esa_worldcover"].valid[:, 0, 0, :3].all()
    assert {code for codes in REFERENCE_MISSING_CODES.values() for code in codes} == {10}


def test_places_and_months_are_angles(modalities: dict[str, Modality]) -> None:
    unit = {name: {"-": {"sin": entry(0.0, 1.0), "cos": entry(0.0, 1.0)}} for name in ("lat", "lon", "month")}
    stats = {"train": {**statistics(modalities)["train"], **unit}}
    out = normaliser(modalities, stats)(raw_batch(modalities)).targets
    h, h3 = math.sqrt(0.5), math.sqrt(0.75)
    np.testing.assert_allclose(out["lat"].values[:4], np.array([[0, 1], [0.5, h3], [-1, 0], [h, h]]), atol=1e-6)
    np.testing.assert_allclose(out["lon"].values[:4], np.array([[0, 1], [0, -1], [-1, 0], [h, -h]]), atol=1e-6)
    # March, December, none, June, January, September
    expected = np.array([[1, 0], [0, 1], [0, 0], [0, -1], [0.5, h3], [-1, 0]])
    np.testing.assert_allclose(out["month"].values, expected, atol=1e-6)
    assert out["month"].valid.all(dim=1).tolist() == [True, True, False, True, True, True]
    assert out["lat"].valid.all()


def test_what_was_never_observed_carries_no_loss(modalities: dict[str, Modality]) -> None:
    stats = statistics(modalities)
    stats["train"]["sentinel1"]["-"]["asc_HH"] = entry(None, None, count=0)
    del stats["train"]["sentinel1"]["-"]["asc_HV"]
    target = normaliser(modalities, stats)(raw_batch(modalities)).targets["sentinel1"]
    bands = modalities["sentinel1"].bands
    learned = {band: bool(target.valid[:, k].any()) for k, band in enumerate(bands)}
    assert learned == {band: band not in ("asc_HH", "asc_HV") for band in bands}
    assert not target.values[~target.valid].any()


def test_all_rows_stand_in_where_train_has_none_of_a_level(modalities: dict[str, Modality]) -> None:
    stats = statistics(modalities)
    bands = modalities["sentinel2"].bands
    stats["all"] = {
        "sentinel2": {level: {band: entry(1000.0, 50.0) for band in bands} for level in ("L1C", "L2A")},
        "aster": {"-": {band: entry(7.0, 70.0) for band in ("elevation", "slope")}},
    }
    stats["train"]["sentinel2"]["L1C"] = {band: entry(None, None, count=0) for band in bands}
    del stats["train"]["aster"]
    resolved = normaliser(modalities, stats).statistics
    assert resolved["sentinel2"]["L1C"]["B2"]["mean"] == 1000
    assert resolved["sentinel2"]["L2A"]["B2"]["mean"] == stats["train"]["sentinel2"]["L2A"]["B2"]["mean"]
    assert resolved["aster"]["-"]["slope"] == {"count": 100, "mean": 7.0, "std": 70.0}


def test_a_band_that_does_not_vary_is_only_centred(modalities: dict[str, Modality]) -> None:
    stats = statistics(modalities)
    stats["train"]["aster"]["-"] = {"elevation": entry(100.0, 9e-7), "slope": entry(0.0, 0.0)}
    batch = raw_batch(modalities)
    batch["aster"][:] = 103
    values = normaliser(modalities, stats)(batch).targets["aster"].values
    assert values[:, 0].flatten().tolist() == [3] * B * SIZE**2
    assert values[:, 1].flatten().tolist() == [103] * B * SIZE**2


def test_a_scene_of_no_known_level_has_no_statistics_of_its_own(modalities: dict[str, Modality]) -> None:
    batch, stats = raw_batch(modalities), statistics(modalities)
    batch["tile"]["s2_level"][:2] = NONE
    out = normaliser(modalities, stats)(batch)
    assert not out.targets["sentinel2"].valid[:2].any()
    assert not out.images[:2].any()
    assert out.targets["aster"].valid[:2].any()
    stats["train"]["sentinel2"]["-"] = {band: entry(5.0, 2.0) for band in modalities["sentinel2"].bands}
    assert normaliser(modalities, stats)(batch).targets["sentinel2"].valid[:2].any()


def test_crops_and_flips_are_the_same_pixels_of_every_modality(modalities: dict[str, Modality]) -> None:
    batch = raw_batch(modalities)
    normalise = normaliser(modalities)
    whole = normalise(batch)
    top, left = torch.tensor([0, 1, 2, 3, 4, 8]), torch.tensor([8, 0, 7, 1, 2, 3])
    down, across = torch.tensor([0, 0, 1, 1, 0, 1]).bool(), torch.tensor([0, 1, 0, 1, 1, 0]).bool()
    window = Window.at(top, left, 8, flip_rows=down, flip_columns=across)
    part = normalise(batch, window=window)
    for name, target in part.targets.items():
        for b in range(B):
            for values, full in (
                (target.values, whole.targets[name].values),
                (target.valid, whole.targets[name].valid),
            ):
                expected = full[b]
                if modalities[name].kind.is_raster:
                    expected = expected[:, top[b] : top[b] + 8, left[b] : left[b] + 8]
                    expected = expected.flip(1) if down[b] else expected
                    expected = expected.flip(2) if across[b] else expected
                assert torch.equal(values[b], expected), name
    assert torch.equal(part.images, part.targets["sentinel2"].values)
    assert torch.equal(normalise.images(batch, window=window), part.images)


def test_random_windows_reach_everywhere_and_follow_the_seed() -> None:
    def draw(seed: int, **options: Any) -> Window:
        return Window.random(2000, 64, 56, torch.Generator().manual_seed(seed), **options)

    window, flipped = draw(0), draw(0, flips=True)
    assert sorted(set(window.rows[:, 0].tolist())) == list(range(9))
    assert sorted(set(window.columns[:, 0].tolist())) == list(range(9))
    assert (window.rows.diff(dim=1) == 1).all()
    assert float((flipped.rows.diff(dim=1) == -1).all(dim=1).double().mean()) == pytest.approx(0.5, abs=0.06)
    assert torch.equal(flipped.rows.sort(dim=1).values, window.rows)
    assert torch.equal(draw(0).rows, window.rows)
    assert not torch.equal(draw(1).rows, window.rows)
    # Rows and columns are independent: their correlation over 2,000 windows has a standard error of 0.022.
    assert abs(float(torch.corrcoef(torch.stack([window.rows[:, 0], window.columns[:, 0]]).double())[0, 1])) < 0.12


def test_the_centre_is_the_centre() -> None:
    window = Window.centre(2, 64, 56)
    assert window.rows.tolist() == window.columns.tolist() == [list(range(4, 60))] * 2
    image = torch.arange(64 * 64).reshape(1, 1, 64, 64).expand(2, 3, 64, 64)
    assert torch.equal(window.take(image), image[:, :, 4:60, 4:60])


def test_what_is_saved_normalises_alike(modalities: dict[str, Modality]) -> None:
    red = dataclasses.replace(modalities["sentinel2"], model_bands=("B4", "B3", "B2"))
    original = normaliser({**modalities, "sentinel2": red}, missing_codes={"esa_worldcover": (10,)})
    text = json.dumps(original.to_config(), allow_nan=False)
    restored = Normaliser.from_config(json.loads(text))
    assert (restored.inputs, restored.targets) == (original.inputs, original.targets)
    assert restored.modalities == original.modalities
    assert json.dumps(restored.to_config()) == text
    batch = raw_batch(modalities)
    one, other = original(batch), restored(batch)
    assert one.images.shape[1] == 3
    assert torch.equal(one.images, other.images)
    for name, target in one.targets.items():
        assert torch.equal(target.values, other.targets[name].values)
        assert torch.equal(target.valid, other.targets[name].valid)


def test_raw_arrays_are_left_as_they_are(modalities: dict[str, Modality]) -> None:
    """Arrays out of a store may be read-only, or views with any strides."""
    batch, normalise = raw_batch(modalities), normaliser(modalities)
    expected = normalise(batch)
    for name in normalise.stored:
        batch[name] = np.asfortranarray(batch[name])
        batch[name].setflags(write=False)
    before = {name: batch[name].copy() for name in normalise.stored}
    out = normalise(batch)
    assert torch.equal(out.images, expected.images)
    assert all(
        np.array_equal(batch[name], before[name], equal_nan=True) for name in before if before[name].dtype.kind == "f"
    )
    assert all(np.array_equal(batch[name], before[name]) for name in before if before[name].dtype.kind != "f")


def test_inference_needs_only_the_input(modalities: dict[str, Modality]) -> None:
    batch = raw_batch(modalities)
    normalise = normaliser(modalities)
    only = {"sentinel2": batch["sentinel2"], "tile": {"s2_level": batch["tile"]["s2_level"]}}
    assert torch.equal(normalise.images(only), normalise(batch).images)
    assert set(normalise.stored) == {name for name, modality in modalities.items() if modality.stored}


def test_what_is_not_there_is_said(modalities: dict[str, Modality]) -> None:
    batch = raw_batch(modalities)
    del batch["aster"]
    with pytest.raises(InputError, match="expected aster in the batch"):
        normaliser(modalities)(batch)
    with pytest.raises(InputError, match="got \\['sentinel3'\\]"):
        normaliser(modalities, inputs=["sentinel3"])
    with pytest.raises(InputError, match="expected an input"):
        normaliser(modalities, inputs=[])
    with pytest.raises(InputError, match=r"kind raster/continuous, got esa_worldcover \(raster/categorical\)"):
        normaliser(modalities, inputs=["esa_worldcover"])
    with pytest.raises(InputError, match="at most the tiles' 64 px, got 112"):
        Window.random(2, 64, 112)
    with pytest.raises(InputError, match="does not fit"):
        Normaliser.from_config({"modalities": []})


def test_masks_are_no_targets(modalities: dict[str, Modality]) -> None:
    cloud = load_catalog().modalities["sentinel2_scl"]
    assert cloud.kind is Kind.RASTER_MASK
    with pytest.raises(InputError, match="sentinel2_scl"):
        normaliser({**modalities, "sentinel2_scl": cloud})
