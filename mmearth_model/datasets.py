"""A store with the interface of torchgeo's data sets; torchgeo itself is not imported.

Indexed by position, it behaves like a `torchgeo.datasets.NonGeoDataset`, whose chips are the tiles. If all tiles share a
CRS, it can also be indexed by area like a `torchgeo.datasets.GeoDataset`, without resampling, for torchgeo's geo samplers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch.utils.data import Dataset

from mmearth_data import InputError, Kind, Store, TileSamples, derived, format_tile_ids, open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from geopandas import GeoDataFrame
    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from pyproj import CRS
    from torch import Tensor

    from mmearth_data import Batch, Modality

    Sample = dict[str, Any]
    Area = slice | tuple[slice, ...]

__all__ = ["MMEarthStore"]

IGNORE_INDEX = -100
"""Class index of pixels without a class; torch's losses ignore it by default."""
PIXEL_M = 10.0
"""Side of a pixel in metres."""
INCHES = 3.2
"""Side of a panel of a plot, in inches."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of a sample: the values of a modality, or of one of its bands.

    Attributes
    ----------
    key
        ``image``, ``mask``, ``label``, or these with ``_`` and the modality's name.
    modality
        Modality whose values are delivered.
    band
        The only band to deliver; None delivers all bands.
    """

    key: str
    modality: Modality
    band: str | None = None

    @property
    def classes(self) -> bool:
        """Whether the values are class indices."""
        return self.modality.kind.is_categorical

    @property
    def fill(self) -> float:
        """Value of a pixel where nothing was observed."""
        if self.key.startswith("image"):
            return 0.0
        return math.nan if self.modality.kind.is_continuous else IGNORE_INDEX

    def tensor(self, batch: Batch) -> Tensor:
        """Values of a batch: float32 (B, C, H, W), (B, H, W), (B, C) or (B,); int64 for classes and masks."""
        m = self.modality
        values = batch[m.name] if m.stored else derived(m, batch["tile"])
        if m.kind is Kind.TILE_CATEGORICAL:
            return torch.from_numpy(self._indices(values))
        if m.kind is Kind.TILE_MULTI_LABEL:
            return torch.from_numpy(np.where(m.observed(values), values.astype(np.int64), IGNORE_INDEX))
        if not m.kind.is_continuous:
            return torch.from_numpy(self._indices(values[:, 0]))
        if self.band is not None:
            values = values[:, m.bands.index(self.band)]
        seen = m.observed(values) if values.dtype == m.dtype else ~np.isnan(values)
        return torch.from_numpy(np.where(seen, values, np.float32(self.fill)).astype(np.float32))

    def _indices(self, codes: NDArray[Any]) -> NDArray[np.int64]:
        """Class indices, in the order of the classes of the modality; for masks, the stored codes."""
        found = self.modality.class_code_index()[codes] if self.classes else codes.astype(np.int64)
        known = found >= 0 if self.classes else self.modality.observed(codes)
        indices: NDArray[np.int64] = np.where(known, found, IGNORE_INDEX)
        return indices


