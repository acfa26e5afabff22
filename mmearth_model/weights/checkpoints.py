"""Checkpoints: a folder of tensors (safetensors) and configuration (JSON), without pickles.

::

    CHECKPOINT/model.safetensors           weights of encoder, decoder and heads (``model.``) and of the loss (``losses.``)
    CHECKPOINT/config.json                 shape of the model, normalisation, recipe, store: everything needed to use it
    CHECKPOINT/README.md, item.json        model card and STAC item (see `mmearth_model.weights.cards`), which nothing reads
    CHECKPOINT/state/optimizer.safetensors optimiser state, only needed to continue the run
    CHECKPOINT/state/progress.json         position in the run, only needed to continue it
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mmearth_data import (
    FileInputError,
    InputError,
    Kind,
    open_store,
    reason_of,
    short_path,
    staged_file,
    write_text,
)
from mmearth_model.data.targets import Normaliser
from mmearth_model.network.encoder import ConvNeXtV2, EncoderConfig, Padding
from mmearth_model.network.losses import LossConfig, MultiTaskLoss
from mmearth_model.network.mpmae import MPMAE, MPMAEConfig
from mmearth_model.training.layout import CONFIG_FILE, MODEL_FILE, numbered, step_of
from mmearth_model.weights.cards.writing import write_cards
from mmearth_model.weights.conversion import DENSE_GRN_EPS, check_numbers, import_weights
from mmearth_model.weights.normalising import normaliser_of, with_statistics
from mmearth_model.weights.released import SUFFIXES, fetch, find_released
from mmearth_model.weights.remote import is_url, locate

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from torch import Tensor, nn

    from mmearth_data import Store
    from mmearth_model.weights.remote import Origin

Value = TypeVar("Value")
ENCODER_PREFIX = "model.encoder."
OPTIMIZER_FILE = "state/optimizer.safetensors"
PROGRESS_FILE = "state/progress.json"
MEANS = ("sums", "counts", "last")
"""Parts of the means of losses in the progress, each with one number per loss."""
FORMAT = 1
ARCHITECTURE = "mp-mae"
ENCODER_ONLY = "convnext-v2"
"""Architecture of an imported encoder without decoder and heads."""
NETWORK = "network"
"""Architecture of an encoder with a head for a task (`mmearth_model.heads.network`)."""
SECTIONS = ("model", "loss", "normaliser", "recipe", "store", "progress")


@dataclass(frozen=True, slots=True)
class Learned:
    """A modality that an encoder was trained on: predicted in pretraining, or the labels of fine-tuning."""

    name: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint on disk; its configuration has been read and checked, its tensors have not.

    Attributes
    ----------
    folder
        Its folder.
    config
        Content of ``config.json``.
    padding
        Padding of the encoder that replaces the checkpoint's own (see `load_checkpoint`).
    origin
        Where it was downloaded from; None for a folder on this machine.
    """

    folder: Path
    config: Mapping[str, Any]
    padding: Padding | None = None
    origin: Origin | None = None

    @property
    def name(self) -> str:
        """Its folder, or the URL that it was downloaded from, for display and records."""
        return short_path(self.folder) if self.origin is None else self.origin.url

    @property
    def store(self) -> Mapping[str, Any]:
        """Record of the store that it was trained on; see `mmearth_model.weights.store_record`."""
        found: Mapping[str, Any] = self.config["store"]
        return found

    @property
    def encoder_only(self) -> bool:
        """Whether it has neither decoder nor heads."""
        return bool(self.config["architecture"] == ENCODER_ONLY)

    @property
    def normaliser(self) -> Normaliser:
        """Conversion of raw batches to this model's input and targets.

        Raises `FileInputError` when the weights were imported without statistics.
        """
        if self.config["normaliser"] is None:
            raise FileInputError(
                self.folder / CONFIG_FILE,
                "expected statistics to normalise tiles with, got imported weights without; convert them again with "
                "--store STORE.",
            )
        return _of_file(self.folder / CONFIG_FILE, Normaliser.from_config, self.config["normaliser"])

    @property
    def model_config(self) -> MPMAEConfig:
        """Shape of the model."""
        if self.encoder_only:
            raise FileInputError(self.folder / CONFIG_FILE, "expected a complete MP-MAE, got an encoder alone.")
        return _of_file(self.folder / CONFIG_FILE, MPMAEConfig.from_dict, self.config["model"])

    @property
    def encoder_config(self) -> EncoderConfig:
        """Configuration of the encoder, including its padding."""
        own = (
            _of_file(self.folder / CONFIG_FILE, _encoder_of, self.config["model"])
            if self.encoder_only
            else self.model_config.encoder
        )
        return own if self.padding is None else dataclasses.replace(own, **padded(self.padding))

    @property
    def learned(self) -> tuple[Learned, ...]:
        """Modalities that were predicted while training; for the encoder of a network, also those of its labels."""
        if "learned" in self.config:
            return _of_file(self.folder / CONFIG_FILE, lambda config: learned_of(config["learned"]), self.config)
        normaliser = self.normaliser
        return tuple(Learned(name, normaliser.modalities[name].kind) for name in normaliser.targets)

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return int(self.config["recipe"].get("seed", 0))

    def tensors(self) -> dict[str, Tensor]:
        """All weights by name; for a network, only those of its encoder.

        Raises `FileInputError` if the file is missing, truncated or damaged, or a weight is not a finite number.
        """
        found = read_tensors(self.folder / MODEL_FILE)
        if "learned" in self.config:
            found = {f"model.{name}": tensor for name, tensor in found.items() if name.startswith("encoder.")}
        check_numbers(self.folder / MODEL_FILE, found)
        return found

    def model(self) -> MPMAE:
        """Load the whole network with its weights, on the CPU, in evaluation mode.

        Raises `FileInputError` when the weights are damaged or those of another architecture.
        """
        with torch.device("meta"):
            model = MPMAE(self.model_config)
        self.load_into({"model": model})
        return model.eval()

    def encoder(self, **changes: Any) -> ConvNeXtV2:
        """Load the encoder with its weights, on the CPU, in evaluation mode, with ``changes`` to its configuration.

        It has the normaliser of the checkpoint, if there is one.
        """
        with torch.device("meta"):
            encoder = ConvNeXtV2(dataclasses.replace(self.encoder_config, **changes))
        fill(self.folder / MODEL_FILE, encoder, self.tensors(), ENCODER_PREFIX)
        encoder.normaliser = None if self.config["normaliser"] is None else self.normaliser
        return encoder.eval()

    def load_into(self, modules: Mapping[str, nn.Module]) -> None:
        """Copy the weights into modules, by prefix of their names.

        Raises `FileInputError` when names or shapes do not fit.
        """
        tensors = self.tensors()
        for prefix, module in modules.items():
            fill(self.folder / MODEL_FILE, module, tensors, f"{prefix}.")

    @classmethod
    def read(cls, path: Path, padding: Padding | None = None, origin: Origin | None = None) -> Self:
        """Open a checkpoint folder, or the last checkpoint of a run folder; see `load_checkpoint`.

        Raises `InputError` if there is no checkpoint, or it has another format.
        """
        folder = find_checkpoint(path).absolute()
        file = folder / CONFIG_FILE
        config = read_json(file, "the configuration of a checkpoint")
        config = _as_encoder(config) if isinstance(config, dict) and config.get("architecture") == NETWORK else config
        found = (config.get("architecture"), config.get("format")) if isinstance(config, dict) else None
        if found not in ((ARCHITECTURE, FORMAT), (ENCODER_ONLY, FORMAT)):
            raise FileInputError(
                file, f"expected architecture {ARCHITECTURE!r} in format {FORMAT}, got {found}; use another version."
            )
        missing = [section for section in SECTIONS if section not in config]
        if missing:
            raise FileInputError(file, f"expected a complete configuration, got one without {', '.join(missing)}.")
        return cls(folder, config, padding, origin)


