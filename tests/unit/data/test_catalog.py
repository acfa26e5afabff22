"""The shipped catalog against what the products' publishers say, and broken entries against the reader."""

from __future__ import annotations

import io
import json
import re
import shutil
from typing import TYPE_CHECKING, Any

import geopandas
import numpy as np
import pytest
import rasterio
from rich.console import Console

from mmearth_data.catalog.entries import (
    Catalog,
    biomes,
    describe_modality,
    eco_regions,
    load_catalog,
    read_classes,
)
from mmearth_data.catalog.modality import Kind
from mmearth_data.errors import CatalogError, FileInputError
from mmearth_data.inspection.listing import render_catalog, render_modality
from mmearth_data.resources import resource_path

if TYPE_CHECKING:
    from pathlib import Path

    from mmearth_data.catalog.modality import Modality

S2_BANDS = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8A", "B8", "B9", "B10", "B11", "B12")
S1_BANDS = tuple(f"{orbit}_{pol}" for orbit in ("asc", "desc") for pol in ("VV", "VH", "HH", "HV"))
ERA5_BANDS = tuple(
    f"{window}_{variable}"
    for window in ("prev_month", "curr_month", "year")
    for variable in ("avg_temp", "min_temp", "max_temp", "total_precip")
)
NAN = float("nan")

ON_REQUEST = {"io_lulc", "copernicus_dem", "jrc_water", "landsat8"}
# name: (kind, bands, stored type, no data, Earth Engine assets). The settled names of the data set.
CONTRACT: dict[str, tuple[str, tuple[str, ...], str, float, set[str]]] = {
    "sentinel2": (
        "raster/continuous",
        S2_BANDS,
        "uint16",
        0,
        {"COPERNICUS/S2_SR_HARMONIZED", "COPERNICUS/S2_HARMONIZED"},
    ),
    "sentinel2_cloudmask": (
        "raster/mask",
        ("QA60",),
        "uint16",
        65535,
        {"COPERNICUS/S2_SR_HARMONIZED", "COPERNICUS/S2_HARMONIZED"},
    ),
    "sentinel2_cloudprod": ("raster/mask", ("MSK_CLDPRB",), "uint16", 65535, {"COPERNICUS/S2_SR_HARMONIZED"}),
    "sentinel2_scl": ("raster/mask", ("SCL",), "uint8", 255, {"COPERNICUS/S2_SR_HARMONIZED"}),
    "sentinel1": ("raster/continuous", S1_BANDS, "float32", NAN, {"COPERNICUS/S1_GRD"}),
    "aster": (
        "raster/continuous",
        ("elevation", "slope"),
        "int16",
        -32768,
        {"projects/sat-io/open-datasets/ASTER/GDEM"},
    ),
    "canopy_height_eth": (
        "raster/continuous",
        ("height", "std"),
        "uint8",
        255,
        {"users/nlang/ETH_GlobalCanopyHeight_2020_10m_v1", "users/nlang/ETH_GlobalCanopyHeightSD_2020_10m_v1"},
    ),
    "dynamic_world": ("raster/categorical", ("landcover",), "uint8", 0, {"GOOGLE/DYNAMICWORLD/V1"}),
    "esa_worldcover": ("raster/categorical", ("map",), "uint8", 0, {"ESA/WorldCover/v100"}),
    "era5": ("tile/continuous", ERA5_BANDS, "float32", NAN, {"ECMWF/ERA5_LAND/MONTHLY_AGGR"}),
    "lat": ("tile/continuous", ("sin", "cos"), "float32", NAN, set()),
    "lon": ("tile/continuous", ("sin", "cos"), "float32", NAN, set()),
    "month": ("tile/continuous", ("sin", "cos"), "float32", NAN, set()),
    "biome": ("tile/categorical", (), "uint8", 255, {"RESOLVE/ECOREGIONS/2017"}),
    "eco_region": ("tile/categorical", (), "uint16", 65535, {"RESOLVE/ECOREGIONS/2017"}),
    "io_lulc": (
        "raster/categorical",
        ("landcover",),
        "uint8",
        0,
        {"projects/sat-io/open-datasets/landcover/ESRI_Global-LULC_10m_TS"},
    ),
    "copernicus_dem": ("raster/continuous", ("elevation",), "float32", NAN, {"COPERNICUS/DEM/GLO30"}),
    "jrc_water": ("raster/continuous", ("occurrence",), "uint8", 255, {"JRC/GSW1_4/GlobalSurfaceWater"}),
    "landsat8": (
        "raster/continuous",
        ("B1", "B2", "B3", "B4", "B5", "B6", "B7"),
        "uint16",
        0,
        {"LANDSAT/LC08/C02/T1_L2"},
    ),
}

