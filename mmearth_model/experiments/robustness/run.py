"""Fit probes to clean images and test them on changed images."""

from __future__ import annotations

import hashlib
import itertools
import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmearth_data import InputError, Kind
from mmearth_model.devices import resolve_device
from mmearth_model.evaluation.candidates import BASELINES, candidates, check_choices
from mmearth_model.evaluation.evaluate import Steps
from mmearth_model.evaluation.features import READ_TILES, extract
from mmearth_model.evaluation.metrics import PRIMARY, score
from mmearth_model.evaluation.probes import LabelledFeatures, Question, adamw, knn, linear
from mmearth_model.experiments.robustness.changes import Scene, all_changes
from mmearth_model.experiments.robustness.curves import Comparison, Curve, Robustness, difference_of, points_of
from mmearth_model.experiments.robustness.groups import GROUPS, Grouping

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import torch
    from numpy.typing import NDArray

    from mmearth_data import Modality
    from mmearth_model.evaluation.candidates import Baseline, Candidate
    from mmearth_model.evaluation.external.encoder import ExternalEncoder
    from mmearth_model.evaluation.features import Extractor, ImageInput
    from mmearth_model.evaluation.metrics import Score
    from mmearth_model.experiments.robustness.changes import Change
    from mmearth_model.tasks import ImageSource, LabelledSet
    from mmearth_model.tasks.labelled import Batch
    from mmearth_model.weights.checkpoints import Checkpoint

    Answer = Callable[[NDArray[Any]], tuple[NDArray[Any], NDArray[Any] | None]]
    Report = Callable[[int, int, str], None]

PROTOCOLS = ("linear", "knn", "probe")
"""Protocols whose probes can be fitted once and tested on other features."""
WORK = "changed-features"
"""Folder in the output folder for the features of changed images; removed at the end."""
SPREAD_IMAGES = 512
"""Maximum number of training images on which the standard deviations of the bands are measured."""
CHANGES = (
    "clouds", "haze", "offset", "gain", "loss", "noise", "resolution", "missing-bands", "shift", "missing-modality",
    *GROUPS,
)  # fmt: skip
"""Names of the changes and comparisons."""
LEAST_TRAIN, LEAST_TEST = 20, 10
"""Minimum numbers of training and test samples of a group."""


@dataclass(frozen=True, slots=True)
class ChangedImages:
    """Some images of a source with a change applied."""

    images: ImageSource
    rows: NDArray[np.intp]
    change: Change
    level: float
    scene: Scene

    @property
    def digest(self) -> str:
        """Digest of the images and the change."""
        spread = {name: values.tolist() for name, values in self.scene.deviations.items()}
        how = f"{self.images.digest} {self.change.name} {self.level!r} {spread}"
        return hashlib.blake2b(how.encode() + self.rows.tobytes(), digest_size=16).hexdigest()

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, rows: NDArray[np.intp], size: int, modalities: tuple[str, ...]) -> Iterator[Batch]:
        """Raw batches of the given images with the change applied."""
        done = 0
        for batch in self.images.batches(self.rows[rows], size, modalities):
            count = len(batch["tile"]["tile_id"])
            positions = self.rows[rows[done : done + count]]
            yield self.change.apply(batch, positions, self.level, self.scene)
            done += count


@dataclass(frozen=True)
class Subject:
    """A candidate on a task with a seed, and everything that is computed only once."""

    candidate: Candidate
    seed: int
    task: LabelledSet
    reading: ImageInput
    extractor: Extractor
    scene: Scene
    features: NDArray[np.float32]  # (N, D) of all samples, from clean images

    def question(self, train: NDArray[np.intp], validation: NDArray[np.intp]) -> Question:
        """Return the data for fitting a probe, without test samples."""
        whole = LabelledFeatures(self.features, self.task.labels)
        none = whole.take(np.zeros(0, dtype=np.intp))
        fit, choose, task = whole.take(train), whole.take(validation), self.task
        return Question(task.kind, task.outputs, fit, choose, none, self.seed, task.metric)

    def score(self, answer: Answer, features: NDArray[Any], rows: NDArray[np.intp]) -> Score:
        """Score the predictions for some samples."""
        predicted, scores = answer(features)
        task = self.task
        return score(task.kind, predicted, task.labels[rows], task.outputs, scores, metric=task.metric)


