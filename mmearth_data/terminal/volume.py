"""The options ``--quiet`` and ``--verbose``, before or after the command's name."""

from __future__ import annotations

import logging
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

QUIET, VERBOSE = f"{__name__}.quiet", f"{__name__}.verbose"
"""Keys of a context's ``meta``."""
PROGRAMS = ("mmearth_data", "mmearth_model")
"""Loggers whose messages ``--verbose`` shows."""


def is_quiet() -> bool:
    """Whether the running command writes results and errors only."""
    context = click.get_current_context(silent=True)
    return context is not None and QUIET in context.meta


def volume_options(kind: type[click.Option], **attributes: Any) -> list[click.Parameter]:
    """Options ``--quiet`` and ``--verbose``, as a program and each of its commands have them.

    Parameters
    ----------
    kind
        Class of the options.
    **attributes
        Further attributes of them.
    """
    common: dict[str, Any] = {"is_flag": True, "expose_value": False, "is_eager": True, **attributes}
    return [
        kind(
            ["-q", "--quiet"],
            callback=_be_quiet,
            help="Write results and errors only: no progress, no notes.",
            **common,
        ),
        kind(["-v", "--verbose"], callback=_be_verbose, help="Also write log messages.", **common),
    ]


def _be_quiet(ctx: click.Context, param: click.Parameter, given: bool) -> None:
    _note(ctx, given, QUIET, VERBOSE)


def _be_verbose(ctx: click.Context, param: click.Parameter, given: bool) -> None:
    _note(ctx, given, VERBOSE, QUIET)


def _note(ctx: click.Context, given: bool, key: str, opposite: str) -> None:
    if not given or ctx.resilient_parsing:
        return
    if opposite in ctx.meta:
        raise click.UsageError("expected --quiet or --verbose, got both; leave one out.", ctx)
    ctx.meta[key] = True


@contextmanager
def shown_logs(ctx: click.Context) -> Iterator[None]:
    """Write the programs' log messages to stderr within the block, if the command has ``--verbose``."""
    loggers = [logging.getLogger(name) for name in PROGRAMS] if VERBOSE in ctx.meta else []
    handler = _ToStderr()
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s", "%H:%M:%S"))
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.INFO)
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)


class _ToStderr(logging.StreamHandler[Any]):
    """Handler that writes to the current stderr, and therefore above a live progress line."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message."""
        self.setStream(sys.stderr)
        super().emit(record)