# Requirements of the missions, nm: centre, width, native pixel in metres (Sentinel-2 mission requirements document, as
# in GDAL's documentation of its driver; Landsat 8 data users handbook, whose bands are given by both ends).
MSI_NM = {
    "B1": (443, 20, 60),
    "B2": (490, 65, 10),
    "B3": (560, 35, 10),
    "B4": (665, 30, 10),
    "B5": (705, 15, 20),
    "B6": (740, 15, 20),
    "B7": (783, 20, 20),
    "B8": (842, 115, 10),
    "B8A": (865, 20, 20),
    "B9": (945, 20, 60),
    "B10": (1375, 30, 60),
    "B11": (1610, 90, 20),
    "B12": (2190, 180, 20),
}
OLI_NM = {
    "B1": (435, 451),
    "B2": (452, 512),
    "B3": (533, 590),
    "B4": (636, 673),
    "B5": (851, 879),
    "B6": (1566, 1651),
    "B7": (2107, 2294),
}
LIGHT_SPEED_M_S = 299_792_458

# Dynamic World's own labels, 0 to 8, and colours (data page of GOOGLE/DYNAMICWORLD/V1).
DYNAMIC_WORLD = {
    "water": "419BDF",
    "trees": "397D49",
    "grass": "88B053",
    "flooded_vegetation": "7A87C6",
    "crops": "E49635",
    "shrub_and_scrub": "DFC35A",
    "built": "C4281B",
    "bare": "A59B8F",
    "snow_and_ice": "B39FE1",
}

# ESA WorldCover 2020 product user manual, table of classes.
WORLD_COVER = {
    10: ("Tree cover", "006400"),
    20: ("Shrubland", "ffbb22"),
    30: ("Grassland", "ffff4c"),
    40: ("Cropland", "f096ff"),
    50: ("Built-up", "fa0000"),
    60: ("Bare / sparse vegetation", "b4b4b4"),
    70: ("Snow and ice", "f0f0f0"),
    80: ("Permanent water bodies", "0064c8"),
    90: ("Herbaceous wetland", "0096a0"),
    95: ("Mangroves", "00cf75"),
    100: ("Moss and lichen", "fae6a0"),
}

# The product's codes and Esri's legend (community catalog page S2TSLULC).
IO_LULC = {
    1: ("Water", "1A5BAB"),
    2: ("Trees", "358221"),
    4: ("Flooded Vegetation", "87D19E"),
    5: ("Crops", "FFDB5C"),
    7: ("Built Area", "ED022A"),
    8: ("Bare Ground", "EDE9E4"),
    9: ("Snow/Ice", "F2FAFF"),
    10: ("Clouds", "C8C8C8"),
    11: ("Rangeland", "C6AD8D"),
}

# RESOLVE's colours in the order of its own BIOME_NUM, 1 to 14.
RESOLVE_BIOMES = {
    "Tropical & Subtropical Moist Broadleaf Forests": "38A700",
    "Tropical & Subtropical Dry Broadleaf Forests": "CCCD65",
    "Tropical & Subtropical Coniferous Forests": "88CE66",
    "Temperate Broadleaf & Mixed Forests": "00734C",
    "Temperate Conifer Forests": "458970",
    "Boreal Forests/Taiga": "7AB6F5",
    "Tropical & Subtropical Grasslands, Savannas & Shrublands": "FEAA01",
    "Temperate Grasslands, Savannas & Shrublands": "FEFF73",
    "Flooded Grasslands & Savannas": "BEE7FF",
    "Montane Grasslands & Shrublands": "D6C39D",
    "Tundra": "9ED7C2",
    "Mediterranean Forests, Woodlands & Scrub": "FE0000",
    "Deserts & Xeric Shrublands": "CC6767",
    "Mangroves": "FE01C4",
}


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog()


