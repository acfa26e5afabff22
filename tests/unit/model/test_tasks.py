"""Labels cut from a store."""

from __future__ import annotations

import numpy as np
import pytest

from mmearth_data import InputError, Kind, load_catalog
from mmearth_model.tasks import StoreTask, parse_task

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


@pytest.mark.parametrize("kind", [Kind.TILE_CATEGORICAL, Kind.RASTER_CATEGORICAL])
def test_labels_of_one_kind_give_each_other_away_and_nothing_else_does(kind: Kind) -> None:
    kin = of_kind(kind)
    assert len(kin) >= 2
    for name in kin:
        task = StoreTask(CATALOG[name])
        assert [other for other, modality in CATALOG.items() if task.conflicts(modality)] == kin


def test_every_categorical_modality_is_a_task_and_no_other_is() -> None:
    for name, modality in CATALOG.items():
        if modality.kind.is_categorical:
            assert parse_task(f"store:{name}", CATALOG).modality is modality
        else:
            with pytest.raises(InputError, match="--task: expected store:"):
                parse_task(f"store:{name}", CATALOG)


@pytest.mark.parametrize("text", ["biome", "store:biom", "store:Biome"])
def test_a_slip_of_the_pen_gets_the_right_name(text: str) -> None:
    with pytest.raises(InputError, match=r"Did you mean store:biome\?") as error:
        parse_task(text, CATALOG)
    assert "\n" not in str(error.value)
