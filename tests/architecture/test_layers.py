"""The source of both packages against the layer table and the habits of the house."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import _rules as rules
import numpy as np
import pytest
from _rules import DATA, MODEL, Module, Violation

from mmearth_data import load_catalog, resource_path

if TYPE_CHECKING:
    from collections.abc import Callable

REPOSITORY = resource_path("catalog").parent


@cache
def modules() -> tuple[Module, ...]:
    return tuple(module for package in (DATA, MODEL) for module in rules.read_package(REPOSITORY / package))


@cache
def ours() -> frozenset[str]:
    return frozenset(module.name for module in modules())


@cache
def modality_names() -> frozenset[str]:
    return frozenset(load_catalog().modalities)


def check(rule: Callable[[Module], list[Violation]]) -> None:
    """Fail with one line for each finding."""
    found = [str(violation) for module in modules() for violation in rule(module)]
    assert not found, "\n" + "\n".join(found)


def test_both_packages_are_read() -> None:
    assert {DATA, MODEL, f"{DATA}.errors", f"{DATA}.store", f"{MODEL}.network.encoder"} <= ours()


def test_every_part_has_a_layer() -> None:
    for package, rows in rules.ROWS.items():
        parts = {part for _, row in rows for part in row}
        assert {module.part for module in modules() if module.name.split(".")[0] == package} == parts


def test_layers_import_downwards_and_the_model_uses_the_front_door() -> None:
    check(lambda module: rules.layering(module, ours()))


def test_libraries_are_imported_in_their_place() -> None:
    check(lambda module: rules.libraries(module, ours()))


def test_no_modality_is_asked_for_by_name() -> None:
    check(lambda module: rules.name_comparisons(module, modality_names()))


def test_no_table_by_modality_stands_in_code() -> None:
    check(lambda module: rules.name_tables(module, modality_names()))


def test_no_callable_of_the_model_ignores_its_arguments() -> None:
    """But for the command line, whose commands all answer the same question of their options."""
    check(lambda module: [] if module.is_cli or not module.name.startswith(MODEL) else rules.ignored_arguments(module))


@pytest.mark.parametrize(
    "rule",
    [
        rules.computed_imports,
        rules.prints,
        rules.long_functions,
        rules.missing_annotations,
        rules.environment_at_import,
        rules.swallowed_errors,
        rules.unstaged_writes,
        rules.unverified_connections,
        rules.arrow_threads,
    ],
    ids=lambda rule: rule.__name__,
)
def test_habits(rule: Callable[[Module], list[Violation]]) -> None:
    check(rule)


@pytest.mark.parametrize("package", [DATA, MODEL])
def test_nine_functions_of_ten_are_short(package: str) -> None:
    own = [module for module in modules() if module.name.split(".")[0] == package]
    lengths = [rules.body_lines(function) for module in own for function in rules.functions(module)]
    assert np.percentile(lengths, 90) <= rules.P90_BODY_LINES
