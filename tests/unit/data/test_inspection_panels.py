"""Panels: what is shown can be read back with the legend beside it."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import store_making
from hypothesis import given
from hypothesis import strategies as st

from mmearth_data.catalog.entries import load_catalog
from mmearth_data.catalog.modality import Kind
from mmearth_data.catalog.tile import NO_TIME, tile_ids
from mmearth_data.inspection.facts import format_ends, format_number, plan_facts
from mmearth_data.inspection.panels import (
    MISSING_COLOUR,
    UNKNOWN_COLOUR,
    ColourBar,
    CompositeKey,
    Panel,
    PanelGroup,
    factor_bands,
    plan_panels,
)

if TYPE_CHECKING:
    from mmearth_data.catalog.modality import Modality

CATALOG = load_catalog().modalities
SIZE = 64


def rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def group(m: Modality, values: np.ndarray[Any, Any], level: str | None = None) -> PanelGroup:
    (only,) = plan_panels({m.name: values}, [m], level)
    assert only.title == m.long_name
    return only


def blank(name: str) -> tuple[Modality, np.ndarray[Any, Any]]:
    m = CATALOG[name]
    return m, m.empty(m.array_shape(SIZE))


def image_of(panel: Panel) -> np.ndarray[Any, Any]:
    assert panel.image is not None
    return panel.image


def read_back(panel: Panel) -> np.ndarray[Any, Any]:
    """Values of an image, read off its colour bar as a reader would."""
    bar = panel.legend
    assert isinstance(bar, ColourBar)
    distance = np.abs(image_of(panel)[:, :, None, :].astype(int) - bar.colours[None, None].astype(int)).sum(axis=-1)
    assert distance.min(axis=-1).max() == 0, "a colour of the image is not on its colour bar"
    return bar.low + distance.argmin(axis=-1) / 255 * (bar.high - bar.low)


def ramp(low: float, high: float) -> np.ndarray[Any, Any]:
    return np.linspace(low, high, SIZE * SIZE).reshape(SIZE, SIZE)


# ---------------------------------------------------------------- quantities


@pytest.mark.parametrize(("name", "band", "low", "high"), [("sentinel1", "asc_VV", -24, 2), ("aster", "slope", 0, 60)])
def test_a_value_can_be_read_off_the_colour_bar(name: str, band: str, low: float, high: float) -> None:
    m, values = blank(name)
    index = m.bands.index(band)
    values[index] = ramp(low, high)
    panel = next(p for p in group(m, values).panels if p.label == band)
    shown, stored = read_back(panel), values[index].astype(float)
    inside = (stored > np.percentile(stored, 2)) & (stored < np.percentile(stored, 98))
    assert np.abs(shown - stored)[inside].max() <= (high - low) / 255
    assert isinstance(panel.legend, ColourBar)
    assert panel.legend.units == {"asc_VV": "dB", "slope": "°"}[band]


def test_scale_and_offset_are_applied_in_legends() -> None:
    m, values = blank("sentinel2")
    values[:] = ramp(500, 4500)[None]
    for panel in group(m, values).panels:
        assert isinstance(panel.legend, CompositeKey)
        for _, low, high in panel.legend.channels:
            assert (low, high) == pytest.approx((0.0580, 0.4420), abs=5e-4)  # percentiles 2 and 98 of 0.05 .. 0.45


def test_a_colour_bar_speaks_of_physical_values() -> None:
    """Stored tenths of a kelvin above 200 K."""
    base = CATALOG["canopy_height_eth"]
    m = dataclasses.replace(base, dtype=np.dtype("uint16"), nodata=65535, scale=0.1, offset=200.0, units="K")
    values = m.empty(m.array_shape(SIZE))
    values[:] = np.round(ramp(0, 1000))[None]
    legend = group(m, values).panels[0].legend
    assert isinstance(legend, ColourBar)
    assert (legend.low, legend.high) == pytest.approx((202, 298), abs=0.1)


def test_a_flat_sea_is_not_stretched_into_noise() -> None:
    m, values = blank("aster")
    rng = np.random.default_rng(0)
    values[0] = rng.integers(0, 2, (SIZE, SIZE))
    values[1] = rng.integers(0, 3, (SIZE, SIZE))
    for panel in group(m, values).panels:
        assert isinstance(panel.legend, ColourBar)
        assert panel.legend.high - panel.legend.low >= 20
    slope = group(m, values).panels[1].legend
    assert isinstance(slope, ColourBar)
    assert slope.low >= 0, "no slope is below zero"


def test_missing_pixels_are_grey_and_counted_and_others_are_not() -> None:
    m, values = blank("sentinel1")
    values[0] = ramp(-20, 0)
    values[0, :16] = np.nan
    panel = group(m, values).panels[0]
    grey = (image_of(panel) == rgb(MISSING_COLOUR)).all(axis=-1)
    assert grey[:16].all()
    assert not grey[16:].any()
    assert panel.note == "25% missing"


def test_an_orbit_pass_that_was_not_had_is_said_to_be_missing() -> None:
    m, values = blank("sentinel1")
    values[m.bands.index("desc_VV")] = -10
    panels = group(m, values).panels
    assert [(p.label, p.note, p.image is None) for p in panels] == [
        ("asc", "not observed", True),
        ("desc_VV", "", False),
    ]
    assert group(m, values).note == "no VH, HH, HV"


def test_relief_is_lit_from_the_north_west_by_the_cosine_of_incidence() -> None:
    """Planes of 45 degrees under a sun at 45 degrees in the north-west: the cosine has a closed form."""
    m = CATALOG["aster"]
    side = np.arange(SIZE) * 10.0
    east, south = np.meshgrid(side, side)
    tilt = 1 / math.sqrt(2)
    brightness = {}
    for name, plane in {
        "north-west": (east + south) * tilt,  # rises to the south-east, looks north-west
        "south-east": 4000 - (east + south) * tilt,
        "flat": np.full((SIZE, SIZE), 100.0),
    }.items():
        values = m.empty(m.array_shape(SIZE))
        values[0] = np.round(plane)
        panel = group(m, values).panels[0]
        bar = panel.legend
        assert isinstance(bar, ColourBar)
        scaled = np.clip((values[0] - bar.low) / (bar.high - bar.low), 0, 1)
        plain = bar.colours[np.round(255 * scaled).astype(int)].astype(float)
        inner = (slice(8, -8), slice(8, -8))
        brightness[name] = float(np.median(image_of(panel)[inner].max(axis=-1) / plain[inner].max(axis=-1)))
    assert brightness["flat"] == pytest.approx(1.0, abs=0.01)
    assert brightness["north-west"] == pytest.approx(min(1.25, 1 + 0.9 * (1 - math.sqrt(0.5))), abs=0.03)
    assert brightness["south-east"] == pytest.approx(max(0.35, 1 - 0.9 * math.sqrt(0.5)), abs=0.03)


# ---------------------------------------------------------------- composites


def test_grey_ground_is_grey_in_a_composite_and_a_red_field_red() -> None:
    m, values = blank("sentinel2")
    values[:] = ramp(400, 3000)[None]
    grey = image_of(group(m, values).panels[0]).astype(int)
    assert np.ptp(grey, axis=-1).max() == 0
    assert (np.diff(grey[..., 0].ravel()) >= 0).all()
    values[m.bands.index("B4"), :32] += 2000
    red = image_of(group(m, values).panels[0]).astype(int)
    assert (red[1:32, :, 0] > red[1:32, :, 2]).all()


def test_a_composite_spans_the_values_of_all_its_bands() -> None:
    m, values = blank("sentinel2")
    for band, (low, high) in {"B4": (2000, 3000), "B3": (1000, 2000), "B2": (200, 900)}.items():
        values[m.bands.index(band)] = ramp(low, high)
    key = group(m, values).panels[0].legend
    assert isinstance(key, CompositeKey)
    assert key.common
    assert key.channels[0][1:] == pytest.approx((0.0214, 0.2980), abs=5e-4)


def test_haze_is_taken_off_above_the_atmosphere_only() -> None:
    """The same surface, grey from 0.02 to 0.2, below clear air and with 0.02, 0.04 and 0.05 of scattered light."""
    m, values = blank("sentinel2")
    haze = {"B4": 200, "B3": 400, "B2": 500}
    for band, light in haze.items():
        values[m.bands.index(band)] = ramp(200, 2000) + light
    above, below = (group(m, values, level).panels[0] for level in ("L1C", "L2A"))
    assert np.ptp(image_of(above).astype(int), axis=-1).max() <= 1
    assert np.ptp(image_of(below).astype(int), axis=-1).max() > 10
    assert isinstance(above.legend, CompositeKey)
    assert [low for _, low, _ in above.legend.channels] == pytest.approx([0.0436, 0.0636, 0.0736], abs=5e-4)
    assert not above.legend.common


def test_plants_stay_green_above_the_atmosphere() -> None:
    m, values = blank("sentinel2")
    for band, (low, high) in {"B4": (300, 500), "B3": (700, 1000), "B2": (400, 600)}.items():
        values[m.bands.index(band)] = ramp(low, high)
    red, green, blue = np.moveaxis(image_of(group(m, values, "L1C").panels[0]).astype(int), -1, 0)
    assert (green > red).all()
    assert (green > blue).all()


def test_a_pixel_that_lacks_one_of_three_bands_is_missing() -> None:
    m, values = blank("sentinel2")
    values[:] = 1000
    values[m.bands.index("B3"), 7, 9] = m.nodata
    image = image_of(group(m, values).panels[0])
    grey = (image == rgb(MISSING_COLOUR)).all(axis=-1)
    assert np.argwhere(grey).tolist() == [[7, 9]]


def test_a_catalog_names_its_false_colour_composite() -> None:
    m, values = blank("sentinel2")
    values[:] = ramp(400, 3000)[None]
    keys = [panel.legend for panel in group(m, values).panels]
    bands = [[band for band, *_ in key.channels] for key in keys if isinstance(key, CompositeKey)]
    assert bands == [["B4", "B3", "B2"], ["B8", "B4", "B3"]]


# ---------------------------------------------------------------- classes and masks


def test_classes_have_the_catalogs_colours_and_their_shares() -> None:
    m, values = blank("esa_worldcover")
    values[0, :48] = 10
    values[0, 48:60] = 80
    values[0, 60:] = m.nodata
    panel = group(m, values).panels[0]
    colours = {label.code: label.colour for label in m.classes}
    assert (image_of(panel)[:48] == rgb(colours[10] or "")).all()
    assert (image_of(panel)[48:60] == rgb(colours[80] or "")).all()
    assert (image_of(panel)[60:] == rgb(MISSING_COLOUR)).all()
    assert isinstance(panel.legend, tuple)
    assert [(key.name, key.share) for key in panel.legend] == [("Tree cover", 0.8), ("Permanent water bodies", 0.2)]


def test_shares_of_a_long_legend_add_up_with_the_rest_last() -> None:
    m, values = blank("esa_worldcover")
    codes = [label.code for label in m.classes]
    values[0] = np.random.default_rng(0).choice(codes, (SIZE, SIZE))
    legend = group(m, values).panels[0].legend
    assert isinstance(legend, tuple)
    assert sum(key.share for key in legend) == pytest.approx(1)
    assert legend[-1].name == f"{len(codes) - 6} more"
    assert len(legend) == 7


def test_codes_that_no_class_has_are_loud() -> None:
    m, values = blank("dynamic_world")
    values[0] = 1
    values[0, 0, 0] = 77
    panel = group(m, values).panels[0]
    assert tuple(image_of(panel)[0, 0]) == rgb(UNKNOWN_COLOUR)
    assert isinstance(panel.legend, tuple)
    assert panel.legend[-1].name == "unknown code 77"


def test_a_mask_that_is_a_quantity_has_one_scale_in_all_tiles() -> None:
    m, values = blank("sentinel2_cloudprod")
    values[0] = 3
    first = group(m, values).panels[0]
    values[0, 32:] = 95
    second = group(m, values).panels[0]
    assert isinstance(first.legend, ColourBar)
    assert (first.legend.low, first.legend.high) == (0, 100)
    assert np.array_equal(image_of(first)[0], image_of(second)[0])


def test_a_level_that_cannot_have_a_band_is_named_as_the_reason() -> None:
    m, values = blank("sentinel2_scl")
    assert group(m, values, "L1C").panels[0].note == "not part of L1C"
    assert group(m, values, "L2A").panels[0].note == "not observed"
    assert group(m, values, None).panels[0].note == "not observed"


def test_a_catalog_that_nobody_shipped_is_drawn_whole() -> None:
    layout = store_making.small_layout()
    values = {name: array[0] for name, array in store_making.make_rasters(layout, 1).items()}
    groups = plan_panels(values, layout.modalities)
    assert [g.title for g in groups] == [m.long_name for m in layout.rasters]
    assert all(p.image is not None for g in groups for p in g.panels)


# ---------------------------------------------------------------- bands and facts


@given(
    st.lists(st.from_regex(r"[a-z]{1,4}(_[a-z]{1,4})?", fullmatch=True), min_size=2, max_size=4, unique=True),
    st.lists(st.from_regex(r"[A-Z]{1,4}", fullmatch=True), min_size=2, max_size=4, unique=True),
)
def test_all_combinations_of_two_things_are_found(rows: list[str], columns: list[str]) -> None:
    bands = [f"{row}_{column}" for row in rows for column in columns]
    assert factor_bands(bands) == (tuple(rows), tuple(columns))
    assert factor_bands(bands[:-1]) is None


def test_the_catalogs_bands_factor_as_their_names_say() -> None:
    assert factor_bands(CATALOG["sentinel1"].bands) == (("asc", "desc"), ("VV", "VH", "HH", "HV"))
    climate = factor_bands(CATALOG["era5"].bands)
    assert climate is not None
    assert climate[0] == ("prev_month", "curr_month", "year")
    assert factor_bands(CATALOG["sentinel2"].bands) is None


def facts_tile() -> dict[str, Any]:
    era5 = CATALOG["era5"]
    climate = np.arange(12, dtype=np.float32) + 270
    climate[-1] = np.nan
    coordinates = {
        "tile_id": int(tile_ids(-61.5, -3.25, SIZE)), "lon": -61.5, "lat": -3.25, "time": NO_TIME, "s2_level": 255,
        "split": 2, "epsg": 32720, "ulx": 666420.0, "uly": 9640960.0,
        "s1_asc_days": np.float32(-2.25), "s1_desc_days": np.float32(np.nan),
    }  # fmt: skip
    return {era5.name: climate, "biome": np.uint8(1), "eco_region": np.uint16(65535), "tile": coordinates}


def test_facts_of_a_tile_are_told_and_missing_ones_are_said_to_be() -> None:
    tables = {table.title: table for table in plan_facts(facts_tile(), CATALOG.values())}
    scene = dict(row for row in tables["Scene and grid"].rows if len(row) == 2)
    assert scene["centre"] == "3.250000° S, 61.500000° W"
    assert scene["scene"] == "date not known"
    assert scene["split"] == "test"
    assert scene["S1 ascending"] == "\N{MINUS SIGN}2.2 days"
    assert "S1 descending" not in scene
    labels = dict(row for row in tables["Labels"].rows if len(row) == 2)
    assert labels["Biome"] == "Tropical & Subtropical Moist Broadleaf Forests"
    assert labels["Ecoregion"] == "not observed"
    climate = tables[CATALOG["era5"].long_name]
    assert climate.columns[0] == "avg temp (K)"
    assert climate.columns[3] == "total precip (m)"
    assert climate.rows[0] == ("prev month", "270.0", "271.0", "272.0", "273.0")
    assert climate.rows[2][-1] == "\N{EN DASH}"


def test_labels_carry_their_colour() -> None:
    (table,) = (t for t in plan_facts(facts_tile(), CATALOG.values()) if t.title == "Labels")
    assert table.colours == (CATALOG["biome"].classes[1].colour, None)


@given(st.floats(-1e6, 1e6), st.floats(1e-4, 1e6))
def test_ends_of_a_scale_are_told_apart(low: float, span: float) -> None:
    first, second = (
        float(text.replace(",", "").replace("\N{MINUS SIGN}", "-")) for text in format_ends(low, low + span)
    )
    assert second > first
    assert abs(first - low) <= 0.05 * span + 1e-9
    assert abs(second - low - span) <= 0.05 * span + 1e-9


@given(st.floats(1e-2, 1e6) | st.floats(-1e6, -1e-2))
def test_numbers_keep_three_digits(value: float) -> None:
    text = format_number(value).replace(",", "").replace("\N{MINUS SIGN}", "-")
    assert float(text) == pytest.approx(value, rel=5e-3)


def test_every_kind_of_the_catalog_is_covered() -> None:
    """A kind that is added later has to be drawn too; only users' own labels can be of several classes per tile."""
    assert {m.kind for m in CATALOG.values()} == set(Kind) - {Kind.TILE_MULTI_LABEL}
