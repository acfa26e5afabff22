"""Labels cut from a store."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mmearth_data import InputError, Kind, load_catalog
from mmearth_model.tasks import StoreTask, parse_task
from mmearth_model.tasks.labelled import akin

CATALOG = load_catalog().modalities


def of_kind(kind: Kind) -> list[str]:
    return [name for name, modality in CATALOG.items() if modality.kind is kind]


def test_the_main_class_is_the_one_that_covers_most_observed_pixels() -> None:
    modality = CATALOG["esa_worldcover"]
    codes = [label.code for label in modality.classes]
    tiles = np.full((4, 1, 8, 8), modality.nodata, dtype=modality.dtype)
    tiles[0] = codes[3]
    tiles[1, 0, :3] = codes[5]
    tiles[1, 0, 3, :2] = codes[0]  # most of the tile was never observed; that is no class
    tiles[2, 0, :4], tiles[2, 0, 4:] = codes[7], codes[2]  # a tie
    assert StoreTask(modality).labels({modality.name: tiles}).tolist() == [3, 5, 2, -1]


def test_labels_of_whole_tiles_are_positions_among_the_classes() -> None:
    modality = CATALOG["biome"]
    codes = np.array([modality.classes[13].code, modality.nodata, modality.classes[0].code], dtype=modality.dtype)
    assert StoreTask(modality).labels({modality.name: codes}).tolist() == [13, -1, 0]


@pytest.mark.parametrize(("name", "code"), [("biome", 99), ("esa_worldcover", 11), ("esa_worldcover/pixels", 11)])
def test_a_code_without_a_class_is_refused_and_not_taken_for_a_missing_label(name: str, code: int) -> None:
    task = parse_task(f"store:{name}", CATALOG)
    shape = (2, 1, 4, 4) if task.modality.kind.is_raster else (2,)
    codes = np.full(shape, task.modality.classes[0].code, task.modality.dtype)
    codes[1] = code
    with pytest.raises(InputError, match=f"got {code}; add the class to its catalog entry"):
        (task.masks if task.form == "pixels" else task.labels)({task.modality.name: codes})


@pytest.mark.parametrize("kind", [Kind.TILE_CATEGORICAL, Kind.RASTER_CATEGORICAL])
def test_labels_of_one_kind_give_each_other_away_and_nothing_else_does(kind: Kind) -> None:
    kin = of_kind(kind)
    assert len(kin) >= 2
    for name in kin:
        assert [other for other, modality in CATALOG.items() if akin(CATALOG[name], modality)] == kin


def test_a_user_s_label_is_revealed_by_itself_only() -> None:
    crop = replace(CATALOG["biome"], name="crop", asset={}, recipe={})
    assert akin(crop, crop)
    assert not akin(crop, CATALOG["biome"])
    assert not akin(crop, CATALOG["eco_region"])


def test_what_a_store_can_be_asked_follows_from_the_kinds_of_its_modalities() -> None:
    for name, modality in CATALOG.items():
        if modality.kind.is_categorical:
            assert parse_task(f"store:{name}", CATALOG).modality is modality
        elif modality.stored and modality.kind.is_continuous and len(modality.bands) == 1:
            assert parse_task(f"store:{name}", CATALOG) == parse_task(f"store:{name}.{modality.bands[0]}", CATALOG)
        else:
            with pytest.raises(InputError, match="--task: expected store:"):
                parse_task(f"store:{name}", CATALOG)
    assert parse_task("store:aster.elevation", CATALOG).kind == "regression"
    assert parse_task("store:era5.year_avg_temp", CATALOG).kind == "regression"
    assert parse_task("store:esa_worldcover/shares", CATALOG).kind == "regression"
    assert parse_task("store:esa_worldcover/pixels", CATALOG).kind == "segmentation"
    assert parse_task("store:aster.slope/pixels", CATALOG).kind == "pixel-regression"


@pytest.mark.parametrize("text", ["biome", "store:biom", "store:Biome"])
def test_a_slip_of_the_pen_gets_the_right_name(text: str) -> None:
    with pytest.raises(InputError, match=r"Did you mean 'store:biome'\?") as error:
        parse_task(text, CATALOG)
    assert "\n" not in str(error.value)


def test_shares_and_means_are_of_what_was_observed() -> None:
    cover, canopy = CATALOG["esa_worldcover"], CATALOG["canopy_height_eth"]
    codes = [label.code for label in cover.classes]
    tiles = np.full((2, 1, 8, 8), cover.nodata, dtype=cover.dtype)
    tiles[0, 0, :3], tiles[0, 0, 3] = codes[5], codes[0]
    shares = StoreTask(cover, "shares").labels({cover.name: tiles})
    assert (shares[0, 5], shares[0, 0], shares[0].sum()) == (0.75, 0.25, 1)
    assert np.isnan(shares[1]).all()
    heights = np.full((2, 2, 8, 8), canopy.nodata, dtype=canopy.dtype)
    heights[0, 0, :2], heights[0, 0, 2:4] = 10, 20
    task = parse_task("store:canopy_height_eth.height", CATALOG)
    assert task.labels({canopy.name: heights})[0] == 15
    assert np.isnan(task.labels({canopy.name: heights})[1])
    pixels = parse_task("store:canopy_height_eth.height/pixels", CATALOG).masks({canopy.name: heights})
    assert (pixels[0, 0, 0], np.isnan(pixels[0, 5]).all()) == (10, True)
