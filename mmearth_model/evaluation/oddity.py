"""Bands of a labelled data set that are far from what their names promise, such as planes that a file names wrongly.

What a name promises is known from two sources: the statistics of a pretraining, and ``catalog/wavelengths.csv``. Bands of
one part of the spectrum (visible, near infrared, short-wave infrared) resemble each other more than bands of the others,
and bands of one native pixel size are alike in detail. Limits were set on real Sentinel-2 images (each class of EuroSAT,
TerraMesh, also clouds, snow and open water), whose right bands keep about half of each limit or less.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data import NO_LEVEL, resolve_statistics, resource_path
from mmearth_model.tasks.files import FileImages
from mmearth_model.tasks.spec import SWAPPED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from mmearth_data import Modality, Store
    from mmearth_model.tasks import LabelledSet

IMAGES = 64
"""Training images that are looked at, drawn with a seed."""
BLOCK_PX = 6
"""Correlations are those of means over blocks as large as the coarsest pixels (60 m), so that sharpness does not count."""
POINTS = 50
"""Blocks without which correlations are not judged."""
RED_EDGE_NM, SHORT_WAVE_NM = 720.0, 1000.0
FOLLOWS = 1.6
"""Excess of a correlation with another part of the spectrum over that with its own, as Fisher's z. Right bands: up to 0.7
in data sets, 1.5 in single images of clouds."""
DETAIL = 0.3
"""Logarithm of detail against the bands of the same native pixel. Right bands: up to 0.25."""
DETAIL_IMAGES = 5
STEP_PX = 8
FACTOR = 10.0
"""Ratio to the statistics, beyond that of the other bands of the same part, that no landscape explains."""
EMPTY = 0.5
"""Share of zeros and missing pixels, if it is also twice that of the other bands."""
CERTAIN = 0.9999
"""Largest correlation that is told from 1."""


@dataclass(frozen=True, slots=True)
class Light:
    """What is known of an optical band."""

    # wavelength_nm, pixel_m: centre of the band, and side of its native pixel
    wavelength_nm: float
    pixel_m: int

    @property
    def part(self) -> int:
        """0 visible, 1 near infrared, 2 short-wave infrared."""
        return int(self.wavelength_nm > RED_EDGE_NM) + int(self.wavelength_nm > SHORT_WAVE_NM)


@dataclass(frozen=True, slots=True)
class Sample:
    """What some images show of each of K bands."""

    bands: tuple[str, ...]
    # mean, deviation: (K,) of the pixels that were observed
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    zeros: NDArray[np.float64]  # (K,) share of pixels that are 0 or missing
    # (K,) mean difference between neighbouring pixels over that between pixels eight apart; NaN where unknown
    detail: NDArray[np.float64]
    correlation: NDArray[np.float64]  # (K, K) of block means; NaN where unknown
    images: int


def data_notes(task: LabelledSet, known: Sequence[Mapping[str, Any]], store: Store | None = None) -> tuple[str, ...]:
    """Say what users of a task's results must know of its data; see `odd_bands` for the parameters."""
    return tuple(f"{task.name}: {note}" for note in (*task.notes, *odd_bands(task, known, store)))


def odd_bands(task: LabelledSet, known: Sequence[Mapping[str, Any]], store: Store | None = None) -> tuple[str, ...]:
    """Describe the bands of a task's files that are far from what their names promise, one line each.

    Parameters
    ----------
    task
        Its training images are looked at. Stores are not: their bands were named when they were built.
    known
        ``[modality][level][band]`` -> ``{count, mean, std}`` of checkpoints; the first that knows the modality counts.
    store
        Its statistics count where no checkpoint has any.
    """
    images = task.images
    if not isinstance(images, FileImages) or not len(task.parts.train):
        return ()
    modality = images.modality
    sample = look(images, task.parts.train)
    expected = _expected(images, [*known, *([] if store is None else [{modality.name: _of_store(modality, store)}])])
    light = {band: entry for band, entry in lights(modality.name).items() if band in sample.bands}
    scaled = _scale(sample, expected, light)
    if scaled:
        return (f"{modality.name}: {scaled}",)
    found = [(band, reasons) for band in sample.bands if (reasons := list(_reasons(sample, expected, light, band)))]
    return tuple(
        f"{modality.name}.{band} is far from what its name promises: {'; '.join(reasons)} "
        f"({_figures(sample, expected, band)}). Check bands, scale and nodata in the task file."
        for band, reasons in found
    )


@cache
def lights(modality: str) -> dict[str, Light]:
    """Band of a modality -> its wavelength and pixel, as ``catalog/wavelengths.csv`` has them; empty where it has none."""
    with (resource_path("catalog") / "wavelengths.csv").open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        return {
            row["band"]: Light(float(row["wavelength_nm"]), int(row["pixel_m"]))
            for row in rows
            if row["modality"] == modality
        }


