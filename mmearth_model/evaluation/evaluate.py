"""Compare frozen encoders on labelled tasks, beside encoders and features that learned nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from mmearth_data import InputError, short_path
from mmearth_model.data.targets import Normaliser
from mmearth_model.devices import resolve_device
from mmearth_model.evaluation.baselines import (  # fmt: skip
    CONVNEXT,
    RCF,
    STATISTICS,
    ImageStatistics,
    RandomFilters,
    load_convnext,
    own_input,
)
from mmearth_model.evaluation.features import Pooled, extract, input_normaliser, missing_bands
from mmearth_model.evaluation.finetune import FineTuner, paper_recipe
from mmearth_model.evaluation.metrics import PRIMARY, Score, bootstrap, interval, score
from mmearth_model.evaluation.oddity import data_notes
from mmearth_model.evaluation.pixels import probe_pixels
from mmearth_model.evaluation.probes import LabelledFeatures, Prediction, Question, adamw, knn, linear
from mmearth_model.evaluation.results import Evaluation, Row
from mmearth_model.network.encoder import ConvNeXtV2, EncoderConfig
from mmearth_model.network.mpmae import MPMAE
from mmearth_model.tasks import WHOLE, LabelledSet, LabelShare, StoreImages, open_task
from mmearth_model.tasks.store import redraw

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from mmearth_data import Modality, Store
    from mmearth_model.evaluation.features import Extractor
    from mmearth_model.weights.checkpoints import Checkpoint

Protocol = Literal["knn", "linear", "probe", "paper"]
Baseline = Literal["random", "statistics", "rcf"]
PROTOCOLS: tuple[Protocol, ...] = ("knn", "linear", "probe", "paper")
DEFAULT_PROTOCOLS: tuple[Protocol, ...] = ("knn", "linear")
BASELINES: tuple[Baseline, ...] = ("random", "statistics", "rcf")
RANDOM = "random init"


@dataclass(frozen=True, slots=True)
class Candidate:
    """Something that makes features."""

    name: str
    seeds: tuple[int, ...]  # seeds under which it is probed
    normaliser: Normaliser | None  # of a checkpoint's input; None where the task's own images are taken as they are
    encoder: Callable[[], ConvNeXtV2] | None = None  # loads the network; None where there is none
    learned: tuple[Modality, ...] = ()  # modalities that it was trained to predict
    # without an encoder: random filters fitted to the training images of each seed, else image statistics
    fitted: bool = False

    def leaky_for(self, task: LabelledSet) -> bool:
        """Whether it has seen the task's labels, or their kin."""
        return any(task.conflicts(modality) for modality in self.learned)

    def input(self, task: LabelledSet) -> Normaliser:
        """Return how the task's images reach it."""
        return own_input(task) if self.normaliser is None else input_normaliser(self.normaliser, task)

    def extractor(self, task: LabelledSet, seed: int, device: torch.device) -> Extractor:
        """Return what makes features of the task's images."""
        if self.encoder is not None:
            return Pooled(self.encoder().to(device).eval())
        if self.fitted:
            return RandomFilters.draw(task, self.input(task), seed)
        return ImageStatistics(self.input(task).in_channels)


@dataclass(frozen=True)
class Job:
    """Everything that stays the same while candidates are probed."""

    tasks: Sequence[LabelledSet]
    protocols: Sequence[Protocol]
    labels: Sequence[LabelShare]
    test_share: float | None
    device: torch.device
    cache: Path | None
    report: Callable[[str, int, int], None] | None
    memo: dict[tuple[str, int, str, int], NDArray[np.float32]] = field(default_factory=dict)

    @cached_property
    def divided(self) -> dict[tuple[str, int], LabelledSet]:
        """(task, seed) -> the task as that seed divides it."""
        return {}

    def task(self, task: LabelledSet, seed: int) -> LabelledSet:
        """Divide a task as a seed does."""
        if self.test_share is None or not task.images.redrawn:
            return task
        return self.divided.setdefault((task.name, seed), redraw(task, self.test_share, seed))

    def features(self, candidate: Candidate, task: LabelledSet, seed: int) -> NDArray[np.float32]:
        """(N, D) features of a task's samples; those of one set of images are made once."""
        normaliser = candidate.input(task)
        fitted = seed if candidate.fitted else -1
        parts = hash(task.parts.train.tobytes()) if candidate.fitted else 0
        key = (candidate.name, candidate.seeds[0] if fitted < 0 else fitted, task.images.digest, parts)
        if key not in self.memo:
            extractor = candidate.extractor(task, seed, self.device)
            self.memo[key] = extract(
                extractor, normaliser, task.images, self.device, cache=self.cache, report=self._count(candidate, task)
            )
        return self.memo[key]

    def _count(self, candidate: Candidate, task: LabelledSet) -> Callable[[int], None] | None:
        report, seen = self.report, 0
        if report is None:
            return None

        def count(tiles: int) -> None:
            nonlocal seen
            seen += tiles
            report(candidate.name, seen, len(task))

        return count


