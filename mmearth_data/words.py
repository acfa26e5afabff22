"""Words that messages share."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """End of a message about an unknown name: the closest known name, or all of them.

    Parameters
    ----------
    name
        Name that is not known.
    known
        Names that are.

    Examples
    --------
    >>> did_you_mean("sentinel3", ["sentinel1", "aster"])
    "did you mean 'sentinel1'?"
    >>> did_you_mean("x", ["sentinel1", "aster"])
    'known are sentinel1, aster.'
    """
    options = list(known)
    close = difflib.get_close_matches(name, options, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(options) or 'none'}."
