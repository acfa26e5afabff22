"""Images as torchgeo-bench feeds them to a model: resized, and normalised by the statistics that it lists.

Axes: N samples, B those of one batch, C bands, H W pixels.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch.nn import functional

from mmearth_data import NO_LEVEL, FileInputError, InputError, load_catalog, read_yaml, resource_path
from mmearth_model.data.targets import Normaliser
from mmearth_model.tasks.files import NO_LEVEL_CODE, FileImages, resized

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Set
    from pathlib import Path

    from numpy.typing import NDArray

    from mmearth_data import Modality
    from mmearth_model.tasks import ImageSource, LabelledSet
    from mmearth_model.tasks.labelled import Batch

Bands = Literal["rgb", "all"]
FILE = "torchgeo_bench.yaml"
SAME = (1.0, 0.0)
TINY = 1e-30
"""Added to observed values that equal the catalog's no-data value of 0; negligible after normalisation."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A band of a data set of torchgeo-bench."""

    name: str
    plane: str  # name of the band in the files
    mean: float
    std: float
    feeds: tuple[str, ...] = ()  # ``sentinel2.B8A``: bands of the catalog as which the benchmark uses it


@dataclass(frozen=True, slots=True)
class Listing:
    """Bands of a data set of torchgeo-bench."""

    bands: tuple[Listed, ...]
    rgb: tuple[str, ...]

    def select(self, bands: Bands) -> tuple[Listed, ...]:
        """Return all bands, or red, green and blue."""
        if bands == "all":
            return self.bands
        known = {band.name: band for band in self.bands}
        return tuple(known[name] for name in self.rgb)


@cache
def listings() -> Mapping[str, Listing]:
    """Return the data sets that torchgeo-bench lists, by the name that it gives them, which is that of their task."""
    path = resource_path("catalog") / FILE
    found = {}
    for name, entry in read_yaml(path, "a list of data sets").values.items():
        bands = tuple(Listed(**{**band, "feeds": tuple(band.get("feeds", ()))}) for band in entry["bands"])
        found[name] = Listing(bands, tuple(entry["rgb"]))
    return found


def as_benched(task: LabelledSet, bands: Bands, size_px: int | None) -> LabelledSet:
    """Return a task whose images are those that torchgeo-bench feeds to a model.

    Parameters
    ----------
    task
        Task of whole images. If torchgeo-bench does not list it, its images are resized and otherwise as usual.
    bands
        ``rgb``: only red, green and blue (for a task that is not listed, the bands of the catalog's picture); ``all``.
    size_px
        Side length to which images are resized (bilinear); None keeps their size.

    Raises
    ------
    InputError
        If there are no red, green and blue bands.
    """
    listing = listings().get(task.name)
    images: ImageSource
    if listing is None or not isinstance(task.images, FileImages):
        images = ResizedImages(task.images, size_px, bands)
    else:
        if bands == "rgb" and not listing.rgb:
            raise InputError(
                f"--torchgeo-bands: expected all for {task.name}, whose red, green and blue bands in torchgeo-bench are "
                "aerial photographs, got rgb."
            )
        images = ListedImages(task.images, size_px, listing.select(bands))
    return replace(task, images=images, notes=_notes(task, images))


def _notes(task: LabelledSet, images: ImageSource) -> tuple[str, ...]:
    """Return the notes of the task; if bands are not used according to their content, a note about these instead."""
    if not isinstance(images, ListedImages):
        return task.notes
    spec = images.inner.spec
    held = dict(zip(map(str, spec.bands), spec.file_bands, strict=True))
    wrong = [
        f"{b.plane} holds {held.get(b.plane) or 'no band'} and is used as {used}"
        for b in images.found
        for used in (b.feeds[0].partition(".")[2],)
        if held.get(b.plane) != used
    ]
    if not wrong:
        return task.notes
    return (f"torchgeo-bench relies on the band names in the files, and so does this protocol, although some are wrong: {'; '.join(wrong)}.",)  # fmt: skip