def evaluate(
    checkpoints: Sequence[Checkpoint],
    store: Store | None,
    tasks: Sequence[str | LabelledSet],
    *,
    protocols: Sequence[Protocol] = DEFAULT_PROTOCOLS,
    seeds: int = 3,
    test_share: float | None = None,
    labels: Sequence[LabelShare] = (WHOLE,),
    baselines: Sequence[Baseline] = ("random",),
    convnext: Path | None = None,
    cache: Path | None = None,
    device: str = "auto",
    report: Callable[[str, int, int], None] | None = None,
) -> Evaluation:
    """Probe frozen encoders and baselines.

    Parameters
    ----------
    checkpoints
        Loaded by `mmearth_model.load_checkpoint`; without any, only the baselines are compared.
    store
        Store of the tasks that are derived from one; None if there are none.
    tasks
        Tasks, or names of them: ``store:MODALITY``, ``NAME=PATH``; see `mmearth_model.tasks.open_task`.
    protocols
        ``knn`` (k = 5 and 20, cosine), ``linear`` (L-BFGS), ``probe`` (our own: AdamW on frozen features, 100 epochs,
        the learning rate chosen on validation samples), ``paper`` (the linear probe as implemented in the paper's
        released code, see `mmearth_model.evaluation.paper`; it needs an encoder and a task of whole images). Tasks per
        pixel always get one linear probe, whatever protocols are requested.
    seeds
        Number of seeds.
    test_share
        Share of all labelled tiles of a store to test on, sampled per seed; None uses the store's own splits.
    labels
        Shares of the training labels.
    baselines
        ``random`` weights, per-band image ``statistics``, ``rcf`` (random convolutional features).
    convnext
        File of plain ConvNeXt V2 weights, compared as an additional baseline.
    cache
        Folder that caches features.
    device
        ``auto``, ``cpu``, ``cuda``, ...
    report
        Called with the number of samples an encoder has processed, and their total.

    Raises
    ------
    InputError
        When tasks, data and checkpoints do not fit each other.
    """
    if test_share is not None and not 0 < test_share < 1:
        raise InputError(f"--test-share: expected a share between 0 and 1, got {test_share}; 0.3 is usual.")
    if seeds < 1 or not (checkpoints or baselines or convnext):
        raise InputError(f"expected a checkpoint or a baseline, and a seed, got none and {seeds}.")
    images = None if store is None else StoreImages(store)
    opened = [task if isinstance(task, LabelledSet) else open_task(task, images) for task in dict.fromkeys(tasks)]
    job = Job(opened, protocols, labels, test_share, resolve_device(device), cache, report)
    _check_protocols(opened, protocols)
    found = candidates(checkpoints, opened, seeds, baselines=baselines, convnext=convnext)
    _check(found, job)
    results = [result for candidate in found for result in _probe(candidate, job)]
    filled = {
        (task.name, c.name): bands for c in found for task in opened if (bands := missing_bands(c.input(task), task))
    }
    skipped = tuple(
        f"{c.name}: no encoder, so not probed by protocol paper."
        for c in found
        if "paper" in protocols and not c.encoder
    )
    kept = [task for task in opened if test_share is None or not task.images.redrawn]
    known = [checkpoint.normaliser.statistics for checkpoint in checkpoints]
    notes = tuple(note for task in kept for note in data_notes(task, known, store))
    return Evaluation(tuple(row for row, _ in results), tuple(sums for _, sums in results), filled, notes + skipped)


