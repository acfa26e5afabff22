"""Tiles of a source with its own locations: select which are built, and assign their splits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mmearth_data.catalog.tile import NO_TIME
from mmearth_data.errors import FileInputError, InputError
from mmearth_data.sampling import largest_remainder
from mmearth_data.sampling.grouping import empty_splits, groups_of_tiles, split_at_random, split_by_blocks
from mmearth_data.sampling.published import OwnTiles, read_published
from mmearth_data.sources.base import Survey
from mmearth_data.store.overlaps import overlapping_splits

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from mmearth_data.catalog.tile import Place
    from mmearth_data.recipes import BuildRecipe
    from mmearth_data.sampling.published import Published
    from mmearth_data.sources.base import Source


@dataclass(frozen=True, kw_only=True, slots=True)
class GivenTiles:
    """Tiles to build.

    Attributes
    ----------
    places
        Locations of n tiles, in the source's order.
    split
        (n,) their splits.
    notes
        Messages for the user.
    """

    places: list[Place]
    split: NDArray[np.uint8]
    notes: tuple[str, ...] = ()


def given_tiles(source: Source, recipe: BuildRecipe) -> GivenTiles:
    """Select and split the tiles of a source, following a recipe.

    The splits of a table (``tiles_file``) are kept. Otherwise tiles that overlap get the same split, at random or by the
    spatial block of the first of them.

    Raises
    ------
    InputError
        When the table cannot be used, has overlapping tiles in different splits, or has splits and the recipe asks for
        others.
    """
    surveys = surveyed_tiles(source, recipe)
    notes: tuple[str, ...] = tuple(source.remarks)
    if surveys and surveys[0].split is not None:
        _refuse_second_split(recipe, f"{recipe.source}, whose splits are kept", "remove splits from the file")
        split = np.array([one.split for one in surveys], dtype=np.uint8)
        return GivenTiles(places=[one.place for one in surveys], split=split, notes=notes)
    if recipe.tiles_file is not None:
        tiles = own_tiles(surveys)
        published = read_published(recipe.tiles_file, tiles, recipe.split_column, recipe.date_column)
        if len(published.kept) < len(surveys):
            notes += (f"{recipe.tiles_file}: {len(published.kept)} of the {len(surveys)} tiles of the source",)
        surveys = [surveys[position] for position in published.kept]
        if published.date_ms is not None:
            surveys = _dated(recipe, surveys, published)
        if published.split is not None:
            _refuse_second_split(recipe, f"{recipe.tiles_file}, whose column split is kept", "remove the column")
            kept = own_tiles(surveys)
            refuse_overlaps(recipe.tiles_file, *_lonlat(surveys), published.split, recipe.tile_size, kept.name)
            return GivenTiles(places=[one.place for one in surveys], split=published.split, notes=notes)
    split, words = _split(surveys, recipe)
    return GivenTiles(places=[one.place for one in surveys], split=split, notes=(*notes, *words))


def _dated(recipe: BuildRecipe, surveys: list[Survey], published: Published) -> list[Survey]:
    """Surveys whose locations have the dates of their rows.

    Raises
    ------
    InputError
        When no file has a date.
    """
    if all(one.time_ms == NO_TIME for one in surveys):
        raise InputError(
            f"date_column (--date-column): expected files with dates, got none of {recipe.source} with one; add the field "
            "date to the layer of the scenes, or leave the option out."
        )
    assert published.date_ms is not None
    dates = zip(surveys, published.date_ms.tolist(), strict=True)
    return [replace(one, place=replace(one.place, date_ms=date)) for one, date in dates]


def surveyed_tiles(source: Source, recipe: BuildRecipe) -> list[Survey]:
    """All tiles of a source, as they would be built."""
    return [answer for answer in source.survey(source.places(recipe.tile_size)) if isinstance(answer, Survey)]


def own_tiles(surveys: list[Survey]) -> OwnTiles:
    """Ids, sites and grids of tiles, to match them with a table."""
    return OwnTiles(
        tile_id=np.array([one.place.tile_id for one in surveys], dtype=np.uint64),
        site=[str(one.facts.get("site", "")) for one in surveys],
        grid=[one.grid for one in surveys],
    )


def _split(surveys: list[Survey], recipe: BuildRecipe) -> tuple[NDArray[np.uint8], list[str]]:
    groups = groups_of_tiles([one.grid for one in surveys])
    shares = recipe.split_shares
    if recipe.split == "block":
        _refuse_blocks_without_locations(recipe, surveys)
        split, _ = split_by_blocks(*_lonlat(surveys), groups, shares, recipe.seed)
    else:
        order = np.random.default_rng(recipe.seed).permutation(len(surveys))
        split = split_at_random(order, groups, largest_remainder(np.asarray(shares), len(surveys)))
    return split, empty_splits(split, shares, groups)


def _refuse_blocks_without_locations(recipe: BuildRecipe, surveys: list[Survey]) -> None:
    nowhere = int(np.isnan(_lonlat(surveys)).any(axis=0).sum())
    if nowhere:
        raise InputError(
            f"split (--split): expected random with {recipe.source}, {nowhere} of whose {len(surveys)} tiles have no "
            "location, got block; leave it out."
        )


def _refuse_second_split(recipe: BuildRecipe, kept: str, remedy: str) -> None:
    unused = sorted(recipe.given & {"split", "split_shares"})
    if unused:
        raise InputError(
            f"{unused[0]} (--{unused[0].replace('_', '-')}): expected none with {kept}; leave it out, or {remedy}."
        )


def _lonlat(surveys: list[Survey]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.array([one.place.lon for one in surveys]), np.array([one.place.lat for one in surveys])


def refuse_overlaps(
    path: Path,
    lon: NDArray[np.float64],
    lat: NDArray[np.float64],
    split: NDArray[np.uint8],
    size_px: int,
    name: Callable[[int], str],
) -> None:
    """Refuse the splits of a file in which test tiles overlap train tiles, as `verify` does.

    ``lon``, ``lat``, ``split`` (n,) are the centres of the tiles in degrees and their splits; ``name`` returns the name of
    the tile at a position.

    Raises
    ------
    FileInputError
        With two tiles that overlap and are in different splits.
    """
    pair = overlapping_splits(lon, lat, split, size_px)
    if pair is not None:
        one, two = map(name, pair)
        raise FileInputError(
            path, f"expected tiles that overlap in one split, got {one} and {two} in two; give both the same."
        )
