"""Figures of a tile: the tile's own pixels, the whole truth in the title, and a layout that holds."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pytest
import store_making
from hypothesis import example, given, settings
from hypothesis import strategies as st
from inspection_pictures import layout_problems, pixels

from mmearth_data.catalog.entries import load_catalog
from mmearth_data.catalog.tile import LEVEL_L1C, LEVEL_L2A, format_tile_id, tile_ids
from mmearth_data.errors import FileInputError, InputError
from mmearth_data.inspection.canvas import WARNING, fit, text_width, wrap
from mmearth_data.inspection.figures import (
    HEAD,
    LABEL,
    MARGIN,
    TITLE,
    arrange,
    best_columns,
    compose_tile,
    draw_tile,
    enlarge,
    tile_figure,
)
from mmearth_data.inspection.panels import Panel, PanelGroup, plan_panels
from mmearth_data.store import Store, open_store

if TYPE_CHECKING:
    from mmearth_data.catalog.modality import Modality

CATALOG = tuple(m for m in load_catalog().modalities.values() if m.enabled)
LEVELS = {"L1C": LEVEL_L1C, "L2A": LEVEL_L2A}


def random_values(m: Modality, size_px: int, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    shape = m.array_shape(size_px)
    if m.classes:
        return rng.choice([label.code for label in m.classes], shape).astype(m.dtype)
    low, high = m.display.range or m.histogram_range or (0, 100)
    return rng.uniform(low, high, shape).astype(m.dtype)


def make_tile(size_px: int = 64, level: str = "L2A", missing: tuple[str, ...] = ()) -> dict[str, Any]:
    rng = np.random.default_rng(7)
    tile: dict[str, Any] = {}
    for m in CATALOG:
        if m.stored:
            values = random_values(m, size_px, rng)
            absent = [k for k, band in enumerate(m.bands) if band not in m.bands_by_level.get(level, m.bands)]
            if absent:
                values[absent] = m.nodata
            tile[m.name] = m.empty(m.array_shape(size_px)) if m.name in missing else values
    lon, lat = 12.5, 55.7
    tile["tile"] = {
        "tile_id": tile_ids(lon, lat, size_px), "lon": lon, "lat": lat, "epsg": 32633, "ulx": 342_560.0,
        "uly": 6_175_930.0, "time": np.datetime64("2018-07-21T10:32:11", "ms"), "s2_level": LEVELS[level],
        "s1_asc_days": 2.0, "s1_desc_days": -3.5, "split": 0,
    }  # fmt: skip
    return tile


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("figures") / "made.zarr"
    store_making.make_store(path)
    return open_store(path)


def count_colour(png: bytes, colour: str) -> int:
    wanted = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
    return int((pixels(png) == wanted).all(axis=-1).sum())


# ---------------------------------------------------------------- what is shown


@pytest.mark.parametrize("size_px", [16, 96, 128])
def test_panels_show_the_tiles_own_pixels(size_px: int) -> None:
    tile = make_tile(size_px)
    image = plan_panels(tile, CATALOG[:1], "L2A")[0].panels[0].image
    assert image is not None
    sheet = pixels(draw_tile(tile, CATALOG[:3], synthetic=False))
    side = size_px * round(384 / size_px)
    top = MARGIN + TITLE + HEAD + LABEL
    shown = sheet[top : top + side, MARGIN : MARGIN + side]
    scale = side // size_px
    centres = slice(scale // 2, side, scale)
    clear = slice(2, size_px * 3 // 4)  # the scale bar covers the lower left, the frame the edge
    assert np.array_equal(shown[centres, centres][clear, clear], image[clear, clear])


def test_the_scale_bar_has_the_length_that_it_says() -> None:
    tile = make_tile(64)
    optical = CATALOG[0]
    tile[optical.name] = np.full_like(tile[optical.name], 800)
    tile[optical.name][:, :4] = 5000  # everything else is dark
    canvas = compose_tile(tile, CATALOG[:3], synthetic=False)
    assert "200 m" in [line.words for line in canvas.lines]
    top = MARGIN + TITLE + HEAD + LABEL
    lower = pixels(canvas.png())[top + 340 : top + 380, MARGIN + 4 : MARGIN + 380]
    white = (lower == 255).all(axis=-1).sum(axis=1).max()
    assert white == 384 * 200 // 640


def test_synthetic_pixels_are_marked_and_measured_ones_are_not() -> None:
    tile = make_tile(16)
    made, measured = (compose_tile(tile, CATALOG[:3], synthetic=flag) for flag in (True, False))
    assert "SYNTHETIC" in [line.words for line in made.lines]
    assert "SYNTHETIC" not in [line.words for line in measured.lines]
    assert count_colour(made.png(), WARNING) > 2000
    assert count_colour(measured.png(), WARNING) == 0


def test_measured_pixels_are_credited_once_each_and_synthetic_ones_to_nobody() -> None:
    tile = make_tile(16)
    text = " ".join(line.words for line in compose_tile(tile, CATALOG, synthetic=False).lines)
    for m in CATALOG:
        if m.stored:
            assert " ".join(m.licence.attribution.split()) in text
    assert text.count("RESOLVE Ecoregions") == 1
    text = " ".join(line.words for line in compose_tile(tile, CATALOG, synthetic=True).lines)
    assert "never measured" in text
    assert "RESOLVE" not in text


def test_title_tells_tile_place_date_and_level() -> None:
    tile = make_tile(64)
    words = [line.words for line in compose_tile(tile, CATALOG, synthetic=False, notes=["Offset kept."]).lines]
    assert f"Tile {format_tile_id(int(tile['tile']['tile_id']))}" in words
    details = next(line for line in words if "level" in line and "px" in line)
    for part in ("55.7000° N, 12.5000° E", "2018-07-21 10:32 UTC", "level L2A", "640 m a side"):
        assert part in details
    assert "Offset kept." in words


def test_what_is_missing_is_said_to_be() -> None:
    tile = make_tile(16, "L1C", missing=("sentinel1", "era5", "biome", "dynamic_world"))
    words = [line.words for line in compose_tile(tile, CATALOG, synthetic=False).lines]
    assert words.count("not observed") == 4
    assert words.count("not part of L1C") == 2


# ---------------------------------------------------------------- layout


@pytest.mark.parametrize(
    ("level", "synthetic", "missing"),
    [
        ("L2A", True, ()),
        ("L1C", False, ()),
        ("L2A", False, ("sentinel1",)),
        ("L1C", True, ("sentinel2", "aster", "era5", "eco_region")),
    ],
)
def test_no_text_overlaps_another_or_leaves_the_sheet(level: str, synthetic: bool, missing: tuple[str, ...]) -> None:
    tile = make_tile(64, level, missing)
    assert layout_problems(compose_tile(tile, CATALOG, synthetic, ["A note. " * 60])) == []


@pytest.mark.parametrize("keep", [("sentinel2",), ("biome", "era5"), ("esa_worldcover", "aster", "eco_region")])
def test_few_modalities_make_a_figure_too(keep: tuple[str, ...]) -> None:
    tile = make_tile(128)
    chosen = [m for m in CATALOG if m.name in keep]
    assert layout_problems(compose_tile(tile, chosen, synthetic=True)) == []


def test_titles_too_long_for_their_panel_run_over_two_lines() -> None:
    long = [
        dataclasses.replace(m, long_name=f"{m.long_name}, as its producers like to call it in their own words")
        for m in CATALOG
    ]
    canvas = compose_tile(make_tile(64), long, synthetic=False)
    assert layout_problems(canvas) == []
    assert "as its producers like to call it in their own words" in " ".join(line.words for line in canvas.lines)


def test_a_foreign_catalog_with_long_names_makes_a_figure_too() -> None:
    layout = store_making.small_layout()
    tile: dict[str, Any] = {name: array[0] for name, array in store_making.make_rasters(layout, 1).items()}
    columns = store_making.make_columns(layout, 1)
    tile |= {m.name: columns[m.name][0] for m in layout.tabular}
    tile["tile"] = {name: column[0] for name, column in columns.items()}
    assert layout_problems(compose_tile(tile, layout.modalities, synthetic=True)) == []


groups_of_any_size = st.lists(st.integers(1, 9), min_size=1, max_size=12).map(
    lambda sizes: [
        PanelGroup(title=f"m{k}", panels=tuple(Panel(label=f"{k}.{j}") for j in range(size)))
        for k, size in enumerate(sizes)
    ]
)


@given(groups_of_any_size, st.integers(1, 6))
def test_every_panel_gets_a_cell_of_its_own(groups: list[PanelGroup], columns: int) -> None:
    placed, rows = arrange(groups, columns)
    cells = [(place.row, place.column + k) for place in placed for k in range(len(place.group.panels))]
    assert len(cells) == len(set(cells)) == sum(len(group.panels) for group in groups)
    assert {row for row, _ in cells} == set(range(rows))
    assert max(column for _, column in cells) < columns
    assert sorted(p.label for place in placed for p in place.group.panels) == sorted(
        p.label for group in groups for p in group.panels
    )


@given(groups_of_any_size, st.integers(1, 6))
def test_a_broken_group_goes_on_below(groups: list[PanelGroup], columns: int) -> None:
    placed, _ = arrange(groups, columns)
    for k in range(len(groups)):
        rows = [place.row for place in placed if place.group.panels[0].label.startswith(f"{k}.")]
        assert rows == sorted(set(rows))


@given(st.lists(st.integers(1, 5), min_size=1, max_size=12))
def test_no_group_is_broken_that_fits_a_row(sizes: list[int]) -> None:
    groups = [PanelGroup(title="m", panels=(Panel(label="p"),) * size) for size in sizes]
    assert len(arrange(groups, best_columns(groups))[0]) == len(groups)


def test_the_whole_catalog_fills_its_rows() -> None:
    tile = make_tile(16)
    for k, band in enumerate(CATALOG[4].bands):
        if band.endswith(("HH", "HV")):
            tile[CATALOG[4].name][k] = np.nan
    groups = plan_panels(tile, CATALOG, "L2A")
    assert best_columns(groups) == 5
    assert arrange(groups, 5)[1] == 3


@settings(max_examples=50)
@given(st.text(min_size=1, max_size=80), st.integers(40, 600))
@example("000: \r0", 61)
def test_a_cut_line_fits_and_says_that_it_was_cut(words: str, width: int) -> None:
    shown = fit(words, width)
    assert text_width(shown) <= width
    assert shown == words or shown.endswith("…")


@settings(max_examples=50)
@given(st.lists(st.from_regex(r"[a-z]{1,12}", fullmatch=True), min_size=1, max_size=40), st.integers(250, 900))
def test_wrapped_text_keeps_its_words(words: list[str], width: int) -> None:
    lines = wrap(" ".join(words), width)
    assert " ".join(lines).split() == words
    assert all(text_width(line) <= width for line in lines)


@given(st.sampled_from([16, 48, 64, 112, 128, 512, 1024]), st.sampled_from([16, 96, 128, 384, 400, 512]))
def test_enlarging_invents_no_colour(size: int, side: int) -> None:
    image = np.arange(size * size * 3, dtype=np.uint32).reshape(size, size, 3)
    large = enlarge(image, side)  # type: ignore[arg-type]
    assert large.shape == (side, side, 3)
    assert np.isin(large, image).all()
    repeats = max(1, side // size)
    if repeats * size == side:
        assert np.array_equal(large, np.repeat(np.repeat(image, repeats, axis=0), repeats, axis=1))


# ---------------------------------------------------------------- stores, threads, refusals


def test_tiles_of_a_store_are_found_by_position_and_id(store: Store, tmp_path: Path) -> None:
    ids = [format_tile_id(int(value)) for value in store.coords["tile_id"]]
    assert [store.position(text) for text in ids] == list(range(len(store)))
    assert store.position(-1) == len(store) - 1
    by_position = tile_figure(store, 4, tmp_path / "position.png").read_bytes()
    by_id = tile_figure(store, ids[4].upper(), tmp_path / "id.PNG").read_bytes()
    assert by_position == by_id
    assert by_position.startswith(b"\x89PNG\r\n\x1a\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["id.PNG", "position.png"]


def test_a_selection_counts_its_own_tiles(store: Store) -> None:
    chosen = store.select(split="test")
    text = format_tile_id(int(chosen.coords["tile_id"][0]))
    assert chosen.position(text) == 0
    assert store.position(text) == int(np.flatnonzero(store.coords["split"] == 2)[0])


@pytest.mark.parametrize(
    ("tile", "message"),
    [
        (99, "no tile is at position 99; positions are 0 to 17"),
        (-19, "no tile is at position -19; positions are 0 to 17"),
        ("0123456789abcdef", "no tile has the id 0123456789abcdef; positions are 0 to 17"),
        ("Paris", "16 hex digits, or its number, got 'Paris'"),
    ],
)
def test_a_tile_that_is_not_there_is_refused(store: Store, tmp_path: Path, tile: int | str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        tile_figure(store, tile, tmp_path / "tile.png")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_selection_is_refused(store: Store, tmp_path: Path) -> None:
    nothing = store.select(where=np.zeros(len(store), dtype=bool))
    with pytest.raises(InputError, match="there are no tiles"):
        tile_figure(nothing, 0, tmp_path / "tile.png")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tile.jpg", r"PNG, PDF or SVG picture, got \.jpg; write \.png"),
        ("tile", "got no suffix"),
        ("absent/tile.png", "existing folder"),
        ("folder.png", "got a folder"),
    ],
)
def test_a_picture_that_cannot_be_written_is_refused_before_anything_is_read(
    store: Store, tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(FileInputError, match=message):
        tile_figure(store, 0, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


def test_a_figure_depends_on_nothing_but_the_tile() -> None:
    tile, some = make_tile(64), [m for m in CATALOG if m.name in {"sentinel2", "esa_worldcover", "era5", "biome"}]
    first = draw_tile(tile, some, synthetic=True)
    settings_before = dict(mpl.rcParams)
    hostile = {
        "font.size": 30, "font.family": "monospace", "image.origin": "lower", "image.cmap": "jet",
        "figure.facecolor": "red", "figure.dpi": 50, "savefig.dpi": 50, "savefig.bbox": "tight",
        "lines.linewidth": 9, "patch.linewidth": 9, "axes.grid": True, "text.color": "red",
        "figure.autolayout": True, "savefig.facecolor": "green", "lines.marker": "x", "text.parse_math": True,
    }  # fmt: skip
    with mpl.rc_context(hostile):
        assert draw_tile(tile, some, synthetic=True) == first
    assert dict(mpl.rcParams) == settings_before


def test_threads_draw_the_same_bytes() -> None:
    some = [m for m in CATALOG if m.name in {"sentinel2", "era5"}]
    tiles = [make_tile(64, level) for level in ("L1C", "L2A", "L1C", "L2A")]
    alone = [draw_tile(tile, some, synthetic=True) for tile in tiles[:2]]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda tile: draw_tile(tile, some, synthetic=True), tiles))
    assert together == alone * 2


def test_names_are_drawn_as_they_are_spelled() -> None:
    """A dollar sign starts no formula, whatever matplotlib makes of it elsewhere."""
    layout = store_making.small_layout()
    tile: dict[str, Any] = {name: array[0] for name, array in store_making.make_rasters(layout, 1).items()}
    tile["tile"] = {name: column[0] for name, column in store_making.make_columns(layout, 1).items()}
    draw_tile(tile, layout.modalities, synthetic=True, notes=["cost: $\\frac{ 6$", "日本"])


def test_pyplot_stays_out() -> None:
    program = """
import sys
from mmearth_data.inspection.figures import compose_tile
from mmearth_data.inspection.maps import compose_map
from mmearth_data.inspection.canvas import Canvas
Canvas(20, 20).png()
assert "matplotlib" in sys.modules and "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)
