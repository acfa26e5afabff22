"""Compilation of inner loops: once, for declared types, without the GIL.

Functions called from other modules declare their types, so that they are compiled when their module is imported, and
never in a thread that a fork could interrupt. The result is cached next to the module or in the user's cache folder; if
neither is writable, each process compiles for itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

from numba import njit

if TYPE_CHECKING:
    from collections.abc import Callable

Function = TypeVar("Function", bound="Callable[..., Any]")


def compiled(*signatures: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a function for these signatures, and for no others."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return njit(list(signatures), nogil=True, cache=True)(function)
        except RuntimeError:  # raised by numba if it finds no folder for its cache
            return njit(list(signatures), nogil=True)(function)

    return decorate


def inner(function: Function) -> Function:
    """Compile a function as a part of its callers, so that it need not be loaded separately."""
    return cast("Function", njit(nogil=True)(function))
