"""The pixels request: all raster bands of one tile."""

from __future__ import annotations

import io
import math
import threading
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import ee
import numpy as np

from mmearth_data.sources.earthengine.expressions import Template, band_name, fill_value
from mmearth_data.sources.earthengine.recipes import RECIPES
from mmearth_data.sources.earthengine.recipes.kinds import parameters

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from mmearth_data.catalog.modality import Modality
    from mmearth_data.catalog.tile import TileGrid
    from mmearth_data.sources.earthengine.recipes import Ask, Found

    Asks = Sequence[tuple[Modality, Ask]]


class PixelTemplates:
    """Encoded images, one for each form of request; a build uses a few dozen of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[Hashable, tuple[Template, list[tuple[Modality, str]]]] = {}

    def request(self, asks: Asks, grid: TileGrid) -> tuple[str, dict[str, Any], list[tuple[Modality, str]]]:
        """Expression and additional fields of a request, and (modality, band) of each band of its answer."""
        key = tuple((m.name, ask.shape) for m, ask in asks)
        with self._lock:
            if key not in self._known:
                self._known[key] = _template(asks)
            template, bands = self._known[key]
        holes = {name: value for _, ask in asks for name, value in ask.holes.items()}
        return template.fill(holes), {"fileFormat": "NPY", "grid": _grid(grid)}, bands


def _template(asks: Asks) -> tuple[Template, list[tuple[Modality, str]]]:
    images, bands = [], []
    for m, ask in asks:
        make = RECIPES[m.recipe["name"]].image
        assert make is not None, m.name
        image, names = make(m, ask.shape)
        images.append(image)
        bands += [(m, name) for name in names]
    return Template(ee.Image.cat(images)), bands


def _grid(grid: TileGrid) -> dict[str, Any]:
    a, b, c, d, e, f = grid.transform
    return {
        "dimensions": {"width": grid.size_px, "height": grid.size_px},
        "affineTransform": {"scaleX": a, "shearX": b, "translateX": c, "shearY": d, "scaleY": e, "translateY": f},
        "crsCode": f"EPSG:{grid.epsg}",
    }


def asks_of(found: Found, modalities: Sequence[Modality]) -> list[tuple[Modality, Ask]]:
    """List the requests of a tile; modalities that are missing there are left out."""
    kinds = ((m, RECIPES[m.recipe["name"]].ask) for m in modalities)
    asks = ((m, ask(m, found)) for m, ask in kinds if ask is not None)
    return [(m, ask) for m, ask in asks if ask is not None]


def dearest_apart(asks: Asks) -> tuple[Asks, Asks]:
    """Split into two groups: the modality that costs the service most, and the others; halves if no modality dominates."""
    costs = [RECIPES[m.recipe["name"]].cost for m, _ in asks]
    if len(asks) < 2 or max(costs) == min(costs):
        return halves(asks)
    at = costs.index(max(costs))
    return asks[at : at + 1], [*asks[:at], *asks[at + 1 :]]


def halves(asks: Asks) -> tuple[Asks, Asks]:
    """Split into two groups of modalities with about the same number of bytes; `LookupError` for a single modality."""
    if len(asks) < 2:
        raise LookupError("one modality cannot be split")
    sizes = [len(m.bands) * m.dtype.itemsize for m, _ in asks]
    groups: tuple[list[tuple[Modality, Ask]], list[tuple[Modality, Ask]]] = ([], [])
    total = [0, 0]
    for k in sorted(range(len(asks)), key=lambda k: -sizes[k]):
        smaller = total.index(min(total))
        groups[smaller].append(asks[k])
        total[smaller] += sizes[k]
    return groups


def decoder(bands: Sequence[tuple[Modality, str]], size_px: int) -> Callable[[bytes], NDArray[Any]]:
    """Reader of an NPY answer that refuses anything other than what was requested."""
    kinds = {band_name(m, band): "biuf" if m.dtype.kind == "f" else "biu" for m, band in bands}

    def decode(content: bytes) -> NDArray[Any]:
        pixels = array_of(content)
        if pixels.shape != (size_px, size_px) or set(pixels.dtype.names or ()) != kinds.keys():
            raise ValueError(f"expected {len(kinds)} bands of {size_px} px, got {pixels.shape} {pixels.dtype.names}")
        wrong = [name for name, kind in kinds.items() if pixels.dtype[name].kind not in kind]
        if wrong:
            raise ValueError(f"expected numbers as stored in {wrong[0]}, got {pixels.dtype[wrong[0]]}")
        return pixels

    return decode


def array_of(content: bytes) -> NDArray[Any]:
    """Read-only array of an NPY file; raises ValueError if it is not one, or is truncated."""
    body = io.BytesIO(content)
    version = np.lib.format.read_magic(body)
    long = 2 if version == (1, 0) else 4
    start = body.tell() + long + int.from_bytes(body.read(long), "little")
    shape, fortran_order, dtype = _described(content[:start])
    if len(content) - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"expected {math.prod(shape)} values of {dtype.itemsize} bytes, got {len(content) - start}")
    values: NDArray[Any] = np.frombuffer(content, dtype, offset=start).reshape(
        shape, order="F" if fortran_order else "C"
    )
    return values


@lru_cache(maxsize=256)
def _described(head: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """(shape, Fortran order, dtype) of an NPY file; cached, because numpy takes 1 ms to parse a header of many bands."""
    body = io.BytesIO(head)
    version = np.lib.format.read_magic(body)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read(body)
    if dtype.hasobject:
        raise ValueError("expected numbers, got Python objects")
    return shape, fortran_order, dtype


def place_bands(
    arrays: Mapping[str, NDArray[Any]], pixels: NDArray[Any], bands: Sequence[tuple[Modality, str]]
) -> None:
    """Copy the bands of an answer to their positions in the stored arrays."""
    for m, band in bands:
        values = pixels[band_name(m, band)]
        target = arrays[m.name][m.bands.index(band)]
        target[...] = values
        if math.isnan(m.nodata):
            target[values == fill_value(m)] = m.nodata


def masked_shares(m: Modality, array: NDArray[Any]) -> Iterator[float]:
    """Yield the share of masked pixels of each native band."""
    for band in parameters(m).get("native", ()):
        yield 1 - float(m.observed(array[m.bands.index(band)]).mean())
