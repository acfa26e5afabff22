"""What the result of an operation inherits from its input image: properties, footprint, and asset id.

The table is applied to every call, so that operations only make bands. Sources: "reference" is Earth Engine's
own description of the algorithm; "seen" refers to a public printout of a response of the service; "(memory)" is checked
by ``make check-live``. Algorithms without a row take no image, or do not make an image from one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mmearth_data.emulator.algorithms.arithmetic import BINARY, CASTS, UNARY
from mmearth_data.emulator.algorithms.image import Image

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mmearth_data.emulator.graph.registry import Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What a result keeps of its input."""

    of: str  # Argument with the input image, or a list whose first image it is
    properties: bool | None  # Whether the properties are kept; None if the operation changes them itself
    footprint: bool | None  # Whether the footprint is kept; None if the operation computes its own
    id: bool  # Whether asset id and version are kept
    source: str


def _rows(names: Iterable[str], kept: Kept) -> dict[str, Kept]:
    return dict.fromkeys((f"Image.{name}" for name in names), kept)


FOCAL = [f"focal{separator}" for separator in ("Max", "Mean", "Median", "Min", "Mode")]
FOCAL += [f"focal_{name}" for name in ("max", "mean", "median", "min", "mode")]
SEEN_CLIP = "seen: a clipped WorldCover map printed with id, version and properties, and the footprint of the clip"
SEEN_LTE = "seen: image.lte(40) printed without id, version and properties, its bands on the same grid"
LIKE_ARITHMETIC = "(memory): new values, as in arithmetic"
DESCRIBED = "reference: retains the metadata and footprint of the input; id (memory)"


def _lost(of: str, source: str) -> Kept:
    return Kept(of=of, properties=False, footprint=None, id=False, source=source)


def _cut(source: str) -> Kept:
    """Footprint changes, which the properties also show."""
    return Kept(of="input", properties=None, footprint=None, id=True, source=source)


def _stays(of: str, source: str, *, footprint: bool | None = True) -> Kept:
    return Kept(of=of, properties=True, footprint=footprint, id=True, source=source)


KEPT: dict[str, Kept] = {
    # bands are picked, named, added
    **_rows(["select", "rename", "regexpRename"], _stays("input", "(memory): a selection prints with the asset's id")),
    "Image.slice": _stays("image", "(memory): as select"),
    "Image.addBands": _stays("dstImg", "reference: the metadata and footprint of the first input; id (memory)"),
    "Image.cat": _stays("images", "reference: the metadata of the first image; id, footprint (memory)", footprint=None),
    "Image.linkCollection": Kept(
        of="input",
        properties=None,
        footprint=True,
        id=True,
        source="reference: the footprint of the source image, whose metadata is added to; id (memory)",
    ),
    # masks and edges
    **_rows(["mask", "updateMask", "selfMask"], _stays("image", DESCRIBED)),
    "Image.where": _stays("input", DESCRIBED),
    "Image.unmask": _stays("input", DESCRIBED + "; footprint only with sameFootprint", footprint=None),
    **_rows(["clip", "clipToCollection"], _cut(SEEN_CLIP + "; reference: metadata")),
    "Image.clipToBoundsAndScale": _cut("(memory): as clip"),
    # types and lattices
    **_rows(CASTS, _stays("value", "(memory): time-series tutorials read system:time_start after float()")),
    "Image.cast": _stays("image", "(memory): as the other casts"),
    "Image.resample": _stays("image", "reference: identical to its argument but for interpolation"),
    **_rows(["reproject", "setDefaultProjection", "reduceResolution"], _stays("image", "(memory)")),
    **_rows(["changeProj", "translate"], _stays("input", "(memory)", footprint=None)),
    # neighbours
    **_rows(
        ["reduceNeighborhood", "convolve", *FOCAL],
        _stays("image", "(memory): documented for neighborhoodToArray in the reference"),
    ),
    "Image.gradient": _stays("input", "(memory): as convolve"),
    **{f"Terrain{name}": _stays("input", "(memory)") for name in ("", ".products", ".slope", ".aspect", ".hillshade")},
    # pictures
    "Image.paint": _stays("image", "(memory)"),
    "Image.blend": _stays("bottom", "(memory)", footprint=None),
    "Image.visualize": _lost("image", "(memory): public scripts set the time again afterwards"),
    # new values
    **_rows(BINARY, _lost("image1", SEEN_LTE)),
    **_rows(UNARY, _lost("value", LIKE_ARITHMETIC)),
    "Image.normalizedDifference": _lost("input", "reference: the input image properties are not retained"),
    "Image.clamp": _lost("input", "seen: geefetch issue 103, properties gone after clamp"),
    "Image.unitScale": _lost("input", LIKE_ARITHMETIC),
    **_rows(["interpolate", "polynomial", "remap", "rgbToHsv", "hsvToRgb"], _lost("image", LIKE_ARITHMETIC)),
    "Image.reduce": _lost("image", "(memory): public scripts copy properties afterwards"),
    "Image.metadata": _lost("image", "reference: a constant image"),
}
"""Algorithm -> what it keeps. ``Image.expression`` keeps what arithmetic keeps: nothing."""


def settled(name: str, arguments: Mapping[str, Value], made: Value) -> Value:
    """Add to the result of a call what it keeps of its input image."""
    kept = KEPT.get(name)
    if kept is None or not isinstance(made, Image):
        return made
    given = arguments.get(kept.of)
    source = given[0] if isinstance(given, list) and given else given
    if not isinstance(source, Image):
        source = Image()
    known = source if kept.id else Image()
    return replace(
        made,
        properties=made.properties if kept.properties is None else source.properties if kept.properties else {},
        footprint=source.footprint if kept.footprint else made.footprint,
        id=known.id,
        version=known.version,
    )
