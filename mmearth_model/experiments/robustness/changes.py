"""Graded changes of images, applied to stored values.

The first level of every change is 0, which changes nothing. Values become missing only if a change removes bands or
modalities, or shifts them. Missing values stay missing; a shift moves them with the image. Random choices depend on the
position of an image in its data set (missing bands are the same in all images), not on the seed or the level. Levels
are therefore nested: each contains the changes of lower levels.

Axes: B images of a batch, C bands, H W pixels.
"""

from __future__ import annotations

import math
import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from mmearth_data import Modality

    Array = NDArray[Any]
    Floats = NDArray[np.float64]

QUESTION = "How much does a probe lose when its test images change?"
CLOUD_REFLECTANCE = 0.7
"""Reflectance of clouds in all bands."""
EDGE = 0.08
"""Width of the soft edges of clouds, in ranks of the noise: the share of pixels that are partly covered."""
CLOUD_CELLS = 5
"""Cells per side of the noise from which clouds are made; it limits the number of clouds side by side."""
HAZE_REFLECTANCE = 0.5
HAZE_FROM_UM = 0.49
"""Blue wavelength at which the level of haze is defined."""
HAZE_EXPONENT = 1.0
"""The weight of haze is wavelength ** -HAZE_EXPONENT (Chavez 1988: 0.7 for hazy, 1 for moderate atmospheres)."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What a change needs to know about the images.

    Attributes
    ----------
    inputs
        Continuous raster modalities that the encoder takes and the images have, in the order of the encoder.
    bands
        Modality -> bands that the encoder takes and the images have.
    deviations
        Modality -> (C,) standard deviation of each band in stored units, measured on training images.
    """

    inputs: tuple[Modality, ...]
    bands: Mapping[str, tuple[str, ...]]
    deviations: Mapping[str, Floats]

    @property
    def optical(self) -> tuple[Modality, ...]:
        """Inputs that contain reflectances and whose bands have wavelengths in the catalog."""
        return tuple(m for m in self.inputs if m.wavelengths and m.units == "1")


class Change(ABC):
    """A change of images with several levels of severity."""

    name: str
    axis: str
    """What a level measures."""
    levels: tuple[float, ...]
    """Ascending; the first is 0."""

    @property
    def kind(self) -> str:
        """Name by which the change is selected."""
        return self.name

    def obstacle(self, scene: Scene) -> str:
        """Return why the change does not apply to the images; "" if it does."""
        return "" if self.changed(scene) else "it needs reflectances in bands with known wavelengths"

    def changed(self, scene: Scene) -> tuple[Modality, ...]:
        """Return the modalities that change."""
        return scene.optical

    def apply(self, batch: Mapping[str, Any], positions: Array, level: float, scene: Scene) -> dict[str, Any]:
        """Return a changed copy of a raw batch.

        Parameters
        ----------
        batch
            Modality -> (B, C, H, W) values as stored.
        positions
            (B,) positions of the images in their data set.
        level
            One of `levels`.
        scene
            Modalities, bands and standard deviations of the images.
        """
        if not level:
            return dict(batch)
        found = {
            m.name: self.values(batch[m.name], m, positions, level, scene)
            for m in self.changed(scene)
            if m.name in batch
        }
        return {**batch, **found}

    @abstractmethod
    def values(self, stored: Array, modality: Modality, positions: Array, level: float, scene: Scene) -> Array:
        """Return (B, C, H, W) changed values of one modality."""


def adjusted(stored: Array, modality: Modality, function: Callable[[Floats], Floats]) -> Array:
    """Apply a function of physical values to the observed values; the result has the data type of the stored values.

    Integers are rounded and clipped to the range of their type. A result equal to the no-data value is replaced by the
    adjacent value.
    """
    seen = modality.observed(stored)
    physical = function(stored.astype(np.float64) * modality.scale + modality.offset)
    values = (physical - modality.offset) / modality.scale
    if stored.dtype.kind != "f":
        limits = np.iinfo(stored.dtype)
        values = np.clip(np.rint(values), limits.min, limits.max)
        beside = modality.nodata + (1 if modality.nodata < limits.max else -1)
    else:
        beside = np.nextafter(stored.dtype.type(modality.nodata), stored.dtype.type(np.inf))
    found = values.astype(stored.dtype)
    found = np.where(modality.observed(found), found, stored.dtype.type(beside))
    return np.where(seen, found, stored)


