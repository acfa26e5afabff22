"""Measure training steps: images/s, time by part, memory, operations and their share of the peak.

It uses random tiles, so that neither a store nor a disk is measured. The forms alternate within one run, so that other
load on the machine affects all of them equally.
"""

from __future__ import annotations

import logging
import statistics
import time
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from mmearth_data import check_limits, documented, load_catalog
from mmearth_model.data.targets import Normaliser, Window
from mmearth_model.devices import resolve_device, slice_length
from mmearth_model.fields import WorkFields
from mmearth_model.network.encoder import EncoderConfig
from mmearth_model.network.losses import LossConfig, MultiTaskLoss
from mmearth_model.network.masking import random_mask, visible_patches
from mmearth_model.network.mpmae import MPMAE, MPMAEConfig, parameter_groups, tasks_of
from mmearth_model.network.positions import ENGINES, Engine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from mmearth_data import Batch, Modality

Form = Literal["sparse", "masked", "unmasked"]
"""Visible positions only; everything, with zeros where hidden; everything, nothing hidden."""
FORMS: dict[Form, Engine] = {"sparse": ENGINES["gathered"], "masked": ENGINES["masked"], "unmasked": ENGINES["auto"]}
LOG = logging.getLogger(__name__)
PARTS = ("targets", "forward", "losses", "backward", "optimiser")
TILE_OF_CROP = 8 / 7
PEAK_SIDE = {"cpu": 1536, "cuda": 8192}
"""Side of the matrices whose product defines the machine's peak."""


@documented
@dataclass(frozen=True, kw_only=True)
class Workload(WorkFields):
    """Work that is measured."""

    def __post_init__(self) -> None:
        check_limits(WorkFields, self)
        encoder = EncoderConfig(size=self.size, patch_size=self.patch_size, image_size=self.image_size)
        visible_patches(encoder.patches, self.mask_ratio)


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """Measurements of one form.

    Attributes
    ----------
    form, compiled
        What was measured.
    images_per_s
        Whole training steps, by the median.
    parts_ms
        Median milliseconds of each part of a step.
    memory_mib
        On a GPU, the maximum allocated; on a CPU, what one forward pass keeps for the backward pass.
    gflop
        Multiplications and additions of matrix products and convolutions in one step.
    share_of_peak
        Relative to one large matrix product of that precision on the device.
    """

    form: Form
    compiled: bool
    images_per_s: float
    parts_ms: dict[str, float]
    memory_mib: float
    gflop: float
    share_of_peak: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return asdict(self)