def find_checkpoint(path: Path) -> Path:
    """Folder of a checkpoint: the given one, or the last of a run. Raises `InputError` if there is none."""
    if (path / CONFIG_FILE).is_file():
        return path
    found = checkpoints_of(path)
    if not found:
        what = "a folder without" if path.is_dir() else "a file" if path.exists() else "nothing there"
        raise InputError(
            f"{path}: expected a checkpoint ({MODEL_FILE}, {CONFIG_FILE}) or a run that has one, got {what}."
        )
    return found[-1]


def checkpoints_of(run: Path) -> list[Path]:
    """Complete checkpoints of a run folder, oldest first."""
    return [path for path in numbered(run) if path.is_dir()]


def load_checkpoint(
    path: str | Path, *, padding: Padding | None = None, report: Callable[[int], None] | None = None
) -> Checkpoint:
    """Open a checkpoint: its folder, a run's folder (the last checkpoint), or the URL of a checkpoint.

    For the folder of a network (`load_network`), this is its encoder, as fine-tuned if it was not frozen.

    Parameters
    ----------
    path
        The folder, or ``hf://OWNER/NAME[@REVISION][/SUBFOLDER]`` (Hugging Face Hub; needs the extra ``hub``),
        ``https://...``, ``s3://...``, ``gs://...`` or ``az://...`` (extra ``cloud``), which is downloaded into the user's
        cache folder on first use and after changes.
    padding
        Padding of its encoder. ``reference`` pads like the released classification model and uses the GRN epsilon of
        that model (1e-4): this is what the released code computes when it fine-tunes or probes. ``same`` pads as in
        pretraining. None uses the checkpoint's own, which is ``same`` unless it was converted from a released
        classifier.
    report
        Called with the number of bytes of a download.

    Raises
    ------
    InputError
        When there is no checkpoint, or it was written by something else.
    DownloadFailed
        When it cannot be downloaded.
    """
    checked = None if padding is None else check_padding(padding)
    folder, origin = locate(path, report)
    return Checkpoint.read(folder, checked, origin)


