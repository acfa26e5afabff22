"""`mmearth-train export`: write an encoder or a network as a program of ONNX or of PyTorch."""

from __future__ import annotations

import copy
import io
import json
import logging
import re
import warnings
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mmearth_data import InputError, check_output, write_bytes
from mmearth_model.heads.network import Network, load_weights
from mmearth_model.network.encoder import ConvNeXtV2
from mmearth_model.programs.describing import IMAGES, Content, describe, encoder_content, network_content
from mmearth_model.training.layout import CONFIG_FILE, LEVEL, PROGRAM_DESCRIPTION
from mmearth_model.weights.checkpoints import read_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import onnx_ir
    from torch import Tensor
    from torch.export import ExportedProgram

    from mmearth_model.programs.program import Program
    from mmearth_model.weights.checkpoints import Checkpoint

    Report = Callable[[int, int, str], None]

SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2"}
"""Format -> file extension."""
FEATURES = ("pooled", "map")
ONNX_LIBRARIES = ("onnx", "onnxscript")
ONNX_BYTES = 2**31 - 2**20
"""Maximum size of the weights in an ONNX file, a protocol buffer of at most 2 GiB."""
STEPS = 3
TRACED_PATCHES = 3
"""Side of the images that are traced; all lengths are above 1, since a tracer treats a length of 1 as constant."""


def export_program(
    source: str | Path | Checkpoint | ConvNeXtV2 | Network,
    out: str | Path,
    *,
    to: str,
    features: str | None = None,
    level: str | None = None,
    report: Report | None = None,
) -> Path:
    """Write an encoder or a network with its normalisation as a program that runs without this package.

    It takes values as stored, handles missing ones, and returns features or predictions, for any batch size and image size.
    The file describes its inputs and outputs as JSON: `mmearth` in the metadata of an ONNX file, `mmearth.json` in a .pt2 file.

    Parameters
    ----------
    source
        Folder or URL of a checkpoint, a run or a network (see `load_checkpoint`), or what was loaded from it.
    out
        New file: ``.onnx``, or ``.pt2`` for torch-export.
    to
        ``onnx``, for ONNX Runtime and others; or ``torch-export``, for `torch.export.load`.
    features
        For an encoder: ``pooled``, one vector per image (default), or ``map``, one per patch. Not for networks.
    level
        Product level of all images (``L1C``, ``L2A``), if the statistics depend on it; None makes it an input.
    report
        Called with the finished steps, their number and the current one.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        If the source has no statistics, an option does not apply to it, a library is missing, or the file exists.
    WriteFailed
        If the file cannot be written; nothing is left behind.
    """
    out = Path(out)
    _check(out, to)
    content = _content(source, features)
    _check_level(content, level)
    if to == "onnx":
        _check_size(content.head)
    _say(report, 0, "tracing")
    traced = _trace(content, level)
    description = json.dumps(describe(content, level), ensure_ascii=False)
    _say(report, 1, "translating")
    data = _as_onnx(traced, content, description) if to == "onnx" else _as_archive(traced, description)
    _say(report, 2, "writing")
    write_bytes(out, data)
    _say(report, STEPS, "")
    return out


def _say(report: Report | None, done: int, current: str) -> None:
    if report is not None:
        report(done, STEPS, current)


def _check(out: Path, to: str) -> None:
    if to not in SUFFIXES:
        raise InputError(f"--to: expected {' or '.join(SUFFIXES)}, got {to!r}; choose one of them.")
    if out.suffix != SUFFIXES[to]:
        raise InputError(f"--out: expected a file ending in {SUFFIXES[to]} with --to {to}, got {out}; rename it.")
    if out.exists():
        raise InputError(f"--out: expected a new path, got {out}, which exists; choose another.")
    check_output(out)
    missing = [name for name in ONNX_LIBRARIES if find_spec(name) is None] if to == "onnx" else []
    if missing:
        raise InputError(
            f'--to onnx: expected the library {missing[0]}, which is not installed; run: pip install "mmearth[export]"'
        )


def _content(source: str | Path | Checkpoint | ConvNeXtV2 | Network, features: str | None) -> Content:
    if features not in (None, *FEATURES):
        raise InputError(f"--features: expected {' or '.join(FEATURES)}, got {features!r}; choose one of them.")
    found = load_weights(source) if isinstance(source, str | Path) else source
    if isinstance(found, Network):
        if features is not None:
            raise InputError(
                f"--features: expected an encoder, got the network of {found.task}, whose outputs are predictions; "
                "leave it out."
            )
        return network_content(found, licence=None if found.folder is None else _licence(found.folder))
    if isinstance(found, ConvNeXtV2):
        return _encoder_content("the encoder", found, features, {})
    record = {
        "synthetic": found.config["store"].get("synthetic"),
        "licence": _licence(found.folder),
        "learned": [{"name": m.name, "kind": str(m.kind)} for m in found.learned],
    }
    return _encoder_content(found.name, found.encoder(), features, record)


