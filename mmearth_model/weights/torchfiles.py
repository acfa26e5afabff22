"""Read files written by ``torch.save``, without PyTorch's unpickler and without executing anything.

A file contains a pickle, which describes how tensors are assembled, and the numbers themselves. The pickle is read with
a table of allowed names (`mmearth_model.weights.pickles`): tensors, parameters and ordered dictionaries become records
of this module. Every other name becomes an inert `Placeholder`, which is allowed only inside ``args``, the options of
the run. These contain whatever the training program put there: paths, devices, NumPy scalars. A placeholder outside
``args`` makes the file invalid. Names that can run something (``os.system``, ``builtins.eval``) are refused everywhere,
because no legitimate file contains them.

Each tensor is checked against the size of the numbers in the file before any of them are read.
"""

from __future__ import annotations

import io
import mmap
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import prod
from types import NoneType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch

from mmearth_data import FileInputError, reason_of
from mmearth_model.weights.pickles import DAMAGED, NUMBERS, DType, Maker, Refused, load, number, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path
    from typing import BinaryIO

    from torch import Tensor

OPTIONS = "args"
ZIP = b"PK\x03\x04"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
"""First two pickles of a file written by PyTorch 1.5 or earlier (``torch.serialization``)."""
LENGTH_BYTES = 8
INT64 = 2**63
"""Upper bound on sizes, strides and offsets."""

STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "ComplexDoubleStorage": torch.complex128, "ComplexFloatStorage": torch.complex64, "UntypedStorage": torch.uint8,
}  # fmt: skip
DTYPES = {name: dtype for name, dtype in vars(torch).items() if isinstance(dtype, torch.dtype)}
DATA_TYPES = frozenset((
    "bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "long", "object", "range", "set",
    "slice", "str", "tuple", "type", "unicode", "xrange",
))  # fmt: skip
"""Builtins that only create values, with those of Python 2 (pickles of PyTorch name them); the others have effects."""
ACTING = frozenset((
    "asyncio", "bdb", "builtins", "cProfile", "code", "codeop", "commands", "ctypes", "importlib", "marshal",
    "multiprocessing", "nt", "operator", "os", "pdb", "pickle", "pip", "posix", "profile", "pty", "runpy", "shutil",
    "socket", "subprocess", "sys", "threading", "timeit", "webbrowser",
))  # fmt: skip
"""Modules whose functions run something, or give access to something that does."""
ATOMS = frozenset((NoneType, bool, int, float, complex, str, bytes, torch.dtype))


class Placeholder:
    """Placeholder for anything that a pickle names: stores arguments and state, does nothing."""

    called: ClassVar[str] = ""
    arguments: tuple[Any, ...]
    state: Any

    def __new__(cls, *arguments: Any, **_: Any) -> Self:
        """Accept any arguments, as the original might."""
        made = super().__new__(cls)
        made.arguments, made.state = arguments, None
        return made

    def __setstate__(self, state: object) -> None:
        self.state = state

    def __setitem__(self, key: object, value: object) -> None:
        """Accept an item of a mapping and drop it."""

    def __call__(self, *_: Any, **__: Any) -> Self:
        """Do nothing."""
        return self

    def append(self, item: object) -> None:
        """Accept an item of a sequence and drop it."""

    def extend(self, items: object) -> None:
        """Accept items of a sequence and drop them."""

    def add(self, item: object) -> None:
        """Accept an item of a set and drop it."""


class Ordered(dict[Any, Any]):
    """Replacement for `collections.OrderedDict`; anything else pickled with one (``_metadata``) is dropped."""

    def __setstate__(self, state: object) -> None:
        pass


@dataclass(frozen=True)
class StorageType:
    """Replacement for a class of storages."""

    dtype: torch.dtype

    def __setstate__(self, state: object) -> None:
        raise Refused("a type with a state")


@dataclass(slots=True)
class Storage:
    """A storage of a file whose numbers have not been read yet."""

    key: str
    dtype: torch.dtype
    count: int  # elements, according to the pickle


@dataclass(slots=True)
class StoredTensor:
    """A tensor of a file whose numbers have not been read yet."""

    storage: Storage
    offset: int  # of its first number, in elements of ``dtype``
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    def check(self, sizes: Mapping[str, int]) -> None:
        """Refuse a tensor that does not use numbers of its storage, each at most once; ``sizes`` are the file's."""
        storage = self.storage
        numbers = (self.offset, *self.size, *self.stride) if type(self.size) is type(self.stride) is tuple else (None,)
        if not isinstance(storage, Storage) or not all(type(n) is int and 0 <= n < INT64 for n in numbers):
            raise Refused("a tensor of no shape")
        if len(self.size) != len(self.stride):
            raise Refused("a tensor of no shape")
        has, rest = divmod(storage.count * storage.dtype.itemsize, self.dtype.itemsize)
        last = self.offset + sum((n - 1) * step for n, step in zip(self.size, self.stride, strict=True))
        if rest or prod(self.size) > has or (prod(self.size) and last >= has):
            raise Refused(f"a tensor of shape {self.size} in a storage of {has}")
        if sizes.get(storage.key) != storage.count * storage.dtype.itemsize:
            raise ValueError(f"storage {storage.key} of {storage.count} numbers has {sizes.get(storage.key)} bytes")


