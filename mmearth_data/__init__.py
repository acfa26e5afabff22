"""Build and read multi-modal Earth-observation stores.

Everything that users need is importable from here; names are loaded on first use, so that
``import mmearth_data`` stays instant and a training machine needs few libraries.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

from mmearth_data.errors import (
    CatalogError,
    FileInputError,
    InputError,
    MMEarthError,
    RetryLater,
    StoreDamaged,
    TileUnavailable,
    WriteFailed,
)
from mmearth_data.resources import cache_folder, resource_path

if TYPE_CHECKING:
    from mmearth_data.api import build, export, import_hdf5, merge, subset
    from mmearth_data.building.cluster import connect
    from mmearth_data.building.executor import Progress
    from mmearth_data.building.prepare import PreparedBuild, draw_sample, prepare
    from mmearth_data.building.preview import preview
    from mmearth_data.building.price import profile_lines
    from mmearth_data.building.profile import profile
    from mmearth_data.building.repair import repair
    from mmearth_data.catalog.entries import Catalog, describe_modality, load_catalog, render_catalog, render_modality
    from mmearth_data.catalog.modality import ClassLabel, Kind, Modality
    from mmearth_data.catalog.tile import Place, TileGrid, format_tile_id, parse_tile_id
    from mmearth_data.emulator.server.faults import parse_fault
    from mmearth_data.emulator.server.server import Emulator, EmulatorOptions
    from mmearth_data.files.listing import is_data
    from mmearth_data.files.tables import Table, read_table
    from mmearth_data.files.writing import (
        append_text,
        check_output,
        create_file,
        make_folder,
        remove_partial,
        staged_array,
        staged_file,
        staged_folder,
        staged_stream,
        write_bytes,
        write_errors,
        write_text,
    )
    from mmearth_data.files.yamlfiles import YamlFile, named_file, read_yaml, validated
    from mmearth_data.inspection.figures import tile_figure
    from mmearth_data.inspection.maps import map_figure, sample_map
    from mmearth_data.inspection.summary import summarise
    from mmearth_data.inspection.terminal import render_summary
    from mmearth_data.interchange.form import published_missing_values
    from mmearth_data.interchange.statistics import published_statistics
    from mmearth_data.interchange.subset import read_ids
    from mmearth_data.loading.loader import Batch, Loader
    from mmearth_data.loading.scaling import NO_LEVEL, resolve_statistics, scale_of
    from mmearth_data.opened import Store, open_store
    from mmearth_data.rasterfile import Marks, Raster, Siblings, as_marks, calibrate, read_raster
    from mmearth_data.recipe import BuildRecipe, make_recipe
    from mmearth_data.sampling import write_sample
    from mmearth_data.store import verify
    from mmearth_data.store.derived import derived
    from mmearth_data.terminal.commands import CommandGroup
    from mmearth_data.terminal.options import FilePath, Finite, refuse_unused
    from mmearth_data.words import closest, describe_os_error, did_you_mean, is_there, os_problem, reason_of, short_path

__version__ = version("mmearth")

_HOME = {
    "Batch": "loading.loader",
    "BuildRecipe": "recipe",
    "Catalog": "catalog.entries",
    "ClassLabel": "catalog.modality",
    "CommandGroup": "terminal.commands",
    "Emulator": "emulator.server.server",
    "EmulatorOptions": "emulator.server.server",
    "FilePath": "terminal.options",
    "Finite": "terminal.options",
    "Kind": "catalog.modality",
    "Loader": "loading.loader",
    "Marks": "rasterfile",
    "Modality": "catalog.modality",
    "NO_LEVEL": "loading.scaling",
    "Place": "catalog.tile",
    "PreparedBuild": "building.prepare",
    "Progress": "building.executor",
    "Raster": "rasterfile",
    "Siblings": "rasterfile",
    "Store": "opened",
    "Table": "files.tables",
    "TileGrid": "catalog.tile",
    "YamlFile": "files.yamlfiles",
    "append_text": "files.writing",
    "as_marks": "rasterfile",
    "build": "api",
    "calibrate": "rasterfile",
    "check_output": "files.writing",
    "closest": "words",
    "connect": "building.cluster",
    "create_file": "files.writing",
    "derived": "store.derived",
    "describe_modality": "catalog.entries",
    "describe_os_error": "words",
    "did_you_mean": "words",
    "draw_sample": "building.prepare",
    "export": "api",
    "format_tile_id": "catalog.tile",
    "import_hdf5": "api",
    "is_data": "files.listing",
    "is_there": "words",
    "load_catalog": "catalog.entries",
    "make_folder": "files.writing",
    "make_recipe": "recipe",
    "map_figure": "inspection.maps",
    "merge": "api",
    "named_file": "files.yamlfiles",
    "open_store": "opened",
    "os_problem": "words",
    "parse_fault": "emulator.server.faults",
    "parse_tile_id": "catalog.tile",
    "prepare": "building.prepare",
    "preview": "building.preview",
    "profile": "building.profile",
    "profile_lines": "building.price",
    "published_missing_values": "interchange.form",
    "published_statistics": "interchange.statistics",
    "read_ids": "interchange.subset",
    "read_raster": "rasterfile",
    "read_table": "files.tables",
    "read_yaml": "files.yamlfiles",
    "reason_of": "words",
    "refuse_unused": "terminal.options",
    "remove_partial": "files.writing",
    "render_catalog": "catalog.entries",
    "render_modality": "catalog.entries",
    "render_summary": "inspection.terminal",
    "repair": "building.repair",
    "resolve_statistics": "loading.scaling",
    "sample_map": "inspection.maps",
    "scale_of": "loading.scaling",
    "short_path": "words",
    "staged_array": "files.writing",
    "staged_file": "files.writing",
    "staged_folder": "files.writing",
    "staged_stream": "files.writing",
    "subset": "api",
    "summarise": "inspection.summary",
    "tile_figure": "inspection.figures",
    "validated": "files.yamlfiles",
    "verify": "store",
    "write_bytes": "files.writing",
    "write_errors": "files.writing",
    "write_sample": "sampling",
    "write_text": "files.writing",
}

__all__ = [
    "NO_LEVEL",
    "Batch",
    "BuildRecipe",
    "Catalog",
    "CatalogError",
    "ClassLabel",
    "CommandGroup",
    "Emulator",
    "EmulatorOptions",
    "FileInputError",
    "FilePath",
    "Finite",
    "InputError",
    "Kind",
    "Loader",
    "MMEarthError",
    "Marks",
    "Modality",
    "Place",
    "PreparedBuild",
    "Progress",
    "Raster",
    "RetryLater",
    "Siblings",
    "Store",
    "StoreDamaged",
    "Table",
    "TileGrid",
    "TileUnavailable",
    "WriteFailed",
    "YamlFile",
    "__version__",
    "append_text",
    "as_marks",
    "build",
    "cache_folder",
    "calibrate",
    "check_output",
    "closest",
    "connect",
    "create_file",
    "derived",
    "describe_modality",
    "describe_os_error",
    "did_you_mean",
    "draw_sample",
    "export",
    "format_tile_id",
    "import_hdf5",
    "is_data",
    "is_there",
    "load_catalog",
    "make_folder",
    "make_recipe",
    "map_figure",
    "merge",
    "named_file",
    "open_store",
    "os_problem",
    "parse_fault",
    "parse_tile_id",
    "prepare",
    "preview",
    "profile",
    "profile_lines",
    "published_missing_values",
    "published_statistics",
    "read_ids",
    "read_raster",
    "read_table",
    "read_yaml",
    "reason_of",
    "refuse_unused",
    "remove_partial",
    "render_catalog",
    "render_modality",
    "render_summary",
    "repair",
    "resolve_statistics",
    "resource_path",
    "sample_map",
    "scale_of",
    "short_path",
    "staged_array",
    "staged_file",
    "staged_folder",
    "staged_stream",
    "subset",
    "summarise",
    "tile_figure",
    "validated",
    "verify",
    "write_bytes",
    "write_errors",
    "write_sample",
    "write_text",
]


def __getattr__(name: str) -> object:
    """Load a public name from the module that defines it, on first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
