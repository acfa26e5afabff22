"""A sampled build of known pixels that grows: as a library, and as a process of its own that can be killed.

    python append_making.py STORE LOG ECOREGIONS [--append N] [--read-ms MS]

It goes through the front door; only the source is that of `build_making`, which notes what is read.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import shapely
from build_making import MODALITIES, TILES_PER_SHARD, LoggedSource

from mmearth_data import MMEarthError, build, load_catalog, make_recipe
from mmearth_data.building import prepare
from mmearth_data.geography.ecoregions import make_ecoregions

if TYPE_CHECKING:
    from mmearth_data import BuildRecipe, Store

TILES, SIZE_PX = 21, 16
CATALOG = load_catalog()


class SignedIn(LoggedSource):
    """The same, as the front door asks of sources that keep an account."""

    in_flight = 2

    def connect(self) -> None:
        """Do nothing: no account is needed."""


def write_ecoregions(path: Path) -> Path:
    """Two ecoregions of one UTM zone."""
    import numpy as np

    boxes = [shapely.box(7, 44, 9, 46), shapely.box(9, 44, 11, 46)]
    make_ecoregions(np.array([0, 300]), np.array(boxes, dtype=object)).to_parquet(path)
    return path


def recipe(ecoregions: Path, **options: Any) -> BuildRecipe:
    """The last shard of the first build is not full."""
    values = {
        "source": "synthetic",
        "ecoregions": ecoregions,
        "tiles": TILES,
        "tile_size": SIZE_PX,
        "tiles_per_shard": TILES_PER_SHARD,
        "seed": 5,
        "modalities": MODALITIES,
    }
    return make_recipe(None, {**values, **options})


def build_sampled(
    store: Path | str, log: Path, ecoregions: Path, *, append: int | None = None, read_ms: float = 0.0, **options: Any
) -> Store:
    """Begin, continue or grow the build."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "make_source", lambda recipe, catalog, ecoregions: SignedIn(log, read_ms))
        return build(recipe(ecoregions, **options), store, catalog=CATALOG, append=append)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("store", type=Path)
    parser.add_argument("log", type=Path)
    parser.add_argument("ecoregions", type=Path)
    parser.add_argument("--append", type=int)
    parser.add_argument("--read-ms", type=float, default=0.0)
    options = parser.parse_args()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    try:
        build_sampled(options.store, options.log, options.ecoregions, append=options.append, read_ms=options.read_ms)
    except MMEarthError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
