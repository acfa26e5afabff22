"""Compose the report of a store."""

from __future__ import annotations

import datetime as dt
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from mmearth_data.errors import StoreDamaged
from mmearth_data.inspection.report import facts
from mmearth_data.inspection.report.explore import explore, values_of
from mmearth_data.inspection.report.fields import fields_of
from mmearth_data.inspection.report.mosaic import mosaic
from mmearth_data.inspection.report.places import map_rows
from mmearth_data.inspection.report.sample import MOST_TILES, read_sample
from mmearth_data.inspection.summary import summarise
from mmearth_data.pages.parts import Notice, Page, Paragraph, Section, Slot, Status, Tone
from mmearth_data.pages.style import require_bokeh
from mmearth_data.pages.writing import write_page

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mmearth_data.inspection.report.sample import Sample
    from mmearth_data.inspection.summary import Summary
    from mmearth_data.pages.parts import Part
    from mmearth_data.store import Store

SCRIPT = Path(__file__).with_name("report.js")


def store_report(store: Store, path: str | Path) -> int:
    """Write the report of a store, or of a selection of one, as one HTML page; returns its size in bytes.

    The page needs no network. Its size depends little on that of the store: pixels come from a few hundred tiles,
    and the locations of many tiles are aggregated in cells. Damaged parts are omitted and reported.

    Parameters
    ----------
    store
        An open store; it may be unfinished.
    path
        HTML file to write.

    Raises
    ------
    InputError
        If Bokeh is not installed, or the path names a folder.
    StoreDamaged
        If the store's own tables cannot be read.
    WriteFailed
        If the file cannot be written.
    """
    require_bokeh()
    return write_page(compose_report(store), path)


def compose_report(store: Store) -> Page:
    """Sections of a store's report, see `store_report`."""
    s = summarise(store)
    fields = fields_of(store)
    rows = map_rows(store, fields)
    sample = read_sample(store)
    sections = [
        _section("what", "Overview", lambda: facts.what_it_is(store, s)),
        _section("map", "Map", lambda: explore(store, fields, rows)),
        _section("tiles", "Example tiles", lambda: _mosaic(store, sample)),
        _section("modalities", "Modalities", lambda: _modalities(store, s, sample)),
        _section("missing", "Missing data", lambda: facts.what_is_missing(store, fields)),
        _section("splits", "Splits", lambda: facts.splits(store, s)),
        _section("built", "Provenance", lambda: facts.how_built(store, s)),
        _section("licences", "Licences and citation", lambda: facts.licences(store, s)),
    ]
    data = values_of(store, fields, rows, sample)
    last = sections[-1]
    sections[-1] = Section(last.id, last.title, [*last.parts, data])
    today = dt.datetime.now(dt.UTC).date()
    return Page(
        title=Path(str(store.path)).name,
        sections=sections,
        lead=_lead(s),
        badges=facts.badges(s),
        footer=f"Made by mmearth {version('mmearth')} on {today}. This page needs no network.",
        scripts=[SCRIPT.read_text(encoding="utf-8")],
    )


def _lead(s: Summary) -> str:
    stored = sum(m.stored for m in s.modalities)
    when = f", scenes from {s.first_scene} to {s.last_scene}" if s.first_scene else ""
    return f"{s.tiles:,} tiles of {s.size_px} by {s.size_px} pixels with {stored} modalities{when}."


def _section(name: str, title: str, build: Callable[[], Sequence[Part]]) -> Section:
    """Section with the parts of ``build``, or what is damaged."""
    try:
        return Section(name, title, build())
    except StoreDamaged as error:
        return Section(name, title, [facts.damaged(error)])


def _mosaic(store: Store, sample: Sample) -> list[Part]:
    """Gallery of tiles, after notices about tiles that could not be read."""
    damage = [Notice(message, Tone.BAD) for message in sample.damage[:3]]
    how = "Open a tile to see all its modalities. Suspicious tiles have many missing pixels or an unusual band mean."
    return [*damage, Paragraph(f"Selected from {_of(store, sample)}. {how}"), *mosaic(store, sample)]


def _of(store: Store, sample: Sample) -> str:
    """Describe which tiles were read."""
    read = len(sample.positions)
    if read == len(store):
        return f"{read:,} tiles"
    how = "sampled at random" if len(store) > MOST_TILES else "the others cannot be read"
    return f"{read:,} of {len(store):,} tiles, {how}"


def _modalities(store: Store, s: Summary, sample: Sample) -> list[Part]:
    read = len(sample.positions)
    if not sample.panels:
        return [facts.modality_table(s), Notice("None of the sampled tiles has values to show.")]
    text = f"Distributions of the values in {_of(store, sample)}; the filled part shows tiles that pass the filters of the map."
    return [
        facts.modality_table(s),
        Paragraph(text),
        Status("sampled", f"{read:,} of {read:,} sampled tiles"),
        Slot("panels"),
    ]
