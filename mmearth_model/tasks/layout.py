"""Layout of a folder or a zip of rasters: one folder per class, with or without folders of a published split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from mmearth_data import InputError, is_data

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SUFFIXES = frozenset({".tif", ".tiff", ".jpg", ".jpeg", ".png", ".jp2"})
PART_NAMES = {"train": 0, "training": 0, "val": 1, "valid": 1, "validation": 1, "test": 2}
DEPTH = 5
"""Levels of folders that are listed, enough to describe an unknown layout in a message."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Rasters, with classes and parts from their folders."""

    items: tuple[str, ...]  # (N) paths of the rasters below the root, sorted
    labels: tuple[str, ...]  # (N) class of each
    parts: tuple[int, ...] | None  # (N) 0 train, 1 validation, 2 test; None if the folders do not divide the samples
    notes: tuple[str, ...] = ()


def folder_files(root: Path) -> list[str]:
    """Files below a folder, relative to it; links to folders are followed."""
    patterns = ("/".join("*" * depth) for depth in range(1, DEPTH + 1))
    return [path.relative_to(root).as_posix() for pattern in patterns for path in root.glob(pattern) if path.is_file()]


def arrange(root: Path, names: Iterable[str]) -> Layout:
    """Find classes and parts in the names of files.

    ``CLASS/*.tif``, or ``train/CLASS/*.tif`` with ``val`` (``valid``, ``validation``) and ``test`` next to it; either
    may be inside outer folders. Hidden files, and rasters next to the class folders, are left out.

    Raises `InputError` if there is no such layout, or a raster does not match it.
    """
    items = sorted({name for name in names if is_data(name) and PurePosixPath(name).suffix.lower() in SUFFIXES})
    folders = [PurePosixPath(item).parent.parts for item in items]
    while _wrapped(folders):
        folders = [parts[1:] for parts in folders]
    inside = [(item, parts) for item, parts in zip(items, folders, strict=True) if parts]
    if not inside:
        raise InputError(f"{root}: expected class/*.tif, a folder for each class, got no raster in any; see layout.")
    beside = [item for item, parts in zip(items, folders, strict=True) if not parts]
    notes = (f"ignored {len(beside)} rasters next to the class folders, such as {beside[0]}.",) if beside else ()
    divided = _divided(root, [parts for _, parts in inside])
    _check_depth(root, inside, divided)
    return Layout(
        items=tuple(item for item, _ in inside),
        labels=tuple(parts[-1].strip() for _, parts in inside),
        parts=tuple(PART_NAMES[parts[0].lower()] for _, parts in inside) if divided else None,
        notes=notes,
    )


def _wrapped(folders: Sequence[tuple[str, ...]]) -> bool:
    """Whether a single folder that is not a part contains all rasters, in folders."""
    tops = {parts[:1] for parts in folders}
    return len(tops) == 1 and any(len(parts) > 1 for parts in folders) and not _is_part(folders[0])


def _is_part(parts: tuple[str, ...]) -> bool:
    return parts[0].lower() in PART_NAMES


def _divided(root: Path, folders: Sequence[tuple[str, ...]]) -> bool:
    if any(len(parts) > 1 and _is_part(parts) for parts in folders):
        return True
    tops = {parts[0] for parts in folders}
    if len(tops) > 1 and all(_is_part(parts) for parts in folders):
        found = " and ".join(sorted(tops)[:2])
        raise InputError(
            f"{root}: expected a folder for each class in {found}, got rasters directly in them; move them into "
            "folders of their classes, or list them in a table."
        )
    return False


def _check_depth(root: Path, inside: Sequence[tuple[str, tuple[str, ...]]], divided: bool) -> None:
    depth = 2 if divided else 1
    wrong = [item for item, parts in inside if len(parts) != depth or (divided and not _is_part(parts))]
    if wrong:
        expected = "train, val or test, class, raster" if divided else "class, raster"
        raise InputError(
            f"{root}: expected every raster as {expected}, one folder in the other, got {wrong[0]}; move or delete it, or "
            "list the rasters in a table."
        )