class MMEarthStore(Dataset["Sample"]):
    """The tiles of a store as samples with torchgeo's keys.

    Parameters
    ----------
    store
        A store, a selection of its tiles, or a path.
    split
        ``train``, ``val`` or ``test``; None uses all tiles.
    modalities
        Raster modalities to deliver as images: the first as ``image``, the others as ``image_NAME``. None uses the first
        one that may feed an encoder, which is Sentinel-2 in most stores.
    target
        One or several modalities to learn: the first is ``mask`` (rasters) or ``label`` (values per tile), the others are
        ``mask_NAME`` or ``label_NAME``. ``NAME.BAND`` is one band of a continuous modality.
    bands
        Modality -> bands of its image, in this order.
    normalise
        Deliver images as z-scores by the statistics of the store, instead of stored values.
    transforms
        Function that is called with each sample; its result is delivered instead.

    Raises
    ------
    InputError
        If no tile is left, or a modality, band or split is unknown or of the wrong kind.

    Notes
    -----
    A sample has these keys:

    ========================  ==================================================================================
    ``image``                 float32 (C, H, W): stored values or z-scores, 0 where nothing was observed
    ``mask``                  classes: int64 (H, W), class index, ``ignore_index`` where unknown; masks: stored codes;
                              continuous: float32 (H, W) or (C, H, W), stored units, NaN where unknown
    ``label``                 int64 class index (tiles without a class are left out); continuous: float32
    ``bounds``                float64 (4,): xmin, ymin, xmax, ymax in the CRS of the tile; NaN if not recorded
    ``crs``                   text such as ``EPSG:32632``, empty if not recorded
    ``tile_id``, ``date``     texts: 16 hex digits; day of the scene, empty if unknown
    ========================  ==================================================================================

    As in torchgeo, the key of the bounding box is ``bounds``. It is not ``bbox``, because kornia's augmentations, which
    torchgeo applies to whole samples, interpret an entry ``bbox`` as boxes of objects.

    torchgeo's geo samplers (which use `index`, `crs`, `res` and `bounds`) require that all tiles share a CRS. Those of a
    large region do not, so select the tiles of one: ``store.select(where=lambda tile: tile["epsg"] == 32632)``. Areas have
    the resolution and the grid of the tiles. ``&`` and ``|`` are not supported; they require torchgeo's own classes.

    Examples
    --------
    >>> from torchgeo.datamodules import NonGeoDataModule  # doctest: +SKIP
    >>> data = NonGeoDataModule(MMEarthStore, 16, store="planet.zarr", target="esa_worldcover")  # doctest: +SKIP
    """

    ignore_index: ClassVar[int] = IGNORE_INDEX

    def __init__(
        self,
        store: Store | str | Path,
        split: str | None = None,
        modalities: str | Sequence[str] | None = None,
        target: str | Sequence[str] | None = None,
        *,
        bands: Mapping[str, Sequence[str]] | None = None,
        normalise: bool = False,
        transforms: Callable[[Sample], Sample] | None = None,
    ) -> None:
        opened = store if isinstance(store, Store) else open_store(store)
        self.images = _images(opened, modalities)
        self.targets = _targets(opened, target)
        self.transforms = transforms
        self.store = _labelled(opened.select(split=split), self.targets)
        images = [entry.modality.name for entry in self.images]
        wanted = [entry.modality.name for entry in self.targets if entry.modality.stored]
        self._images = TileSamples(self.store, modalities=images, bands=bands, normalise=normalise)
        self._targets = TileSamples(self.store, modalities=wanted) if wanted else None
        self.bands = {m.name: tuple((bands or {}).get(m.name, m.bands)) for m in (e.modality for e in self.images)}

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self.store)

    def __str__(self) -> str:
        return f"{type(self).__name__} Dataset\n    type: NonGeoDataset\n    size: {len(self)}"

    @property
    def classes(self) -> list[str]:
        """Class names of the first target, in the order of the class indices; empty if it has no classes."""
        return [label.name for label in self.targets[0].modality.classes] if self.targets else []

    def __getitem__(self, query: int | Area) -> Sample:
        """Return one tile by position, or an area by ``[xmin:xmax, ymin:ymax, tmin:tmax]`` in `crs`.

        An area is composed of the tiles that it intersects; where tiles overlap, the first one counts, and pixels outside
        all tiles are missing. Its label is that of the first tile. Raises `IndexError` if there is no such position, or no
        tile in the area.
        """
        if isinstance(query, slice | tuple):
            sample = self._area(query)
        else:
            (sample,) = self._samples([query])
        return sample if self.transforms is None else self.transforms(sample)

    def __getitems__(self, queries: Sequence[int | Area]) -> list[Sample]:
        """Return several samples, whose tiles are read together; torch's `DataLoader` calls this for each batch."""
        if any(isinstance(query, slice | tuple) for query in queries):
            return [self[query] for query in queries]
        samples = self._samples(queries)  # type: ignore[arg-type]
        return samples if self.transforms is None else [self.transforms(sample) for sample in samples]

    def _samples(self, positions: Sequence[int]) -> list[Sample]:
        """Read tiles, without transforms."""
        batch = self._images.read(positions)
        found: dict[str, Any] = {entry.key: entry.tensor(batch) for entry in self.images}
        known = batch if self._targets is None else {**self._targets.read(positions), "tile": batch["tile"]}
        found |= {entry.key: entry.tensor(known) for entry in self.targets}
        place = _place(batch["tile"], self.store.layout.size_px)
        texts = {name: values.tolist() for name, values in place.items() if name != "bounds"}
        found["bounds"] = torch.from_numpy(place["bounds"])
        return [{name: values[i] for name, values in (found | texts).items()} for i in range(len(place["tile_id"]))]

    # ---------------------------------------------------------------- areas

    @property
    def res(self) -> tuple[float, float]:
        """Metres per pixel, in x and y."""
        return (PIXEL_M, PIXEL_M)

    @cached_property
    def crs(self) -> CRS:
        """CRS of all tiles. Raises `InputError` if they have several, or if the corner of a tile is unknown."""
        from pyproj import CRS

        coords = self.store.coords
        if np.isnan(coords["ulx"]).any():
            raise InputError(
                f"{self.store.path}: expected tiles with known corners for areas, got some without; index by position instead."
            )
        codes = np.unique(coords["epsg"])
        if len(codes) > 1:
            raise InputError(
                f"{self.store.path}: expected tiles of one CRS for areas, got {len(codes)} (EPSG:{codes[0]}, "
                f"EPSG:{codes[1]}, ...); select one with where=lambda tile: tile['epsg'] == {codes[0]}, or index by position."
            )
        return CRS.from_epsg(int(codes[0]))

    @cached_property
    def index(self) -> GeoDataFrame:
        """Outlines of the tiles in `crs`, indexed by time interval, for torchgeo's geo samplers."""
        import pandas as pd
        import shapely
        from geopandas import GeoDataFrame

        crs, place = self.crs, _place(self.store.coords, self.store.layout.size_px)
        times = self.store.coords["time"].astype("datetime64[ns]")
        unknown = np.isnat(times)
        starts = pd.DatetimeIndex(np.where(unknown, pd.Timestamp.min.to_datetime64(), times))
        stops = pd.DatetimeIndex(np.where(unknown, pd.Timestamp.max.to_datetime64(), times))
        intervals = pd.IntervalIndex.from_arrays(starts, stops, closed="both", name="datetime")
        outlines = shapely.box(*place["bounds"].T)
        return GeoDataFrame({"tile_id": place["tile_id"]}, index=intervals, geometry=outlines, crs=crs)

    @property
    def bounds(self) -> tuple[slice, slice, slice]:
        """Bounds of all tiles in x, y and time."""
        west, south, east, north = (float(edge) for edge in self.index.total_bounds)
        times = self.index.index
        x, y = slice(west, east, PIXEL_M), slice(south, north, PIXEL_M)
        return x, y, slice(times.left.min(), times.right.max(), 1)

    def _area(self, query: Area) -> Sample:
        x, y, t = self._resolved(query)
        west, south, east, north = self.index.geometry.bounds.to_numpy().T
        times = self.index.index
        hits = (west < x.stop) & (east > x.start) & (south < y.stop) & (north > y.start)
        hits &= (times.left <= t.stop) & (times.right >= t.start)
        positions = np.flatnonzero(hits).tolist()
        if not positions:
            raise IndexError(
                f"Expected an area with tiles, got {query}, which has none; the tiles are within {self.bounds}."
            )
        samples = self._samples(positions)
        shape = (round((y.stop - y.start) / PIXEL_M), round((x.stop - x.start) / PIXEL_M))
        found = samples[0] | {"bounds": torch.tensor([x.start, y.start, x.stop, y.stop], dtype=torch.float64)}
        for entry in (*self.images, *self.targets):
            if entry.modality.kind.is_raster:
                corners = [
                    (round((y.stop - north[i]) / PIXEL_M), round((west[i] - x.start) / PIXEL_M)) for i in positions
                ]
                parts = [sample[entry.key] for sample in samples]
                # In reverse order, since later parts cover earlier ones.
                found[entry.key] = _paste(parts[::-1], corners[::-1], shape, entry.fill)
        return found

    def _resolved(self, query: Area) -> tuple[slice, slice, slice]:
        """Replace the open ends of an area by the bounds of all tiles."""
        given = (query,) if isinstance(query, slice) else tuple(query)
        if len(given) > 3 or not all(isinstance(part, slice) for part in given):
            raise InputError(f"Expected an area [xmin:xmax, ymin:ymax, tmin:tmax], got {query}.")
        whole = self.bounds
        filled = [
            slice(
                bound.start if part.start is None else part.start,
                bound.stop if part.stop is None else part.stop,
                part.step,
            )
            for part, bound in zip((*given, *(slice(None),) * (3 - len(given))), whole, strict=True)
        ]
        if any(part.step not in (None, PIXEL_M) for part in filled[:2]):
            raise InputError(
                f"Expected an area at {PIXEL_M:g} m per pixel, got {query}; leave the step out and resample the result."
            )
        ends = [end for part in filled[:2] for end in (part.start, part.stop)]
        if not all(isinstance(end, int | float | np.number) for end in ends):
            raise InputError(f"Expected an area in metres of {self.crs.name}, got {query}.")
        if any(0 <= part.stop - part.start < PIXEL_M / 2 for part in filled[:2]):
            raise InputError(f"Expected an area of at least one pixel of {PIXEL_M:g} m, got {query}.")
        return filled[0], filled[1], filled[2]

    # ---------------------------------------------------------------- pictures

    def plot(self, sample: Sample, show_titles: bool = True, suptitle: str | None = None) -> Figure:
        """Draw the images and targets of a sample, and its ``prediction`` if it has one.

        Parameters
        ----------
        sample
            One sample (not a batch), on the CPU.
        show_titles
            Write a title above each panel.
        suptitle
            Title of the figure; by default, the names of the labelled and the predicted class.

        Returns
        -------
        Figure
            Images are stretched from their 2nd to their 98th percentile; classes have the colours of the catalog.
        """
        from matplotlib.figure import Figure

        maps = [
            entry for entry in (*self.images, *self.targets) if entry.modality.kind.is_raster and entry.key in sample
        ]
        panels = [(entry.modality.long_name, partial(self._draw, entry, sample[entry.key])) for entry in maps]
        guess, first = sample.get("prediction"), self.targets[0] if self.targets else None
        if guess is not None and first is not None and first.modality.kind.is_raster:
            panels.append(("Prediction", partial(self._draw, first, guess)))
        figure = Figure(figsize=(INCHES * len(panels), INCHES + 0.4), layout="constrained")
        for number, (title, draw) in enumerate(panels, start=1):
            axis = figure.add_subplot(1, len(panels), number)
            axis.set_axis_off()
            draw(axis)
            if show_titles:
                axis.set_title(title, fontsize=9)
        title = self._label_text(sample) if suptitle is None else suptitle
        made = " (synthetic)" if self.store.synthetic else ""
        figure.suptitle(f"{title}{made}".strip(), fontsize=10)
        return figure

    def _draw(self, entry: Entry, values: Tensor, axis: Any) -> None:  # noqa: ANN401 - matplotlib
        array = values.numpy()
        if not entry.modality.kind.is_continuous:
            _draw_classes(entry.modality, array, axis)
            return
        bands = self.bands[entry.modality.name] if entry.key.startswith("image") else entry.modality.bands
        stack = array if array.ndim == 3 else array[None]  # (C, H, W)
        shown = [
            bands.index(band) for band in entry.modality.display.bands if band in bands and len(stack) == len(bands)
        ]
        picture = _stretched(stack[shown if len(shown) in (1, 3) else [0]])
        axis.imshow(picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0), cmap="viridis", vmin=0, vmax=1)

    def _label_text(self, sample: Sample) -> str:
        words = []
        for key, name in (("label", "label"), ("prediction", "prediction")):
            value = sample.get(key)
            if value is not None and value.ndim == 0 and self.classes and 0 <= int(value) < len(self.classes):
                words.append(f"{name}: {self.classes[int(value)]}")
        return ", ".join(words)


