"""What the options of both command lines share: types of values, and options that have no effect."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from mmearth_data.errors import InputError

MAX_NAME = 255
"""Characters of a file's name that file systems accept (POSIX: NAME_MAX)."""


class FilePath(click.Path):
    """Path given as an option: not empty, and without characters that no path can have."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401 - click's signature
        """Read a path."""
        text = str(value)
        if not text or "\0" in text or max(map(len, Path(text).parts), default=0) > MAX_NAME:
            self.fail(f"expected a path, got {text[:60]!r}; correct it.", param, ctx)
        return super().convert(value, param, ctx)


class Finite(click.FloatRange):
    """Number given as an option: neither infinite nor NaN."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401 - click's signature
        """Read a number."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"expected a finite number, got {value}.", param, ctx)
        return number


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
    for option in context.command.params:
        if option.name in names and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE:
            raise InputError(
                f"{option.opts[-1]}: expected only where it is used, got it {where}, where it has no effect; {remedy}."
            )
