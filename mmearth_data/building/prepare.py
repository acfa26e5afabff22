"""Resolve a recipe into values: source, locations, splits and shards. Nothing is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmearth_data.building.covering import cells_of, describe_cover, labels_of
from mmearth_data.building.given import given_tiles, refuse_overlaps
from mmearth_data.building.labels import has_rows, with_labels
from mmearth_data.building.plan import plan_cover, plan_given, plan_sampled
from mmearth_data.building.price import describe_needs
from mmearth_data.catalog.entries import load_catalog
from mmearth_data.catalog.tile import format_tile_ids
from mmearth_data.errors import InputError
from mmearth_data.geography.regions import resolve_region
from mmearth_data.sampling import PlaceColumns, read_sample, sample
from mmearth_data.sampling.polygon_tiles import sample_of_polygons
from mmearth_data.sources.opening import (
    given_ecoregions,
    make_source,
    options_of,
    over_network,
    sample_ecoregions,
    with_size,
)
from mmearth_data.sources.wanted import adjusted_catalog, deliverable, wanted_modalities
from mmearth_data.store.schema import (
    TAKEN_NAMES,
    StoreLayout,
    default_tiles_per_shard,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from geopandas import GeoDataFrame

    from mmearth_data.building.plan import BuildPlan
    from mmearth_data.catalog.entries import Catalog
    from mmearth_data.catalog.modality import Modality
    from mmearth_data.recipes import BuildRecipe
    from mmearth_data.sampling import Sample
    from mmearth_data.sampling.polygon_tiles import PolygonTiles
    from mmearth_data.sources.base import Source


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedBuild:
    """A build before it runs.

    Attributes
    ----------
    recipe
        The options.
    source
        Delivers the pixels.
    plan
        Shards, slots and reserves.
    sample
        How the locations were sampled; None if the source determines them, or a region is covered.
    notes
        Messages for the user.
    cover
        Description of the cells of a cover, JSON-ready; None if there is none.
    """

    recipe: BuildRecipe
    source: Source
    plan: BuildPlan
    sample: Sample | None
    notes: tuple[str, ...] = ()
    cover: dict[str, Any] | None = None

    def describe(self) -> dict[str, Any]:
        """Describe what the build would do: tiles, shards, requests, bytes before compression; JSON-ready."""
        tiles = self.plan.layout.tiles - self.plan.first_row
        account = describe_needs(self.recipe, self.source, self.plan.layout, tiles)
        notes = {"notes": list(self.notes)} if self.notes else {}
        cover = {"cover": self.cover} if self.cover else {}
        return account | notes | cover | {"sample": None if self.sample is None else self.sample.report.to_dict()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """Source, ecoregions and modalities of a recipe, before any location is chosen.

    Attributes
    ----------
    source
        Delivers the pixels.
    ecoregions
        Those of the recipe's file; None if it has none.
    modalities
        Those of the store.
    notes
        How the labels of the locations were interpreted, for the user.
    tiles
        Tiles over the recipe's polygons; None if it has none.
    """

    source: Source
    ecoregions: GeoDataFrame | None
    modalities: tuple[Modality, ...]
    notes: tuple[str, ...] = ()
    tiles: PolygonTiles | None = None

    def ecoregions_to_sample(self) -> GeoDataFrame:
        """Ecoregions of the recipe's file, or else of the source."""
        return self.source.ecoregions() if self.ecoregions is None else self.ecoregions


def read_inputs(recipe: BuildRecipe, catalog: Catalog | None, *, connect: bool) -> Inputs:
    """Read the files of a recipe and open its source; parameters and errors are those of `prepare`."""
    catalog = adjusted_catalog(catalog or load_catalog(), recipe)
    ecoregions = given_ecoregions(recipe)
    source = make_source(recipe, catalog, ecoregions)
    if connect and (remote := over_network(source)):
        remote.connect()
    wanted = wanted_modalities(catalog.extended(source.own_modalities()), recipe)
    _refuse_names(recipe, (*source.own_modalities(), *wanted))
    labelled = with_labels(recipe, source, catalog)
    wanted = (*wanted, *labelled.modalities)
    modalities = deliverable(labelled.source, wanted, recipe)
    return Inputs(
        source=labelled.source,
        ecoregions=ecoregions,
        modalities=modalities,
        notes=labelled.notes,
        tiles=labelled.tiles,
    )


def _refuse_names(recipe: BuildRecipe, modalities: Iterable[Modality]) -> None:
    """Refuse modalities with the name of an array or a column of a store, or of a condition of `Store.select`."""
    clashes = sorted({m.name for m in modalities if m.stored and m.name in TAKEN_NAMES})
    if clashes:
        raise InputError(
            f"{recipe.source}: expected modalities and labels with other names than the arrays and columns of a store, and "
            f"the conditions of Store.select, got {', '.join(clashes)}; rename them."
        )


