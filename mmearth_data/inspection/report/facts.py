"""Text and table sections of a report: properties of the store, missing data, splits and provenance."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from mmearth_data.inspection.facts import format_extent, format_lonlat
from mmearth_data.inspection.report.fields import observed_modalities
from mmearth_data.inspection.terminal import NOTHING, ledger_rows
from mmearth_data.pages.markdown import CITATION
from mmearth_data.pages.parts import (
    Amount,
    Badge,
    CodeBlock,
    Facts,
    Link,
    Notice,
    PageTable,
    Paragraph,
    Part,
    Plot,
    Share,
    Tone,
)
from mmearth_data.pages.style import COLOURS, page_figure
from mmearth_data.store.encoding import object_key
from mmearth_data.store.manifest import read_manifest
from mmearth_data.store.overlaps import overlapping_splits
from mmearth_data.store.schema import SPLIT_NAMES
from mmearth_data.store.storage import storage_at
from mmearth_data.words import format_bytes, python_literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from mmearth_data.errors import StoreDamaged
    from mmearth_data.inspection.report.fields import Field
    from mmearth_data.inspection.summary import Summary
    from mmearth_data.pages.parts import Cell
    from mmearth_data.store import Store

TIMES, BREAK = "\N{MULTIPLICATION SIGN}", "\N{ZERO WIDTH SPACE}"
ASKED = 1_000
"""Maximum number of tiles per other split whose nearest train tile is searched."""
AT_ONCE = 16
EARTH_M = 6_371_008.8
"""Mean radius (IUGG)."""


# ---------------------------------------------------------------- what it is


def what_it_is(store: Store, s: Summary) -> list[Part]:
    """Size, dates, state and how to open it."""
    width = "" if s.pixel_m is None else f", {s.size_px * s.pixel_m:,} m a side"
    side = f"{s.size_px} {TIMES} {s.size_px} px{width}"
    stored = [m for m in s.modalities if m.stored]
    facts: list[tuple[str, Cell]] = [
        ("Tiles", s.tiles),
        ("Tile", side),
        ("Modalities", f"{len(stored)} stored, {len(s.modalities) - len(stored)} computed when read"),
        ("Scenes", NOTHING if s.first_scene is None else f"{s.first_scene} to {s.last_scene}"),
        ("Area", NOTHING if s.bounds is None else format_extent(s.bounds)),
        ("Size", f"{format_bytes(s.stored_bytes)} in {s.shards:,} shards of {s.tiles_per_shard:,} tiles"),
        ("Source", f"{s.source.get('name', 'unknown')}: {'computed, never measured' if s.synthetic else 'measured'}"),
        ("Format", f"{store.attributes.get('format', 'mmearth-store')}, written by mmearth {s.code_version}"),
        ("Digest", s.digest[:16] if s.digest else NOTHING),
    ]
    return [
        *_warnings(s),
        Facts(facts),
        *_state(store, s),
        CodeBlock(_opening(s), "Python"),
        *(Notice(note, Tone.PLAIN) for note in s.notes),
    ]


def _warnings(s: Summary) -> Iterator[Part]:
    if s.synthetic:
        yield Notice("Synthetic: all values were computed from a model planet; none were measured.")
    if not s.finished:
        done = f"{s.committed_shards:,} of {s.shards:,} shards"
        yield Notice(f"Not finished: this report shows {done}. Run the build command again to complete the store.")


def _state(store: Store, s: Summary) -> list[Part]:
    """Report the quick check, and the command for the thorough one."""
    command = CodeBlock(shlex.join(["mmearth-data", "verify", str(s.path)]), "Check every byte and value")
    if not s.finished:
        return [command]
    wrong = quick_check(store)
    if wrong:
        shown = "; ".join(wrong[:3]) + (f"; and {len(wrong) - 3:,} more" if len(wrong) > 3 else "")
        return [Notice(f"Damaged: {shown}.", Tone.BAD), command]
    text = "Quick check passed: all files exist, and records and tables have the size that the manifest says. Contents were not compared."
    return [Notice(text, Tone.GOOD), command]


def quick_check(store: Store) -> list[str]:
    """Files of a finished store that are missing, or whose size differs from the manifest."""
    objects = storage_at(store.path)
    manifest = read_manifest(objects)
    rasters = [spec for spec in store.layout.arrays if spec.sharded]
    keys = [object_key(spec, shard) for spec in rasters for shard in range(store.layout.shards)]
    wrong = [f"{key} is missing" for key in keys if objects.size(key) is None]
    for key, entry in (manifest or {"files": {}})["files"].items():
        size = objects.size(key)
        if size != entry["size"]:
            wrong.append(f"{key} is missing" if size is None else f"{key} has {size:,} bytes, not {entry['size']:,}")
    return wrong


def _opening(s: Summary) -> str:
    first = next((m.name for m in s.modalities if m.stored), "sentinel2")
    return f'from mmearth_data import open_store\nstore = open_store({python_literal(str(s.path))})\nstore[0]["{first}"]  # one tile, as stored'


# ---------------------------------------------------------------- modalities


def modality_table(s: Summary) -> Part:
    """One row per modality."""
    rows: list[list[Cell]] = [
        [
            m.name,
            m.long_name,
            m.kind.replace("/", f"/{BREAK}"),
            TIMES.join(f"{n}" for n in m.shape[1:]) or ("1" if m.stored else "computed"),
            m.dtype,
            _units(m.band_units),
            None if m.stored_bytes is None else Amount(m.stored_bytes, format_bytes(m.stored_bytes)),
            None if m.ratio is None else Amount(m.ratio, f"{m.ratio:.1f}"),
            None if m.valid_share is None else Share(m.valid_share),
        ]
        for m in s.modalities
    ]
    heads = ["Modality", "Content", "Kind", "Per tile", "Type", "Units", "On disk", "Ratio", "Valid"]
    return PageTable(heads, rows, "Valid: share of the tiles with at least one value")


def _units(units: Sequence[str]) -> str:
    found = list(dict.fromkeys("" if unit == "1" else unit for unit in units))
    return ", ".join(filter(None, found[:3])) + (", ..." if len(found) > 3 else "")


# ---------------------------------------------------------------- what is missing where


def what_is_missing(store: Store, fields: Sequence[Field]) -> list[Part]:
    """Share of tiles with each modality, by label and by year."""
    seen = observed_modalities(store)
    if not len(seen):
        return [Notice("The store has no tile yet.")]
    names = [m.name for m in store.layout.stored]
    if seen.all():
        text = f"Every tile has values of all {len(names)} modalities."
        return [Notice(text, Tone.GOOD)]
    lacking = np.flatnonzero(~seen.all(axis=0))
    whole = [names[k] for k in range(len(names)) if k not in lacking]
    shown = [field for field in fields if field.name in {"label", "year"}]
    tables = [_availability(field, seen[:, lacking], [names[k] for k in lacking]) for field in shown]
    complete = f"With values in every tile: {', '.join(whole)}." if whole else "No modality has values in every tile."
    return [Paragraph(complete), *tables]


def _availability(field: Field, seen: NDArray[np.bool_], names: Sequence[str]) -> Part:
    """Table of a field's values and modalities."""
    rows: list[list[Cell]] = []
    for code, value in enumerate(field.values):
        here = seen[field.codes == code]
        rows.append([value, len(here), *(Share(float(share)) for share in here.mean(axis=0))])
    heads = [name.replace("_", f"_{BREAK}") for name in names]
    return PageTable([field.title, "Tiles", *heads], rows, f"Tiles with values, by {field.title.lower()}")


