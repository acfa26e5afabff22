"""Summaries: every number is counted a second time, from the arrays and the files themselves."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import store_making
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from toy_store import write_store

from mmearth_data.catalog.entries import load_catalog
from mmearth_data.errors import StoreDamaged
from mmearth_data.inspection.summary import Summary, summarise
from mmearth_data.inspection.terminal import format_figure, render_summary
from mmearth_data.store import Store, StoreLayout, StoreWriter, open_store
from mmearth_data.store.about import bounds_of
from mmearth_data.words import format_bytes

TILES = 18  # 21 rows, three of them without a tile


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("summary") / "made.zarr"
    store_making.make_store(path)
    return path


@pytest.fixture(scope="module")
def store(path: Path) -> Store:
    return open_store(path)


def printed(summary: Summary, width: int) -> str:
    text = io.StringIO()
    Console(width=width, file=text, color_system=None).print(render_summary(summary))
    return text.getvalue()


def folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and file.name != "zarr.json")


# ---------------------------------------------------------------- numbers


def test_sizes_are_those_of_the_files(store: Store, path: Path) -> None:
    summary = summarise(store)
    for m in summary.modalities:
        if not m.stored:
            assert (m.shape, m.stored_bytes, m.raw_bytes, m.ratio) == ((), None, None, None)
            continue
        assert m.stored_bytes == folder_bytes(path / m.name)
        assert m.raw_bytes == store.layout.tiles * int(np.prod(m.shape[1:])) * np.dtype(m.dtype).itemsize
        assert m.ratio == m.raw_bytes / m.stored_bytes
        assert m.shape[0] == store.layout.tiles
    assert summary.stored_bytes == sum(folder_bytes(path / m.name) for m in summary.modalities if m.stored)


def test_a_derived_modality_is_not_measured_by_the_coordinate_of_its_name(store: Store) -> None:
    """``lat`` is an array of the store and the name of an encoding that is computed from it."""
    (lat,) = (m for m in summarise(store).modalities if m.name == "lat")
    assert lat.stored is False
    assert lat.stored_bytes is None
    assert lat.valid_tiles is None


def test_valid_shares_are_those_of_the_arrays(store: Store) -> None:
    for m in summarise(store).modalities:
        if m.stored:
            values = store.read(m.name, slice(0, store.layout.tiles))[store.rows]
            seen = store.modalities[m.name].observed(values).reshape(len(values), -1).any(axis=1)
            assert m.valid_tiles == seen.sum()
            assert m.valid_share == seen.mean()
            assert 0 < m.valid_tiles < TILES, "the test store has tiles without it"


def test_tiles_are_counted_by_split_level_and_class(store: Store) -> None:
    summary = summarise(store)
    assert summary.tiles == TILES == sum(summary.splits.values()) == sum(summary.levels.values())
    assert summary.rows == 21
    split = store.coords["split"]
    assert summary.splits == {"train": (split == 0).sum(), "val": (split == 1).sum(), "test": (split == 2).sum()}
    (zone,) = summary.labels
    codes = store.read("zone", slice(0, 21))[store.rows]
    assert {c.code: c.total for c in zone.classes} == Counter(codes[codes != 65535].tolist())
    assert zone.unlabelled == (codes == 65535).sum() > 0
    pairs = Counter(zip(codes.tolist(), split.tolist(), strict=True))
    for row in zone.classes:
        assert row.tiles == {
            n: pairs[row.code, k] for k, n in enumerate(("train", "val", "test")) if pairs[row.code, k]
        }
        assert row.name == f"zone {row.code}"


def test_place_and_period_are_those_of_the_tiles(store: Store) -> None:
    summary = summarise(store)
    lon, lat, time = (store.coords[name] for name in ("lon", "lat", "time"))
    assert summary.bounds == (lon.min(), lat.min(), lon.max(), lat.max())
    assert summary.bounds[0] < summary.bounds[2]
    known = time[~np.isnat(time)]
    assert (summary.first_scene, summary.last_scene) == (str(known.min())[:10], str(known.max())[:10])


@pytest.mark.parametrize(
    ("lon", "west", "east"),
    [
        ([178.5, 179.5, -179.25, -178.75], 178.5, -178.75),
        ([120.0, 179.0, -120.0], 120.0, -120.0),
        ([-170.0, -60.0, 60.0, 170.0], -170.0, 170.0),
        ([-10.0, 20.0], -10.0, 20.0),
        ([-179.0, -178.0], -179.0, -178.0),
        ([180.0, -179.0], 180.0, -179.0),
        ([-180.0, 179.0], 179.0, -180.0),
    ],
)
def test_an_area_across_180_degrees_is_not_the_whole_earth(
    lon: list[float], west: float, east: float, tmp_path: Path
) -> None:
    """As in RFC 7946: west is greater than east. Tiles all around the Earth have the usual bounds."""
    lat = np.linspace(-10, 10, len(lon))
    assert bounds_of(np.array([*lon, np.nan]), np.array([*lat, 0])) == (west, -10, east, 10)

    def placed(arrays: dict[str, Any]) -> None:
        arrays["lon"][:], arrays["lat"][:] = np.resize(lon, 16), np.resize(lat, 16)

    opened = write_store(tmp_path / "s.zarr", 16, change=placed)
    summary = summarise(opened)
    assert summary.bounds == (west, -10, east, 10)
    crosses = west > east
    assert ("across 180°" in repr(opened)) == crosses
    console = Console(width=200, file=io.StringIO())
    console.print(render_summary(summary))
    assert ("across 180°" in console.file.getvalue()) == crosses  # type: ignore[attr-defined]


def test_statistics_and_rejections_are_the_stores_own(store: Store) -> None:
    summary = summarise(store)
    assert summary.statistics_of == "train"
    assert summary.statistics["radar"] == store.statistics["train"]["radar"]
    assert summary.rejected == {"sentinel2_nodata": 3}
    assert summary.synthetic is True
    assert summary.source["name"] == "made up"


def test_a_selection_counts_its_tiles_and_keeps_the_stores_sizes(store: Store) -> None:
    whole, part = summarise(store), summarise(store.select(split="val", modalities=["radar", "zone"]))
    assert part.tiles == whole.splits["val"]
    assert part.splits == {"train": 0, "val": whole.splits["val"], "test": 0}
    assert [m.name for m in part.modalities] == ["radar", "zone"]
    assert part.modalities[0].stored_bytes == whole.modalities[1].stored_bytes
    assert set(part.statistics) == {"radar"}


def test_an_empty_selection_has_no_shares_and_no_bounds(store: Store) -> None:
    nothing = summarise(store.select(where=np.zeros(len(store), dtype=bool)))
    assert (nothing.tiles, nothing.bounds, nothing.first_scene) == (0, None, None)
    assert all(m.valid_share is None for m in nothing.modalities)
    assert "made.zarr" in printed(nothing, 80)


def test_where_no_tile_is_for_training_all_are_described(tmp_path: Path) -> None:
    layout = store_making.small_layout(tiles=8, tiles_per_shard=8)
    writer = store_making.begin_store(tmp_path / "test.zarr", layout)
    columns = store_making.make_columns(layout, 0)
    columns["split"][:] = 2
    writer.write_shard(0, columns, store_making.make_rasters(layout, 0))
    writer.finish()
    summary = summarise(open_store(tmp_path / "test.zarr"))
    assert summary.statistics_of == "all"
    assert summary.statistics["radar"]["-"]["vv"]["count"] > 0
    assert "Statistics, all splits" in printed(summary, 80)
    assert summary.rejected == {}


# ---------------------------------------------------------------- unfinished, damaged


def test_an_unfinished_store_tells_what_is_committed(tmp_path: Path) -> None:
    writer = store_making.begin_store(tmp_path / "half.zarr")
    store_making.write_shard(writer, 1)
    summary = summarise(open_store(tmp_path / "half.zarr"))
    assert summary.finished is False
    assert (summary.committed_shards, summary.shards) == (1, 3)
    assert summary.tiles == 8
    assert summary.rejected == {"sentinel2_nodata": 1}
    assert summary.digest is None
    sizes = {m.name: (m.stored_bytes, m.raw_bytes) for m in summary.modalities}
    assert sizes["radar"] == (folder_bytes(tmp_path / "half.zarr" / "radar"), 8 * 16 * 16 * 4)
    assert sizes["zone"] == (None, None), "1-D arrays are written when the build ends"
    assert "NOT FINISHED: 1 of 3 shards" in printed(summary, 80)


def test_a_store_in_which_nothing_is_committed_can_be_summarised(tmp_path: Path) -> None:
    store_making.begin_store(tmp_path / "begun.zarr")
    summary = summarise(open_store(tmp_path / "begun.zarr"))
    assert (summary.tiles, summary.committed_shards, summary.stored_bytes) == (0, 0, 0)
    assert "0 of 3 shards" in printed(summary, 80)


def test_a_lost_table_of_rejections_is_not_missed_and_a_broken_one_is_named(tmp_path: Path) -> None:
    store_making.make_store(tmp_path / "made.zarr")
    table = tmp_path / "made.zarr" / "rejected.parquet"
    table.write_bytes(table.read_bytes()[:-20])
    with pytest.raises(StoreDamaged, match=r"rejected\.parquet is damaged"):
        summarise(open_store(tmp_path / "made.zarr"))
    table.unlink()
    assert summarise(open_store(tmp_path / "made.zarr")).rejected is None


# ---------------------------------------------------------------- JSON and terminal


def test_json_holds_everything_and_no_nan(store: Store) -> None:
    summary = summarise(store)
    entry = json.loads(json.dumps(summary.to_dict(), allow_nan=False))
    assert entry["modalities"][0]["ratio"] == pytest.approx(summary.modalities[0].ratio)
    assert entry["labels"][0]["classes"][0]["total"] == summary.labels[0].classes[0].total
    assert entry["statistics"]["optical"].keys() == {"L1C", "L2A"}
    assert entry["bounds"] == pytest.approx(list(summary.bounds or ()))


@pytest.fixture(scope="module")
def catalog_summary(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    """A store of the whole shipped catalog."""
    path = tmp_path_factory.mktemp("catalog") / "planet.zarr"
    modalities = tuple(m for m in load_catalog().modalities.values() if m.enabled)
    layout = StoreLayout(modalities=modalities, tiles=20, size_px=16, tiles_per_shard=20)
    columns: dict[str, Any] = store_making.make_columns(layout, 0)
    source = {"name": "synthetic", "notes": ["radiometric offset not harmonised"]}
    writer = StoreWriter.create(path, layout, recipe={}, source=source, synthetic=True)
    writer.write_shard(0, columns, store_making.make_rasters(layout, 0), store_making.make_rejected(0))
    writer.finish()
    return summarise(open_store(path))


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_what_is_printed_fits_the_terminal(catalog_summary: Summary, width: int) -> None:
    lines = printed(catalog_summary, width).splitlines()
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize("width", [80, 120])
def test_nothing_that_matters_is_cut(catalog_summary: Summary, width: int) -> None:
    text = printed(catalog_summary, width)
    tables = text.split("Tiles\n")[0] + text.split("Statistics")[1].split("Licences")[0]
    assert "…" not in tables
    measured = catalog_summary.statistics
    for m in catalog_summary.modalities:
        assert m.name in text
        assert m.name not in measured or all(band in text for band in m.bands)
        if m.stored:
            assert " ".join(m.attribution.split()[:2]) in " ".join(text.split())
    for words in ("SYNTHETIC", "never measured", "sentinel2_nodata", "radiometric offset not harmonised"):
        assert words in text


def test_the_unit_of_stored_numbers_is_told(catalog_summary: Summary) -> None:
    units = {m.name: dict(zip(m.bands, m.band_units, strict=True)) for m in catalog_summary.modalities}
    assert units["sentinel2"]["B4"] == "0.0001"
    assert units["aster"] == {"elevation": "m", "slope": "degree"}


def test_a_measured_store_is_not_called_synthetic(catalog_summary: Summary, tmp_path: Path) -> None:
    layout = store_making.small_layout(tiles=8, tiles_per_shard=8)
    writer = StoreWriter.create(tmp_path / "m.zarr", layout, recipe={}, source={"name": "rasters"}, synthetic=False)
    writer.write_shard(0, store_making.make_columns(layout, 0), store_making.make_rasters(layout, 0))
    writer.finish()
    text = printed(summarise(open_store(tmp_path / "m.zarr")), 80)
    assert "SYNTHETIC" not in text
    assert "rasters: measured" in text


def test_a_summary_needs_no_drawing_library() -> None:
    program = "import sys; from mmearth_data import render_summary, summarise; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


@given(st.integers(0, 2**60))
def test_sizes_are_spelled_with_three_digits(count: int) -> None:
    number, unit = format_bytes(count).split()
    factor = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}[unit]
    assert float(number) * factor == pytest.approx(count, rel=5.1e-3)
    assert len(number) <= 5 or unit == "TiB"


@given(st.floats(-1e6, 1e6))
def test_figures_are_short_and_true(value: float) -> None:
    text = format_figure(value)
    assert len(text) <= 8
    assert float(text) == pytest.approx(value, rel=5.1e-4, abs=5.1e-5)