def check_padding(padding: str) -> Padding:
    """Refuse an unknown padding."""
    if padding not in get_args(Padding):
        raise InputError(f"--padding: expected {' or '.join(get_args(Padding))}, got {padding!r}.")
    return padding  # type: ignore[return-value]


def padded(padding: Padding) -> dict[str, Any]:
    """Fields of an `EncoderConfig` that go with a padding."""
    return {"padding": padding, **({"grn_eps": DENSE_GRN_EPS} if padding == "reference" else {})}


def load_encoder(
    path: str | Path,
    *,
    store: Store | str | Path | None = None,
    bands: Mapping[str, Sequence[str]] | None = None,
    padding: Padding | None = None,
    grn_eps: float | None = None,
) -> ConvNeXtV2:
    """Load a pretrained encoder, dense, on the CPU, in evaluation mode.

    `ConvNeXtV2.preprocess` and `ConvNeXtV2.embed` then take tiles with values as stored.

    Parameters
    ----------
    path
        A checkpoint or run folder, the folder of a network (`load_network`), or the URL of one of them (see
        `load_checkpoint`); a file of released MMEarth or plain ConvNeXt V2 weights; or the name of a released checkpoint in
        ``catalog/checkpoints.yaml``, which is downloaded on first use.
    store
        Store (or its path) whose statistics normalise the input (`ConvNeXtV2.normaliser`), instead of those of the
        checkpoint. Weight files and released checkpoints have no statistics.
    bands
        Modality -> bands that the weights of a file take, in this order. None uses the bands of the store's catalog
        entries, or those known for a released checkpoint. Only with ``store``.
    padding
        See `load_checkpoint`.
    grn_eps
        GRN's epsilon; by default that of the weights, or of ``padding``.

    Raises
    ------
    InputError
        If there is no encoder at this path, or the store lacks a modality or band that it takes.

    Examples
    --------
    >>> encoder = load_encoder("runs/planet")  # doctest: +SKIP
    >>> encoder.embed(open_store("planet.zarr")).shape  # doctest: +SKIP
    torch.Size([256, 320])
    >>> maps = encoder.forward_features(torch.zeros(1, 12, 64, 64))  # doctest: +SKIP
    >>> load_encoder("mmearth64-atto-all-uncertainty", store=open_store("mmearth.zarr"))  # doctest: +SKIP
    >>> load_encoder("hf://OWNER/NAME")  # doctest: +SKIP

    For third-party decoders, the encoder describes its feature maps; `mmearth_model.FeatureMaps` shows how to connect
    them:

    >>> encoder.channels, encoder.strides  # doctest: +SKIP
    ((40, 80, 160, 320), (1, 2, 4, 8))
    >>> encoder.feature_info.channels(), encoder.feature_info.reduction()  # as of timm's  # doctest: +SKIP
    ([40, 80, 160, 320], [1, 2, 4, 8])
    """
    changes = {} if padding is None else padded(check_padding(padding))
    changes |= {} if grn_eps is None else {"grn_eps": grn_eps}
    released = None if is_url(path) else find_released(str(path))
    file, origin = locate(path) if released is None else (fetch(released), None)
    if bands and store is None:
        raise InputError("bands: expected a store with the statistics of these bands, got none; pass store too.")
    store = open_store(store) if isinstance(store, str | Path) else store
    if file.is_file() and file.suffix in SUFFIXES:
        return encoder_of_file(file, store, bands or (released.seen if released else {}), **changes)
    if bands:
        raise InputError(f"bands: expected none for {path}, since a checkpoint records its bands; leave them out.")
    encoder = Checkpoint.read(file, origin=origin).encoder(**changes)
    return encoder if store is None else normalised_by(encoder, store, file)


