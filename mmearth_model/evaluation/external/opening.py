"""Open an external encoder: the file or factory that computes, and its description."""

from __future__ import annotations

import hashlib
import inspect
import json
import pkgutil
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from mmearth_data import FileInputError, InputError, load_catalog, short_path
from mmearth_model.evaluation.external.backbone import External, Reading, reason
from mmearth_model.evaluation.external.description import EncoderDescription, read_description
from mmearth_model.evaluation.external.encoder import ExternalEncoder
from mmearth_model.evaluation.external.exported import exported_encoder
from mmearth_model.evaluation.external.onnxfiles import OnnxModule, open_onnx
from mmearth_model.weights.checkpoints import Learned
from mmearth_model.weights.conversion import check_numbers, read_foreign

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OPTION = "--encoder"
ONNX, YAML = ".onnx", (".yaml", ".yml")
EXPECTED = "expected FILE.onnx or PACKAGE.MODULE:FACTORY, with =DESCRIPTION.yaml unless its description is next to it"


def open_encoder(
    program: str | Path | nn.Module, description: str | Path | EncoderDescription | None = None
) -> ExternalEncoder:
    """Open an external encoder, or an ONNX file exported by this toolkit.

    Parameters
    ----------
    program
        An ONNX file; ``package.module:factory``, which is imported from the Python path or the current folder and called with
        the ``arguments`` of the description, and returns a `torch.nn.Module`; or such a module itself. A text may end with
        ``=DESCRIPTION.yaml``. The module takes (B, C, H, W) and returns (B, D), (B, D, h, w), (B, N, D), a list of maps, or one
        of these by name.
    description
        Its bands, their units and normalisation, or a YAML file with them; see `EncoderDescription`. By default the YAML file
        with the same name next to the ONNX file, or the file FACTORY.yaml next to the module. ONNX files of
        `mmearth_model.export_program` contain their description.

    Returns
    -------
    ExternalEncoder
        For the argument ``encoders`` of `mmearth_model.evaluate`, and for fine-tuning.

    Raises
    ------
    InputError
        If there is no such program, it cannot be loaded, or its description does not fit.

    Examples
    --------
    >>> encoder = open_encoder("encoders:resnet50=resnet50.yaml")  # doctest: +SKIP
    >>> evaluate([], None, ["eurosat-rgb=EuroSAT_RGB"], encoders=[encoder])  # doctest: +SKIP
    """
    if isinstance(program, nn.Module):
        found, _ = _read(description, None)
        return _of_module(program, found, found.name or type(program).__name__, {})
    text, beside = _divided(str(program))
    if beside is not None and description is not None:
        raise InputError(f"{OPTION} {program}: expected one description, got {description} too; leave one out.")
    given = beside or description
    if Path(text).suffix == ONNX:
        return _of_file(Path(text), given)
    return _of_factory(text, given)


def _divided(text: str) -> tuple[str, Path | None]:
    """Program, and the YAML file named after ``=``."""
    program, equals, file = text.rpartition("=")
    if equals and Path(file).suffix in YAML:
        return program, Path(file)
    return text, None


def _read(given: str | Path | EncoderDescription | None, beside: Path | None) -> tuple[EncoderDescription, Path]:
    """Find the description, and the folder to which its paths are relative."""
    if isinstance(given, EncoderDescription):
        return given, Path()
    path = beside if given is None else Path(given)
    if path is None or (given is None and not path.is_file()):
        there = "" if path is None else f" at {short_path(path)}"
        raise InputError(f"{OPTION}: expected the description of the encoder{there}, got none; add =DESCRIPTION.yaml.")
    return read_description(path), path.parent


def _of_file(path: Path, given: str | Path | EncoderDescription | None) -> ExternalEncoder:
    file = open_onnx(path)
    own = file.description
    if own is not None:
        if given is not None:
            raise InputError(f"{OPTION}: expected no description for {path}, which describes itself; leave it out.")
        return exported_encoder(file, short_path(path), own)
    description, _ = _read(given, path.with_suffix(YAML[0]))
    unused = [name for name in ("arguments", "weights") if getattr(description, name)]
    if unused:
        raise InputError(
            f"{path}: expected no {unused[0]} in the description of an ONNX file, got some; leave them out."
        )
    module = OnnxModule(file.session, [file.picture_input(len(description.bands))])
    record = {"program": str(path), "digest": f"sha256:{file.digest}"}
    return _described(module, description, description.name or short_path(path), file.digest, record)