@dataclass(frozen=True)
class Setting:
    """Settings and state of a run."""

    protocol: str
    device: torch.device
    cache: Path | None
    work: Path
    steps: Steps


def robustness(
    checkpoints: Sequence[Checkpoint],
    tasks: Sequence[LabelledSet],
    out: str | Path,
    *,
    encoders: Sequence[ExternalEncoder] = (),
    baselines: Sequence[Baseline] = ("random",),
    changes: Sequence[str] = CHANGES,
    protocol: str = "linear",
    seeds: int = 3,
    cache: str | Path | None = None,
    device: str = "auto",
    report: Report | None = None,
) -> Robustness:
    """Fit probes of frozen encoders to clean training images, and test them on changed images.

    Parameters
    ----------
    checkpoints, encoders, baselines, seeds, cache, device
        As in `mmearth_model.evaluate`.
    tasks
        Tasks of whole images, from `mmearth_model.tasks.open_task`.
    out
        Folder for the features of changed images until the end of the run; the same call resumes an interrupted run.
    changes
        Names from `CHANGES`. Changes that do not apply to the images of a task are left out, with a note.
    protocol
        ``linear``, ``knn`` (k = 5) or ``probe``; see `mmearth_model.evaluate`.
    report
        Called with the number of finished levels and groups, their total, and the current step.

    Raises
    ------
    InputError
        If a task has labels per pixel, an encoder does not fit a task, or a change or protocol does not exist.
    """
    _check(tasks, changes, protocol)
    check_choices("--baseline", baselines, BASELINES)
    where = resolve_device(device)
    found = candidates(checkpoints, tasks, seeds, baselines=baselines, encoders=encoders)
    if not found or not tasks:
        raise InputError(
            "expected at least one checkpoint, encoder or baseline, one task and one seed; add what is missing."
        )
    for candidate, task in itertools.product(found, tasks):
        task.check()
        candidate.model.check(task, where)
    planned = [_planned(group, task, changes) for task in tasks for group in _groups(found)]
    total = sum(plan.levels for plan in planned)
    setting = Setting(protocol, where, None if cache is None else Path(cache), Path(out) / WORK, Steps(total, report))
    curves: list[Curve] = []
    comparisons: list[Comparison] = []
    for plan in planned:
        subjects = [_subject(candidate, seed, plan.task, setting) for candidate, seed in plan.group]
        curves += _curves(subjects, plan.changes, setting)
        comparisons += [found for grouping in plan.groupings for found in _comparisons(subjects, grouping, setting)]
    shutil.rmtree(setting.work, ignore_errors=True)
    notes = dict.fromkeys(note for plan in planned for note in plan.notes)
    return Robustness(tuple(curves), tuple(comparisons), tuple(notes))


def _check(tasks: Sequence[LabelledSet], changes: Sequence[str], protocol: str) -> None:
    for task in tasks:
        if task.kind.per_pixel:
            raise InputError(
                f"{task.name}: expected a task of whole images, got one with labels per pixel; choose another task."
            )
    check_choices("--change", changes, CHANGES)
    check_choices("--protocol", [protocol], PROTOCOLS)


def _groups(found: Sequence[Candidate]) -> list[list[tuple[Candidate, int]]]:
    """Candidates grouped by name, with their seeds."""
    groups: dict[str, list[tuple[Candidate, int]]] = {}
    for candidate in found:
        groups.setdefault(candidate.name, []).extend((candidate, seed) for seed in candidate.seeds)
    return list(groups.values())


@dataclass(frozen=True)
class Plan:
    """Changes and comparisons to measure for an encoder on a task."""

    task: LabelledSet
    group: list[tuple[Candidate, int]]
    changes: list[Change]
    groupings: list[Grouping]
    notes: list[str]

    @property
    def levels(self) -> int:
        """Number of levels and groups to test."""
        tests = sum(len(change.levels) for change in self.changes) + sum(len(g.groups) for g in self.groupings)
        return tests * len(self.group)


