"""Tables and references that the documentation generates from the code and the catalog, so that they always agree.

Directives: ``fields`` (fields of recipes), ``model`` (fields of a file that a pydantic model reads), ``modalities``,
``modality-list``, ``tasks``, ``checkpoints``, ``recipes``, ``coordinates``, ``names``. Each writes Markdown, which the
page's own parser reads. The role ``autolink_or_code`` is the default role of docstrings: it links public names.
"""

from __future__ import annotations

import ast
import inspect
import math
import re
import textwrap
from importlib import import_module
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import click
import field_tables
import yaml
from docutils import nodes
from pydantic import BaseModel
from sphinx import addnodes
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode

import mmearth_data
import mmearth_model
from mmearth_data import BuildFields, Group, resource_path
from mmearth_model.fields import TrainFields

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from docutils.nodes import Node
    from pydantic.fields import FieldInfo
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

PACKAGES = (mmearth_data, mmearth_model)
SHORT_CODE = 24
"""Characters of code that stays on one line."""
LISTED_CLASSES = 50
"""Class tables up to this length are shown; the 846 ecoregions are not."""


# ---------------------------------------------------------------- Markdown


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Table in Markdown; bars and line breaks in cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cell(text) for text in line) + " |\n" for line in lines)


def cell(text: object) -> str:
    """Text of one cell."""
    return " ".join(str(text).split()).replace("|", "\\|")


def code(text: object) -> str:
    """Inline code; "" stays empty."""
    return f"`{text}`" if str(text) else ""


def from_docstring(text: str) -> str:
    """Text of a docstring as Markdown: double backticks become single ones."""
    return text.replace("``", "`").replace(" -> ", " → ")


# ---------------------------------------------------------------- fields of files


def descriptions(model: type) -> dict[str, str]:
    """Field -> description, from the docstring's section ``Attributes`` and from strings below the fields."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if base.__module__.startswith("mmearth"):
            found |= dict(_attributes_section(inspect.getdoc(base) or ""))
            found |= dict(_strings_below(base))
    return found


def _attributes_section(docstring: str) -> Iterator[tuple[str, str]]:
    _, found, section = docstring.partition("Attributes\n----------\n")
    if not found:
        return
    for names, text in re.findall(r"^(\w[\w, ]*)\n((?:(?:[ ]{4}.*)?\n?)+)", section, flags=re.MULTILINE):
        first, *others = names.split(", ")
        yield first, " ".join(text.split())
        yield from ((name, f"See ``{first}``.") for name in others)


def _strings_below(model: type) -> Iterator[tuple[str, str]]:
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(tree, ast.ClassDef)
    pending: list[str] = []
    for statement in tree.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            pending.append(statement.target.id)
        elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            yield from ((name, inspect.cleandoc(str(statement.value.value))) for name in pending[-1:])
            pending = []


def fields_table(model: type[BaseModel], described_by: type | None = None) -> str:
    """Table of the fields of a file; every field has a description, in its own class or in another one."""
    about = {**(descriptions(described_by) if described_by else {}), **descriptions(model)}
    rows = []
    for name, field in sorted(model.model_fields.items(), key=lambda item: not item[1].is_required()):
        spelt = field.alias or name
        rows.append([code(spelt), kind_of(field), default_of(field), from_docstring(about[name])])
    return markdown_table(["field", "type", "default", "meaning"], rows)


def default_of(field: FieldInfo) -> str:
    """Default as YAML shows it; "required" without one, "" for nothing."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return ""
    if value is None or value == "" or value in ((), [], {}):
        return ""
    return code(
        yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
        if not isinstance(value, tuple)
        else list(value)
    )


def kind_of(field: FieldInfo) -> str:
    """Type of a field as text, with its limits."""
    limits = {type(note).__name__.lower(): note for note in field.metadata}
    ends = [
        f"{name} {getattr(limits[key], key)}"
        for key, name in (("ge", "at least"), ("gt", "above"), ("le", "at most"))
        if key in limits
    ]
    return ", ".join([kind(field.annotation), *ends])


NAMES = {str: "text", int: "whole number", float: "number", bool: "true or false", Any: "any value"}
PLURALS = {str: "texts", int: "whole numbers", float: "numbers"}


