"""CONTRIBUTING.md: it names what is there, and every room; CITATION.cff cites this release."""

from __future__ import annotations

import re
import tomllib

import yaml

from mmearth_data import resource_path

REPOSITORY = resource_path("catalog").parent
TEXT = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
PATHS = sorted(
    set(
        re.findall(
            r"`((?:catalog|docs|mmearth_data|mmearth_model|pipelines|tests)(?:/[^`\s]*)?|\w+\.(?:toml|txt|md))`", TEXT
        )
    )
)


def test_every_path_exists() -> None:
    assert len(PATHS) > 40
    named = [path for path in PATHS if "NAME" not in path]
    assert not [path for path in named if not (REPOSITORY / path).exists()]
    new = [path for path in PATHS if "NAME" in path]
    assert not [path for path in new if not list((REPOSITORY / path).parent.glob("*" + (REPOSITORY / path).suffix))]


def test_what_it_names_is_in_the_source_distribution() -> None:
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]
    shipped = {"pyproject.toml", *settings["targets"]["sdist"]["include"]}  # hatchling adds the former itself
    assert {path.partition("/")[0] for path in PATHS} <= shipped
    assert {"CONTRIBUTING.md", "CITATION.cff"} <= shipped
    assert not [name for name in shipped if not (REPOSITORY / name).exists()]


def test_every_room_is_named() -> None:
    rooms = {
        f"{package}/{folder.name}"
        for package in ("mmearth_data", "mmearth_model")
        for folder in (REPOSITORY / package).iterdir()
        if (folder / "__init__.py").is_file()
    }
    assert rooms - set(PATHS) == set()


def test_names_in_the_steps_are_in_the_files_beside_them() -> None:
    steps = re.findall(r"`(\w+)` in\s+`([\w/]+\.py)`", TEXT)
    assert len(steps) >= 5
    for name, path in steps:
        assert re.search(rf"\b{name}\b", (REPOSITORY / path).read_text(encoding="utf-8")), f"{name} in {path}"


def test_the_citation_is_of_this_release_and_of_the_paper() -> None:
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["cff-version"] == "1.2.0"
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    (paper,) = citation["references"]
    assert [author["family-names"] for author in paper["authors"]] == [
        "Nedungadi",
        "Kariryaa",
        "Oehmcke",
        "Belongie",
        "Igel",
        "Lang",
    ]
    assert (paper["year"], paper["identifiers"][0]["value"]) == (2024, "arXiv:2405.02771")