def _planned(group: list[tuple[Candidate, int]], task: LabelledSet, names: Sequence[str]) -> Plan:
    candidate = group[0][0]
    inputs = _inputs(candidate.model.input(task), task)
    scene = Scene(inputs, _bands(inputs, task), {})
    notes = [f"{candidate.name} was trained on the labels of {task.name}, or on related ones."] * candidate.leaky_for(
        task
    )
    used = []
    for change in all_changes(scene.inputs):
        if change.kind in names:
            obstacle = change.obstacle(scene)
            notes += [f"{candidate.name} on {task.name}: {change.kind} is left out, because {obstacle}."] * bool(
                obstacle
            )
            used += [change] * (not obstacle)
    groupings = []
    for name in (name for name in names if name in GROUPS):
        grouping, obstacle = _grouping(name, task)
        groupings += [grouping] if grouping is not None else []
        notes += [f"{task.name}: {name} is left out, because {obstacle}."] * bool(obstacle)
    return Plan(task, group, used, groupings, notes)


def _grouping(name: str, task: LabelledSet) -> tuple[Grouping | None, str]:
    """Divide the samples of a task into at least two groups with enough samples; else return None and the reason."""
    if not {"time", "lat", "lon"} <= set(task.images.coords):
        return None, "the locations or dates of the images are unknown"
    codes, names = GROUPS[name](task.images.coords)
    enough = []
    for code, label in enumerate(names):
        train, test = (rows[codes[rows] == code] for rows in (task.parts.train, task.parts.test))
        if len(train) >= LEAST_TRAIN and len(test) >= LEAST_TEST and _several(task, train):
            enough.append((label, train, test))
    if len(enough) < 2:
        training = f"{LEAST_TRAIN} training samples, not all with the same label,"
        return None, f"fewer than two groups have {training} and {LEAST_TEST} test samples"
    return Grouping(name, tuple(enough)), ""


def _several(task: LabelledSet, rows: NDArray[np.intp]) -> bool:
    """Whether a probe can be fitted: the task is a regression, or the samples have different labels."""
    return task.kind.continuous or len(np.unique(task.labels[rows], axis=0)) > 1


def _inputs(reading: ImageInput, task: LabelledSet) -> tuple[Modality, ...]:
    """Continuous raster modalities that the encoder takes and the images have."""
    every = [reading.modalities[name] for name in reading.inputs]
    return tuple(m for m in every if m.kind is Kind.RASTER_CONTINUOUS and m.stored and task.images.found_bands(m))


def _subject(candidate: Candidate, seed: int, task: LabelledSet, setting: Setting) -> Subject:
    reading = candidate.model.input(task)
    extractor = candidate.model.extractor(task, seed, setting.device)
    setting.steps.tell(f"features of {candidate.name} on {task.name}")
    features = extract(extractor, reading, task.images, setting.device, cache=setting.cache)
    inputs = _inputs(reading, task)
    scene = Scene(inputs, _bands(inputs, task), _deviations(task, inputs))
    return Subject(candidate, seed, task, reading, extractor, scene, features)


def _bands(inputs: Sequence[Modality], task: LabelledSet) -> dict[str, tuple[str, ...]]:
    found = {m.name: set(task.images.found_bands(m)) for m in inputs}
    return {m.name: tuple(band for band in m.model_bands if band in found[m.name]) for m in inputs}


def _deviations(task: LabelledSet, inputs: Sequence[Modality]) -> Mapping[str, NDArray[np.float64]]:
    """Measure the standard deviation of each band over observed values of some training images; 0 if there are none."""
    train = task.parts.train
    rows = train[np.linspace(0, len(train) - 1, min(len(train), SPREAD_IMAGES)).astype(np.intp)]
    sums = {m.name: np.zeros((3, len(m.bands))) for m in inputs}
    for batch in task.images.batches(rows, READ_TILES, tuple(sums)):
        for m in inputs:
            values, seen = batch[m.name].astype(np.float64), m.observed(batch[m.name])
            clean = np.where(seen, values, 0.0)
            sums[m.name] += np.stack([part.sum(axis=(0, 2, 3)) for part in (seen, clean, clean**2)])
    found = {}
    for name, (count, first, second) in sums.items():
        mean = first / np.maximum(count, 1)
        found[name] = np.sqrt(np.maximum(second / np.maximum(count, 1) - mean**2, 0))
    return found