def kind(annotation: Any) -> str:  # noqa: ANN401 - any annotation
    """Type as text."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation in NAMES:
        return NAMES[annotation]
    if origin is Annotated:
        return kind(inner[0])
    if origin is Literal:
        return ", ".join(code(value) for value in inner)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(kind(part) for part in inner if part is not NoneType))
    if origin is tuple and Ellipsis not in inner:
        return f"{len(inner)} {PLURALS.get(inner[0], kind(inner[0]))}"
    if origin in (list, tuple):
        return f"list of {PLURALS.get(inner[0], kind(inner[0]))}"
    if origin is dict:
        return f"mapping from {kind(inner[0])} to {kind(inner[1])}"
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    return getattr(annotation, "__name__", str(annotation))


# ---------------------------------------------------------------- directives


class Markdown(SphinxDirective):
    """Directive that writes Markdown."""

    optional_arguments = 2
    final_argument_whitespace = False

    def run(self) -> list[Node]:
        """Parse what `text` writes."""
        return self.parse_text_to_nodes(self.text(), allow_section_headings=True)

    def text(self) -> str:
        """Markdown of the directive."""
        raise NotImplementedError


def named(path: str) -> Any:  # noqa: ANN401 - any object
    """Object ``module:name``."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


class FieldsOfRecipes(Markdown):
    """Fields of recipes, as in ``pipelines/README.md``."""

    required_arguments = 1

    def text(self) -> str:
        """Markdown of the directive."""
        return re.sub(r"(?<![\w`-])(--[a-z][a-z-]*)", r"`\1`", field_tables.table(named(self.arguments[0])))


class FieldsOfFile(Markdown):
    """Fields that a pydantic model reads."""

    required_arguments = 1

    def text(self) -> str:
        """Markdown of the directive."""
        return fields_table(*map(named, self.arguments))


class Coordinates(Markdown):
    """Coordinates of the dimension ``tile``."""

    def text(self) -> str:
        """Markdown of the directive."""
        from mmearth_data.store.schema import COORDINATES

        rows = []
        for c in COORDINATES:
            attributes = {name: value for name, value in c.attributes.items() if name != "long_name"}
            shown = ", ".join(f"`{name}: {value}`" for name, value in attributes.items())
            rows.append(
                [
                    code(c.name),
                    c.dtype.name,
                    "NaN" if c.dtype.kind == "f" else int(c.empty),
                    c.attributes["long_name"],
                    shown,
                ]
            )
        return markdown_table(["array", "type", "empty rows", "meaning", "other attributes"], rows)


class Modalities(Markdown):
    """All modalities of the catalog."""

    def text(self) -> str:
        """Markdown of the directive."""
        rows = [
            [
                f"[{m.name}](#{m.name.lower().replace('_', '-')})",
                code(m.kind),
                ", ".join(m.bands) or f"{len(m.classes)} classes",
                f"{m.dtype.name}, {m.units}" if m.stored else "computed on read",
                "NaN" if math.isnan(m.nodata) else f"{m.nodata:g}",
                "yes" if m.enabled else "with `--modalities`",
            ]
            for m in mmearth_data.load_catalog().modalities.values()
        ]
        return markdown_table(["modality", "kind", "bands", "stored as", "no data", "built by default"], rows)


class ModalityList(Markdown):
    """A section for each modality: origin, roles, classes, licence."""

    def text(self) -> str:
        """Markdown of the directive."""
        return "\n\n".join(self.section(m) for m in mmearth_data.load_catalog().modalities.values())

    def section(self, m: mmearth_data.Modality) -> str:
        """Text of one modality."""
        assets = ", ".join(code(asset) for asset in m.asset.values())
        roles = [role for role, has in (("input of the encoder", m.input), ("pretext task", m.pretext)) if has]
        rows = {
            "what": m.long_name,
            "Earth Engine": assets or ("computed from " + ", ".join(m.derived_from) if m.derived_from else ""),
            "obtained by": code(m.recipe.get("name", "")),
            "resampling": m.resampling if m.kind.is_raster else "",
            "wavelengths": ", ".join(
                f"{band} {seen.centre_um * 1000:.4g} ± {seen.width_um * 500:.3g} nm"
                for band, seen in m.wavelengths.items()
            ),
            "frequency": f"{m.frequency_ghz:g} GHz" if m.frequency_ghz else "",
            "native pixels": native_pixels(m),
            "bands by level": "; ".join(f"{level}: {', '.join(bands)}" for level, bands in m.bands_by_level.items()),
            "roles": ", ".join(roles) or "none",
            "licence": f"[{m.licence.name}]({m.licence.url})",
            "attribution": m.licence.attribution,
            "DOI": f"[{m.doi}](https://doi.org/{m.doi})" if m.doi else "",
        }
        parts = [f"## {m.name}", markdown_table(["", ""], [row for row in rows.items() if row[1]])]
        if 0 < len(m.classes) <= LISTED_CLASSES:
            parts.append(
                markdown_table(["code", "class", "colour"], [[c.code, c.name, code(c.colour or "")] for c in m.classes])
            )
        return "\n\n".join(parts)


