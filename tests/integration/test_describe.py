"""Cards of a store: every number is computed again with other libraries, from the arrays and tables."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import xarray as xr
import yaml
from append_making import write_ecoregions
from click.testing import CliRunner, Result
from published_world import make_published
from store_making import begin_store, digests, make_store, small_catalog, write_shard
from test_store_damage import reseal
from toy_store import write_store

from mmearth_data import InputError, build, describe, import_hdf5, make_recipe, merge, open_store, resource_path, verify
from mmearth_data.cli import cli

if TYPE_CHECKING:
    from collections.abc import Mapping

CARDS = ("README.md", "collection.json", "croissant.json")
MODALITIES = ("sentinel2", "sentinel2_scl", "sentinel1", "esa_worldcover", "era5", "lat", "biome", "eco_region")
SEED, SHARES = 5, (60.0, 20.0, 20.0)


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that was sampled and built on the synthetic planet, with its cards in it."""
    folder = tmp_path_factory.mktemp("sampled")
    recipe = {"source": "synthetic", "ecoregions": write_ecoregions(folder / "eco.parquet"), "tiles": 30, "seed": SEED}
    more = {"tile_size": 16, "tiles_per_shard": 8, "split_shares": SHARES, "modalities": MODALITIES}
    build(make_recipe(None, {**recipe, **more}), folder / "planet.zarr")
    return describe(folder / "planet.zarr")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of other modalities with empty rows, unknown dates and gaps, with its cards in it."""
    path = tmp_path_factory.mktemp("made") / "made.zarr"
    make_store(path)
    return describe(path)


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An imported store: measured, without outlines, and with unknown sampling."""
    folder = tmp_path_factory.mktemp("imported")
    import_hdf5(make_published(folder / "in", 20), folder / "imported.zarr")
    return describe(folder / "imported.zarr")


@pytest.fixture(params=["sampled", "made", "imported"])
def store(request: pytest.FixtureRequest) -> Path:
    """Each of them."""
    path: Path = request.getfixturevalue(request.param)
    return path


