"""Options and report of the sampler."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import shapely

from mmearth_data.catalog.entries import biomes
from mmearth_data.catalog.tile import WGS84, check_tile_size, tile_ids
from mmearth_data.errors import InputError
from mmearth_data.sampling.blocks import SPLIT_NAMES
from mmearth_data.sampling.quotas import BALANCES, Balance

if TYPE_CHECKING:
    import geopandas as gpd
    import pandas as pd
    from numpy.typing import ArrayLike

    from mmearth_data.geography.equal_area import Floats

SplitMethod = Literal["block", "random"]
SPLIT_METHODS: tuple[str, ...] = get_args(SplitMethod)


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingOptions:
    """Options of the sampler; InputError if a value is out of range."""

    tiles: int
    size_px: int = 128
    """Side of a tile at 10 m."""
    seed: int = 0
    balance: Balance = "biome"
    """``biome``: equal numbers per biome, proportional to area within it; ``biome-ecoregion``: equal per biome, then
    per ecoregion; ``ecoregion``: equal per ecoregion; ``area``: uniform on land.
    """
    oversample: float = 1.3
    """Primary and reserve locations together, relative to ``tiles``."""
    split: SplitMethod = "block"
    """``block`` (spatial) or ``random``."""
    split_shares: tuple[float, float, float] = (90.0, 5.0, 5.0)
    """Per cent of train, val and test."""
    split_guard_m: float = 2000.0
    """Distance between a tile's centre and cells of the other splits."""
    min_distance_m: float = 0.0
    """Minimum distance between centres; in addition, no two tiles overlap."""
    threads: int = 1
    """Number of threads; the sample does not depend on it."""

    def __post_init__(self) -> None:
        check_tile_size(self.size_px)
        for problem in (self._range_problem(), self._split_problem()):
            if problem:
                raise InputError(problem)

    def _range_problem(self) -> str | None:
        if self.tiles < 1:
            return f"Expected at least one tile, got {self.tiles}; ask for 1 or more."
        if self.seed < 0 or self.seed >= 2**64:
            return f"Expected a seed from 0 to 2^64 - 1, got {self.seed}."
        if not 1 <= self.oversample <= 10:
            return f"Expected an oversampling factor from 1 (no reserves) to 10, got {self.oversample:g}; 1.3 is usual."
        if self.balance not in BALANCES:
            return f"Expected a balance out of {', '.join(BALANCES)}, got {self.balance!r}."
        if not 0 <= self.min_distance_m <= 2_000_000:
            return f"Expected a minimum distance from 0 to 2,000,000 m, got {self.min_distance_m:g}."
        return None

    def _split_problem(self) -> str | None:
        if self.split not in SPLIT_METHODS:
            return f"Expected a split method out of {', '.join(SPLIT_METHODS)}, got {self.split!r}."
        shares = self.split_shares
        usable = len(shares) == 3 and all(math.isfinite(share) and share >= 0 for share in shares)
        if not usable or not math.isclose(sum(shares), 100, abs_tol=1e-6):
            return f"Expected three split shares (train,val,test) that add up to 100, got {','.join(map(str, shares))}."
        if not 0 <= self.split_guard_m <= 100_000:
            return f"Expected a split guard from 0 to 100,000 m, got {self.split_guard_m:g}."
        return None


