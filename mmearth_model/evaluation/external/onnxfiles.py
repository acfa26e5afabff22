"""ONNX files as modules, run by onnxruntime on the CPU."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import nn

from mmearth_data import FileInputError, InputError, reason_of
from mmearth_model.evaluation.external.backbone import reason
from mmearth_model.training.layout import PROGRAM_DESCRIPTION

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import onnxruntime
    from torch import Tensor

TYPES: dict[str, type[Any]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(uint16)": np.uint16,
    "tensor(int16)": np.int16,
    "tensor(uint32)": np.uint32,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}
"""Type of an input, as onnxruntime names it."""
ERRORS_ONLY = 3
"""Severity from which onnxruntime logs."""


@dataclass(frozen=True, slots=True)
class OnnxInput:
    """An input of an ONNX file, and the channels of the images that it takes."""

    name: str
    dtype: type[Any]
    shape: tuple[int | None, ...]  # None: any length

    @property
    def flat(self) -> bool:
        """Whether it has one value per image instead of a picture."""
        return len(self.shape) == 1


class OnnxModule(nn.Module):
    """An ONNX file as a module without weights of its own: (B, C, H, W) to its outputs by name.

    The channels of the images are divided among the inputs, in their order.
    """

    def __init__(self, session: onnxruntime.InferenceSession, inputs: Sequence[OnnxInput]) -> None:
        super().__init__()
        self.session, self.inputs = session, tuple(inputs)
        self.names = [output.name for output in session.get_outputs()]
        self.batch = next((each.shape[0] for each in inputs if each.shape and each.shape[0] is not None), None)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(B, C, H, W) to output -> its values, on the device of the images."""
        length = self.batch or len(images)
        parts = [self._run(part, length) for part in torch.split(images, length)]
        return {
            name: torch.from_numpy(np.concatenate([part[name] for part in parts])).to(images.device)
            for name in self.names
        }

    def _run(self, images: Tensor, length: int) -> dict[str, Any]:
        """Run a batch, filled with copies of its last image if the file takes more."""
        count = len(images)
        if count < length:
            images = torch.cat([images, images[-1:].expand(length - count, -1, -1, -1)])
        values = self.session.run(self.names, self._fed(images))
        return {name: _floats(value)[:count] for name, value in zip(self.names, values, strict=True)}

    def _fed(self, images: Tensor) -> dict[str, Any]:
        array, start, fed = images.detach().cpu().numpy(), 0, {}
        for each in self.inputs:
            channels = 1 if each.flat else array.shape[1] if len(self.inputs) == 1 else each.shape[1] or 1
            part = array[:, start : start + channels].astype(each.dtype)
            fed[each.name] = part[:, 0, 0, 0] if each.flat else part
            start += channels
        return fed

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


def _floats(value: Any) -> Any:  # noqa: ANN401 - an array, or another value of ONNX
    """Convert half and double precision to single precision; other types are checked where features are read."""
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype.kind == "f" else array


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """An opened ONNX file."""

    path: Path
    session: onnxruntime.InferenceSession
    digest: str  # of its bytes, and of the files of its weights

    @property
    def inputs(self) -> list[OnnxInput]:
        """Its inputs. Raises `FileInputError` if one is not an array of numbers."""
        return [self._input(each) for each in self.session.get_inputs()]

    def _input(self, each: Any) -> OnnxInput:  # noqa: ANN401 - onnxruntime has no types
        if each.type not in TYPES:
            raise FileInputError(
                self.path, f"expected the input {each.name} to be an array of numbers, got {each.type}."
            )
        return OnnxInput(each.name, TYPES[each.type], tuple(n if isinstance(n, int) else None for n in each.shape))

    @property
    def description(self) -> Mapping[str, Any] | None:
        """The description that `mmearth_model.export_program` writes; None if it was made by another program.

        Raises `FileInputError` if it is damaged.
        """
        text = self.session.get_modelmeta().custom_metadata_map.get(PROGRAM_DESCRIPTION)
        if text is None:
            return None
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise FileInputError(
                self.path,
                f"expected a description in the metadata {PROGRAM_DESCRIPTION}, got other text; export it again.",
            )
        return found

    def picture_input(self, bands: int) -> OnnxInput:
        """Return the one input, if it takes images of so many bands. Raises `FileInputError` otherwise."""
        inputs = self.inputs
        if len(inputs) != 1:
            names = ", ".join(each.name for each in inputs) or "none"
            raise FileInputError(
                self.path, f"expected one input of images, got {len(inputs)} ({names}); export the encoder with one."
            )
        found = inputs[0]
        if len(found.shape) != 4 or found.shape[1] not in (None, bands):
            raise FileInputError(
                self.path,
                f"expected an input of shape (batch, {bands}, rows, columns), one channel for each band of the description, got "
                f"{found.name} of shape ({', '.join('any' if n is None else str(n) for n in found.shape)}); correct bands.",
            )
        return found


def open_onnx(path: Path) -> OnnxFile:
    """Open an ONNX file.

    Raises
    ------
    InputError
        If onnxruntime is not installed, or the file is missing, damaged or of a version that it cannot read.
    """
    if find_spec("onnxruntime") is None:
        raise InputError(
            f'{path}: expected the library onnxruntime to read it, which is not installed; run: pip install "mmearth[export]"'
        )
    import onnxruntime

    digest = _digest(path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise FileInputError(path, f"expected an ONNX file, got {reason(error)}; export it again.") from error
    return OnnxFile(path, session, digest)


def _digest(path: Path) -> str:
    """SHA-256 digest of a file, and of files with weights next to it (NAME.data, NAME.onnx.data)."""
    content = hashlib.sha256()
    beside = [path.with_name(f"{path.name}.data"), path.with_suffix(".data")]
    try:
        for file in (path, *(file for file in beside if file.is_file())):
            with file.open("rb") as stream:
                content.update(hashlib.file_digest(stream, "sha256").digest())
    except (OSError, ValueError) as error:
        raise FileInputError(path, f"expected an ONNX file, got: {reason_of(error)}.") from None
    return content.hexdigest()