def plain(name: str) -> str:
    """Class names without the differences in spelling between publishers."""
    return re.sub("[^a-z]+", " ", name.lower().replace("/", " and ")).strip()


def colour(hexadecimal: str) -> str:
    return "#" + hexadecimal.lower()


# ---------------------------------------------------------------- what is described


def test_the_names_and_their_order_are_settled(catalog: Catalog) -> None:
    assert tuple(catalog.modalities) == tuple(CONTRACT)
    assert [m.name for m in catalog.select()] == [name for name in CONTRACT if name not in ON_REQUEST]


@pytest.mark.parametrize("name", CONTRACT)
def test_what_is_stored_is_settled(catalog: Catalog, name: str) -> None:
    kind, bands, dtype, nodata, assets = CONTRACT[name]
    modality = catalog.find(name)
    assert str(modality.kind) == kind
    assert modality.bands == bands
    assert modality.dtype == np.dtype(dtype)
    np.testing.assert_equal(modality.nodata, nodata)
    assert set(modality.asset.values()) == assets
    assert modality.stored == bool(assets)


@pytest.mark.parametrize("name", CONTRACT)
def test_roles_follow_the_kind(catalog: Catalog, name: str) -> None:
    modality = catalog.find(name)
    assert modality.pretext == (modality.kind is not Kind.RASTER_MASK)
    assert modality.resampling == ("bilinear" if modality.kind is Kind.RASTER_CONTINUOUS else "nearest")
    assert (modality.histogram_range is not None) == modality.kind.is_continuous
    assert bool(modality.recipe["name"])


@pytest.mark.parametrize("name", CONTRACT)
def test_origin_and_terms_are_told(catalog: Catalog, name: str) -> None:
    modality = catalog.find(name)
    assert modality.licence.name
    assert len(modality.licence.attribution) > 20
    assert modality.licence.url.startswith("https://")
    assert modality.source.startswith("https://")
    if modality.stored:
        assert re.fullmatch(r"10\.\d{4,}/\S+", modality.doi)


def test_the_model_sees_sentinel2_without_the_cirrus_band(catalog: Catalog) -> None:
    sentinel2 = catalog.find("sentinel2")
    without = tuple(band for band in S2_BANDS if band != "B10")
    assert sentinel2.model_bands == without
    # Level 2A is corrected for the atmosphere with B10 and does not contain it.
    assert dict(sentinel2.bands_by_level) == {"L2A": without, "L1C": S2_BANDS}
    assert sentinel2.statistics_by == "s2_level"
    assert sentinel2.pretext_norm == "patch"
    assert [m.name for m in catalog.modalities.values() if m.input] == ["sentinel2"]
    assert [m.name for m in catalog.modalities.values() if m.pretext_norm == "patch"] == ["sentinel2"]
    assert sentinel2.scale * 10_000 == 1


def test_masks_of_level_2a_are_not_asked_of_level_1c(catalog: Catalog) -> None:
    for name, bands in {"sentinel2_cloudprod": ("MSK_CLDPRB",), "sentinel2_scl": ("SCL",)}.items():
        assert dict(catalog.find(name).bands_by_level) == {"L2A": bands, "L1C": ()}
    assert not catalog.find("sentinel2_cloudmask").bands_by_level


def test_bands_are_found_in_their_assets(catalog: Catalog) -> None:
    sentinel1 = catalog.find("sentinel1")
    assert {band: band.split("_")[1] for band in S1_BANDS} == sentinel1.asset_bands
    assert catalog.find("dynamic_world").asset_bands == {"landcover": "label"}
    assert catalog.find("esa_worldcover").asset_bands == {"map": "Map"}
    assert set(catalog.find("canopy_height_eth").asset_bands.values()) == {"b1"}
    assert set(catalog.find("era5").asset_bands.values()) == {
        "temperature_2m",
        "temperature_2m_min",
        "temperature_2m_max",
        "total_precipitation_sum",
    }


def test_sentinel2_bands_are_where_the_mission_asked_for_them(catalog: Catalog) -> None:
    sentinel2 = catalog.find("sentinel2")
    assert list(sentinel2.wavelengths) == list(sentinel2.native_m) == list(S2_BANDS)
    for band, (centre, width, pixel) in MSI_NM.items():
        seen = sentinel2.wavelengths[band]
        assert 1000 * seen.centre_um == pytest.approx(centre, abs=10)
        assert 1000 * seen.width_um == pytest.approx(width, abs=10)
        assert sentinel2.native_m[band] == pixel
    native = sentinel2.recipe["parameters"]["native"]
    assert {band for band, pixel in sentinel2.native_m.items() if pixel == 10} == set(native)


