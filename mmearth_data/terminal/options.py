"""Options of both command lines: made from the fields of a recipe or written by hand, with types for their values."""

from __future__ import annotations

import math
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar, get_args, get_origin

import click
from annotated_types import Interval
from click.core import ParameterSource

from mmearth_data.errors import InputError
from mmearth_data.fields import Field, Group, fields_of, limits_text, within

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

Function = TypeVar("Function", bound="Callable[..., Any]")
MAX_NAME = 255
"""Characters of a file's name that file systems accept (POSIX: NAME_MAX)."""


def refuse(problem: str, param: click.Parameter | None) -> NoReturn:
    """Refuse the value of an option in one line, without click's reminder of the usage.

    Raises
    ------
    InputError
        Always, with the option.
    """
    raise InputError(f"{param.opts[-1] if param else 'value'}: {problem}")


class FilePath(click.Path):
    """Path given as an option: not empty, without characters that no path can have, and with a suffix if one is due.

    Parameters
    ----------
    *suffixes
        Suffixes of which the path must have one; the first is the one that messages recommend. Any without them.
    """

    def __init__(self, *suffixes: str) -> None:
        super().__init__(path_type=Path)
        self.suffixes = suffixes

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401 - click's signature
        """Read a path."""
        text = str(value)
        if not text or "\0" in text or max(map(len, Path(text).parts), default=0) > MAX_NAME:
            refuse(f"expected a path, got {text[:60]!r}; correct it.", param)
        if "://" in text:
            refuse("expected a path on this machine, got a URL; copy or download the file, and give its path.", param)
        if self.suffixes and not text.lower().endswith(self.suffixes):
            meant = f"{Path(text).stem or 'picture'}{self.suffixes[0]}"
            *others, last = self.suffixes
            known = f"{', '.join(others)} or {last}" if others else last
            refuse(f"expected the name of a {known} file, got {text!r}; write {meant}.", param)
        return super().convert(value, param, ctx)


class PathOrUrl(click.ParamType["str | Path"]):
    """Path as for `FilePath`, or a URL (kept as text: `Path` would drop one of its slashes)."""

    name = "path"

    def convert(self, value: str | Path, param: click.Parameter | None, ctx: click.Context | None) -> str | Path:
        """Read a path or URL."""
        path: str | Path = value if "://" in str(value) else FilePath().convert(value, param, ctx)
        return path


class Number(click.ParamType[float]):
    """Whole or finite number in a range."""

    def __init__(self, kind: type[int] | type[float], limits: Interval | None = None) -> None:
        self.kind, self.limits = kind, limits or Interval()
        self.name = "integer" if kind is int else "float"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401 - click's signature
        """Read a number."""
        words = ("a whole number" if self.kind is int else "a finite number", limits_text(self.limits, math.inf))
        try:
            number = self.kind(value)
        except ValueError:
            number = math.nan
        if number - number != 0 or not within(self.limits, number):  # the first is true for NaN and infinity
            refuse(f"expected {', '.join(filter(None, words))}, got {str(value)[:60]!r}; correct it.", param)
        return number


class Several(click.ParamType[list[str]]):
    """Texts separated by commas."""

    name = "list"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:  # noqa: ANN401 - click's signature
        """Split a text."""
        parts = value if isinstance(value, list) else [part.strip() for part in value.split(",") if part.strip()]
        if not parts:
            refuse(f"expected values separated by commas, got {value!r}; give one, or leave it out.", param)
        return parts


class Pair(click.ParamType[tuple[str, Any]]):
    """``NAME=VALUE``, in the form that the option's metavar shows; the values are of another type."""

    name = "pair"

    def __init__(self, value: click.ParamType[Any] = click.STRING) -> None:
        self.value = value

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:  # noqa: ANN401 - click's signature
        """Split a text at its first equals sign."""
        if isinstance(value, tuple):
            return value
        name, equals, text = value.partition("=")
        if not (name.strip() and equals and text.strip(" ,")):
            form = param.metavar if isinstance(param, click.Option) else "NAME=VALUE"
            refuse(f"expected {form}, got {value!r}.", param)
        return name.strip(), self.value.convert(text, param, ctx)