def _of_factory(text: str, given: str | Path | EncoderDescription | None) -> ExternalEncoder:
    with _importing():
        factory = _factory(text)
        file = _source_file(factory)
        beside = None if file is None else file.with_name(f"{text.partition(':')[2]}{YAML[0]}")
        description, folder = _read(given, beside)
        module = _made(text, factory, description)
    if description.weights is not None:
        _load_weights(module, folder / description.weights, text)
    return _of_module(module, description, description.name or text, {"program": text})


@contextmanager
def _importing() -> Iterator[None]:
    """Import from the current folder too."""
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        yield
    finally:
        if added and here in sys.path:
            sys.path.remove(here)


def _factory(text: str) -> Callable[..., Any]:
    """Import what a text names. Raises `InputError` if it cannot be imported or called."""
    module, colon, name = text.partition(":")
    if not colon or not all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
        raise InputError(f"{OPTION}: {EXPECTED}, got {text!r}; correct it.")
    try:
        found = pkgutil.resolve_name(text)
    except AttributeError:
        raise InputError(
            f"{OPTION} {text}: expected {name} in {module}, got a module without it; correct the name."
        ) from None
    except ImportError as error:
        raise InputError(
            f"{OPTION} {text}: expected a module on the Python path or in the current folder, got {reason(error)}; correct the "
            "name, or set PYTHONPATH."
        ) from error
    except (Exception, SystemExit) as error:  # scripts that end the interpreter
        raise InputError(
            f"{OPTION} {text}: expected a module that can be imported, got {reason(error)}; correct it."
        ) from error
    if not callable(found):
        raise InputError(
            f"{OPTION} {text}: expected a function or a class, got a {type(found).__name__}; name the factory of the encoder."
        )
    return found  # type: ignore[no-any-return]


def _made(text: str, factory: Callable[..., Any], description: EncoderDescription) -> nn.Module:
    """Call a factory, with the same random numbers every time."""
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            made = factory(**description.arguments)
    except (Exception, SystemExit) as error:  # scripts that end the interpreter
        raise InputError(
            f"{OPTION} {text}: expected a factory that returns a module, got {reason(error)}; correct it, or arguments in the "
            "description."
        ) from error
    if not isinstance(made, nn.Module):
        raise InputError(
            f"{OPTION} {text}: expected a factory that returns a torch.nn.Module, got a {type(made).__name__}; correct it."
        )
    return made


def _load_weights(module: nn.Module, file: Path, text: str) -> None:
    """Load weights into a module, by name. Raises `FileInputError` if names, shapes or values do not fit."""
    tensors, _ = read_foreign(file)
    check_numbers(file, tensors, infinite=True)  # attention masks are infinite
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise FileInputError(
            file, f"expected the weights of {text}, got {reason(error)}; correct weights or arguments."
        ) from None


def _of_module(
    module: nn.Module, description: EncoderDescription, name: str, record: dict[str, Any]
) -> ExternalEncoder:
    sources = _sources(module)
    found = _described(module, description, name, sources, record)
    return ExternalEncoder(
        found.name,
        found.backbone,
        found.described,
        found.learned,
        {**found.record, "digest": f"blake2b:{found.backbone.digest}"},
    )


def _sources(module: nn.Module) -> str:
    """Digest of the structure of a module and of the files that define its classes."""
    own = (each for each in {type(part) for part in module.modules()} if each.__module__.partition(".")[0] != "torch")
    files = {file for each in own if (file := _source_file(each)) is not None}
    content = hashlib.blake2b(f"{module} {torch.__version__}".encode(), digest_size=16)
    for file in sorted(files):
        content.update(file.read_bytes())
    return content.hexdigest()


def _source_file(each: Callable[..., Any]) -> Path | None:
    """File that defines a function or a class; None if there is none."""
    try:
        file = inspect.getsourcefile(each)
    except TypeError:
        return None
    return Path(file) if file is not None and Path(file).is_file() else None


def _described(
    network: nn.Module, description: EncoderDescription, name: str, digest: str, record: dict[str, Any]
) -> ExternalEncoder:
    fields = description.model_dump(
        mode="json", exclude_defaults=True, exclude={"name", "licence", "source", "learned"}
    )
    backbone = External(
        network,
        name=name,
        in_channels=len(description.bands),
        identity=f"{digest} {json.dumps(fields, sort_keys=True)}",
        reading=Reading(
            output=description.output,
            name=description.output_name,
            class_tokens=description.class_tokens,
            use_class=description.pool == "class",
        ),
        size_px=description.size_px,
    )
    known = load_catalog().modalities
    learned = tuple(Learned(each, known[each].kind) for each in description.learned)
    return ExternalEncoder(
        name,
        backbone,
        description,
        learned,
        {**record, "description": description.model_dump(mode="json", exclude_defaults=True)},
    )