def look(images: FileImages, train: NDArray[np.intp]) -> Sample:
    """Measure some training images; the bands of ``band_order: paper`` are named as what they are, not as they are fed."""
    bands = tuple(dict.fromkeys(images.spec.catalog_bands))
    at = [images.modality.bands.index(band) for band in bands]
    rows = np.random.default_rng(0).permutation(train)[:IMAGES]
    planes = [_observed(images, int(row), at) for row in rows]
    pixels = np.concatenate([image.reshape(len(bands), -1) for image in planes], axis=1)
    seen = ~np.isnan(pixels)
    count = np.maximum(seen.sum(axis=1), 1)
    mean = np.where(seen, pixels, 0).sum(axis=1) / count
    deviation = np.sqrt((np.where(seen, pixels - mean[:, None], 0) ** 2).sum(axis=1) / count)
    swapped = SWAPPED if images.spec.band_order == "paper" else {}
    return Sample(
        bands=tuple(swapped.get(band, band) for band in bands),
        mean=mean,
        deviation=deviation,
        zeros=(~seen | (np.abs(pixels) <= 1e-3)).mean(axis=1),
        detail=_detail(planes),
        correlation=_correlation(planes),
        images=len(planes),
    )


def _observed(images: FileImages, row: int, at: Sequence[int]) -> NDArray[np.float64]:
    """(K, H, W) planes of a sample, NaN where missing."""
    values = images.image(row)[at].astype(np.float64)
    values[values == images.modality.nodata] = np.nan
    return values