def native_pixels(m: mmearth_data.Modality) -> str:
    """Pixel sizes of a modality before resampling, and the bands of each if there are several."""
    sizes = sorted(set(m.native_m.values()))
    named = [", ".join(band for band, size in m.native_m.items() if size == one) for one in sizes]
    if len(sizes) == 1:
        return f"{sizes[0]:g} m"
    return "; ".join(f"{size:g} m: {bands}" for size, bands in zip(sizes, named, strict=True))


class Tasks(Markdown):
    """Task files that ship with the package."""

    def text(self) -> str:
        """Markdown of the directive."""
        from mmearth_model.tasks.spec import read_spec, task_names

        specs = [read_spec(name) for name in task_names()]
        rows = [
            [code(s.name), s.long_name, s.layout, s.kind, f"[source]({s.source})" if s.source else ""] for s in specs
        ]
        return markdown_table(["task", "data set", "layout", "kind", ""], rows)


class Checkpoints(Markdown):
    """Checkpoints that were released with MMEarth."""

    def text(self) -> str:
        """Markdown of the directive."""
        released = yaml.safe_load((resource_path("catalog") / "checkpoints.yaml").read_text(encoding="utf-8"))
        rows = [[code(name), entry["tiles"], entry["learned"]] for name, entry in released["checkpoints"].items()]
        return markdown_table(["name", "tiles", "learned"], rows)


class Recipes(Markdown):
    """Recipes of a folder of ``pipelines``, with their descriptions."""

    required_arguments = 1

    def text(self) -> str:
        """Markdown of the directive."""
        rows = []
        for file in sorted((resource_path("pipelines") / self.arguments[0]).glob("*.yaml")):
            text = file.read_text(encoding="utf-8")
            values = yaml.safe_load(text)
            comment = re.match(r"# (.*)", text)
            about = (
                values.get("description")
                or values.get("question")
                or (comment[1].split(": mmearth-")[0] if comment else "")
            )
            rows.append([code(file.stem), about])
        return markdown_table(["name", self.arguments[1] if len(self.arguments) > 1 else "what"], rows)


class Names(Markdown):
    """Public names that a page does not document one by one, with the first line of their docstring."""

    required_arguments = 1

    def text(self) -> str:
        """Markdown of the directive."""
        package = import_module(self.arguments[0])
        page = self.env.doc2path(self.env.docname)
        with open(page, encoding="utf-8") as file:  # noqa: PTH123 - a path of Sphinx
            shown = set(re.findall(rf"{package.__name__}\.(\w+)", file.read()))
        rows = []
        for name in package.__all__:
            if name not in shown and not name.startswith("_"):
                about = inspect.getdoc(getattr(package, name)) or ""
                rows.append([code(name), from_docstring(about.split("\n\n")[0])])
        return markdown_table(["name", "description"], rows)


# ---------------------------------------------------------------- options of commands


def options_by_group(app: Sphinx, ctx: click.Context, lines: list[str]) -> None:
    """Write the options of a command in the sections of its help, with defaults and ranges (an event of sphinx-click)."""
    sections: dict[Group, list[click.Option]] = {group: [] for group in Group}
    for option in ctx.command.params:
        if isinstance(option, click.Option) and not option.hidden:
            sections[getattr(option, "group", Group.OTHER)].append(option)
    lines.clear()
    for group, options in sections.items():
        if options:
            lines += [f"**{group}**", "", *(line for option in options for line in option_lines(option, ctx))]


