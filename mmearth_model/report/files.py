"""Read the records that a report is made of, without PyTorch."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mmearth_data import FileInputError, reason_of

if TYPE_CHECKING:
    from pathlib import Path


def read_text(file: Path, expected: str) -> str:
    """Read a text file. Raises `FileInputError` when it cannot be read, with what was expected."""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise FileInputError(file, f"expected {expected}, got: {reason_of(error)}.") from None


def read_json(file: Path, expected: str) -> Any:  # noqa: ANN401 - JSON
    """Read a JSON file. Raises `FileInputError` when it cannot be read, with what was expected."""
    try:
        return json.loads(read_text(file, expected))
    except (ValueError, RecursionError) as error:
        raise FileInputError(file, f"expected {expected}, got damaged JSON: {reason_of(error)}.") from None


def read_object(file: Path, expected: str) -> dict[str, Any]:
    """Read a JSON object. Raises `FileInputError` when the file is anything else, with what was expected."""
    found = read_json(file, expected)
    if not isinstance(found, dict):
        raise FileInputError(file, f"expected {expected}, got JSON that is not an object; restore the file.")
    return found
