"""The rules of the house as functions of source text, so that each can be shown a violation.

A rule takes one `Module` and returns what it finds wrong there. What a rule allows is listed in tables that
repeat the layer tables of CONTRIBUTING.md.
"""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DATA, MODEL = "mmearth_data", "mmearth_model"

ROWS: dict[str, tuple[tuple[int, frozenset[str]], ...]] = {
    DATA: (
        (0, frozenset({"errors", "resources", "words", "findings", "fields", "files"})),
        (1, frozenset({"terminal"})),
        (1, frozenset({"pages"})),
        (1, frozenset({"catalog", "build_fields"})),
        (2, frozenset({"geography", "rasterfile", "recipes"})),
        (3, frozenset({"sampling"})),
        (3, frozenset({"planet"})),
        (4, frozenset({"sources"})),
        (4, frozenset({"store"})),
        (5, frozenset({"building"})),
        (5, frozenset({"loading"})),
        (5, frozenset({"interchange"})),
        (5, frozenset({"emulator"})),
        (5, frozenset({"inspection", "browse"})),
        (6, frozenset({"api", "opened", ""})),  # "" is the package itself: its __init__ re-exports the public names
        (7, frozenset({"cli"})),
    ),
    MODEL: (
        (
            0,
            frozenset(
                {
                    "claims",
                    "devices",
                    "fields",
                    "formatting",
                    "geoparquet",
                    "published",
                    "saving",
                    "spreading",
                    "threads",
                }
            ),
        ),
        (1, frozenset({"network", "data", "datasets"})),
        (2, frozenset({"training", "weights"})),
        (2, frozenset({"benchmarking"})),
        (3, frozenset({"tasks"})),
        (4, frozenset({"heads"})),
        (5, frozenset({"evaluation"})),
        (5, frozenset({"programs"})),
        (6, frozenset({"experiments"})),
        (6, frozenset({"maps"})),
        (7, frozenset({"report"})),
        (8, frozenset({""})),
        (9, frozenset({"cli"})),
    ),
}
"""Package -> rows of its layer table: a room may import its own row and the layers below."""

FRONT_DOOR = frozenset({"", "api"})
"""All that the cli of mmearth_data may import of its own package."""

VALUES = frozenset(
    {"errors", "resources", "words", "catalog.modality", "catalog.tile", "files.listing", "files.writing"}
)
VALUE_LIBRARIES = frozenset({"numpy", "pyproj"})
"""Values and what everything needs: modules of `mmearth_data` that import these libraries only."""

ONLY_IN: dict[str, tuple[str, ...]] = {
    "zarr": ("mmearth_data.store", "mmearth_model.maps"),
    "dask": ("mmearth_data.building", "mmearth_data.loading"),
    "distributed": ("mmearth_data.building", "mmearth_data.loading", "mmearth_model.spreading"),
    # Users' images come in HDF5 too: `sources.chips` reads them there.
    "h5py": ("mmearth_data.interchange", "mmearth_data.sources.chips", "mmearth_model.tasks"),
    "matplotlib": ("mmearth_data.inspection", "mmearth_model"),
    "bokeh": ("mmearth_data.pages", "mmearth_data.inspection", "mmearth_data.browse", "mmearth_model"),
    "jinja2": ("mmearth_data.pages", "mmearth_data.browse"),
    "tornado": ("mmearth_data.browse",),
    # and JPEG and PNG files decode far faster with Pillow than with GDAL.
    "PIL": ("mmearth_data.inspection", "mmearth_data.browse", "mmearth_data.sources.chips", "mmearth_model"),
    "ee": ("mmearth_data.sources.earthengine",),
    "googleapiclient": ("mmearth_data.sources.earthengine",),
    "google": ("mmearth_data.sources.earthengine",),
    "rasterio": (
        "mmearth_data.emulator.server.encoding",
        "mmearth_data.rasterfile",
        "mmearth_data.sources.burning",
        "mmearth_data.sources.rasters",
        "mmearth_data.sources.chips",
        "mmearth_data.interchange",
        "mmearth_model.tasks",
        "mmearth_model.maps",
    ),
    "torch": ("mmearth_data.loading.tensors", "mmearth_model"),
    "lightning": ("mmearth_model",),
    "torchmetrics": ("mmearth_model",),
    "safetensors": ("mmearth_model",),
    "sklearn": ("mmearth_model",),
    "huggingface_hub": ("mmearth_model.weights.hub",),
    "onnxruntime": ("mmearth_model.evaluation.external",),
}
"""Library -> the packages that may import it. What is not named here is free above layer 0."""

