"""What is imported when: nothing heavy for --help, and only what a machine needs for its job."""

from __future__ import annotations

import json
import tomllib
from functools import cache

import pytest
from _processes import run_python

from mmearth_data import resource_path

MODEL_LIBRARIES = frozenset({"torch", "lightning", "lightning_utilities", "torchmetrics", "safetensors", "sklearn"})

NOT_FOR_TRAINING = frozenset({"pyarrow", "geopandas", "shapely", "rasterio", "h5py", "ee"})
"""A training machine reads a finished store without these."""

HEAVY = frozenset(
    {
        *MODEL_LIBRARIES,
        *NOT_FOR_TRAINING,
        "dask",
        "distributed",
        "matplotlib",
        "numpy",
        "pandas",
        "pydantic",
        "pyproj",
        "scipy",
        "xarray",
        "zarr",
        "blosc2",
    }
)

TENSORS = "mmearth_data.loading.tensors"
"""The one module of mmearth_data that needs torch; `Store.torch` imports it."""

IMPORT_ALL = """
    import importlib, json, pkgutil
    import mmearth_data as door
    homes = {{name: f"mmearth_data.{{home}}" for name, home in door._HOME.items()}}
    before = {{name: id(getattr(door, name)) for name in door.__all__ if homes.get(name) != {tensors!r}}}
    for info in pkgutil.walk_packages(door.__path__, "mmearth_data."):
        if info.name != {tensors!r}:
            importlib.import_module(info.name)
    print(json.dumps([name for name in before if before[name] != id(getattr(door, name))]))
"""


def test_every_module_is_imported_without_torch_and_no_public_name_changes() -> None:
    assert json.loads(run_python(IMPORT_ALL.format(tensors=TENSORS), blocked=MODEL_LIBRARIES)) == []


def test_the_module_of_tensors_is_imported_by_nothing_else() -> None:
    program = f"""
    import sys
    from mmearth_data import Loader, Store, open_store
    print({TENSORS!r} in sys.modules or "torch" in sys.modules)
    """
    assert run_python(program) == "False\n"


def test_a_blocked_library_is_missing_indeed() -> None:
    with pytest.raises(AssertionError, match="No module named 'torch'"):
        run_python("import torch", blocked=MODEL_LIBRARIES)


def test_the_reading_side_imports_with_few_libraries() -> None:
    program = """
    from mmearth_data import Batch, Kind, Loader, Modality, Store, load_catalog, open_store, verify
    load_catalog()
    print("done")
    """
    assert run_python(program, blocked=NOT_FOR_TRAINING | MODEL_LIBRARIES) == "done\n"


def test_the_training_side_imports_with_few_libraries() -> None:
    program = """
    import mmearth_model
    from mmearth_model.data import targets
    from mmearth_model.network import encoder, losses, masking, mpmae
    from mmearth_model.training import pretraining
    print("done")
    """
    assert run_python(program, blocked=NOT_FOR_TRAINING) == "done\n"


HELP = """
    import contextlib, importlib, io, json, sys
    entry = getattr(importlib.import_module({module!r}), {attribute!r})
    answers = {{}}
    for line in {lines!r}:
        sys.argv, text = line.split(), io.StringIO()
        with contextlib.redirect_stdout(text):
            try:
                code = entry()
            except SystemExit as end:
                code = end.code
        loaded = sorted({{name.partition(".")[0] for name in sys.modules}})
        answers[line] = [code or 0, text.getvalue(), loaded]
    print(json.dumps(answers))
"""

COMMANDS = {
    "mmearth-data": ["build", "inspect", "sample", "verify", "catalog", "import", "export", "subset", "merge"],
    "mmearth-train": ["pretrain", "evaluate", "finetune", "embed", "experiment"],
}


LINES = {
    program: [
        *(f"{program} {option}" for option in ("--help", "--version")),
        *(f"{program} {command} --help" for command in commands),
    ]
    for program, commands in COMMANDS.items()
}


@cache
def entry_points() -> dict[str, str]:
    """Return what each program of the distribution calls."""
    content = tomllib.loads((resource_path("catalog").parent / "pyproject.toml").read_text(encoding="utf-8"))
    scripts: dict[str, str] = content["project"]["scripts"]
    return scripts


@cache
def answers(program: str) -> dict[str, tuple[int, str, list[str]]]:
    """Line -> exit code, text and the libraries loaded by then; all lines of a program are asked in one process."""
    module, _, attribute = entry_points()[program].partition(":")
    asked = HELP.format(module=module, attribute=attribute, lines=LINES[program])
    found: dict[str, tuple[int, str, list[str]]] = json.loads(run_python(asked))
    return found


def test_both_programs_are_known() -> None:
    assert set(COMMANDS) == set(entry_points())


@pytest.mark.parametrize("line", [line for lines in LINES.values() for line in lines])
def test_help_answers_without_heavy_libraries(line: str) -> None:
    program = line.split()[0]
    code, text, loaded = answers(program)[line]
    assert code == 0
    assert program in text
    assert not HEAVY.intersection(loaded)


@pytest.mark.parametrize("program", COMMANDS)
def test_help_names_every_command(program: str) -> None:
    _, text, _ = answers(program)[f"{program} --help"]
    assert all(command in text for command in COMMANDS[program])


def test_without_bokeh_one_line_says_what_to_install() -> None:
    program = """
    from click.testing import CliRunner
    from mmearth_data.cli import cli
    done = CliRunner().invoke(cli, ["inspect", "planet.zarr", "--html", "report.html"])
    print(done.exit_code, done.stderr.strip())
    """
    code, _, text = run_python(program, blocked=frozenset({"bokeh"})).strip().partition(" ")
    assert code == "2"
    assert text.endswith('run: pip install "mmearth[report]"')
    assert len(text.splitlines()) == 1
