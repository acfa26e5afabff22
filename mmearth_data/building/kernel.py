"""Fill a shard from a source, in memory; `mmearth_data.building.worker` writes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.building.plan import NO_BIOME, NO_ECO_REGION, Reserve, ShardPlan, Slot
from mmearth_data.catalog.modality import Kind, Modality
from mmearth_data.errors import TileUnavailable
from mmearth_data.sources.base import Rejection, Source, Survey
from mmearth_data.store.commits import empty_columns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Executor

    from mmearth_data.catalog.tile import Place
    from mmearth_data.store.schema import StoreLayout


@dataclass
class FilledShard:
    """Arrays of one shard, ready to be written.

    Attributes
    ----------
    columns
        One array (or list) per 1-D name of the store, one entry per slot.
    rasters
        Raster modality -> (slots, band, y, x), stored dtype; None if no tile has it.
    rejected
        Rows for ``rejected.parquet``.
    filled
        Number of slots that hold a tile.
    """

    columns: dict[str, Any]
    rasters: dict[str, np.ndarray[Any, Any] | None]
    rejected: list[dict[str, Any]] = field(default_factory=list)
    filled: int = 0


def fill_shard(
    plan: ShardPlan,
    survey: Callable[[Sequence[Place]], list[Survey | Rejection]],
    source: Source,
    layout: StoreLayout,
    pool: Executor,
    *,
    first: list[Survey | Rejection] | None = None,
    at_once: int = 1,
    arrived: Callable[[], None] = lambda: None,
) -> FilledShard:
    """Read the tile of every slot; rejected ones are replaced by reserves, in rounds.

    The result depends only on the plan and the source: the order in which tiles arrive within a round does not matter, and
    reserves are assigned between rounds, in slot order.

    Parameters
    ----------
    plan
        Slots and reserves.
    survey
        Surveys locations, in order: the source's own method, or one that combines the locations of several shards.
    source
        Delivers pixels; called from the pool's threads.
    layout
        Modalities and shapes.
    pool
        Reads the tiles.
    first
        Surveys of all slots, if they are known already.
    at_once
        Tiles per task of the pool.
    arrived
        Called for every tile that was read.
    """
    shard = empty_shard(plan, layout)
    wanted = _asked_of_source(layout)
    first_row = plan.slots[0].row
    reserves = list(plan.reserves)
    candidates: list[tuple[Slot, Place]] = [(slot, slot.place) for slot in plan.slots]
    while candidates:
        answers = survey([place for _, place in candidates]) if first is None else first
        first = None
        groups = [answers[k : k + at_once] for k in range(0, len(answers), at_once)]
        reads = pool.map(lambda group: [_read(source, answer, wanted) for answer in group], groups)
        failed: list[Slot] = []
        had: list[tuple[Slot, Place, Survey]] = []
        for (slot, place), answer in zip(candidates, chain.from_iterable(reads), strict=True):
            if isinstance(answer, Rejection):
                shard.rejected.append(_rejected_row(slot, answer))
                failed.append(slot)
            else:
                survey_of, arrays = answer
                had.append((slot, place, survey_of))
                arrived()
                _store_arrays(shard, slot.row - first_row, len(plan.slots), layout, arrays)
        _store_values(shard, first_row, had)
        candidates = _replacements(failed, reserves)
    return shard


def empty_shard(plan: ShardPlan, layout: StoreLayout) -> FilledShard:
    """Shard without any tile."""
    columns = empty_columns(layout, len(plan.slots))
    return FilledShard(columns=columns, rasters=dict.fromkeys(m.name for m in layout.rasters))


def _asked_of_source(layout: StoreLayout) -> tuple[Modality, ...]:
    """Modalities to read from a source; class labels of whole tiles are derived from their locations instead."""
    return tuple(m for m in (*layout.rasters, *layout.tabular) if m.kind is not Kind.TILE_CATEGORICAL)


def _read(
    source: Source, answer: Survey | Rejection, wanted: Sequence[Modality]
) -> tuple[Survey, dict[str, np.ndarray[Any, Any]]] | Rejection:
    if isinstance(answer, Rejection):
        return answer
    try:
        unknown = [m for m in wanted if m.name not in answer.values] if answer.values else wanted
        return answer, source.read(answer, unknown)
    except TileUnavailable as refusal:
        return Rejection(place=answer.place, reason=refusal.reason, detail=refusal.detail)


def _store_values(shard: FilledShard, first_row: int, had: Sequence[tuple[Slot, Place, Survey]]) -> None:
    """Fill in the columns of some tiles, column by column, which is much faster than tile by tile."""
    if not had:
        return
    slots, places, surveys = zip(*had, strict=True)
    rows = np.array([slot.row for slot in slots], dtype=np.intp) - first_row
    values: dict[str, list[Any]] = {
        name: [getattr(place, name) for place in places] for name in ("tile_id", "lon", "lat")
    }
    values |= {name: [getattr(survey.grid, name) for survey in surveys] for name in ("epsg", "ulx", "uly")}
    values |= {
        name: [getattr(survey, name) for survey in surveys] for name in ("s2_level", "s1_asc_days", "s1_desc_days")
    }
    values |= {"time": [survey.time_ms for survey in surveys], "split": [slot.split for slot in slots]}
    values |= _labels(places, shard.columns)
    for name, column in values.items():
        shard.columns[name][rows] = np.array(column, dtype=shard.columns[name].dtype)
    for row, survey in zip(rows.tolist(), surveys, strict=True):
        shard.columns["facts"][row] = survey.facts
        for name, array in survey.values.items():
            if name in shard.columns:
                shard.columns[name][row] = array
    shard.filled += len(had)


def _store_arrays(
    shard: FilledShard, i: int, slots: int, layout: StoreLayout, arrays: dict[str, np.ndarray[Any, Any]]
) -> None:
    for name, array in arrays.items():
        if name not in shard.rasters:
            shard.columns[name][i] = array
            continue
        values = shard.rasters[name]
        if values is None:
            m = next(m for m in layout.rasters if m.name == name)
            values = shard.rasters[name] = m.empty((slots, *m.array_shape(layout.size_px)))
        values[i] = array


def _labels(places: Sequence[Place], columns: Iterable[str]) -> dict[str, list[int]]:
    """Class labels of the locations, for the modalities of the store."""
    known = {
        "biome": [NO_BIOME if place.biome is None else place.biome for place in places],
        "eco_region": [NO_ECO_REGION if place.eco_region is None else place.eco_region for place in places],
    }
    return {name: codes for name, codes in known.items() if name in columns}


def _rejected_row(slot: Slot, rejection: Rejection) -> dict[str, Any]:
    place = {name: getattr(rejection.place, name) for name in ("tile_id", "lon", "lat")}
    return {**place, "reason": rejection.reason, "detail": rejection.detail, "slot": slot.row}


def _replacements(failed: list[Slot], reserves: list[Reserve]) -> list[tuple[Slot, Place]]:
    """Give each failed slot, in slot order, the next unused reserve: same ecoregion, else biome, else split."""
    taken: list[tuple[Slot, Place]] = []
    for slot in failed:
        position = next(_preferred(slot, reserves), None)
        if position is not None:
            taken.append((slot, reserves.pop(position).place))
    return taken


def _preferred(slot: Slot, reserves: list[Reserve]) -> Iterator[int]:
    """Positions of the reserves that may replace the location of a slot, the best ones first."""
    same_split = [k for k, reserve in enumerate(reserves) if reserve.split == slot.split]
    yield from (k for k in same_split if reserves[k].place.eco_region == slot.place.eco_region)
    yield from (k for k in same_split if reserves[k].place.biome == slot.place.biome)
    yield from same_split
