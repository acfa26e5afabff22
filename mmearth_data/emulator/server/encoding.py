"""Pixels as files: NPY, GeoTIFF, PNG, and zip archives of them."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from mmearth_data.emulator.algorithms.image import parsed_crs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from mmearth_data.emulator.algorithms.image import Grid

    Array = NDArray[Any]

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
ROWS_A_STRIP = 64
DEFLATE = 8
ENTRY = struct.Struct("<HHII")


def npy(layers: Mapping[str, Array]) -> bytes:
    """Structured array, one field a band: what `computePixels` gives."""
    shape = next(iter(layers.values())).shape
    out = np.empty(shape, np.dtype([(name, layer.dtype) for name, layer in layers.items()]))
    for name, layer in layers.items():
        out[name] = layer
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, out, allow_pickle=False)
    return buffer.getvalue()


def zipped(files: Mapping[str, bytes]) -> bytes:
    """Archive of files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def png(channels: Array) -> bytes:
    """PNG of (row, column, channel) bytes: 1 grey, 2 grey and alpha, 3 colours, 4 colours and alpha."""
    height, width, count = channels.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[count]
    lines = np.concatenate([np.zeros((height, 1), np.uint8), channels.reshape(height, -1)], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 6)), (b"IEND", b""))
    return PNG_SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data)) for tag, data in parts
    )


# ---------------------------------------------------------------- GeoTIFF


class Tag(NamedTuple):
    """One entry of a TIFF directory."""

    number: int
    kind: int
    values: Sequence[Any] | bytes

    def encoded(self) -> tuple[int, bytes]:
        """(count, bytes) of the values."""
        if isinstance(self.values, bytes):
            return len(self.values), self.values
        letter = {3: "H", 4: "I", 12: "d"}[self.kind]
        return len(self.values), struct.pack(f"<{len(self.values)}{letter}", *self.values)


SHORT, LONG, DOUBLE, ASCII = 3, 4, 12, 2


def geotiff(layers: Mapping[str, Array], grid: Grid) -> bytes:
    """GeoTIFF with one sample a band, all of the type that holds them all; names of bands as descriptions.

    Follows TIFF 6.0 and OGC GeoTIFF 1.1; compressed by deflate in strips.
    """
    dtype = np.result_type(*(layer.dtype for layer in layers.values()))
    if dtype.kind in "iu" and dtype.itemsize == 8:
        dtype = np.dtype(np.float64)  # readers know no whole numbers of 64 bits
    pixels = np.stack([layer.astype(dtype) for layer in layers.values()], axis=-1).astype(dtype.newbyteorder("<"))
    strips = [
        zlib.compress(pixels[top : top + ROWS_A_STRIP].tobytes(), 6) for top in range(0, len(pixels), ROWS_A_STRIP)
    ]
    tags = [*_layout(pixels, strips), *_georeference(grid), _descriptions(list(layers))]
    return _file(sorted(tags), strips)


def _layout(pixels: Array, strips: Sequence[bytes]) -> list[Tag]:
    height, width, count = pixels.shape
    form = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    tags = [
        Tag(256, LONG, [width]),
        Tag(257, LONG, [height]),
        Tag(258, SHORT, [8 * pixels.dtype.itemsize] * count),
        Tag(259, SHORT, [DEFLATE]),
        Tag(262, SHORT, [1]),
        Tag(273, LONG, [0] * len(strips)),  # offsets, known once the directory's size is
        Tag(277, SHORT, [count]),
        Tag(278, LONG, [ROWS_A_STRIP]),
        Tag(279, LONG, [len(strip) for strip in strips]),
        Tag(284, SHORT, [1]),
        Tag(339, SHORT, [form] * count),
    ]
    return tags + ([Tag(338, SHORT, [0] * (count - 1))] if count > 1 else [])


def _georeference(grid: Grid) -> list[Tag]:
    a, b, _, d, e, _ = grid.projection.transform
    x, y = grid.projection.to_crs(grid.column, grid.row)
    crs = parsed_crs(grid.projection.crs)
    code = crs.to_epsg()
    keys = [(1024, 0, 1, 2 if crs.is_geographic else 1), (1025, 0, 1, 1)]
    if code is not None:
        keys.append((2048 if crs.is_geographic else 3072, 0, 1, code))
    directory = [1, 1, 0, len(keys), *(number for key in keys for number in key)]
    if b == d == 0 and a > 0 and e < 0:
        place = [Tag(33550, DOUBLE, [a, -e, 0.0]), Tag(33922, DOUBLE, [0.0, 0.0, 0.0, float(x), float(y), 0.0])]
    else:
        matrix = [a, b, 0.0, float(x), d, e, 0.0, float(y), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
        place = [Tag(34264, DOUBLE, matrix)]
    return [*place, Tag(34735, SHORT, directory)]


def _descriptions(names: Sequence[str]) -> Tag:
    items = "".join(
        f"<Item name={quoteattr('DESCRIPTION')} sample={quoteattr(str(k))} role={quoteattr('description')}>"
        f"{escape(escape(name))}</Item>"  # GDAL escapes values before it writes XML
        for k, name in enumerate(names)
    )
    return Tag(42112, ASCII, f"<GDALMetadata>{items}</GDALMetadata>".encode() + b"\0")


def _file(tags: Sequence[Tag], strips: Sequence[bytes]) -> bytes:
    """Header, directory, values that do not fit into it, strips."""
    directory_end = 8 + 2 + ENTRY.size * len(tags) + 4
    sizes = [len(data) + len(data) % 2 for _, data in (tag.encoded() for tag in tags) if len(data) > 4]
    start = directory_end + sum(sizes)
    offsets = np.cumsum([start, *(len(strip) for strip in strips)])[:-1].tolist()
    entries, values, at = b"", b"", directory_end
    for tag in (Tag(t.number, t.kind, offsets) if t.number == 273 else t for t in tags):
        count, data = tag.encoded()
        if len(data) <= 4:
            entries += struct.pack("<HHI", tag.number, tag.kind, count) + data.ljust(4, b"\0")
            continue
        entries += ENTRY.pack(tag.number, tag.kind, count, at)
        values += data + b"\0" * (len(data) % 2)
        at += len(data) + len(data) % 2
    head = b"II" + struct.pack("<HI", 42, 8) + struct.pack("<H", len(tags))
    return b"".join([head, entries, b"\0" * 4, values, *strips])