def options_as_code(app: Sphinx, ctx: click.Context, lines: list[str]) -> None:
    """Write the options that a description names as code (an event of sphinx-click)."""
    lines[:] = [whole_as_code(line) if line.startswith("|") else as_code(line) for line in lines]


def whole_as_code(line: str) -> str:
    """Line of a line block: a command is code as a whole."""
    indent, command = re.fullmatch(r"(\|\s*)(.*)", line).groups()
    return f"{indent}``{command}``" if command.startswith("mmearth-") and not command.endswith(":") else line


def as_code(text: str) -> str:
    """Text in reStructuredText with the options that it names as code."""
    return re.sub(r"(?<![\w`-])(--[a-z][a-z-]*)", r"``\1``", text.replace("`", ""))


def option_lines(option: click.Option, ctx: click.Context) -> Iterator[str]:
    """Lines of one option in reStructuredText."""
    metavar = "" if option.is_flag else f" {option.make_metavar(ctx)}"
    extra = option.get_help_extra(ctx)
    notes = [f"default: {extra['default']}" if "default" in extra else "", str(extra.get("range", ""))]
    notes += ["required"] if option.required else []
    about = "; ".join(filter(None, notes))
    text = as_code((option.help or "").replace("*", "\\*")) + (f" [{about}]" if about else "")
    yield from (f".. option:: {', '.join(option.opts)}{metavar}", "", f"   {text}", "")


# ---------------------------------------------------------------- references


def autolink_or_code(
    name: str,
    rawtext: str,
    text: str,
    lineno: int,
    inliner: Any,  # noqa: ANN401 - as docutils calls it
    options: Any = None,  # noqa: ANN401
    content: Any = None,  # noqa: ANN401
) -> tuple[list[Node], list[Any]]:
    """Link a public name, shown as code; other texts are code alone."""
    shown = nodes.literal(rawtext, text)
    if not re.fullmatch(r"[\w.]+", text):
        return [shown], []
    return [addnodes.pending_xref(rawtext, shown, refdomain="py", reftype="obj", reftarget=text, refexplicit=False)], []


def public_name(app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, shown: nodes.Element) -> Node | None:
    """Resolve a name by its last part, wherever in a package it is defined, if it is public and documented."""
    if node.get("refdomain") != "py":
        return None
    name = node["reftarget"].rpartition(".")[2]
    objects = env.domains.python_domain.objects
    for package in PACKAGES:
        target = f"{package.__name__}.{name}"
        if name in package.__all__ and target in objects:
            entry = objects[target]
            return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, [shown], target)
    return None


def without_declarations(app: Sphinx, what: str, name: str, value: object, *_: object) -> tuple[str, str] | None:
    """Leave the fields of recipes out of signatures, where their declarations would fill a page (an event of autodoc)."""
    if inspect.isclass(value) and issubclass(value, (BuildFields, TrainFields)):
        return "(**fields)", ""
    return None


def polish(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Keep short code on one line (browsers would break options behind their hyphens), and make dashes of `` -- ``."""
    for text in list(doctree.findall(nodes.Text)):
        if " -- " in text and not isinstance(text.parent, (nodes.literal, nodes.literal_block)):
            text.parent.replace(text, nodes.Text(text.replace(" -- ", " \N{EN DASH} ")))
    for node in doctree.findall(nodes.literal):
        if len(node.astext()) <= SHORT_CODE:
            node["classes"].append("whole")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    directives = {
        "fields": FieldsOfRecipes,
        "model": FieldsOfFile,
        "coordinates": Coordinates,
        "modalities": Modalities,
        "modality-list": ModalityList,
        "tasks": Tasks,
        "checkpoints": Checkpoints,
        "recipes": Recipes,
        "names": Names,
    }
    for name, directive in directives.items():
        app.add_directive(name, directive)
    app.add_role("autolink_or_code", autolink_or_code)
    app.connect("missing-reference", public_name)
    app.connect("autodoc-process-signature", without_declarations)
    app.connect("doctree-resolved", polish)
    app.connect("sphinx-click-process-options", options_by_group)
    app.connect("sphinx-click-process-description", options_as_code)
    app.connect("sphinx-click-process-epilog", options_as_code)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
