"""Stores for tests: a small catalog of its own, and values with every kind of gap."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.catalog.modality import ClassLabel, Kind, Licence, Modality
from mmearth_data.catalog.tile import LEVEL_L1C, LEVEL_L2A, NO_TIME, TileGrid, tile_ids, utm_epsg
from mmearth_data.store.encoding import digest_of
from mmearth_data.store.schema import StoreLayout
from mmearth_data.store.writer import StoreWriter

if TYPE_CHECKING:
    from pathlib import Path

LICENCE = Licence(name="CC0-1.0", url="https://creativecommons.org/publicdomain/zero/1.0/", attribution="none needed")


def modality(name: str, kind: Kind, bands: tuple[str, ...], dtype: str, nodata: float, **more: Any) -> Modality:
    """One catalog entry, with what tests do not care about filled in."""
    values = {"long_name": name.replace("_", " "), "licence": LICENCE, "histogram_range": (0.0, 1.0), **more}
    if not kind.is_continuous:
        values["histogram_range"] = None
    return Modality(name=name, kind=kind, bands=bands, dtype=np.dtype(dtype), nodata=nodata, **values)


def small_catalog() -> tuple[Modality, ...]:
    """One modality of every kind, and derived ones, none of them from the shipped catalog."""
    classes = tuple(ClassLabel(code, name) for code, name in ((1, "Open water"), (2, "Trees & shrubs"), (7, "Ice")))
    return (
        modality(
            "optical",
            Kind.RASTER_CONTINUOUS,
            ("red", "nir", "cirrus"),
            "uint16",
            0,
            scale=0.0001,
            statistics_by="s2_level",
            bands_by_level={"L2A": ("red", "nir"), "L1C": ("red", "nir", "cirrus")},
            histogram_range=(0.0, 4096.0),
            histogram_bins=512,
        ),
        modality(
            "radar", Kind.RASTER_CONTINUOUS, ("vv",), "float32", np.nan, histogram_range=(-40.0, 10.0), units="dB"
        ),
        modality(
            "height", Kind.RASTER_CONTINUOUS, ("z",), "int16", -32768, histogram_range=(-500.0, 9000.0), units="m"
        ),
        modality("cover", Kind.RASTER_CATEGORICAL, ("code",), "uint8", 0, classes=classes),
        modality("flags", Kind.RASTER_MASK, ("bits",), "uint16", 65535),
        modality("weather", Kind.TILE_CONTINUOUS, ("t", "rain"), "float32", np.nan, histogram_range=(180.0, 340.0)),
        _angle("lat"),
        _angle("lon"),
        modality(
            "month",
            Kind.TILE_CONTINUOUS,
            ("sin", "cos"),
            "float32",
            np.nan,
            derived_from=("time",),
            recipe={"name": "month"},
            histogram_range=(-1.0, 1.0),
        ),
        modality(
            "zone",
            Kind.TILE_CATEGORICAL,
            (),
            "uint16",
            65535,
            classes=tuple(ClassLabel(k, f"zone {k}") for k in range(300)),
        ),
    )


def _angle(name: str) -> Modality:
    return modality(
        name,
        Kind.TILE_CONTINUOUS,
        ("sin", "cos"),
        "float32",
        np.nan,
        derived_from=(name,),
        recipe={"name": "angle"},
        histogram_range=(-1.0, 1.0),
    )


def small_layout(tiles: int = 21, size_px: int = 16, tiles_per_shard: int = 8) -> StoreLayout:
    """Layout of the small catalog; the last of its shards is not full."""
    return StoreLayout(modalities=small_catalog(), tiles=tiles, size_px=size_px, tiles_per_shard=tiles_per_shard)


def make_columns(layout: StoreLayout, shard: int, empty: tuple[int, ...] = ()) -> dict[str, Any]:
    """Coordinates and tile modalities of one shard; the given positions hold no tile."""
    rows = np.array(layout.rows(shard))
    rng = np.random.default_rng([1, shard])
    lon = np.round(rng.uniform(-170, 170, len(rows)), 6)
    lat = np.round(rng.uniform(-75, 80, len(rows)), 6)
    grids = [TileGrid.around(x, y, utm_epsg(x, y), layout.size_px) for x, y in zip(lon, lat, strict=True)]
    columns: dict[str, Any] = {
        "tile_id": tile_ids(lon, lat, layout.size_px),
        "lon": lon,
        "lat": lat,
        "epsg": np.array([grid.epsg for grid in grids], dtype=np.int32),
        "ulx": np.array([grid.ulx for grid in grids]),
        "uly": np.array([grid.uly for grid in grids]),
        "time": rng.integers(1_480_000_000_000, 1_610_000_000_000, len(rows)),
        "s2_level": rng.choice(np.array([LEVEL_L1C, LEVEL_L2A], dtype=np.uint8), len(rows)),
        "s1_asc_days": rng.normal(0, 3, len(rows)).astype(np.float32),
        "s1_desc_days": np.full(len(rows), np.nan, dtype=np.float32),
        "split": np.where(rows < layout.tiles * 0.6, 0, np.where(rows < layout.tiles * 0.8, 1, 2)).astype(np.uint8),
        "facts": [json.dumps({"scene": f"S2-{row}"}) for row in rows],
    }
    columns["time"][rows % 7 == 3] = NO_TIME
    for m in layout.tabular:
        columns[m.name] = make_values(m, layout, shard)
    columns["tile_id"][list(empty)] = 0
    return columns


def make_values(m: Modality, layout: StoreLayout, shard: int) -> np.ndarray[Any, Any]:
    """Values of one modality: some missing, and one tile wholly so."""
    rng = np.random.default_rng([2, shard, *m.name.encode()])
    shape = (len(layout.rows(shard)), *m.array_shape(layout.size_px))
    if m.classes:
        values = rng.choice(np.array([label.code for label in m.classes]), shape).astype(m.dtype)
    else:
        ranges = [m.histogram_range_of(band) or (0.0, 100.0) for band in m.bands]
        drawn = [rng.triangular(low, low + (high - low) / 4, high, (shape[0], *shape[2:])) for low, high in ranges]
        values = np.stack(drawn, axis=1).astype(m.dtype)
    values[rng.random(shape) < 0.1] = m.nodata
    values[-1] = m.nodata
    return values


def make_rasters(layout: StoreLayout, shard: int, empty: tuple[int, ...] = ()) -> dict[str, np.ndarray[Any, Any]]:
    """Rasters of one shard; bands that a level lacks, and rows without a tile, hold no data."""
    rasters = {m.name: make_values(m, layout, shard) for m in layout.rasters}
    levels = make_columns(layout, shard)["s2_level"]
    for m in layout.rasters:
        rasters[m.name][list(empty)] = m.nodata
        for code, level in ((LEVEL_L1C, "L1C"), (LEVEL_L2A, "L2A")):
            lacking = [k for k, band in enumerate(m.bands) if band not in m.bands_by_level.get(level, m.bands)]
            rasters[m.name][np.ix_(levels == code, lacking)] = m.nodata
    return rasters


def empty_positions(layout: StoreLayout, shard: int) -> tuple[int, ...]:
    """Positions in a shard that get no tile."""
    return (2,) if shard == 0 else (0, 4) if shard == layout.shards - 1 else ()


def make_rejected(shard: int) -> list[dict[str, Any]]:
    """A rejected candidate."""
    return [
        {
            "tile_id": int(tile_ids(1.0 + shard, 2.0, 16)),
            "lon": 1.0 + shard,
            "lat": 2.0,
            "reason": "sentinel2_nodata",
            "detail": "3.2 % masked",
            "slot": None if shard else 2,
        }
    ]


def begin_store(path: Path | str, layout: StoreLayout | None = None) -> StoreWriter:
    """A store without any shard."""
    return StoreWriter.create(
        path, layout or small_layout(), recipe={"seed": 3, "tiles": 21}, source={"name": "made up"}, synthetic=True
    )


def write_shard(writer: StoreWriter, shard: int) -> None:
    """Write one shard of test values."""
    empty = empty_positions(writer.layout, shard)
    writer.write_shard(
        shard,
        make_columns(writer.layout, shard, empty),
        make_rasters(writer.layout, shard, empty),
        make_rejected(shard),
    )


def make_store(path: Path | str, layout: StoreLayout | None = None) -> StoreWriter:
    """A finished store."""
    writer = begin_store(path, layout)
    for shard in range(writer.layout.shards):
        write_shard(writer, shard)
    writer.finish()
    return writer


def digests(path: Path) -> dict[str, str]:
    """Digest of every file of a store, its ledger apart."""
    files = (file for file in path.rglob("*") if file.is_file())
    keys = {file.relative_to(path).as_posix(): digest_of(file.read_bytes()) for file in files}
    return {key: digest for key, digest in keys.items() if not key.startswith("_ledger/")}
