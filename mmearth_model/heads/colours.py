"""Colours of the classes of a network, for maps."""

from __future__ import annotations

import colorsys
import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mmearth_model.heads.network import Output

PALETTE = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#8c8c8c")
"""Okabe and Ito 2008, "Color Universal Design", with grey for black."""
STEPS = (0.8191725134, 0.6710436067, 0.5497004779)
"""Steps of hue, lightness and saturation: multiples of them fill the cube evenly (Roberts 2018, sequence R3)."""


def class_colours(outputs: Sequence[Output]) -> tuple[str, ...]:
    """Display colour of each class, ``#rrggbb``: its own, or an unused one.

    The first eight unused colours are distinguishable by colour-blind readers; all classes get different colours.
    """
    chosen = _unused({output.colour.lower() for output in outputs if output.colour})
    return tuple(output.colour or next(chosen) for output in outputs)


def _unused(used: set[str]) -> Iterator[str]:
    """Yield the colours of `PALETTE`, then others, each once."""
    for colour in itertools.chain(PALETTE, map(_numbered, itertools.count())):
        if colour not in used:
            used.add(colour)
            yield colour


def _numbered(number: int) -> str:
    """Colour of a number, neither very light nor very dark."""
    hue, lightness, saturation = (number * step % 1 for step in STEPS)
    parts = colorsys.hls_to_rgb(hue, 0.3 + 0.4 * lightness, 0.4 + 0.6 * saturation)
    return "#" + "".join(f"{round(255 * part):02x}" for part in parts)
