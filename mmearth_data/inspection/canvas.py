"""A canvas for figures, as pixels or vectors, with matplotlib's renderers and fonts, without pyplot.

Positions are pixels from the upper-left corner; later calls paint over earlier ones. Matplotlib's global settings are
not used, so that a figure is the same on every machine.
"""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, get_font
from matplotlib.image import BboxImage, FigureImage
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Patch, PathPatch, Rectangle
from matplotlib.path import Path as Outline
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.transforms import Affine2D, Bbox, TransformedBbox, TransformWrapper

from mmearth_data.errors import FileInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.artist import Artist
    from numpy.typing import NDArray

DPI = 200
"""Pixels per inch of a sheet."""
FORMATS = ("png", "pdf", "svg")
"""Formats of pictures, by the ending of the file."""
INK, SOFT, FAINT, PAPER, WARNING = "#18181b", "#52525b", "#a1a1aa", "#ffffff", "#b42318"
"""Colours of text, secondary text, rules, background and warnings."""

SYNTHETIC = "SYNTHETIC"
DRAWING = threading.Lock()
"""Held while a figure is drawn: matplotlib is documented as not thread-safe (its fonts are shared)."""


Align = Literal["left", "center", "right"]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text on a sheet: its anchor on the baseline, in pixels."""

    words: str
    x: float
    y: float
    size: float
    bold: bool
    align: Align


class Sheet(Figure):
    """A figure that notebooks show at half its pixel size (sharp on dense screens), whether or not pyplot is used."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """PNG and its size in CSS pixels, as IPython expects them."""
        width, height = (round(side * self.dpi / 2) for side in self.get_size_inches())
        return encode_figure(self, "png"), {"width": width, "height": height}


class Canvas:
    """A white sheet of a fixed size in pixels.

    ``lines`` are its lines of text, in the order in which they were written.
    """

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._figure = Sheet(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=PAPER)
        self._figure.set_layout_engine("none")
        self._agg = FigureCanvasAgg(self._figure)
        self._scale = TransformWrapper(Affine2D())
        self._pictures: list[tuple[int, int, int, NDArray[np.uint8]]] = []
        self._painted = 0
        self.lines: list[Line] = []

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: float = 7.0,
        bold: bool = False,
        colour: str = INK,
        align: Align = "left",
        halo: str | None = None,
    ) -> None:
        """Write a line whose baseline runs through (x, y); ``size`` is in points."""
        words = spell(words)
        text = Text(
            x,
            self.height - y,
            words,
            color=colour,
            fontproperties=_font(size, bold),
            horizontalalignment=align,
            verticalalignment="baseline",
            usetex=False,
            parse_math=False,
            antialiased=True,
        )
        if halo:
            text.set_path_effects([withStroke(linewidth=1.6, foreground=halo)])
        self._add(text)
        self.lines.append(Line(words, x, y, size, bold, align))

    def heading(self, words: str, details: Sequence[str], margin: int, *, synthetic: bool, gap: int) -> None:
        """Write a title, after a badge if the pixels are synthetic, and details ``gap`` pixels below it."""
        x, baseline = margin, margin + 30
        if synthetic:
            width = text_width(SYNTHETIC, size=9, bold=True) + 36
            self.box(x, baseline - 34, width, 46, fill=WARNING, rounding=8)
            self.text(x + width / 2, baseline, SYNTHETIC, size=9, bold=True, colour=PAPER, align="center")
            x += int(width) + 22
        self.text(x, baseline, fit(words, self.width - margin - x, size=12, bold=True), size=12, bold=True)
        self.text(margin, baseline + gap, "   ·   ".join(details), size=8, colour=SOFT)

    def image(self, x: int, y: int, rgb: NDArray[np.uint8]) -> None:
        """Copy an image (y, x, 3) pixel by pixel, its upper-left corner at (x, y)."""
        picture = FigureImage(self._figure, offsetx=x, offsety=self.height - y - rgb.shape[0], origin="upper")
        picture.set_data(rgb)
        self._painted += 1
        picture.set_zorder(self._painted)
        self._pictures.append((self._painted, x, y, rgb))
        self._figure.images.append(picture)
        picture.stale_callback = None

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        *,
        fill: str | None = None,
        edge: str | None = None,
        line: float = 0.5,
        rounding: float = 0.0,
    ) -> None:
        """Draw a rectangle, its upper-left corner at (x, y); ``line`` is in points, ``rounding`` in pixels."""
        style: dict[str, Any] = {"facecolor": fill or "none", "edgecolor": edge or "none"}
        style["linewidth"] = line if edge else 0.0
        bottom = self.height - y - height
        patch: Patch
        if rounding:
            rounded = f"round,pad=0,rounding_size={rounding}"
            patch = FancyBboxPatch((x, bottom), width, height, boxstyle=rounded, antialiased=True, **style)
        else:
            patch = Rectangle((x, bottom), width, height, antialiased=False, snap=True, **style)
        self._add(patch)

    def line(
        self,
        x: NDArray[np.float64] | list[float],
        y: NDArray[np.float64] | list[float],
        *,
        colour: str = FAINT,
        width: float = 0.5,
        frame: NDArray[np.float64] | None = None,
    ) -> None:
        """Draw a line through points, inside ``frame``; ``width`` is in points."""
        style: dict[str, Any] = {"linestyle": "-", "linewidth": width, "color": colour, "marker": "None"}
        caps: dict[str, Any] = {"solid_capstyle": "butt", "solid_joinstyle": "round", "drawstyle": "default"}
        self._add(Line2D(np.asarray(x), self.height - np.asarray(y), antialiased=True, **style, **caps), frame)

    def markers(self, x: NDArray[np.float64], y: NDArray[np.float64], **style: Any) -> None:
        """Draw a marker at every point, in the style of matplotlib's markers; sizes are in points."""
        self._add(Line2D(x, self.height - y, linestyle="None", fillstyle="full", antialiased=True, **style))

    def polygons(
        self,
        rings: Sequence[NDArray[np.float64]],
        *,
        fill: str | None = None,
        edge: str | None = None,
        line: float = 0.5,
        frame: NDArray[np.float64] | None = None,
    ) -> None:
        """Fill closed rings of (n, 2) pixel positions, holes included, clipped to ``frame``."""
        if not rings:
            return
        style: dict[str, Any] = {"facecolor": fill or "none", "edgecolor": edge or "none", "linewidth": line}
        patch = PathPatch(self._outline(rings), antialiased=True, **style)
        self._add(patch, frame)

    def _outline(self, rings: Sequence[NDArray[np.float64]], *, closed: bool = True) -> Outline:
        vertices = np.concatenate([np.column_stack([ring[:, 0], self.height - ring[:, 1]]) for ring in rings])
        codes = np.full(len(vertices), Outline.LINETO, dtype=Outline.code_type)
        starts = np.cumsum([0, *(len(ring) for ring in rings[:-1])])
        codes[starts] = Outline.MOVETO
        if closed:
            codes[[*(starts[1:] - 1), -1]] = Outline.CLOSEPOLY
        return Outline(vertices, codes)

    def strokes(
        self,
        parts: Sequence[NDArray[np.float64]],
        *,
        colour: str,
        width: float,
        frame: NDArray[np.float64] | None = None,
    ) -> None:
        """Draw open lines of (n, 2) pixel positions, clipped to ``frame``; ``width`` is in points."""
        if parts:
            style: dict[str, Any] = {"facecolor": "none", "edgecolor": colour, "linewidth": width}
            self._add(PathPatch(self._outline(parts, closed=False), antialiased=True, **style), frame)

    def png(self) -> bytes:
        """Encode the sheet as PNG; the same drawing gives the same bytes."""
        buffer = io.BytesIO()
        self._agg.print_png(buffer, metadata={"Software": None})  # type: ignore[no-untyped-call]
        return buffer.getvalue()

    def encoded(self, form: str) -> bytes:
        """Encode the sheet in one of the `FORMATS`; nothing can be drawn on it afterwards."""
        return self.png() if form == "png" else encode_figure(self.figure(), form)

    def figure(self) -> Figure:
        """Matplotlib figure that can be saved at any resolution; nothing can be drawn on it afterwards."""
        # Pixels of the sheet as fractions of the figure, which stays correct if a notebook trims the margins.
        self._scale.set(Affine2D().scale(1 / self.width, 1 / self.height) + self._figure.transFigure)
        self._figure.images.clear()
        for order, x, y, rgb in self._pictures:
            box = Bbox.from_bounds(x, self.height - y - rgb.shape[0], rgb.shape[1], rgb.shape[0])
            picture = BboxImage(TransformedBbox(box, self._scale), interpolation="none", origin="upper")
            picture.set_data(rgb)
            picture.set_zorder(order)
            self._figure.add_artist(picture)
        self._pictures.clear()
        return self._figure

    def _add(self, artist: Artist, frame: NDArray[np.float64] | None = None) -> None:
        self._painted += 1
        artist.set_zorder(self._painted)
        artist.set_transform(self._scale)
        self._figure.add_artist(artist)
        if frame is not None:
            artist.set_clip_path(self._outline([frame]), self._scale)