AMBIGUOUS_NAMES = frozenset({"lat", "lon", "month", "biome", "eco_region"})
"""Modalities that share their name with a coordinate or a column; only a comparison with a `.name` is one of theirs."""

TEXT_TESTS = frozenset({"startswith", "endswith", "removeprefix", "removesuffix"})

MAX_BODY_LINES = 60
P90_BODY_LINES = 30


@dataclass(frozen=True)
class Module:
    """One source file.

    Attributes
    ----------
    name
        Dotted name, without ``__init__``.
    tree
        Its syntax tree.
    is_package
        True for an ``__init__``.
    """

    name: str
    tree: ast.Module
    is_package: bool = False

    @classmethod
    def parse(cls, name: str, source: str, *, is_package: bool = False) -> Module:
        """Module of a source text."""
        return cls(name, ast.parse(source), is_package)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """All nodes of the tree, in the order of `ast.walk`."""
        return list(ast.walk(self.tree))

    @property
    def part(self) -> str:
        """Name of the module or package directly below the distribution's package; "" for that package itself."""
        return [*self.name.split("."), ""][1]

    @property
    def is_cli(self) -> bool:
        """True for the room of each package that prints: `mmearth_data.cli` and what is in `mmearth_model.cli`."""
        return self.part == "cli"


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that a rule forbids."""

    module: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.module}:{self.line}: {self.what}"


@cache
def read_package(root: Path) -> tuple[Module, ...]:
    """All modules of a package, by name."""
    modules = []
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        modules.append(Module.parse(name, path.read_text(encoding="utf-8"), is_package=is_package))
    return tuple(modules)


# ---------------------------------------------------------------- imports


@dataclass(frozen=True, slots=True)
class Import:
    """One imported name.

    Attributes
    ----------
    target
        Module that is imported, dotted; of ``from a import b`` it is ``a.b`` where that is a module of ours.
    line
        Where.
    typing_only
        Under ``if TYPE_CHECKING``.
    """

    target: str
    line: int
    typing_only: bool

    @property
    def library(self) -> str:
        """First part of the dotted name."""
        return self.target.partition(".")[0]


@cache
def imports(module: Module, ours: frozenset[str]) -> list[Import]:
    """Every import of a module, those inside functions and under ``if TYPE_CHECKING`` included.

    Parameters
    ----------
    module
        Where to look.
    ours
        Dotted names of all modules of the distribution, to distinguish a submodule from a name in a module.
    """
    typing_nodes = {id(child) for node in module.nodes if _is_type_checking(node) for child in _body(node)}
    found = []
    for node in module.nodes:
        for target in _targets(node, module, ours):
            line = getattr(node, "lineno", 0)
            found.append(Import(target, line, id(node) in typing_nodes))
    return found


def _is_type_checking(node: ast.AST) -> bool:
    if not isinstance(node, ast.If):
        return False
    test = node.test
    name = test.attr if isinstance(test, ast.Attribute) else test.id if isinstance(test, ast.Name) else ""
    return name == "TYPE_CHECKING"


def _body(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.If):
        for statement in node.body:
            yield from ast.walk(statement)


def _targets(node: ast.AST, module: Module, ours: frozenset[str]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = _absolute(node, module)
        for alias in node.names:
            longer = f"{base}.{alias.name}"
            yield longer if longer in ours else base
    elif isinstance(node, ast.Call) and _called(node) in {"import_module", "__import__"}:
        first = node.args[0] if node.args else None
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            yield first.value


def _absolute(node: ast.ImportFrom, module: Module) -> str:
    if not node.level:
        return node.module or ""
    parts = module.name.split(".")
    kept = parts[: len(parts) - node.level + (1 if module.is_package else 0)]
    return ".".join([*kept, *([node.module] if node.module else [])])


def _called(node: ast.Call) -> str:
    """Last part of what is called."""
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def names_imported_from(module: Module, package: str) -> set[str]:
    """Return the names that a module takes from a package's front door."""
    return {
        alias.name
        for node in module.nodes
        if isinstance(node, ast.ImportFrom) and _absolute(node, module) == package
        for alias in node.names
    }


