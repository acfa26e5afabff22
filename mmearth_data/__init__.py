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
    UnknownKey,
    UnknownPosition,
    WriteFailed,
)
from mmearth_data.resources import cache_folder, resource_path

if TYPE_CHECKING:
    from mmearth_data.api import build, export, import_hdf5, merge, subset
    from mmearth_data.browse.server import Browser
    from mmearth_data.build_fields import BuildFields, SourceFields
    from mmearth_data.building.cluster import connect
    from mmearth_data.building.executor import Progress
    from mmearth_data.building.prepare import PreparedBuild, draw_sample, prepare
    from mmearth_data.building.preview import preview
    from mmearth_data.building.price import profile_lines
    from mmearth_data.building.profile import profile
    from mmearth_data.building.repair import repair
    from mmearth_data.catalog.entries import Catalog, describe_modality, load_catalog
    from mmearth_data.catalog.modality import ClassLabel, Kind, Modality, Wavelength
    from mmearth_data.catalog.tile import (
        WGS84_PROJJSON,
        Place,
        TileGrid,
        format_tile_id,
        format_tile_ids,
        parse_tile_id,
    )
    from mmearth_data.emulator.server.faults import parse_fault
    from mmearth_data.emulator.server.server import Emulator, EmulatorOptions
    from mmearth_data.fields import About, Fields, Group, check_limits, documented
    from mmearth_data.files.listing import is_data
    from mmearth_data.files.stac import used_extensions
    from mmearth_data.files.tables import Table, read_table
    from mmearth_data.files.temporary import is_running
    from mmearth_data.files.writing import (
        append_text,
        check_apart,
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
    from mmearth_data.files.yamlfiles import read_yaml
    from mmearth_data.findings import describe_validation
    from mmearth_data.geography.regions import resolve_region
    from mmearth_data.inspection.canvas import encode_figure, picture_format
    from mmearth_data.inspection.cards.writing import describe
    from mmearth_data.inspection.figures import tile_figure
    from mmearth_data.inspection.listing import render_catalog, render_modality
    from mmearth_data.inspection.maps import map_figure, sample_map
    from mmearth_data.inspection.report.report import store_report
    from mmearth_data.inspection.summary import summarise
    from mmearth_data.inspection.terminal import render_summary
    from mmearth_data.interchange.form import published_missing_values
    from mmearth_data.interchange.statistics import published_statistics
    from mmearth_data.interchange.subset import read_ids
    from mmearth_data.loading.loader import Batch, Loader
    from mmearth_data.loading.scaling import NO_LEVEL, resolve_statistics, scale_of
    from mmearth_data.loading.tensors import TensorBatch, TileSamples, to_tensors
    from mmearth_data.opened import Store, open_store
    from mmearth_data.pages.markdown import CITATION, markdown_code, markdown_list, markdown_table
    from mmearth_data.pages.parts import (
        Amount,
        Badge,
        Button,
        Choices,
        CodeBlock,
        Columns,
        Data,
        Details,
        Facts,
        Gallery,
        GalleryItem,
        Legend,
        Link,
        Notice,
        Page,
        PageTable,
        Paragraph,
        Part,
        Picture,
        Pictures,
        Plot,
        Row,
        Section,
        Select,
        Share,
        Sidebar,
        Slot,
        Status,
        Tone,
    )
    from mmearth_data.pages.style import ClassStyle, class_styles, page_figure, require_bokeh
    from mmearth_data.pages.writing import render_page, write_page
    from mmearth_data.rasterfile import (
        Marks,
        Raster,
        Siblings,
        as_marks,
        calibrate,
        check_marks,
        marks_synthetic,
        open_raster,
        raster_outline,
        read_raster,
        read_raster_window,
        tags_of,
    )
    from mmearth_data.recipes import BuildRecipe, Recipe, RecipeFolder, differences, make_recipe
    from mmearth_data.sampling import write_sample
    from mmearth_data.sources.rasters.georeferencing import georeferencing_problem, warp_to_utm
    from mmearth_data.sources.rasters.mapping import RasterMapping, read_mapping
    from mmearth_data.sources.rasters.tiff import missing_end
    from mmearth_data.store import verify
    from mmearth_data.store.about import LicenceUse, licences
    from mmearth_data.store.conventions import grid_attributes
    from mmearth_data.store.derived import derived
    from mmearth_data.store.schema import SPLIT_NAMES
    from mmearth_data.store.storage import storage_at
    from mmearth_data.store.tile import Tile
    from mmearth_data.terminal.commands import CommandGroup, ignore_stop_signals
    from mmearth_data.terminal.options import (
        FilePath,
        Number,
        Pair,
        PathOrUrl,
        Several,
        field_option,
        field_options,
        option,
        refuse_unused,
    )
    from mmearth_data.terminal.progress import Meter, meter
    from mmearth_data.terminal.tables import FittedTable, NamedValues, Paragraphs, TableColumn, wrapped_path
    from mmearth_data.terminal.volume import is_quiet
    from mmearth_data.words import (
        closest,
        describe_os_error,
        did_you_mean,
        is_there,
        os_problem,
        reason_of,
        shell_path,
        short_path,
    )

__version__ = version("mmearth")

_MODULES = {
    "api": "build export import_hdf5 merge subset",
    "browse.server": "Browser",
    "build_fields": "BuildFields SourceFields",
    "building.cluster": "connect",
    "building.executor": "Progress",
    "building.prepare": "PreparedBuild draw_sample prepare",
    "building.preview": "preview",
    "building.price": "profile_lines",
    "building.profile": "profile",
    "building.repair": "repair",
    "catalog.entries": "Catalog describe_modality load_catalog",
    "catalog.modality": "ClassLabel Kind Modality Wavelength",
    "catalog.tile": "WGS84_PROJJSON Place TileGrid format_tile_id format_tile_ids parse_tile_id",
    "emulator.server.faults": "parse_fault",
    "emulator.server.server": "Emulator EmulatorOptions",
    "fields": "About Fields Group check_limits documented",
    "findings": "describe_validation",
    "files.listing": "is_data",
    "files.stac": "used_extensions",
    "files.tables": "Table read_table",
    "files.temporary": "is_running",
    "files.writing": "append_text check_apart check_output create_file make_folder remove_partial staged_array staged_file staged_folder "
    "staged_stream write_bytes write_errors write_text",
    "files.yamlfiles": "read_yaml",
    "geography.regions": "resolve_region",
    "inspection.canvas": "encode_figure picture_format",
    "inspection.cards.writing": "describe",
    "inspection.figures": "tile_figure",
    "inspection.listing": "render_catalog render_modality",
    "inspection.maps": "map_figure sample_map",
    "inspection.report.report": "store_report",
    "inspection.summary": "summarise",
    "inspection.terminal": "render_summary",
    "interchange.form": "published_missing_values",
    "interchange.statistics": "published_statistics",
    "interchange.subset": "read_ids",
    "loading.loader": "Batch Loader",
    "loading.scaling": "NO_LEVEL resolve_statistics scale_of",
    "loading.tensors": "TensorBatch TileSamples to_tensors",
    "opened": "Store open_store",
    "pages.markdown": "CITATION markdown_code markdown_list markdown_table",
    "pages.parts": "Amount Badge Button Choices CodeBlock Columns Data Details Facts Gallery GalleryItem Legend Link Notice Page "
    "PageTable Paragraph Part Picture Pictures Plot Row Section Select Share Sidebar Slot Status Tone",
    "pages.style": "ClassStyle class_styles page_figure require_bokeh",
    "pages.writing": "render_page write_page",
    "rasterfile": "Marks Raster Siblings as_marks calibrate check_marks marks_synthetic open_raster "
    "raster_outline read_raster read_raster_window tags_of",
    "recipes": "BuildRecipe Recipe RecipeFolder differences make_recipe",
    "sampling": "write_sample",
    "sources.rasters.georeferencing": "georeferencing_problem warp_to_utm",
    "sources.rasters.mapping": "RasterMapping read_mapping",
    "sources.rasters.tiff": "missing_end",
    "store": "verify",
    "store.about": "LicenceUse licences",
    "store.conventions": "grid_attributes",
    "store.derived": "derived",
    "store.schema": "SPLIT_NAMES",
    "store.storage": "storage_at",
    "store.tile": "Tile",
    "terminal.commands": "CommandGroup ignore_stop_signals",
    "terminal.options": "FilePath Number Pair PathOrUrl Several field_option field_options option refuse_unused",
    "terminal.progress": "Meter meter",
    "terminal.tables": "FittedTable NamedValues Paragraphs TableColumn wrapped_path",
    "terminal.volume": "is_quiet",
    "words": "closest describe_os_error did_you_mean is_there os_problem reason_of shell_path short_path",
}
"""Module -> the public names that it defines."""
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}

