"""A VRT over the maps of several UTM zones: one raster for programs that read with GDAL.

A VRT has a single CRS. If there are several zones, the VRT is in degrees (EPSG:4326) and reads each zone through a VRT of
its own, ``zone_EPSG.vrt``, which warps the zone when it is read (nearest neighbour, so that class codes are preserved). Format: https://gdal.org/drivers/raster/vrt.html.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from mmearth_data import open_raster, staged_file, write_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    Box = tuple[int, int, int, int]

DEGREES = "EPSG:4326"
PIXEL_M = 10
METRES_PER_DEGREE = 111_320
"""Length of a degree of longitude at the equator."""


def write_vrt(path: Path, sources: Sequence[Path]) -> Path:
    """Write a VRT over rasters of the same bands in its folder, in the CRS of the only source or in degrees.

    Returns
    -------
    Path
        The VRT.
    """
    with open_raster(sources[0], sources[0]) as first:
        if len(sources) == 1:
            grid = (first.crs.to_wkt(), tuple(first.transform)[:6], first.width, first.height)
            boxes = {sources[0]: (0, 0, first.width, first.height)}
        else:
            west, north, step_x, step_y, width, height, boxes = _common_grid(sources)
            boxes = {_warped(source, box, (west, north, step_x, step_y)): box for source, box in boxes.items()}
            grid = (_wkt(DEGREES), (step_x, 0.0, west, 0.0, -step_y, north), width, height)
        write_text(path, _document(first, *grid, boxes))
    return path


def _wkt(name: str) -> str:
    from rasterio.crs import CRS

    text: str = CRS.from_user_input(name).to_wkt()
    return text


def _common_grid(sources: Sequence[Path]) -> tuple[float, float, float, float, int, int, dict[Path, Box]]:
    """Grid in degrees around all sources, with pixels of about 10 m at their mean latitude, and the box of each source in it."""
    from rasterio.warp import transform_bounds

    bounds = {}
    for source in sources:
        with open_raster(source, source) as dataset:
            bounds[source] = transform_bounds(dataset.crs, DEGREES, *dataset.bounds, densify_pts=21)
    west, south = (min(box[side] for box in bounds.values()) for side in (0, 1))
    north = max(box[3] for box in bounds.values())
    step_y = PIXEL_M / METRES_PER_DEGREE
    step_x = step_y / max(0.1, math.cos(math.radians((south + north) / 2)))
    boxes = {}
    for source, (left, bottom, right, top) in bounds.items():
        column, row = math.floor((left - west) / step_x), math.floor((north - top) / step_y)
        end_column, end_row = math.ceil((right - west) / step_x), math.ceil((north - bottom) / step_y)
        boxes[source] = (column, row, end_column - column, end_row - row)
    width = max(column + across for column, _, across, _ in boxes.values())
    height = max(row + down for _, row, _, down in boxes.values())
    return west, north, step_x, step_y, width, height, boxes


def _warped(source: Path, box: Box, grid: tuple[float, float, float, float]) -> Path:
    """Write the VRT that reads a source on the common grid, and return its path."""
    import rasterio
    import rasterio.shutil
    from rasterio.vrt import WarpedVRT

    west, north, step_x, step_y = grid
    column, row, width, height = box
    transform = rasterio.Affine(step_x, 0.0, west + column * step_x, 0.0, -step_y, north - row * step_y)
    path = source.with_suffix(".vrt")
    with (
        open_raster(source, source) as dataset,
        WarpedVRT(dataset, crs=DEGREES, transform=transform, width=width, height=height) as warped,
        staged_file(path) as beside,
    ):
        rasterio.shutil.copy(warped, beside, driver="VRT")
        text = beside.read_text(encoding="utf-8")
        beside.write_text(_relative(text, source), encoding="utf-8")
    return path


def _relative(text: str, source: Path) -> str:
    """Refer to a source in the folder of the VRT by its name, so that the folder can be moved."""
    root = ET.fromstring(text)
    for element in root.iter("SourceDataset"):
        element.text = source.name
        element.set("relativeToVRT", "1")
    return ET.tostring(root, encoding="unicode")


def _document(
    first: Any,  # noqa: ANN401 - rasterio has no types
    crs: str,
    transform: tuple[float, ...],
    width: int,
    height: int,
    boxes: dict[Path, Box],
) -> str:
    """Text of the VRT: bands, legend, colours and tags are those of ``first``."""
    root = ET.Element("VRTDataset", rasterXSize=str(width), rasterYSize=str(height))
    ET.SubElement(root, "SRS", dataAxisToSRSAxisMapping="2,1" if crs == _wkt(DEGREES) else "1,2").text = crs
    a, b, c, d, e, f = transform
    ET.SubElement(root, "GeoTransform").text = ", ".join(repr(float(number)) for number in (c, a, b, f, d, e))
    metadata = ET.SubElement(root, "Metadata")
    for key, value in sorted(first.tags().items()):
        if key != "AREA_OR_POINT":
            ET.SubElement(metadata, "MDI", key=key).text = value
    for band in first.indexes:
        _band(root, first, band, boxes)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"


TYPES = {"uint8": "Byte", "uint16": "UInt16", "float32": "Float32"}
"""GDAL's names of the types of maps."""


def _band(root: ET.Element, first: Any, band: int, boxes: dict[Path, Box]) -> None:  # noqa: ANN401
    from rasterio.enums import ColorInterp

    kind = first.dtypes[band - 1]
    entry = ET.SubElement(root, "VRTRasterBand", dataType=TYPES[kind], band=str(band))
    nodata = "nan" if first.nodata != first.nodata else f"{first.nodata:g}"
    ET.SubElement(entry, "NoDataValue").text = nodata
    for name, value in (
        ("Description", first.descriptions[band - 1]),
        ("UnitType", first.units[band - 1]),
        ("Scale", repr(first.scales[band - 1]) if first.scales[band - 1] != 1 else None),
    ):
        if value:
            ET.SubElement(entry, name).text = value
    if first.colorinterp[band - 1] is ColorInterp.palette:
        ET.SubElement(entry, "ColorInterp").text = "Palette"
        table = ET.SubElement(entry, "ColorTable")
        for red, green, blue, alpha in first.colormap(band).values():
            ET.SubElement(table, "Entry", c1=str(red), c2=str(green), c3=str(blue), c4=str(alpha))
    for source, (column, row, across, down) in boxes.items():
        part = ET.SubElement(entry, "ComplexSource")
        ET.SubElement(part, "SourceFilename", relativeToVRT="1").text = source.name
        ET.SubElement(part, "SourceBand").text = str(band)
        size = {"xSize": str(across), "ySize": str(down)}
        ET.SubElement(part, "SrcRect", {"xOff": "0", "yOff": "0", **size})
        ET.SubElement(part, "DstRect", {"xOff": str(column), "yOff": str(row), **size})
        ET.SubElement(part, "NODATA").text = nodata