@dataclass(frozen=True, kw_only=True)
class SampleReport:
    """Report of a sampling run."""

    region: str
    tiles: int
    reserves: int
    area_km2: float
    """Eligible land: inside region and ecoregions, from 80 S to 84 N."""
    options: dict[str, Any]
    """Options, JSON-ready, without the threads."""
    cell_width_m: float | None
    cells: dict[str, int]
    """Width of the split blocks and their number per split; None and empty for a random split."""
    guard_m: float
    """Guard in force between splits."""
    splits: dict[str, int]
    biomes: dict[int, dict[str, int]]
    """Biome id -> ``{"wanted", "placed", "reserves"}``."""
    moved: list[dict[str, int]] = field(default_factory=list)
    """Strata that could not hold their tiles, which others took over: ``{"biome", "eco_region", "wanted", "placed"}``.
    """
    reserves_wanted: int = 0
    notes: list[str] = field(default_factory=list)
    """Sentences for the user."""

    @classmethod
    def of(cls, frame: pd.DataFrame, present: ArrayLike, **others: Any) -> SampleReport:
        """Report with the counts of a sample's table: of every split, and of the biomes that are present."""
        primary = frame["slot"].notna().to_numpy()
        biome, split = frame["biome"].to_numpy(), frame["split"].to_numpy()
        biomes = {}
        for code in np.unique(present).tolist():
            placed, reserves = (int((among & (biome == code)).sum()) for among in (primary, ~primary))
            biomes[code] = {"wanted": placed, "placed": placed, "reserves": reserves}
        splits = {name: int((split[primary] == code).sum()) for code, name in SPLIT_NAMES.items()}
        tiles, reserves = int(primary.sum()), int((~primary).sum())
        return cls(tiles=tiles, reserves=reserves, splits=splits, biomes=biomes, **others)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        entry = asdict(self)
        entry["biomes"] = {str(biome): counts for biome, counts in self.biomes.items()}
        return entry

    def lines(self) -> list[str]:
        """Lines of text for a terminal."""
        names = {label.code: label.name for label in biomes()}
        blocks = f"blocks of {self.cell_width_m / 1000:.3g} km, guard {self.guard_m:.0f} m" if self.cell_width_m else ""
        moved = [f"{names[m['biome']]}: placed {m['placed']} of {m['wanted']}" for m in self.moved]
        return [
            f"{self.region}: {self.tiles} tiles and {self.reserves} reserves on {self.area_km2:,.0f} km2 of eligible land",
            "splits: "
            + ", ".join(f"{name} {count}" for name, count in self.splits.items())
            + (blocks and f" ({blocks})"),
            *(f"{counts['placed']:>8}  {names.get(code, 'no biome')}" for code, counts in self.biomes.items()),
            *(f"full, the rest went to others: {line}" for line in moved),
            *self.notes,
        ]

    @classmethod
    def from_dict(cls, entry: dict[str, Any]) -> SampleReport:
        """Inverse of `to_dict`."""
        values = dict(entry)
        values["biomes"] = {int(biome): counts for biome, counts in values["biomes"].items()}
        return cls(**values)


@dataclass(frozen=True)
class Sample:
    """Locations for a store."""

    frame: gpd.GeoDataFrame
    """One row per location: primaries in order of slot, then reserves in the order of their use. ``tile_id`` uint64,
    ``lon``, ``lat`` float64 degrees, ``biome`` uint8, ``eco_region`` uint16, ``split`` uint8 (0 train, 1 val, 2
    test), ``slot`` Int64 (null for reserves), ``rank`` uint8 (0 primary, 1 reserve), ``geometry`` points in
    EPSG:4326.
    """
    report: SampleReport


def sample_frame(
    size_px: int, tiles: int, lon: Floats, lat: Floats, biome: ArrayLike, eco_region: ArrayLike, split: ArrayLike
) -> gpd.GeoDataFrame:
    """Table of a sample (see `Sample`) whose first rows are the primary locations."""
    import geopandas as gpd
    import pandas as pd

    ids = tile_ids(lon, lat, size_px)
    reserve = np.arange(len(ids)) >= tiles
    columns = {
        "tile_id": ids,
        "lon": lon,
        "lat": lat,
        "biome": np.asarray(biome, np.uint8),
        "eco_region": np.asarray(eco_region, np.uint16),
        "split": np.asarray(split, np.uint8),
        "slot": pd.arrays.IntegerArray(np.where(reserve, 0, np.arange(len(ids))), reserve),
        "rank": reserve.astype(np.uint8),
    }
    return gpd.GeoDataFrame(columns, geometry=shapely.points(lon, lat), crs=WGS84)
