"""The source of images without a georeference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from mmearth_data.catalog.tile import LEVEL_NAMES, LEVEL_NONE, MAX_SIZE_PX, NO_TIME, Place, TileGrid, round_lonlat
from mmearth_data.errors import InputError, TileUnavailable
from mmearth_data.recipes import LABELLED, file_digest
from mmearth_data.sources.base import FIELDS_OF_ALL, Rejection, Survey
from mmearth_data.sources.chips.containers import digest_of, open_images
from mmearth_data.sources.chips.decoding import UNREADABLE, WRONG_SIZE
from mmearth_data.sources.chips.description import Described
from mmearth_data.sources.chips.facts import LEFT_OUT, Facts, splits_of
from mmearth_data.sources.chips.labels import class_names, read_labels
from mmearth_data.sources.chips.layers import Layer, select_layers
from mmearth_data.sources.chips.matching import Chip, match_chips

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from geopandas import GeoDataFrame
    from numpy.typing import NDArray

    from mmearth_data.catalog.entries import Catalog
    from mmearth_data.catalog.modality import Modality
    from mmearth_data.geography.zones import ZonePart
    from mmearth_data.rasterfile import Raster
    from mmearth_data.sources.base import Source
    from mmearth_data.sources.chips.containers import Images
    from mmearth_data.sources.chips.matching import Matched
    from mmearth_data.sources.labels.table import Label

NOT_IN_SOURCE = "not_in_source"
UNUSED = LABELLED | {"cover", "overlap_px", "ecoregions", "tiles_file"}
"""Fields of all sources that need locations or a table of locations."""
PROBED = 16
"""Number of images of a layer that are tested, so that a mistake in all of them is reported before the build."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """What is known about the chips that are built, one entry each."""

    chips: tuple[Chip, ...]
    lon: NDArray[np.float64]
    lat: NDArray[np.float64]
    time_ms: Sequence[int]
    split: NDArray[np.uint8] | None
    labels: tuple[Label, ...]
    notes: tuple[str, ...]


class ChipSource:
    """Delivers tiles from images without a georeference, as a chips file describes them.

    Parameters
    ----------
    path
        The chips file (`mmearth_data.sources.chips.description`).
    catalog
        Modalities that it may name.
    seed
        Determines random splits.

    The constructor reads nothing; the first method call reads the file and digests all images, and every method raises
    InputError if one of the files cannot be used. An image that cannot be used is rejected when it is read.
    """

    name = "chips"
    recipe_fields: ClassVar[frozenset[str]] = FIELDS_OF_ALL - UNUSED

    def __init__(self, path: Path, *, catalog: Catalog, seed: int = 0) -> None:
        self._path = Path(path)
        self._catalog = catalog
        self._seed = seed

    @cached_property
    def described(self) -> Described:
        """The chips file."""
        return Described(self._path)

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """Layers, checked against the catalog."""
        return select_layers(self.described, self._catalog)

    @cached_property
    def images(self) -> tuple[Images, ...]:
        """Images of each layer; layers of one file share it."""
        opened: dict[tuple[str, str | None], Images] = {}
        for layer in self.described.file.modalities:
            key = (layer.images or self.described.file.images, layer.dataset)
            if key not in opened:
                opened[key] = open_images(self.described.beside(key[0]), key[1])
        entries = self.described.file.modalities
        return tuple(opened[entry.images or self.described.file.images, entry.dataset] for entry in entries)

    @cached_property
    def matched(self) -> Matched:
        """All chips."""
        return match_chips(self.described, self.images)

    @property
    def synthetic(self) -> bool:
        """Whether tags or attributes mark any image as synthetic, as in exports of synthetic stores."""
        return any(
            self.images[at].is_synthetic(name) for chip in self.matched.chips for at, name in chip.images.items()
        )

    @cached_property
    def size_px(self) -> int:
        """Side of the tiles: as the chips file says, or that of the first image."""
        stated = self.described.file.size_px
        height, width = (stated, stated) if stated is not None else self._first(0).values.shape[1:]
        if height == width and height % 16 == 0 and 0 < height < MAX_SIZE_PX:
            return int(height)
        problem = f"expected square tiles of a multiple of 16 px from 16 to 2032, got {width} x {height}"
        raise self.described.refusal(
            f"{problem}; give another size_px, and crop: centre for larger images.", "size_px" if stated else "images"
        )

    @cached_property
    def known(self) -> Known:
        """Facts about the chips that are built."""
        everything = Facts(self.described, self.matched.chips, len(self.images[0].names))
        file, chips = self.described.file, self.matched.chips
        labels = read_labels(everything)
        of_label = {label.modality.name: label for label in labels}
        split = splits_of(everything, self._seed, lambda name: class_names(of_label[name]))
        nowhere = np.full(len(chips), np.nan)
        lon = nowhere if file.lon is None else everything.numbers(file.lon, "lon", -180, 180)
        lat = nowhere if file.lat is None else everything.numbers(file.lat, "lat", -90, 90)
        times = [NO_TIME] * len(chips) if file.date is None else everything.times(file.date)
        kept = np.arange(len(chips)) if split is None else np.flatnonzero(split != LEFT_OUT)
        left = len(chips) - len(kept)
        notes = [*self.matched.notes, *everything.notes]
        notes += [f"{left} images are in no split and are not built."] if left else []
        if not len(kept):
            raise self.described.refusal(
                "splits: expected images in train, val or test, got none; correct it.", "splits"
            )
        return Known(
            chips=tuple(chips[at] for at in kept),
            lon=np.where(np.isfinite(lat), round_lonlat(lon), np.nan)[kept],
            lat=np.where(np.isfinite(lon), round_lonlat(lat), np.nan)[kept],
            time_ms=[times[at] for at in kept],
            split=None if split is None else split[kept],
            labels=tuple(type(label)(label.modality, label.values[kept]) for label in labels),
            notes=tuple(notes),
        )

    def identity(self) -> dict[str, Any]:
        """Everything that determines the tiles: the chips file, the content of all images, and their facts; no paths."""
        known = self.known
        facts = [known.lon.tobytes(), known.lat.tobytes(), np.array(known.time_ms, dtype=np.int64).tobytes()]
        facts.append(b"" if known.split is None else known.split.tobytes())
        names = "\0".join(chip.name for chip in known.chips).encode("utf-8", "surrogateescape")
        return {
            "name": self.name,
            "chips_file": file_digest(self._path),
            "images": {
                "count": len(known.chips),
                "names": digest_of(names).hex(),
                "content": digest_of(*(chip.digest for chip in known.chips)).hex(),
            },
            "facts": digest_of(*facts).hex(),
            "labels": {label.modality.name: label.identity() for label in known.labels},
            "notes": self.notes,
        }

    @property
    def notes(self) -> list[str]:
        """Notes about the images for users of the store."""
        layers = [f"{layer.modality.name}: {note}" for layer in self.layers for note in layer.entry.notes]
        return [*self.described.file.notes, *layers, *self.known.notes]

    @property
    def remarks(self) -> list[str]:
        """Images that are not built, and rows without an image."""
        return list(self.known.notes)

    @property
    def coordinates(self) -> frozenset[str]:
        """Coordinates that the chips file gives."""
        file = self.described.file
        given = {"lon": file.lon, "lat": file.lat, "time": file.date}
        return frozenset(name for name, origin in given.items() if origin is not None)

    def own_modalities(self) -> tuple[Modality, ...]:
        """Modalities of the layers, with the bands that the images have, and the labels."""
        return (*(layer.modality for layer in self.layers), *(label.modality for label in self.known.labels))

    def modalities(self, wanted: Sequence[Modality]) -> tuple[Modality, ...]:
        """Return the requested modalities that the chips file defines or names."""
        own = {m.name for m in self.own_modalities()}
        return tuple(m for m in wanted if m.name in own)

    def places(self, size_px: int) -> list[Place]:
        """One location per chip, known or not, in the order of their names; InputError if the images have another size."""
        self._check(size_px)
        known = self.known
        rows = zip(known.chips, known.lon.tolist(), known.lat.tolist(), strict=True)
        places = [Place(tile_id=chip.tile_id(size_px), lon=lon, lat=lat, size_px=size_px) for chip, lon, lat in rows]
        if len({place.tile_id for place in places}) < len(places):
            raise self.described.refusal("two different images have the same tile id; leave one of them out.", "images")
        return places

    def area(self) -> tuple[ZonePart, ...]:
        """Return None: chips have no grid."""
        return ()

    def ecoregions(self) -> GeoDataFrame:
        """Refuse: the chips are given."""
        raise InputError(f"{self.name}: expected a source whose locations are sampled, got one with its own images.")

    def survey(self, places: Sequence[Place]) -> list[Survey | Rejection]:
        """One result per location; those that are no chip of this source are rejected."""
        return [self._survey(place) for place in places]

    @cached_property
    def _positions(self) -> Mapping[int, int]:
        """Content of a tile id, without its size -> position of the chip."""
        return {chip.tile_id(self.size_px) >> 7: at for at, chip in enumerate(self.known.chips)}

    def _survey(self, place: Place) -> Survey | Rejection:
        at = self._positions.get(place.tile_id >> 7)
        if at is None:
            return Rejection(place=place, reason=NOT_IN_SOURCE, detail="no image matches the content of this tile")
        known = self.known
        levels = {name: code for code, name in LEVEL_NAMES.items()}
        return Survey(
            place=place,
            grid=TileGrid(epsg=0, ulx=math.nan, uly=math.nan, size_px=place.size_px),
            time_ms=known.time_ms[at],
            s2_level=levels.get(self.described.file.level or "", LEVEL_NONE),
            values={label.modality.name: label.values[at] for label in known.labels},
            facts={"image": known.chips[at].name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")},
            split=None if known.split is None else int(known.split[at]),
            request=at,
        )

    def read(self, survey: Survey, modalities: Sequence[Modality]) -> dict[str, NDArray[Any]]:
        """Arrays of one chip; modalities without an image are left out.

        Raises TileUnavailable if an image cannot be read, or has other planes, another size, or numbers that do not fit.
        """
        chip = self.known.chips[survey.request]
        wanted = {m.name for m in modalities}
        return {
            layer.modality.name: self._read(chip, at, survey.place.size_px)
            for at, layer in enumerate(self.layers)
            if at in chip.images and layer.modality.name in wanted
        }

    def _read(self, chip: Chip, at: int, size_px: int) -> NDArray[Any]:
        layer, name = self.layers[at], chip.images[at]
        raster = self.images[at].read(name, len(layer.entry.bands), layer.entry.axes)
        return layer.stored(self._cropped(raster, name, size_px), name)

    def _cropped(self, raster: Raster, name: str, size_px: int) -> Raster:
        height, width = raster.values.shape[1:]
        if height == width == size_px:
            return raster
        crop = self.described.file.crop
        if min(height, width) < size_px or crop is None:
            remedy = " (crop: centre crops larger images)" if min(height, width) >= size_px else ""
            detail = f"{name}: expected {size_px} x {size_px} px, got {width} x {height}{remedy}"
            raise TileUnavailable(WRONG_SIZE, detail)
        return raster.window((height - size_px) // 2, (width - size_px) // 2, size_px)

    def _first(self, at: int) -> Raster:
        """First image of a layer that can be decoded; FileInputError if none of the first ones can."""
        layer = self.layers[at].entry
        refusal: TileUnavailable | None = None
        for chip in self.matched.chips[:PROBED]:
            try:
                if at in chip.images:
                    return self.images[at].read(chip.images[at], len(layer.bands), layer.axes)
            except TileUnavailable as problem:
                refusal = refusal or problem
                if problem.reason != UNREADABLE:
                    break
        detail = "no image of the first chips" if refusal is None else refusal.detail
        raise self.described.refusal(f"{detail}; correct it, or remove it.", "modalities", at)

    def _check(self, size_px: int) -> None:
        """Read the first images, so that a problem of all of them is reported before the build."""
        for at in range(len(self.layers)):
            refusal: TileUnavailable | None = None
            for chip in (chip for chip in self.matched.chips[:PROBED] if at in chip.images):
                try:
                    self._read(chip, at, size_px)
                except TileUnavailable as problem:
                    refusal = refusal or problem
                else:
                    refusal = None
                    break
            if refusal is not None:
                raise self.described.refusal(f"{refusal.detail}; correct the file or this entry.", "modalities", at)


if TYPE_CHECKING:
    _: type[Source] = ChipSource