def layering(module: Module, ours: frozenset[str]) -> list[Violation]:
    """Layers import downwards only; mmearth_data never imports mmearth_model, which uses the front door only."""
    found = []
    for entry in imports(module, ours):
        problem = _layer_problem(module, entry)
        if problem:
            found.append(Violation(module.name, entry.line, f"imports {entry.target}: {problem}"))
    return list(dict.fromkeys(found))  # one statement may import several names


def _layer_problem(module: Module, entry: Import) -> str | None:
    home = module.name.partition(".")[0]
    if entry.library not in {DATA, MODEL}:
        return None
    if home == DATA and entry.library == MODEL:
        return f"{DATA} never imports {MODEL}"
    if home == MODEL and entry.library == DATA:
        return None if entry.target == DATA else f"{MODEL} uses the front door of {DATA} only"
    target = Module(entry.target, module.tree).part
    if home == DATA and module.part == "cli":
        return None if target in FRONT_DOOR else "cli uses the front door only"
    (layer, row), (below, other) = _row_of(home, module.part), _row_of(home, target)
    if other == row or below < layer:
        return _never(module, entry)
    return f"layer {layer} ({module.part or 'front door'}) may import lower layers only, not layer {below}"


def _never(module: Module, entry: Import) -> str | None:
    if module.part == "emulator" and entry.target.startswith(f"{DATA}.sources.earthengine"):
        return "the emulator must not know its client"
    return None


def _row_of(package: str, part: str) -> tuple[int, frozenset[str]]:
    for layer, row in ROWS[package]:
        if part in row:
            return layer, row
    raise LookupError(f"{part!r} is in no row of the layer table; give it a layer")


def libraries(module: Module, ours: frozenset[str]) -> list[Violation]:
    """Each library of the layer table is imported in its place only (for typing it may be named anywhere)."""
    found = []
    for entry in imports(module, ours):
        if entry.typing_only or entry.library in {DATA, MODEL} or entry.library in sys.stdlib_module_names:
            continue
        homes = ONLY_IN.get(entry.library)
        if homes is not None and not any(module.name == home or module.name.startswith(f"{home}.") for home in homes):
            found.append(Violation(module.name, entry.line, f"imports {entry.library}, which only {homes} may"))
        elif module.name.removeprefix(f"{DATA}.") in VALUES and entry.library not in VALUE_LIBRARIES:
            allowed = " and ".join(sorted(VALUE_LIBRARIES))
            found.append(Violation(module.name, entry.line, f"imports {entry.library}; values have {allowed} only"))
    return found


def computed_imports(module: Module) -> list[Violation]:
    """A computed name cannot be checked, unless it clearly belongs to a submodule of the module itself."""
    return [
        Violation(module.name, node.lineno, "imports a computed name")
        for node in module.nodes
        if isinstance(node, ast.Call)
        and _called(node) in {"import_module", "__import__"}
        and not (node.args and _is_checkable(node.args[0], module))
    ]


