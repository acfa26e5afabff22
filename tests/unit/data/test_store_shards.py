"""What a build hands over wrongly is refused by name, before anything is written."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from store_making import begin_store, make_columns, make_rasters, make_rejected, small_layout

from mmearth_data.errors import InputError
from mmearth_data.store.shards import seen_tiles, valid_bits

if TYPE_CHECKING:
    from collections.abc import Callable

    from mmearth_data.store.schema import StoreLayout
    from mmearth_data.store.writer import StoreWriter

Inputs = tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> StoreWriter:
    """A store that nothing gets into."""
    return begin_store(tmp_path_factory.mktemp("refused") / "s.zarr")


def files(path: Path) -> dict[str, bytes]:
    """Everything below a folder."""
    return {str(file): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def set_column(name: str, value: Any, position: int = 1) -> Callable[[Inputs], None]:
    def change(inputs: Inputs) -> None:
        inputs[0][name][position] = value

    return change


def replace_column(name: str, make: Callable[[Any], Any]) -> Callable[[Inputs], None]:
    def change(inputs: Inputs) -> None:
        inputs[0][name] = make(inputs[0][name])

    return change


def replace_raster(name: str, make: Callable[[Any], Any]) -> Callable[[Inputs], None]:
    def change(inputs: Inputs) -> None:
        inputs[1][name] = make(inputs[1][name])

    return change


def put_pixel(name: str, value: float, position: int = 1) -> Callable[[Inputs], None]:
    def change(inputs: Inputs) -> None:
        inputs[1][name][position, 0, 3, 4] = value

    return change


def change_rejected(**values: Any) -> Callable[[Inputs], None]:
    def change(inputs: Inputs) -> None:
        inputs[2][0].update(values)

    return change


def repeat_a_tile(inputs: Inputs) -> None:
    for name in ("tile_id", "time"):
        inputs[0][name][5] = inputs[0][name][1]


BROKEN = {
    "column missing": (lambda inputs: inputs[0].pop("lat"), "column.*missing lat"),
    "column unknown": (lambda inputs: inputs[0].update(snow=np.zeros(8)), "column.*unknown snow"),
    "valid is not given": (lambda inputs: inputs[0].update(valid=np.zeros(8)), "column.*unknown valid"),
    "column too short": (replace_column("lon", lambda v: v[:-1]), r"lon: .*\(8,\) of float64, got \(7,\)"),
    "float as integer": (replace_column("split", lambda v: v.astype(float)), "split: .*uint8, got.*float64"),
    "text": (replace_column("epsg", lambda v: np.array(["32631"] * 8)), "epsg: .*int32, got"),
    "too large for its type": (replace_column("split", lambda v: v.astype(int) + 300), "split: .*fit uint8"),
    "negative id": (replace_column("tile_id", lambda v: -v.astype(np.int64)), "tile_id: .*fit uint64"),
    "longitude": (set_column("lon", 181.0), "lon: .*got 181.0"),
    "latitude": (set_column("lat", np.nan), "lat: .*got nan"),
    "corner": (set_column("ulx", np.inf), "ulx: .*got inf"),
    "half a corner": (set_column("ulx", np.nan), "ulx: .*got nan"),
    "corner without a crs": (set_column("epsg", 0), "epsg: .*got 0"),
    "level": (set_column("s2_level", 2), "s2_level: .*got 2"),
    "split": (set_column("split", 3), "split: .*got 3"),
    "days": (set_column("s1_asc_days", np.inf), "s1_asc_days: .*got inf"),
    "crs": (set_column("epsg", 999_999), "epsg: .*got 999999"),
    "tile twice": (repeat_a_tile, "tile_id: .*twice"),
    "weather of one band": (replace_column("weather", lambda v: v[:, :1]), r"weather: .*\(8, 2\).*got \(8, 1\)"),
    "weather infinite": (set_column("weather", -np.inf), "weather: .*infinities"),
    "unknown zone": (set_column("zone", 4000), "zone: .*class codes.*got 4000"),
    "facts too few": (replace_column("facts", lambda v: v[:-1]), "facts: expected 8 JSON texts or mappings, got 7"),
    "facts not text": (set_column("facts", 1), "facts: expected 8 JSON texts or mappings"),
    "facts not JSON": (set_column("facts", "{scene"), "facts: expected JSON texts or mappings"),
    "facts with NaN": (set_column("facts", '{"x": NaN}'), "facts: expected JSON texts or mappings"),
    "raster missing": (lambda inputs: inputs[1].pop("radar"), "raster.*missing radar"),
    "raster unknown": (lambda inputs: inputs[1].update(snow=np.zeros(1)), "raster.*unknown snow"),
    "derived given": (lambda inputs: inputs[1].update(lat=np.zeros(1)), "raster.*unknown lat"),
    "raster of another type": (
        replace_raster("optical", lambda v: v.astype(np.int32)),
        "optical: .*uint16, got.*int32",
    ),
    "raster of other pixels": (replace_raster("cover", lambda v: v[..., :8]), "cover: .*16.*got.*8"),
    "raster of other bands": (replace_raster("optical", lambda v: v[:, :2]), "optical: expected"),
    "raster as a list": (replace_raster("height", lambda v: v.tolist()), "height: expected an array"),
    "unknown class": (put_pixel("cover", 3), "cover: .*class codes.*got 3"),
    "infinite pixel": (put_pixel("radar", np.inf), "radar: .*infinities"),
    "pixel in an empty row": (put_pixel("flags", 1, position=2), "flags: expected no data in rows without a tile"),
    "rejected without reason": (lambda inputs: inputs[2][0].pop("reason"), "rejected.*missing reason"),
    "rejected with more": (change_rejected(colour="red"), "rejected.*unknown colour"),
    "rejected nowhere": (change_rejected(lon=np.nan), "rejected: expected a location"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_input_is_named_and_nothing_is_written(writer: StoreWriter, case: str) -> None:
    change, words = BROKEN[case]
    layout = writer.layout
    inputs: Inputs = copy.deepcopy((make_columns(layout, 0, (2,)), make_rasters(layout, 0, (2,)), make_rejected(0)))
    change(inputs)
    before = files(writer.path)
    with pytest.raises(InputError, match=words):
        writer.write_shard(0, *inputs)
    assert files(writer.path) == before


def test_types_that_lose_nothing_are_taken(tmp_path: Path) -> None:
    writer = begin_store(tmp_path / "s.zarr")
    columns = make_columns(writer.layout, 0)
    for name in ("epsg", "s2_level", "split", "zone"):
        columns[name] = columns[name].astype(np.int64)
    columns["s1_asc_days"] = columns["s1_asc_days"].astype(np.float64)
    columns["time"] = columns["time"].tolist()
    writer.write_shard(0, columns, make_rasters(writer.layout, 0), [])
    assert writer.committed() == {0}


def bits(layout: StoreLayout, arrays: dict[str, Any]) -> list[int]:
    return valid_bits([seen_tiles(m, arrays[m.name]) for m in layout.stored]).tolist()


def test_valid_says_where_anything_was_observed() -> None:
    layout = small_layout()
    arrays = {m.name: m.empty((3, *m.array_shape(16))) for m in layout.stored}
    assert bits(layout, arrays) == [0, 0, 0]
    for k, m in enumerate(layout.stored):
        arrays[m.name][1:2].flat[-1] = 0 if m.nodata != 0 else 1
        assert bits(layout, arrays) == [0, 2 ** (k + 1) - 1, 0], m.name
    arrays["zone"][0] = 5
    assert bits(layout, arrays)[0] == 1 << (len(layout.stored) - 1)


def test_one_value_anywhere_in_a_tile_is_seen() -> None:
    layout = small_layout()
    for m in layout.rasters:
        side = int(np.prod(m.array_shape(16)))
        values = m.empty((side, *m.array_shape(16)))
        np.fill_diagonal(values.reshape(side, side), 1)
        assert seen_tiles(m, values).all(), m.name