def _detail(planes: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    sums = np.zeros((2, len(planes[0])))
    for image in planes:
        for number, step in enumerate((1, STEP_PX)):
            change = np.abs(image[:, :, step:] - image[:, :, :-step]).reshape(len(image), -1)
            seen = ~np.isnan(change)
            sums[number] += np.where(seen, change, 0).sum(axis=1) / np.maximum(seen.sum(axis=1), 1)
    found = np.full(sums.shape[1], np.nan)
    np.divide(sums[0], sums[1], out=found, where=(sums > 0).all(axis=0))
    return found


def _correlation(planes: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    blocks = np.concatenate([_blocks(image) for image in planes], axis=1)
    blocks = blocks[:, np.isfinite(blocks).all(axis=0)]
    bands = len(blocks)
    if blocks.shape[1] < POINTS:
        return np.full((bands, bands), np.nan)
    varied = blocks.std(axis=1) > 0
    found = np.full((bands, bands), np.nan)
    if varied.any():
        found[np.ix_(varied, varied)] = np.corrcoef(blocks[varied])
    return found


def _blocks(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """(K, H, W) to (K, blocks): means over blocks."""
    bands, height, width = image.shape
    side = max(1, min(BLOCK_PX, height // 4, width // 4))
    cut = image[:, : height // side * side, : width // side * side]
    means: NDArray[np.float64] = cut.reshape(bands, height // side, side, width // side, side).mean(axis=(2, 4))
    return means.reshape(bands, -1)


def _of_store(modality: Modality, store: Store) -> Mapping[str, Any]:
    return resolve_statistics(modality, store.statistics) if modality.name in store.modalities else {}


def _expected(images: FileImages, known: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """Band -> mean and deviation of the first statistics that have the modality at the task's level."""
    modality, level = images.modality, images.spec.level
    for statistics in known:
        levels = statistics.get(modality.name, {})
        key = (level or NO_LEVEL) if modality.statistics_by == "s2_level" else NO_LEVEL
        entries = levels.get(key, {})
        found = {band: (entry["mean"], entry["std"]) for band, entry in entries.items() if entry["count"]}
        if found:
            return found
    return {}


def _scale(sample: Sample, expected: Mapping[str, tuple[float, float]], light: Mapping[str, Light]) -> str:
    """Whether all bands together are too bright or too dark by one factor: other units."""
    ratios = _ratios(sample, expected, light)
    if (
        not ratios
        or min(abs(ratio) for ratio in ratios.values()) < np.log(FACTOR)
        or len({r > 0 for r in ratios.values()}) > 1
    ):
        return ""
    typical = np.exp(np.median(list(ratios.values())))
    return (
        f"all bands are {'brighter' if typical > 1 else 'darker'} than in the pretraining by a factor of "
        f"{max(typical, 1 / typical):,.0f}. Check scale and offset in the task file."
    )


def _ratios(
    sample: Sample, expected: Mapping[str, tuple[float, float]], light: Mapping[str, Light]
) -> dict[str, float]:
    """Optical band -> logarithm of its mean over that of the statistics."""
    return {
        band: float(np.log(mean / expected[band][0]))
        for band, mean in zip(sample.bands, sample.mean, strict=True)
        if band in light and band in expected and mean > 0 and expected[band][0] > 0
    }


def _reasons(
    sample: Sample, expected: Mapping[str, tuple[float, float]], light: Mapping[str, Light], band: str
) -> Iterator[str]:
    """Yield what is odd about a band."""
    at = sample.bands.index(band)
    others = np.delete(sample.zeros, at)
    if sample.deviation[at] == 0:
        yield f"all of its pixels are {sample.mean[at]:g} or missing"
        return
    if sample.zeros[at] >= EMPTY and (len(others) == 0 or sample.zeros[at] >= 2 * np.median(others)):
        yield f"{sample.zeros[at]:.0%} of its pixels are 0 or missing"
    if band not in light:
        yield from _far_in_units(sample, expected, at)
        return
    yield from _level(_ratios(sample, expected, light), light, band)
    yield from _follows(sample, light, at)
    yield from _sharpness(sample, light, at)


def _far_in_units(sample: Sample, expected: Mapping[str, tuple[float, float]], at: int) -> Iterator[str]:
    """Of a quantity that is no light: both its mean and its spread are out of scale, as in other units."""
    mean, deviation = expected.get(sample.bands[at], (0.0, 0.0))
    if (
        deviation > 0
        and abs(sample.mean[at] - mean) > 2 * deviation
        and not 1 / FACTOR < sample.deviation[at] / deviation < FACTOR
    ):
        yield f"neither mean nor deviation are near those of the pretraining ({mean:.4g}, {deviation:.4g})"


def _level(ratios: Mapping[str, float], light: Mapping[str, Light], band: str) -> Iterator[str]:
    kin = [ratio for other, ratio in ratios.items() if other != band and light[other].part == light[band].part]
    if band in ratios and kin:
        excess = ratios[band] - float(np.median(kin))
        if abs(excess) > np.log(FACTOR):
            yield (
                f"it is {'brighter' if excess > 0 else 'darker'} by a factor of {np.exp(abs(excess)):.0f} than the bands "
                "beside it let expect"
            )


def _follows(sample: Sample, light: Mapping[str, Light], at: int) -> Iterator[str]:
    band, row = sample.bands[at], sample.correlation[at]
    own = [k for k, b in enumerate(sample.bands) if k != at and b in light and light[b].part == light[band].part]
    far = [k for k, b in enumerate(sample.bands) if b in light and light[b].part != light[band].part]
    own, far = ([k for k in group if np.isfinite(row[k])] for group in (own, far))
    if not own or not far:
        return
    near, other = (max(group, key=lambda k: row[k]) for group in (own, far))
    z = np.arctanh(np.clip(row[[near, other]], -CERTAIN, CERTAIN))
    if z[1] - z[0] > FOLLOWS:
        yield (
            f"it follows {sample.bands[other]} (correlation {row[other]:.3f}), not {sample.bands[near]} ({row[near]:.3f}), "
            "which is nearest to it of its part of the spectrum"
        )


def _sharpness(sample: Sample, light: Mapping[str, Light], at: int) -> Iterator[str]:
    band = sample.bands[at]
    by_pixel = {
        pixel: [sample.detail[k] for k, b in enumerate(sample.bands) if k != at and b in light and light[b].pixel_m == pixel]
        for pixel in {entry.pixel_m for entry in light.values()}
    }  # fmt: skip
    typical = {pixel: float(np.median(values)) for pixel, values in by_pixel.items() if values}
    own = typical.pop(light[band].pixel_m, np.nan)
    if (
        sample.images < DETAIL_IMAGES
        or not typical
        or not np.isfinite([own, sample.detail[at], *typical.values()]).all()
    ):
        return
    pixel = min(typical, key=lambda m: abs(np.log(sample.detail[at] / typical[m])))
    off, rest = (abs(float(np.log(sample.detail[at] / value))) for value in (own, typical[pixel]))
    if off > DETAIL and rest < off / 3:
        yield f"it is as {'sharp' if pixel < light[band].pixel_m else 'smooth'} as bands of {pixel} m, not of {light[band].pixel_m} m"


def _figures(sample: Sample, expected: Mapping[str, tuple[float, float]], band: str) -> str:
    at = sample.bands.index(band)
    text = f"mean {sample.mean[at]:.4g}, zeros {sample.zeros[at]:.1%}"
    if band not in expected:
        return text
    every, without = _profile(sample, expected), _profile(sample, expected, without=band)
    profile = f", correlation of all means with the pretraining's {every:.2f}, without this band {without:.2f}" if np.isfinite([every, without]).all() else ""  # fmt: skip
    return f"{text}; in the pretraining mean {expected[band][0]:.4g}{profile}"


def _profile(sample: Sample, expected: Mapping[str, tuple[float, float]], without: str | None = None) -> float:
    """Correlation over bands between the means of the images and those of the statistics; NaN for fewer than 3 bands."""
    pairs = [
        (mean, expected[band][0])
        for band, mean in zip(sample.bands, sample.mean, strict=True)
        if band in expected and band != without
    ]
    if len(pairs) < 3 or np.ptp(pairs, axis=0).min() == 0:
        return float("nan")
    return float(np.corrcoef(np.array(pairs).T)[0, 1])