def _names(given: str | Sequence[str] | None) -> list[str]:
    try:
        names = [] if given is None else [given] if isinstance(given, str) else list(given)
    except TypeError:
        raise InputError(f"Expected names of modalities, got {given!r} ({type(given).__name__}).") from None
    return list(dict.fromkeys(map(str, names)))


def _images(store: Store, given: str | Sequence[str] | None) -> tuple[Entry, ...]:
    """Describe the images of a sample."""
    rasters = {m.name: m for m in store.modalities.values() if m.kind is Kind.RASTER_CONTINUOUS}
    names = _names(given) or [name for name, m in rasters.items() if m.input][:1]
    unknown = [name for name in names if name not in rasters]
    if unknown or not names:
        raise InputError(
            f"{store.path}: expected images among the modalities {', '.join(rasters) or 'raster/continuous'}, got "
            f"{', '.join(unknown) or 'none'}."
        )
    return tuple(Entry("image" if not i else f"image_{name}", rasters[name]) for i, name in enumerate(names))


def _targets(store: Store, given: str | Sequence[str] | None) -> tuple[Entry, ...]:
    """Describe the targets of a sample."""
    found: list[Entry] = []
    for text in _names(given):
        name, _, band = text.partition(".")
        m = store.modalities.get(name)
        if m is None:
            raise InputError(f"{store.path}: expected a target among {', '.join(store.modalities)}, got {name!r}.")
        if band and (band not in m.bands or not m.kind.is_continuous):
            quantities = ", ".join(m.bands) if m.kind.is_continuous else "none, since it has classes"
            raise InputError(f"{name}: expected a band of the target ({quantities}), got {band!r}.")
        form = "mask" if m.kind.is_raster else "label"
        key = form if all(form != entry.key for entry in found) else f"{form}_{name}"
        found.append(Entry(key, m, band or (m.bands[0] if m.kind.is_continuous and len(m.bands) == 1 else None)))
    return tuple(found)