# ---------------------------------------------------------------- splits


def splits(store: Store, s: Summary) -> list[Part]:
    """Tiles per split, distance to the nearest train tile, and whether an area is in two splits."""
    coords = store.coords
    counts: list[list[Cell]] = [
        [name, count, Share(count / s.tiles)] for name, count in s.splits.items() if count and s.tiles
    ]
    if not counts:
        return [Notice("The store has no tile yet.")]
    finite = np.isfinite(coords["lon"]) & np.isfinite(coords["lat"])
    lon, lat, split = (coords[name][finite] for name in ("lon", "lat", "split"))
    found = nearest_train(lon, lat, split)
    return [
        PageTable(["Split", "Tiles", "Share"], counts, "Tiles per split", sortable=False),
        _verdict(lon, lat, split, store.layout.size_px),
        *_distances(found),
    ]


def _verdict(lon: NDArray[np.float64], lat: NDArray[np.float64], split: NDArray[np.uint8], size_px: int) -> Notice:
    if not np.isin(split, list(SPLIT_NAMES)).any():
        return Notice("The tiles have no splits, so there is no leakage between splits.", Tone.PLAIN)
    if len(np.unique(split)) < 2:
        return Notice("All tiles are in one split: there is none to leak into.", Tone.PLAIN)
    pair = overlapping_splits(lon, lat, split, size_px)
    if pair is None:
        return Notice("No leakage: no area is in two splits.", Tone.GOOD)
    where = " and ".join(format_lonlat(float(lon[k]), float(lat[k])) for k in pair)
    return Notice(f"Leakage: the tiles at {where} overlap and belong to different splits.", Tone.BAD)


