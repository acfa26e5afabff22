"""Regular expressions of requests. They are Java's, which Python's resemble closely; those that could run on for ever are refused.

Python tries every way to match, and nothing can stop it meanwhile: ``(a+)+b`` on forty letters would hold up the whole
server for days.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from mmearth_data.emulator.errors import EmulatorError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MOST_STEPS = 10**7
"""Ways to match that may have to be tried: about a second."""
PIECE = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(|\)|\||[*+]|\{\d*,\d*\}|\{\d+\}|.", re.DOTALL)
"""One piece of a pattern: a sign after a backslash, a class, a bracket, a repetition, or any other sign."""


def compiled(function: str, regex: str, flags: int = 0) -> re.Pattern[str]:
    """Compile a pattern.

    Parameters
    ----------
    function
        Who asks; begins the message.
    regex
        The pattern.
    flags
        Python's.

    Raises
    ------
    EmulatorError
        When it is not valid.
    """
    try:
        return re.compile(regex, flags)
    except (re.error, RecursionError, OverflowError) as error:
        raise EmulatorError(f"{function}: Invalid regular expression '{regex[:200]}': {error}.") from None


def affordable(function: str, pattern: re.Pattern[str], text: str) -> str:
    """Return the text, if matching it cannot take long whatever it says.

    Parameters
    ----------
    function
        Who asks; begins the message.
    pattern, text
        What is to be matched.

    Raises
    ------
    EmulatorError
        When it could take more than ``MOST_STEPS``.
    """
    repeats, nested = _repeats(pattern.pattern)
    steps = 2.0 ** min(len(text), 100) if nested else float(len(text) + 1) ** min(repeats + 1, 30)
    if repeats and steps > MOST_STEPS and len(text) > 1:
        raise EmulatorError(
            f"{function}: the emulator cannot match '{pattern.pattern[:200]}' with a text of {len(text)} characters in "
            "bounded time; Earth Engine may. Repeat less within repetitions, or shorten the text."
        )
    return text


def all_matching(function: str, regex: str, names: Iterable[str]) -> list[str]:
    """Names that a pattern matches as a whole.

    Parameters
    ----------
    function
        Who asks; begins the message.
    regex
        The pattern.
    names
        To choose from, in their order.
    """
    pattern = compiled(function, regex)
    return [name for name in names if pattern.fullmatch(affordable(function, pattern, name))]


def substituted(function: str, pattern: re.Pattern[str], replacement: str, text: str, *, everywhere: bool) -> str:
    """Replace the first match of a pattern, or all of them.

    Parameters
    ----------
    function
        Who asks; begins the message.
    pattern
        What is replaced.
    replacement
        What comes instead, in which ``$1`` is the first group and ``$0`` the whole match.
    text
        Where.
    everywhere
        Whether all matches are replaced.

    Raises
    ------
    EmulatorError
        When the replacement names a group that the pattern lacks.
    """
    template = re.sub(r"\$(\d)", r"\\g<\1>", replacement.replace("\\", "\\\\"))
    try:
        return pattern.sub(template, text, count=0 if everywhere else 1)
    except (re.error, IndexError):
        raise EmulatorError(f"{function}: No such group in the replacement '{replacement[:200]}'.") from None


@lru_cache(maxsize=256)
def _repeats(regex: str) -> tuple[int, bool]:
    """Count the repetitions of no fixed length, and say whether one contains another, or alternatives."""
    count, nested, open_groups, closed = 0, False, [False], False
    for piece, following in _pieces(regex):
        if piece == "(":
            open_groups.append(False)
        elif piece == ")" and len(open_groups) > 1:
            closed = open_groups.pop()
            open_groups[-1] |= closed
            nested |= closed and _repeated(following)
        elif piece == "|":
            open_groups[-1] = True
        elif _repeated(piece):
            count += 1
            open_groups[-1] = True
    return count, nested


def _repeated(piece: str) -> bool:
    return piece in {"*", "+"} or (len(piece) > 2 and piece.startswith("{"))


def _pieces(regex: str) -> Iterator[tuple[str, str]]:
    """Every piece of a pattern with the one that follows it."""
    pieces = PIECE.findall(regex)
    yield from zip(pieces, [*pieces[1:], ""], strict=True)