@dataclass(slots=True)
class Step:
    """A training step of one form, on random tiles.

    Attributes
    ----------
    form
        How hidden patches are left out.
    seconds
        Part -> seconds of every step so far.
    """

    work: Workload
    form: Form
    device: torch.device
    compiled: bool = False
    seconds: dict[str, list[float]] = field(default_factory=lambda: {part: [] for part in PARTS})
    raw: Batch = field(init=False)
    normaliser: Normaliser = field(init=False)
    model: MPMAE = field(init=False)
    losses: MultiTaskLoss = field(init=False)
    optimizer: torch.optim.Optimizer = field(init=False)
    window: Window = field(init=False)
    mask: Tensor = field(init=False)
    network: Callable[[Tensor, Tensor], dict[str, Tensor]] = field(init=False)

    def __post_init__(self) -> None:
        work, modalities = self.work, pretext_modalities()
        tile_px = round(work.image_size * TILE_OF_CROP)
        chance = torch.Generator().manual_seed(0)
        inputs = [m for m in modalities if m.input]
        self.raw = random_tiles(modalities, work.batch, tile_px)
        names = [m.name for m in modalities]
        self.normaliser = Normaliser(
            modalities, unit_statistics(modalities), inputs=[m.name for m in inputs], targets=names
        )
        encoder = EncoderConfig(
            size=work.size,
            patch_size=work.patch_size,
            image_size=work.image_size,
            in_channels=self.normaliser.in_channels,
        )
        torch.manual_seed(0)
        self.model = MPMAE(MPMAEConfig.of_preset("default", encoder, tasks_of(modalities))).to(self.device)
        self.model.encoder.engine = FORMS[self.form]
        self.losses = MultiTaskLoss(self.model.config.tasks, LossConfig()).to(self.device)
        self.optimizer = torch.optim.AdamW(parameter_groups(self.model, self.losses, weight_decay=0.05), lr=1e-4)
        self.window = Window.random(work.batch, tile_px, work.image_size, chance)
        ratio = 0.0 if self.form == "unmasked" else work.mask_ratio
        self.mask = random_mask(work.batch, encoder.patches, ratio, chance, self.device)
        self.network = torch.compile(self.eager()) if self.compiled else self.eager()

    def eager(self) -> Callable[[Tensor, Tensor], dict[str, Tensor]]:
        """Forward pass before compilation."""
        if self.form == "unmasked":
            return partial(predict_all, self.model)
        visible = visible_patches(self.mask.shape[1], self.work.mask_ratio)
        return partial(self.model.__call__, visible=visible)

    def __call__(self) -> None:
        """Do one training step; the time of each part is added to `seconds`."""
        clock = Clock(self.device, self.seconds)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16(self.work, self.device)):
            batch = self.normaliser(self.raw, self.device, self.window)
            clock.stop("targets")
            predictions = self.predict(batch.images)
            clock.stop("forward")
            total, _ = self.losses(predictions, batch.targets, self.mask)
        clock.stop("losses")
        total.backward()
        clock.stop("backward")
        self.optimizer.step()
        self.optimizer.zero_grad()
        clock.stop("optimiser")

    def predict(self, images: Tensor) -> dict[str, Tensor]:
        """Forward pass, in slices that fit the cache."""
        length = slice_length(self.device, len(images), self.work.slice_images, training=True)
        slices = zip(torch.split(images, length), torch.split(self.mask, length), strict=True)
        parts = [self.network(*part) for part in slices]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def encode(self) -> None:
        """Run the encoder alone, forward and backward, in slices that fit the cache."""
        images = self.normaliser.images(self.raw, self.device, self.window)
        length = slice_length(self.device, len(images), self.work.slice_images, training=True)
        for part, mask in zip(torch.split(images, length), torch.split(self.mask, length), strict=True):
            hidden = None if self.form == "unmasked" else mask
            torch.autograd.backward(self.model.encoder.encode(part, hidden).square().mean())
        self.model.zero_grad()


