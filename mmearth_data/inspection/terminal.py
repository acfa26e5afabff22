"""Summary for a terminal: rich tables that fit its width."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mmearth_data.catalog.tile import PIXEL_M

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

    from mmearth_data.inspection.summary import ClassCount, LabelSummary, ModalitySummary, Summary

WIDE = 100
"""Width of a terminal, in columns, from which the longer forms are shown."""
MANY_CLASSES = 20
"""Labels with more classes than this are counted; only the most frequent classes are listed."""
BAR = 16
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
    yield _section("Modalities", _modalities(summary.modalities, width))
    yield _section("Tiles", _tiles(summary, width))
    yield from (_section(f"Statistics, {where}", table) for where, table in _statistics(summary, width))
    if summary.rejected:
        yield _section("Rejected candidates", _pairs((reason, f"{n:,}") for reason, n in summary.rejected.items()))
    if summary.ledger:
        yield _section("Requests to Earth Engine, over all runs", _pairs(ledger_rows(summary.ledger)))
    yield _section("Licences and attribution", _licences(summary))
    if summary.notes:
        yield _section("Notes", Group(*(Padding(Text(f"- {note}"), (0, 0, 0, 0)) for note in summary.notes)))


def _section(title: str, body: RenderableType) -> RenderableType:
    return Group(Text(), Text(title, style="bold"), body)


def _table(*columns: str, left: int = 1) -> Table:
    """Plain table: a rule below the heads, numbers to the right; the first ``left`` columns are text."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < left else "right", no_wrap=True)
    return table


