"""Every field of a build recipe, and the option of ``mmearth-data`` that sets it (see `mmearth_data.fields`)."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Interval

from mmearth_data.fields import About, Fields, Group

MAX_TILES = 10**10
"""More tiles than fit on the land surface, even with 16 px per side."""
MAX_SEED = 2**64 - 1
"""Seeds are 64-bit unsigned integers."""
WHERE, WHAT, SOURCE, LIMITS, OUTPUT = Group.WHERE, Group.WHAT, Group.SOURCE, Group.LIMITS, Group.OUTPUT


class SourceFields(Fields):
    """The source of the pixels, the connection to Earth Engine, and assumptions about its speed and cost."""

    source: Annotated[
        str,
        About("Source of the pixels: earthengine, synthetic, rasters:FILE.yaml or chips:FILE.yaml.", SOURCE, "SOURCE"),
    ] = "earthengine"
    ee_project: Annotated[
        str | None,
        About("Cloud project to charge.", SOURCE, "ID", default="$EARTHENGINE_PROJECT or $GOOGLE_CLOUD_PROJECT"),
    ] = None
    ee_endpoint: Annotated[
        Literal["high-volume", "standard"],
        About("Earth Engine endpoint: high-volume for many small requests, standard for few large ones.", SOURCE),
    ] = "high-volume"
    ee_url: Annotated[
        str | None, About("Another server with the same protocol, such as `mmearth-data emulate`.", SOURCE, "URL")
    ] = None
    service_account: Annotated[
        Path | None, About("Sign in with the key file of a service account.", SOURCE, "KEY.json")
    ] = None
    in_flight: Annotated[
        int, About("Maximum number of Earth Engine requests in flight.", LIMITS, "N"), Interval(ge=1, le=1000)
    ] = 40
    per_second: Annotated[
        float,
        About("Maximum number of Earth Engine requests started per second.", LIMITS, "N"),
        Interval(gt=0, le=10_000),
    ] = 100.0
    restricted_in_flight: Annotated[
        int,
        About("Maximum number of requests in flight while Earth Engine announces restricted mode.", LIMITS, "N"),
        Interval(ge=1, le=1000),
    ] = 1
    request_timeout_s: Annotated[
        float,
        About(
            "Maximum duration of a request in seconds, including its whole answer; Earth Engine itself allows 300.",
            LIMITS,
            "S",
            flag="--request-timeout",
        ),
        Interval(gt=0, le=3600),
    ] = 330.0
    latency_s: Annotated[
        float | None,
        About("Seconds per request, for the estimate of --dry-run.", LIMITS, "S", flag="--latency"),
        Interval(gt=0),
    ] = None
    eecu_per_tile: Annotated[
        float | None, About("EECU-seconds per tile, for the estimate of --dry-run.", LIMITS, "S"), Interval(gt=0)
    ] = None


class BuildFields(SourceFields):
    """All fields of a build."""

    region: Annotated[
        str,
        About(
            "Region to sample: global, a country, continent or ISO code, bbox:W,S,E,N, or a vector file.",
            WHERE,
            "REGION",
        ),
    ] = "global"
    mainland: Annotated[bool, About("Keep only the largest part of the region.", WHERE)] = False
    cover: Annotated[
        bool, About("Cover the region with tiles, without gaps and without splits, instead of sampling it.", WHERE)
    ] = False
    overlap_px: Annotated[
        int,
        About(
            "With --cover: pixels that neighbouring tiles share; less than --tile-size.", WHERE, "PX", flag="--overlap"
        ),
        Interval(ge=0, lt=2048),
    ] = 0
    tiles: Annotated[int, About("Number of tiles.", WHAT, "N"), Interval(ge=1, le=MAX_TILES)] = 1000
    tile_size: Annotated[int, About("Side of a tile in 10 m pixels: a multiple of 16, at most 2032.", WHAT, "PX")] = 128
    seed: Annotated[
        int, About("Seed for locations, splits and other random choices.", WHERE, "N"), Interval(ge=0, le=MAX_SEED)
    ] = 0
    modalities: Annotated[
        tuple[str, ...] | None,
        About("Modalities to store.", WHAT, "A,B,...", default="all that are enabled in the catalog"),
    ] = None
    ecoregions: Annotated[
        Path | None,
        About(
            "Vector file of ecoregions, with the columns of RESOLVE 2017.", WHERE, "FILE", default="those of the source"
        ),
    ] = None
    tiles_file: Annotated[
        Path | None,
        About(
            "Take the locations from a sample, GeoJSON, CSV or GeoParquet file; for rasters, the sites or tiles of a "
            "table and their splits (columns site or tile_id, and split).",
            WHERE,
            "FILE",
        ),
    ] = None
    polygons: Annotated[
        Path | None,
        About(
            "Vector file of labelled polygons, which the tiles cover; --label is rasterised into a map.", WHERE, "FILE"
        ),
    ] = None
    split_column: Annotated[
        str | None,
        About(
            "Column of --tiles-file or --polygons with the splits train, val and test.",
            WHERE,
            "COLUMN",
            default="split",
        ),
    ] = None
    balance: Annotated[
        Literal["biome", "biome-ecoregion", "ecoregion", "area"],
        About("How tiles are distributed over the land.", WHERE),
    ] = "biome"
    oversample: Annotated[
        float,
        About("Number of locations sampled per tile, so that rejected ones can be replaced.", WHERE, "F"),
        Interval(ge=1, le=10),
    ] = 1.3
    split: Annotated[
        Literal["block", "random"] | None,
        About(
            "Split by spatial blocks or at random; overlapping tiles are in the same split.",
            WHERE,
            default="block; random for rasters",
        ),
    ] = None
    split_shares: Annotated[
        tuple[float, float, float], About("Shares of train, val and test in per cent.", WHERE, "T,V,T")
    ] = (
        90.0,
        5.0,
        5.0,
    )
    split_guard_m: Annotated[
        float,
        About(
            "Minimum distance in metres between a tile and the cells of another split.",
            WHERE,
            "M",
            flag="--split-guard",
        ),
        Interval(ge=0),
    ] = 2000.0
    min_distance_m: Annotated[
        float,
        About("Minimum distance in metres between tile centres.", WHERE, "M", flag="--min-distance"),
        Interval(ge=0),
    ] = 0.0
    labels: Annotated[
        tuple[str, ...],
        About(
            "Column of --tiles-file or --polygons to store as a label: a class, a value, or several classes (multi); "
            "by default decided by its content.",
            WHAT,
            "COLUMN[:class|value|multi]",
            flag="--label",
            repeated=True,
        ),
    ] = ()
    labels_file: Annotated[
        Path | None,
        About(
            "YAML file with names, units and licence of the labels.",
            WHAT,
            "FILE.yaml",
            default="FILE.yaml next to the table, if it exists",
        ),
    ] = None
    burn: Annotated[
        Literal["centre", "touched"],
        About(
            "With --polygons: label the pixels whose centre is inside a polygon, or all pixels that it touches.",
            WHAT,
            default="centre",
        ),
    ] = "centre"
    date_column: Annotated[
        str | None,
        About("Column with the date of each row; the tile gets the scene nearest to this date.", WHAT, "COLUMN"),
    ] = None
    days: Annotated[
        int,
        About("With --date-column: maximum number of days between the date and the scene.", WHAT, "N"),
        Interval(ge=0, le=3660),
    ] = 15
    level: Annotated[
        Literal["L1C", "L2A"] | None, About("Sentinel-2 level to use if a raster mapping has both.", WHAT)
    ] = None
    years: Annotated[tuple[int, ...], About("Years of the scenes.", WHAT, "Y,Y,...")] = (2017, 2018, 2019, 2020)
    date_range: Annotated[
        tuple[date, date] | None,
        About(
            "With --cover: first and last day of the scenes; each tile has the least cloudy scene in this period.",
            WHAT,
            "START,END",
            default="2020-01-01,2020-12-31",
        ),
    ] = None
    levels: Annotated[
        tuple[Literal["L2A", "L1C"], ...],
        About("Sentinel-2 levels to choose from; with --cover a single level, by default L2A.", WHAT, "L,L"),
    ] = (
        "L2A",
        "L1C",
    )
    cloud_percent: Annotated[
        float,
        About(
            "Use only scenes with a smaller cloud cover, in per cent; with --cover, the default is 100.",
            WHAT,
            "PCT",
            flag="--cloud",
        ),
        Interval(gt=0, le=100),
    ] = 10.0
    era5_window: Annotated[
        Literal[12, 13],
        About("Months in the longest climate window, including the scene's; the code published with MMEarth uses 13."),
    ] = 12
    tiles_per_shard: Annotated[
        int | None, About("Number of rows (tiles) per shard.", OUTPUT, "N", default="by size"), Interval(ge=1, le=65536)
    ] = None
    threads: Annotated[
        int,
        About("Number of threads that read tiles; the result does not depend on it.", LIMITS, "N"),
        Interval(ge=1, le=256),
    ] = 2
    assets: Annotated[
        dict[str, str],
        About(
            "Read a modality from another Earth Engine asset; use MODALITY.KEY=ID if it has several assets.",
            SOURCE,
            "MODALITY=ID",
            flag="--asset",
            repeated=True,
        ),
    ] = {}  # noqa: RUF012 - pydantic copies it for every recipe