def candidates(
    checkpoints: Sequence[Checkpoint],
    tasks: Sequence[LabelledSet],
    seeds: int,
    *,
    baselines: Sequence[Baseline] = ("random",),
    convnext: Path | None = None,
) -> list[Candidate]:
    """List the given encoders, then random ones of each distinct shape, one per seed, then the other baselines."""
    every = tuple(range(seeds))
    found = [Candidate(short_path(c.folder), every, c.normaliser, c.encoder, c.learned) for c in checkpoints]
    if "random" in baselines:
        found += _random(checkpoints, tasks, every)
    first = checkpoints[0].normaliser if checkpoints else None
    if "statistics" in baselines:
        found.append(Candidate(STATISTICS, every, first))
    if "rcf" in baselines:
        found.append(Candidate(RCF, every, first, fitted=True))
    return found + ([] if convnext is None else [_convnext(convnext, tasks, every)])


def _random(checkpoints: Sequence[Checkpoint], tasks: Sequence[LabelledSet], seeds: Sequence[int]) -> list[Candidate]:
    shapes = {f"{c.encoder_config} {c.normaliser.inputs}": c for c in reversed(checkpoints)}
    loaders: list[tuple[RandomEncoder, Normaliser | None]] = [
        (RandomEncoder(checkpoint=c), c.normaliser) for c in reversed(shapes.values())
    ]
    if not checkpoints:
        channels = {own_input(task).in_channels for task in tasks}
        if len(channels) > 1:
            raise InputError(
                "expected tasks with the same bands where no checkpoint is given; evaluate them one by one."
            )
        loaders = [(RandomEncoder(config=EncoderConfig(in_channels=n)), None) for n in channels]
    found = []
    for number, (loader, normaliser) in enumerate(loaders, start=1):
        name = RANDOM if len(loaders) == 1 else f"{RANDOM} {number}"
        found += [Candidate(name, (seed,), normaliser, loader.of(seed)) for seed in seeds]
    return found


def _convnext(path: Path, tasks: Sequence[LabelledSet], seeds: tuple[int, ...]) -> Candidate:
    known = {name: modality for task in tasks for name, modality in task.images.modalities.items()}
    pictured = next((m for m in known.values() if m.input and len(m.display.bands) == 3), None)
    if pictured is None:
        raise InputError("--convnext: expected tasks with red, green and blue bands, got none.")
    encoder, rgb = load_convnext(path, pictured)
    recorded = [task.images.recorded_statistics for task in tasks if task.images.recorded_statistics]
    normaliser = Normaliser([rgb], recorded[-1] if recorded else {}, inputs=[rgb.name])
    return Candidate(f"{CONVNEXT} ({path.name})", seeds, normaliser, lambda: encoder)


@dataclass(frozen=True, slots=True)
class RandomEncoder:
    """An encoder as it is before training: of a checkpoint's shape, or of a given one."""

    checkpoint: Checkpoint | None = None
    config: EncoderConfig | None = None
    seed: int = 0

    def of(self, seed: int) -> RandomEncoder:
        """Return the one of a seed."""
        return RandomEncoder(self.checkpoint, self.config, seed)

    def __call__(self) -> ConvNeXtV2:
        """Draw its weights."""
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            if self.checkpoint is None:
                return ConvNeXtV2(self.config)
            encoder = ConvNeXtV2(self.checkpoint.encoder_config)
            if not self.checkpoint.encoder_only:
                torch.manual_seed(self.seed)
                encoder.load_state_dict(MPMAE(self.checkpoint.model_config).encoder.state_dict())
            return encoder


def _check(found: Sequence[Candidate], job: Job) -> None:
    """Refuse what will not work before the first image is read."""
    for task in job.tasks:
        seeds = sorted({seed for candidate in found for seed in candidate.seeds})
        for seed in seeds if job.test_share is not None else seeds[:1]:
            job.task(task, seed).check()
        for candidate in found:
            candidate.input(task)
        if "paper" in job.protocols:
            _check_paper(found, task, job)


def _check_protocols(tasks: Sequence[LabelledSet], protocols: Sequence[Protocol]) -> None:
    """Refuse protocols that a task does not have: one per pixel has the linear probe only."""
    pixels = [task.name for task in tasks if task.kind.per_pixel]
    unused = [name for name in protocols if name not in ("linear", "paper")]
    lacking = not {"linear", "paper"} & set(protocols)
    superfluous = len(pixels) == len(tasks) and unused and tuple(protocols) != DEFAULT_PROTOCOLS
    if pixels and (lacking or superfluous):
        raise InputError(
            f"--protocol: expected linear for {pixels[0]}, the only one of a task per pixel, got {', '.join(protocols)}; "
            "change it, or leave the task out."
        )