def prepare(recipe: BuildRecipe, *, catalog: Catalog | None = None, connect: bool = False) -> PreparedBuild:
    """Resolve a recipe: source, locations, splits, shards. Reads input files, writes nothing.

    Parameters
    ----------
    recipe
        What to build.
    catalog
        Descriptions of the modalities; the shipped ones by default.
    connect
        Sign in first, if the source needs it.

    Raises
    ------
    InputError
        When any input cannot be used.
    """
    recipe = with_size(recipe, catalog)
    return planned(recipe, read_inputs(recipe, catalog, connect=connect))


def planned(recipe: BuildRecipe, inputs: Inputs) -> PreparedBuild:
    """Choose locations (those of the source, of a cover, or sampled ones), and assign them to shards."""
    source = inputs.source
    if recipe.cover:
        return _planned_cover(recipe, inputs)
    if recipe.source_file is not None:
        given = given_tiles(source, recipe)
        layout = layout_of(recipe, inputs.modalities, len(given.places))
        plan = plan_given(given.places, recipe.split_shares, recipe.seed, layout, given.split)
        return PreparedBuild(recipe=recipe, source=source, plan=plan, sample=None, notes=(*given.notes, *inputs.notes))
    if inputs.tiles is not None:
        labels = labels_of(recipe, inputs.modalities, inputs.ecoregions_to_sample)
        chosen = sample_of_polygons(inputs.tiles, options_of(recipe), labels)
    else:
        chosen = draw_sample(recipe, inputs.ecoregions_to_sample())
        _refuse_overlaps(recipe, chosen.frame)
    layout = layout_of(recipe, inputs.modalities, chosen.report.tiles)
    plan = plan_sampled(chosen.frame, layout)
    return PreparedBuild(recipe=recipe, source=source, plan=plan, sample=chosen, notes=inputs.notes)


def _planned_cover(recipe: BuildRecipe, inputs: Inputs) -> PreparedBuild:
    cells = cells_of(recipe, inputs.source)
    layout = layout_of(recipe, inputs.modalities, len(cells))
    labels = labels_of(recipe, inputs.modalities, inputs.ecoregions_to_sample)
    return PreparedBuild(
        recipe=recipe,
        source=inputs.source,
        plan=plan_cover(cells, layout, labels),
        sample=None,
        cover=describe_cover(recipe, cells),
    )


def _refuse_overlaps(recipe: BuildRecipe, frame: GeoDataFrame) -> None:
    """Refuse locations of a file that overlap and are in different splits."""
    if recipe.tiles_file is not None:
        names = format_tile_ids(frame["tile_id"])
        lon, lat, split = (frame[name].to_numpy() for name in ("lon", "lat", "split"))
        refuse_overlaps(recipe.tiles_file, lon, lat, split, recipe.tile_size, lambda at: f"tile {names[at]}")


def layout_of(recipe: BuildRecipe, modalities: tuple[Modality, ...], tiles: int) -> StoreLayout:
    """Arrays of the store of a recipe."""
    return StoreLayout(
        modalities=modalities,
        tiles=tiles,
        size_px=recipe.tile_size,
        tiles_per_shard=recipe.tiles_per_shard or default_tiles_per_shard(tiles),
    )


def draw_sample(
    recipe: BuildRecipe,
    ecoregions: GeoDataFrame | None = None,
    *,
    existing: GeoDataFrame | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Sample:
    """Choose the locations of a build, deterministically from the recipe's seed.

    Parameters
    ----------
    recipe
        Region, number of tiles, balance and splits.
    ecoregions
        Columns eco_region, biome, geometry; None reads ``recipe.ecoregions`` or those of the source.
    existing
        Existing tiles (``lon``, ``lat``, ``split``), whose areas are avoided and whose blocks keep their splits.
    report
        Called with the number of locations found so far and their total, reserves included.
    """
    if recipe.cover:
        raise InputError(
            "cover (--cover): expected a recipe that samples locations, got one with --cover, which needs no sample; "
            "build it "
            "directly."
        )
    if recipe.source_file is not None:
        raise InputError(
            f"source (--source): expected one whose locations are sampled, got {recipe.source}, which has its own; "
            "build it directly, or sample with --source earthengine or synthetic."
        )
    if recipe.polygons is not None:
        raise InputError(
            "polygons (--polygons): expected a recipe that samples locations, got one whose tiles cover polygons; build it "
            "directly."
        )
    if ecoregions is None:
        ecoregions = sample_ecoregions(recipe)
    options = options_of(recipe)
    if recipe.tiles_file is not None:
        names = PlaceColumns(recipe.split_column, recipe.date_column, has_rows(recipe), recipe.asked_splits)
        return read_sample(recipe.tiles_file, ecoregions=ecoregions, options=options, names=names)
    return sample(ecoregions, resolve_region(recipe.region, mainland=recipe.mainland), options, existing, report)