@dataclass(frozen=True, eq=False)
class ListedImages:
    """Images of a data set that torchgeo-bench lists, in the catalog's units, with the bands' names as it takes them."""

    redrawn: ClassVar[bool] = False
    fills_missing: ClassVar[bool] = True
    recorded_statistics: ClassVar[None] = None
    coords: ClassVar[Mapping[str, NDArray[Any]]] = {}
    stand_ins: ClassVar[Mapping[str, Mapping[str, str]]] = {}

    inner: FileImages
    size_px: int | None
    wanted: tuple[Listed, ...]  # bands of the benchmark

    def __len__(self) -> int:
        return len(self.inner)

    @property
    def origin(self) -> Path:
        """Folder or file, for messages."""
        return self.inner.origin

    @cached_property
    def digest(self) -> str:
        """Digest of the images, of the bands and of the size."""
        how = f"{self.inner.digest} {self.size_px} {[(band.plane, band.feeds) for band in self.wanted]}"
        return hashlib.blake2b(how.encode(), digest_size=16).hexdigest()

    @property
    def units(self) -> tuple[float, float]:
        """Scale and offset from the units of the files, which those of the listed statistics are, to the catalog's."""
        spec = self.inner.spec
        return (1.0 if spec.scale is None else spec.scale, 0.0 if spec.offset is None else spec.offset)

    @cached_property
    def found(self) -> tuple[Listed, ...]:
        """Wanted bands that the files have and the catalog knows; those of other sensors are in files of their own."""
        planes = self.inner.read(0).names or tuple(map(str, self.inner.spec.bands))
        return tuple(band for band in self.wanted if band.feeds and band.plane in planes)

    @cached_property
    def modalities(self) -> Mapping[str, Modality]:
        """Modalities of the catalog that the bands feed."""
        names = dict.fromkeys(feed.partition(".")[0] for band in self.found for feed in band.feeds)
        return {name: load_catalog().find(name) for name in names}

    def found_bands(self, modality: Modality) -> tuple[str, ...]:
        """Bands of a modality that the images have, in the order of the benchmark."""
        feeds = [feed.partition(".") for band in self.found for feed in band.feeds]
        return tuple(band for name, _, band in feeds if name == modality.name)

    def outlines(self) -> NDArray[Any]:
        """(N,) shapely outlines of the samples in EPSG:4326, None where unknown."""
        return self.inner.outlines()

    def batches(self, rows: NDArray[np.intp], size: int, modalities: tuple[str, ...]) -> Iterator[Batch]:
        """Raw batches, float32 in the catalog's units; no-data where a band is missing."""
        known = load_catalog().modalities
        for start in range(0, len(rows), size):
            planes = torch.stack([self.planes(int(row)) for row in rows[start : start + size]]).numpy()
            planes = planes if self.units == SAME else planes * np.float32(self.units[0]) + np.float32(self.units[1])
            names = [name for name in modalities if name in known]
            batch: dict[str, Any] = {name: self._fed(known[name], planes) for name in names}
            tiles = len(planes)
            levels = np.full(tiles, NO_LEVEL_CODE, np.uint8)
            yield {**batch, "tile": {"tile_id": np.zeros(tiles, np.uint64), "s2_level": levels}}

    def planes(self, row: int) -> torch.Tensor:
        """(C, H, W) float32 of the found bands, resized as the benchmark does; values as in the file.

        Raises `FileInputError` if the file lacks a band.
        """
        raster = self.inner.read(row)
        names = raster.names or tuple(map(str, self.inner.spec.bands))
        absent = [band.plane for band in self.found if band.plane not in names]
        if absent or len(names) != len(raster.values):
            what = f"the band {absent[0]!r}" if absent else f"{len(names)} bands ({', '.join(names)})"
            raise FileInputError(self.inner.items[row], f"expected {what}, got {len(raster.values)} others.")
        chosen = raster.values[[names.index(band.plane) for band in self.found]]
        return resize(torch.from_numpy(chosen.astype(np.float32)), self.size_px)

    def _fed(self, modality: Modality, planes: NDArray[np.float32]) -> NDArray[np.float32]:
        """(B, bands of the modality, H, W) from (B, C, H, W) planes."""
        tiles, _, *sides = planes.shape
        image = np.full((tiles, len(modality.bands), *sides), modality.nodata, dtype=np.float32)
        for number, band in enumerate(self.found):
            for name, _, fed in (feed.partition(".") for feed in band.feeds):
                if name == modality.name:
                    image[:, modality.bands.index(fed)] = _observed(planes[:, number], modality.nodata)
        return image

    @property
    def own_normaliser(self) -> Callable[[NDArray[np.intp]], Normaliser]:
        """Normalises with the listed statistics."""
        return self._normaliser_of

    def _normaliser_of(self, train: NDArray[np.intp]) -> Normaliser:
        statistics: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
        for band in self.found:
            for name, _, fed in (feed.partition(".") for feed in band.feeds):
                scale, offset = self.units
                entry = {"count": 1, "mean": band.mean * scale + offset, "std": band.std * abs(scale)}
                statistics.setdefault(name, {NO_LEVEL: {}})[NO_LEVEL][fed] = entry
        seen = [replace(m, model_bands=self.found_bands(m)) for m in self.modalities.values()]
        return Normaliser(seen, {"train": statistics}, inputs=[m.name for m in seen])