def _encoder_content(name: str, encoder: ConvNeXtV2, features: str | None, record: dict[str, Any]) -> Content:
    if encoder.normaliser is None:
        raise InputError(
            f"{name}: expected weights with statistics for normalisation, got weights without; convert them again "
            "with --store STORE."
        )
    return encoder_content(encoder, encoder.normaliser, features or "pooled", record)


def _licence(folder: Path) -> str | None:
    """SPDX identifier of the weights' licence, if it was stated."""
    found: str | None = read_json(folder / CONFIG_FILE, "the configuration of weights").get("licence")
    return found


def _check_level(content: Content, level: str | None) -> None:
    levels = content.normaliser.levels
    if level is None or level in levels:
        return
    if levels:
        raise InputError(
            f"--level: expected a product level with statistics ({', '.join(levels)}), got {level}; choose one of them."
        )
    raise InputError("--level: expected none, since the statistics do not depend on the product level; leave it out.")


def _check_size(head: torch.nn.Module) -> None:
    size = sum(t.numel() * t.element_size() for t in (*head.parameters(), *head.buffers()))
    if size > ONNX_BYTES:
        raise InputError(
            f"--to onnx: expected weights of less than 2 GiB, the limit of ONNX files, got {size / 2**30:.1f} GiB; "
            "use --to torch-export."
        )


def example_inputs(content: Content, program: Program) -> dict[str, Tensor]:
    """Make inputs of the program: two images without data."""
    side = TRACED_PATCHES * content.patch_px
    inputs = {m.name: torch.from_numpy(m.empty((2, len(m.bands), side, side))) for m in content.inputs}
    return inputs | ({LEVEL: torch.zeros(2, dtype=torch.int64)} if program.takes_level else {})


def _trace(content: Content, level: str | None) -> ExportedProgram:
    program = content.program(level)
    inputs = example_inputs(content, program)
    batch, *patches = (torch.export.Dim(name, min=least) for name, least in (("batch", 1), ("rows", 2), ("columns", 2)))
    sides = {axis: content.patch_px * count for axis, count in zip((2, 3), patches, strict=True)}
    shapes = {name: {0: batch, **(sides if values.ndim == 4 else {})} for name, values in inputs.items()}
    # Users call .numpy() on its outputs; the caller's weights stay trainable.
    fixed = copy.deepcopy(program).requires_grad_(False)
    with torch.no_grad():
        traced = torch.export.export(fixed, (inputs,), dynamic_shapes={"inputs": shapes})
    for node in traced.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    return traced


def _as_archive(traced: ExportedProgram, description: str) -> bytes:
    stream = io.BytesIO()
    torch.export.save(traced, stream, extra_files={f"{PROGRAM_DESCRIPTION}.json": description})
    return stream.getvalue()


def _as_onnx(traced: ExportedProgram, content: Content, description: str) -> bytes:
    names = list(traced.example_inputs[0][0]) if traced.example_inputs else []
    with _quiet():
        made = torch.onnx.export(
            traced,
            input_names=names,
            output_names=[output["name"] for output in content.outputs],
            verbose=False,
        )
    model = made.model
    for node in model.graph:
        node.metadata_props.clear()  # paths of this machine
    _name_axes(model)
    model.metadata_props.clear()
    model.metadata_props[PROGRAM_DESCRIPTION] = description
    data: bytes = made.model_proto.SerializeToString()
    return data


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's warnings about its own use of PyTorch and about what it does not optimise."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", *ONNX_LIBRARIES)]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _name_axes(model: onnx_ir.Model) -> None:
    """Name the axes of variable length, which the tracer numbers: ``8*s57`` becomes ``8*rows``."""
    import onnx_ir

    shape = model.graph.inputs[0].shape or ()
    symbols = (str(shape[axis]).rpartition("*")[2] for axis in (0, 2, 3))
    names = dict(zip(symbols, IMAGES, strict=True))
    number = re.compile("|".join(rf"\b{symbol}\b" for symbol in names))
    for value in (*model.graph.inputs, *model.graph.outputs):
        lengths = [
            n if isinstance(n, int) else number.sub(lambda found: names[found.group()], str(n))
            for n in value.shape or ()
        ]
        value.shape = onnx_ir.Shape(lengths)
