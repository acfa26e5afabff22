"""Read untrusted pickles safely.

A pickle is a program that may call anything that it can name. Here, each name is looked up in the reader's own table,
which returns a class or an instance from this package that only stores its arguments: no name is ever imported, and
nothing that a pickle names is ever called.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

DAMAGED = (
    pickle.UnpicklingError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    EOFError,
    AttributeError,
    MemoryError,
    OverflowError,
    RecursionError,
)
"""Exceptions raised by a damaged or malicious pickle."""
MEMO = ("PUT", "BINPUT", "LONG_BINPUT")
PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}
"""Names of modules in pickles of protocol 2 and earlier, which PyTorch writes."""


class Refused(pickle.UnpicklingError):
    """A pickle asks for something that is not allowed."""


class Maker:
    """Calls our own function, with the pickle's arguments, where a pickle names a function; the pickle cannot change it."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: object) -> Any:  # noqa: ANN401 - whatever was pickled
        """Create the object that the pickle asks for."""
        return self._function(*arguments)

    def __setstate__(self, state: object) -> None:
        raise Refused("a function with a state")


class DType:
    """Replacement for `numpy.dtype`; plain numbers only."""

    def __init__(self, code: str, *_: Any) -> None:
        if not isinstance(code, str) or np.dtype(code).kind not in "biuf":
            raise Refused(f"an array of {code!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


def number(dtype: DType, data: bytes) -> Any:  # noqa: ANN401 - a number of any type
    """Read a NumPy scalar. Raises `Refused` when it is not a plain number."""
    if not isinstance(dtype, DType) or not isinstance(data, bytes):
        raise Refused("a scalar of objects")
    return np.frombuffer(data, dtype.dtype)[0].item()


def _latin(text: str, coding: str = "latin1") -> bytes:
    if not isinstance(text, str) or coding != "latin1":
        raise Refused(f"bytes in the coding {coding!r}")
    return text.encode("latin1")


NUMBERS: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): DType,
    **{(f"numpy.{core}.multiarray", "scalar"): Maker(number) for core in ("core", "_core")},
    ("_codecs", "encode"): Maker(_latin),
}
"""Constructors of pickled NumPy scalars, and of bytes in protocol 2."""


class _Unpickler(pickle.Unpickler):
    def __init__(
        self, data: bytes, lookup: Callable[[str, str], Any], persistent: Callable[[Any], Any] | None = None
    ) -> None:
        super().__init__(io.BytesIO(data))
        self._lookup = lookup
        self._persistent = persistent

    def find_class(self, module_name: str, global_name: str, /) -> Any:  # noqa: ANN401 - pickle's signature
        """Return only what the reader's table contains; nothing is imported."""
        return self._lookup(PYTHON_2.get(module_name, module_name), global_name)

    def persistent_load(self, pid: Any, /) -> Any:  # noqa: ANN401 - pickle's signature
        """Return only what the reader knows."""
        if self._persistent is None:
            raise Refused("an object outside the pickle")
        return self._persistent(pid)


def load(file: BinaryIO, lookup: Callable[[str, str], Any], persistent: Callable[[Any], Any] | None = None) -> Any:  # noqa: ANN401 - whatever was pickled
    """Load the pickle that starts at the current position of a file, and leave the position after its last byte.

    ``lookup`` maps (module, name) to a replacement, ``persistent`` an object outside the pickle; without it, there is
    none. Raises `Refused` when the pickle asks for something that the reader does not know.
    """
    start = file.tell()
    _scan(file)
    length = file.tell() - start
    file.seek(start)
    return _Unpickler(file.read(length), lookup, persistent).load()


def _scan(file: BinaryIO) -> None:
    """Refuse instructions that bypass the table, or that need more memory than the file justifies."""
    start = file.tell()
    for operation, argument, position in pickletools.genops(file):
        if operation.name.startswith("EXT"):
            raise Refused("an object by number")
        if operation.name in MEMO and isinstance(argument, int) and argument > (position or 0) - start:
            raise Refused("more memory than it has instructions")


def shown(module: str, name: str) -> str:
    """Name that a pickle asks for, safe to print on one line."""
    return ascii(f"{module}.{name}"[:80])[1:-1]
