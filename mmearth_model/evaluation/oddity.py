"""Bands of a labelled data set whose pixels do not look like their names, such as planes that a file names wrongly.

The expectation has two sources: the statistics of a pretraining, and the wavelengths in the catalog. Bands of one part of
the spectrum (visible, near infrared, short-wave infrared) resemble each other more than bands of other parts, and bands
of one native pixel size are similar in detail. The limits were set on real Sentinel-2 images (each class of EuroSAT,
TerraMesh, also clouds, snow and open water), whose correct bands reach about half of each limit at most.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data import NO_LEVEL, load_catalog, resolve_statistics
from mmearth_model.tasks.files import FileImages
from mmearth_model.tasks.spec import SWAPPED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from mmearth_data import Store
    from mmearth_model.tasks import LabelledSet

IMAGES = 64
"""Number of training images that are examined, a random choice."""
BLOCK_PX = 6
"""Correlations are between means over blocks as large as the coarsest pixels (60 m), so that sharpness has no effect."""
POINTS = 50
"""Minimum number of blocks for correlations."""
RED_EDGE_NM, SHORT_WAVE_NM = 720.0, 1000.0
FOLLOWS = 1.6
"""Limit of the excess of a correlation with another part of the spectrum over that with its own, as Fisher's z. Correct
bands: up to 0.7 in data sets, 1.5 in single images of clouds."""
DETAIL = 0.3
"""Limit of the logarithm of detail relative to bands of the same native pixel. Correct bands: up to 0.25."""
DETAIL_IMAGES = 5
STEP_PX = 8
FACTOR = 10.0
"""Limit of the ratio to the statistics, relative to that of the other bands of the same part of the spectrum."""
EMPTY = 0.5
"""Limit of the share of zeros and missing pixels, if it is also twice that of the other bands."""
CERTAIN = 0.9999
"""Largest correlation; larger ones are reduced to it."""


@dataclass(frozen=True, slots=True)
class Light:
    """An optical band: its centre, and the side of its native pixel."""

    wavelength_nm: float
    pixel_m: int

    @property
    def part(self) -> int:
        """0 visible, 1 near infrared, 2 short-wave infrared."""
        return int(self.wavelength_nm > RED_EDGE_NM) + int(self.wavelength_nm > SHORT_WAVE_NM)


@dataclass(frozen=True, slots=True)
class Sample:
    """Measurements of K bands on some images."""

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
    """Return the notes of the task file, and odd bands; see `odd_bands` for the parameters."""
    return tuple(f"{task.name}: {note}" for note in (*task.notes, *odd_bands(task, known, store)))


def odd_bands(task: LabelledSet, known: Sequence[Mapping[str, Any]], store: Store | None = None) -> tuple[str, ...]:
    """Describe the bands of a task's files whose pixels do not look like their names, one line each.

    Some training images are examined; not those of stores, whose bands were named when they were built. ``known`` are the
    statistics of checkpoints, ``[modality][level][band]`` -> ``{count, mean, std}``; the first with the modality is used,
    those of ``store`` if there is none.
    """
    images = task.images
    if not isinstance(images, FileImages) or not len(task.parts.train):
        return ()
    modality = images.modality
    sample = look(images, task.parts.train)
    if store is not None and modality.name in store.modalities:
        known = [*known, {modality.name: resolve_statistics(modality, store.statistics)}]
    expected = _expected(images, known)
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
    """Band that models see -> its wavelength and native pixel size in the catalog, for optical modalities."""
    entry = load_catalog().modalities.get(modality)
    if entry is None:
        return {}
    return {
        band: Light(1000 * seen.centre_um, int(entry.native_m[band]))
        for band, seen in entry.wavelengths.items()
        if band in entry.model_bands and band in entry.native_m
    }


def look(images: FileImages, train: NDArray[np.intp]) -> Sample:
    """Measure some training images; with ``band_order: paper``, bands have their own names, not those they are used as."""
    bands = tuple(dict.fromkeys(images.spec.catalog_bands))
    at = [images.modality.bands.index(band) for band in bands]
    rows = np.random.default_rng(0).permutation(train)[:IMAGES]
    planes = [_observed(images, int(row), at) for row in rows]
    pixels = np.ma.masked_invalid(np.concatenate([image.reshape(len(bands), -1) for image in planes], axis=1))
    swapped = SWAPPED if images.spec.band_order == "paper" else {}
    return Sample(
        bands=tuple(swapped.get(band, band) for band in bands),
        mean=pixels.mean(axis=1).filled(0),
        deviation=pixels.std(axis=1).filled(0),
        zeros=(np.ma.getmaskarray(pixels) | (np.abs(pixels.data) <= 1e-3)).mean(axis=1),
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
            sums[number] += np.ma.masked_invalid(change).mean(axis=1).filled(0)
    found = np.full(sums.shape[1], np.nan)
    np.divide(sums[0], sums[1], out=found, where=(sums > 0).all(axis=0))
    return found


def _correlation(planes: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    blocks = np.concatenate([_blocks(image) for image in planes], axis=1)
    blocks = blocks[:, np.isfinite(blocks).all(axis=0)]
    varied = blocks.std(axis=1) > 0 if blocks.shape[1] >= POINTS else np.zeros(len(blocks), bool)
    found = np.full((len(blocks), len(blocks)), np.nan)
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
    """Describe a common factor by which all bands are too bright or too dark, as in other units; empty if there is none."""
    ratios = np.array(list(_ratios(sample, expected, light).values()))
    if not len(ratios) or np.abs(ratios).min() < np.log(FACTOR) or len(np.unique(np.sign(ratios))) > 1:
        return ""
    typical = np.exp(np.median(ratios))
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
    """Yield the oddities of a band."""
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
    """Check a band that is not optical: mean and deviation are both out of scale, as in other units."""
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
            side = "brighter" if excess > 0 else "darker"
            yield f"it is {side} by a factor of {np.exp(abs(excess)):.0f} than the neighbouring bands suggest"


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
