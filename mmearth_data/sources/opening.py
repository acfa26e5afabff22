"""Open the source that a recipe names. Each source needs its own libraries, so it is imported only on demand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmearth_data.catalog.entries import load_catalog
from mmearth_data.sampling import SamplingOptions
from mmearth_data.sources.base import SourceOverNetwork
from mmearth_data.sources.dated import NearDates
from mmearth_data.sources.draws import check_years
from mmearth_data.sources.labelled import LabelledSource
from mmearth_data.sources.period import Period
from mmearth_data.sources.wanted import adjusted_catalog, wanted_modalities

if TYPE_CHECKING:
    from pathlib import Path

    from geopandas import GeoDataFrame

    from mmearth_data.catalog.entries import Catalog
    from mmearth_data.recipes import BuildRecipe
    from mmearth_data.sources.base import Source
    from mmearth_data.sources.chips import ChipSource


def make_source(recipe: BuildRecipe, catalog: Catalog, ecoregions: GeoDataFrame | None) -> Source:
    """Open the source of a recipe; InputError for fields that the source does not use, or years without scenes."""
    if recipe.source_file is not None and recipe.source_name == "chips":
        return _chips(recipe, recipe.source_file, catalog)
    if recipe.source_file is not None:
        from mmearth_data.sources.rasters import RasterSource

        recipe.refuse_unused(RasterSource.recipe_fields)
        return RasterSource(
            recipe.source_file, level=recipe.level, catalog=catalog, ecoregions=ecoregions, near=_near_dates(recipe)
        )
    period = _period(recipe)
    if period is not None:
        check_years(period.years, recipe.levels, recipe.source, "date_range (--date-range)")
    elif recipe.date_column is None:  # dates outside the archive are refused row by row
        check_years(recipe.years, recipe.levels, recipe.source)
    return _synthetic(recipe) if recipe.source == "synthetic" else _earth_engine(recipe, catalog)


def _chips(recipe: BuildRecipe, path: Path, catalog: Catalog) -> ChipSource:
    from mmearth_data.sources.chips import ChipSource

    recipe.refuse_unused(ChipSource.recipe_fields)
    return ChipSource(path, catalog=catalog, seed=recipe.seed)


def with_size(recipe: BuildRecipe, catalog: Catalog | None) -> BuildRecipe:
    """Return the recipe with the tile size of its images, if it has a source of chips and no size.

    Raises
    ------
    InputError
        If the chips file cannot be used.
    """
    if recipe.source_name != "chips" or recipe.source_file is None or "tile_size" in recipe.model_fields_set:
        return recipe
    source = _chips(recipe, recipe.source_file, adjusted_catalog(catalog or load_catalog(), recipe))
    return recipe.model_copy(update={"tile_size": source.size_px})


def _period(recipe: BuildRecipe) -> Period | None:
    """Period of the scenes of a cover; None if scenes are chosen at random from years."""
    if not recipe.cover or recipe.date_range is None:
        return None
    first, last = recipe.date_range
    return Period(first=first, last=last)


def _near_dates(recipe: BuildRecipe) -> NearDates | None:
    """Choice of scenes by the dates of locations; None if they have no dates."""
    return None if recipe.date_column is None else NearDates(days=recipe.days)


def _synthetic(recipe: BuildRecipe) -> Source:
    from mmearth_data.sources.synthetic import SyntheticSource

    recipe.refuse_unused(SyntheticSource.recipe_fields)
    return SyntheticSource(
        recipe.seed,
        years=recipe.years,
        levels=recipe.levels,
        cloud_percent=recipe.cloud_percent,
        period=_period(recipe),
        near=_near_dates(recipe),
    )


def _earth_engine(recipe: BuildRecipe, catalog: Catalog) -> Source:
    from mmearth_data.sources.earthengine.quota import LocalLimiter
    from mmearth_data.sources.earthengine.session import SessionOptions
    from mmearth_data.sources.earthengine.source import EarthEngineSource
    from mmearth_data.sources.earthengine.survey import SceneRules

    recipe.refuse_unused(EarthEngineSource.recipe_fields)
    options = SessionOptions(
        endpoint=recipe.ee_endpoint,
        url=recipe.ee_url,
        project=recipe.ee_project,
        service_account=recipe.service_account,
        connections=recipe.in_flight,
        timeout_s=recipe.request_timeout_s,
    )
    rules = SceneRules(
        seed=recipe.seed,
        years=recipe.years,
        levels=recipe.levels,
        cloud_percent=recipe.cloud_percent,
        period=_period(recipe),
        near=_near_dates(recipe),
        grids=recipe.polygons is not None,
    )
    limiter = LocalLimiter(recipe.in_flight, recipe.per_second, recipe.restricted_in_flight)
    return EarthEngineSource(catalog, wanted_modalities(catalog, recipe), rules, options, limiter)


def over_network(source: Source) -> SourceOverNetwork | None:
    """Return the source if it requests its pixels from a service."""
    inner = source.inner if isinstance(source, LabelledSource) else source
    return inner if isinstance(inner, SourceOverNetwork) else None


def given_ecoregions(recipe: BuildRecipe) -> GeoDataFrame | None:
    """Ecoregions of the recipe's file; None if it names none."""
    if recipe.ecoregions is None:
        return None
    from mmearth_data.geography.ecoregions import read_ecoregions

    return read_ecoregions(recipe.ecoregions)


def sample_ecoregions(recipe: BuildRecipe) -> GeoDataFrame:
    """Ecoregions to sample in: those of the recipe's file, or of its source."""
    ecoregions = given_ecoregions(recipe)
    if ecoregions is not None:
        return ecoregions
    return make_source(recipe, adjusted_catalog(load_catalog(), recipe), None).ecoregions()


def options_of(recipe: BuildRecipe) -> SamplingOptions:
    """Options of the sampler of a recipe."""
    return SamplingOptions(
        tiles=recipe.tiles,
        size_px=recipe.tile_size,
        seed=recipe.seed,
        balance=recipe.balance,
        oversample=recipe.oversample,
        split=recipe.split or "block",
        split_shares=recipe.split_shares,
        split_guard_m=recipe.split_guard_m,
        min_distance_m=recipe.min_distance_m,
        threads=recipe.threads,
    )
