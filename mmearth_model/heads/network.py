"""Networks: an encoder with a head for one task, and everything needed to apply it.

::

    NETWORK/model.safetensors  weights of encoder and head
    NETWORK/config.json        module, outputs, normalisation, image size, what it was trained on, its result
    NETWORK/README.md, item.json  model card and STAC item (see `mmearth_model.weights.cards`)

The record in ``config.json`` is that of `mmearth_model.evaluation.trained.training_record`.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import ValidationError

from mmearth_data import (
    FileInputError,
    InputError,
    MMEarthError,
    check_output,
    describe_validation,
    is_there,
    reason_of,
    short_path,
    staged_folder,
    write_text,
)
from mmearth_model.data.targets import Normaliser
from mmearth_model.devices import slice_length
from mmearth_model.heads.answers import decide, sigmoid, softmax
from mmearth_model.heads.paper_unet import PaperUNet
from mmearth_model.heads.probes import PixelProbe, TileProbe
from mmearth_model.heads.stored import StoredNetwork
from mmearth_model.heads.unet import UNet
from mmearth_model.network.encoder import Classifier, ConvNeXtV2, EncoderConfig
from mmearth_model.network.pooling import evaluating, whole_patches
from mmearth_model.tasks import TaskKind
from mmearth_model.training.layout import CARD_FILE, CONFIG_FILE, ITEM_FILE, MODEL_FILE
from mmearth_model.weights.cards.writing import write_cards
from mmearth_model.weights.checkpoints import ARCHITECTURE as PRETRAINED
from mmearth_model.weights.checkpoints import (
    ENCODER_ONLY,
    NETWORK,
    Checkpoint,
    check_padding,
    check_tensors,
    checkpoints_of,
    read_json,
    read_tensors,
    save_tensors,
)
from mmearth_model.weights.remote import locate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from mmearth_model.data.tiles import Tiles
    from mmearth_model.network.encoder import Padding
    from mmearth_model.weights.remote import Origin

Module = Classifier[ConvNeXtV2] | UNet | PaperUNet | TileProbe | PixelProbe
MODULES: dict[str, type[Classifier[Any]] | type[UNet] | type[PaperUNet] | type[TileProbe] | type[PixelProbe]] = {
    module.__name__: module for module in (Classifier, UNet, PaperUNet, TileProbe, PixelProbe)
}
PER_PIXEL = (UNet, PaperUNet, PixelProbe)
"""Modules with an output for every pixel."""
ARCHITECTURE = NETWORK
FORMAT = 1
NETWORK_FILES = frozenset({MODEL_FILE, CONFIG_FILE, CARD_FILE, ITEM_FILE})
"""Names of all files in a network's folder."""
MAX_CONFIG_BYTES = 2**24
"""Larger files are not the configuration of a network."""
FROM_ENCODER = (
    "fine-tune it (mmearth-train finetune CKPT --task TASK --out DIR), or keep a probe (mmearth-train evaluate CKPT --task "
    "TASK --keep-probe DIR)"
)
UNFIT = (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError, RuntimeError, MMEarthError)
"""Errors that parts of a network raise if the configuration does not fit them."""
MOST_CHARACTERS = 300
"""Maximum length of a reason in a message."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """One output of a network: a class, a label or a quantity.

    Attributes
    ----------
    name
        Display name.
    code
        Value of the class in maps: its code in the catalog, or its index in a task file; None for a label or a quantity.
    colour
        Display colour, ``#rrggbb``; None if unknown.
    units
        Units of a quantity; "" for a class or a label.
    """

    name: str
    code: int | None = None
    colour: str | None = None
    units: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Predicted:
    """Answers of a network on B tiles.

    Attributes
    ----------
    answers
        Codes of classes (B,) or (B, H, W) int64, see `Output.code`; labels (B, K) int64, 0 or 1; or quantities in their
        units, (B, K) or (B, H, W) float64.
    probabilities
        (B, K) or (B, K, H, W), in the order of `Network.outputs`: those of classes sum to 1, those of labels are each from 0
        to 1; None for quantities.
    """

    answers: NDArray[Any]
    probabilities: NDArray[Any] | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """An encoder with a head for one task.

    Attributes
    ----------
    module
        Converts normalised images (B, in_channels, H, W) to raw outputs (B, K), or (B, K, H, W) for a pixel task; ``encoder`` is
        its encoder.
    normaliser
        Converts raw batches to normalised images.
    kind
        Kind of the task.
    outputs
        The K outputs; a pixel regression task has one.
    window_px
        Pixels along a side of the images that it was trained on.
    task
        Name of the task.
    scale
        Mean and deviation of the training quantities, (K,) or (1,); 0 and 1 for classes.
    record
        What it was trained on, and its test result, JSON-ready.
    folder
        Its folder; None if it was not loaded from one.
    origin
        Where it was downloaded from; None for a folder on this machine.
    """

    module: Module
    normaliser: Normaliser
    kind: TaskKind
    outputs: tuple[Output, ...]
    window_px: int
    task: str
    scale: tuple[NDArray[np.float64], NDArray[np.float64]] = field(default_factory=lambda: (np.zeros(1), np.ones(1)))
    record: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    origin: Origin | None = None

    @property
    def name(self) -> str:
        """Its folder, or the URL that it was downloaded from, for display and records."""
        if self.origin is not None:
            return self.origin.url
        return self.task if self.folder is None else short_path(self.folder)

    @property
    def store(self) -> Mapping[str, Any]:
        """Record of the store that it was trained on; see `mmearth_model.weights.store_record`. Its path is "" for files."""
        return self.record.get("store") or {"path": ""}

    @property
    def encoder(self) -> ConvNeXtV2:
        """The encoder."""
        return self.module.encoder

    @property
    def patch_px(self) -> int:
        """Pixels along a side of the coarsest position: sides of images are multiples of it."""
        return self.encoder.strides[-1]

    @property
    def levels(self) -> tuple[str, ...]:
        """Product levels for which it has statistics; empty if its statistics do not depend on the level."""
        return self.normaliser.levels

    def probabilities(self, outputs: NDArray[Any]) -> NDArray[Any] | None:
        """Turn raw outputs (B, K, ...) into probabilities of the classes or labels; None for quantities."""
        if self.kind.continuous:
            return None
        return sigmoid(outputs) if self.kind is TaskKind.MULTI_LABEL else softmax(outputs)

    def answers(self, outputs: NDArray[Any]) -> NDArray[Any]:
        """Turn raw outputs (B, K, ...) into answers.

        Returns
        -------
        ndarray
            Codes of classes (B, ...) int64; labels (B, K) int64, 0 or 1; or quantities in their units, (B, K) or
            (B, H, W) float64.
        """
        found, _ = decide(self.kind, outputs, *self.scale)
        return self.codes[found] if self.kind.classes else found

    def predict(self, tiles: Tiles) -> Predicted:
        """Apply the network to tiles with values as stored, in evaluation mode.

        Parameters
        ----------
        tiles
            A batch of `Store.loader`, `TileDataset` or `Store.torch` (arrays, or tensors on any device), one tile
            (``store[3]`` or ``store.tile(3)``), or a store (``store[:16]``); with all bands, not normalised. All predictions
            are kept in memory.

        Returns
        -------
        Predicted
            Answers and probabilities of the B tiles; one tile becomes a batch of one. If the size of the tiles is not a
            multiple of `patch_px`, their centre is used, and predictions per pixel are for the centre. Predictions are
            best for images of `window_px`.

        Raises
        ------
        InputError
            If the tiles lack a modality or bands, are already normalised, or are smaller than a patch.

        Examples
        --------
        >>> network = load_network("landcover")  # doctest: +SKIP
        >>> found = network.predict(open_store("planet.zarr")[:16])  # doctest: +SKIP
        >>> found.answers.shape, found.probabilities.shape  # doctest: +SKIP
        ((16, 128, 128), (16, 11, 128, 128))
        >>> {output.code: output.name for output in network.outputs}[found.answers[0, 0, 0]]  # doctest: +SKIP
        'Tree cover'
        """
        device = next(self.module.parameters()).device
        parts = []
        with evaluating(self.module), torch.inference_mode():
            for images in self.normaliser.prepare(tiles, device):
                whole = whole_patches(self.encoder, images)
                parts += [
                    self.module(part).cpu().numpy() for part in torch.split(whole, slice_length(device, len(whole)))
                ]
        outputs = np.concatenate(parts)
        return Predicted(self.answers(outputs), self.probabilities(outputs))

    @property
    def digest(self) -> str:
        """Digest of weights and configuration."""
        found = hashlib.blake2b(json.dumps(_config_of(self), sort_keys=True).encode(), digest_size=16)
        for name, tensor in sorted(self.module.state_dict().items()):
            found.update(name.encode())
            found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return found.hexdigest()

    @property
    def codes(self) -> NDArray[np.int64]:
        """(K,) code of each class, in the order of the outputs."""
        return np.array([-1 if output.code is None else output.code for output in self.outputs], dtype=np.int64)


def save_network(folder: str | Path, network: Network) -> None:
    """Write a network's folder atomically.

    Raises
    ------
    InputError
        If the folder contains something else, or the parts of the network are inconsistent.
    """
    folder = Path(folder)
    check_network_output(folder)
    _check_parts(network)
    with staged_folder(folder) as beside:
        save_tensors(network.module.state_dict(), beside / MODEL_FILE)
        config = _config_of(network)
        write_text(beside / CONFIG_FILE, json.dumps(config, indent=1, allow_nan=False) + "\n")
        write_cards(beside, config)


def check_network_output(folder: Path, option: str = "--out") -> None:
    """Check that a network can be written to a folder; it may be new, empty, or that of an earlier network.

    Raises
    ------
    InputError
        If the folder contains anything else, which would be lost.
    """
    check_output(folder, folder=True, option=option)
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    others = [name for name in found if name not in NETWORK_FILES]
    if found and (others or not is_network(folder)):
        raise InputError(
            f"{option} {folder}: expected a new folder or an earlier network, got one with {(others or found)[0]}; choose "
            "another folder."
        )


def load_weights(
    path: str | Path, *, padding: Padding | None = None, report: Callable[[int], None] | None = None
) -> Checkpoint | Network:
    """Load a network or open a checkpoint, depending on the content of a folder or URL; see `load_network` and `load_checkpoint`.

    Raises
    ------
    InputError
        If it is neither, or ``padding`` is given for a network.
    """
    folder, origin = locate(path, report)
    if not is_network(folder):
        return Checkpoint.read(folder, None if padding is None else check_padding(padding), origin)
    if padding is not None:
        raise InputError(f"--padding: expected none for the network {path}, which has its own; leave it out.")
    return network_at(folder, origin)


def is_network(folder: Path) -> bool:
    """Whether a folder is that of a network, of any format and possibly damaged."""
    try:
        config = read_json(folder / CONFIG_FILE, "a network")
    except FileInputError:
        return False
    return isinstance(config, dict) and config.get("architecture") == ARCHITECTURE


def _config_of(network: Network) -> dict[str, Any]:
    mean, deviation = network.scale
    return {
        "architecture": ARCHITECTURE,
        "format": FORMAT,
        "module": type(network.module).__name__,
        "kind": str(network.kind),
        "task": network.task,
        "outputs": [asdict(output) for output in network.outputs],
        "window_px": network.window_px,
        "encoder": asdict(network.encoder.config),
        "normaliser": network.normaliser.to_config(),
        "scale": {"mean": np.atleast_1d(mean).tolist(), "std": np.atleast_1d(deviation).tolist()},
        "record": dict(network.record),
    }


def load_network(
    path: str | Path, *, device: torch.device | str = "cpu", report: Callable[[int], None] | None = None
) -> Network:
    """Load a network that `finetune` or `evaluate --keep-probe` wrote, in evaluation mode.

    Parameters
    ----------
    path
        Its folder, or its URL (see `mmearth_model.load_checkpoint`).
    device
        Where to load it.
    report
        Called with the number of bytes of a download.

    Raises
    ------
    InputError
        If there is no network, it is damaged, or it was written by a newer version.
    DownloadFailed
        If it cannot be downloaded.

    Examples
    --------
    >>> network = load_network("landcover")  # doctest: +SKIP
    >>> [output.name for output in network.outputs]  # doctest: +SKIP
    ['Tree cover', 'Shrubland', 'Grassland']
    >>> network.predict(open_store("planet.zarr")[:16]).answers.shape  # doctest: +SKIP
    (16, 128, 128)
    """
    folder, origin = locate(path, report)
    return network_at(folder, origin, device)


def network_at(folder: Path, origin: Origin | None = None, device: torch.device | str = "cpu") -> Network:
    """Load the network of a folder on this machine; see `load_network`."""
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise InputError(
            f"{folder}: expected a network ({MODEL_FILE}, {CONFIG_FILE}) of mmearth-train finetune --out or evaluate "
            f"--keep-probe, got {_instead(folder)}."
        )
    if file.stat().st_size > MAX_CONFIG_BYTES:
        raise FileInputError(file, f"expected the configuration of a network, got {file.stat().st_size:,} bytes.")
    config = read_json(file, "the configuration of a network")
    _check_format(file, config)
    try:
        network = replace(_network_of(config), folder=folder.absolute(), origin=origin)
        _check_parts(network)
    except ValidationError as error:
        problem = describe_validation(error, StoredNetwork, config, "network")
        raise FileInputError(file, f"{problem} Restore the file, or train the network again.") from None
    except UNFIT as error:
        reason = reason_of(error)[:MOST_CHARACTERS] or type(error).__name__
        raise FileInputError(
            file,
            f"expected a valid network, got inconsistent files: {reason}; restore them, or train the network again.",
        ) from None
    _fill(folder / MODEL_FILE, network.module)
    network.module.to(device).eval()
    return network


def _instead(folder: Path) -> str:
    """Describe what was found instead of a network, and what to do."""
    if checkpoints_of(folder):
        return f"a run, whose checkpoint is a pretrained encoder; {FROM_ENCODER}"
    what = "a folder without" if folder.is_dir() else "a file" if is_there(folder) else "nothing there"
    return f"{what}; correct the path"


def _check_format(file: Path, config: Any) -> None:  # noqa: ANN401 - JSON
    """Refuse what is not a network of this format."""
    name, form = (config.get("architecture"), config.get("format")) if isinstance(config, dict) else (None, None)
    if name in (PRETRAINED, ENCODER_ONLY):
        raise FileInputError(file, f"expected a network, got a pretrained encoder; {FROM_ENCODER}.")
    if isinstance(name, str) and name in MODULES:
        raise FileInputError(
            file,
            "expected a network, got one of an earlier version, which lacks the information to apply it; fine-tune "
            "again.",
        )
    if name != ARCHITECTURE or not isinstance(form, int) or form < FORMAT:
        raise FileInputError(file, "expected the configuration of a network, got something else; correct the path.")
    if form > FORMAT:
        raise FileInputError(
            file, f"expected a network in format {FORMAT}, got format {form} of a newer version; upgrade mmearth."
        )


def _network_of(config: Mapping[str, Any]) -> Network:
    """Build a network without weights: its tensors have shapes but no memory until the file is known to fit them."""
    stored = StoredNetwork.model_validate(config)
    with torch.device("meta"):
        encoder = ConvNeXtV2(EncoderConfig(**stored.encoder.model_dump()))
        module = MODULES[stored.module](encoder, len(stored.outputs))
    normaliser = encoder.normaliser = Normaliser.from_config(config["normaliser"])
    return Network(
        module=module,
        normaliser=normaliser,
        kind=stored.kind,
        outputs=tuple(Output(**output.model_dump()) for output in stored.outputs),
        window_px=stored.window_px,
        task=stored.task,
        scale=(np.array(stored.scale.mean, dtype=np.float64), np.array(stored.scale.std, dtype=np.float64)),
        record=config["record"],
    )


def _check_parts(network: Network) -> None:
    """Refuse parts that are inconsistent."""
    kind, outputs, encoder, module = network.kind, network.outputs, network.encoder.config, network.module
    codes = [output.code for output in outputs]
    lengths = {len(np.atleast_1d(part)) for part in network.scale}
    statistics = [
        (name, band, entry)
        for name, levels in network.normaliser.statistics.items()
        for bands in levels.values()
        for band, entry in bands.items()
    ]
    bad = next((f"{name}.{band}" for name, band, entry in statistics if not _usable(entry)), None)
    checks = (
        (isinstance(module, PER_PIXEL) == kind.per_pixel, f"a {type(module).__name__} for a {kind} task"),
        (
            not kind.classes or (None not in codes and len({*codes}) == len(codes)),
            "classes without unique codes",
        ),
        (kind is not TaskKind.PIXEL_REGRESSION or len(outputs) == 1, f"{len(outputs)} quantities per pixel"),
        (len(lengths) == 1 and lengths <= {1, len(outputs)}, f"scales of {sorted(lengths)} for {len(outputs)} outputs"),
        (
            network.normaliser.in_channels == encoder.in_channels,
            f"statistics of {network.normaliser.in_channels} bands for an encoder of {encoder.in_channels}",
        ),
        (bad is None, f"statistics of {bad} that are not numbers"),
        (not network.window_px % network.patch_px, f"windows of {network.window_px} px, patches of {network.patch_px}"),
    )
    problem = next((text for fits, text in checks if not fits), None)
    if problem:
        raise InputError(f"expected a consistent network, got {problem}")


def _usable(entry: Mapping[str, Any]) -> bool:
    """Whether the statistics of a band are usable numbers; a band that was never observed has none."""
    if entry["count"] == 0:
        return True
    return all(math.isfinite(entry[key]) for key in ("count", "mean", "std")) and min(entry["count"], entry["std"]) >= 0


def _fill(file: Path, module: Module) -> None:
    """Load the weights of a file into a module without memory."""
    tensors = read_tensors(file)
    check_tensors(file, module, tensors)
    bad = next((name for name, t in tensors.items() if not t.is_floating_point() or torch.isnan(t).any()), None)
    if bad is not None:
        raise FileInputError(
            file, f"expected finite numbers as weights, got other values in {bad}; train the network again."
        )
    module.to_empty(device="cpu").load_state_dict(tensors)
