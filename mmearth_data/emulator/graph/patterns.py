"""Regular expressions of requests. They are Java's, which the library `regex` resembles closely.

Unlike Python's own `re`, that library can stop a match: ``(a+)+b`` on forty letters would otherwise block the server for
days.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import regex

from mmearth_data.emulator.errors import EmulatorError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

LONGEST_MATCH_S = 1.0


class Pattern:
    """A compiled pattern whose matches take bounded time; messages begin with the algorithm that received it."""

    def __init__(self, function: str, text: str, flags: int = 0) -> None:
        self._function = function
        self._text = text
        try:
            self._pattern = regex.compile(text, flags)
        except (regex.error, RecursionError, OverflowError) as error:
            raise EmulatorError(f"{function}: Invalid regular expression '{text[:200]}': {error}.") from None

    def covers(self, text: str) -> bool:
        """Whether the pattern matches a text completely."""
        return self._bounded(text, self._pattern.fullmatch, text) is not None

    def first(self, text: str) -> list[Any]:
        """First match and its groups; an empty list if there is none."""
        found = self._bounded(text, self._pattern.search, text)
        return [] if found is None else [found.group(0), *found.groups()]

    def all(self, text: str) -> list[str]:
        """All matches."""
        return [*self._bounded(text, lambda **limit: [m.group(0) for m in self._pattern.finditer(text, **limit)])]

    def split(self, text: str) -> list[str]:
        """Parts between the matches, without the groups of the pattern."""
        return [*self._bounded(text, self._pattern.split, text)][:: self._pattern.groups + 1]

    def substituted(self, replacement: str, text: str, *, everywhere: bool) -> str:
        """Replace the first match, or all of them; ``$1`` is the first group and ``$0`` the whole match."""
        template = re.sub(r"\$(\d)", r"\\g<\1>", replacement.replace("\\", "\\\\"))
        try:
            return str(self._bounded(text, self._pattern.sub, template, text, 0 if everywhere else 1))
        except (regex.error, IndexError):
            raise EmulatorError(f"{self._function}: No such group in the replacement '{replacement[:200]}'.") from None

    def _bounded(self, text: str, match: Callable[..., Any], *arguments: Any) -> Any:  # noqa: ANN401 - of any match
        try:
            return match(*arguments, timeout=LONGEST_MATCH_S)
        except TimeoutError:
            raise EmulatorError(
                f"{self._function}: the emulator could not match '{self._text[:200]}' with a text of {len(text)} characters "
                "in bounded time; Earth Engine may. Simplify the pattern, or shorten the text."
            ) from None


def all_matching(function: str, text: str, names: Iterable[str]) -> list[str]:
    """Names that a pattern matches completely, in their order (see `Pattern`)."""
    pattern = Pattern(function, text)
    return [name for name in names if pattern.covers(name)]