def spell(words: str) -> str:
    """Replace characters that the font lacks: control characters by spaces, others by a replacement character."""
    font = get_font(_font_file(bold=False))
    plain = "".join(sign if sign.isprintable() else " " for sign in words)
    return "".join(sign if font.get_char_index(ord(sign)) else "\N{REPLACEMENT CHARACTER}" for sign in plain)


@lru_cache(maxsize=8192)
def text_width(words: str, *, size: float = 7.0, bold: bool = False) -> float:
    """Width of a line in pixels."""
    width, _, _ = _ruler().get_text_width_height_descent(spell(words), _font(size, bold), False)  # type: ignore[no-untyped-call]
    return float(width)


def fit(words: str, width: float, *, size: float = 7.0, bold: bool = False) -> str:
    """Shorten a line to a width in pixels, with an ellipsis."""
    if text_width(words, size=size, bold=bold) <= width:
        return words
    kept, cut = words, words
    while kept and text_width(cut, size=size, bold=bold) > width:
        kept = kept[:-1]
        cut = kept.rstrip().rstrip(" ,.;:&/") + "…"
    return cut


def wrap(words: str, width: float, *, size: float = 7.0, bold: bool = False) -> list[str]:
    """Break a text at spaces into lines that fit a width in pixels."""
    lines: list[str] = []
    for word in words.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size=size, bold=bold) <= width:
            lines[-1] = longer
        else:
            lines.append(fit(word, width, size=size, bold=bold))
    return lines