def _check_paper(found: Sequence[Candidate], task: LabelledSet, job: Job) -> None:
    """Refuse tasks and samples that the paper's probe cannot handle, and a table that would be empty."""
    for seed in sorted({seed for candidate in found for seed in candidate.seeds}):
        divided = job.task(task, seed)
        for share in job.labels:
            paper_recipe(divided, len(share.choose(divided, seed)), probe=True)
    if len(set(job.protocols)) == 1 and not any(candidate.encoder for candidate in found):
        raise InputError(
            "--protocol paper: expected an encoder, got none; give a checkpoint, or add --protocol linear."
        )


def _probe(candidate: Candidate, job: Job) -> Iterator[tuple[Row, NDArray[np.float64]]]:
    for task in job.tasks:
        for seed in candidate.seeds:
            divided = job.task(task, seed)
            for share in job.labels:
                train = share.choose(divided, seed)
                for prediction, found in _answers(candidate, divided, train, seed, job):
                    yield _row(candidate, divided, seed, share, len(train), prediction, found), found.sums


def _answers(
    candidate: Candidate, task: LabelledSet, train: NDArray[np.intp], seed: int, job: Job
) -> Iterator[tuple[Prediction, Score]]:
    if task.kind.per_pixel:
        if candidate.encoder is not None:
            yield probe_pixels(candidate.encoder().to(job.device).eval(), candidate.input(task), task, train, seed)
        return
    if "paper" in job.protocols and candidate.encoder is not None:
        yield _as_in_the_paper(candidate.encoder(), candidate.input(task), task, train, seed, job.device)
    if set(job.protocols) == {"paper"}:
        return
    whole = LabelledFeatures(job.features(candidate, task, seed), task.labels)
    fit, choose, test = (whole.take(rows) for rows in (train, task.parts.validation, task.parts.test))
    question = Question(task.kind, _outputs(task), fit, choose, test, seed)
    for prediction in _predictions(question, job.protocols):
        answers = (prediction.predicted, question.test.labels, question.classes, prediction.scores)
        yield prediction, score(task.kind, *answers)


def _as_in_the_paper(
    encoder: ConvNeXtV2,
    normaliser: Normaliser,
    task: LabelledSet,
    train: NDArray[np.intp],
    seed: int,
    device: torch.device,
) -> tuple[Prediction, Score]:
    recipe = paper_recipe(task, len(train), probe=True, seed=seed)
    tuner = FineTuner(encoder, normaliser, task, train, recipe, device)
    validation, _ = tuner.fit()
    return Prediction("paper", np.empty(0), validation=validation, chosen=tuner.settings), tuner.score(task.parts.test)


def _predictions(question: Question, protocols: Sequence[Protocol]) -> Iterator[Prediction]:
    if "knn" in protocols:
        yield from knn(question)
    if "linear" in protocols:
        yield linear(question)
    if "probe" in protocols:
        yield adamw(question)


def _outputs(task: LabelledSet) -> int:
    """Classes, or targets, of a task."""
    if task.labels.ndim == 2:
        return int(task.labels.shape[1])
    return max(len(task.classes), int(task.labels.max()) + 1)


def _row(
    candidate: Candidate,
    task: LabelledSet,
    seed: int,
    share: LabelShare,
    train: int,
    prediction: Prediction,
    found: Score,
) -> Row:
    resampled = bootstrap(task.kind, [found.sums])
    low, high = interval(resampled)
    metric = PRIMARY[task.kind]
    return Row(
        task=task.name,
        kind=task.kind.value,
        encoder=candidate.name,
        seed=seed,
        protocol=prediction.protocol,
        labels=share.text,
        metric=metric,
        value=found.metrics[metric],
        low=low,
        high=high,
        metrics=found.metrics,
        validation=prediction.validation,
        converged=prediction.converged,
        chosen=prediction.chosen,
        leaky=candidate.leaky_for(task),
        train_tiles=train,
        test_tiles=len(task.parts.test),
        counts={name: asdict(count) for name, count in found.counts.items()},
        resamples=int(np.isfinite(resampled).sum()),
    )