def test_landsat_bands_are_between_their_published_ends(catalog: Catalog) -> None:
    wavelengths = catalog.find("landsat8").wavelengths
    assert list(wavelengths) == list(OLI_NM)
    for band, (low, high) in OLI_NM.items():
        centre, width = 1000 * wavelengths[band].centre_um, 1000 * wavelengths[band].width_um
        assert (centre - width / 2, centre + width / 2) == pytest.approx((low, high), abs=2)


def test_the_radar_is_in_the_c_band(catalog: Catalog) -> None:
    frequency = catalog.find("sentinel1").frequency_ghz
    assert frequency is not None
    assert LIGHT_SPEED_M_S / (frequency * 1e9) == pytest.approx(0.0555, abs=1e-4)  # ESA: wavelength of 5.55 cm


@pytest.mark.parametrize("name", CONTRACT)
def test_every_raster_has_its_native_pixels(catalog: Catalog, name: str) -> None:
    modality = catalog.find(name)
    assert set(modality.native_m) == (set(modality.bands) if modality.kind.is_raster else set())
    assert all(10 <= pixel <= 60 for pixel in modality.native_m.values())


@pytest.mark.parametrize(("name", "coordinate"), [("lat", "lat"), ("lon", "lon"), ("month", "time")])
def test_derived_modalities_name_their_coordinate(catalog: Catalog, name: str, coordinate: str) -> None:
    assert catalog.find(name).derived_from == (coordinate,)


@pytest.mark.parametrize(
    ("name", "band", "extremes", "bin_width"),
    [
        # Shore of the Dead Sea, summit of Everest.
        ("aster", "elevation", (-430, 8849), 5),
        ("aster", "slope", (0, 90), 1 / 16),
        # Records of temperature: Vostok 1983, Death Valley 1913.
        ("era5", "year_min_temp", (183.95, 329.85), 0.1),
        ("era5", "curr_month_max_temp", (183.95, 329.85), 0.1),
        # ERA5's wettest cells (Chocó, Meghalaya) stay below 3 m a month and 15 m a year.
        ("era5", "curr_month_total_precip", (0, 3), 0.002),
        ("era5", "year_total_precip", (0, 15), 0.01),
        # Noise floor of the sensor in dB; corner reflectors and ships.
        ("sentinel1", "asc_VH", (-45, 40), 0.05),
        # Reflectance 0 to 2, in ten thousandths: bins of 0.001.
        ("sentinel2", "B4", (0, 20000), 10),
        ("canopy_height_eth", "height", (0, 254), 1),
        ("lat", "sin", (-1, 1), 0.001),
    ],
)
def test_percentiles_are_resolved_over_what_occurs_on_earth(
    catalog: Catalog, name: str, band: str, extremes: tuple[float, float], bin_width: float
) -> None:
    modality = catalog.find(name)
    limits = modality.histogram_range_of(band)
    assert limits is not None
    assert limits[0] <= extremes[0]
    assert extremes[1] <= limits[1]
    assert (limits[1] - limits[0]) / modality.histogram_bins <= bin_width * (1 + 1e-9)
    assert modality.histogram_bins <= 2048


# ---------------------------------------------------------------- classes


def test_dynamic_world_classes_are_its_labels_plus_one(catalog: Catalog) -> None:
    modality = catalog.find("dynamic_world")
    found = {label.code: (plain(label.name), label.colour) for label in modality.classes}
    published = {i + 1: (plain(name), colour(shade)) for i, (name, shade) in enumerate(DYNAMIC_WORLD.items())}
    assert found == published
    parameters = modality.recipe["parameters"]
    assert parameters["remap_from"] == list(range(9))
    assert parameters["remap_to"] == list(range(1, 10))


def test_world_cover_classes_are_the_published_ones(catalog: Catalog) -> None:
    found = {label.code: (label.name, label.colour) for label in catalog.find("esa_worldcover").classes}
    assert found == {code: (name, colour(shade)) for code, (name, shade) in WORLD_COVER.items()}