def _curves(subjects: Sequence[Subject], changes: Sequence[Change], setting: Setting) -> list[Curve]:
    """Curves of one encoder on one task; one probe is fitted per seed."""
    first, task = subjects[0], subjects[0].task
    answers = [fitted(setting.protocol, s.question(task.parts.train, task.parts.validation)) for s in subjects]
    found = []
    for change in changes:
        scores = [
            [
                _tested(subject, answer, change, level, setting)
                for subject, answer in zip(subjects, answers, strict=True)
            ]
            for level in change.levels
        ]
        found.append(
            Curve(
                task=task.name,
                encoder=first.candidate.name,
                protocol=setting.protocol,
                metric=task.metric or PRIMARY[task.kind],
                change=change.name,
                axis=change.axis,
                points=points_of(task, change.levels, scores),
                seeds=len(subjects),
                samples=len(task.parts.test),
            )
        )
    return found


def _tested(subject: Subject, answer: Answer, change: Change, level: float, setting: Setting) -> Score:
    """Score a probe on the test images at one level; level 0 uses the features of the clean images."""
    rows = subject.task.parts.test
    if not level:
        setting.steps.finish()
        return subject.score(answer, subject.features[rows], rows)
    setting.steps.tell(f"{subject.candidate.name} on {subject.task.name}: {change.name} {level:g}")
    changed = ChangedImages(subject.task.images, rows, change, level, subject.scene)
    features = extract(subject.extractor, subject.reading, changed, setting.device, cache=setting.work)
    setting.steps.finish()
    return subject.score(answer, features, rows)


def _comparisons(subjects: Sequence[Subject], grouping: Grouping, setting: Setting) -> Iterator[Comparison]:
    """Compare probes fitted to each group with probes fitted to the other groups, on the test samples of the group."""
    first, task = subjects[0], subjects[0].task
    for label, train, test in grouping.groups:
        others = np.concatenate([rows for name, rows, _ in grouping.groups if name != label])
        count = min(len(train), len(others))
        own, other = (
            [_apart(subject, _some(task, rows, count, subject.seed), test, setting) for subject in subjects]
            for rows in (train, others)
        )
        for _ in subjects:
            setting.steps.finish()
        yield Comparison(
            task.name, first.candidate.name, setting.protocol, task.metric or PRIMARY[task.kind], grouping.name, label,
            *difference_of(task, own, other), count, len(test), len(subjects),
        )  # fmt: skip


def _some(task: LabelledSet, rows: NDArray[np.intp], count: int, seed: int) -> NDArray[np.intp]:
    """Random samples of a group, with at least two labels among them where a probe needs that."""
    order = np.random.default_rng([seed, 47]).permutation(rows)
    if not _several(task, order[:count]):
        others = (task.labels[order] != task.labels[order[:1]]).reshape(len(order), -1).any(axis=1)
        order[[0, others.argmax()]] = order[[others.argmax(), 0]]
    return np.sort(order[:count])


def _apart(subject: Subject, train: NDArray[np.intp], test: NDArray[np.intp], setting: Setting) -> Score:
    """Fit a probe to some samples and score it on others; its settings are chosen on some of the training samples."""
    answer = fitted(setting.protocol, subject.question(train, train[:0]))
    return subject.score(answer, subject.features[test], test)


def fitted(protocol: str, question: Question) -> Answer:
    """Fit a probe; returns a function from (N, D) features to predictions and, for a multi-label task, scores."""
    if protocol == "knn":
        return partial(_nearest, question)
    model = (linear if protocol == "linear" else adamw)(question).model
    assert model is not None
    return model


def _nearest(question: Question, values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any] | None]:
    blank = np.zeros((len(values), *question.train.labels.shape[1:]), dtype=question.train.labels.dtype)
    found = knn(replace(question, test=LabelledFeatures(values, blank)))[0]
    return found.predicted, found.scores
