"""Preset ``reference`` compared with a slow implementation of the released training code's rules.

Summary of the rules in its public source: a published array is first z-scored in float64. Values that then equal the
array's nodata number are missing: Sentinel-2 0; Sentinel-1, ASTER, lat, lon and month minus infinity; canopy height
255; era5 where it is NaN. (Finite fill values in a file are therefore treated as numbers.) Land cover is first
converted to class numbers with nodata 0, so WorldCover's first class, tree cover, is missing. Missing values of a
continuous raster count as 0, the mean. The loss of such a raster is the mean square of each patch; the sum over hidden
patches is divided by the number of those whose loss is not 0; Sentinel-2 is normalised within each patch by mean and
unbiased variance. Land cover: cross-entropy over hidden pixels that are not missing. Continuous tile values: mean
square over values that are not NaN. Biome and ecoregion: cross-entropy of the position of a row's largest entry.
The total is the sum of exp(-s) loss + s over the tasks whose loss is not 0.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from mmearth_data import load_catalog
from mmearth_model.data.targets import Normaliser
from mmearth_model.network.losses import LossConfig, MultiTaskLoss
from mmearth_model.network.mpmae import REFERENCE_TASK_ORDER, tasks_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Arrays = dict[str, np.ndarray[Any, Any]]

B, SIZE, PATCH = 4, 16, 8
ACROSS = SIZE // PATCH
L = ACROSS**2
NO_DATA = {
    "sentinel2": 0, "sentinel1": -math.inf, "aster": -math.inf, "canopy_height_eth": 255,
    "lat": -math.inf, "lon": -math.inf, "month": -math.inf, "era5": math.nan,
}  # fmt: skip
RASTERS = ("sentinel2", "sentinel1", "aster", "canopy_height_eth")
SPREAD = {
    "sentinel2": (1864.88, 1520.07), "sentinel1": (-11.413, 4.7719), "aster": (612.077, 731.13),
    "canopy_height_eth": (8.7361, 9.6347), "era5": (278.319, 11.0701), "lat": (0.2913, 0.4207),
    "lon": (0.0731, 0.6677), "month": (-0.1013, 0.7077),
}  # fmt: skip
"""Mean and deviation of the first band; the others are shifted by some per cent."""
HIDDEN = np.array([[1, 0, 1, 1], [0, 1, 1, 0], [1, 1, 0, 1], [1, 1, 0, 0]], dtype=bool)
LEVELS = np.array([1, 0, 1, 0], dtype=np.uint8)
"""L2A, L1C, ..."""


def published(seed: int = 0) -> Arrays:
    """Arrays of some tiles as in the published files, with every kind of missing value."""
    rng = np.random.default_rng(seed)

    def pixels(bands: int, low: int, high: int, dtype: str) -> np.ndarray[Any, Any]:
        return rng.integers(low, high, (B, bands, SIZE, SIZE)).astype(dtype)

    def gaps(values: np.ndarray[Any, Any], spelling: float) -> np.ndarray[Any, Any]:
        """A tenth of the values, a whole hidden patch, and one band of a whole tile."""
        values[rng.random(values.shape) < 0.1] = spelling
        values[0, :, PATCH:, :PATCH] = spelling
        values[1, :1] = spelling
        return values

    arrays = {
        "sentinel2": gaps(pixels(13, 1, 9000, "uint16"), 0),
        "sentinel1": gaps(rng.normal(-12, 4, (B, 8, SIZE, SIZE)).astype("float32"), -np.inf),
        "aster": gaps(pixels(2, -400, 6000, "int16"), -32768),
        "canopy_height_eth": gaps(pixels(2, 0, 50, "int8"), 127),
        "dynamic_world": gaps(pixels(1, 1, 10, "uint8"), 0),
        "esa_worldcover": gaps(rng.choice([10, 20, 50, 90, 95, 100], (B, 1, SIZE, SIZE)).astype("uint8"), 255),
        "era5": rng.normal(280, 10, (B, 12)).astype("float32"),
        "lat": np.array([[0, 1], [0.5, math.sqrt(0.75)], [-1, 0], [math.sqrt(0.5), math.sqrt(0.5)]], dtype="float32"),
        "lon": np.array([[0, 1], [0, -1], [-1, 0], [math.sqrt(0.5), -math.sqrt(0.5)]], dtype="float32"),
        "month": np.array([[1, 0], [0, 1], [-np.inf, -np.inf], [0, -1]], dtype="float32"),
        "biome": np.eye(14, dtype="uint8")[[3, 13, 0, 7]],
        "eco_region": np.eye(846, dtype="uint16")[[845, 2, 17, 400]],
    }
    arrays["era5"][1] = arrays["era5"][2, 4] = np.nan
    arrays["biome"][1] = arrays["eco_region"][0] = 0
    return arrays


def stored(arrays: Arrays) -> dict[str, Any]:
    """The same tiles as stored in a store."""
    land = arrays["esa_worldcover"]
    heights = arrays["canopy_height_eth"]
    labels = {
        name: np.where(arrays[name].any(axis=1), arrays[name].argmax(axis=1), missing)
        for name, missing in (("biome", 255), ("eco_region", 65535))
    }
    return {
        "sentinel2": arrays["sentinel2"],
        "sentinel1": np.where(np.isfinite(arrays["sentinel1"]), arrays["sentinel1"], np.float32(np.nan)),
        "aster": arrays["aster"],
        "canopy_height_eth": np.where(heights == 127, 255, heights).astype("uint8"),
        "dynamic_world": arrays["dynamic_world"],
        "esa_worldcover": np.where(land == 255, 0, land).astype("uint8"),
        "era5": arrays["era5"],
        "biome": labels["biome"].astype("uint8"),
        "eco_region": labels["eco_region"].astype("uint16"),
        "tile": {
            "tile_id": np.arange(B, dtype=np.uint64),
            "lat": np.array([0.0, 30.0, -90.0, 45.0]),
            "lon": np.array([0.0, 180.0, -90.0, 135.0]),
            "time": np.array(["2017-03-05", "2018-12-31", "NaT", "2020-06-01"], "datetime64[ms]"),
            "s2_level": LEVELS,
        },
    }


def spread(name: str, band: int, level: int) -> tuple[float, float]:
    """Mean and deviation of a band; L1C differs from L2A."""
    mean, deviation = SPREAD[name]
    return mean * (1 + 0.013 * band + 0.0371 * level), deviation * (1 + 0.0177 * band + 0.0113 * level)


def statistics(modalities: Mapping[str, Any], names: Iterable[str] = tuple(SPREAD)) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in names:
        levels = {"L1C": 0, "L2A": 1} if name == "sentinel2" else {"-": 0}
        found[name] = {
            level: {
                band: {"count": 9, **dict(zip(("mean", "std"), spread(name, k, shift), strict=True))}
                for k, band in enumerate(modalities[name].bands)
            }
            for level, shift in levels.items()
        }
    return {"train": found}


# ---------------------------------------------------------------- slow implementation of the released code's rules


def slow_z_scores(name: str, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(B, C, ...) float64, NaN where missing; Sentinel-2 without B10."""
    scores = np.empty(values.shape)
    for b, band in np.ndindex(values.shape[:2]):
        mean, deviation = spread(name, band, int(LEVELS[b]) if name == "sentinel2" else 0)
        scores[b, band] = (values[b, band].astype(np.float64) - mean) / deviation
    scores[scores == NO_DATA[name]] = np.nan
    if name == "sentinel2":
        scores = np.delete(scores, 10, axis=1)
    return scores


