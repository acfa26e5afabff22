"""Schema of a network's ``config.json``, validated strictly, since the file may come from an untrusted source."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from mmearth_data import Kind
from mmearth_model.network.encoder import Padding, Pool, Stem
from mmearth_model.tasks import TaskKind

MOST_OUTPUTS = 65_536
"""Codes of classes in maps have at most 16 bits."""
MOST_PX, MOST_BANDS, MOST_CHANNELS, MOST_BLOCKS = 65_536, 4096, 65_536, 512
"""Sides of images, bands, channels of a stage and blocks of a stage; far above those of any network."""

Pixels = Annotated[int, Field(ge=1, le=MOST_PX)]
Depth = Annotated[int, Field(ge=1, le=MOST_BLOCKS)]
Width = Annotated[int, Field(ge=1, le=MOST_CHANNELS)]
Colour = Annotated[str, Field(pattern="^#[0-9a-fA-F]{6}$")]
Deviation = Annotated[FiniteFloat, Field(gt=0)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class StoredOutput(_Section):
    """An output; see `mmearth_model.Output`."""

    name: str
    code: Annotated[int, Field(ge=-(2**31), lt=2**31)] | None = None
    colour: Colour | None = None
    units: str = ""


class StoredEncoder(_Section):
    """Configuration of the encoder; see `mmearth_model.EncoderConfig`."""

    size: str
    patch_size: Annotated[int, Field(ge=8, le=4096)]
    image_size: Pixels
    in_channels: Annotated[int, Field(ge=1, le=MOST_BANDS)]
    stem: Stem
    padding: Padding
    grn: Pool
    grn_eps: Annotated[float, Field(ge=0)]
    drop_path: Annotated[float, Field(ge=0, lt=1)]
    depths: tuple[Depth, Depth, Depth, Depth]
    widths: tuple[Width, Width, Width, Width]
    max_stride: Pixels | None = None


class StoredScale(_Section):
    """Mean and deviation of the training quantities."""

    mean: tuple[FiniteFloat, ...]
    std: tuple[Deviation, ...]


class StoredModality(_Section):
    """A modality that the encoder learned, or of the labels."""

    name: str
    kind: Kind


class StoredStore(_Section):
    """Path of a store, also relative to the parent of the network's folder."""

    model_config = ConfigDict(extra="allow")

    path: str
    relative: str = ""
    digest: str | None = None


class StoredRecord(_Section):
    """What a network was trained on: the fields that are used, and others."""

    model_config = ConfigDict(extra="allow")

    encoder: str = ""
    learned: tuple[StoredModality, ...] = ()
    label: StoredModality | None = None
    data: str = ""
    data_digest: str = ""
    store: StoredStore | None = None
    synthetic: bool = False
    samples: dict[str, Annotated[int, Field(ge=0)]] = {}
    labels: str = "100%"
    seed: Annotated[int, Field(ge=0)] = 0
    licences: tuple[dict[str, Any], ...] = ()
    result: dict[str, Any] | None = None


class StoredNormaliser(_Section):
    """Normalisation of the input, without targets; the rest is read by `Normaliser.from_config`."""

    model_config = ConfigDict(extra="allow")

    targets: Annotated[tuple[str, ...], Field(max_length=0)]


class StoredNetwork(_Section):
    """Content of ``config.json``, except for the architecture and the format."""

    module: Literal["Classifier", "UNet", "PaperUNet", "TileProbe", "PixelProbe"]
    kind: TaskKind
    task: str
    outputs: Annotated[tuple[StoredOutput, ...], Field(min_length=1, max_length=MOST_OUTPUTS)]
    window_px: Pixels
    encoder: StoredEncoder
    normaliser: StoredNormaliser
    scale: StoredScale
    record: StoredRecord