def _is_checkable(name: ast.expr, module: Module) -> bool:
    below = isinstance(name, ast.JoinedStr) and ast.unparse(name).startswith(("f'{__name__}.", 'f"{__name__}.'))
    return isinstance(name, ast.Constant) or (below and module.is_package)


# ---------------------------------------------------------------- a modality is a value, not a branch


def name_comparisons(module: Module, names: frozenset[str]) -> list[Violation]:
    """No code compares a modality's name with a literal: behaviour follows its kind and its other attributes."""
    found = []
    for node in module.nodes:
        for literal, operands in _comparisons(node):
            named = any(isinstance(operand, ast.Attribute) and operand.attr == "name" for operand in operands)
            if literal in names and (named or literal not in AMBIGUOUS_NAMES):
                line = getattr(node, "lineno", 0)
                found.append(Violation(module.name, line, f"asks for the modality {literal!r} by its name"))
    return found


def _comparisons(node: ast.AST) -> Iterator[tuple[str, list[ast.expr]]]:
    """Literal texts of a comparison, each with the operands that it is compared with."""
    if isinstance(node, ast.Compare):
        operands = [node.left, *node.comparators]
        for operand in operands:
            others = [other for other in operands if other is not operand]
            for literal in _literals(operand):
                yield literal, others
    elif isinstance(node, ast.Match):
        for case in node.cases:
            for part in ast.walk(case.pattern):
                if isinstance(part, ast.MatchValue):
                    for literal in _literals(part.value):
                        yield literal, [node.subject]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in TEXT_TESTS:
        for argument in node.args:
            for literal in _literals(argument):
                yield literal, [node.func.value]


def _literals(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, (ast.Tuple, ast.List, ast.Set)):
        for element in node.elts:
            yield from _literals(element)
    elif isinstance(node, ast.Call) and _called(node) in {"frozenset", "set", "tuple", "list"}:
        for argument in node.args:
            yield from _literals(argument)


def name_tables(module: Module, names: frozenset[str]) -> list[Violation]:
    """Code contains no table by modality: what is known of a modality is stored in the catalog."""
    found = []
    for node in module.nodes:
        if isinstance(node, ast.Dict):
            keys = {literal for key in node.keys if key is not None for literal in _literals(key)}
            known = sorted(keys & (names - AMBIGUOUS_NAMES))
            if len(known) > 1:
                found.append(Violation(module.name, node.lineno, f"has a table by modality: {', '.join(known)}"))
    return found


# ---------------------------------------------------------------- habits


def prints(module: Module) -> list[Violation]:
    """Only cli prints."""
    if module.is_cli:
        return []
    return [
        Violation(module.name, node.lineno, f"prints ({ast.unparse(node.func)}); return it, and let cli print")
        for node in module.nodes
        if isinstance(node, ast.Call) and _is_print(node)
    ]


def _is_print(node: ast.Call) -> bool:
    text = ast.unparse(node.func)
    streams = ("sys.stdout.", "sys.stderr.", "sys.__stdout__.", "sys.__stderr__.", "stdout.write", "stderr.write")
    return _called(node) in {"print", "pprint", "echo", "secho"} or text.startswith(streams)


WRITES_ITSELF = (
    f"{DATA}.files.writing",
    f"{DATA}.store.storage.local",  # publishes what a store consists of, in the same way, for buckets too
    f"{DATA}.store.index",  # fills the files that objects have staged
    f"{DATA}.store.tiles_frame",  # a method of geopandas, which writes as geopandas does, into open files too
    f"{DATA}.store.writer",  # moves the folder of a new store into place, never over another one
    f"{DATA}.store.storage.lock",  # a lock is no data: its file exists before it has a text
    f"{MODEL}.claims",
)
"""Modules that write without `mmearth_data.files.writing`."""