def normalised_by(encoder: ConvNeXtV2, store: Store, file: Path) -> ConvNeXtV2:
    """Set the statistics of a checkpoint's encoder to those of a store. Raises `InputError` if its input is unknown."""
    if encoder.normaliser is None:
        raise InputError(
            f"store: expected a checkpoint that records its input bands, got {file}, which was converted without a store; "
            "convert the weights again with --store, or load the weight file itself."
        )
    encoder.normaliser = with_statistics(encoder.normaliser, store)
    return encoder


def encoder_of_file(
    file: Path, store: Store | None = None, bands: Mapping[str, Sequence[str]] | None = None, **changes: Any
) -> ConvNeXtV2:
    """Load the encoder of a file of third-party weights, with ``changes`` to its configuration; see `load_encoder`.

    Raises `FileInputError` when the file holds no encoder.
    """
    found = import_weights(file)
    with torch.device("meta"):
        encoder = ConvNeXtV2(dataclasses.replace(found.encoder, **changes))
    fill(file, encoder, found.tensors, ENCODER_PREFIX)
    encoder.normaliser = None if store is None else normaliser_of(store, found, bands or {})
    return encoder.eval()


def write_checkpoint(
    folder: Path,
    modules: Mapping[str, nn.Module],
    config: Mapping[str, Any],
    *,
    optimizer: Mapping[str, Tensor] | None = None,
    progress: Mapping[str, Any] | None = None,
) -> None:
    """Fill an empty folder with a checkpoint (see `mmearth_data.staged_folder` for doing so atomically).

    ``modules`` are prefix -> module, ``config`` has the `SECTIONS`. Without ``optimizer`` and ``progress``, training
    cannot resume from the checkpoint.
    """
    weights = {f"{prefix}.{name}": t for prefix, module in modules.items() for name, t in module.state_dict().items()}
    write_tensors(folder, weights, config)
    if optimizer is not None and progress is not None:
        save_tensors(optimizer, folder / OPTIMIZER_FILE)
        write_text(folder / PROGRESS_FILE, json.dumps(dict(progress), indent=1) + "\n")


