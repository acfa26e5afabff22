"""Compare frozen encoders on labelled tasks, beside encoders that learned nothing."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from mmearth_data import InputError
from mmearth_model.devices import resolve_device
from mmearth_model.evaluation.features import Features, check_inputs, extract
from mmearth_model.evaluation.probes import LabelledFeatures, Score, check_classes, knn, linear
from mmearth_model.mpmae import MPMAE
from mmearth_model.tasks import parse_task

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from mmearth_data import Store
    from mmearth_model.checkpoints import Checkpoint
    from mmearth_model.encoder import ConvNeXtV2
    from mmearth_model.targets import Normaliser
    from mmearth_model.tasks import StoreTask

Protocol = Literal["knn", "linear"]
PROTOCOLS: tuple[Protocol, ...] = ("knn", "linear")
RANDOM = "random init"


@dataclass(frozen=True, slots=True)
class Split:
    """Rows of the store's tiles, by what they are used for.

    Attributes
    ----------
    train, validation, test
        Positions among the tiles.
    """

    train: NDArray[np.intp]
    validation: NDArray[np.intp]
    test: NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Row:
    """One probe of one encoder.

    Attributes
    ----------
    task
        ``store:biome``, ...
    encoder
        Checkpoint folder, or `RANDOM`.
    seed
        Of the random encoder, of the split where it is drawn, and of what is held out for validation.
    protocol, accuracy, balanced_accuracy, converged, chosen
        See `mmearth_model.evaluation.probes.Score`.
    leaky
        The encoder was trained on these labels, or on their kin: the figure proves nothing.
    train_tiles, test_tiles
        Labelled tiles that were fitted to (validation included) and tested on.
    """

    task: str
    encoder: str
    seed: int
    protocol: str
    accuracy: float
    balanced_accuracy: float
    converged: bool | None
    chosen: str
    leaky: bool
    train_tiles: int
    test_tiles: int


@dataclass(frozen=True, slots=True)
class Summary:
    """An encoder's rows of one task and protocol, over the seeds.

    Attributes
    ----------
    mean, deviation
        Of the accuracy; unbiased, 0 for one seed.
    seeds
        How many.
    """

    task: str
    encoder: str
    protocol: str
    mean: float
    deviation: float
    seeds: int
    leaky: bool
    converged: bool


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Results.

    Attributes
    ----------
    rows
        Every probe.
    """

    rows: tuple[Row, ...]

    def summaries(self) -> list[Summary]:
        """Means over the seeds, in the order of the rows."""
        groups: dict[tuple[str, str, str], list[Row]] = {}
        for row in self.rows:
            groups.setdefault((row.task, row.protocol, row.encoder), []).append(row)
        return [_summary(rows) for rows in groups.values()]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {"rows": [asdict(row) for row in self.rows], "summary": [asdict(s) for s in self.summaries()]}


@dataclass(frozen=True, slots=True)
class Candidate:
    """An encoder to be probed.

    Attributes
    ----------
    name
        For the table.
    seeds
        Seeds under which it is probed.
    leaky_for
        Tasks whose labels it has seen.
    """

    name: str
    encoder: Callable[[], ConvNeXtV2]
    normaliser: Normaliser
    seeds: tuple[int, ...]
    leaky_for: frozenset[str] = frozenset()


def evaluate(
    checkpoints: Sequence[Checkpoint],
    store: Store,
    tasks: Sequence[str],
    *,
    protocols: Sequence[Protocol] = PROTOCOLS,
    seeds: int = 3,
    test_share: float | None = None,
    device: str = "auto",
    report: Callable[[str, int, int], None] = lambda encoder, tiles, total: None,
) -> Evaluation:
    """Probe frozen encoders, and one with random weights per seed.

    Parameters
    ----------
    checkpoints
        From `mmearth_model.load_checkpoint`.
    store
        Labelled tiles.
    tasks
        ``store:MODALITY``: a class of each tile, or the class that covers most of it.
    protocols
        ``knn`` (k = 5 and 20, cosine), ``linear`` (L-BFGS).
    seeds
        How many.
    test_share
        Share of all labelled tiles, drawn per seed, to test on; None uses the store's own splits.
    device
        ``auto``, ``cpu``, ``cuda``, ...
    report
        Told how many tiles of how many an encoder has seen.

    Raises
    ------
    InputError
        When store, tasks and checkpoints do not fit each other.
    """
    if test_share is not None and not 0 < test_share < 1:
        raise InputError(f"--test-share: expected a share between 0 and 1, got {test_share}; 0.3 is usual.")
    if seeds < 1 or not checkpoints:
        raise InputError(f"expected a checkpoint and a seed at least, got {len(checkpoints)} and {seeds}.")
    parsed = [parse_task(task, store.modalities) for task in dict.fromkeys(tasks)]
    for checkpoint in checkpoints:
        check_inputs(checkpoint.normaliser, store)
    where = resolve_device(device)
    rows: list[Row] = []
    for candidate in candidates(checkpoints, parsed, seeds):
        features = _features(candidate, store, parsed, where, report)
        for task in parsed:
            rows += _probe(candidate, task, features, store, protocols, test_share)
    return Evaluation(tuple(rows))