@dataclass(frozen=True, eq=False)
class ResizedImages:
    """Resized images of a task that torchgeo-bench does not list; pixels next to missing ones become missing."""

    redrawn: ClassVar[bool] = False
    fills_missing: ClassVar[bool] = True

    inner: ImageSource
    size_px: int | None
    bands: Bands

    def __len__(self) -> int:
        return len(self.inner)

    @property
    def origin(self) -> Path | str:
        """Store, folder or file, for messages."""
        return self.inner.origin

    @cached_property
    def digest(self) -> str:
        """Digest of the images, of the bands and of the size."""
        how = f"{self.inner.digest} {self.size_px} {self.bands}"
        return hashlib.blake2b(how.encode(), digest_size=16).hexdigest()

    @cached_property
    def modalities(self) -> Mapping[str, Modality]:
        """Modalities of the batches; models see the bands that are used."""
        return {name: self._cut(modality) for name, modality in self.inner.modalities.items()}

    @property
    def recorded_statistics(self) -> Mapping[str, Any] | None:
        """Statistics that were recorded with the images."""
        return self.inner.recorded_statistics

    @property
    def coords(self) -> Mapping[str, NDArray[Any]]:
        """Coordinates of the samples."""
        return self.inner.coords

    @property
    def stand_ins(self) -> Mapping[str, Mapping[str, str]]:
        """Replaced bands."""
        return self.inner.stand_ins

    def outlines(self) -> NDArray[Any]:
        """(N,) shapely outlines of the samples in EPSG:4326, None where unknown."""
        return self.inner.outlines()

    def found_bands(self, modality: Modality) -> tuple[str, ...]:
        """Bands of a modality that the images have and that are used."""
        return tuple(band for band in self.inner.found_bands(modality) if band in self._used(modality))

    @property
    def own_normaliser(self) -> Callable[[NDArray[np.intp]], Normaliser] | None:
        """Normalises by the training samples, where the images do."""
        return None if self.inner.own_normaliser is None else self._normaliser_of

    def _normaliser_of(self, train: NDArray[np.intp]) -> Normaliser:
        assert self.inner.own_normaliser is not None
        own = self.inner.own_normaliser(train)
        cut = [self._cut(modality) for modality in own.modalities.values()]
        return Normaliser(cut, {"train": own.statistics}, inputs=own.inputs)

    def batches(self, rows: NDArray[np.intp], size: int, modalities: tuple[str, ...]) -> Iterator[Batch]:
        """Raw batches, float32 if they are resized or lack bands."""
        known = load_catalog().modalities
        for batch in self.inner.batches(rows, size, modalities):
            found = {name: self._changed(self.modalities.get(name, known.get(name)), part) for name, part in batch.items()}  # fmt: skip
            yield {**batch, **found}

    def _changed(self, modality: Modality | None, values: Any) -> Any:  # noqa: ANN401 - arrays of any type, coordinates
        """Resized images of a modality without the bands that are not used; anything else unchanged."""
        if modality is None or not (modality.kind.is_raster and modality.kind.is_continuous):
            return values
        image = np.asarray(values, dtype=np.float32)
        unused = [number for number, band in enumerate(modality.bands) if band not in self._used(modality)]
        if unused:
            image[:, unused] = modality.nodata
        side = self.size_px
        return image if side is None else np.stack([resized(part, side, side, modality.nodata) for part in image])

    def _cut(self, modality: Modality) -> Modality:
        """Let models see the used bands only."""
        if not (modality.kind.is_raster and modality.kind.is_continuous):
            return modality
        return replace(modality, model_bands=tuple(b for b in modality.model_bands if b in self._used(modality)))

    def _used(self, modality: Modality) -> tuple[str, ...]:
        return modality.display.bands if self.bands == "rgb" else modality.bands


def resize(image: torch.Tensor, size_px: int | None) -> torch.Tensor:
    """(C, H, W) float32 to (C, size_px, size_px): bilinear between pixel centres, without smoothing."""
    if size_px is None or image.shape[1:] == (size_px, size_px):
        return image
    shape = (size_px, size_px)
    return functional.interpolate(image[None], size=shape, mode="bilinear", align_corners=False)[0]


def bands_used(images: ImageSource, bands: Bands, taken: Set[str] | None) -> str:
    """Bands as torchgeo-bench writes them: ``rgb``, ``all``, or names, if an encoder lacks bands that it would use.

    Parameters
    ----------
    images
        Images of a task from `as_benched`.
    bands
        The requested bands.
    taken
        Bands that an encoder takes, ``sentinel2.B4``; None for one that takes any.
    """
    if not isinstance(images, ListedImages):
        return bands
    absent = [b for b in images.wanted if b not in images.found and (taken is None or taken & set(b.feeds))]
    return ",".join(band.name for band in images.found) if absent else bands


def _observed(plane: NDArray[np.float32], nodata: float) -> NDArray[np.float32]:
    """Values of which none is interpreted as no-data, except NaN."""
    if math.isnan(nodata):
        return plane
    step = max(TINY, abs(float(np.spacing(np.float32(nodata)))))
    return np.where(np.isnan(plane), nodata, np.where(plane == nodata, np.float32(nodata + step), plane)).astype(np.float32)  # fmt: skip