def nearest_train(
    lon: NDArray[np.float64], lat: NDArray[np.float64], split: NDArray[np.uint8]
) -> dict[str, NDArray[np.float64]]:
    """Metres from the centres of other splits' tiles (at most `ASKED`, at random) to the nearest train tile's."""
    lam, phi = np.radians(lon), np.radians(lat)
    at = np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)], axis=1)
    train = at[split == 0]
    found = {}
    for code, name in SPLIT_NAMES.items():
        asking = at[split == code]
        if code == 0 or not len(asking) or not len(train):
            continue
        if len(asking) > ASKED:
            asking = asking[np.random.default_rng(code).choice(len(asking), ASKED, replace=False)]
        parts = np.array_split(asking, -(-len(asking) // AT_ONCE))
        nearest = np.concatenate([train[(part @ train.T).argmax(axis=1)] for part in parts])
        chord = np.linalg.norm(asking - nearest, axis=1)
        found[name] = 2 * EARTH_M * np.arcsin(np.clip(chord / 2, 0, 1))
    return found


def _distances(found: Mapping[str, NDArray[np.float64]]) -> list[Part]:
    if not found:
        return []
    rows: list[list[Cell]] = [
        [name, len(km), *(float(np.quantile(km, q)) for q in (0, 0.05, 0.5, 0.95))]
        for name, km in ((name, metres / 1000) for name, metres in found.items())
    ]
    heads = ["Split", "Tiles sampled", "Minimum km", "5 % km", "Median km", "95 % km"]
    parts: list[Part] = [PageTable(heads, rows, "Distance to the nearest train tile, centre to centre", sortable=False)]
    return [*parts, Plot(_distance_figure(found), "Distances to the nearest train tile, as in the table.")]


def _distance_figure(found: Mapping[str, NDArray[np.float64]]) -> Any:  # noqa: ANN401 - a figure of Bokeh
    from bokeh.models import FixedTicker

    km = {name: np.maximum(metres / 1000, 0.01) for name, metres in found.items()}
    low = min(values.min() for values in km.values())
    high = max(values.max() for values in km.values())
    edges = np.geomspace(low * 0.999, max(high, low * 1.1) * 1.001, 31)
    made = page_figure(
        x_axis_type="log", height=240, x_axis_label="km to the nearest train tile", y_axis_label="share of tiles"
    )
    for (name, values), dash, colour in zip(km.items(), ("solid", "dashed"), COLOURS, strict=False):
        share = np.histogram(values, edges)[0] / len(values)
        made.step(edges[:-1], share, mode="after", line_width=2, line_dash=dash, color=colour, legend_label=name)
    made.xaxis.ticker = FixedTicker(ticks=[m * 10.0**power for power in range(-2, 5) for m in (1, 2, 5)])
    return made


# ---------------------------------------------------------------- how it was built


def how_built(store: Store, s: Summary) -> list[Part]:
    """Source, recipe, requests, rejections and appends."""
    source: list[tuple[str, Cell]] = [
        (key.replace("_", " "), _text(value)) for key, value in s.source.items() if key not in {"notes", "synthetic"}
    ]
    appended = store.attributes.get("appended") or []
    parts: list[Part] = [Facts(source)]
    if s.ledger:
        counts = [*ledger_rows(s.ledger), *_rate(s.ledger)]
        parts += [Paragraph("Requests to the service, over all runs:"), Facts(counts)]
    else:
        parts.append(Paragraph("No requests were recorded: the source is not a service."))
    parts += _rejections(s)
    if appended:
        rows: list[list[Cell]] = [[number, count] for number, count in enumerate(appended, 1)]
        parts.append(PageTable(["Append", "Rows"], rows, "Rows appended after the build", sortable=False))
    else:
        parts.append(Paragraph("No rows were appended after the build."))
    return parts


def _rate(ledger: Mapping[str, Any]) -> list[tuple[str, str]]:
    requests, seconds = ledger.get("requests"), ledger.get("seconds")
    total = sum(requests.values()) if isinstance(requests, dict) else 0
    if not total:
        return []
    retried = sum((ledger.get("retries") or {}).values())
    answer = [("seconds per request", f"{seconds / total:.2f}")] if seconds else []
    return [*answer, ("retries per request", f"{retried / total:.3f}")]


def _rejections(s: Summary) -> list[Part]:
    if s.rejected is None:
        return [Notice("The table of rejected candidates is missing; run `mmearth-data verify` for details.", Tone.BAD)]
    total = sum(s.rejected.values())
    if not total:
        return [Paragraph("No candidate was rejected.")]
    rows: list[list[Cell]] = [[reason, count, Share(count / total)] for reason, count in s.rejected.items()]
    return [PageTable(["Reason", "Candidates", "Share"], rows, f"{total:,} rejected candidates")]


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


# ---------------------------------------------------------------- licences


def licences(store: Store, s: Summary) -> list[Part]:
    """Attribution lines, recipe and citation, each with a button to copy it."""
    lines: dict[tuple[str, str, str], list[str]] = {}
    for m in s.modalities:
        if m.stored:
            lines.setdefault((m.licence, m.licence_url, m.attribution), []).append(m.name)
    rows: list[list[Cell]] = [
        [", ".join(names), Link(name, url) if url.startswith("http") else name, line]
        for (name, url, line), names in lines.items()
    ]
    needed = (
        [Paragraph("Synthetic pixels need no licence; for measured pixels, these licences apply.")]
        if s.synthetic
        else []
    )
    recipe = yaml.safe_dump(
        {k: v for k, v in store.recipe.items() if v is not None}, sort_keys=False, allow_unicode=True
    )
    credits = "\n".join(dict.fromkeys(line for _, _, line in lines))
    return [
        *needed,
        PageTable(["Modalities", "Licence", "Attribution"], rows, "Licences"),
        CodeBlock(credits, "Attribution lines"),
        CodeBlock(recipe.strip(), "Recipe"),
        CodeBlock(CITATION, "BibTeX"),
    ]


def badges(s: Summary) -> list[Badge]:
    """Labels next to the title."""
    found = [Badge("synthetic, not measured", Tone.WARNING)] if s.synthetic else []
    if not s.finished:
        found.append(Badge(f"not finished: {s.committed_shards:,} of {s.shards:,} shards", Tone.BAD))
    return found


def damaged(error: StoreDamaged) -> Part:
    """Notice in place of a section that cannot be made."""
    return Notice(str(error), Tone.BAD)
