"""Read a JSON object that is too large for memory: 1.2 million entries of ``tile_info`` are gigabytes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mmearth_data.errors import FileInputError
from mmearth_data.words import reason_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedReader
    from pathlib import Path

CHUNK_BYTES = 2**22
MAX_ENTRY_BYTES = 2**26
"""Maximum length of a value; a longer one means that a quote or bracket is missing."""
SPACE = " \t\n\r"
NUMBER_CHARACTERS = "0123456789.eE+-"


class ObjectWalker:
    """Iterate over the entries of a JSON file's top-level object.

    The text is decoded as Latin-1, in which every byte is one character: positions are byte offsets, and JSON's
    structural characters are the same as in UTF-8.

    Parameters
    ----------
    path
        The file.
    chunk_bytes
        Bytes per read.
    """

    def __init__(self, path: Path, chunk_bytes: int = CHUNK_BYTES) -> None:
        self._path = path
        self._chunk_bytes = chunk_bytes
        self._decoder = json.JSONDecoder()

    def entries(self) -> Iterator[tuple[str, Any, int, int]]:
        """Key, value, and position of the value's text: offset and length in bytes.

        Raises
        ------
        FileInputError
            When the file is not one JSON object.
        """
        try:
            with self._path.open("rb") as file:
                yield from self._walk(file)
        except OSError as error:
            raise FileInputError(self._path, f"expected a file that can be read, got: {reason_of(error)}.") from None
        except ValueError as error:
            raise FileInputError(self._path, f"expected one JSON object, got: {error}; copy the file again.") from None

    def _walk(self, file: BufferedReader) -> Iterator[tuple[str, Any, int, int]]:
        text = _Window(file, self._chunk_bytes)
        text.expect("{")
        if text.peek() == "}":
            text.expect("}")
        else:
            while True:
                key, *_ = self._value(text)
                if not isinstance(key, str):
                    raise ValueError(f"the key {key!r} at byte {text.offset}")  # noqa: TRY004 - of the file, not the caller
                text.expect(":")
                yield (key, *self._value(text))
                if text.peek() == "}":
                    text.expect("}")
                    break
                text.expect(",")
        if text.peek():
            raise ValueError(f"more text after its end, at byte {text.offset}")

    def _value(self, text: _Window) -> tuple[Any, int, int]:
        text.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(text.text, text.position)
            except json.JSONDecodeError as error:
                if len(text.text) - text.position > MAX_ENTRY_BYTES or not text.fill():
                    raise ValueError(f"{error.msg} at byte {text.offset}") from None
                continue
            # A number at the end of the text read so far may continue in the rest: 0, 0.5, 0.5e3.
            whole = not isinstance(value, int | float) or text.text[end:].strip(NUMBER_CHARACTERS)
            if whole or not text.fill():
                break
        start, raw = text.offset, text.text[text.position : end]
        text.position = end
        if not raw.isascii():
            value = json.loads(raw.encode("latin-1"))
        return value, start, len(raw)


class _Window:
    """The part of a file that is in memory."""

    def __init__(self, file: BufferedReader, chunk_bytes: int) -> None:
        self._file = file
        self._chunk_bytes = chunk_bytes
        self.text = ""
        self.position = 0
        self._base = 0

    @property
    def offset(self) -> int:
        """Current position as a byte of the file."""
        return self._base + self.position

    def fill(self) -> bool:
        """Read more; False at the end of the file."""
        data = self._file.read(self._chunk_bytes)
        self._base += self.position
        self.text = self.text[self.position :] + data.decode("latin-1")
        self.position = 0
        return bool(data)

    def peek(self) -> str:
        """Next character other than white space, "" at the end of the file."""
        while True:
            while self.position < len(self.text) and self.text[self.position] in SPACE:
                self.position += 1
            if self.position < len(self.text):
                return self.text[self.position]
            if not self.fill():
                return ""

    def expect(self, character: str) -> None:
        """Skip an expected character.

        Raises
        ------
        ValueError
            If the next character is another one.
        """
        found = self.peek()
        if found != character:
            raise ValueError(f"{found!r} at byte {self.offset} instead of {character!r}")
        self.position += 1
