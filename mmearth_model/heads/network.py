"""Networks: an encoder with a head for one task, and all that is needed to apply it.

::

    NETWORK/model.safetensors  weights of encoder and head
    NETWORK/config.json        module, outputs, normalisation, image size, what it was trained on, its result
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data import FileInputError, InputError, check_output, staged_folder, write_text
from mmearth_model.data.targets import Normaliser
from mmearth_model.heads.answers import decide, sigmoid, softmax
from mmearth_model.heads.paper_unet import PaperUNet
from mmearth_model.heads.probes import PixelProbe, TileProbe
from mmearth_model.heads.unet import UNet
from mmearth_model.network.encoder import Classifier, ConvNeXtV2, EncoderConfig
from mmearth_model.tasks import TaskKind
from mmearth_model.training.layout import CONFIG_FILE
from mmearth_model.weights.checkpoints import MODEL_FILE, fill, read_json, read_tensors, save_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from numpy.typing import NDArray

Module = Classifier | UNet | PaperUNet | TileProbe | PixelProbe
MODULES: dict[str, type[Classifier] | type[UNet] | type[PaperUNet] | type[TileProbe] | type[PixelProbe]] = {
    module.__name__: module for module in (Classifier, UNet, PaperUNet, TileProbe, PixelProbe)
}
ARCHITECTURE = "network"
FORMAT = 1
SECTIONS = ("module", "kind", "outputs", "encoder", "normaliser", "scale", "window_px", "task", "record")


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
        Display colour, ``#rrggbb``; None where none is known.
    units
        Units of a quantity; "" for a class or a label.
    """

    name: str
    code: int | None = None
    colour: str | None = None
    units: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """An encoder with a head for one task.

    Attributes
    ----------
    module
        Normalised images (B, in_channels, H, W) to raw outputs (B, K), or (B, K, H, W) of a task per pixel; ``encoder`` is
        its encoder.
    normaliser
        Converts raw batches to normalised images.
    kind
        Kind of the task.
    outputs
        The K outputs; that of a task per pixel with a quantity is one.
    window_px
        Pixels along a side of the images that it was trained on.
    task
        Name of the task.
    scale
        Mean and deviation of the training quantities, (K,) or (1,); 0 and 1 for classes.
    record
        What it was trained on, and its test result, JSON-ready.
    """

    module: Module
    normaliser: Normaliser
    kind: TaskKind
    outputs: tuple[Output, ...]
    window_px: int
    task: str
    scale: tuple[NDArray[np.float64], NDArray[np.float64]] = field(default_factory=lambda: (np.zeros(1), np.ones(1)))
    record: Mapping[str, Any] = field(default_factory=dict)

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
        return self.codes[found] if self.kind in (TaskKind.SINGLE_LABEL, TaskKind.SEGMENTATION) else found

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


def save_network(folder: Path, network: Network) -> None:
    """Write a network's folder, whole or not at all. Raises `InputError` if the folder holds something else."""
    check_network_output(folder)
    with staged_folder(folder) as beside:
        save_tensors(network.module.state_dict(), beside / MODEL_FILE)
        write_text(beside / CONFIG_FILE, json.dumps(_config_of(network), indent=1, allow_nan=False) + "\n")


def check_network_output(folder: Path) -> None:
    """Refuse a folder with files that are no earlier network: it would be replaced."""
    check_output(folder, folder=True)
    others = sorted({path.name for path in folder.iterdir()} - {MODEL_FILE, CONFIG_FILE}) if folder.is_dir() else []
    if others:
        raise InputError(
            f"{folder}: expected a new folder or an earlier network, got one with {others[0]}; choose another folder."
        )


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


def load_network(path: str | Path, *, device: torch.device | str = "cpu") -> Network:
    """Load a network written by fine-tuning or by a probe, in evaluation mode.

    Parameters
    ----------
    path
        Its folder.
    device
        Where to load it.

    Raises
    ------
    InputError
        If there is no network, it is damaged, or it was written by a newer version.

    Examples
    --------
    >>> network = load_network("landcover")  # doctest: +SKIP
    >>> [output.name for output in network.outputs]  # doctest: +SKIP
    ['Tree cover', 'Shrubland', 'Grassland']
    """
    folder = Path(path)
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise InputError(
            f"{folder}: expected a network ({MODEL_FILE}, {CONFIG_FILE}) of mmearth-train finetune --out or evaluate "
            "--keep-probe, got none; correct the path."
        )
    config = read_json(file, "the configuration of a network")
    _check_format(file, config)
    try:
        network = _network_of(config)
    except (KeyError, TypeError, ValueError, InputError) as error:
        raise FileInputError(file, f"expected a valid network, got one that does not fit: {error}.") from None
    fill(folder / MODEL_FILE, network.module, read_tensors(folder / MODEL_FILE), "")
    network.module.to(device).eval()
    return network


def _check_format(file: Path, config: Any) -> None:  # noqa: ANN401 - JSON
    found = (config.get("architecture"), config.get("format")) if isinstance(config, dict) else (None, None)
    if found != (ARCHITECTURE, FORMAT):
        raise FileInputError(
            file,
            f"expected architecture {ARCHITECTURE!r} in format {FORMAT}, got {found[0]!r} in format {found[1]!r}; "
            "give a network, or use the version of mmearth that wrote it.",
        )
    missing = [section for section in SECTIONS if section not in config]
    if missing:
        raise FileInputError(file, f"expected a complete network, got one without {', '.join(missing)}.")


def _network_of(config: Mapping[str, Any]) -> Network:
    outputs = tuple(Output(**entry) for entry in config["outputs"])
    module = MODULES[config["module"]](ConvNeXtV2(EncoderConfig(**config["encoder"])), len(outputs))
    scale = (np.array(config["scale"]["mean"], dtype=np.float64), np.array(config["scale"]["std"], dtype=np.float64))
    normaliser = module.encoder.normaliser = Normaliser.from_config(config["normaliser"])
    return Network(
        module=module,
        normaliser=normaliser,
        kind=TaskKind(config["kind"]),
        outputs=outputs,
        window_px=int(config["window_px"]),
        task=config["task"],
        scale=scale,
        record=config["record"],
    )
