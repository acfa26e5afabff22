"""Match the images of all layers: the chips, their content, and their ids."""

from __future__ import annotations

import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from mmearth_data.catalog.tile import content_tile_id
from mmearth_data.errors import TileUnavailable
from mmearth_data.sources.chips.containers import digest_of
from mmearth_data.sources.chips.description import CHIP

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmearth_data.sources.chips.containers import Images
    from mmearth_data.sources.chips.description import Described, ImagesEntry

SHOWN = 5
"""Names that a note lists."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chip:
    """One chip: its name, and the image of each layer that has one."""

    name: str
    images: Mapping[int, str]
    """Position of the layer -> name of its image."""
    at: int
    """Position among all images of the first layer, which is the row of an array."""
    digest: bytes = b""
    """Digest of the content of its images."""

    def tile_id(self, size_px: int) -> int:
        """Id of its tile."""
        return content_tile_id(self.digest, size_px)


@dataclass(frozen=True, kw_only=True, slots=True)
class Matched:
    """All chips, and notes about them for the user."""

    chips: tuple[Chip, ...]
    notes: tuple[str, ...] = field(default=())


def match_chips(described: Described, images: Sequence[Images]) -> Matched:
    """Find the chips of the first layer, and the images of the others that belong to them.

    ``images`` has one entry per layer. Raises FileInputError if a pattern finds nothing, a chip has two images in one
    layer, or arrays have different lengths.
    """
    found = [
        _names(described, at, layer, of)
        for at, (layer, of) in enumerate(zip(described.file.modalities, images, strict=True))
    ]
    first, *others = found
    notes: list[str] = []
    for at, names in enumerate(others, 1):
        alone, entry = len(names.keys() - first.keys()), described.file.modalities[at]
        if not images[at].in_files and len(names) != len(first):
            problem = f"expected {len(first)} images, as for the first modality, got {len(names)} of {entry.modality}"
            raise described.refusal(f"{problem}; give arrays of the same length.", "modalities", at)
        if alone == len(names):
            problem = (
                f"no image of {entry.modality} has the name of a chip, such as {next(iter(first))!r}; correct {CHIP}"
            )
            raise described.refusal(f"{problem} in the paths.", "modalities", at, "path")
        notes += [
            f"{alone} images of {entry.modality} belong to no chip of the first modality and are not used."
        ] * bool(alone)
    chips = [
        Chip(name=name, at=at, images={k: names[name] for k, names in enumerate(found) if name in names})
        for at, name in enumerate(first)
    ]
    return _without_copies(
        [_digested(chip, digest) for chip, digest in zip(chips, _digests(chips, images), strict=True)], notes
    )


def _names(described: Described, at: int, entry: ImagesEntry, images: Images) -> dict[str, str]:
    """Chip -> image of one layer."""
    where = ("modalities", at, "path")
    if not images.in_files:
        return {name: name for name in images.names}
    shape = _shape(entry.path)
    found: dict[str, str] = {}
    for name in images.names:
        match = shape.fullmatch(name)
        if match is None:
            continue
        chip = match.groupdict().get("chip") or name
        if chip in found:
            problem = f"expected one image of {entry.modality} per chip, got {found[chip]} and {name}; make the path more specific."
            raise described.refusal(problem, *where)
        found[chip] = name
    if not found:
        some = f", such as {images.names[0]!r}" if images.names else ""
        problem = f"{entry.path!r} matches none of {len(images.names)} images (JPEG, PNG, TIFF, .npy){some}"
        raise described.refusal(f"{problem}; correct the path.", *where)
    if at and len(described.file.modalities) > 1 and CHIP not in entry.path:
        raise described.refusal(f"expected {CHIP}, the name that all images of a chip share; add it.", *where)
    return found


def _shape(pattern: str) -> re.Pattern[str]:
    """Regular expression of a path: ``*`` within a name, ``**`` and ``{chip}`` across folders."""
    wild = {CHIP: "(?P<chip>.+?)", "**": ".*", "*": "[^/]*"}
    parts = re.split(r"(\{chip\}|\*\*|\*)", pattern)
    return re.compile("".join(wild.get(part) or re.escape(part) for part in parts), re.DOTALL)


def _digests(chips: Sequence[Chip], images: Sequence[Images]) -> list[bytes]:
    with ThreadPoolExecutor() as pool:
        return list(pool.map(partial(_digest, images), chips, chunksize=64))


def _digest(images: Sequence[Images], chip: Chip) -> bytes:
    """Digest of the content of a chip; for a chip that cannot be read and will be left out, the digest of its name."""
    parts = []
    for at, name in chip.images.items():
        try:
            parts.append(images[at].digest(name))
        except TileUnavailable as refusal:
            parts.append(digest_of(b"unreadable", refusal.reason.encode(), name.encode("utf-8", "surrogateescape")))
    return parts[0] if len(parts) == 1 and 0 in chip.images and len(images) == 1 else digest_of(*parts)


def _digested(chip: Chip, digest: bytes) -> Chip:
    return Chip(name=chip.name, images=chip.images, at=chip.at, digest=digest)


def _without_copies(chips: Sequence[Chip], notes: Sequence[str]) -> Matched:
    """Keep the first of the chips with the same content, so that no test image is one of the training images."""
    first: dict[bytes, Chip] = {}
    copies = [(first[chip.digest], chip) for chip in chips if first.setdefault(chip.digest, chip) is not chip]
    if not copies:
        return Matched(chips=tuple(chips), notes=tuple(notes))
    some = ", ".join(f"{copy.name} (as {kept.name})" for kept, copy in copies[:SHOWN])
    more = f" and {len(copies) - SHOWN} more" if len(copies) > SHOWN else ""
    word = "image has" if len(copies) == 1 else "images have"
    note = f"{len(copies)} {word} the same content as another and {'is' if len(copies) == 1 else 'are'} left out: {some}{more}."
    return Matched(chips=tuple(first.values()), notes=(*notes, note))


class Names:
    """Finds chips by the names that tables and lists use: path, file name, or either without its suffix."""

    def __init__(self, names: Sequence[str]) -> None:
        self._at: dict[str, int] = {}
        forms = [_forms(name) for name in names]
        for level in range(len(forms[0]) if forms else 0):
            counts = Counter(form[level] for form in forms)
            for at, form in enumerate(forms):
                if counts[form[level]] == 1:
                    self._at.setdefault(form[level], at)

    def find(self, name: str) -> int | None:
        """Position of the chip with a name; None if there is none, or several."""
        return self._at.get(name.strip())


def _forms(name: str) -> tuple[str, str, str, str]:
    path = PurePosixPath(name)
    return (name, str(path.with_suffix("")) if path.suffix else name, path.name, path.stem)
