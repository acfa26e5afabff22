"""Summary for a terminal: rich tables that fit its width."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.text import Text

from mmearth_data.terminal.tables import FittedTable, NamedValues, Paragraphs, TableColumn
from mmearth_data.words import format_bytes, short_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

    from mmearth_data.inspection.summary import ClassCount, LabelSummary, ModalitySummary, Summary

WIDE = 100
"""Width of a terminal, in columns, from which the longer forms are shown."""
MANY_CLASSES = 20
"""Labels with more classes than this are counted; only the most frequent classes are listed."""
BAR = 16
FIGURES = {"count": 5, "mean": 0, "std": 0, "min": 2, "p2": 4, "p50": 3, "p98": 4, "max": 2}
"""Statistics, with their ranks as columns; see `mmearth_data.terminal.tables.TableColumn`."""
MOST_RANK = 4
"""Rank of the statistics that only wide terminals show."""
NOTHING = "\N{EN DASH}"
TIMES = "\N{MULTIPLICATION SIGN}"
SWATCH = "\N{BLACK SQUARE}"


@dataclass(frozen=True, slots=True)
class RenderedSummary:
    """A summary that rich can print in the width of the console."""

    summary: Summary

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from _parts(self.summary, options.max_width)


def render_summary(summary: Summary) -> RenderedSummary:
    """Tables of a summary for a terminal: print them with ``rich.print`` or `rich.console.Console.print`."""
    return RenderedSummary(summary)


def _parts(summary: Summary, width: int) -> Iterable[RenderableType]:
    yield _head(summary)
    yield _section("Modalities", _modalities(summary.modalities))
    yield _section("Tiles", _tiles(summary, width))
    yield from (_section(f"Statistics, {where}", table) for where, table in _statistics(summary, width))
    if summary.rejected:
        yield _section("Rejected candidates", NamedValues([(why, f"{n:,}") for why, n in summary.rejected.items()]))
    if summary.ledger:
        yield _section("Requests to Earth Engine, over all runs", NamedValues(list(ledger_rows(summary.ledger))))
    yield _section("Licences and attribution", _licences(summary))
    if summary.notes:
        yield _section("Notes", Paragraphs([f"- {note}" for note in summary.notes]))


def _section(title: str, body: RenderableType) -> RenderableType:
    return Group(Text(), Text(title, style="bold"), body)


# ---------------------------------------------------------------- the store


def _head(s: Summary) -> RenderableType:
    badges = Text()
    if s.synthetic:
        badges.append(" SYNTHETIC ", style="bold white on red")
    if not s.finished:
        badges.append(" " * bool(badges))
        badges.append(f" NOT FINISHED: {s.committed_shards} of {s.shards} shards ", style="bold black on yellow")
    width = "" if s.pixel_m is None else f" ({s.size_px * s.pixel_m:,} m)"
    side = f"{s.size_px} {TIMES} {s.size_px} px{width}"
    empty = f", {s.rows - s.tiles:,} rows without a tile" if s.rows > s.tiles and s.finished else ""
    scenes = NOTHING if s.first_scene is None else f"{s.first_scene} to {s.last_scene}"
    levels = ", ".join(f"{level} {count:,}" for level, count in s.levels.items() if count)
    made = "computed, never measured" if s.synthetic else "measured"
    facts = [
        ("tiles", f"{s.tiles:,} of {side}{empty}"),
        *([] if s.overlap_px is None else [("cover", f"of a region; neighbouring tiles share {s.overlap_px} px")]),
        ("source", f"{s.source.get('name', 'unknown')}: {made}"),
        ("scenes", f"{scenes}  {levels}".rstrip()),
        ("area", _area(s.bounds)),
        ("on disk", f"{format_bytes(s.stored_bytes)} in {s.shards:,} shards of {s.tiles_per_shard:,} tiles"),
    ]
    path = Paragraphs([short_path(s.path)], style="bold")
    return Group(path, *[badges] * bool(badges), NamedValues(facts))


def _area(bounds: tuple[float, float, float, float] | None) -> str:
    if bounds is None:
        return NOTHING
    west, south, east, north = bounds
    across = " across 180°" if west > east else ""
    return (
        f"{_degrees(west, 'EW')} to {_degrees(east, 'EW')}{across}, {_degrees(south, 'NS')} to {_degrees(north, 'NS')}"
    )


def _degrees(value: float, letters: str) -> str:
    return f"{abs(value):.2f}° {letters[0] if value >= 0 else letters[1]}"


def _modalities(modalities: Sequence[ModalitySummary]) -> FittedTable:
    table = FittedTable(
        [
            TableColumn("modality"),
            TableColumn("kind", rank=2),
            TableColumn("per tile", right=True),
            TableColumn("type"),
            TableColumn("on disk", right=True),
            TableColumn("ratio", right=True, rank=1),
            TableColumn("valid", right=True),
        ]
    )
    for m in modalities:
        kind = m.kind.partition("/")[2]
        shape = TIMES.join(str(n) for n in m.shape[1:] or (1,)) if m.stored else "derived"
        size = NOTHING if m.stored_bytes is None else format_bytes(m.stored_bytes)
        ratio = NOTHING if m.ratio is None else f"{m.ratio:.1f}"
        table.add(m.name, kind, shape, m.dtype, size, ratio, _share(m.valid_share))
    return table


def _share(share: float | None) -> Text:
    if share is None:
        return Text(NOTHING)
    text = f"{share:.0%}" if share in {0, 1} else f"{min(max(share, 0.001), 0.999):.1%}"
    return Text(text, style="" if share == 1 else "yellow" if share else "red")


def _tiles(s: Summary, width: int) -> RenderableType:
    splits = [name for name, count in s.splits.items() if count]
    few = [label for label in s.labels if len(label.classes) <= MANY_CLASSES]
    columns = ["all", *splits] if len(splits) > 1 else ["all"]
    table = FittedTable(
        [TableColumn("", wrap=True), *(TableColumn(name, right=True) for name in columns), TableColumn("", rank=1)]
    )
    table.add("all", *(f"{n:,}" for n in (s.tiles, *(s.splits[name] for name in columns[1:]))), "")
    for label in few:
        most = max((row.total for row in label.classes), default=1)
        table.rows.append(None)
        table.add(Text(label.long_name, style="bold"), *[""] * len(columns), "")
        for row in sorted(label.classes, key=lambda row: -row.total):
            counts = (row.total, *(row.tiles.get(name, 0) for name in columns[1:]))
            table.add(_class_name(row), *(f"{n:,}" for n in counts), _bar(row, most, 8 if width < WIDE else BAR))
        if label.unlabelled:
            table.add("not labelled", f"{label.unlabelled:,}", *[""] * len(columns))
    many = [_many_classes(label) for label in s.labels if label not in few]
    return Group(table, Paragraphs(many)) if many else table


def _class_name(row: ClassCount) -> Text:
    return Text.assemble((f"{SWATCH} ", row.colour or "dim"), row.name)


def _bar(row: ClassCount, most: int, length: int) -> Text:
    return Text("\N{FULL BLOCK}" * max(1, round(length * row.total / most)), style=row.colour or "dim")


def _many_classes(label: LabelSummary) -> str:
    ranked = sorted(label.classes, key=lambda row: -row.total)
    first = ", ".join(f"{row.name} ({row.total:,})" for row in ranked[:3])
    unlabelled = f"; {label.unlabelled:,} tiles not labelled" if label.unlabelled else ""
    return f"{label.name}: {len(ranked):,} of {label.known:,} classes, most of all {first}{unlabelled}"


# ---------------------------------------------------------------- statistics and licences


def _statistics(s: Summary, width: int) -> Iterable[tuple[str, FittedTable]]:
    """One table with a row per band, and per product level if the statistics depend on it."""
    units = {m.name: dict(zip(m.bands, m.band_units, strict=True)) for m in s.modalities}
    keys = [key for key in FIGURES if width >= WIDE or FIGURES[key] < MOST_RANK]
    figures = [TableColumn({"p50": "median"}.get(key, key), right=True, rank=FIGURES[key]) for key in keys]
    table = FittedTable([TableColumn("band"), TableColumn("unit"), *figures])
    for name, levels in s.statistics.items():
        for level, bands in levels.items():
            if not any(band["count"] for band in bands.values()):
                continue
            table.rows.extend([None] * bool(table.rows) + [name if level == "-" else f"{name} {level}"])
            for band, values in bands.items():
                if values["count"]:
                    unit = units.get(name, {}).get(band, "1")
                    table.add(f"  {band}", unit, *(_statistic(key, values[key]) for key in keys))
    yield f"{'train split' if s.statistics_of == 'train' else 'all splits'}, stored units", table


def _statistic(key: str, value: float | None) -> str:
    return f"{value:,}" if key == "count" else format_figure(value)


def ledger_rows(ledger: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Name and value of every count of a ledger, as text."""
    for name, value in ledger.items():
        if isinstance(value, dict):
            yield from ((f"{name}: {key}", f"{count:,}") for key, count in value.items())
        else:
            yield name, format_bytes(int(value)) if name.endswith("bytes") else f"{value:,.1f}"


def _licences(s: Summary) -> RenderableType:
    """Each attribution line once, after the modalities that require it."""
    lines: dict[tuple[str, str], list[str]] = {}
    for m in s.modalities:
        if m.stored:
            lines.setdefault((m.licence, m.attribution), []).append(m.name)
    parts: list[RenderableType] = []
    for (licence, attribution), names in lines.items():
        parts += [
            Paragraphs([", ".join(names)], indent=0, style="dim"),
            Paragraphs([f"  {licence}"], style="bold"),
            Paragraphs([f"  {attribution}"]),
        ]
    if not s.synthetic:
        return Group(*parts)
    return Group(Paragraphs(["Synthetic pixels need none; measured ones would require these:"], style="dim"), *parts)


def format_figure(value: float | None) -> str:
    """Format a number with up to four digits, never with an exponent.

    Examples
    --------
    >>> format_figure(12345.678), format_figure(0.03712), format_figure(-3.0), format_figure(None)
    ('12346', '0.0371', '-3', '\N{EN DASH}')
    """
    if value is None:
        return NOTHING
    decimals = 0 if abs(value) >= 1000 else min(4, 3 - math.floor(math.log10(max(abs(value), 1e-3))))
    text = f"{value:.{decimals}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text