STAGED = frozenset({"staged_file", "staged_folder", "staged_stream"})
IN_MEMORY = frozenset({"BytesIO", "StringIO", "MemoryFile"})
WRITERS = frozenset(
    {
        *("write_text", "write_bytes", "touch", "tofile", "savefig", "imsave", "to_parquet", "to_csv"),
        *("to_file", "to_zarr", "to_netcdf", "save", "savez", "savez_compressed", "savetxt", "dump", "symlink_to"),
        *("move", "copy2", "copyfile", "copytree", "link", "hardlink_to", "renames"),
    }
)
"""Methods and functions of modules that write a file."""
WRITING_FUNCTIONS = frozenset({"save_file", "ParquetWriter", "mkstemp", "mkdtemp", "NamedTemporaryFile", "open_memmap"})
"""The same, under whatever name they are imported."""


def unstaged_writes(module: Module) -> list[Violation]:
    """Files are written by `mmearth_data.files.writing` alone, or by libraries into the file or folder that it has staged."""
    if module.name in WRITES_ITSELF:
        return []
    staged = {
        id(child)
        for node in module.nodes
        if isinstance(node, ast.With) and any(_calls(item.context_expr, STAGED) for item in node.items)
        for child in ast.walk(node)
    }
    memory = set(_names_in_memory(module))
    return [
        Violation(module.name, node.lineno, f"writes a file ({ast.unparse(node.func)}); use mmearth_data.files.writing")
        for node in module.nodes
        if isinstance(node, ast.Call)
        and id(node) not in staged
        and _writes(node)
        and not _uses(node, memory)
        and not (
            _called(node) == "rename" and module.name.startswith(f"{DATA}.sources.earthengine")
        )  # bands, not files
    ]


def _calls(node: ast.expr, names: frozenset[str]) -> bool:
    return isinstance(node, ast.Call) and _called(node) in names


def _names_in_memory(module: Module) -> Iterator[str]:
    """Names of buffers, which no disk is behind."""
    for node in module.nodes:
        if isinstance(node, ast.Assign) and _calls(node.value, IN_MEMORY):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.withitem) and _calls(node.context_expr, IN_MEMORY):
            yield getattr(node.optional_vars, "id", "")


def _uses(node: ast.Call, names: set[str]) -> bool:
    return any(isinstance(part, ast.Name) and part.id in names for part in ast.walk(node))


def _writes(node: ast.Call) -> bool:
    name, method = _called(node), isinstance(node.func, ast.Attribute)
    of = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
    if name in {"open", "File", "fdopen"}:
        return (of != "os" and bool(set(_mode(node)) & set("wax+"))) or "O_CREAT" in ast.unparse(node)
    if name in {"rename", "replace"}:  # of a path: texts are replaced by two arguments, and columns renamed by keywords
        one = len(node.args) == 1 and not node.keywords and not isinstance(node.args[0], (ast.List, ast.Dict))
        return of == "os" or (method and one and of != "dataclasses")
    if name == "write_table":
        return of in {"pq", "parquet", ""}
    if name == "copy":
        return of == "shutil" or of.endswith(".shutil")
    return name in WRITING_FUNCTIONS or (method and name in WRITERS)


def _mode(node: ast.Call) -> str:
    """Mode of an opening; nothing is read-only."""
    given = [keyword.value for keyword in node.keywords if keyword.arg == "mode"]
    position = 0 if _called(node) == "open" and isinstance(node.func, ast.Attribute) else 1
    given += node.args[position : position + 1]
    texts = [value.value for value in given if isinstance(value, ast.Constant) and isinstance(value.value, str)]
    return next((text for text in texts if len(text) <= len("w+b")), "")


Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(module: Module) -> Iterator[Function]:
    """Every function and method, nested ones included."""
    for node in module.nodes:
        if isinstance(node, Function):
            yield node


def body_lines(function: Function) -> int:
    """Lines of a body, without the docstring."""
    body = function.body
    if (
        isinstance(body[0], ast.Expr)
        and isinstance(body[0].value, ast.Constant)
        and isinstance(body[0].value.value, str)
    ):
        body = body[1:]
    if not body:
        return 0
    return (body[-1].end_lineno or 0) - body[0].lineno + 1