def merged(ctx: click.Context, param: click.Parameter, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any] | None:
    """Make a mapping of the values of a repeated option (a callback of click); None if it was not given."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            refuse(f"expected each name once, got {name} twice; keep one.", param)
        found[name] = value
    return found or None


class Option(click.Option):
    """Option with a section of the help, and with its default and range as text.

    Parameters
    ----------
    group
        Section of the help.
    shown
        Default as text, if it is not a value that click knows.
    """

    def __init__(self, *names: Any, group: Group = Group.OTHER, shown: str = "", **attributes: Any) -> None:
        super().__init__(*names, **attributes)
        self.group, self.shown = group, shown

    def get_help_extra(self, ctx: click.Context) -> Any:  # noqa: ANN401 - a private type of click
        """Return what help adds in brackets."""
        extra = super().get_help_extra(ctx)
        if self.shown:
            extra["default"] = self.shown
        if isinstance(self.type, Number) and limits_text(self.type.limits):
            extra["range"] = limits_text(self.type.limits)
        return extra


def option(
    form: str,
    group: Group,
    text: str,
    type: click.ParamType[Any] | None = None,
    *,
    name: str | None = None,
    **attributes: Any,
) -> Callable[[Function], Function]:
    """Make the decorator of an option.

    Parameters
    ----------
    form
        The option as help shows it: ``--out STORE``.
    group, text
        Section of the help, and the description there.
    type
        Type of its values, as click knows them. `Pair` makes it repeatable, with a mapping as its value.
    name
        Parameter of the command; by default as the option is spelt.
    **attributes
        Further attributes of `Option`.
    """
    flag, _, metavar = form.partition(" ")
    attributes = {"show_default": "default" in attributes, "metavar": metavar or None, **attributes}
    if isinstance(type, Pair):
        attributes |= {"multiple": True, "callback": merged}
    if attributes.get("multiple"):
        text += " Repeatable."
    return click.option(*filter(None, (flag, name)), cls=Option, group=group, help=text, type=type, **attributes)


def field_option(declaration: type, name: str, **changes: Any) -> Callable[[Function], Function]:
    """Make the decorator of the option of a declared field; its value is None if it was not given.

    Parameters
    ----------
    declaration, name
        Class that declares the field with `mmearth_data.fields.About`, and name of the field.
    **changes
        Attributes of the option that are different for this command.
    """
    field = fields_of(declaration)[name]
    form = f"{field.flag} {field.about.metavar or ''}".strip()
    attributes: dict[str, Any] = {"group": field.about.group, "text": field.about.text, "shown": field.default}
    attributes |= {"is_flag": True, "default": None} if field.kind is bool else {"multiple": field.about.repeated}
    return option(form, type=_type_of(field), name=name, **attributes | changes)


def field_options(declaration: type, *, without: Collection[str] = ()) -> Callable[[Function], Function]:
    """Make the decorator of the options of all declared fields, apart from those that only files set."""
    decorators = [
        field_option(declaration, name)
        for name, field in fields_of(declaration).items()
        if field.flag and name not in without
    ]
    return lambda command: reduce(lambda decorated, decorate: decorate(decorated), reversed(decorators), command)


def _type_of(field: Field) -> Any:  # noqa: ANN401 - any type of click
    """Type of an option's values."""
    kind, inner = get_origin(field.kind), get_args(field.kind)
    if kind is Literal:
        return click.Choice(inner)
    if kind is dict:
        return Pair(click.STRING if inner[1] is str else Several())
    if kind is tuple:
        choices = get_args(inner[0])
        return Several() if not field.about.repeated else click.Choice(choices) if choices else click.STRING
    return Number(field.kind, field.limits) if field.kind in (int, float) else {Path: FilePath()}.get(field.kind)


def refuse_unused(where: str, *names: str, remedy: str = "leave it out") -> None:
    """Refuse options that were given to the running command but have no effect.

    Parameters
    ----------
    where
        Condition under which they have no effect, such as ``without --share``.
    names
        Names of the command's parameters.
    remedy
        What to do.

    Raises
    ------
    InputError
        When one of them was given on the command line.
    """
    context = click.get_current_context()
    for parameter in context.command.params:
        if parameter.name in names and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE:
            raise InputError(f"{parameter.opts[-1]} has no effect {where}; {remedy}.")