def _tensor(storage: Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> StoredTensor:
    return StoredTensor(storage, offset, size, stride, storage.dtype)


def _typed_tensor(
    storage: Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], _: object, __: object,
    dtype: torch.dtype, *___: object,
) -> StoredTensor:  # fmt: skip
    if not isinstance(dtype, torch.dtype):
        raise Refused("a tensor of no type")
    return StoredTensor(storage, offset, size, stride, dtype)


KNOWN: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): Maker(_tensor),
    ("torch._utils", "_rebuild_tensor_v3"): Maker(_typed_tensor),
    ("torch._utils", "_rebuild_parameter"): Maker(lambda tensor, *_: tensor),
    ("torch", "Size"): Maker(lambda sizes=(): tuple(sizes)),
    ("collections", "OrderedDict"): Ordered,
    ("_codecs", "encode"): NUMBERS["_codecs", "encode"],
    **{("torch", name): StorageType(dtype) for name, dtype in STORAGES.items()},
    ("torch.storage", "UntypedStorage"): StorageType(torch.uint8),
    **{("torch", name): dtype for name, dtype in DTYPES.items()},
}
"""(module, name) in a pickle -> its replacement here, wherever it occurs."""


@dataclass(frozen=True)
class TorchFile:
    """Content of a file of ``torch.save``: its structure has been checked, but no numbers have been read."""

    content: dict[Any, Any]  # mappings, sequences, plain values and `StoredTensor`; `Placeholder` inside ``args`` only
    sizes: Mapping[str, int]  # key of a storage in the file -> its bytes
    read: Callable[[str], bytes]  # numbers of a storage
    _storages: dict[str, Tensor] = field(default_factory=dict)

    def tensor(self, stored: StoredTensor) -> Tensor:
        """Read a tensor; tensors that share numbers in the file share memory."""
        key = stored.storage.key
        if key not in self._storages:
            content = bytearray(self.read(key))
            self._storages[key] = torch.frombuffer(content, dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)  # fmt: skip
        flat = self._storages[key].view(stored.dtype)
        return torch.as_strided(flat, stored.size, stored.stride, stored.offset)

    def options(self) -> dict[str, Any]:
        """``args`` as plain values, including NumPy's numbers; everything else in there is left out."""
        args = self.content.get(OPTIONS)
        found = args.state if isinstance(args, Placeholder) else args
        if not isinstance(found, dict):
            return {}
        values = {key: _number(value) for key, value in found.items() if isinstance(key, str)}
        return {key: value for key, value in values.items() if type(value) in ATOMS - {NoneType, torch.dtype}}


def read_torch(file: Path) -> TorchFile:
    """Read a file written by ``torch.save``, in the current format (a zip archive) or that of PyTorch 1.5 and earlier.

    Raises `FileInputError` when the file is missing, truncated or damaged, or names anything but tensors, containers
    and numbers outside ``args``; nothing in it was executed.
    """
    with refusing(file):
        with file.open("rb") as opened:
            zipped = opened.read(len(ZIP)) == ZIP
        found = _read_zip(file) if zipped else _read_legacy(file)
        _check(found)
    return found


@contextmanager
def refusing(file: Path) -> Iterator[None]:
    """Turn every error of a damaged or malicious file, or of numbers read later, into a `FileInputError`."""
    try:
        yield
    except Refused as error:
        raise FileInputError(
            file,
            f"expected tensors and options only, got a pickle that asks for {error}; nothing in it was executed. Use a "
            "file from a source that you trust.",
        ) from None
    except DAMAGED as error:
        raise FileInputError(
            file,
            f"expected a complete file of torch.save, got a damaged or other file ({ascii(str(error))[1:81]}); "
            "nothing in it was executed. Download it again.",
        ) from None
    except (OSError, RuntimeError, zipfile.BadZipFile) as error:
        # RuntimeError: an encrypted member, or one of a later version of the format
        raise FileInputError(
            file, f"expected a complete file of weights, got: {reason_of(error)[:200]}; download it again."
        ) from None


