"""Examine figures as a reader does: the positions of text, and the colour of a pixel."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.image import imread

from mmearth_data.inspection.canvas import DPI, text_width

if TYPE_CHECKING:
    from mmearth_data.inspection.canvas import Canvas, Line

SHARE_LEFT_OF_ANCHOR = {"left": 0.0, "center": 0.5, "right": 1.0}


def pixels(png: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(y, x, 3) of a PNG."""
    return np.round(255 * imread(io.BytesIO(png), format="png")[..., :3]).astype(np.uint8)


def text_box(line: Line) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of a line; the height is that of capitals, without what hangs below."""
    width = text_width(line.words, size=line.size, bold=line.bold)
    left = line.x - width * SHARE_LEFT_OF_ANCHOR[line.align]
    return left, line.y - 0.73 * line.size * DPI / 72, left + width, line.y


def layout_problems(canvas: Canvas) -> list[str]:
    """Lines that leave the sheet, and pairs of lines that overlap."""
    boxes = [(line.words, text_box(line)) for line in canvas.lines if line.words]
    problems = [
        f"{words!r} leaves the sheet"
        for words, (left, top, right, bottom) in boxes
        if left < 0 or top < 0 or right > canvas.width or bottom > canvas.height
    ]
    for number, (words, (left, top, right, bottom)) in enumerate(boxes):
        for other, (left_2, top_2, right_2, bottom_2) in boxes[:number]:
            if left < right_2 and left_2 < right and top < bottom_2 and top_2 < bottom:
                problems.append(f"{words!r} overlaps {other!r}")
    return problems