def header(store: Path) -> dict[str, Any]:
    """YAML header of the card."""
    _, text, _ = (store / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def body(store: Path) -> str:
    """Card without its header."""
    return (store / "README.md").read_text(encoding="utf-8").split("---\n", 2)[2]


def section(store: Path, title: str) -> str:
    """Text of one section of the card."""
    return body(store).partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows(store: Path, head: str, title: str = "") -> dict[str, list[str]]:
    """First table of the card (or of a section) whose first column has that head: first cell -> the others."""
    text = f"\n{section(store, title)}" if title else body(store)
    lines = text.partition(f"\n| {head} |")[2].partition("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]
    return {row[0].strip("`"): row[1:] for row in cells}


def counts(store: Path, head: str) -> dict[str, int]:
    """Counts of a table, without rows of 0 tiles."""
    found = {name: int(cells[0].replace(",", "")) for name, cells in rows(store, head).items()}
    return {name: count for name, count in found.items() if count}


def read(store: Path, name: str) -> dict[str, Any]:
    """One of the JSON files."""
    found: dict[str, Any] = json.loads((store / name).read_text(encoding="utf-8"))
    return found


def tiles_of(store: Path) -> pd.DataFrame:
    """Table of tiles, as pandas reads it."""
    return pd.read_parquet(store / "tiles.parquet").rename(columns={"datetime": "time"})


def per_cent(text: str) -> tuple[float, float]:
    """Range of shares that are shown as a text such as ``12.3 %``."""
    if text.startswith("<"):
        return 0.0, 0.001
    if text.startswith(">"):
        return 0.999, 1.0
    share = float(text.removesuffix(" %")) / 100
    return share - 0.000501, share + 0.000501


# ---------------------------------------------------------------- the dataset card


def test_counts_are_those_of_the_table_of_tiles(store: Path) -> None:
    tiles = tiles_of(store)
    names = {0: "train", 1: "val", 2: "test", 255: "none"}
    assert counts(store, "Split") == tiles["split"].map(names).value_counts().to_dict()
    assert sum(counts(store, "Continent").values()) == len(tiles)
    years = tiles["time"].dropna().dt.year.astype(str)
    assert counts(store, "Year of the scene") == years.value_counts().to_dict()
    assert f"{len(tiles):,} " in body(store)
    assert header(store)["size_categories"] == ["n<1K"]


def test_biomes_are_counted_by_their_names(sampled: Path, imported: Path) -> None:
    table = pd.read_csv(resource_path("catalog") / "classes" / "biome.csv", comment="#").set_index("code")["name"]
    for store in (sampled, imported):
        codes = tiles_of(store)["biome"]
        assert counts(store, "Biome") == codes[codes != 255].map(table).value_counts().to_dict()


def test_continents_are_those_of_the_shipped_outlines(store: Path) -> None:
    tiles = tiles_of(store)
    points = gpd.GeoDataFrame(geometry=gpd.points_from_xy(tiles["lon"], tiles["lat"]), crs="EPSG:4326")
    outlines = gpd.read_parquet(resource_path("catalog") / "regions" / "continents.parquet")
    joined = points.sjoin(outlines, how="left")[outlines.columns[0]].fillna("no continent")
    assert counts(store, "Continent") == joined.value_counts().to_dict()


def test_shares_of_land_are_those_of_published_areas(imported: Path, test_data: Path) -> None:
    areas = pd.Series(json.loads((test_data / "mmearth_tables" / "total_area_biome.json").read_text(encoding="utf-8")))
    found = {name: cells[2] for name, cells in rows(imported, "Biome").items()}
    assert found.keys() == set(areas.index)
    for name, share in (areas / areas.sum()).items():
        low, high = per_cent(found[str(name)])
        assert low <= share <= high


def test_biomes_of_a_model_planet_are_not_compared_with_the_earth(sampled: Path) -> None:
    assert {len(cells) for cells in rows(sampled, "Biome").values()} == {2}


def test_gaps_are_those_of_the_pixels(store: Path) -> None:
    data = xr.open_zarr(store, mask_and_scale=True)
    data = data.isel(tile=data["tile_id"].values != 0)
    said = {name: text for name, (text,) in rows(store, "Modality", "Missing values").items()}
    for name, m in open_store(store).modalities.items():
        if not m.stored or (not m.kind.is_continuous and not m.classes):
            continue
        seen = data[name].notnull().values  # noqa: PD004 - xarray has no other name
        shares = seen.mean(axis=tuple(axis for axis in range(seen.ndim) if axis != 1 or not m.bands))
        for band, share in zip(m.bands or (name,), np.atleast_1d(shares), strict=True):
            if share == 1:
                assert not re.search(rf"\b{band}\b", said.get(name, ""))
            else:
                text = re.search(rf"\b{band}\b[^%]*?((?:[<>] )?[\d.]+ %)", said[name])
                assert text is not None
                low, high = per_cent(text[1])
                assert low <= share <= high


def test_modalities_are_described_by_the_attributes_of_their_arrays(store: Path) -> None:
    table = rows(store, "Modality")
    data = xr.open_zarr(store, mask_and_scale=False)
    assert set(table) == {str(name) for name in data.data_vars if name in open_store(store).modalities}
    licences = section(store, "Licences")
    for name, (content, _, _, _, stored, missing, *_) in table.items():
        array = data[name]
        assert content == array.attrs["long_name"]
        assert stored.split(",")[0] == array.dtype.name
        fill = array.attrs["_FillValue"] if array.dtype.kind in "iu" else "NaN"
        assert missing == str(fill)
        assert array.attrs["attribution"] in licences
        assert array.attrs["licence"] in licences


def test_a_synthetic_store_says_so_first(sampled: Path, imported: Path) -> None:
    assert body(sampled).strip().splitlines()[2].startswith("> **Synthetic data.**")
    assert "synthetic" in header(sampled)["tags"]
    assert read(sampled, "croissant.json")["rai:hasSyntheticData"] is True
    assert read(sampled, "collection.json")["description"].startswith("All values were computed")
    for name in CARDS:
        assert "synthetic" not in (imported / name).read_text(encoding="utf-8").lower().replace("hassyntheticdata", "")


def test_sampling_is_described_from_the_recipe_if_there_is_one(sampled: Path, imported: Path) -> None:
    text = section(sampled, "Sampling")
    assert f"seed {SEED}" in text
    assert "every biome of the region has the same number of tiles" in text
    assert "2017, 2018, 2019 and 2020" in text
    assert "60 % train, 20 % val and 20 % test" in section(sampled, "Splits")
    assert section(imported, "Sampling").strip().splitlines() == [
        "- The tiles were imported from published files (format mmearth-h5)."
    ]
    assert "Locations were sampled" not in (imported / "croissant.json").read_text(encoding="utf-8")


def test_distances_between_splits_are_those_of_a_geodesic(sampled: Path) -> None:
    from pyproj import Geod

    tiles = tiles_of(sampled)
    train = tiles[tiles["split"] == 0]
    for code, name in ((1, "val"), (2, "test")):
        nearest = [
            min(Geod(ellps="WGS84").inv(lon, lat, x, y)[2] for x, y in zip(train["lon"], train["lat"], strict=True))
            for lon, lat in tiles.loc[tiles["split"] == code, ["lon", "lat"]].to_numpy()
        ]
        found = re.search(rf"from a {name} tile .* at least ([\d.,]+) km.*; the median is ([\d.,]+) km", body(sampled))
        assert found is not None
        assert float(found[1]) == pytest.approx(min(nearest) / 1000, rel=0.01, abs=0.1)
        assert float(found[2]) == pytest.approx(np.median(nearest) / 1000, rel=0.01, abs=0.1)


def test_overlapping_splits_are_called_leakage(tmp_path: Path) -> None:
    def overlap(arrays: dict[str, np.ndarray[Any, Any]]) -> None:
        arrays["lon"][1], arrays["lat"][1] = arrays["lon"][0] + 0.0001, arrays["lat"][0]
        arrays["tile_id"][1] = arrays["tile_id"][0] + (np.uint64(100) << np.uint64(35))
        arrays["split"][:2] = 0, 1

    write_store(tmp_path / "leaky.zarr", 16, names=["esa_worldcover"], change=overlap)
    assert "**Leakage:" in section(describe(tmp_path / "leaky.zarr"), "Splits")


def test_rows_and_cells_of_every_table_fit(store: Path) -> None:
    for block in re.findall(r"(?:^\|.*\|\n?)+", body(store), flags=re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1
    assert body(store).count("```") % 2 == 0


def test_the_code_in_the_card_runs(sampled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(sampled.parent)
    for code in re.findall(r"```python\n(.*?)```", body(sampled), flags=re.DOTALL):
        names: dict[str, Any] = {}
        exec(code, names)
        assert {"store", "tile", "train"} <= names.keys() or len(names["tiles"]) == 30


# ---------------------------------------------------------------- STAC


def test_extents_cover_all_tiles_closely(store: Path) -> None:
    (west, south, east, north), *others = read(store, "collection.json")["extent"]["spatial"]["bbox"]
    tiles = tiles_of(store)
    assert not others
    # RFC 7946, section 5.2: a box across 180 degrees has its western edge east of its eastern one.
    lon = tiles["lon"].where((west <= east) | (tiles["lon"] >= west), tiles["lon"] + 360)
    assert west <= lon.min() <= lon.max() <= east + 360 * (west > east)
    assert south <= tiles["lat"].min() <= tiles["lat"].max() <= north
    assert max(tiles["lat"].min() - south, north - tiles["lat"].max(), (lon.min() - west) / 3) < 0.01
    (start, end), *_ = read(store, "collection.json")["extent"]["temporal"]["interval"]
    times = tiles["time"].dropna()
    assert (pd.Timestamp(start), pd.Timestamp(end)) == (times.min(), times.max())


def test_dimensions_and_variables_are_those_of_the_zarr_group(store: Path) -> None:
    card, data = read(store, "collection.json"), xr.open_zarr(store, mask_and_scale=False)
    for name, variable in card["cube:variables"].items():
        assert tuple(variable["dimensions"]) == data[name].dims
        assert variable.get("unit", "") in (data[name].attrs.get("units", ""), "", data[name].encoding.get("units"))
    assert {name for name, v in card["cube:variables"].items() if v["type"] == "data"} <= set(card["assets"])
    for name, dimension in card["cube:dimensions"].items():
        if dimension["type"] == "bands":
            assert dimension["values"] == data[name].values.tolist()
        elif "extent" in dimension:
            assert dimension["extent"] == [0, data.sizes[name] - 1]


def test_statistics_are_those_of_the_pixels(made: Path) -> None:
    data = xr.open_zarr(made, mask_and_scale=True)
    data = data.isel(tile=data["tile_id"].values != 0)
    (band,) = read(made, "collection.json")["assets"]["height"]["bands"]
    values = data["height"].values
    found = {"minimum": np.nanmin, "maximum": np.nanmax, "mean": np.nanmean, "stddev": np.nanstd}
    assert band["statistics"] == pytest.approx(
        {**{name: float(f(values)) for name, f in found.items()}, "count": np.isfinite(values).sum()}, rel=1e-6
    )


def test_bands_have_wavelengths_and_a_radar_its_frequency(sampled: Path) -> None:
    assets = read(sampled, "collection.json")["assets"]
    red = next(band for band in assets["sentinel2"]["bands"] if band["name"] == "B4")
    assert 0.64 < red["eo:center_wavelength"] < 0.68  # what people see as red
    assert red["eo:full_width_half_max"] < 0.05
    assert (assets["sentinel2"]["data_type"], assets["sentinel2"]["nodata"]) == ("uint16", 0)
    assert assets["sentinel2"]["raster:scale"] == 0.0001
    assert (assets["sentinel1"]["sar:frequency_band"], assets["sentinel1"]["nodata"]) == ("C", "nan")
    classes = {entry["value"]: entry["title"] for entry in assets["esa_worldcover"]["classification:classes"]}
    assert classes[80] == "Permanent water bodies"


def test_links_lead_to_the_files_of_the_store(store: Path, tmp_path: Path) -> None:
    elsewhere = describe(store, tmp_path / "cards")
    for folder in (store, elsewhere):
        card = read(folder, "collection.json")
        hrefs = [asset["href"] for asset in card["assets"].values()]
        hrefs += [link["href"] for link in card["links"] if not link["href"].startswith("https://")]
        hrefs += [file["contentUrl"] for file in read(folder, "croissant.json")["distribution"] if "contentUrl" in file]
        hrefs += read(folder, "croissant.json")["recordSet"][-1]["data"][0].values()
        assert len(hrefs) > 5
        for href in hrefs:
            target = (folder / href).resolve()
            assert target.exists()
            assert target == store.resolve() or store.resolve() in target.parents
        for pattern in read(folder, "croissant.json")["distribution"][1]["includes"]:
            assert list(folder.glob(pattern))
    assert header(store)["configs"][0]["data_files"] == [{"split": "tiles", "path": "tiles.parquet"}]
    assert "configs" not in header(elsewhere), "a path out of the repository"


# ---------------------------------------------------------------- Croissant


def test_fields_are_the_columns_of_the_table(store: Path) -> None:
    card, schema = read(store, "croissant.json"), pq.read_schema(store / "tiles.parquet")
    fields = {field["source"]["extract"]["column"]: field["dataType"] for field in card["recordSet"][0]["field"]}
    nested = {field.name for field in schema if field.type.num_fields}
    assert set(fields) == set(schema.names) - nested
    kinds = {"i": "cr:Int", "u": "cr:UInt", "f": "cr:Float"}
    for name, data_type in fields.items():
        kind = schema.field(name).type
        if kind.to_pandas_dtype() in (np.object_, np.str_):
            assert data_type == "sc:Text"
        elif not str(kind).startswith("timestamp"):
            dtype = np.dtype(kind.to_pandas_dtype())
            assert data_type == f"{kinds[dtype.kind]}{8 * dtype.itemsize}"
    (table, *_) = card["distribution"]
    data = (store / "tiles.parquet").read_bytes()
    assert (table["sha256"], table["contentSize"]) == (hashlib.sha256(data).hexdigest(), f"{len(data)} B")


def test_class_names_are_those_of_the_store(made: Path) -> None:
    card = read(made, "croissant.json")
    (classes,) = [entry for entry in card["recordSet"] if entry["@id"] == "zone-classes"]
    (zone,) = [m for m in small_catalog() if m.name == "zone"]
    assert {row["zone-classes/code"]: row["zone-classes/name"] for row in classes["data"]} == {
        label.code: label.name for label in zone.classes
    }


def test_geographic_fields_are_those_of_geocroissant(sampled: Path, made: Path) -> None:
    card = read(sampled, "croissant.json")
    south, west, north, east = map(float, card["spatialCoverage"]["geo"]["box"].split())
    tiles = tiles_of(sampled)
    assert west <= tiles["lon"].min() <= tiles["lon"].max() <= east
    assert south <= tiles["lat"].min() <= tiles["lat"].max() <= north
    first, last = card["temporalCoverage"].split("/")
    assert (first, last) == tuple(tiles["time"].agg(["min", "max"]).dt.strftime("%Y-%m-%d"))
    assert card["geocr:spatialResolution"]["value"] == 10
    codes = set(tiles["epsg"])
    assert len(codes) == 1
    assert card["geocr:coordinateReferenceSystem"] == f"EPSG:{codes.pop()}"
    assert read(made, "croissant.json")["geocr:coordinateReferenceSystem"].startswith("EPSG:4326;")
    europe = re.search(r"Europe ([\d.]+) %", card["geocr:spatialBias"])
    assert europe is not None
    assert float(europe[1]) > 80, "northern Italy, and the sea beside it"
    bands = {band["name"]: band for band in card["geocr:spectralBandMetadata"]}
    assert bands["sentinel2/B8"]["geocr:bandwidth"] == {"@type": "sc:QuantitativeValue", "value": 106, "unitText": "nm"}
    names = card["geocr:bandConfiguration"]["geocr:bandNameList"]
    assert card["geocr:bandConfiguration"]["geocr:totalBands"] == len(names) == 13 + 1 + 8 + 1


# ---------------------------------------------------------------- licences and other stores


def test_one_known_licence_is_named_and_several_are_other(tmp_path: Path, sampled: Path) -> None:
    write_store(tmp_path / "cover.zarr", 16, names=["esa_worldcover"])
    cover = describe(tmp_path / "cover.zarr")
    assert header(cover)["license"] == "cc-by-4.0"
    assert read(cover, "collection.json")["license"] == "CC-BY-4.0"
    assert read(cover, "croissant.json")["license"] == ["https://creativecommons.org/licenses/by/4.0/"]
    assert (header(sampled)["license"], read(sampled, "collection.json")["license"]) == ("other", "other")
    links = [link for link in read(sampled, "collection.json")["links"] if link["rel"] == "license"]
    assert len(links) == len(read(sampled, "croissant.json")["license"]) == 2


def test_a_store_of_an_earlier_release_has_cards_without_a_spectrum(sampled: Path, tmp_path: Path) -> None:
    older = Path(shutil.copytree(sampled, tmp_path / "planet.zarr"))
    root = json.loads((older / "zarr.json").read_text())
    entries = json.loads(root["attributes"]["modalities"])
    for entry in entries:
        assert {entry.pop(name) is not None for name in ("wavelengths", "native_m")} == {True}
        entry.pop("frequency_ghz")
    root["attributes"]["modalities"] = json.dumps(entries)
    (older / "zarr.json").write_text(json.dumps(root))
    reseal(older, "zarr.json")
    describe(older, force=True)
    assert rows(older, "Modality")["sentinel2"][1:4] == [*rows(sampled, "Modality")["sentinel2"][1:3], ""]
    assert "Central wavelength" in body(sampled)
    for name in CARDS:
        text = (older / name).read_text(encoding="utf-8").lower()
        assert not re.search("wavelength|ghz|frequency|bandwidth", text.replace("wavelength channels", ""))


def test_stores_with_and_without_a_spectrum_can_be_merged(sampled: Path, tmp_path: Path) -> None:
    older = Path(shutil.copytree(sampled, tmp_path / "older.zarr"))
    root = json.loads((older / "zarr.json").read_text())
    entries = [{k: v for k, v in e.items() if k != "wavelengths"} for e in json.loads(root["attributes"]["modalities"])]
    root["attributes"]["modalities"] = json.dumps(entries)
    (older / "zarr.json").write_text(json.dumps(root))
    reseal(older, "zarr.json")
    both = merge([sampled, older], tmp_path / "both.zarr", drop_clashes=True)
    assert len(both) == 30
    assert both.modalities["sentinel2"].wavelengths


def test_a_store_without_a_tile_has_cards(tmp_path: Path) -> None:
    def remove(arrays: dict[str, np.ndarray[Any, Any]]) -> None:
        arrays["tile_id"][:] = 0
        arrays["esa_worldcover"][:] = 0

    write_store(tmp_path / "none.zarr", 16, names=["esa_worldcover"], change=remove)
    none = describe(tmp_path / "none.zarr")
    assert body(none).startswith("\n# none\n")
    assert "0 synthetic tiles" in body(none)
    assert read(none, "collection.json")["extent"]["spatial"]["bbox"] == [[-180, -90, 180, 90]]
    assert "spatialCoverage" not in read(none, "croissant.json")


@pytest.mark.parametrize("name", ['say "hi"', "it's", "a\\b", "<b>bold"])
def test_the_code_of_a_card_is_python_whatever_the_folder_is_called(name: str, tmp_path: Path) -> None:
    write_store(tmp_path / f"{name}.zarr", 16, names=["esa_worldcover"])
    card = body(describe(tmp_path / f"{name}.zarr"))
    ours, others = re.findall(r"```python\n(.*?)\n```", card, re.DOTALL)[:2]
    literals = [
        node.value for code in (ours, others) for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)
    ]
    assert {f"{name}.zarr", f"{name}.zarr/tiles.parquet"} <= set(literals)
    assert "<b>" not in card.partition("```")[0], "its title is no markup"


# ---------------------------------------------------------------- files


def test_cards_are_no_part_of_the_store(tmp_path: Path) -> None:
    make_store(tmp_path / "made.zarr")
    before, digest = digests(tmp_path / "made.zarr"), open_store(tmp_path / "made.zarr").digest
    describe(tmp_path / "made.zarr")
    after = digests(tmp_path / "made.zarr")
    assert {key: after[key] for key in before} == before
    assert set(after) - set(before) == set(CARDS)
    report = verify(tmp_path / "made.zarr")
    assert not report.problems
    assert open_store(tmp_path / "made.zarr").digest == digest
    data = xr.open_zarr(tmp_path / "made.zarr")
    assert "README.md" not in data


def test_cards_are_the_same_for_the_same_store(made: Path, tmp_path: Path) -> None:
    make_store(tmp_path / "made.zarr")
    again = describe(tmp_path / "made.zarr")
    assert [(again / name).read_bytes() for name in CARDS] == [(made / name).read_bytes() for name in CARDS]


def test_no_pixel_is_read(tmp_path: Path, made: Path) -> None:
    blank = Path(shutil.copytree(made, tmp_path / "made.zarr"))
    for name in ("optical", "radar", "height", "cover", "flags"):
        for file in (blank / name / "c").rglob("*"):
            if file.is_file():
                file.write_bytes(bytes(file.stat().st_size))
    (blank / "README.md").unlink()
    describe(blank)
    assert (blank / "README.md").read_bytes() == (made / "README.md").read_bytes()


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, ["describe", *map(str, words)])


def refused(*words: object) -> str:
    """Error message of a command that must fail."""
    result = run(*words)
    assert result.exit_code == 2
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1
    assert "Traceback" not in result.stderr
    return lines[0]


def test_edited_cards_are_kept_unless_forced(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "cards"
    assert run(made, "--out", out).stdout.strip() == str(out)
    written = (out / "README.md").read_bytes()
    assert run(made, "--out", out).exit_code == 0, "the same cards are no conflict"
    (out / "README.md").write_text("mine")
    (out / "croissant.json").unlink()
    message = refused(made, "--out", out)
    assert "README.md" in message
    assert "--force" in message
    assert (out / "README.md").read_text() == "mine"
    assert not (out / "croissant.json").exists(), "nothing is written"
    assert run(made, "--out", out, "--force").exit_code == 0
    assert (out / "README.md").read_bytes() == written
    assert sorted(path.name for path in out.iterdir()) == sorted(CARDS)


def test_stores_that_cannot_be_described_are_refused_in_one_line(made: Path, tmp_path: Path) -> None:
    writer = begin_store(tmp_path / "begun.zarr")
    write_shard(writer, 0)
    assert "expected a finished store" in refused(tmp_path / "begun.zarr")
    assert not (tmp_path / "begun.zarr" / "README.md").exists()
    assert "nothing" in refused(tmp_path / "nowhere.zarr") or "no" in refused(tmp_path / "nowhere.zarr")
    (tmp_path / "file").write_text("")
    assert "expected the name of a folder" in refused(made, "--out", tmp_path / "file")
    assert "upload them" in refused(made, "--out", "s3://bucket/cards")
    (tmp_path / "taken" / "README.md").mkdir(parents=True)
    assert "README.md" in refused(made, "--out", tmp_path / "taken")
    with pytest.raises(InputError, match="expected a finished store"):
        describe(tmp_path / "begun.zarr")
    assert "got another store" in refused(made, "--out", tmp_path / "begun.zarr")
    assert not (tmp_path / "begun.zarr" / "README.md").exists()


def test_the_store_in_the_current_folder_is_described(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(made, tmp_path / "only.zarr", ignore=shutil.ignore_patterns(*CARDS))
    monkeypatch.chdir(tmp_path)
    assert run().stdout.strip() == "only.zarr"
    assert (tmp_path / "only.zarr" / "README.md").read_text(encoding="utf-8").count("# only\n") == 1


def same_but(left: Mapping[str, Any], right: Mapping[str, Any], *names: str) -> bool:
    """Whether two documents are equal apart from some entries."""
    return {k: v for k, v in left.items() if k not in names} == {k: v for k, v in right.items() if k not in names}


def test_version_1_is_described_too(made: Path, tmp_path: Path) -> None:
    from test_store_versions import as_version_1

    first = as_version_1(Path(shutil.copytree(made, tmp_path / "made.zarr")))
    describe(first, force=True)
    assert same_but(read(first, "collection.json"), read(made, "collection.json"))
    assert "mmearth-store 1" in section(first, "How it was built")