def _lookup(module: str, name: str) -> Any:  # noqa: ANN401 - the replacement of a name
    if (module, name) in KNOWN:
        return KNOWN[module, name]
    if module.partition(".")[0] in ACTING and not (module == "builtins" and name in DATA_TYPES):
        raise Refused(shown(module, name))
    return type("Placeholder", (Placeholder,), {"called": shown(module, name)})


def _storage(pid: Any) -> Storage:  # noqa: ANN401 - whatever was pickled
    """Storage of a persistent id: its kind, class, key, device and length, and formerly a view, which is always None."""
    if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage" or pid[5:] not in ((), (None,)):
        raise Refused("an object outside the pickle that is no storage")
    _, kind, key, _, count = pid[:5]
    if not isinstance(kind, StorageType) or not isinstance(key, str) or type(count) is not int or count < 0:
        raise Refused("a storage of no kind")
    return Storage(key, kind.dtype, count)


# ---------------------------------------------------------------- the two formats


def _read_zip(file: Path) -> TorchFile:
    with zipfile.ZipFile(file) as archive:
        members = {member.filename: member for member in archive.infolist()}
        packed = sum(member.file_size for member in members.values()) > file.stat().st_size
        if packed or any(member.compress_type != zipfile.ZIP_STORED for member in members.values()):
            raise zipfile.BadZipFile("a compressed archive, which torch.save does not write")
        pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise zipfile.BadZipFile("an archive without data.pkl")
        folder = pickles[0].removesuffix("/data.pkl")
        order = members.get(f"{folder}/byteorder")
        if order is not None and archive.read(order).strip() != b"little":
            raise zipfile.BadZipFile("numbers of a big-endian machine")
        content = load(io.BytesIO(archive.read(pickles[0])), _lookup, _storage)
    data = f"{folder}/data/"
    sizes = {name.removeprefix(data): m.file_size for name, m in members.items() if name.startswith(data)}
    return TorchFile(content, sizes, partial(_read_member, file, data))


def _read_member(file: Path, data: str, key: str) -> bytes:
    with zipfile.ZipFile(file) as archive:
        return archive.read(f"{data}{key}")


def _read_legacy(file: Path) -> TorchFile:
    named: dict[str, Storage] = {}

    def storage(pid: object) -> Storage:
        found = _storage(pid)
        return named.setdefault(found.key, found)

    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        stream: BinaryIO = mapped  # type: ignore[assignment] # only read, readline, seek and `tell` are used
        if (load(stream, _lookup), load(stream, _lookup)) != (LEGACY_MAGIC, LEGACY_PROTOCOL):
            raise ValueError("a pickle of another kind")
        if load(stream, _lookup).get("little_endian") is not True:
            raise ValueError("numbers of a big-endian machine")
        content, keys = load(stream, _lookup, storage), load(stream, _lookup)
        starts: dict[str, int] = {}
        sizes: dict[str, int] = {}
        position = mapped.tell()
        for key in keys:  # each storage after its length
            count = int.from_bytes(mapped[position : position + LENGTH_BYTES], "little")
            starts[key], sizes[key] = position + LENGTH_BYTES, count * named[key].dtype.itemsize
            position = starts[key] + sizes[key]
        if position > len(mapped):
            raise EOFError("it ends before its numbers do")

    def read(key: str) -> bytes:
        with file.open("rb") as opened:
            opened.seek(starts[key])
            return opened.read(sizes[key])

    return TorchFile(content, sizes, read)


# ---------------------------------------------------------------- what may occur


def _check(found: TorchFile) -> None:
    """Refuse placeholders outside the options, and tensors whose numbers do not match those in the file."""
    if not isinstance(found.content, dict):
        raise Refused(f"{_named(found.content)} instead of a dictionary of weights")
    left = [part for key, value in found.content.items() for part in (key, value) if key != OPTIONS]
    seen: set[int] = set()
    while left:
        value = left.pop()
        if type(value) in ATOMS or id(value) in seen:
            continue
        seen.add(id(value))
        if type(value) in (dict, Ordered):
            left += [*value.keys(), *value.values()]
        elif type(value) in (list, tuple, set, frozenset):
            left += value
        elif isinstance(value, StoredTensor):
            value.check(found.sizes)
        else:
            raise Refused(f"{_named(value)} outside {OPTIONS}")


def _named(value: object) -> str:
    kind = value if isinstance(value, type) else type(value)
    return kind.called if issubclass(kind, Placeholder) else kind.__name__


def _number(value: Any) -> Any:  # noqa: ANN401 - any value
    """Turn a NumPy scalar into a number."""
    if not isinstance(value, Placeholder) or not value.called.endswith(".multiarray.scalar"):
        return value
    dtype, data = (*value.arguments, None, None)[:2]
    try:
        made = DType(*dtype.arguments)
        made.__setstate__(dtype.state)
        return number(made, data)
    except (*DAMAGED, Refused):
        return value
