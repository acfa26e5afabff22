"""Every option of `mmearth-data` is followed or refused: each is run, with and without."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import geopandas as gpd
import pytest
import shapely
from option_walk import (
    Chosen,
    Elsewhere,
    Followed,
    Refused,
    Unchanged,
    Walk,
    cases,
    check_complete,
    files_here,
    fuzz,
    is_json,
    left,
    printed,
)

from mmearth_data import BuildRecipe, EmulatorOptions, load_catalog, open_store, parse_fault, resource_path
from mmearth_data.cli import _recipe, cli
from mmearth_data.sources.earthengine.source import EarthEngineSource
from mmearth_data.sources.opening import make_source

if TYPE_CHECKING:
    from collections.abc import Sequence

    from click.testing import Result
    from option_walk import Witness

NAMES = ["Po Basin mixed forests", "Italian sclerophyllous and semi-deciduous forests"]
BOXES = [shapely.box(10, 45, 10.4, 45.4), shapely.box(10.4, 45, 10.8, 45.4)]
ISLANDS = [shapely.box(10, 45, 10.2, 45.2), shapely.box(10.4, 45, 10.8, 45.4)]
POINTS = """lon,lat,ph,part,day
10.1,45.1,5.5,train,2019-05-01
10.5,45.2,6,val,2019-07-20
10.3,45.3,,test,2020-08-12
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of small files and stores that the commands read."""
    folder = tmp_path_factory.mktemp("inputs")
    _vector(folder / "eco.gpkg", BOXES)
    _vector(folder / "other.gpkg", [BOXES[1], BOXES[0]])
    _vector(folder / "islands.geojson", ISLANDS)
    _fields(folder / "fields.geojson", 3)
    _fields(folder / "more.geojson", 4)
    (folder / "points.csv").write_text(POINTS)
    (folder / "described.yaml").write_text("labels: {ph: {long_name: Acidity of the soil}}\n")
    (folder / "seed5.yaml").write_text("seed: 5\n")
    (folder / "extra").mkdir()
    (folder / "folder").mkdir()
    (folder / "edited").mkdir()
    (folder / "edited" / "README.md").write_text("edited by hand")
    (folder / "binary").write_bytes(bytes(range(256)))
    entry = (resource_path("catalog") / "modalities" / "esa_worldcover.yaml").read_text()
    (folder / "extra" / "cover.yaml").write_text(entry.replace("long_name: ", "long_name: Another "))
    return folder


def _vector(path: Path, boxes: list[shapely.Polygon]) -> None:
    gpd.GeoDataFrame({"ECO_NAME": NAMES}, geometry=boxes, crs="EPSG:4326").to_file(path)


def _fields(path: Path, count: int) -> None:
    shapes = [shapely.Point(10.1 + 0.2 * k, 45.1).buffer(0.0004) for k in range(count)]
    gpd.GeoDataFrame({"crop": ["rye", "oat", "rye", "hay"][:count]}, geometry=shapes, crs="EPSG:4326").to_file(path)


WHERE = ("--source", "synthetic", "--ecoregions", "eco.gpkg", "--tile-size", "16")
COVER = ("--modalities", "esa_worldcover,biome")  # eco_region has 846 classes, which every command would read
N = ("--tiles", "6")
NO_OUT = ("build", *WHERE, *COVER, *N)
FILE_BUILD = ("build", *WHERE, *COVER, "--out", "o.zarr")
BUILD = (*FILE_BUILD, *N)
FILE_SAMPLE = ("sample", *WHERE, "--out", "s.parquet")
SAMPLE = (*FILE_SAMPLE, *N)
IMPORT = ("import", "published", "--out", "o.zarr")
EXPORT = ("export", "c.zarr", "--format", "geotiff", "--out", "x")
SUBSET = ("subset", "a.zarr", "--out", "o.zarr")
MERGE = ("merge", "a.zarr", "b.zarr", "--out", "o.zarr")
DESCRIBE = ("describe", "a.zarr")
REPAIR = ("verify", "damaged.zarr", "--repair")
FIELDS = {*BuildRecipe.model_fields}
TWO_WORKERS = "test_two_processes_of_many_threads_keep_to_the_limits"
MEADOW = ("--region", "bbox:10,45,10.002,45.001")
CELLS = ("build", *WHERE, *COVER, *MEADOW, "--cover", "--out", "o.zarr")
TABLE = (*FILE_BUILD, "--tiles-file", "points.csv")
DATED = (*TABLE, "--cloud", "100", "--date-column", "day")
BURNT = (*FILE_BUILD, "--label", "crop", "--polygons", "fields.geojson")
EARTH = ("build", "--ecoregions", "eco.gpkg", "--tile-size", "16", *N, "--dry-run")


@pytest.fixture(scope="module")
def walk(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Walk:
    walk = Walk(cli, inputs, tmp_path_factory.mktemp("walk"), copied=("damaged.zarr", "folder", "edited", "binary"))
    for name, more in (("a.zarr", ()), ("b.zarr", ("--seed", "1")), ("damaged.zarr", ())):
        walk.prepare(*BUILD, *more, "--out", name)
    walk.prepare("build", *WHERE, "--tile-size", "64", "--tiles", "3", "--out", "c.zarr")
    walk.prepare("export", "c.zarr", "--format", "mmearth-h5", "--out", "published")
    shard = max(path for path in (inputs / "damaged.zarr" / "esa_worldcover" / "c").rglob("*") if path.is_file())
    shard.write_bytes(shard.read_bytes()[:-3])
    return walk


def built(result: Result) -> Any:
    """Tiles and pixels of the store that was built: what was made, not the recipe that it records."""
    (path,) = [
        p.parent for p in Path().glob("*.zarr/zarr.json") if not p.parent.is_symlink() and "damaged" not in str(p)
    ]
    store = open_store(path)
    pixels = [store.read(name, slice(0, len(store))).tobytes() for name, m in store.modalities.items() if m.stored]
    names = {name: m.long_name for name, m in store.modalities.items()}
    layout = (store.layout.tiles_per_shard, store.layout.size_px, names)
    return store.tiles.drop(columns="geometry").to_csv(), pixels, layout


def sampled(result: Result) -> str:
    """Rows of the sample file, without the options that it records."""
    return str(gpd.read_parquet("s.parquet").drop(columns="geometry").to_csv())


def planned(result: Result) -> Any:
    """Counts of a plan, without the options that it repeats."""
    plan = json.loads(result.stdout)
    sample = plan.pop("sample") or {}
    plan.pop("source")
    return plan, {key: sample.get(key) for key in ("splits", "biomes", "reserves_wanted")}


def pictures(result: Result) -> dict[str, str]:
    """Pictures that were written."""
    return files_here(".png")


def session(command_line: Sequence[str]) -> Any:
    """How Earth Engine would be reached, and what of it would be read: nothing is sent."""
    name, *arguments = command_line
    given = dict(
        cli.commands[name].make_context(name, arguments, parent=click.Context(cli, **cli.context_settings)).params
    )
    recipe = _recipe(given.get("recipe"), {field: given[field] for field in given if field in FIELDS})
    source = make_source(recipe, load_catalog(), None)
    assert isinstance(source, EarthEngineSource)
    limits = {key: value for key, value in vars(source.limiter).items() if isinstance(value, int | float)}
    return source.options, limits


def emulated(command_line: Sequence[str]) -> EmulatorOptions:
    """What an emulator would do."""
    name, *arguments = command_line
    given = dict(
        cli.commands[name].make_context(name, arguments, parent=click.Context(cli, **cli.context_settings)).params
    )
    return EmulatorOptions(faults=tuple(map(parse_fault, given.pop("faults"))), **given)


def sampling(file_base: tuple[str, ...], look: Any) -> dict[str, list[Witness]]:
    """Witnesses of the options that `build` and `sample` share."""
    base = (*file_base, *N)
    islands = (*base, "--region", "islands.geojson")
    return {
        "--source": [Refused((file_base[0], "--out", "o.parquet", "--source", "nosuch"))],
        "--region": [Followed(base, ("--region", "bbox:10,45,10.2,45.2"), look)],
        "--mainland": [Followed(islands, ("--mainland",), look), Refused((*base, "--mainland"))],
        "--tiles": [Followed(base, ("--tiles", "7"), look)],
        "--tile-size": [Followed(base, ("--tile-size", "32"), look)],
        "--seed": [Followed(base, ("--seed", "2"), look)],
        "--ecoregions": [Followed(base, ("--ecoregions", "other.gpkg"), look)],
        "--balance": [Followed(base, ("--balance", "area"), look)],
        "--oversample": [Followed(SAMPLE, ("--oversample", "3"), sampled)],
        "--split": [Followed(base, ("--split", "random"), look)],
        "--split-shares": [Followed(base, ("--split-shares", "40,30,30"), look)],
        "--split-guard": [Followed((*SAMPLE, "--tiles", "80"), ("--split-guard", "0"), sampled)],
        "--min-distance": [Followed(base, ("--min-distance", "9000"), look)],
        "--recipe": [Followed(base, ("--recipe", "seed5.yaml"), look)],
        "--threads": [Unchanged(base, ("--threads", "3"), look), Refused((*base, "--threads", "0"))],
    }


SERVICE_VALUES = {
    "--ee-project": "mine",
    "--service-account": "points.csv",
    "--ee-endpoint": "standard",
    "--ee-url": "http://127.0.0.1:9",
    "--in-flight": "3",
    "--per-second": "7",
    "--restricted-in-flight": "2",
    "--request-timeout": "5",
}


def service(command: tuple[str, ...]) -> dict[str, list[Witness]]:
    """Witnesses of the options that say how Earth Engine is reached."""
    return {option: [Chosen(command, (option, value), session)] for option, value in SERVICE_VALUES.items()}


def service_of_repair() -> dict[str, list[Witness]]:
    """Witnesses of the same options of a repair, of which a store of another source makes no use."""
    base = (*REPAIR, "--ecoregions", "eco.gpkg")
    return {
        option: [
            Refused(("verify", "a.zarr", option, value)),
            Refused((*base, option, value)),
            Elsewhere(
                "integration/test_earthengine_requests.py",
                "test_a_store_is_repaired_over_the_connection_that_the_options_name",
                "--ee-url",
            ),
        ]
        for option, value in SERVICE_VALUES.items()
    }


WITNESSES: dict[str, dict[str, list[Witness]]] = {
    "build": {
        **sampling(FILE_BUILD, built),
        **service(("build",)),
        "--source": [Followed(EARTH, ("--source", "synthetic"), planned), Refused(("build", "--source", "nosuch"))],
        "--tiles-file": [
            Followed((*FILE_BUILD, "--dry-run"), ("--tiles-file", "points.csv"), planned),
            Refused((*BUILD, "--tiles-file", "points.csv")),
        ],
        "--label": [Followed(TABLE, ("--label", "ph"), built), Refused((*BUILD, "--label", "ph"))],
        "--labels-file": [
            Followed((*TABLE, "--label", "ph"), ("--labels-file", "described.yaml"), built),
            Refused((*TABLE, "--labels-file", "described.yaml")),
        ],
        "--split-column": [
            Followed(TABLE, ("--split-column", "part"), built),
            Refused((*BUILD, "--split-column", "part")),
        ],
        "--date-column": [
            Followed((*TABLE, "--cloud", "100"), ("--date-column", "day"), built),
            Refused((*TABLE, "--date-column", "part")),
        ],
        "--days": [Followed(DATED, ("--days", "1"), built), Refused((*TABLE, "--days", "3"))],
        "--polygons": [
            Followed(BURNT, ("--polygons", "more.geojson"), built),
            Refused((*FILE_BUILD, "--polygons", "fields.geojson")),
            Refused((*BUILD, "--label", "crop", "--polygons", "fields.geojson")),
            Refused((*BURNT, "--tiles-file", "points.csv")),
        ],
        "--burn": [
            Followed(BURNT, ("--burn", "touched"), built),
            Refused((*BUILD, "--burn", "touched")),
            Refused((*BURNT, "--burn", "half")),
        ],
        "--latency": [Followed(EARTH, ("--latency", "9"), planned), Refused((*BUILD, "--latency", "9"))],
        "--eecu-per-tile": [
            Followed(EARTH, ("--eecu-per-tile", "9"), planned),
            Refused((*BUILD, "--eecu-per-tile", "9")),
        ],
        "--out": [Followed(BUILD, ("--out", "p.zarr"), left), Refused((*BUILD, "--profile", "2"))],
        "--modalities": [Followed(BUILD, ("--modalities", "esa_worldcover"), built)],
        "--years": [Followed(BUILD, ("--years", "2019"), built), Refused((*BUILD, "--years", "2035"))],
        "--level": [Refused((*BUILD, "--level", "L1C"))],
        "--levels": [Followed(BUILD, ("--levels", "L1C"), built)],
        "--cloud": [Followed(BUILD, ("--cloud", "60"), built)],
        "--cover": [
            Followed(("build", *WHERE, *COVER, *MEADOW, "--dry-run"), ("--cover",), planned),
            Refused((*BUILD, *MEADOW, "--cover")),
        ],
        "--overlap": [Followed(CELLS, ("--overlap", "4"), built), Refused((*BUILD, "--overlap", "4"))],
        "--date-range": [
            Followed(CELLS, ("--date-range", "2020-07-01,2020-07-31"), built),
            Refused((*CELLS, "--date-range", "2020-07-01")),
            Refused((*BUILD, "--date-range", "2020-07-01,2020-07-31")),
        ],
        "--tiles-per-shard": [Followed(BUILD, ("--tiles-per-shard", "2"), built)],
        "--catalog": [Followed(BUILD, ("--catalog", "extra"), built)],
        "--asset": [
            Refused((*BUILD, "--asset", "aster=users/me/mine")),
            Followed(EARTH, ("--asset", "nosuch=users/me/mine"), planned),
        ],
        "--workers": [
            Refused((*BUILD, "--workers", "0")),
            Refused((*BUILD, "--dry-run", "--workers", "2")),
            Elsewhere("integration/test_build_quota.py", TWO_WORKERS, "workers=2"),
        ],
        "--scheduler": [
            Refused((*BUILD, "--scheduler", "nosuch")),
            Refused((*NO_OUT, "--profile", "2", "--scheduler", "x")),
        ],
        "--append": [
            Followed((*BUILD, "--out", "a.zarr", "--dry-run"), ("--append", "2"), planned),
            Refused((*NO_OUT, "--profile", "2", "--append", "1")),
        ],
        "--dry-run": [Followed(BUILD, ("--dry-run",), left)],
        "--profile": [
            Followed(NO_OUT, ("--profile", "2"), left),
            Refused((*BUILD, "--dry-run", "--profile", "2")),
        ],
        "--json": [Followed(BUILD, ("--json",), is_json)],
    },
    "sample": {
        **sampling(FILE_SAMPLE, sampled),
        **service(("sample", "--out", "s.parquet")),
        "--tiles-file": [Followed((*FILE_SAMPLE, "--seed", "1"), ("--tiles-file", "points.csv"), sampled)],
        "--split-column": [
            Followed((*FILE_SAMPLE, "--tiles-file", "points.csv"), ("--split-column", "part"), sampled),
            Refused((*SAMPLE, "--split-column", "part")),
        ],
        "--out": [Followed(SAMPLE, ("--out", "t.parquet"), left)],
        "--map": [Followed(SAMPLE, ("--map", "m.png"), left), Refused((*SAMPLE, "--map", "m.jpg"))],
        "--colour": [
            Followed((*SAMPLE, "--map", "m.png"), ("--colour", "split"), pictures),
            Refused((*SAMPLE, "--colour", "split")),
        ],
        "--json": [Followed(SAMPLE, ("--json",), is_json)],
    },
    "import": {
        "--out": [Followed(IMPORT, ("--out", "p.zarr"), left)],
        "--name": [Refused((*IMPORT, "--name", "nosuch"))],
        "--skip-duplicates": [
            Elsewhere(
                "integration/test_published.py",
                "test_tiles_that_repeat_another_are_left_out_on_request",
                "skip_duplicates=True",
            )
        ],
        "--json": [Followed(IMPORT, ("--json",), is_json)],
    },
    "export": {
        "--format": [Followed(EXPORT, ("--format", "mmearth-h5"), left)],
        "--out": [Followed(EXPORT, ("--out", "y"), left)],
        "--name": [
            Refused((*EXPORT, "--name", "x")),
            Followed((*EXPORT, "--format", "mmearth-h5"), ("--name", "mine"), left),
        ],
        "--fill": [
            Followed((*EXPORT, "--format", "mmearth-h5"), ("--fill", "sentinel1=mean"), lambda result: files_here()),
            Refused((*EXPORT, "--fill", "sentinel1=mean")),
        ],
    },
    "subset": {
        "--out": [Followed(SUBSET, ("--out", "p.zarr"), left)],
        "--region": [Followed(SUBSET, ("--region", "bbox:10,45,10.4,45.4"), built)],
        "--split": [Followed(SUBSET, ("--split", "train"), built)],
        "--biome": [Followed(SUBSET, ("--biome", "7"), built)],
        "--modalities": [Followed(SUBSET, ("--modalities", "biome"), built)],
        "--share": [Followed(SUBSET, ("--share", "0.5"), built)],
        "--seed": [Followed((*SUBSET, "--share", "0.5"), ("--seed", "2"), built), Refused((*SUBSET, "--seed", "2"))],
        "--ids": [Followed(SUBSET, ("--ids", "nosuch"), built)],
        "--crop": [
            Followed(("subset", "c.zarr", "--modalities", "esa_worldcover", "--out", "o.zarr"), ("--crop", "32"), built)
        ],
        "--json": [Followed(SUBSET, ("--json",), is_json)],
    },
    "merge": {
        "--out": [Followed(MERGE, ("--out", "p.zarr"), left)],
        "--drop-clashes": [Followed(("merge", "a.zarr", "a.zarr", "--out", "o.zarr"), ("--drop-clashes",), built)],
        "--json": [Followed(MERGE, ("--json",), is_json)],
    },
    "emulate": {
        "--port": [Refused(("emulate", "--port", "-1")), Chosen(("emulate",), ("--port", "4000"), emulated)],
        "--seed": [Refused(("emulate", "--seed", "-1")), Chosen(("emulate",), ("--seed", "4"), emulated)],
        "--fault": [Refused(("emulate", "--fault", "429")), Chosen(("emulate",), ("--fault", "429:0.5"), emulated)],
        "--latency-ms": [
            Refused(("emulate", "--latency-ms", "-1")),
            Chosen(("emulate",), ("--latency-ms", "3"), emulated),
        ],
        "--max-in-flight": [
            Refused(("emulate", "--max-in-flight", "0")),
            Chosen(("emulate",), ("--max-in-flight", "4"), emulated),
        ],
        "--max-per-second": [
            Refused(("emulate", "--max-per-second", "0")),
            Chosen(("emulate",), ("--max-per-second", "4"), emulated),
        ],
        "--cheap-pixels": [Chosen(("emulate",), ("--cheap-pixels",), emulated)],
    },
    "describe": {
        "--out": [Followed((*DESCRIBE, "--out", "cards"), ("--out", "others"), left)],
        "--force": [Followed((*DESCRIBE, "--out", "edited"), ("--force",), left)],
    },
    "browse": {
        "--port": [
            Refused(("browse", "a.zarr", "--port", "-1")),
            Elsewhere("integration/test_browse_server.py", "test_a_port_in_use_is_refused", "--port"),
        ],
        "--embeddings": [Refused(("browse", "a.zarr", "--embeddings", "nosuch.parquet"))],
        "--open": [
            Elsewhere(
                "integration/test_browse_server.py",
                "test_the_command_prints_its_url_and_ends_on_a_signal",
                "--no-open",
            )
        ],
    },
    "inspect": {
        "--tile": [
            Followed(("inspect", "a.zarr", "--figure", "f.png"), ("--tile", "1"), pictures),
            Refused(("inspect", "a.zarr", "--tile", "1")),
        ],
        "--figure": [Followed(("inspect", "a.zarr"), ("--figure", "f.png"), left)],
        "--map": [Followed(("inspect", "a.zarr"), ("--map", "m.png"), left)],
        "--html": [
            Followed(("inspect", "a.zarr"), ("--html", "r.html"), left),
            Refused(("inspect", "a.zarr", "--html", "r.pdf")),
        ],
        "--colour": [
            Followed(("inspect", "a.zarr", "--map", "m.png"), ("--colour", "year"), pictures),
            Refused(("inspect", "a.zarr", "--colour", "split")),
        ],
        "--json": [Followed(("inspect", "a.zarr"), ("--json",), is_json)],
    },
    "verify": {
        **service_of_repair(),
        "--repair": [Followed(("verify", "damaged.zarr"), ("--repair", "--ecoregions", "eco.gpkg"), printed)],
        "--source": [
            Refused(("verify", "a.zarr", "--source", "rasters:x.yaml")),
            Followed((*REPAIR, "--ecoregions", "eco.gpkg"), ("--source", "rasters:x.yaml"), printed),
        ],
        "--ecoregions": [
            Refused(("verify", "a.zarr", "--ecoregions", "eco.gpkg")),
            Followed(REPAIR, ("--ecoregions", "eco.gpkg"), printed),
        ],
        "--tiles-file": [Refused(("verify", "a.zarr", "--tiles-file", "points.csv"))],
        "--labels-file": [Refused(("verify", "a.zarr", "--labels-file", "described.yaml"))],
        "--polygons": [Refused(("verify", "a.zarr", "--polygons", "islands.geojson"))],
        "--catalog": [
            Refused(("verify", "a.zarr", "--catalog", "extra")),
            Followed((*REPAIR, "--ecoregions", "eco.gpkg"), ("--catalog", "nosuch"), printed),
        ],
        "--json": [Followed(("verify", "a.zarr"), ("--json",), is_json)],
    },
    "catalog": {
        "--catalog": [Followed(("catalog", "esa_worldcover"), ("--catalog", "extra"), printed)],
        "--json": [Followed(("catalog",), ("--json",), is_json)],
    },
    "recipes": {
        "--json": [Followed(("recipes",), ("--json",), is_json), Refused(("recipes", "demo", "--json"))],
    },
}


def test_every_option_has_a_witness() -> None:
    check_complete(cli, WITNESSES)


@pytest.mark.parametrize(
    ("command", "option", "witness"),
    [pytest.param(*case, id=f"{case[0]}{case[1]}-{type(case[2]).__name__}") for case in cases(WITNESSES)],
)
def test_an_option_is_followed_or_refused(command: str, option: str, witness: Witness, walk: Walk) -> None:
    assert command in cli.commands
    witness.show(option, walk)


def test_an_option_that_changes_nothing_is_found(walk: Walk) -> None:
    """The walk itself: an ignored option would not pass."""
    with pytest.raises(AssertionError, match="--threads changes nothing"):
        Followed(SAMPLE, ("--threads", "3"), sampled).show("--threads", walk)


BASES: dict[str, tuple[str, ...]] = {
    "build": EARTH[1:],
    "sample": SAMPLE[1:],
    "import": IMPORT[1:],
    "export": EXPORT[1:],
    "subset": (*SUBSET[1:], "--share", "0.5"),
    "merge": MERGE[1:],
    "emulate": ("--fault", "nosuch"),
    "browse": ("a.zarr", "--embeddings", "nosuch.parquet"),
    "inspect": ("a.zarr", "--figure", "f.png"),
    "describe": (*DESCRIBE[1:], "--out", "cards"),
    "verify": REPAIR[1:],
    "catalog": (),
}
"""Command -> command line that a bad value is added to; it ends by itself."""


@pytest.mark.parametrize("thorough", [pytest.param(False, id=""), pytest.param(True, id="all", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("command", "option"),
    [
        pytest.param(command, option, id=f"{command}{option.opts[-1]}")
        for command in BASES
        for option in cli.commands[command].params
        if isinstance(option, click.Option) and not option.is_flag and option.name != "help"
    ],
)
def test_bad_values_are_one_clear_line(command: str, option: click.Option, thorough: bool, walk: Walk) -> None:
    base = (
        [*NO_OUT[1:]] if command == "build" and option.name in ("profiled", "workers", "scheduler") else BASES[command]
    )
    problems = fuzz(walk, command, option, base, thorough=thorough)
    assert not problems, "\n".join(problems)