def _labelled(store: Store, targets: Sequence[Entry]) -> Store:
    """Select the tiles that have a class for every target with classes per tile."""
    keep = np.ones(len(store), dtype=bool)
    for entry in targets:
        m = entry.modality
        if m.kind in (Kind.TILE_CATEGORICAL, Kind.TILE_MULTI_LABEL):
            codes = store.read(m.name, slice(0, store.layout.tiles))[store.rows]
            several = m.kind.is_multi_label
            keep &= m.observed(codes).all(axis=1) if several else m.class_code_index()[codes] >= 0
    return store if keep.all() else store.select(where=keep)


def _place(tile: Mapping[str, NDArray[Any]], size_px: int) -> dict[str, NDArray[Any]]:
    """Bounds (n, 4), CRS, id and day of tiles."""
    side = PIXEL_M * size_px
    x, y = tile["ulx"], tile["uly"]
    days = tile["time"].astype("datetime64[D]")
    return {
        "bounds": np.stack([x, y - side, x + side, y], axis=-1),
        "crs": np.array([f"EPSG:{code}" if code else "" for code in tile["epsg"].tolist()]),
        "tile_id": format_tile_ids(tile["tile_id"]),
        "date": np.where(np.isnat(days), "", days.astype("U10")),
    }


def _paste(parts: Sequence[Tensor], corners: Sequence[tuple[int, int]], shape: tuple[int, int], fill: float) -> Tensor:
    """Paste (..., H, W) tiles at their rows and columns into an area; later ones cover earlier ones."""
    area = torch.full((*parts[0].shape[:-2], *shape), fill, dtype=parts[0].dtype)
    for part, (top, left) in zip(parts, corners, strict=True):
        height, width = part.shape[-2:]
        rows = slice(max(0, top), min(shape[0], top + height))
        columns = slice(max(0, left), min(shape[1], left + width))
        if rows.start < rows.stop and columns.start < columns.stop:
            area[..., rows, columns] = part[
                ..., rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
            ]
    return area


def _stretched(bands: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale bands from their common percentiles to 0 to 1; missing values stay NaN or 0."""
    finite = bands[np.isfinite(bands)]
    low, high = np.percentile(finite, (2, 98)) if finite.size else (0.0, 1.0)
    scaled: NDArray[np.float32] = np.clip((bands - low) / max(high - low, 1e-6), 0, 1)
    return scaled


def _draw_classes(m: Modality, indices: NDArray[np.int64], axis: Any) -> None:  # noqa: ANN401 - matplotlib
    """Draw class indices in the colours of the catalog, pixels without a class transparent."""
    from matplotlib.colors import ListedColormap

    hidden = np.ma.masked_less(indices, 0)
    colours = [label.colour or "#808080" for label in m.classes]
    if colours:
        axis.imshow(hidden, cmap=ListedColormap(colours), vmin=-0.5, vmax=len(colours) - 0.5, interpolation="nearest")
    else:
        axis.imshow(hidden, cmap="viridis", interpolation="nearest")