def write_tensors(folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Fill a folder with weights under their final names, their configuration and cards; see `write_checkpoint`."""
    save_tensors(tensors, folder / MODEL_FILE)
    content = {"architecture": ARCHITECTURE, "format": FORMAT, **config}
    write_text(folder / CONFIG_FILE, json.dumps(content, indent=1, allow_nan=False) + "\n")
    write_cards(folder, content)


def save_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write tensors by name as safetensors, sorted; raises like `mmearth_data.staged_file`."""
    whole = {name: t.detach().cpu().contiguous().clone() for name, t in sorted(tensors.items())}
    with staged_file(file, needed_bytes=sum(t.numel() * t.element_size() for t in whole.values())) as beside:
        save_file(whole, beside)


def loss_of(checkpoint: Checkpoint) -> MultiTaskLoss:
    """Load the losses of a checkpoint, with their learned weights."""
    losses = MultiTaskLoss(checkpoint.model_config.tasks, LossConfig(**checkpoint.config["loss"]))
    checkpoint.load_into({"losses": losses})
    return losses


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> dict[str, Tensor]:
    """State of an optimiser as named tensors; ``names`` maps ids of parameters to names."""
    return {
        f"{key}/{names[id(parameter)]}": torch.as_tensor(value)
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, names: Mapping[int, str], tensors: Mapping[str, Tensor]
) -> None:
    """Inverse of `optimizer_tensors`, on the parameters' device."""
    by_parameter: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        key, _, parameter = name.partition("/")
        by_parameter.setdefault(parameter, {})[key] = tensor
    ordered = [names[id(p)] for group in optimizer.param_groups for p in group["params"]]
    whole = optimizer.state_dict()
    whole["state"] = {i: by_parameter[name] for i, name in enumerate(ordered) if name in by_parameter}
    optimizer.load_state_dict(whole)


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file. Raises `FileInputError` if it is missing, truncated or not a safetensors file."""
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise FileInputError(file, f"expected a complete safetensors file, got: {reason_of(error)}.") from None


def read_progress(folder: Path, steps: int, losses: Collection[str]) -> dict[str, Any]:
    """Progress of training of a checkpoint in a run; see `write_checkpoint`.

    ``steps`` is the number of steps of the whole run, ``losses`` are the names of the losses that it logs. Raises
    `FileInputError` if the checkpoint has no progress, or that of another step.
    """
    file, remedy = folder / PROGRESS_FILE, f"restore it, or remove {folder.name} to continue from an earlier checkpoint"
    found = read_json(file, "the training state of a run", f"; {remedy}")
    step = found.get("step") if isinstance(found, dict) else None
    if type(step) is not int or step != step_of(folder) or not 0 < step <= steps:
        got = f"step {step!r}" if isinstance(found, dict) else "something else"
        raise FileInputError(
            file, f"expected the training state of step {step_of(folder)} of {steps}, got {got}; {remedy}."
        )
    means = found.get("means", {})
    parts: list[Any] = [means.get(part, {}) for part in MEANS] if isinstance(means, dict) else [None]
    if not all(_are_numbers(part, losses) for part in parts) or parts[0].keys() != parts[1].keys():
        raise FileInputError(file, f"expected means of {', '.join(losses)}, got {str(means)[:200]}; {remedy}.")
    return {"step": step, "means": means}


def _are_numbers(values: Any, names: Collection[str]) -> bool:  # noqa: ANN401 - JSON
    return isinstance(values, dict) and all(
        name in names and type(number) in (int, float) for name, number in values.items()
    )


def read_json(file: Path, expected: str, remedy: str = "") -> Any:  # noqa: ANN401 - JSON
    """Content of a JSON file. Raises `FileInputError` if it cannot be read, with what was expected and the remedy."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FileInputError(file, f"expected {expected}, got: {reason_of(error)}{remedy}.") from None


def fill(file: Path, module: nn.Module, tensors: Mapping[str, Tensor], prefix: str) -> None:
    """Copy the tensors whose names begin with a prefix into a module; a module on the meta device is first allocated on the CPU.

    Initialising a module's weights takes longer than reading them, so modules that are to be filled are built on the meta
    device.
    """
    got = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    check_tensors(file, module, got)
    if any(parameter.is_meta for parameter in module.parameters()):
        module.to_empty(device="cpu")
    module.load_state_dict(got)


def check_tensors(file: Path, module: nn.Module, got: Mapping[str, Tensor]) -> None:
    """Refuse tensors whose names or shapes are not those of a module's weights."""
    expected = module.state_dict()
    wrong = sorted(name for name in expected.keys() & got.keys() if expected[name].shape != got[name].shape)
    for what, names in (
        ("without", sorted(expected.keys() - got.keys())),
        ("with the unknown", sorted(got.keys() - expected.keys())),
        ("with another shape of", wrong),
    ):
        if names:
            raise FileInputError(
                file,
                f"expected the weights of the architecture that {CONFIG_FILE} describes, got {len(got)} tensors {what} "
                f"{names[0]} ({len(names)} such); use the two files that were written together.",
            )


def _as_encoder(config: Mapping[str, Any]) -> dict[str, Any]:
    """Describe the encoder of a network as a checkpoint without decoder and heads."""
    record = config.get("record")
    record = record if isinstance(record, dict) else {}
    store, label = record.get("store"), record.get("label")
    licences, learned = (
        list(part) if isinstance(part := record.get(name), list) else [] for name in ("licences", "learned")
    )
    return {
        "architecture": ENCODER_ONLY,
        "format": config.get("format"),
        "model": {"encoder": config.get("encoder")},
        "loss": {},
        "normaliser": config.get("normaliser"),
        "recipe": {},
        "store": store if isinstance(store, dict) and isinstance(store.get("path"), str) else {"path": ""},
        "progress": {},
        "licences": licences,
        "learned": [*learned, *([label] if label else [])],
    }


def learned_of(entries: Iterable[Mapping[str, Any]]) -> tuple[Learned, ...]:
    """Modalities as recorded with a network. Raises `InputError` if they are none."""
    try:
        return tuple(Learned(entry["name"], Kind(entry["kind"])) for entry in entries)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"expected the modalities that the encoder predicted in pretraining, got: {error}.") from None


def _encoder_of(model: Mapping[str, Any]) -> EncoderConfig:
    try:
        return EncoderConfig(**model["encoder"])
    except (KeyError, TypeError) as error:
        raise InputError(f"expected a valid encoder configuration, got one that does not fit: {error}.") from None


def _of_file(file: Path, build: Callable[[Mapping[str, Any]], Value], entry: Mapping[str, Any]) -> Value:
    """Build a value from a section of a file; errors name the file."""
    try:
        return build(entry)
    except FileInputError:
        raise
    except InputError as error:
        raise FileInputError(file, str(error)) from None