__all__ = [
    "CITATION",
    "NO_LEVEL",
    "SPLIT_NAMES",
    "WGS84_PROJJSON",
    "About",
    "Amount",
    "Badge",
    "Batch",
    "Browser",
    "BuildFields",
    "BuildRecipe",
    "Button",
    "Catalog",
    "CatalogError",
    "Choices",
    "ClassLabel",
    "ClassStyle",
    "CodeBlock",
    "Columns",
    "CommandGroup",
    "Data",
    "Details",
    "Emulator",
    "EmulatorOptions",
    "Facts",
    "Fields",
    "FileInputError",
    "FilePath",
    "FittedTable",
    "Gallery",
    "GalleryItem",
    "Group",
    "InputError",
    "Kind",
    "Legend",
    "LicenceUse",
    "Link",
    "Loader",
    "MMEarthError",
    "Marks",
    "Meter",
    "Modality",
    "NamedValues",
    "Notice",
    "Number",
    "Page",
    "PageTable",
    "Pair",
    "Paragraph",
    "Paragraphs",
    "Part",
    "PathOrUrl",
    "Picture",
    "Pictures",
    "Place",
    "Plot",
    "PreparedBuild",
    "Progress",
    "Raster",
    "RasterMapping",
    "Recipe",
    "RecipeFolder",
    "RetryLater",
    "Row",
    "Section",
    "Select",
    "Several",
    "Share",
    "Siblings",
    "Sidebar",
    "Slot",
    "SourceFields",
    "Status",
    "Store",
    "StoreDamaged",
    "Table",
    "TableColumn",
    "TensorBatch",
    "Tile",
    "TileGrid",
    "TileSamples",
    "TileUnavailable",
    "Tone",
    "UnknownKey",
    "UnknownPosition",
    "Wavelength",
    "WriteFailed",
    "__version__",
    "append_text",
    "as_marks",
    "build",
    "cache_folder",
    "calibrate",
    "check_apart",
    "check_limits",
    "check_marks",
    "check_output",
    "class_styles",
    "closest",
    "connect",
    "create_file",
    "derived",
    "describe",
    "describe_modality",
    "describe_os_error",
    "describe_validation",
    "did_you_mean",
    "differences",
    "documented",
    "draw_sample",
    "encode_figure",
    "export",
    "field_option",
    "field_options",
    "format_tile_id",
    "format_tile_ids",
    "georeferencing_problem",
    "grid_attributes",
    "ignore_stop_signals",
    "import_hdf5",
    "is_data",
    "is_quiet",
    "is_running",
    "is_there",
    "licences",
    "load_catalog",
    "make_folder",
    "make_recipe",
    "map_figure",
    "markdown_code",
    "markdown_list",
    "markdown_table",
    "marks_synthetic",
    "merge",
    "meter",
    "missing_end",
    "open_raster",
    "open_store",
    "option",
    "os_problem",
    "page_figure",
    "parse_fault",
    "parse_tile_id",
    "picture_format",
    "prepare",
    "preview",
    "profile",
    "profile_lines",
    "published_missing_values",
    "published_statistics",
    "raster_outline",
    "read_ids",
    "read_mapping",
    "read_raster",
    "read_raster_window",
    "read_table",
    "read_yaml",
    "reason_of",
    "refuse_unused",
    "remove_partial",
    "render_catalog",
    "render_modality",
    "render_page",
    "render_summary",
    "repair",
    "require_bokeh",
    "resolve_region",
    "resolve_statistics",
    "resource_path",
    "sample_map",
    "scale_of",
    "shell_path",
    "short_path",
    "staged_array",
    "staged_file",
    "staged_folder",
    "staged_stream",
    "storage_at",
    "store_report",
    "subset",
    "summarise",
    "tags_of",
    "tile_figure",
    "to_tensors",
    "used_extensions",
    "verify",
    "warp_to_utm",
    "wrapped_path",
    "write_bytes",
    "write_errors",
    "write_page",
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
