"""Words of messages that both packages share."""

from __future__ import annotations

import difflib
from pathlib import Path
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


def short_path(path: str | Path) -> str:
    """Path as one types it in the current folder: relative where it is below, else as it is; URLs unchanged.

    Examples
    --------
    >>> short_path(Path("runs").absolute()), short_path("/data/x.zarr"), short_path("s3://b/x.zarr")
    ('runs', '/data/x.zarr', 's3://b/x.zarr')
    """
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path) != here and Path(path).is_relative_to(here) else str(path)
