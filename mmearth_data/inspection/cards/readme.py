"""Dataset card: a README in Markdown with the YAML header that the Hugging Face Hub reads.

https://huggingface.co/docs/hub/datasets-cards lists the fields of the header.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from mmearth_data.catalog.tile import PIXEL_M
from mmearth_data.inspection.cards import wording
from mmearth_data.inspection.cards.wording import join, percent
from mmearth_data.inspection.facts import format_extent
from mmearth_data.pages.markdown import CITATION, markdown_code, markdown_list, markdown_table, markdown_text
from mmearth_data.store.schema import REJECTED_KEY, SPATIAL_KEY, TILES_KEY, stored_units
from mmearth_data.words import format_bytes, python_literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mmearth_data.catalog.modality import Modality
    from mmearth_data.inspection.cards.facts import CardFacts, Share
    from mmearth_data.inspection.summary import LabelSummary

NAME = "README.md"
SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
LARGER = "10M<n<100M"
HUB_LICENCES = frozenset({"CC-BY-4.0", "CC-BY-SA-4.0", "CC0-1.0", "MIT", "Apache-2.0"})
"""SPDX identifiers that the Hub knows (in lower case); other licences, and several together, are ``other``."""
TAGS = (
    "earth-observation",
    "remote-sensing",
    "geospatial",
    "multimodal",
    "zarr",
    "geoparquet",
    "stac",
    "croissant",
    "mmearth",
)
FEW_CLASSES = 20
"""For labels with more classes, only the most frequent ones are listed."""


def dataset_card(facts: CardFacts) -> str:
    """Dataset card of a store."""
    sections = [
        ("Contents", _contents(facts)),
        ("Open the data set", _opening(facts)),
        ("Spatial and temporal distribution", _places(facts)),
        ("Sampling", [markdown_list(wording.sampling(facts))]),
        ("Splits", _splits(facts)),
        ("Missing values", _missing(facts)),
        ("Limits", [markdown_list(wording.limits(facts))]),
        ("How it was built", [markdown_table(("", ""), wording.provenance(facts))]),
        ("Licences", _licences(facts)),
        ("Citation", _citation(facts)),
        ("Files", _files(facts)),
    ]
    filled = [(title, "\n\n".join(filter(None, parts))) for title, parts in sections]
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in filled if text)
    header = yaml.safe_dump(header_fields(facts), sort_keys=False, allow_unicode=True)
    return f"---\n{header}---\n\n{_head(facts)}\n\n{body}\n"


# ---------------------------------------------------------------- header


def header_fields(facts: CardFacts) -> dict[str, Any]:
    """Fields of the header."""
    fields: dict[str, Any] = {
        "pretty_name": f"{facts.name} (synthetic)" if facts.summary.synthetic else facts.name,
        **_hub_licence(facts),
        "task_categories": list(_tasks(facts.stored)),
        "size_categories": [next((name for limit, name in SIZES if facts.summary.tiles < limit), LARGER)],
        "tags": [*TAGS, *["synthetic"] * facts.summary.synthetic, *(m.name.replace("_", "-") for m in facts.stored)],
    }
    table_path = facts.links.plain(TILES_KEY)
    if not table_path.startswith("..") and "://" not in table_path:
        files = [{"split": "tiles", "path": table_path}]
        fields["configs"] = [{"config_name": "tiles", "data_files": files, "default": True}]
    return fields


def _hub_licence(facts: CardFacts) -> dict[str, str]:
    names = {use.spdx for use in facts.licences}
    if len(names) == 1 and names <= HUB_LICENCES:
        return {"license": next(iter(names)).lower()}
    return {"license": "other", "license_name": "by-modality"}


def _tasks(modalities: Sequence[Modality]) -> Iterator[str]:
    """Tasks for which the modalities have labels or targets, by the names of the Hub."""
    if any(m.pretext for m in modalities):
        yield "image-feature-extraction"
    if any(m.kind.is_raster and m.kind.is_categorical for m in modalities):
        yield "image-segmentation"
    if any(m.kind.is_multi_label or (m.kind.is_categorical and not m.kind.is_raster) for m in modalities):
        yield "image-classification"


# ---------------------------------------------------------------- Markdown


# ---------------------------------------------------------------- what it is


def _head(facts: CardFacts) -> str:
    parts = [f"# {markdown_text(facts.name)}"]
    if facts.summary.synthetic:
        parts.append(f"> **Synthetic data.** {wording.SYNTHETIC}")
    parts += [wording.lead(facts), markdown_table(("", ""), _at_a_glance(facts))]
    return "\n\n".join(parts)


def _at_a_glance(facts: CardFacts) -> Iterator[tuple[str, str]]:
    s = facts.summary
    yield "Tiles", f"{s.tiles:,}, {facts.side_m:,} m per side"
    splits = [f"{count:,} {name}" for name, count in s.splits.items() if count]
    yield "Splits", ", ".join(splits)
    if facts.extents is not None:
        yield "Extent", format_extent(facts.extents.bbox)
    if facts.codes:
        yield "Coordinate reference systems", _systems(facts.codes)
    yield "Size", f"{format_bytes(s.stored_bytes)}, Zarr version 3"
    yield "Source", f"{s.source.get('name', 'unknown')} ({'computed, not measured' if s.synthetic else 'measured'})"


def _systems(codes: Sequence[int]) -> str:
    if len(codes) == 1:
        return f"EPSG:{codes[0]}"
    return (
        f"{len(codes)}, from EPSG:{codes[0]} to EPSG:{codes[-1]}; column `epsg` of `{TILES_KEY}` has that of each tile"
    )


def _contents(facts: CardFacts) -> list[str]:
    shares = {m.name: m.valid_share for m in facts.summary.modalities}
    rows = [_modality_row(m, shares[m.name]) for m in facts.stored]
    heads = (
        "Modality",
        "Content",
        "Bands",
        "Unit",
        "Native resolution",
        "Data type",
        "No-data value",
        "Tiles with values",
        "Source",
    )
    derived = facts.store.layout.derived
    computed = (
        f"Not stored, but computed from the coordinates on access: {join([f'`{m.name}`' for m in derived])}."
        if derived
        else ""
    )
    return [markdown_table(heads, rows, right=(7,)), computed, *_spectrum(facts)]


def _modality_row(m: Modality, share: float | None) -> tuple[str, ...]:
    bands = f"{len(m.classes)} classes"
    if m.kind.is_multi_label:
        bands += ", any number per tile"
    elif m.bands:
        bands = ", ".join(m.bands) + (f": {bands}" if m.classes else "")
    stored = f"{m.dtype.name}" + ("" if m.kind.is_raster else ", one per tile")
    source = f"[DOI](https://doi.org/{m.doi})" if m.doi else f"[page]({m.source})" if m.source else ""
    return (
        f"`{m.name}`",
        m.long_name,
        bands,
        _unit(m),
        ", ".join(f"{size:g} m" for size in sorted(set(m.native_m.values()))),
        stored,
        "NaN" if m.dtype.kind == "f" else f"{m.nodata:g}",
        "" if share is None else percent(share),
        source,
    )


def _unit(m: Modality) -> str:
    units = list(dict.fromkeys(m.units_of(band) for band in m.bands))
    if m.classes or (units == ["1"] and m.scale == 1):
        return ""
    return stored_units(m) if len(units) == 1 else ", ".join(units)


def _spectrum(facts: CardFacts) -> Iterator[str]:
    for m in facts.rasters:
        rows = [
            (
                band,
                f"{1000 * seen.centre_um:.1f}",
                f"{1000 * seen.width_um:.1f}",
                f"{m.native_m[band]:g} m" if band in m.native_m else "",
            )
            for band, seen in m.wavelengths.items()
        ]
        if rows:
            heads = ("Band", "Centre (nm)", "FWHM (nm)", "Native resolution")
            yield f"Central wavelength and full width at half maximum (FWHM) of the bands of `{m.name}`:"
            yield markdown_table(heads, rows, right=(1, 2, 3))
        if m.frequency_ghz is not None:
            yield f"The radar of `{m.name}` has a centre frequency of {m.frequency_ghz:g} GHz."


def _opening(facts: CardFacts) -> list[str]:
    first = facts.stored[0].name
    folder, tiles = python_literal(facts.folder), python_literal(f"{facts.folder}/{TILES_KEY}")
    ours = (
        "from mmearth_data import open_store  # pip install mmearth\n\n"
        f"store = open_store({folder})\n"
        f'tile = store[0]  # tile["{first}"] is an array as stored, tile["tile"] has the coordinates\n'
        'train = store.select(split="train")'
    )
    others = (
        "import geopandas as gpd\nimport xarray as xr\n\n"
        f"data = xr.open_zarr({folder})  # or any other Zarr library\n"
        f"tiles = gpd.read_parquet({tiles})  # one row per tile"
    )
    return [markdown_code("python", ours), "Without the MMEarth toolkit:", markdown_code("python", others)]


# ---------------------------------------------------------------- where, when, how


def _places(facts: CardFacts) -> list[str]:
    counted = [(str(year), f"{count:,}", percent(count / facts.summary.tiles)) for year, count in facts.years.items()]
    levels = [
        (name, f"{count:,}", percent(count / facts.summary.tiles))
        for name, count in facts.summary.levels.items()
        if count
    ]
    return [
        _share_table("Continent", facts.continents),
        _share_table("Biome", facts.biomes),
        *(_label_text(label, facts) for label in facts.labels),
        markdown_table(("Modality", "Most frequent classes, as shares of the observed pixels"), _pixel_classes(facts)),
        markdown_table(("Year of the scene", "Tiles", "Share"), counted, right=(1, 2)),
        markdown_table(("Product level", "Tiles", "Share"), levels, right=(1, 2)) if len(levels) > 1 else "",
    ]


def _share_table(title: str, rows: Sequence[Share]) -> str:
    compared = any(row.of_land is not None for row in rows)
    heads = (title, "Tiles", "Share of tiles", *["Share of all land"] * compared)
    lines = [
        (
            row.name,
            f"{row.tiles:,}",
            percent(row.of_tiles),
            *["" if row.of_land is None else percent(row.of_land)] * compared,
        )
        for row in rows
    ]
    return markdown_table(heads, lines, right=(1, 2, 3))


def _label_text(label: LabelSummary, facts: CardFacts) -> str:
    ranked = sorted(label.classes, key=lambda entry: -entry.total)
    if not ranked:
        return ""
    if label.known <= FEW_CLASSES:
        rows = [(entry.name, f"{entry.total:,}", percent(entry.total / facts.summary.tiles)) for entry in ranked]
        return markdown_table((label.long_name, "Tiles", "Share of tiles"), rows, right=(1, 2))
    first = join([f"{entry.name} ({entry.total:,})" for entry in ranked[: wording.LISTED]])
    return f"{label.long_name}: {len(ranked):,} of {label.known:,} classes; most frequent: {first}."


def _pixel_classes(facts: CardFacts) -> Iterator[tuple[str, str]]:
    for m in facts.rasters:
        pixels = {code: entry["pixels"] for code, entry in facts.store.class_histograms["all"].get(m.name, {}).items()}
        total = sum(pixels.values())
        if total and m.kind.is_categorical:
            ranked = sorted(m.classes, key=lambda label: -pixels.get(str(label.code), 0))[: wording.LISTED_CLASSES]
            shares = [(label.name, pixels.get(str(label.code), 0) / total) for label in ranked]
            yield f"`{m.name}`", ", ".join(f"{name} {percent(share)}" for name, share in shares if share)


def _splits(facts: CardFacts) -> list[str]:
    tiles = facts.summary.tiles
    rows = [(name, f"{count:,}", percent(count / tiles)) for name, count in facts.summary.splits.items() if count]
    return [markdown_table(("Split", "Tiles", "Share"), rows, right=(1, 2)), markdown_list(wording.splitting(facts))]


def _missing(facts: CardFacts) -> list[str]:
    rows = [(f"`{name}`", text) for name, text in wording.gaps_by_modality(facts.gaps).items()]
    rule = (
        "Missing values are stored as the no-data value of their modality (see above) and never filled with estimates."
    )
    if not rows:
        return [f"{rule} No values are missing."]
    return [rule, markdown_table(("Modality", "Share of observed values by band"), rows)]


# ---------------------------------------------------------------- licences, citation, files


def _licences(facts: CardFacts) -> list[str]:
    rows = [
        (
            ", ".join(f"`{name}`" for name in use.modalities),
            f"[{use.name}]({use.url})" if use.url else use.name,
            "; ".join(use.attributions),
        )
        for use in facts.licences
    ]
    needed = (
        "The pixels are synthetic and need no licence. These are the licences of the data that they imitate."
        if facts.summary.synthetic
        else "The licence of each modality applies, and its attribution line is required."
    )
    return [needed, markdown_table(("Modalities", "Licence", "Attribution"), rows)]


def _citation(facts: CardFacts) -> list[str]:
    dois: dict[str, list[str]] = {}
    for m in facts.stored:
        if m.doi:
            dois.setdefault(m.doi, []).append(m.long_name)
    cited = [f"{', '.join(names)}: https://doi.org/{doi}" for doi, names in dois.items()]
    software = f"MMEarth toolkit, version {facts.summary.code_version}, with which this store was built"
    return [
        "Please cite the paper, the toolkit and the data sets that you use:",
        markdown_code("bibtex", CITATION),
        markdown_list([software, *cited]),
    ]


def _files(facts: CardFacts) -> list[str]:
    rows = [
        (f"`{TILES_KEY}`", "GeoParquet with one row per tile: location, time, split, labels and outline"),
        *[(f"`{SPATIAL_KEY}`", "GeoParquet with the outlines in spatial order, for queries by region")]
        * facts.tiles.spatial,
        (f"`{REJECTED_KEY}`", "rejected candidate locations, with the reasons"),
        (
            "`zarr.json` and folders",
            "Zarr version 3 group with one sharded array per modality and one array per coordinate",
        ),
        ("`_manifest.json`, `_commits`", "digests of all files, with which `mmearth-data verify` checks every byte"),
    ]
    if not facts.links.base:
        rows += [
            ("`collection.json`", "STAC collection"),
            ("`croissant.json`", "Croissant metadata with the fields of GeoCroissant"),
        ]
    grid = "Row 0 of a raster is at the northern edge and column 0 at the western edge of the tile; "
    grid += f"a pixel is {PIXEL_M} m wide."
    grid = "" if facts.summary.pixel_m is None else grid
    where = f"This card describes the folder `{facts.folder}`, which contains these files:" if facts.links.base else ""
    return [where, markdown_table(("File", "Content"), rows), grid]