class Clock:
    """Clock that divides the time of a step among its parts; waits for the device."""

    def __init__(self, device: torch.device, seconds: dict[str, list[float]]) -> None:
        self.device, self.seconds = device, seconds
        self.begin = self._now()

    def stop(self, part: str) -> None:
        """Add the elapsed time to a part."""
        now = self._now()
        self.seconds[part].append(now - self.begin)
        self.begin = now

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def predict_all(model: MPMAE, images: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Forward pass of a model in which nothing is hidden, and nothing is masked."""
    x = model.project(model.encoder.encode(images))
    decoded = {key: decoder(x) for key, decoder in model.decoders.items()}
    return {task.name: model.predict(task, decoded) for task in model.config.tasks}


def bench(
    work: Workload | None = None,
    forms: Sequence[Form] | None = None,
    report: Callable[[str], None] | None = None,
) -> list[Timing]:
    """Measure training steps.

    Parameters
    ----------
    work
        Sizes, device and precision.
    forms
        Which, of `FORMS`; None: all.
    report
        Called with a line of text before each part of the work; None logs it.

    Raises
    ------
    InputError
        When the device is not available, or the sizes do not fit each other.
    """
    work = work or Workload()
    device = resolve_device(work.device)
    say = report or LOG.info
    say("finding the peak")
    peak = peak_flops(device, bfloat16(work, device))
    kinds = [(form, compiled) for compiled in ((False, True) if work.compiled else (False,)) for form in forms or FORMS]
    steps, found = [], []
    for form, compiled in kinds:
        say(f"warming up {form}{' compiled' if compiled else ''}")
        others = allocated_bytes(device)
        step = Step(work, form, device, compiled)
        found.append((flops(step), memory_mib(step, others)))
        step()
        step.seconds = {part: [] for part in PARTS}
        steps.append(step)
    for run in range(work.runs):
        say(f"run {run + 1} of {work.runs}")
        for step in steps[:: 1 if run % 2 == 0 else -1]:
            step()
    return [_timing(step, count, memory, peak) for step, (count, memory) in zip(steps, found, strict=True)]


def _timing(step: Step, count: float, memory: float, peak: float) -> Timing:
    whole = statistics.median(map(sum, zip(*step.seconds.values(), strict=True)))
    return Timing(
        form=step.form,
        compiled=step.compiled,
        images_per_s=step.work.batch / whole,
        parts_ms={part: 1e3 * statistics.median(values) for part, values in step.seconds.items()},
        memory_mib=memory,
        gflop=count / 1e9,
        share_of_peak=count / whole / peak,
    )


def flops(step: Step) -> float:
    """Operations of the matrix products and convolutions of one step, forward and backward."""
    network, step.network = step.network, step.eager()
    with FlopCounterMode(display=False) as counter:
        step()
    step.network = network
    return float(counter.get_total_flops())


def allocated_bytes(device: torch.device) -> int:
    """Bytes of tensors on a GPU."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def memory_mib(step: Step, others: int = 0) -> float:
    """Memory of a step, without the bytes of other steps; see `Timing`."""
    if step.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(step.device)
        step()
        return (torch.cuda.max_memory_allocated(step.device) - others) / 2**20
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    network, step.network = step.network, step.eager()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        predictions = step.predict(step.normaliser.images(step.raw, step.device, step.window))
    del predictions
    step.network = network
    return sum(kept.values()) / 2**20


def peak_flops(device: torch.device, half: bool) -> float:
    """Operations per second of one large matrix product, the best of a few."""
    side = PEAK_SIDE.get(device.type, 2048)
    one = torch.randn(side, side, device=device, dtype=torch.bfloat16 if half else torch.float32)
    seconds: dict[str, list[float]] = {"product": []}
    for _ in range(5):
        clock = Clock(device, seconds)
        one @ one
        clock.stop("product")
    return 2 * side**3 / min(seconds["product"])


def pretext_modalities() -> tuple[Modality, ...]:
    """Catalog entries that are pretext tasks by default."""
    return tuple(m for m in load_catalog().select() if m.pretext)


def random_tiles(modalities: Sequence[Modality], tiles: int, size_px: int) -> Batch:
    """Make a random raw batch of the given modalities, without missing values."""
    rng = np.random.default_rng(0)
    batch: dict[str, Any] = {m.name: _random_values(m, tiles, size_px, rng) for m in modalities if m.stored}
    batch["tile"] = {
        "tile_id": np.arange(1, tiles + 1, dtype=np.uint64),
        "lon": rng.uniform(-180, 180, tiles),
        "lat": rng.uniform(-60, 60, tiles),
        "time": np.datetime64("2019-01-15", "ms") + rng.integers(0, 365, tiles).astype("timedelta64[D]"),
        "s2_level": rng.integers(0, 2, tiles).astype(np.uint8),
    }
    return batch


def unit_statistics(modalities: Sequence[Modality]) -> dict[str, Any]:
    """Statistics under which every band has the mean and spread of `random_tiles`."""
    train = {}
    for m in modalities:
        if m.kind.is_continuous:
            low, high = m.histogram_range or (-1.0, 1.0)
            band = {"count": 1, "mean": (low + high) / 2, "std": (high - low) / 12**0.5}
            levels = ("L1C", "L2A") if m.statistics_by == "s2_level" else ("-",)
            train[m.name] = {level: dict.fromkeys(m.bands, band) for level in levels}
    return {"train": train}


def bfloat16(work: Workload, device: torch.device) -> bool:
    """Whether the model computes in bfloat16."""
    return work.precision == "bfloat16" or (work.precision == "auto" and device.type == "cuda")


def _random_values(m: Modality, tiles: int, size_px: int, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    shape = (tiles, *m.array_shape(size_px))
    if m.kind.is_categorical:
        return np.array([label.code for label in m.classes], dtype=m.dtype)[rng.integers(len(m.classes), size=shape)]
    if m.kind.is_multi_label:
        return rng.integers(2, size=shape).astype(m.dtype)
    low, high = m.histogram_range or (-1.0, 1.0)
    values = rng.uniform(low, high, size=shape).astype(m.dtype)
    values[values == m.nodata] += 1
    return values