def _pairs(pairs: Iterable[tuple[str, str]]) -> Table:
    """Two columns: a name and its value, which may have several lines."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs:
        table.add_row(name, Text(value))
    return table


# ---------------------------------------------------------------- the store


def _head(s: Summary) -> RenderableType:
    title = Text.assemble((s.path, "bold"))
    if s.synthetic:
        title.append("  ")
        title.append(" SYNTHETIC ", style="bold white on red")
    if not s.finished:
        title.append("  ")
        title.append(f" NOT FINISHED: {s.committed_shards} of {s.shards} shards ", style="bold black on yellow")
    side = f"{s.size_px} {TIMES} {s.size_px} px ({s.size_px * PIXEL_M:,} m)"
    empty = f", {s.rows - s.tiles:,} rows without a tile" if s.rows > s.tiles and s.finished else ""
    scenes = NOTHING if s.first_scene is None else f"{s.first_scene} to {s.last_scene}"
    levels = ", ".join(f"{level} {count:,}" for level, count in s.levels.items() if count)
    made = "computed, never measured" if s.synthetic else "measured"
    facts = [
        ("tiles", f"{s.tiles:,} of {side}{empty}"),
        ("source", f"{s.source.get('name', 'unknown')}: {made}"),
        ("scenes", f"{scenes}  {levels}".rstrip()),
        ("area", _area(s.bounds)),
        ("on disk", f"{format_bytes(s.stored_bytes)} in {s.shards:,} shards of {s.tiles_per_shard:,} tiles"),
    ]
    return Group(title, _pairs(facts))


def _area(bounds: tuple[float, float, float, float] | None) -> str:
    if bounds is None:
        return NOTHING
    west, south, east, north = bounds
    return f"{_degrees(west, 'EW')} to {_degrees(east, 'EW')}, {_degrees(south, 'NS')} to {_degrees(north, 'NS')}"


def _degrees(value: float, letters: str) -> str:
    return f"{abs(value):.2f}° {letters[0] if value >= 0 else letters[1]}"


def _modalities(modalities: Sequence[ModalitySummary], width: int) -> Table:
    wide = width >= WIDE
    table = _table("modality", "kind", "shape" if wide else "per tile", "type", "on disk", "ratio", "valid", left=2)
    for m in modalities:
        kind = m.kind if wide else m.kind.partition("/")[2]
        shape = TIMES.join(str(n) for n in (m.shape if wide else m.shape[1:] or (1,))) if m.stored else "derived"
        size = NOTHING if m.stored_bytes is None else format_bytes(m.stored_bytes)
        ratio = NOTHING if m.ratio is None else f"{m.ratio:.1f}"
        table.add_row(m.name, kind, shape, m.dtype, size, ratio, _share(m.valid_share))
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
    table = _table("", *columns, "")
    table.columns[0].ratio, table.expand = (1, True) if width < WIDE else (None, False)
    table.columns[0].overflow = "ellipsis"
    table.columns[-1].justify = "left"
    table.add_row("all", *(f"{n:,}" for n in (s.tiles, *(s.splits[name] for name in columns[1:]))), "")
    for label in few:
        most = max((row.total for row in label.classes), default=1)
        table.add_section()
        for row in sorted(label.classes, key=lambda row: -row.total):
            counts = (row.total, *(row.tiles.get(name, 0) for name in columns[1:]))
            table.add_row(_class_name(row), *(f"{n:,}" for n in counts), _bar(row, most, 8 if width < WIDE else BAR))
        if label.unlabelled:
            table.add_row("not labelled", f"{label.unlabelled:,}", *[""] * len(columns))
    many = [_many_classes(label) for label in s.labels if label not in few]
    return Group(table, *many) if many else table


def _class_name(row: ClassCount) -> Text:
    return Text.assemble((f"{SWATCH} ", row.colour or "dim"), row.name)


def _bar(row: ClassCount, most: int, length: int) -> Text:
    return Text("\N{FULL BLOCK}" * max(1, round(length * row.total / most)), style=row.colour or "dim")


def _many_classes(label: LabelSummary) -> Text:
    ranked = sorted(label.classes, key=lambda row: -row.total)
    first = ", ".join(f"{row.name} ({row.total:,})" for row in ranked[:3])
    unlabelled = f"; {label.unlabelled:,} tiles not labelled" if label.unlabelled else ""
    text = f"{label.name}: {len(ranked):,} of {label.known:,} classes, most of all {first}{unlabelled}"
    return Text(text)


# ---------------------------------------------------------------- statistics and licences


def _statistics(s: Summary, width: int) -> Iterable[tuple[str, Table]]:
    """One table with a row per band, and per product level if the statistics depend on it."""
    units = {m.name: dict(zip(m.bands, m.band_units, strict=True)) for m in s.modalities}
    keys = ["mean", "std", "min", "p2", "p50", "p98", "max"] if width >= WIDE else ["mean", "std", "min", "p50", "max"]
    heads = [{"p50": "median"}.get(key, key) for key in keys]
    table = _table("band", "unit", *(["count"] if width >= WIDE else []), *heads, left=2)
    for name, levels in s.statistics.items():
        for level, bands in levels.items():
            if not any(band["count"] for band in bands.values()):
                continue
            table.add_section()
            table.add_row(Text(name if level == "-" else f"{name} {level}", style="bold"))
            for band, values in bands.items():
                if values["count"]:
                    count = [f"{values['count']:,}"] if width >= WIDE else []
                    unit = units.get(name, {}).get(band, "1")
                    table.add_row(f"  {band}", unit, *count, *(format_figure(values[key]) for key in keys))
    yield f"{'train split' if s.statistics_of == 'train' else 'all splits'}, stored units", table


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
    table = Table.grid(padding=(0, 2, 1, 0))
    table.add_column(style="dim", ratio=3)
    table.add_column(ratio=5)
    for (licence, attribution), names in lines.items():
        table.add_row(", ".join(names), Text.assemble((licence, "bold"), "\n", attribution))
    if not s.synthetic:
        return table
    return Group(Text("Synthetic pixels need none; measured ones would require these:", style="dim"), table)


def format_bytes(count: int) -> str:
    """Format bytes in binary multiples, with three digits.

    Examples
    --------
    >>> format_bytes(512), format_bytes(1486017)
    ('512 B', '1.42 MiB')
    """
    if count < 1024:
        return f"{count:.0f} B"
    exponent = min(4, int(math.log2(count) // 10))
    if count / 1024**exponent >= 1000 and exponent < 4:  # three digits, so that 1000 KiB are 0.977 MiB
        exponent += 1
    return f"{count / 1024**exponent:.3g} {('KiB', 'MiB', 'GiB', 'TiB')[exponent - 1]}"


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
