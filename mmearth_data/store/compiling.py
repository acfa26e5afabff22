"""How inner loops are compiled: once, for named types, without the interpreter's lock.

The types of what is called from outside are named, so that it is compiled when a module is imported, and never in a
thread that a fork could leave behind in the middle of it. The result is cached beside the module or in the user's cache folder; where neither can be
written, each process compiles for itself.
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
        except RuntimeError:  # numba's way to say that it found no folder for its cache
            return njit(list(signatures), nogil=True)(function)

    return decorate


def inner(function: Function) -> Function:
    """Compile a function for whatever calls it, as a part of that: nothing of its own has to be loaded."""
    return cast("Function", njit(nogil=True)(function))
