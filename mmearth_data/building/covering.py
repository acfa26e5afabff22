"""Plan a cover: the cells of a region, or of the files of a source."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import shapely

from mmearth_data.catalog.modality import Kind
from mmearth_data.errors import InputError
from mmearth_data.geography.regions import frame_region, resolve_region
from mmearth_data.geography.zones import zone_parts
from mmearth_data.sampling.covering import Cover, cover

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from geopandas import GeoDataFrame
    from shapely.geometry.base import BaseGeometry

    from mmearth_data.catalog.modality import Modality
    from mmearth_data.geography.zones import ZonePart
    from mmearth_data.recipes import BuildRecipe
    from mmearth_data.sampling.covering import Labels
    from mmearth_data.sources.base import Source


def cells_of(recipe: BuildRecipe, source: Source) -> Cover:
    """Cells that cover the region of a recipe, or else the files of its source.

    Raises
    ------
    InputError
        If no region is given, it extends beyond the UTM zones, or it needs too many cells.
    """
    found = cover(_parts(recipe, source), recipe.tile_size, recipe.overlap_px)
    if not len(found):
        raise InputError(
            f"region (--region): expected a region with an area, got {recipe.region}, which has none; choose a larger "
            "region."
        )
    return found


def _parts(recipe: BuildRecipe, source: Source) -> Sequence[ZonePart]:
    if not recipe.covers_region:
        return source.area()
    region = resolve_region(recipe.region, mainland=recipe.mainland)
    if region.geometry is None:
        raise InputError(
            "region (--region): expected a region to cover, got the whole Earth; give a country, bbox:W,S,E,N or a "
            "file."
        )
    if recipe.source_file is not None:
        _check_meeting(recipe, region.geometry, source.area())
    return zone_parts(region.geometry)


def _check_meeting(recipe: BuildRecipe, region: BaseGeometry, files: Sequence[ZonePart]) -> None:
    """Refuse a region that no file overlaps: each of its cells would be rejected on its own."""
    import geopandas as gpd

    shapes = [frame_region(gpd.GeoSeries([part.geometry], crs=part.epsg)) for part in files]
    areas = [shape.geometry for shape in shapes if shape is not None and shape.geometry is not None]
    if not any(region.intersects(area) for area in areas):
        found, wanted = (_bounds(shapes) for shapes in (areas, [region]))
        raise InputError(
            f"region (--region): expected a region that overlaps the files ({found}), got {recipe.region} ({wanted}); "
            "correct it, or leave it out to cover the files."
        )


def _bounds(shapes: Sequence[BaseGeometry]) -> str:
    return "W {:.2f}, S {:.2f}, E {:.2f}, N {:.2f}".format(*shapely.total_bounds(shapes).tolist())


def labels_of(
    recipe: BuildRecipe, modalities: Sequence[Modality], ecoregions: Callable[[], GeoDataFrame]
) -> Labels | None:
    """Labels of the tiles; None without such modalities. Ecoregions are read when the first tiles are planned.

    Raises
    ------
    InputError
        If the recipe has a file of ecoregions that no modality needs.
    """
    if not any(m.stored and m.kind is Kind.TILE_CATEGORICAL for m in modalities):
        if recipe.ecoregions is not None:
            raise InputError(
                f"ecoregions (--ecoregions): expected none with {'--cover' if recipe.cover else '--polygons'} and these "
                "--modalities, which include no ecoregion labels; leave it out, or add biome or eco_region to --modalities."
            )
        return None

    @cache
    def labels() -> Labels:
        from mmearth_data.geography.ecoregions import PointLabels

        return PointLabels(ecoregions())

    return lambda lon, lat: labels()(lon, lat)


def describe_cover(recipe: BuildRecipe, cells: Cover) -> dict[str, Any]:
    """Describe the cells of a cover; JSON-ready."""
    found: dict[str, Any] = {
        "overlap_px": cells.overlap_px,
        "cells": {f"EPSG:{epsg}": count for epsg, count in cells.zones.items()},
    }
    if recipe.covers_region:
        found["region"] = recipe.region
    if recipe.source_file is None and recipe.date_range is not None:
        found |= {"level": recipe.levels[0], "date_range": [day.isoformat() for day in recipe.date_range]}
    return found