def test_io_lulc_classes_are_the_published_ones_renumbered(catalog: Catalog) -> None:
    modality = catalog.find("io_lulc")
    renumber = dict(
        zip(modality.recipe["parameters"]["remap_from"], modality.recipe["parameters"]["remap_to"], strict=True)
    )
    assert list(renumber) == list(IO_LULC)
    found = {label.code: (plain(label.name), label.colour) for label in modality.classes}
    assert found == {renumber[code]: (plain(name), colour(shade)) for code, (name, shade) in IO_LULC.items()}


def read_pixels(test_data: Path, layer: str) -> np.ndarray[Any, Any]:
    """Read all sites of a TerraMesh layer: (band, pixel)."""
    images = []
    for path in sorted((test_data / "terramesh" / layer).glob("*.tif")):
        with rasterio.open(path) as image:
            images.append(image.read().reshape(image.count, -1))
    return np.concatenate(images, axis=1)


def test_io_lulc_codes_mean_in_terramesh_what_their_names_say(catalog: Catalog, test_data: Path) -> None:
    (codes,) = read_pixels(test_data, "LULC")
    classes = {label.name: label.code for label in catalog.find("io_lulc").classes}
    assert set(np.unique(codes)) <= set(classes.values())
    # Order of the files: B1..B8 B8A B9 B10 B11 B12.
    green, red, infrared, shortwave = read_pixels(test_data, "S2L1C").astype(float)[[2, 3, 7, 11]]
    ndvi = (infrared - red) / (infrared + red)
    ndwi = (green - infrared) / (green + infrared)
    ndsi = (green - shortwave) / (green + shortwave)

    def mean(index: np.ndarray[Any, Any], name: str) -> float:
        return float(index[codes == classes[name]].mean())

    assert mean(ndwi, "Water") > max(mean(ndwi, name) for name in ("Trees", "Crops", "Built area", "Rangeland"))
    assert mean(ndvi, "Trees") > max(
        mean(ndvi, name) for name in ("Water", "Built area", "Bare ground", "Snow and ice")
    )
    assert mean(ndsi, "Snow and ice") > 0.4  # the threshold that snow maps use (Hall et al. 1995)


def test_scene_classes_are_those_of_sen2cor(catalog: Catalog) -> None:
    names = {label.code: label.name.lower() for label in catalog.find("sentinel2_scl").classes}
    assert list(names) == list(range(12))
    for code, word in {3: "shadow", 4: "vegetation", 5: "soil", 6: "water", 8: "medium", 9: "high", 11: "snow"}.items():
        assert word in names[code]


def test_cloud_mask_values_are_bits_10_and_11(catalog: Catalog) -> None:
    names = {label.code: label.name.lower() for label in catalog.find("sentinel2_cloudmask").classes}
    assert set(names) == {0, 1 << 10, 1 << 11, 1 << 10 | 1 << 11}
    for code, name in names.items():
        assert ("opaque" in name) == bool(code & 1 << 10)
        assert ("cirrus" in name) == bool(code & 1 << 11)


def test_biomes_have_the_published_ids_and_colours(catalog: Catalog, test_data: Path) -> None:
    published = json.loads((test_data / "mmearth_tables" / "biome_labels.json").read_text(encoding="utf-8"))
    assert {label.name: label.code for label in biomes()} == published
    assert [label.code for label in biomes()] == list(range(14))
    assert {label.name: label.colour for label in biomes()} == {name: colour(c) for name, c in RESOLVE_BIOMES.items()}
    assert catalog.find("biome").classes == biomes()


def test_ecoregions_have_the_published_ids_and_areas(catalog: Catalog, test_data: Path) -> None:
    tables = test_data / "mmearth_tables"
    published = json.loads((tables / "eco_labels.json").read_text(encoding="utf-8"))
    areas = json.loads((tables / "total_area_eco_region.json").read_text(encoding="utf-8"))
    assert {region.name: region.id for region in eco_regions()} == published
    assert [region.id for region in eco_regions()] == list(range(846))
    for region in eco_regions():
        assert region.area_km2 == pytest.approx(areas[region.name], abs=1e-3)
    assert [(c.code, c.name) for c in catalog.find("eco_region").classes] == [(r.id, r.name) for r in eco_regions()]


