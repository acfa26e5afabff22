"""Recipes: what is accepted, what is refused and how, what two recipes differ in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mmearth_data.errors import InputError
from mmearth_data.recipes import BUILD_RECIPES, differences, make_recipe


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"tile_size": 0}, "multiple of 16"),
        ({"tile_size": 100}, "multiple of 16"),
        ({"tile_size": 4096}, "multiple of 16"),
        ({"tiles": 0}, "tiles"),
        ({"tiles": -3}, "tiles"),
        ({"tiles": "many"}, "tiles"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"split_shares": (50, 50, 50)}, "add up to 100"),
        ({"split_shares": (120, -10, -10)}, "add up to 100"),
        ({"years": ()}, "years"),
        ({"years": (1999,)}, "Sentinel-2"),
        ({"levels": ("L2A", "L2A")}, "once each"),
        ({"oversample": 0.5}, "oversample"),
        ({"cloud_percent": 0}, "cloud_percent"),
        ({"colour": "blue"}, "colour"),
    ],
)
def test_wrong_options_are_refused_in_one_line(given: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError) as caught:
        make_recipe(None, given)
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_file_gives_fields_and_options_override_it(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("tiles: 12\ntile_size: 64\nseed: 5\n")
    recipe = make_recipe(str(file), {"seed": 6})
    assert (recipe.tiles, recipe.tile_size, recipe.seed) == (12, 64, 6)


@pytest.mark.parametrize("content", ["- a list\n", "tiles: [unclosed\n", "", "\x00\x01"])
def test_broken_recipe_files_are_named(tmp_path: Path, content: str) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(content)
    with pytest.raises(InputError, match=r"broken\.yaml"):
        make_recipe(str(file), {})


def test_a_missing_recipe_is_told_which_there_are(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a recipe \(demo"):
        make_recipe(str(tmp_path / "absent.yaml"), {})


def test_identity_holds_the_content_of_files_and_no_paths(tmp_path: Path) -> None:
    def identity(content: str) -> dict[str, Any]:
        file = tmp_path / "secret.gpkg"
        file.write_text(content)
        return make_recipe(None, {"source": "rasters:/secret/map.yaml", "ecoregions": str(file)}).identity()

    assert "secret" not in str(identity("one"))
    assert identity("one") == identity("one")
    assert identity("one") != identity("two")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    recipe = make_recipe(None, {"ecoregions": str(tmp_path / "absent.gpkg")})
    with pytest.raises(InputError, match=r"absent\.gpkg"):
        recipe.identity()


@pytest.mark.parametrize("name", BUILD_RECIPES.names())
def test_shipped_recipes_are_valid(name: str) -> None:
    assert make_recipe(name, {}).tiles > 0


@pytest.mark.parametrize("source", ["", "moon", "rasters", "rasters:", "synthetic:x"])
def test_unknown_sources_are_refused(source: str) -> None:
    with pytest.raises(InputError, match="source: expected"):
        make_recipe(None, {"source": source})


def test_the_split_follows_the_source() -> None:
    assert make_recipe(None, {}).split == "block"
    assert make_recipe(None, {"source": "rasters:m.yaml"}).split == "random"
    assert make_recipe(None, {"source": "rasters:m.yaml", "split": "block"}).split == "block"


def test_differences_name_the_fields() -> None:
    assert differences({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}, "d": 4}) == [
        "b.c: 2 -> 3",
        "d: None -> 4",
    ]
