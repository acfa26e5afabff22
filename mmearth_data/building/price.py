"""Cost of a recipe: requests, hours, bytes, objects, and the compute of Earth Engine."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mmearth_data.sources.earthengine.estimate import EECU_SECONDS, estimate
from mmearth_data.sources.opening import over_network

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmearth_data.recipes import BuildRecipe
    from mmearth_data.sources.base import Source
    from mmearth_data.store.schema import StoreLayout

EECU_HOURS_PER_MONTH = {"Community": 150, "Contributor": 1_000, "Partner": 100_000}
"""Monthly compute of a noncommercial project, by tier (Earth Engine guides, "noncommercial tiers")."""
DAYS_PER_MONTH = 30
SOME_FILES = 5
"""Root metadata, manifest, two tables of tiles, and the table of rejected locations."""


def store_objects(layout: StoreLayout) -> int:
    """Count the files or objects of a finished store without its ledger."""
    chunks = -(-layout.tiles // layout.column_chunk_rows)
    names = sum(1 for m in layout.stored if m.bands)
    of_shards = layout.shards * (len(layout.rasters) + 1)
    return of_shards + chunks * len(layout.columns) + names + len(layout.arrays) + SOME_FILES


def price(
    layout: StoreLayout, *, tiles: int, per_second: float, eecu_per_tile: float | None = None, **options: Any
) -> dict[str, Any]:
    """Price some tiles of a store from Earth Engine; JSON-ready.

    Parameters
    ----------
    layout
        Arrays of the store.
    tiles
        Rows to fill.
    per_second, eecu_per_tile, **options
        As for `mmearth_data.sources.earthengine.estimate.estimate`.

    Returns
    -------
    dict
        That of `estimate`, with ``hours_at_rate_limit`` (no build is faster, whatever the latency) and
        ``months_of_compute``: EECU-seconds per tile -> EECU-hours per month of a tier -> months.
    """
    found = estimate(
        tiles, layout.size_px, layout.modalities, per_second=per_second, eecu_per_tile=eecu_per_tile, **options
    )
    assumed = (eecu_per_tile,) if eecu_per_tile else EECU_SECONDS
    months = {f"{seconds:g}": months_of_compute(tiles * seconds / 3600) for seconds in assumed}
    how = found.pop("how_to_measure")
    return {
        **found,
        "hours_at_rate_limit": round(found["requests"]["total"] / per_second / 3600, 4),
        "months_of_compute": months,
        "how_to_measure": how,
    }


def months_of_compute(eecu_hours: float) -> dict[str, float]:
    """EECU-hours per month of each tier -> months that some EECU-hours take."""
    return {str(hours): round(eecu_hours / hours, 4) for hours in EECU_HOURS_PER_MONTH.values()}


def how_long(months: float) -> str:
    """Duration as text: months, days or hours.

    Examples
    --------
    >>> [how_long(months) for months in (37.04, 1.0, 0.2778, 0.01)]
    ['37 months', '1.0 months', '8.3 days', '7.2 hours']
    """
    for number, unit in ((months, "months"), (months * DAYS_PER_MONTH, "days")):
        if number >= 1:
            return f"{number:.0f} {unit}" if number >= 10 else f"{number:.1f} {unit}"
    return f"{months * DAYS_PER_MONTH * 24:.1f} hours"


def profile_lines(found: Mapping[str, Any]) -> list[str]:
    """Describe in lines what `mmearth_data.profile` measured."""
    eecu = found["eecu_per_tile"]
    measured = f"{eecu:.3g} EECU-seconds and " if eecu is not None else ""
    lines = [
        f"{found['source']}: {found['tiles']} tiles measured, {found['rejected']} of {found['places']} locations rejected",
        f"a tile takes {measured}{found['seconds_per_tile']:.3g} s, one after the other",
    ]
    for kind, of in found["requests"].items():
        compute = "no EECU-seconds given" if of["eecu_seconds"] is None else f"{of['eecu_seconds']:.3g} EECU-seconds"
        lines.append(f"  {kind}: {of['requests']} requests, {of['seconds']:.3g} s, {compute}")
    needs = found["recipe"]
    if "estimate" in needs:
        estimated = needs["estimate"]
        lines.append(
            f"{needs['tiles']:,} tiles take {estimated['requests']['total']:,} requests and {estimated['hours']:.3g} hours"
        )
        lines += [
            f"  compute at {seconds} EECU-seconds per tile: "
            + ", ".join(f"{how_long(months)} at {int(hours):,} EECU-hours per month" for hours, months in of.items())
            for seconds, of in estimated["months_of_compute"].items()
        ]
    else:
        lines.append(
            f"{needs['tiles']:,} tiles take {needs['hours']:.3g} hours with {needs['threads']} threads at best"
        )
    return [*lines, *found["notes"]]


def describe_needs(recipe: BuildRecipe, source: Source, layout: StoreLayout, tiles: int) -> dict[str, Any]:
    """Describe a store, and what filling some of its rows takes; JSON-ready."""
    per_tile = {m.name: math.prod(m.array_shape(layout.size_px)) * m.dtype.itemsize for m in layout.stored}
    account = {
        "source": {"name": source.name, "synthetic": source.synthetic},
        "tiles": tiles,
        "tile_size_px": layout.size_px,
        "shards": layout.shards,
        "tiles_per_shard": layout.tiles_per_shard,
        "raw_bytes_per_tile": per_tile,
        "raw_bytes": tiles * sum(per_tile.values()),
        "store_objects": store_objects(layout),
    }
    if over_network(source):
        account["estimate"] = price(
            layout,
            tiles=tiles,
            in_flight=recipe.in_flight,
            per_second=recipe.per_second,
            latency_s=recipe.latency_s,
            eecu_per_tile=recipe.eecu_per_tile,
            oversample=1.0 if recipe.cover else recipe.oversample,
        )
    return account
