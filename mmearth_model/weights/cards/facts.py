"""Facts about the weights in a folder, as plain values, for both cards."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from mmearth_data import FileInputError, LicenceUse, Modality, licences, reason_of
from mmearth_model.network.encoder import SIZES, EncoderConfig
from mmearth_model.training.layout import CONFIG_FILE, MODEL_FILE
from mmearth_model.weights.released import digest_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ENCODER = re.compile(r"(model\.)?encoder\.")
"""Beginning of the names of an encoder's tensors, in checkpoints and in networks."""


class Role(StrEnum):
    """What the weights of a folder are for: the architecture that its configuration names."""

    PRETRAINED = "mp-mae"
    ENCODER = "convnext-v2"
    NETWORK = "network"


@dataclass(frozen=True, slots=True)
class File:
    """A file of the folder: its size in bytes, and its SHA-256 digest in hexadecimal."""

    size: int
    sha256: str

    @classmethod
    def read(cls, path: Path) -> File:
        """Measure a file."""
        return cls(path.stat().st_size, digest_of(path))


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """All facts that the cards of a folder contain.

    Attributes
    ----------
    config
        Content of ``config.json``.
    shapes
        Tensor -> its shape.
    files
        File -> its size and digest.
    """

    config: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    files: Mapping[str, File]

    @property
    def role(self) -> Role:
        """What the weights are for."""
        return Role(self.config["architecture"])

    # ------------------------------------------------------------ shape

    @property
    def encoder(self) -> Mapping[str, Any]:
        """Fields of the encoder's configuration; a file may leave out those with a default."""
        found: Mapping[str, Any] = self.config["encoder" if self.role is Role.NETWORK else "model"]
        return asdict(EncoderConfig(**found.get("encoder", found)))

    @property
    def encoder_name(self) -> str:
        """Name of the encoder, with its size if it is a known one."""
        depths, widths = (tuple(self.encoder[name] or ()) for name in ("depths", "widths"))
        size = self.encoder["size"]
        known = (depths or SIZES[size][0], widths or SIZES[size][1]) == SIZES[size]
        return f"ConvNeXt V2 {size}" if known else "ConvNeXt V2"

    @property
    def title(self) -> str:
        """Name of the encoder or network."""
        if self.role is Role.NETWORK:
            return f"{self.config['module']} on {self.encoder_name} for {self.config['task']}"
        return self.encoder_name + ("" if self.role is Role.ENCODER else " pretrained by MP-MAE")

    @cached_property
    def parameters(self) -> tuple[int, int]:
        """Number of parameters of the encoder, and of all tensors."""
        counts = {name: prod(shape) for name, shape in self.shapes.items()}
        return sum(n for name, n in counts.items() if ENCODER.match(name)), sum(counts.values())

    @property
    def side_px(self) -> int:
        """Pixels along a side of the images that it was trained on."""
        return int(self.config["window_px"] if self.role is Role.NETWORK else self.encoder["image_size"])

    # ------------------------------------------------------------ input

    @cached_property
    def modalities(self) -> Mapping[str, Modality]:
        """Modalities of the input and of the pretext tasks; empty if the folder records none."""
        entries = (self.config["normaliser"] or {}).get("modalities", ())
        return {entry["name"]: Modality.from_dict(entry) for entry in entries}

    @property
    def inputs(self) -> tuple[Modality, ...]:
        """Modalities that feed the encoder, in the order of its channels."""
        return tuple(self.modalities[name] for name in (self.config["normaliser"] or {}).get("inputs", ()))

    @property
    def learned(self) -> tuple[Modality, ...]:
        """Modalities that were predicted in pretraining."""
        return tuple(self.modalities[name] for name in (self.config["normaliser"] or {}).get("targets", ()))

    def band_name(self, modality: Modality, band: str) -> str:
        """Name of an input band, with its modality if there are several."""
        return band if len(self.inputs) == 1 else f"{modality.name}/{band}"

    def statistics(self, modality: Modality) -> Mapping[str, Mapping[str, Any]]:
        """Level, or ``-``, -> band -> count, mean and std of the stored numbers; levels without statistics are left out."""
        found = self.config["normaliser"]["statistics"]["train"].get(modality.name, {})
        return {level: bands for level, bands in found.items() if any(entry["count"] for entry in bands.values())}

    # ------------------------------------------------------------ training

    @property
    def record(self) -> Mapping[str, Any]:
        """What a network was trained on; empty for other weights."""
        found: Mapping[str, Any] = self.config.get("record", {})
        return found

    @property
    def data(self) -> str:
        """Name of the training data, without its folder; "" if it is not recorded."""
        path = self.record.get("data") if self.role is Role.NETWORK else self.config["store"]["path"]
        return last_part(path or "")

    @property
    def data_digest(self) -> str:
        """Digest of the training data; "" if it is not recorded."""
        return str(self.record.get("data_digest") or self.config.get("store", {}).get("digest") or "")

    @property
    def synthetic(self) -> bool:
        """Whether training data were synthetic, in fine-tuning or in pretraining."""
        before = self.record.get("encoder_data", {})
        return any(part.get("synthetic") for part in (self.record, before, self.config.get("store", {})))

    @property
    def encoder_data(self) -> str:
        """Name of the data that the encoder of a network was pretrained on; "" if it is not recorded."""
        found = self.record.get("encoder_data", {})
        made = " (synthetic)" if found.get("synthetic") else ""
        return f"{last_part(found['path'])}{made}" if found.get("path") else ""

    @property
    def untrained(self) -> bool:
        """Whether the weights are random."""
        return bool(self.config.get("progress", {}).get("step") == 0)

    @property
    def result(self) -> Mapping[str, Any]:
        """Test result of a network; empty if there is none."""
        found: Mapping[str, Any] = self.record.get("result") or {}
        return found

    # ------------------------------------------------------------ licences

    @property
    def licence(self) -> str:
        """SPDX identifier of the licence of the weights; "" if it was not stated."""
        return str(self.config.get("licence") or "")

    @property
    def data_licences(self) -> tuple[LicenceUse, ...]:
        """Licences of the training data."""
        if "licences" in self.record:
            fields = ("name", "url", "spdx", "modalities", "attributions")
            return tuple(LicenceUse(**{name: use[name] for name in fields}) for use in self.record["licences"])
        return licences(m for m in self.modalities.values() if m.stored)


def last_part(path: str, parts: int = 1) -> str:
    """Last parts of a path of any system; a URL as a whole.

    Examples
    --------
    >>> last_part("/data/planet.zarr"), last_part("/home/me/runs/a/step-00000100", 2), last_part("hf://me/atto")
    ('planet.zarr', 'a/step-00000100', 'hf://me/atto')
    """
    return path if "://" in path else "/".join(re.split(r"[/\\]", path.rstrip("/\\"))[-parts:])


def read_facts(folder: Path, config: Mapping[str, Any]) -> ModelFacts:
    """Read the facts of a folder with weights, whose configuration is ``config``.

    Raises
    ------
    FileInputError
        When the weights are missing or damaged.
    """
    file = folder / MODEL_FILE
    try:
        with safe_open(file, framework="numpy") as tensors:
            shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118 - a file
    except (OSError, SafetensorError) as error:
        raise FileInputError(file, f"expected a complete safetensors file, got: {reason_of(error)}.") from None
    files = {name: File.read(folder / name) for name in (CONFIG_FILE, MODEL_FILE)}
    return ModelFacts(config=config, shapes=shapes, files=files)
