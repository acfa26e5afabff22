"""The sampler: choose the locations of a store's tiles."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mmearth_data.catalog.tile import MAX_LAT, MIN_LAT, PIXEL_M
from mmearth_data.errors import InputError
from mmearth_data.geography.ecoregions import check_ecoregions, prepare
from mmearth_data.geography.equal_area import CellGrid, sums
from mmearth_data.geography.pieces import Pieces, cut, intersect
from mmearth_data.sampling.blocks import (
    MAX_CELL_M,
    NO_SPLIT,
    SPLIT_NAMES,
    Blocks,
    assign_blocks,
    cell_width_m,
    guard_in_force,
)
from mmearth_data.sampling.options import Sample, SampleReport, SamplingOptions, sample_frame
from mmearth_data.sampling.placement import PATIENCE, RESERVE_PATIENCE, Field, Filling, Points, position_in_bin
from mmearth_data.sampling.quotas import (
    NO_LIMIT,
    Strata,
    as_ranks,
    fit_table,
    largest_remainder,
    make_strata,
    round_table,
    split_totals,
)
from mmearth_data.sampling.spacing import JAMMED, Placed, Spacing

if TYPE_CHECKING:
    from collections.abc import Callable

    import geopandas as gpd

    from mmearth_data.geography.equal_area import Ints
    from mmearth_data.geography.regions import Region

CAUTION = 0.92
"""Share of the tiles found to fit that a message reports as fitting: other seeds or shares may fit slightly fewer."""
MOST_NAMES = 20
MAX_ATTEMPTS = 25
"""Maximum number of times that quotas are redistributed after strata turned out full."""


def sample(
    ecoregions: gpd.GeoDataFrame,
    region: Region,
    options: SamplingOptions,
    existing: gpd.GeoDataFrame | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Sample:
    """Choose locations for tiles.

    Points are uniform on the Earth within their polygons, no two tiles overlap, and strata and splits get their exact
    shares if there is enough land. The result depends only on the arguments, not on threads.

    ``ecoregions`` are from `mmearth_data.geography.ecoregions.read_ecoregions`, the region from
    `mmearth_data.geography.regions.resolve_region`. New tiles do not overlap ``existing`` ones (columns ``lon``,
    ``lat``, ``split``), and blocks with tiles keep their split. ``report`` is called with the locations found so far
    and their total, reserves included. InputError if there are no ecoregions inside the
    region, or more tiles than fit (with about how many fit).
    """
    check_ecoregions(ecoregions)
    land = _land(ecoregions, region, options, existing)
    plan = _Plan(land, options, existing, report)
    plan.place_primaries()
    plan.place_reserves()
    return plan.result(region, ecoregions)


@dataclass(frozen=True)
class _Land:
    """Eligible land, cut along the split blocks: one entry per piece, with its stratum (a unit of balance)."""

    pieces: Pieces
    stratum: Ints
    strata: Strata
    biome_of_stratum: Ints
    blocks: Blocks | None
    split: Ints
    width_m: float


def _land(
    ecoregions: gpd.GeoDataFrame, region: Region, options: SamplingOptions, existing: gpd.GeoDataFrame | None
) -> _Land:
    pieces = prepare(ecoregions, options.threads)
    if region.geometry is not None:
        mask = cut(np.array([region.geometry]), np.zeros(1, np.int64), pieces.grid, options.threads)
        pieces = intersect(pieces, mask, options.threads)
    if not len(pieces):
        raise InputError(
            f"Expected ecoregions inside the region {region.name!r} between 80 S and 84 N, found none; "
            "choose another region, or an ecoregion file that covers it (--ecoregions)."
        )
    width = cell_width_m(float(pieces.area_m2.sum()))
    if options.split == "block" and width < MAX_CELL_M:
        pieces = cut(pieces.polygons(), pieces.owner, CellGrid(width), options.threads)
    owners, index = np.unique(pieces.owner, return_inverse=True)
    biome = ecoregions["biome"].to_numpy(np.int64)[owners]
    strata = make_strata(options.balance, biome, sums(index, pieces.area_m2, len(owners)))
    single = len(strata) == 1 and options.balance == "area"
    land = _Land(
        pieces=pieces,
        stratum=np.zeros(len(pieces), np.int64) if single else index.astype(np.int64),
        strata=strata,
        biome_of_stratum=np.zeros(1, np.int64) if single else np.unique(biome, return_inverse=True)[1],
        blocks=None,
        split=np.zeros(len(pieces), np.int64),
        width_m=width,
    )
    return land if options.split == "random" else _with_blocks(land, options, existing)


def _with_blocks(land: _Land, options: SamplingOptions, existing: gpd.GeoDataFrame | None) -> _Land:
    grid = CellGrid(land.width_m)
    cell = land.pieces.cell
    if land.pieces.grid.width_m < grid.width_m:  # each block is two by two prepared cells
        row, column = np.divmod(cell, land.pieces.grid.columns)
        cell = row // 2 * grid.columns + column // 2
    cells, index = np.unique(cell, return_inverse=True)
    area = sums(land.stratum, land.pieces.area_m2, len(land.strata))
    density = land.strata.shares() / area
    expected = sums(index, density[land.stratum] * land.pieces.area_m2, len(cells))
    blocks = assign_blocks(grid, cells, expected, options.split_shares, options.seed)
    fixed = None if existing is None else _settled(grid, existing)
    if fixed is not None and not _agree(blocks, fixed):
        blocks = assign_blocks(grid, cells, expected, options.split_shares, options.seed, fixed)
    return replace(land, blocks=blocks, split=blocks.split[index].astype(np.int64))


def _settled(grid: CellGrid, existing: gpd.GeoDataFrame) -> Blocks:
    """Blocks that already contain tiles, with their split."""
    split = existing["split"].to_numpy(np.uint8)
    known = split != NO_SPLIT
    cell = grid.cell_of(existing["lon"].to_numpy(np.float64)[known], existing["lat"].to_numpy(np.float64)[known])
    cells, first = np.unique(cell, return_index=True)
    return Blocks(grid, cells, split[known][first])


def _agree(blocks: Blocks, settled: Blocks) -> bool:
    """Whether all settled blocks have the same split in `blocks`; empty blocks then keep theirs too."""
    found = blocks.split_of(settled.cell)
    return bool(((found == settled.split) | (found == NO_SPLIT)).all())


class _Plan:
    """Quotas and the locations that fill them."""

    def __init__(
        self,
        land: _Land,
        options: SamplingOptions,
        existing: gpd.GeoDataFrame | None,
        report: Callable[[int, int], None],
    ) -> None:
        self.land, self.options, self.report = land, options, report
        self.found = 0
        self.splits = 1 if land.blocks is None else len(SPLIT_NAMES)
        seeds = np.random.SeedSequence([options.seed, 0 if existing is None else len(existing)])
        drawing, ordering = (np.random.default_rng(child) for child in seeds.spawn(2))
        self.ordering = ordering
        self.guard_m = 0.0 if land.blocks is None else guard_in_force(options.split_guard_m, land.width_m)
        bins = len(land.strata) * self.splits
        bin_of_piece = land.stratum * self.splits + land.split
        self.field = Field(land.pieces, bin_of_piece, bins, land.blocks, self.guard_m, options.threads)
        placed = Placed(Spacing(options.size_px, options.min_distance_m))
        if existing is not None:
            placed.add(existing["lon"].to_numpy(np.float64), existing["lat"].to_numpy(np.float64))
        self.filling = Filling(self.field, placed, bin_of_piece, drawing, self._arrived)
        self.shape = (len(land.strata), self.splits)
        self.area = self.field.area_m2.reshape(self.shape)
        self.tie_break = as_ranks(ordering.random(len(land.strata)))
        self.columns = split_totals(options.tiles, options.split_shares)
        self.targets = self.columns if self.splits > 1 else np.array([options.tiles])
        self.limit = np.where(self.area > 0, NO_LIMIT, 0)
        self.count = np.zeros(self.shape, dtype=np.int64)
        self.points: list[Points] = []

    def _arrived(self, count: int) -> None:
        self.found += count
        self.report(self.found, math.ceil(self.options.oversample * self.options.tiles))

    def place_primaries(self) -> None:
        """Fill the quotas; if strata are full, redistribute their tiles.

        InputError if more tiles are requested than fit.
        """
        room = self.area.sum() / self.filling.placed.spacing.footprint_m2()
        if self.options.tiles > 2 * room + 10 * len(self.land.pieces):
            raise self._too_many()
        self.wanted = self._quota()
        quota = self.wanted
        for _ in range(MAX_ATTEMPTS):
            short = self._fill(quota, PATIENCE)
            if not short.any():
                break
            self.limit[short] = self.count[short]
            quota = self._quota()
        else:
            raise self._too_many()
        self.quota = quota

    def place_reserves(self) -> None:
        """Place reserves in proportion to the tiles, as far as they fit."""
        self.reserves_wanted = np.ceil((self.options.oversample - 1) * self.targets - 1e-9).astype(np.int64)
        limit = np.where(self.limit < NO_LIMIT, self.limit - self.quota, NO_LIMIT)
        limit = np.where(self.area > 0, np.maximum(limit, 0), 0)
        for _ in range(MAX_ATTEMPTS):
            quota = np.column_stack([self._reserve_quota(split, limit[:, split]) for split in range(self.splits)])
            short = self._fill(self.quota + quota, RESERVE_PATIENCE)
            if not short.any():
                break
            limit[short] = np.maximum(self.count - self.quota, 0)[short]
        self.reserves = np.minimum(quota, self.count - self.quota)

    def _reserve_quota(self, split: int, limit: Ints) -> Ints:
        group, quota = self.land.biome_of_stratum, self.quota[:, split]
        weight = quota.astype(np.float64)
        strata = Strata(group, weight, sums(group, weight, int(group.max()) + 1))
        return strata.allot(int(self.reserves_wanted[split]), np.where(quota > 0, limit, 0), self.tie_break)

    def _fill(self, quota: Ints, patience: float) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
        """Fill the quotas; True for bins that could not hold theirs."""
        lacking = np.maximum(quota - self.count, 0)
        points, count = self.filling.fill(lacking.ravel(), patience)
        self.points += points
        self.count += count.reshape(self.shape)
        return self.count < quota

    def _quota(self) -> Ints:
        rows = self.land.strata.allot(self.options.tiles, np.minimum(self.limit.sum(axis=1), NO_LIMIT), self.tie_break)
        if rows.sum() < self.options.tiles or (np.minimum(self.limit.sum(axis=0), NO_LIMIT) < self.targets).any():
            raise self._too_many()
        table = fit_table(rows, self.targets, self.area, self.limit)
        quota = round_table(table, rows, self.targets, self.limit)
        if (quota.sum(axis=0) != self.targets).any():
            raise self._too_many()
        return quota

    def _too_many(self) -> InputError:
        room = JAMMED * self.area / self.filling.placed.spacing.footprint_m2()
        holds = np.where(self.limit < NO_LIMIT, self.limit, np.maximum(room, self.count)).sum(axis=0)
        share = self.targets / self.targets.sum()
        fits = int(CAUTION * min(holds.sum(), *(holds[share > 0] / share[share > 0])))
        apart, side_m = self.options.min_distance_m, PIXEL_M * self.options.size_px
        how, remedy = "without overlap", "ask for fewer, for smaller tiles or a larger region"
        if apart > side_m:
            how, remedy = (
                f"with centres at least {apart:g} m apart",
                "ask for fewer, lower --min-distance, or enlarge the region",
            )
        return InputError(
            f"Expected a number of tiles that fits, got {self.options.tiles}: about {fits} tiles of "
            f"{self.options.size_px} px fit {how}; {remedy}."
        )

    def result(self, region: Region, ecoregions: gpd.GeoDataFrame) -> Sample:
        """Sort and label the locations, and make the report."""
        points = Points.join(self.points)
        bins = self.filling.bin_of_piece[points.piece]
        nth = position_in_bin(bins)
        primary = np.flatnonzero(nth < self.quota.ravel()[bins])
        kept = (self.quota + self.reserves).ravel()
        reserve = np.flatnonzero((nth >= self.quota.ravel()[bins]) & (nth < kept[bins]))
        frame = self._frame(
            points, [self._ordered(primary, bins, self.columns), self._ordered(reserve, bins, None)], ecoregions
        )
        return Sample(frame, self._report(frame, region, ecoregions))

    def _ordered(self, index: Ints, bins: Ints, totals: Ints | None) -> tuple[Ints, Ints]:
        """(points in random order within splits, split of each): train first, then val, then test."""
        index = index[self.ordering.permutation(len(index))]
        if self.splits > 1:
            split = bins[index] % self.splits
        else:
            totals = largest_remainder(self.columns, len(index)) if totals is None else totals
            split = np.repeat(np.arange(len(SPLIT_NAMES)), totals)
        order = np.argsort(split, kind="stable")
        return index[order], split[order]

    def _frame(self, points: Points, chosen: list[tuple[Ints, Ints]], ecoregions: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
        index, split = (np.concatenate(part) for part in zip(*chosen, strict=True))
        points = points.take(index)
        owner = self.land.pieces.owner[points.piece]
        biome, eco_region = (ecoregions[name].to_numpy()[owner] for name in ("biome", "eco_region"))
        return sample_frame(self.options.size_px, len(chosen[0][0]), points.lon, points.lat, biome, eco_region, split)

    def _report(self, frame: gpd.GeoDataFrame, region: Region, ecoregions: gpd.GeoDataFrame) -> SampleReport:
        options = {key: value for key, value in asdict(self.options).items() if key != "threads"}
        options["split_shares"] = list(self.options.split_shares)
        blocks = self.land.blocks
        cells = {} if blocks is None else {name: int((blocks.split == s).sum()) for s, name in SPLIT_NAMES.items()}
        biomes = ecoregions["biome"].to_numpy()
        report = SampleReport.of(
            frame,
            biomes[np.unique(self.land.pieces.owner)],
            region=region.name,
            reserves_wanted=int(self.reserves_wanted.sum()),
            area_km2=float(self.area.sum()) / 1e6,
            options=options,
            cell_width_m=None if blocks is None else self.land.width_m,
            cells=cells,
            guard_m=self.guard_m,
            moved=self._moved(ecoregions),
            notes=[*self._notes(region), *_unmatched(ecoregions)],
        )
        if self.options.balance != "area":
            of_stratum = biomes[self._stratum_owner()]
            for code, counts in report.biomes.items():
                counts["wanted"] = int(self.wanted.sum(axis=1)[of_stratum == code].sum())
        return report

    def _stratum_owner(self) -> Ints:
        """One ecoregion row of each stratum."""
        owner = np.zeros(len(self.land.strata), dtype=np.int64)
        owner[self.land.stratum] = self.land.pieces.owner
        return owner

    def _moved(self, ecoregions: gpd.GeoDataFrame) -> list[dict[str, int]]:
        """Strata whose number of tiles differs from their first quota."""
        wanted, got = self.wanted.sum(axis=1), self.quota.sum(axis=1)
        biome, eco_region = (ecoregions[name].to_numpy()[self._stratum_owner()] for name in ("biome", "eco_region"))
        columns = {"biome": biome, "eco_region": eco_region, "wanted": wanted, "placed": got}
        return [{name: int(column[k]) for name, column in columns.items()} for k in np.flatnonzero(wanted != got)]

    def _notes(self, region: Region) -> list[str]:
        notes = []
        if region.geometry is not None and (region.geometry.bounds[1] < MIN_LAT or region.geometry.bounds[3] > MAX_LAT):
            notes.append("Areas beyond 84 N and 80 S are left out: UTM and the Sentinel-2 grid end there.")
        lacking = int(self.reserves_wanted.sum() - self.reserves.sum())
        if lacking:
            notes.append(f"{lacking} of {int(self.reserves_wanted.sum())} reserves did not fit.")
        moved = int(np.maximum(self.wanted.sum(axis=1) - self.quota.sum(axis=1), 0).sum())
        if moved:
            notes.append(f"{moved} tiles did not fit into their ecoregions and were placed in others.")
        return notes


def _unmatched(ecoregions: gpd.GeoDataFrame) -> list[str]:
    """Sentences about names of an ecoregion file that were left out."""
    names = ecoregions.attrs.get("unmatched") or []
    if not names:
        return []
    shown = ", ".join(names[:MOST_NAMES]) + (", ..." if len(names) > MOST_NAMES else "")
    return [f"{len(names)} names of the ecoregion file match no published id and were left out: {shown}."]