def test_ecoregions_of_a_biome_add_up_to_its_published_area(test_data: Path) -> None:
    published = json.loads((test_data / "mmearth_tables" / "total_area_biome.json").read_text(encoding="utf-8"))
    for biome in biomes():
        total = sum(region.area_km2 for region in eco_regions() if region.biome == biome.code)
        assert total == pytest.approx(published[biome.name], rel=1e-6)


def test_biome_and_realm_of_ecoregions_are_those_of_resolve(test_data: Path) -> None:
    rows = geopandas.read_file(test_data / "ecoregions" / "resolve2017_simplified.gpkg", ignore_geometry=True)
    ours = {region.name: (biomes()[region.biome].name, region.realm) for region in eco_regions()}
    assert len(rows) > 800
    for name, biome, realm in zip(rows["ECO_NAME"], rows["BIOME_NAME"], rows["REALM"], strict=True):
        assert ours[name] == (biome, realm)
    assert {region.realm for region in eco_regions()} == {
        "Afrotropic",
        "Antarctica",
        "Australasia",
        "Indomalayan",
        "Nearctic",
        "Neotropic",
        "Oceania",
        "Palearctic",
    }


# ---------------------------------------------------------------- choosing and showing


def test_selecting_keeps_catalog_order_and_drops_repetitions(catalog: Catalog) -> None:
    names = [m.name for m in catalog.select(["io_lulc", "aster", "sentinel2", "aster"])]
    assert names == ["sentinel2", "aster", "io_lulc"]
    assert catalog.select([]) == ()


@pytest.mark.parametrize(
    ("wrong", "meant"), [("sentinel3", "sentinel2"), ("worldcover", "esa_worldcover"), ("dem", "")]
)
def test_an_unknown_name_is_refused_with_the_closest_one(catalog: Catalog, wrong: str, meant: str) -> None:
    with pytest.raises(CatalogError, match=rf"got '{wrong}'; .*{meant}") as caught:
        catalog.select(["aster", wrong])
    assert caught.value.exit_code == 2


def test_descriptions_are_strict_json(catalog: Catalog) -> None:
    rows = json.loads(json.dumps([describe_modality(m) for m in catalog.modalities.values()], allow_nan=False))
    assert [row["name"] for row in rows] == list(CONTRACT)
    assert rows[0]["classes"] == []
    assert [c["code"] for c in rows[7]["classes"]] == list(range(1, 10))


def test_the_catalog_is_readable_on_a_terminal(catalog: Catalog) -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(render_catalog(tuple(catalog.modalities.values())))
    console.print(render_modality(catalog.find("esa_worldcover")))
    text = console.export_text()
    for name in CONTRACT:
        assert name in text
    assert "Tree cover" in text
    assert "ESA WorldCover project 2020" in text


# ---------------------------------------------------------------- the user's own entries


def write_entry(folder: Path, name: str, changes: dict[str, str] | None = None, file: str | None = None) -> Path:
    """Write a small valid entry, as lines of `field: value`, with changes."""
    fields = {
        "name": name,
        "kind": "raster/continuous",
        "long_name": "Copernicus elevation",
        "bands": "[elevation]",
        "dtype": "float32",
        "nodata": ".nan",
        "resampling": "bilinear",
        "histogram_range": "[-500, 9000]",
        "licence": "{name: free, url: 'https://example.org', attribution: unnamed}",
    }
    folder.mkdir(exist_ok=True)
    path = folder / (file or f"{name}.yaml")
    lines = [f"{key}: {value}" for key, value in (fields | (changes or {})).items() if value != "-"]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_user_adds_a_modality(tmp_path: Path) -> None:
    write_entry(tmp_path, "my_dem")
    (tmp_path / "README.md").write_text("notes beside the entries are welcome")
    catalog = load_catalog(tmp_path)
    assert list(catalog.modalities) == [*CONTRACT, "my_dem"]
    assert catalog.select()[-1].name == "my_dem"


def test_a_user_replaces_a_modality(tmp_path: Path) -> None:
    write_entry(tmp_path, "aster", {"order": "1", "long_name": "My own"})
    catalog = load_catalog(tmp_path)
    assert next(iter(catalog.modalities)) == "aster"
    assert catalog.find("aster").long_name == "My own"
    assert len(catalog.modalities) == len(CONTRACT)