def long_functions(module: Module) -> list[Violation]:
    """No body is longer than a screen."""
    return [
        Violation(module.name, function.lineno, f"{function.name} has {body_lines(function)} lines; split it")
        for function in functions(module)
        if body_lines(function) > MAX_BODY_LINES
    ]


def missing_annotations(module: Module) -> list[Violation]:
    """Everything is annotated."""
    found = []
    for function in functions(module):
        arguments = function.args
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        bare = [a.arg for a in named if a is not None and a.annotation is None and a.arg not in {"self", "cls"}]
        if function.returns is None:
            bare.append("return")
        if bare:
            what = f"{function.name} does not annotate {', '.join(bare)}"
            found.append(Violation(module.name, function.lineno, what))
    return found


def ignored_arguments(module: Module) -> list[Violation]:
    """No lambda ignores an argument: what needs nothing is a plain value, or None."""
    found = []
    for node in module.nodes:
        if isinstance(node, ast.Lambda):
            used = {name.id for name in ast.walk(node.body) if isinstance(name, ast.Name)}
            ignored = [
                a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs) if a.arg not in used
            ]
            if ignored:
                found.append(Violation(module.name, node.lineno, f"a lambda ignores {', '.join(ignored)}"))
    return found


def environment_at_import(module: Module) -> list[Violation]:
    """The environment is read where it is used, never at import."""
    reads = [
        node
        for node in module.nodes
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"} and ast.unparse(node.value) == "os"
    ]
    inside = {
        id(node)
        for outer in (module.nodes if reads else ())
        if isinstance(outer, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for statement in (outer.body if isinstance(outer.body, list) else [outer.body])
        for node in ast.walk(statement)
    }
    return [
        Violation(module.name, node.lineno, f"reads os.{node.attr} at import")
        for node in reads
        if id(node) not in inside
    ]


def swallowed_errors(module: Module) -> list[Violation]:
    """No error is swallowed: no handler catches every error and continues as if there had been none."""
    found = []
    for node in module.nodes:
        if isinstance(node, ast.ExceptHandler) and _is_broad(node.type):
            if all(isinstance(s, (ast.Pass, ast.Continue)) or _is_text(s) for s in node.body):
                found.append(Violation(module.name, node.lineno, "swallows every error"))
        elif isinstance(node, ast.Call) and _called(node) == "suppress" and any(_is_broad(a) for a in node.args):
            found.append(Violation(module.name, node.lineno, "swallows every error"))
    return found


def _is_broad(kind: ast.expr | None) -> bool:
    return kind is None or ast.unparse(kind) in {"Exception", "BaseException"}


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def arrow_threads(module: Module) -> list[Violation]:
    """`pyarrow.parquet.read_table` is not used: its threads may outlive the program, and then abort it."""
    found = [
        node.lineno
        for node in module.nodes
        if (isinstance(node, ast.Call) and ast.unparse(node.func) in {"pq.read_table", "parquet.read_table"})
        or (
            isinstance(node, ast.ImportFrom)
            and node.module == "pyarrow.parquet"
            and "read_table" in {name.name for name in node.names}
        )
    ]
    return [
        Violation(module.name, line, "reads with Arrow's threads; use ParquetFile(...).read(use_threads=False)")
        for line in found
    ]


def unverified_connections(module: Module) -> list[Violation]:
    """TLS is always verified."""
    return [
        Violation(module.name, node.value.lineno, f"switches verification off ({node.arg}=False)")
        for node in module.nodes
        if isinstance(node, ast.keyword)
        and node.arg in {"verify", "verify_ssl", "disable_ssl_certificate_validation"}
        and isinstance(node.value, ast.Constant)
        and node.value.value is (node.arg == "disable_ssl_certificate_validation")
    ]
