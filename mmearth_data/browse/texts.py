"""Texts and fragments of HTML for the page; the templates escape every name."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from mmearth_data.browse.commands import subset_command
from mmearth_data.browse.facets import modality_counts
from mmearth_data.browse.filters import LEVELS, SPLITS, label_names
from mmearth_data.browse.pictures import data_uri
from mmearth_data.inspection.facts import format_lonlat, format_time
from mmearth_data.pages.writing import TEMPLATES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jinja2 import Template

    from mmearth_data.browse.filters import Selection
    from mmearth_data.browse.world import World

FOLDER = Path(__file__).parent / "templates"
STYLES = ((TEMPLATES, "page.css"), (FOLDER, "browse.css"))


@cache
def template(name: str) -> Template:
    """Template of the page, or of a part of it."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


@cache
def style_sheet() -> str:
    """Style of all pages, and of this one."""
    return "".join((folder / name).read_text(encoding="utf-8") for folder, name in STYLES)


@cache
def script() -> str:
    """Script of the page."""
    return (FOLDER / "browse.js").read_text(encoding="utf-8")


def selection_state(world: World, selection: Selection) -> dict[str, Any]:
    """Describe a selection, JSON-ready, for the script of the page."""
    query = selection.filter.query(world.index)
    return {
        "query": query,
        "count": selection.count,
        "total": len(world.index),
        "facets": {facet.key: facet.counts(selection) for facet in world.facets},
        "has": modality_counts(selection),
        "command": subset_command(world.name, selection.filter) if world.store.finished else "",
    }


def tile_facts(world: World, position: int) -> list[tuple[str, str]]:
    """Names and values of a tile."""
    index = world.index
    observed = [name for bit, name in enumerate(index.stored) if index.valid[position] >> bit & 1]
    missing = [name for name in index.stored if name not in observed]
    facts = [
        ("Centre", format_lonlat(float(index.lon[position]), float(index.lat[position]))),
        ("Scene", format_time(index.time_ms[position : position + 1].view("datetime64[ms]")[0])),
        ("Split", SPLITS.get(int(index.split[position]), "none")),
        ("Level", LEVELS.get(int(index.level[position]), "none")),
    ]
    if index.label_of is not None:
        code = int(index.label[position])
        facts.append((index.label_of.long_name, label_names(index).get(code, f"unknown code {code}")))
    facts.append(("Observed", f"{len(observed)} of {len(index.stored)} modalities"))
    if missing:
        facts.append(("Missing", ", ".join(missing)))
    return facts


def tile_html(world: World, position: int, thumbnail: bytes | None, problem: str) -> str:
    """Head, small picture and facts of a tile."""
    return template("tile.html").render(
        id=world.index.name(position),
        picture=None if thumbnail is None else data_uri(thumbnail),
        problem=problem,
        facts=tile_facts(world, position),
    )


def figure_html(world: World, position: int, prefix: str) -> str:
    """Figure of all modalities of a tile, which links to itself in full size."""
    identity = world.index.name(position)
    return template("figure.html").render(id=identity, address=f"{prefix}/tile/{identity}.png")


def neighbours_html(world: World, found: Sequence[tuple[int, float, bytes | None]]) -> str:
    """Tiles similar to another one: position, similarity and small picture of each."""
    index, names = world.index, label_names(world.index)
    tiles = [
        {
            "id": index.name(position),
            "similarity": f"{similarity:.3f}",
            "label": names.get(int(index.label[position]), "") if index.label_of is not None else "",
            "picture": None if png is None else data_uri(png),
        }
        for position, similarity, png in found
    ]
    return template("neighbours.html").render(tiles=tiles)
