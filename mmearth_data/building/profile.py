"""Measure a few tiles before a build of many: seconds of any source, and the compute that a service says it took."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

from mmearth_data.building.prepare import layout_of, planned, read_inputs
from mmearth_data.building.price import describe_needs
from mmearth_data.catalog.modality import Kind
from mmearth_data.errors import InputError, TileUnavailable
from mmearth_data.sources.base import Rejection

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from mmearth_data.catalog.entries import Catalog
    from mmearth_data.catalog.tile import Place
    from mmearth_data.recipes import BuildRecipe
    from mmearth_data.sources.base import Source
    from mmearth_data.store.schema import StoreLayout

AGAIN = "The service remembers: measured again, the same places may take less compute. Another --seed has other places."


@runtime_checkable
class ProfiledSource(Protocol):
    """A source whose service tells what each request took."""

    def profiling(self) -> AbstractContextManager[dict[str, dict[str, Any]]]:
        """Measure the requests of a block; filled when it ends: kind -> requests, seconds, eecu_seconds (or None)."""
        ...


def profile(recipe: BuildRecipe, tiles: int, *, catalog: Catalog | None = None) -> dict[str, Any]:
    """Measure a few tiles of a recipe, one after the other, and tell what all of them will need; writes nothing.

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
    places = [slot.place for slot in plan.shard(0).slots]
    found = profile_tiles(inputs.source, places, plan.layout)
    all_tiles = recipe.tiles if recipe.source_file is None else plan.layout.tiles
    measured = recipe.model_copy(
        update={"latency_s": seconds_of(found, "image:computePixels"), "eecu_per_tile": found["eecu_per_tile"] or None}
    )
    needs = describe_needs(measured, inputs.source, layout_of(recipe, inputs.modalities, all_tiles), all_tiles)
    if "estimate" not in needs:
        hours = all_tiles * found["seconds_per_tile"] / recipe.threads / 3600
        needs |= {"threads": recipe.threads, "hours": round(hours, 4)}
    return {**found, "recipe": needs}


def profile_tiles(source: Source, places: Sequence[Place], layout: StoreLayout) -> dict[str, Any]:
    """Survey and read places, one after the other, and measure.

    Parameters
    ----------
    source
        Delivers them.
    places
        At least one.
    layout
        Arrays of the store, which decide what is read.

    Returns
    -------
    dict
        ``source``, ``places``, ``tiles`` (those that were had), ``rejected``, ``seconds_per_tile``, ``requests``
        (kind -> number, seconds in all, EECU-seconds in all or None), ``eecu_per_tile`` (None where the service did
        not tell of every kind of request), ``notes``.

    Raises
    ------
    InputError
        When none of the locations is available.
    """
    if isinstance(source, ProfiledSource):
        with source.profiling() as requests:
            reasons, seconds = _read_all(source, places, layout)
    else:
        requests = {}
        reasons, seconds = _read_all(source, places, layout)
    tiles = len(places) - reasons.total()
    if not tiles:
        said = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
        raise InputError(
            f"--profile: expected at least one available location, got {len(places)} refused ({said}); measure more."
        )
    silent = [kind for kind, of in requests.items() if of["eecu_seconds"] is None]
    told = bool(requests) and not silent
    notes = [f"The service gave no profile of {kind}: its compute is not known." for kind in silent]
    return {
        "source": source.name,
        "places": len(places),
        "tiles": tiles,
        "rejected": reasons.total(),
        "seconds_per_tile": seconds / tiles,
        "requests": requests,
        "eecu_per_tile": sum(of["eecu_seconds"] for of in requests.values()) / tiles if told else None,
        "notes": [*notes, AGAIN] if requests else [],
    }


def _read_all(source: Source, places: Sequence[Place], layout: StoreLayout) -> tuple[Counter[str], float]:
    """Reasons of refusals, and seconds."""
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
    """Mean seconds of one kind of request, None where there was none."""
    of = cast("dict[str, Any] | None", found["requests"].get(kind))
    return of["seconds"] / of["requests"] if of and of["requests"] else None
