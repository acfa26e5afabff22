"""Sentences that the cards of a store share: content, sampling, splits, missing values, limits and provenance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data.catalog.tile import PIXEL_M
from mmearth_data.words import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mmearth_data.inspection.cards.facts import CardFacts, Gap, Share

WHOLE_EARTH = "global"
"""Region of a recipe that is not restricted to a part of the Earth."""
TIMES = "\N{MULTIPLICATION SIGN}"
SYNTHETIC = "All values were computed from a model of a planet; none were measured."
BALANCES = {
    "biome": "every biome of the region has the same number of tiles, which are distributed over its ecoregions in proportion to their area",
    "biome-ecoregion": "every biome of the region has the same number of tiles, and so has every ecoregion within a biome",
    "ecoregion": "every ecoregion of the region has the same number of tiles",
    "area": "locations are distributed uniformly over the land of the region",
}
"""Value of the field ``balance`` of a recipe -> how locations were distributed."""
FEW_M = 10.0
"""Native pixels larger than this, in metres, are coarser than the grid."""
LISTED, LISTED_CLASSES = 3, 6
"""Number of most frequent classes that are listed, of a label and of the pixels of a class map."""


def join(words: Sequence[str]) -> str:
    """Join words as a list in a sentence.

    Examples
    --------
    >>> join(["a"]), join(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def percent(share: float) -> str:
    """Share in per cent; only a share of exactly 0 is shown as 0 %, and only one of exactly 1 as 100 %.

    Examples
    --------
    >>> percent(0.1234), percent(0.00001), percent(0.99999), percent(1.0)
    ('12.3 %', '< 0.1 %', '> 99.9 %', '100 %')
    """
    if share in {0, 1}:
        return f"{share:.0%}".replace("%", " %")
    if share < 0.001 or share > 0.999:
        return "< 0.1 %" if share < 0.5 else "> 99.9 %"
    return f"{100 * share:.1f} %"


def lead(facts: CardFacts) -> str:
    """Describe a store in one sentence."""
    s = facts.summary
    what = "synthetic tiles" if s.synthetic else "tiles"
    when = f" and scenes from {s.first_scene} to {s.last_scene}" if s.first_scene else ""
    side = f"{s.size_px} {TIMES} {s.size_px} pixels{'' if s.pixel_m is None else f' at {s.pixel_m} m'}"
    return f"{s.tiles:,} {what} of {side}, with {len(facts.stored)} aligned modalities{when}."


def description(facts: CardFacts) -> str:
    """Describe a store in a paragraph without markup."""
    names = join([m.long_name for m in facts.stored])
    made = f"{SYNTHETIC} " if facts.summary.synthetic else ""
    return (
        f"{made}{lead(facts)} All modalities of a tile share one pixel grid: {names}. The arrays are sharded and form one "
        "Zarr group (version 3); tiles.parquet has one row per tile."
    )


# ---------------------------------------------------------------- sampling


def sampling(facts: CardFacts) -> tuple[str, ...]:
    """Describe how locations and scenes were chosen, as far as the store records it."""
    recipe, source = facts.store.recipe, facts.store.source
    made = [*_derived(recipe), *(_locations(recipe) if _is_sampled(recipe, source) else ())]
    made += _covered(recipe) if facts.store.overlap_px is not None else ()
    return (*made, *_scenes(source))


def splitting(facts: CardFacts) -> tuple[str, ...]:
    """Describe how tiles were divided into splits, and what was found about leakage."""
    recipe = facts.store.recipe
    return (*(_split_rule(recipe) if _is_sampled(recipe, facts.store.source) else ()), *_leakage(facts))


def _is_sampled(recipe: Mapping[str, Any], source: Mapping[str, Any]) -> bool:
    """Whether a build sampled the locations: sources that do are identified by the seed of their scenes."""
    return "balance" in recipe and "seed" in source


def _derived(recipe: Mapping[str, Any]) -> Iterator[str]:
    part = recipe.get("subset")
    if part:
        kept = {k: v for k, v in part.items() if k != "of" and v not in (None, [], ())}
        conditions = join([f"{name} {_text(value)}" for name, value in kept.items()])
        chosen = f" selected by {conditions}" if kept else ""
        yield f"The tiles are a subset of the store with the digest `{part['of'][0][:16]}`{chosen}."
    if "merge" in recipe:
        digests = join([f"`{digest[:16]}`" for digest in recipe["merge"]["of"]])
        yield f"The tiles were merged from the stores with the digests {digests}."
    if "import" in recipe:
        yield f"The tiles were imported from published files (format {recipe['import']})."


def _covered(recipe: Mapping[str, Any]) -> Iterator[str]:
    """Describe a cover; copies of a cover have no region of their own."""
    region = recipe.get("region")
    mainland = ", mainland only" if recipe.get("mainland") else ""
    yield (
        f"The tiles {f'cover the region {region}{mainland}' if region else 'are part of a cover'}: one tile per cell "
        "of a grid "
        f"in each UTM zone; neighbouring tiles share {recipe['overlap_px']} px. Cells without a usable scene are empty."
    )


def _locations(recipe: Mapping[str, Any]) -> Iterator[str]:
    if recipe.get("tiles_file"):
        yield "The locations were read from a file."
        return
    mainland = ", mainland only" if recipe.get("mainland") else ""
    where = "on the land of the whole Earth" if recipe["region"] == WHOLE_EARTH else f"in the region {recipe['region']}"
    yield (
        f"Locations were sampled {where}{mainland} (seed {recipe['seed']}): "
        f"{BALANCES.get(recipe['balance'], recipe['balance'])}. No two tiles overlap."
    )
    if recipe.get("min_distance_m"):
        yield f"The tile centres are at least {recipe['min_distance_m']:,.0f} m apart."
    yield "A location without a usable scene was replaced by another one, in the same ecoregion or biome where possible."


def _scenes(source: Mapping[str, Any]) -> Iterator[str]:
    """Describe the choice of scenes, for sources with years, a period or dates of scenes."""
    if "days" in source:
        clouds = f" with a cloud cover below {source['cloud_percent']:g} %" if "cloud_percent" in source else ""
        yield (
            f"Each tile has the scene{clouds} nearest to the date of its location, at most {source['days']} days from it; "
            "its facts contain this date and the number of days from it to the scene."
        )
    if "date_range" in source:
        first, last = source["date_range"]
        yield (
            f"Each tile has the least cloudy {source['levels'][0]} scene from {first} to {last} with a cloud cover below "
            f"{source['cloud_percent']:g} %."
        )
    if "years" not in source:
        return
    yield (
        f"Each tile has one scene with a cloud cover below {source['cloud_percent']:g} %; its year "
        f"({join([str(year) for year in source['years']])}), product level ({' or '.join(source['levels'])}) and date are random."
    )


def _split_rule(recipe: Mapping[str, Any]) -> Iterator[str]:
    shares = join(
        [f"{share:g} % {name}" for name, share in zip(("train", "val", "test"), recipe["split_shares"], strict=True)]
    )
    if recipe["split"] == "random":
        yield f"Tiles were assigned to splits at random ({shares}), so neighbouring tiles can be in different splits."
        return
    yield (
        f"Splits consist of spatial blocks ({shares}): each equal-area cell, at most 100 km wide, belongs to one split. Tiles keep "
        f"a distance of up to {recipe['split_guard_m']:,.0f} m from the cells of other splits."
    )


def _leakage(facts: CardFacts) -> Iterator[str]:
    if sum(1 for count in facts.summary.splits.values() if count) < 2:
        return
    if facts.overlap:
        yield "**Leakage: tiles of different splits overlap.**"
    else:
        yield "Tiles of different splits do not overlap (checked when this card was written)."
    for name, metres in facts.nearest_m.items():
        sample = "" if len(metres) == facts.summary.splits[name] else f" (in a random sample of {len(metres):,} tiles)"
        yield (
            f"The distance from a {name} tile to the nearest train tile is at least {metres.min() / 1000:,.1f} km, between centres; "
            f"the median is {np.median(metres) / 1000:,.1f} km{sample}."
        )


# ---------------------------------------------------------------- bias, gaps and limits


def bias(facts: CardFacts) -> str:
    """Describe how the tiles are distributed over biomes and continents, compared with the land, without markup."""
    texts = [_compared(kind, rows) for kind, rows in (("Biomes", facts.biomes), ("Continents", facts.continents))]
    return " ".join(filter(None, texts))


def _compared(kind: str, rows: Sequence[Share]) -> str:
    if not rows:
        return ""
    known = [row for row in rows if row.of_land is not None]
    if not known:
        return f"{kind}, as shares of the tiles: {join([f'{row.name} {percent(row.of_tiles)}' for row in _largest(rows)])}."
    listed = [f"{row.name} {percent(row.of_tiles)} ({percent(row.of_land or 0)})" for row in known]
    return f"{kind}, as shares of the tiles (and of all land): {'; '.join(listed)}."


def _largest(rows: Sequence[Share]) -> list[Share]:
    return sorted(rows, key=lambda row: -row.tiles)


def missing(facts: CardFacts) -> str:
    """Describe missing values in one paragraph, without markup."""
    listed = "; ".join(f"{name}: {text}" for name, text in gaps_by_modality(facts.gaps).items())
    rule = "Missing values are stored as the no-data value of their modality and never filled with estimates."
    return f"{rule} Share of observed values: {listed}." if listed else f"{rule} No values are missing."


def gaps_by_modality(gaps: Sequence[Gap]) -> dict[str, str]:
    """Bands of each modality by the share of their values that were observed.

    Examples
    --------
    >>> from mmearth_data.inspection.cards.facts import Gap
    >>> gaps_by_modality([Gap(modality="m", band=band, observed=share) for band, share in (("a", 0.0), ("b", 0.5))])
    {'m': 'a 0 %, b 50.0 %'}
    """
    bands: dict[str, dict[str, list[str]]] = {}
    for gap in gaps:
        bands.setdefault(gap.modality, {}).setdefault(percent(gap.observed), []).append(gap.band)
    return {
        name: ", ".join(f"{join(members)} {share}" for share, members in shares.items())
        for name, shares in bands.items()
    }


def limits(facts: CardFacts) -> tuple[str, ...]:
    """Describe the limits that users should know before they use the data."""
    s, notes = facts.summary, []
    if s.synthetic:
        notes.append("The values are synthetic, so results obtained with them do not apply to the Earth.")
    notes += [*_time_limits(facts), *_pixel_limits(facts)]
    if s.rows > s.tiles:
        notes.append(f"{s.rows - s.tiles:,} rows are empty, because no scene was found for them; readers skip them.")
    return (*notes, *s.notes)


def _time_limits(facts: CardFacts) -> Iterator[str]:
    s = facts.summary
    if facts.years:
        yield "Each tile has one date; there are no time series."
    if facts.radar_days is not None:
        median, largest = facts.radar_days
        yield f"The radar and optical scenes of a tile are up to {largest:.0f} days apart (median {median:.1f})."
    levels = {level: count for level, count in s.levels.items() if count}
    by_level = [m.name for m in facts.stored if m.statistics_by != "none"]
    if len(levels) > 1 and by_level:
        counts = join([f"{count:,} tiles have product level {level}" for level, count in levels.items()])
        yield f"{counts}; normalise {join(by_level)} with the statistics of the level of each tile."


def _pixel_limits(facts: CardFacts) -> Iterator[str]:
    coarse = {m.name: sorted({size for size in m.native_m.values() if size > FEW_M}) for m in facts.rasters}
    named = [f"{name} ({join([f'{size:g}' for size in sizes])} m)" for name, sizes in coarse.items() if sizes]
    if named:
        yield f"Some bands have a coarser native resolution and were resampled to the {PIXEL_M} m grid: {join(named)}."
    if facts.unplaced:
        yield f"The pixel grid of {facts.unplaced:,} tiles is not known; they have no outline."


# ---------------------------------------------------------------- how it was built


def provenance(facts: CardFacts) -> tuple[tuple[str, str], ...]:
    """Facts about how the store was built, as name and value."""
    s, store = facts.summary, facts.store
    source = {
        k: v for k, v in s.source.items() if k not in {"name", "notes", "synthetic", "files", "sources", "band_stats"}
    }
    appended = store.attributes.get("appended") or []
    rows = [
        ("Source", str(s.source.get("name", "unknown"))),
        *((name.replace("_", " ").capitalize(), _text(value)) for name, value in source.items() if _is_short(value)),
        ("Software", f"mmearth {s.code_version}"),
        ("Format", f"{store.attributes['format']} {store.attributes['format_version']}"),
        ("Appended rows", ", ".join(f"{count:,}" for count in appended)),
        ("Rejected candidates", _rejected(s.rejected)),
        ("Requests", _requests(s.ledger)),
        ("Size", f"{format_bytes(s.stored_bytes)} in {s.shards:,} shards of {s.tiles_per_shard:,} tiles"),
        ("Identifier", facts.identifier),
        ("Digest", str(s.digest)),
    ]
    return tuple((name, value) for name, value in rows if value)


def _rejected(rejected: Mapping[str, int] | None) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in (rejected or {}).items())


def _requests(ledger: Mapping[str, Any] | None) -> str:
    requests = (ledger or {}).get("requests")
    return ", ".join(f"{count:,} {kind}" for kind, count in requests.items()) if isinstance(requests, dict) else ""


def _is_short(value: object) -> bool:
    """Whether a value is short enough for a card: a single value or a short list, not a table of digests."""
    return isinstance(value, str | int | float) or (isinstance(value, list) and len(value) <= 12)


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