def slow_classes(name: str, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(B, H, W) class numbers, -1 where missing."""
    if name == "dynamic_world":
        return np.where(values == 0, -1, values.astype(int) - 1)[:, 0]
    codes = [10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100]
    numbers = np.array([codes.index(v) if v in codes else -1 for v in values.flat]).reshape(values.shape)
    return np.where(numbers == 0, -1, numbers)[:, 0]


def cross_entropy(logits: np.ndarray[Any, Any], number: int) -> float:
    return math.log(math.fsum(math.exp(x - logits.max()) for x in logits)) - float(logits[number] - logits.max())


def slow_raster(name: str, values: np.ndarray[Any, Any], prediction: np.ndarray[Any, Any]) -> float:
    scores = np.nan_to_num(slow_z_scores(name, values), nan=0.0, posinf=0.0, neginf=0.0)
    per_patch = []
    for b, patch in zip(*np.nonzero(HIDDEN), strict=True):
        top, left = patch // ACROSS * PATCH, patch % ACROSS * PATCH
        # Row by row, column by column, band by band.
        seen = scores[b, :, top : top + PATCH, left : left + PATCH].transpose(1, 2, 0).ravel()
        if name == "sentinel2":
            seen = (seen - seen.mean()) / math.sqrt(seen.var(ddof=1) + 1e-6)
        per_patch.append(float(np.mean((prediction[b, patch] - seen) ** 2)))
    return math.fsum(per_patch) / sum(loss != 0 for loss in per_patch)


def slow_cover(name: str, values: np.ndarray[Any, Any], prediction: np.ndarray[Any, Any]) -> float:
    classes = slow_classes(name, values)
    count = prediction.shape[-1] // PATCH**2
    losses = []
    for b, y, x in np.ndindex(classes.shape):
        patch = y // PATCH * ACROSS + x // PATCH
        if HIDDEN[b, patch] and classes[b, y, x] != -1:
            start = (y % PATCH * PATCH + x % PATCH) * count
            losses.append(cross_entropy(prediction[b, patch, start : start + count], classes[b, y, x]))
    return math.fsum(losses) / len(losses)


def slow_loss(name: str, values: np.ndarray[Any, Any], prediction: np.ndarray[Any, Any]) -> float:
    if name in RASTERS:
        return slow_raster(name, values, prediction)
    if name in ("dynamic_world", "esa_worldcover"):
        return slow_cover(name, values, prediction)
    if name in ("biome", "eco_region"):
        return math.fsum(cross_entropy(prediction[b], int(values[b].argmax())) for b in range(B)) / B
    scores = slow_z_scores(name, values)
    seen = ~np.isnan(scores)
    return float(np.mean((prediction[seen] - scores[seen]) ** 2))


# ---------------------------------------------------------------- our implementation


def ours(
    arrays: Arrays, s: list[float], batch: Mapping[str, Any] | None = None
) -> tuple[float, dict[str, float], dict[str, Any]]:
    """Total, losses and predictions of preset ``reference``, the losses in float64."""
    catalog = load_catalog().modalities
    modalities = [catalog[name] for name in REFERENCE_TASK_ORDER]
    tasks = tasks_of(modalities, "reference")
    assert [task.name for task in tasks] == list(REFERENCE_TASK_ORDER)
    normaliser = Normaliser.of_preset(
        "reference", modalities, statistics(catalog), inputs=["sentinel2"], targets=list(REFERENCE_TASK_ORDER)
    )
    generator = torch.Generator().manual_seed(1)
    predictions = {
        t.name: torch.randn(
            *((B, L, PATCH**2 * t.channels) if t.kind.is_raster else (B, t.channels)),
            generator=generator,
            dtype=torch.float64,
        )
        for t in tasks
    }
    criterion = MultiTaskLoss(tasks, LossConfig(preset="reference")).double()
    with torch.no_grad():
        criterion.log_vars.copy_(torch.tensor(s))
        total, losses = criterion(predictions, normaliser(batch or stored(arrays)).targets, torch.from_numpy(HIDDEN))
    return float(total), {name: float(loss) for name, loss in losses.items()}, predictions


def test_every_loss_and_their_sum_are_those_of_the_released_rules() -> None:
    arrays = published()
    s = [0.1 * k - 0.5 for k in range(len(REFERENCE_TASK_ORDER))]
    total, losses, predictions = ours(arrays, s)
    slow = {name: slow_loss(name, arrays[name], predictions[name].numpy()) for name in REFERENCE_TASK_ORDER}
    for name, loss in slow.items():
        assert losses[name] == pytest.approx(loss, rel=1e-6), name
    assert total == pytest.approx(
        math.fsum(math.exp(-a) * v + a for a, v in zip(s, slow.values(), strict=True)), rel=1e-6
    )


def test_a_missing_reflectance_is_no_input_and_a_number_as_a_target() -> None:
    """The released code z-scores the file's 0 for both; here, as in the other presets, it is left out as an input."""
    catalog = load_catalog().modalities
    arrays = published()
    arrays["sentinel2"][3, 2, 0, 0] = 1000
    scales = statistics(catalog)
    scales["train"]["sentinel2"]["L1C"]["B3"] |= {"mean": 1000.0}  # that pixel is NaN there
    normalise = Normaliser.of_preset(
        "reference", [catalog["sentinel2"]], scales, inputs=["sentinel2"], targets=["sentinel2"]
    )
    batch = stored(arrays)
    out = normalise(batch)
    assert torch.equal(out.images, normalise.images(batch))
    assert out.images.isfinite().all()
    assert float(out.images[3, 2, 0, 0]) == 0
    gap = torch.from_numpy(arrays["sentinel2"][0, 0] == 0)
    assert gap.any()
    assert not out.images[0, 0][gap].any()
    mean, deviation = spread("sentinel2", 0, 1)
    target = out.targets["sentinel2"]
    np.testing.assert_allclose(target.values[0, 0][gap], -mean / deviation, rtol=1e-6)
    assert torch.equal(target.values[target.valid], out.images[target.valid])


@pytest.mark.parametrize(
    ("name", "spelling"), [("era5", math.nan), ("month", -math.inf), ("dynamic_world", 0), ("esa_worldcover", 10)]
)
def test_a_task_with_nothing_to_learn_from_contributes_nothing(name: str, spelling: float) -> None:
    """The released code computes the mean of an empty set there, which is NaN, and stops."""
    arrays = published()
    arrays[name][:] = spelling
    batch = stored(arrays)
    if name == "month":
        batch["tile"]["time"][:] = np.datetime64("NaT")
    total, losses, _ = ours(arrays, [0.5] * len(REFERENCE_TASK_ORDER), batch)
    assert losses[name] == 0
    others = math.fsum(math.exp(-0.5) * loss + 0.5 for task, loss in losses.items() if task != name)
    assert total == pytest.approx(others, rel=1e-6)


def test_earlier_checkpoints_keep_what_they_were_trained_with() -> None:
    aster = load_catalog().modalities["aster"]
    scales = statistics({"aster": aster}, ("aster",))
    entry = Normaliser.of_preset("reference", [aster], scales, inputs=["aster"], targets=["aster"]).to_config()
    batch = {"aster": np.full((1, 2, 4, 4), -32768, dtype=np.int16)}
    assert (Normaliser.from_config(entry)(batch).targets["aster"].values < -40).all()
    del entry["stand_ins"]
    assert not Normaliser.from_config(entry)(batch).targets["aster"].values.any()