def test_a_user_gives_a_class_table_beside_the_entry(tmp_path: Path) -> None:
    (tmp_path / "crops.csv").write_text('# mine\ncode,name,colour,notes\n1,"Wheat, spring",#ffdd00,x\n2,Rice,,\n')
    changes = {"kind": "raster/categorical", "dtype": "uint8", "nodata": "0", "resampling": "nearest"}
    write_entry(tmp_path, "crops", changes | {"histogram_range": "-", "classes": "crops.csv"})
    classes = load_catalog(tmp_path).find("crops").classes
    assert [(c.code, c.name, c.colour) for c in classes] == [(1, "Wheat, spring", "#ffdd00"), (2, "Rice", None)]


def test_the_shipped_entries_are_valid_as_a_user_folder(catalog: Catalog, tmp_path: Path) -> None:
    shutil.copytree(resource_path("catalog"), tmp_path / "catalog")
    assert load_catalog(tmp_path / "catalog" / "modalities") == catalog


def test_a_description_is_itself_a_catalog_entry(catalog: Catalog, tmp_path: Path) -> None:
    # JSON is YAML: what a store says about a modality can be given back as a file.
    for modality in catalog.modalities.values():
        text = json.dumps(modality.to_dict(), indent=1)
        (tmp_path / f"{modality.name}.yaml").write_text(text, encoding="utf-8")
    assert load_catalog(tmp_path) == catalog


def test_the_catalog_readme_tells_every_recipe(catalog: Catalog) -> None:
    text = (resource_path("catalog") / "README.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| `([\w-]+)` \|[^|]*\|(.*)\|$", text, flags=re.MULTILINE))
    assert {m.recipe["name"] for m in catalog.modalities.values()} == set(told)
    for modality in catalog.modalities.values():
        for parameter in modality.recipe.get("parameters", {}):
            assert f"`{parameter}`" in told[modality.recipe["name"]], parameter