def candidates(checkpoints: Sequence[Checkpoint], tasks: Sequence[StoreTask], seeds: int) -> list[Candidate]:
    """List the given encoders, then random ones of each distinct shape, one per seed."""
    found = []
    shapes: dict[str, Checkpoint] = {}
    for checkpoint in checkpoints:
        leaky = frozenset(task.name for task in tasks if any(task.conflicts(m) for m in checkpoint.learned))
        name = str(checkpoint.folder)
        found.append(Candidate(name, checkpoint.encoder, checkpoint.normaliser, tuple(range(seeds)), leaky))
        shapes.setdefault(f"{checkpoint.model_config.encoder} {checkpoint.normaliser.inputs}", checkpoint)
    for number, checkpoint in enumerate(shapes.values(), start=1):
        name = RANDOM if len(shapes) == 1 else f"{RANDOM} {number}"
        for seed in range(seeds):
            encoder = _RandomEncoder(checkpoint, seed)
            found.append(Candidate(name, encoder, checkpoint.normaliser, (seed,)))
    return found


@dataclass(frozen=True, slots=True)
class _RandomEncoder:
    """An encoder of a checkpoint's shape, as it is before training."""

    checkpoint: Checkpoint
    seed: int

    def __call__(self) -> ConvNeXtV2:
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            return MPMAE(self.checkpoint.model_config).encoder


def split_tiles(store: Store, labelled: NDArray[np.bool_], test_share: float | None, seed: int) -> Split:
    """Divide the labelled tiles: by the store's splits, or a seeded share of them all."""
    if test_share is None:
        codes = store.coords["split"]
        parts = [np.flatnonzero(labelled & (codes == code)) for code in range(3)]
        return Split(*parts)
    order = np.random.default_rng(seed).permutation(np.flatnonzero(labelled))
    test = round(test_share * len(order))
    return Split(train=order[test:], validation=order[:0], test=order[:test])


def _features(
    candidate: Candidate,
    store: Store,
    tasks: Sequence[StoreTask],
    device: torch.device,
    report: Callable[[str, int, int], None],
) -> Features:
    seen = 0

    def count(tiles: int) -> None:
        nonlocal seen
        seen += tiles
        report(candidate.name, seen, len(store))

    return extract(candidate.encoder(), candidate.normaliser, store, tasks, device, count)


def _probe(
    candidate: Candidate,
    task: StoreTask,
    features: Features,
    store: Store,
    protocols: Sequence[Protocol],
    test_share: float | None,
) -> list[Row]:
    rows = []
    labels = features.labels[task.name]
    everything = LabelledFeatures(features.values, labels)
    for seed in candidate.seeds:
        split = split_tiles(store, labels >= 0, test_share, seed)
        train, validation, test = (everything.take(i) for i in (split.train, split.validation, split.test))
        check_classes(train, test, task.name)
        scores: list[Score] = []
        if "knn" in protocols:
            scores += knn(everything.take(np.concatenate([split.train, split.validation])), test)
        if "linear" in protocols:
            scores.append(linear(train, test, validation if len(validation) else None, seed=seed))
        rows += [
            Row(
                task=task.name,
                encoder=candidate.name,
                seed=seed,
                leaky=task.name in candidate.leaky_for,
                train_tiles=len(train) + len(validation),
                test_tiles=len(test),
                **asdict(score),
            )
            for score in scores
        ]
    return rows


def _summary(rows: Sequence[Row]) -> Summary:
    values = [row.accuracy for row in rows]
    return Summary(
        task=rows[0].task,
        encoder=rows[0].encoder,
        protocol=rows[0].protocol,
        mean=statistics.fmean(values),
        deviation=statistics.stdev(values) if len(values) > 1 else 0.0,
        seeds=len(values),
        leaky=any(row.leaky for row in rows),
        converged=all(row.converged is not False for row in rows),
    )
