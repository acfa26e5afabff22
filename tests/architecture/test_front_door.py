"""What users import: complete, documented, and loaded on first use."""

from __future__ import annotations

import inspect
import json
import pkgutil
from typing import TYPE_CHECKING

import _rules as rules
import pytest
from _processes import run_python

import mmearth_data
import mmearth_model
from mmearth_data import errors, resource_path

if TYPE_CHECKING:
    from types import ModuleType

DOORS = [mmearth_data, mmearth_model]
NAMES = [(door, name) for door in DOORS for name in getattr(door, "__all__", [])]
REPOSITORY = resource_path("catalog").parent


def names_taken_from(door: str) -> set[str]:
    """Return the names that cli and the other package import from a front door."""
    found = set()
    for package in (rules.DATA, rules.MODEL):
        for module in rules.read_package(REPOSITORY / package):
            if module.is_cli or package != door:
                found |= rules.names_imported_from(module, door)
    return found


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
def test_public_names_are_listed_once(door: ModuleType) -> None:
    public = door.__all__
    assert len(set(public)) == len(public)
    assert set(public) <= set(dir(door))


@pytest.mark.parametrize(("door", "name"), NAMES, ids=lambda value: getattr(value, "__name__", value))
def test_every_public_name_is_importable_and_documented(door: ModuleType, name: str) -> None:
    value = getattr(door, name)
    if name == "__version__":
        assert value
    elif inspect.isclass(value) or inspect.isroutine(value):
        assert inspect.getdoc(value), f"{name} has no docstring"
        assert inspect.getdoc(value) != inspect.getdoc(object)
        assert value.__module__.split(".")[0] == door.__name__


FOR_FILES = {"is_there", "missing_end", "read_mapping", "read_table", "read_yaml", "remove_partial", "write_validation"}
"""Functions for the other package, which calls them with paths that it has already checked."""


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
def test_paths_may_be_text(door: ModuleType) -> None:
    """A public function that takes a path also takes a string."""
    functions = {name: value for name in door.__all__ if inspect.isfunction(value := getattr(door, name))}
    only_paths = [
        f"{name}({parameter})"
        for name, function in functions.items()
        for parameter, about in inspect.signature(function).parameters.items()
        if "Path" in str(about.annotation) and "str" not in str(about.annotation) and name not in FOR_FILES
    ]
    assert not only_paths


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
def test_no_public_name_is_also_a_submodule(door: ModuleType) -> None:
    # Importing a submodule sets the attribute of that name, which would replace the public one.
    submodules = {info.name for info in pkgutil.iter_modules(door.__path__)}
    assert not submodules & set(door.__all__)


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
def test_everything_that_is_taken_from_the_front_door_is_public(door: ModuleType) -> None:
    taken = names_taken_from(door.__name__)
    assert taken <= set(door.__all__), sorted(taken - set(door.__all__))


def test_every_error_is_public() -> None:
    kinds = {name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)}
    assert kinds <= set(mmearth_data.__all__)


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
def test_an_unknown_name_is_an_attribute_error(door: ModuleType) -> None:
    with pytest.raises(AttributeError, match="no_such_thing"):
        door.no_such_thing  # noqa: B018
    with pytest.raises(ImportError):
        exec(f"from {door.__name__} import no_such_thing", {})


def test_importing_the_front_door_is_instant() -> None:
    program = "import json, sys, mmearth_data; print(json.dumps(sorted(sys.modules)))"
    loaded = set(json.loads(run_python(program)))
    assert not loaded & {"numpy", "pandas", "pydantic", "zarr", "xarray", "dask", "pyproj", "rasterio", "geopandas"}
