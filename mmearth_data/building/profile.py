"""Measure a few tiles before a build of many: seconds of any source, and the compute that a service reports."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from mmearth_data.building.prepare import layout_of, planned, read_inputs
from mmearth_data.building.price import describe_needs
from mmearth_data.catalog.modality import Kind
from mmearth_data.errors import InputError, TileUnavailable
from mmearth_data.sources.base import Rejection
from mmearth_data.sources.opening import over_network

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmearth_data.catalog.entries import Catalog
    from mmearth_data.catalog.tile import Place
    from mmearth_data.recipes import BuildRecipe
    from mmearth_data.sources.base import Source
    from mmearth_data.store.schema import StoreLayout

AGAIN = "The service caches results: the same locations measured again may take less compute. Another --seed has other locations."


def profile(recipe: BuildRecipe, tiles: int, *, catalog: Catalog | None = None) -> dict[str, Any]:
    """Measure a few tiles of a recipe, one after the other, and estimate what all of them need; writes nothing.

    Parameters
    ----------
    recipe
        What is to be built.
    tiles
        Number of locations to measure, sampled as for the recipe itself.
    catalog
        Descriptions of the modalities; the shipped ones by default.

    Returns
    -------
    dict
        JSON-ready: what `mmearth_data.building.profile.profile_tiles` measured, and ``recipe``: what `preview` says
        of its tiles, with the measured seconds and EECU-seconds in place of assumptions.

    Raises
    ------
    InputError
        When an input cannot be used, or none of the locations is available.
    """
    if tiles < 1:
        raise InputError(f"--profile: expected at least one tile, got {tiles}.")
    inputs = read_inputs(recipe, catalog, connect=True)
    plan = planned(recipe.model_copy(update={"tiles": tiles, "tiles_per_shard": tiles}), inputs).plan
    places = plan.spread(tiles)
    found = profile_tiles(inputs.source, places, plan.layout)
    given = recipe.cover or recipe.source_file is not None or recipe.table is not None
    all_tiles = plan.layout.tiles if given else recipe.tiles
    measured = recipe.model_copy(
        update={"latency_s": seconds_of(found, "image:computePixels"), "eecu_per_tile": found["eecu_per_tile"] or None}
    )
    needs = describe_needs(measured, inputs.source, layout_of(recipe, inputs.modalities, all_tiles), all_tiles)
    if "estimate" not in needs:
        hours = all_tiles * found["seconds_per_tile"] / recipe.threads / 3600
        needs |= {"threads": recipe.threads, "hours": round(hours, 4)}
    return {**found, "recipe": needs}


def profile_tiles(source: Source, places: Sequence[Place], layout: StoreLayout) -> dict[str, Any]:
    """Survey and read locations, one after the other, and measure.

    Parameters
    ----------
    source
        Delivers the tiles.
    places
        Locations, at least one.
    layout
        Arrays of the store, which determine what is read.

    Returns
    -------
    dict
        ``source``, ``places``, ``tiles`` (those delivered), ``rejected``, ``seconds_per_tile``, ``requests`` (kind ->
        number, total seconds, total EECU-seconds or None), ``eecu_per_tile`` (None if the service did not report every
        kind of request), ``notes``.

    Raises
    ------
    InputError
        When none of the locations is available.
    """
    remote = over_network(source)
    with nullcontext({}) if remote is None else remote.profiling() as requests:
        reasons, seconds = _read_all(source, places, layout)
    tiles = len(places) - reasons.total()
    if not tiles:
        found = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
        raise InputError(
            f"--profile: expected at least one available location, got {len(places)} rejected ({found}); measure more."
        )
    silent = [kind for kind, of in requests.items() if of["eecu_seconds"] is None]
    known = bool(requests) and not silent
    notes = [f"The service gave no profile of {kind}: its compute is not known." for kind in silent]
    return {
        "source": source.name,
        "places": len(places),
        "tiles": tiles,
        "rejected": reasons.total(),
        "seconds_per_tile": seconds / tiles,
        "requests": requests,
        "eecu_per_tile": sum(of["eecu_seconds"] for of in requests.values()) / tiles if known else None,
        "notes": [*notes, AGAIN] if requests else [],
    }


def _read_all(source: Source, places: Sequence[Place], layout: StoreLayout) -> tuple[Counter[str], float]:
    """Count rejections by reason, and measure the seconds."""
    wanted = [m for m in layout.stored if m.kind is not Kind.TILE_CATEGORICAL]
    reasons: Counter[str] = Counter()
    start = time.perf_counter()
    for answer in source.survey(places):
        if isinstance(answer, Rejection):
            reasons[answer.reason] += 1
            continue
        try:
            source.read(answer, [m for m in wanted if m.name not in answer.values])
        except TileUnavailable as refusal:
            reasons[refusal.reason] += 1
    return reasons, time.perf_counter() - start


def seconds_of(found: dict[str, Any], kind: str) -> float | None:
    """Mean seconds of one kind of request, None if there was none."""
    of: dict[str, Any] = found["requests"].get(kind, {})
    return float(of["seconds"] / of["requests"]) if of.get("requests") else None