@pytest.mark.parametrize("what", ["missing", "empty", "file", "other files"])
def test_a_folder_without_entries_is_refused(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "mine"
    if what == "file":
        folder.write_text("name: x")
    elif what != "missing":
        folder.mkdir()
    if what == "other files":
        (folder / "crops.json").write_text("{}")
    found = {"missing": "nothing", "empty": "nothing", "file": "a file", "other files": "crops.json"}[what]
    with pytest.raises(FileInputError, match=f"found {found}") as caught:
        load_catalog(folder)
    assert caught.value.path == str(folder)


def test_two_files_about_one_modality_are_refused(tmp_path: Path) -> None:
    write_entry(tmp_path, "dem", file="a.yaml")
    write_entry(tmp_path, "dem", file="b.yaml")
    with pytest.raises(FileInputError, match=r"b\.yaml: the modality 'dem' is described in a\.yaml too"):
        load_catalog(tmp_path)


@pytest.mark.parametrize(
    ("changes", "line", "message"),
    [
        # Not YAML, or not the shape of an entry.
        ({"bands": "[elevation"}, 5, "not YAML"),
        ({"long_name": "a: b"}, 3, "not YAML"),
        ({"long_name": "!!python/object:os.system x"}, 3, "not YAML"),
        ({"order": "2020-13-45"}, None, "cannot be read"),
        ({"long_name": "x\nname: again"}, 4, "'name' is given twice"),
        ({"dtype": "-"}, 1, "the field 'dtype' is missing"),
        ({"licence": "{name: free, url: u}"}, 9, "'licence.attribution' is missing"),
        ({"nodta": "0"}, 10, "unknown field 'nodta'; did you mean 'nodata'?"),
        ({"licence": "{name: f, url: u, attribution: a, year: '2020'}"}, 9, "unknown field 'licence.year'"),
        ({"kind": "raster"}, 2, "kind: .*got 'raster'"),
        ({"dtype": "float16"}, 5, "dtype: .*got 'float16'"),
        ({"nodata": "none"}, 6, "nodata: .*got 'none'"),
        ({"classes": "5"}, 10, "classes: .*list.*got 5"),
        ({"bands": "elevation"}, 4, "bands: .*list.*got 'elevation'"),
        ({"bands": "[elevation, 2]"}, 4, r"bands\.1: .*text.*got 2"),
        ({"enabled": "'yes'"}, 10, "enabled: .*true or false"),
        ({"histogram_range": "[0, 1, 2]"}, 8, "histogram_range"),
        ({"wavelengths": "{elevation: 0.665}"}, 10, r"wavelengths\.elevation"),
        ({"wavelengths": "{elevation: {centre_um: 0.665}}"}, 10, "'wavelengths.elevation.width_um' is missing"),
        ({"wavelengths": "\n  elevation: {centre_um: 665, width_um: 31}"}, 11, "divide nanometres by 1,000"),
        ({"frequency_ghz": "0"}, 10, "frequency_ghz"),
        ({"native_m": "{elevation: -30}"}, 10, r"native_m\.elevation"),
        ({"order": "1.5"}, 10, "order: .*whole number"),
        # The fields contradict each other.
        ({"nodata": "0"}, 6, "write NaN"),
        ({"dtype": "uint8"}, 6, "nodata nan does not fit uint8"),
        ({"histogram_range": "[9000, -500]"}, 8, "must be increasing"),
        ({"histogram_range": "-"}, 1, "needs histogram_range"),
        ({"model_bands": "[slope]"}, 10, "model_bands names slope"),
        ({"display": "\n  colormap: gray\n  bands: [slope]"}, 12, r"display\.bands names slope"),
        ({"bands_by_level": "\n  L2A: [elevation]\n  L1C: [B10]"}, 12, r"bands_by_level\.L1C names B10"),
        ({"name": "my-dem"}, 1, "plain identifier"),
        (
            {"kind": "raster/categorical", "dtype": "uint8", "nodata": "0", "resampling": "nearest"},
            1,
            "needs its classes",
        ),
        ({"classes": "nowhere.csv"}, 10, "expected a table of classes"),
        ({"classes": "\n- {code: 1, name: a}\n- {code: 1, name: b}"}, 10, "got 1 more than once"),
        ({"classes": "\n- {code: 1, name: a}\n- {code: 2, name: b, colour: red}"}, 12, r"classes.*colour"),
    ],
)
def test_a_broken_entry_is_refused_with_file_line_and_reason(
    tmp_path: Path, changes: dict[str, str], line: int | None, message: str
) -> None:
    path = write_entry(tmp_path, "dem", changes)
    with pytest.raises(FileInputError, match=message) as caught:
        load_catalog(tmp_path)
    assert caught.value.path == str(path)
    assert caught.value.line == line
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"# only a comment\n", b"- a\n- b\n", b"text", b"\xff\xfe\x00", b"&a [*a]", b"\x00"]
)
def test_a_file_that_is_no_entry_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.yaml").write_bytes(content)
    with pytest.raises(FileInputError, match=r"x\.yaml"):
        load_catalog(tmp_path)


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        ("", 1, "expected a table with a line of column names"),
        ("# c\nid,name\n1,a\n", 2, "lacks code"),
        ("code,name\n1,a\n# c\nx,b\n", 4, "expected an integer code"),
        ("code,name,colour\n1,a,green\n", 2, "colour like"),
        ("code,name\n1,a\n\n1,b\n", 4, "class code 1 is taken by 'a'"),
        ("code,name\n1,a,b\n", 2, "expected 2 columns separated by ','.* got 3"),
    ],
)
def test_a_broken_class_table_is_refused_with_file_line_and_reason(
    tmp_path: Path, content: str, line: int, message: str
) -> None:
    path = tmp_path / "classes.csv"
    path.write_text(content)
    with pytest.raises(FileInputError, match=message) as caught:
        read_classes(path)
    assert (caught.value.path, caught.value.line) == (str(path), line)


def test_a_missing_class_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileInputError, match="no such file; check the path"):
        read_classes(tmp_path / "classes.csv")


def test_every_modality_knows_how_to_be_drawn(catalog: Catalog) -> None:
    import matplotlib as mpl

    def drawable(modality: Modality) -> bool:
        return modality.display.colormap in mpl.colormaps and len(modality.display.bands) in {0, 1, 3}

    assert all(drawable(modality) for modality in catalog.modalities.values())
    assert all(modality.display.bands for modality in catalog.modalities.values() if modality.kind.is_raster)