def encode_figure(figure: Figure, form: str, *, dpi: float | Literal["figure"] = "figure") -> bytes:
    """Encode a figure in one of the `FORMATS`, without its creation time.

    Text of SVG files is drawn as outlines, so that it looks the same everywhere.
    """
    metadata: dict[str, Any] = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}[form]
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "mmearth", "svg.fonttype": "path", "pdf.fonttype": 42}):
        figure.savefig(buffer, format=form, dpi=dpi, metadata=metadata)
    return buffer.getvalue()


def picture_format(path: str | Path) -> str:
    """Format of a picture, by the ending of its name: one of the `FORMATS`.

    Raises
    ------
    FileInputError
        For other endings.
    """
    path = Path(path)
    form = path.suffix.lower().removeprefix(".")
    if form not in FORMATS:
        found = path.suffix or "no suffix"
        raise FileInputError(path, f"expected the name of a PNG, PDF or SVG picture, got {found}; write .png.")
    return form


def check_picture(path: str | Path) -> Path:
    """Return the path of a picture that can be written; FileInputError unless its folder exists and its name fits."""
    path = Path(path)
    form = picture_format(path)
    if path.is_dir():
        raise FileInputError(path, f"expected a file to write, got a folder; name a .{form} file inside it.")
    if not path.parent.is_dir():
        raise FileInputError(path, f"expected an existing folder, got {path.parent}; create it first.")
    return path


@lru_cache(maxsize=64)
def _font(size: float, bold: bool) -> FontProperties:
    return FontProperties(fname=_font_file(bold=bold), size=size)


def _font_file(*, bold: bool) -> Path:
    """Font that ships with matplotlib, the same on every machine."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return Path(mpl.get_data_path()) / "fonts" / "ttf" / name


@lru_cache(maxsize=1)
def _ruler() -> RendererAgg:
    return RendererAgg(1, 1, DPI)  # type: ignore[no-untyped-call]