def ranked_noise(position: int, cells: int, side: tuple[int, int]) -> Floats:
    """Smooth noise of one image (H, W), replaced by its ranks, which are uniformly distributed between 0 and 1."""
    from scipy.ndimage import zoom

    coarse = np.random.default_rng([31, position]).random((cells, cells))
    height, width = side
    smooth = zoom(coarse, (height / cells, width / cells), order=3, mode="nearest", grid_mode=True)
    ranks = np.empty(smooth.size)
    ranks[np.argsort(smooth, axis=None, kind="stable")] = (np.arange(smooth.size) + 0.5) / smooth.size
    return ranks.reshape(smooth.shape)


class Clouds(Change):
    """Opaque white clouds with soft edges that cover a share of the image."""

    name = "clouds"
    axis = "share of the image under clouds"
    levels = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8)

    def values(self, stored: Array, modality: Modality, positions: Array, level: float, scene: Scene) -> Array:
        """Cover the pixels with the lowest noise."""
        ranks = np.stack([ranked_noise(int(k), CLOUD_CELLS, stored.shape[2:]) for k in positions])[:, None]
        cover = np.clip((level - ranks) / EDGE + 0.5, 0, 1)
        return adjusted(stored, modality, lambda x: x * (1 - cover) + CLOUD_REFLECTANCE * cover)


class Haze(Change):
    """Uniform haze that is stronger at short wavelengths."""

    name = "haze"
    axis = "weight of haze in blue light"
    levels = (0.0, 0.1, 0.2, 0.3, 0.4)

    def values(self, stored: Array, modality: Modality, positions: Array, level: float, scene: Scene) -> Array:
        """Mix each band with the reflectance of haze; bands without a wavelength do not change."""
        known = [modality.wavelengths.get(band) for band in modality.bands]
        share = [level * (HAZE_FROM_UM / w.centre_um) ** HAZE_EXPONENT if w else 0.0 for w in known]
        weight = np.clip(share, 0, 1)[:, None, None]
        return adjusted(stored, modality, lambda x: x * (1 - weight) + HAZE_REFLECTANCE * weight)


class Offset(Change):
    """Radiometric offset, such as the 1,000 digital numbers added to Sentinel-2 by processing baseline 04.00 (2022)."""

    name = "offset"
    axis = "added reflectance"
    levels = (0.0, 0.01, 0.02, 0.05, 0.1)

    def values(self, stored: Array, modality: Modality, positions: Array, level: float, scene: Scene) -> Array:
        """Add the level to every reflectance."""
        return adjusted(stored, modality, lambda x: x + level)


class Continuous(Change):
    """A change of continuous raster inputs."""

    def changed(self, scene: Scene) -> tuple[Modality, ...]:
        """Return all continuous raster inputs."""
        return scene.inputs

    def obstacle(self, scene: Scene) -> str:
        """Require continuous raster inputs."""
        return "" if scene.inputs else "it needs continuous raster inputs"


class Gain(Change):
    """Higher gain of an optical instrument."""

    name = "gain"
    axis = "gain - 1"
    levels = (0.0, 0.05, 0.1, 0.2, 0.3)

    def values(self, stored: Array, modality: Modality, positions: Array, level: float, scene: Scene) -> Array:
        """Multiply every reflectance by 1 + level."""
        return adjusted(stored, modality, lambda x: x * (1 + level))


class Loss(Gain):
    """Lower gain of an optical instrument."""

    name = "loss"
    axis = "1 - gain"

    def values(self, stored: Array, modality: Modality, positions: Array, level: float, scene: Scene) -> Array:
        """Multiply every reflectance by 1 - level."""
        return adjusted(stored, modality, lambda x: x * (1 - level))


class Noise(Continuous):
    """Normally distributed noise, independent for each pixel and band of a modality."""

    name = "noise"
    axis = "noise / standard deviation of the band"
    levels = (0.0, 0.1, 0.25, 0.5, 1.0)

    def values(self, stored: Array, modality: Modality, positions: Array, level: float, scene: Scene) -> Array:
        """Add noise; levels differ only in its standard deviation."""
        own = zlib.crc32(modality.name.encode())  # noise of one modality says nothing about that of another
        unit = [np.random.default_rng([37, own, int(k)]).standard_normal(stored.shape[1:]) for k in positions]
        spread = level * abs(modality.scale) * scene.deviations[modality.name][:, None, None]
        return adjusted(stored, modality, lambda x: x + spread * np.stack(unit))


class Resolution(Continuous):
    """Coarser resolution: means over squares of 2, 4 and 8 pixels."""

    name = "resolution"
    axis = "halvings of the resolution"
    levels = (0.0, 1.0, 2.0, 3.0)

    def values(self, stored: Array, modality: Modality, positions: Array, level: float, scene: Scene) -> Array:
        """Replace observed values by the mean of the observed values in their square."""
        side = 2 ** round(level)
        seen = modality.observed(stored)
        total, count = (_square_sums(part, side) for part in (np.where(seen, stored, 0), seen))
        mean = total / np.maximum(count, 1) * modality.scale + modality.offset
        return adjusted(stored, modality, lambda x: np.broadcast_to(mean, x.shape))


