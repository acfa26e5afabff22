"""Every rule is shown something that it must find, and something that it must leave alone."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import _rules as rules
import pytest
from _rules import Module

if TYPE_CHECKING:
    from collections.abc import Callable

OURS = frozenset(
    {
        "mmearth_data",
        "mmearth_data.errors",
        "mmearth_data.store",
        "mmearth_data.store.schema",
        "mmearth_data.sources",
        "mmearth_data.sources.earthengine",
        "mmearth_model",
        "mmearth_model.network.encoder",
    }
)
MODALITIES = frozenset({"sentinel1", "sentinel2", "aster", "lat", "biome"})


def module(name: str, source: str, *, is_package: bool = False) -> Module:
    return Module.parse(name, textwrap.dedent(source), is_package=is_package)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("mmearth_data.errors", "from mmearth_data.catalog.entries import load_catalog"),
        ("mmearth_data.errors", "import mmearth_data.store"),
        ("mmearth_data.catalog.tile", "def f():\n    from mmearth_data.store import Store"),
        (
            "mmearth_data.catalog.tile",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from mmearth_data.store import Store",
        ),
        ("mmearth_data.store.writer", "from mmearth_data.sources.base import Source"),
        ("mmearth_data.sources.rasters", "from mmearth_data.store import schema"),
        ("mmearth_data.sources.rasters", "from ..store import schema"),
        ("mmearth_data.store", "from mmearth_data import __version__"),
        ("mmearth_data.loading.loader", "from mmearth_data.building import plan"),
        ("mmearth_data.inspection", "from mmearth_data import open_store"),
        ("mmearth_data.emulator.server.server", "import mmearth_data.sources.earthengine"),
        ("mmearth_data.emulator.server.server", "from mmearth_data.sources import earthengine"),
        ("mmearth_data.api", "from mmearth_data.cli import main"),
        ("mmearth_data.planet.orbits", "from mmearth_data.sources.base import Survey"),
        ("mmearth_model.network.encoder", "from mmearth_model.training.recipe import TrainRecipe"),
        ("mmearth_data.cli", "from mmearth_data.store import open_store"),
        ("mmearth_data.cli", "def f():\n    from mmearth_data.errors import InputError"),
        ("mmearth_data.store", "from mmearth_model.network.encoder import ConvNeXtV2"),
        ("mmearth_data.store", "from importlib import import_module\nimport_module('mmearth_model')"),
        ("mmearth_model.data.targets", "from mmearth_data.catalog.modality import Modality"),
        ("mmearth_model.data.targets", "from mmearth_data import store"),
        ("mmearth_model.data.targets", "import mmearth_data.store as s"),
    ],
)
def test_layering_finds(name: str, source: str) -> None:
    (found,) = rules.layering(module(name, source), OURS)
    assert found.module == name
    assert found.line == source.count("\n") + 1


@pytest.mark.parametrize(
    ("name", "source"),
    [
        (
            "mmearth_data.geography.ecoregions",
            "from mmearth_data.errors import InputError\nfrom mmearth_data.catalog.entries import load_catalog",
        ),
        ("mmearth_data.store.writer", "from mmearth_data.store.schema import StoreLayout\nfrom . import schema"),
        (
            "mmearth_data.building.kernel",
            "from mmearth_data.store import schema\nfrom mmearth_data.sources import base",
        ),
        ("mmearth_data.api", "from mmearth_data import __version__\nfrom mmearth_data.building import executor"),
        ("mmearth_data.cli", "from mmearth_data import build, __version__\nfrom mmearth_data.api import prepare"),
        ("mmearth_data.emulator.server.server", "from mmearth_data.planet import planet"),
        (
            "mmearth_model.data.targets",
            "from mmearth_data import Modality\nfrom mmearth_model.network.encoder import ConvNeXtV2\nimport torch",
        ),
    ],
)
def test_layering_leaves_alone(name: str, source: str) -> None:
    assert rules.layering(module(name, source), OURS) == []


def test_a_module_without_a_layer_is_noticed() -> None:
    with pytest.raises(LookupError, match="'shiny' is in no row"):
        rules.layering(module("mmearth_data.shiny", "from mmearth_data.errors import InputError"), OURS)


def test_relative_imports_are_resolved() -> None:
    package = module(
        "mmearth_data.store", "from . import schema\nfrom .. import errors\nfrom .schema import x", is_package=True
    )
    assert [i.target for i in rules.imports(package, OURS)] == [
        "mmearth_data.store.schema",
        "mmearth_data.errors",
        "mmearth_data.store.schema",
    ]
    inside = module("mmearth_data.store.writer", "from . import schema\nfrom ..errors import InputError")
    assert [i.target for i in rules.imports(inside, OURS)] == ["mmearth_data.store.schema", "mmearth_data.errors"]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("mmearth_data.loading.loader", "import zarr"),
        ("mmearth_data.loading.loader", "def f():\n    from zarr.codecs import BloscCodec"),
        ("mmearth_data.store.reader", "import dask.array as da"),
        ("mmearth_data.store.reader", "from distributed import Client"),
        ("mmearth_data.building.plan", "import h5py"),
        ("mmearth_data.store.index", "import matplotlib.pyplot as plt"),
        ("mmearth_data.sources.rasters", "import ee"),
        ("mmearth_data.sources.earthengines", "import ee"),
        ("mmearth_data.store.reader", "import rasterio"),
        ("mmearth_data.loading.loader", "import torch"),
        ("mmearth_data.catalog.tile", "import shapely"),
        ("mmearth_data.catalog.modality", "def f():\n    import yaml"),
        ("mmearth_data.catalog.modality", "import importlib\nimportlib.import_module('pandas')"),
        ("mmearth_model.evaluation.probes", "import h5py"),
        ("mmearth_model.evaluation.features", "import zarr"),
        ("mmearth_model.data.targets", "import rasterio"),
    ],
)
def test_libraries_finds(name: str, source: str) -> None:
    (found,) = rules.libraries(module(name, source), OURS)
    assert found.module == name


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("mmearth_data.store.codecs", "import zarr"),
        ("mmearth_data.loading.loader", "import dask\nimport numcodecs"),
        ("mmearth_data.sources.earthengine.client", "import ee"),
        ("mmearth_data.sources.rasters.files", "import rasterio"),
        ("mmearth_data.catalog.tile", "import math\nimport numpy as np\nfrom pyproj import Transformer"),
        ("mmearth_data.catalog.tile", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch"),
        ("mmearth_data.catalog.entries", "import yaml\nimport pydantic"),
        ("mmearth_model.tasks.geobench", "import h5py\nimport rasterio"),
        ("mmearth_model.network.mpmae", "import torch"),
    ],
)
def test_libraries_leaves_alone(name: str, source: str) -> None:
    assert rules.libraries(module(name, source), OURS) == []


NAMED = [
    'if modality.name == "sentinel1": pass',
    'if "sentinel1" == modality.name: pass',
    'if modality.name != "sentinel1": pass',
    'if name in ("sentinel1", "sentinel9"): pass',
    'ok = "sentinel2" in modalities',
    'keep = [m for m in ms if m.name not in {"sentinel2"}]',
    'ok = m.name in frozenset(["aster"])',
    'ok = m.name == "biome"',
    'ok = m.name.startswith("sentinel2")',
    'match m.name:\n    case "aster":\n        pass',
    'match m.name:\n    case "x" | "lat":\n        pass',
    'x = 1 if name == "aster" else 2',
]


@pytest.mark.parametrize("source", NAMED)
def test_name_comparisons_finds(source: str) -> None:
    assert len(rules.name_comparisons(module("mmearth_data.building.kernel", source), MODALITIES)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "if modality.kind is Kind.RASTER_MASK: pass",
        'if band == "B10": pass',
        'if "biome" in frame.columns: pass',
        'lon, lat = frame["lon"], frame["lat"]',
        'if axis == "lat": pass',
        'modalities = select(["sentinel2"])',
        'text = "sentinel2 == 3"',
        "if m.name == other.name: pass",
    ],
)
def test_name_comparisons_leaves_alone(source: str) -> None:
    assert rules.name_comparisons(module("mmearth_data.building.kernel", source), MODALITIES) == []


def test_name_tables_finds_tables_by_modality() -> None:
    source = 'NODATA = {"sentinel2": 0, "aster": -32768}\nCOLUMNS = {"lat": 1, "biome": 2}\nONE = {"sentinel2": 0}'
    (found,) = rules.name_tables(module("mmearth_data.store.schema", source), MODALITIES)
    assert found.line == 1


@pytest.mark.parametrize(
    "call",
    [
        "print(1)",
        "click.echo('x')",
        "console.print('x')",
        "Console().print('x')",
        "sys.stdout.write('x')",
        "sys.stderr.flush()",
        "pprint.pprint(1)",
    ],
)
def test_prints_finds_them_anywhere_but_in_cli(call: str) -> None:
    assert len(rules.prints(module("mmearth_data.building.executor", f"def f():\n    {call}"))) == 1
    for name in ("mmearth_data.cli", "mmearth_model.cli.mapping"):
        assert rules.prints(module(name, f"def f():\n    {call}")) == []
    assert rules.prints(module("mmearth_data.building.executor", "def f():\n    blueprint(1); log.info('print')")) == []


def test_body_lines_count_neither_docstring_nor_head() -> None:
    source = '''
        def f(
            a,
        ):
            """Say.

            More.
            """
            b = [
                a,
            ]
            return b
    '''
    (function,) = rules.functions(module("m", source))
    assert rules.body_lines(function) == 4
    (empty,) = rules.functions(module("m", 'def f():\n    """Say."""'))
    assert rules.body_lines(empty) == 0


def test_long_functions_finds_the_first_that_is_too_long() -> None:
    def of(lines: int) -> Module:
        return module("m", "def f():\n" + "    x = 1\n" * lines)

    assert rules.long_functions(of(rules.MAX_BODY_LINES)) == []
    assert len(rules.long_functions(of(rules.MAX_BODY_LINES + 1))) == 1


@pytest.mark.parametrize(
    ("source", "bare"),
    [
        ("def f(a) -> int: ...", "a"),
        ("def f(a: int): ...", "return"),
        ("def f(*a, **b) -> int: ...", "a, b"),
        ("class C:\n    def f(self, *, b) -> int: ...", "b"),
        ("class C:\n    def __init__(self): ...", "return"),
        ("async def f(): ...", "return"),
        ("def f() -> int:\n    def g(a: int): ...", "return"),
    ],
)
def test_missing_annotations_finds(source: str, bare: str) -> None:
    (found,) = rules.missing_annotations(module("m", source))
    assert found.what.endswith(f"does not annotate {bare}")


def test_missing_annotations_leaves_alone() -> None:
    source = "class C:\n    @classmethod\n    def f(cls, a: int, /, *b: int, c: int = 1, **d: int) -> int: ..."
    assert rules.missing_annotations(module("m", source)) == []


def test_computed_imports_stay_below_the_package() -> None:
    below = 'from importlib import import_module\ndef f(x):\n    return import_module(f"{__name__}.{x}")'
    anywhere = "from importlib import import_module\ndef f(x):\n    return import_module(x)"
    beside = 'from importlib import import_module\ndef f(x):\n    return import_module(f"mmearth_data.{x}")'
    assert rules.computed_imports(module("mmearth_data.store", below, is_package=True)) == []
    assert len(rules.computed_imports(module("mmearth_data.store.writer", below))) == 1
    assert len(rules.computed_imports(module("mmearth_data", anywhere, is_package=True))) == 1
    assert len(rules.computed_imports(module("mmearth_data.store", beside, is_package=True))) == 1


@pytest.mark.parametrize(
    ("rule", "bad", "good"),
    [
        (rules.environment_at_import, "import os\nX = os.environ['X']", "import os\ndef f():\n    return os.environ"),
        (rules.environment_at_import, "import os\nX = os.getenv('X')", "import os\nf = lambda: os.getenv('X')"),
        (rules.environment_at_import, "import os\ndef f(x=os.getenv('X')): ...", "import os\nX = os.sep"),
        (
            rules.swallowed_errors,
            "try:\n    f()\nexcept Exception:\n    pass",
            "try:\n    f()\nexcept OSError:\n    pass",
        ),
        (rules.ignored_arguments, "f = lambda a, b: a", "f = lambda a, *_: a\ng = lambda: 1"),
        (rules.ignored_arguments, "def f(report=lambda line: None): ...", "def f(report=None): ..."),
        (rules.swallowed_errors, "try:\n    f()\nexcept:\n    ...", "try:\n    f()\nexcept Exception:\n    raise"),
        (rules.swallowed_errors, "with suppress(Exception):\n    f()", "with suppress(KeyError):\n    f()"),
        (rules.unstaged_writes, "p.write_text('x')", "write_text(p, 'x')"),
        (rules.unstaged_writes, "p.open('w')", "p.open('rb')"),
        (rules.unstaged_writes, "open(p, mode='ab')", "open(p)"),
        (rules.unstaged_writes, "h5py.File(p, 'w')", "h5py.File(p, 'r')"),
        (rules.unstaged_writes, "os.open(p, os.O_CREAT | os.O_EXCL)", "os.open(p, os.O_RDONLY)"),
        (rules.unstaged_writes, "figure.savefig(p)", "png = io.BytesIO()\nfigure.savefig(png)"),
        (rules.unstaged_writes, "save_file(tensors, p)", "with staged_file(p) as b:\n    save_file(tensors, b)"),
        (rules.unstaged_writes, "beside.replace(p)", "text.replace('a', 'b')\ndataclasses.replace(plan)"),
        (
            rules.unstaged_writes,
            "np.savez(p, x)",
            "with staged_folder(p) as b:\n    for x in y:\n        np.savez(b / 'x', x)",
        ),
        (rules.unstaged_writes, "torch.save(x, p)", "with staged_stream(p) as s, other():\n    torch.save(x, s)"),
        (
            rules.unstaged_writes,
            "descriptor, name = tempfile.mkstemp()",
            "with tempfile.TemporaryDirectory() as folder:\n    f(folder)",
        ),
        (rules.arrow_threads, "pq.read_table(f)", "pq.ParquetFile(f).read(use_threads=False)"),
        (rules.arrow_threads, "from pyarrow.parquet import read_table", "from mmearth_data import read_table"),
        (rules.unverified_connections, "get(url, verify=False)", "get(url, verify=True)"),
        (
            rules.unverified_connections,
            "Http(disable_ssl_certificate_validation=True)",
            "Http(disable_ssl_certificate_validation=False)",
        ),
    ],
)
def test_habits(rule: Callable[[Module], list[rules.Violation]], bad: str, good: str) -> None:
    assert len(rule(module("m", bad))) == 1
    assert rule(module("m", good)) == []