def _square_sums(values: Array, side: int) -> Floats:
    """(..., H, W) sums over squares, repeated at every pixel; squares at the edges may be smaller."""
    rows, columns = (np.arange(0, values.shape[axis], side) for axis in (-2, -1))
    sums = np.add.reduceat(np.add.reduceat(values.astype(np.float64), rows, axis=-2), columns, axis=-1)
    height, width = values.shape[-2:]
    wide: Floats = sums.repeat(side, axis=-2)[..., :height, :].repeat(side, axis=-1)[..., :width]
    return wide


class MissingBands(Continuous):
    """A share of all bands is missing, the same bands in all images."""

    name = "missing-bands"
    axis = "share of missing bands"
    levels = (0.0, 0.25, 0.5, 0.75)

    def obstacle(self, scene: Scene) -> str:
        """Require at least two bands, since one is kept."""
        several = sum(len(scene.bands[m.name]) for m in scene.inputs) > 1
        return "" if several else "it needs several bands of continuous raster inputs"

    def values(self, stored: Array, modality: Modality, positions: Array, level: float, scene: Scene) -> Array:
        """Remove the first bands in a random order that is the same at all levels."""
        every = [(m.name, band) for m in scene.inputs for band in scene.bands[m.name]]
        order = np.random.default_rng(41).permutation(len(every))[: math.ceil(level * len(every) - 1e-9)]
        gone = {every[k] for k in order[: len(every) - 1]}
        found = stored.copy()
        found[:, [k for k, band in enumerate(modality.bands) if (modality.name, band) in gone]] = modality.nodata
        return found


class Shift(Continuous):
    """Misregistration: all modalities except the first are shifted to the right."""

    name = "shift"
    axis = "shift in pixels"
    levels = (0.0, 0.5, 1.0, 2.0, 3.0)

    def changed(self, scene: Scene) -> tuple[Modality, ...]:
        """Return all inputs except the first."""
        return scene.inputs[1:]

    def obstacle(self, scene: Scene) -> str:
        """Require at least two continuous raster inputs."""
        return "" if len(scene.inputs) > 1 else "it needs several continuous raster inputs"

    def values(self, stored: Array, modality: Modality, positions: Array, level: float, scene: Scene) -> Array:
        """Interpolate linearly between columns; missing values and edges make values missing."""
        whole, part = int(level), level - int(level)
        first, second = (_moved(stored, by, modality.nodata) for by in (whole, whole + 1))
        seen = modality.observed(first) & (modality.observed(second) | (part == 0))
        mixed = first * (1 - part) + second * part if part else first
        if stored.dtype.kind != "f":
            mixed = np.rint(mixed)
        return np.where(seen, mixed, modality.nodata).astype(stored.dtype)


def _moved(stored: Array, columns: int, nodata: float) -> Array:
    moved = np.full_like(stored, nodata)
    moved[..., columns:] = stored[..., : max(0, stored.shape[-1] - columns)]
    return moved


class MissingModality(Continuous):
    """One modality is missing from a share of the images."""

    axis = "share of images without the modality"
    levels = (0.0, 0.5, 1.0)

    def __init__(self, modality: str) -> None:
        self.modality = modality
        self.name = f"missing-{modality}"

    @property
    def kind(self) -> str:
        """Name by which the change is selected, the same for all modalities."""
        return "missing-modality"

    def obstacle(self, scene: Scene) -> str:
        """Require at least two continuous raster inputs."""
        return "" if len(scene.inputs) > 1 else "it needs several continuous raster inputs"

    def changed(self, scene: Scene) -> tuple[Modality, ...]:
        """Return the modality that is removed."""
        return tuple(m for m in scene.inputs if m.name == self.modality)

    def values(self, stored: Array, modality: Modality, positions: Array, level: float, scene: Scene) -> Array:
        """Remove the modality from each image with a probability equal to the level."""
        gone = np.array([np.random.default_rng([43, int(k)]).random() < level for k in positions])
        return np.where(gone[:, None, None, None], modality.nodata, stored).astype(stored.dtype)


def all_changes(inputs: Sequence[Modality]) -> list[Change]:
    """List all changes for images with these inputs."""
    fixed: list[Change] = [
        Clouds(), Haze(), Offset(), Gain(), Loss(), Noise(), Resolution(), MissingBands(), Shift(),
    ]  # fmt: skip
    return [*fixed, *(MissingModality(m.name) for m in inputs)]
