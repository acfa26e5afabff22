"""Compare frozen encoders with untrained baselines on labelled tasks, and evaluate networks on them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from mmearth_data import InputError
from mmearth_model.devices import resolve_device
from mmearth_model.evaluation.candidates import BASELINES, Baseline, Candidate, candidates, check_choices
from mmearth_model.evaluation.constant import TRAIN_MEAN, quantities, train_mean
from mmearth_model.evaluation.features import extract, missing_bands
from mmearth_model.evaluation.finetune import FineTuner, paper_recipe
from mmearth_model.evaluation.keeping import check_keep, probe_network
from mmearth_model.evaluation.metrics import Score, score
from mmearth_model.evaluation.oddity import data_notes
from mmearth_model.evaluation.pixels import probe_pixels
from mmearth_model.evaluation.probes import LabelledFeatures, Prediction, Question, adamw, knn, linear
from mmearth_model.evaluation.results import Evaluation, Row
from mmearth_model.evaluation.speed import images_per_second
from mmearth_model.evaluation.testing import check_network, measure_network
from mmearth_model.evaluation.torchgeo_bench import (  # fmt: skip
    TORCHGEO_BENCH,
    Bench,
    TorchgeoInput,
    bench_details,
    bench_notes,
    prepared,
)
from mmearth_model.heads.network import Network, save_network
from mmearth_model.tasks import WHOLE, LabelledSet, LabelShare, StoreImages, open_task
from mmearth_model.tasks.store import redraw

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch
    from numpy.typing import NDArray

    from mmearth_data import Store
    from mmearth_model.evaluation.external.encoder import ExternalEncoder
    from mmearth_model.weights.checkpoints import Checkpoint

Protocol = Literal["knn", "linear", "probe", "paper", "torchgeo-bench"]
PROTOCOLS: tuple[Protocol, ...] = ("knn", "linear", "probe", "paper", "torchgeo-bench")
DEFAULT_PROTOCOLS: tuple[Protocol, ...] = ("knn", "linear")


@dataclass
class Steps:
    """Counts the parts of a computation, and reports them.

    Attributes
    ----------
    total
        Number of parts: probes of an encoder on a task, with a seed and a share of the labels, and tests of a network; or
        levels of a robustness experiment.
    report
        Called with the number of finished probes, their total, and the current step.
    done
        Number of those done.
    """

    total: int
    report: Callable[[int, int, str], None] | None
    done: int = 0

    def tell(self, what: str) -> None:
        """Report the current step."""
        if self.report is not None:
            self.report(self.done, self.total, what)

    def finish(self) -> None:
        """Count a finished part."""
        self.done += 1
        self.tell("")


@dataclass(frozen=True)
class Job:
    """Settings and caches shared by all candidates."""

    tasks: Sequence[LabelledSet]
    protocols: Sequence[Protocol]
    labels: Sequence[LabelShare]
    test_share: float | None
    device: torch.device
    cache: Path | None
    steps: Steps
    keep: Path | None = None  # folder for the probe of the checkpoint, with its first seed
    bench: Bench | None = None  # the only protocol, if it is that of torchgeo-bench
    kept: list[tuple[Path, Network]] = field(default_factory=list)
    memo: dict[tuple[int, str, str], NDArray[np.float32]] = field(default_factory=dict)
    divided: dict[tuple[str, int], LabelledSet] = field(default_factory=dict)
    timed: bool = False  # whether speeds are measured
    speeds: dict[tuple[int, str], float] = field(default_factory=dict)
    constant: list[str] = field(default_factory=list)  # notes on encoders that give all samples the same features

    def task(self, task: LabelledSet, seed: int) -> LabelledSet:
        """Divide a task as a seed does."""
        if self.test_share is None or not task.images.redrawn:
            return task
        return self.divided.setdefault((task.name, seed), redraw(task, self.test_share, seed))

    def features(self, candidate: Candidate, task: LabelledSet, seed: int) -> NDArray[np.float32]:
        """(N, D) features of a task's samples, computed once for each set of images."""
        model = candidate.model
        key = (id(candidate), task.images.digest, model.fitted_to(task, seed))
        if key not in self.memo:
            extractor, count = model.extractor(task, seed, self.device), self._count(candidate, task)
            reading = model.input(task)
            found = extract(extractor, reading, task.images, self.device, cache=self.cache, report=count)
            self.memo[key] = found
            if len(found) > 1 and np.array_equal(found[0], found[-1]) and (found == found[:1]).all():
                same = f"all {len(found):,} samples of {task.name} have the same features; check the encoder's input."
                self.constant.append(f"{candidate.name}: {same}")
        return self.memo[key]

    def speed(self, candidate: Candidate, task: LabelledSet, seed: int) -> float | None:
        """Images per second of a candidate, measured once per task; None if that was not requested."""
        key = (id(candidate), task.name)
        if self.timed and key not in self.speeds:
            self.steps.tell(f"speed of {candidate.name}")
            self.speeds[key] = images_per_second(candidate.model, task, seed, self.device)
        return self.speeds.get(key)

    def _count(self, candidate: Candidate, task: LabelledSet) -> Callable[[int], None]:
        seen = 0

        def count(tiles: int) -> None:
            nonlocal seen
            seen += tiles
            self.steps.tell(f"features of {candidate.name}: {seen:,}/{len(task):,} tiles")

        return count


def evaluate(
    checkpoints: Sequence[Checkpoint | Network],
    store: Store | None,
    tasks: Sequence[str | LabelledSet],
    *,
    protocols: Sequence[Protocol] = DEFAULT_PROTOCOLS,
    seeds: int = 3,
    test_share: float | None = None,
    labels: Sequence[LabelShare] = (WHOLE,),
    baselines: Sequence[Baseline] | None = None,
    convnext: str | Path | None = None,
    encoders: Sequence[ExternalEncoder] = (),
    speed: bool = False,
    keep: str | Path | None = None,
    cache: str | Path | None = None,
    device: str = "auto",
    torchgeo: TorchgeoInput | None = None,
    report: Callable[[int, int, str], None] | None = None,
) -> Evaluation:
    """Probe frozen encoders and baselines, and evaluate networks without fitting anything.

    Parameters
    ----------
    checkpoints
        Checkpoints to probe, from `mmearth_model.load_checkpoint`, and networks to evaluate on the test samples, from
        `mmearth_model.load_network`. A network normalises by its own statistics; its rows have the protocol ``network``.
        If empty, only the baselines are compared.
    store
        Store of the tasks that are derived from one; None if there are none.
    tasks
        Tasks, or names of them: ``store:MODALITY``, ``NAME=PATH``; see `mmearth_model.tasks.open_task`.
    protocols
        ``knn`` (k = 5 and 20, cosine), ``linear`` (L-BFGS), ``probe`` (our own: AdamW on frozen features, 100 epochs,
        the learning rate chosen on validation samples), ``paper`` (the linear probe as implemented in the paper's
        released code, see `mmearth_model.evaluation.paper`; it needs an encoder and a task of whole images). Tasks per
        pixel always get one linear probe, whatever protocols are requested. ``torchgeo-bench``, not combined with
        others: the protocol of torchgeo-bench, see `mmearth_model.evaluation.torchgeo_bench`.
    seeds
        Number of seeds.
    test_share
        Share of all labelled tiles of a store to test on, sampled per seed; None uses the store's own splits. Not with
        networks, which may have been trained on these tiles.
    labels
        Shares of the training labels.
    baselines
        ``random`` weights, per-band image ``statistics``, ``rcf`` (random convolutional features), ``train-mean`` (the
        mean of the training labels, for regression tasks). None: ``random``, or no baseline if there are only networks.
    convnext
        File of plain ConvNeXt V2 weights, compared as an additional baseline.
    encoders
        External encoders, from `mmearth_model.open_encoder`. They are probed like checkpoints; protocol ``paper`` needs
        a PyTorch module, and tasks per pixel need an encoder that returns maps or tokens.
    speed
        Also measure images per second of each encoder and baseline, from normalised images to features.
    keep
        Folder in which to save a linear probe as a network (`mmearth_model.load_network`): that of protocol ``linear`` or
        ``probe``, or of a pixel task, with the first seed. Requires a single checkpoint, task and share of labels.
    cache
        Folder that caches features.
    device
        ``auto``, ``cpu``, ``cuda``, ...
    torchgeo
        Input of the protocol ``torchgeo-bench``; None: red, green and blue in 224 px.
    report
        Called with the number of finished probes, their total, and the current step (``""`` after each probe).

    Raises
    ------
    InputError
        If tasks, data, checkpoints and networks do not match.
    """
    keep, cache, convnext = (None if path is None else Path(path) for path in (keep, cache, convnext))
    check_choices("--protocol", protocols, PROTOCOLS)
    check_choices("--baseline", baselines or (), BASELINES)
    pretrained = [c for c in checkpoints if not isinstance(c, Network)]
    networks = [c for c in checkpoints if isinstance(c, Network)]
    usual: Sequence[Baseline] = () if networks and not (pretrained or encoders) else ("random",)
    compared = usual if baselines is None else baselines
    _check_numbers(test_share, seeds, networks, some=bool(checkpoints or compared or convnext or encoders))
    images = None if store is None else StoreImages(store)
    opened = [task if isinstance(task, LabelledSet) else open_task(task, images) for task in dict.fromkeys(tasks)]
    _check_protocols(opened, protocols)
    _check_names(opened)
    bench = Bench(torchgeo or TorchgeoInput()) if TORCHGEO_BENCH in protocols else None
    if bench is not None:
        _check_bench(protocols, networks, test_share)
        opened = prepared(opened, bench.input)
    constant = quantities(opened) if TRAIN_MEAN in compared else []
    if keep is not None:
        check_keep(keep, pretrained, opened, protocols, labels, test_share)
    where = resolve_device(device)
    found = candidates(pretrained, opened, seeds, baselines=compared, convnext=convnext, encoders=encoders)
    total = len(opened) * (len(networks) + len(labels) * sum(len(candidate.seeds) for candidate in found))
    total += len(constant) * len(labels) * seeds
    job = Job(opened, protocols, labels, test_share, where, cache, Steps(total, report), keep, bench, timed=speed)
    _check(found, job)
    for network, task in itertools.product(networks, opened):
        check_network(network, task)
    results = [result for candidate in found for result in _probe(candidate, job)]
    results += [_measured(network, task, job) for network, task in itertools.product(networks, opened)]
    results += [_constant(task, share, seed, job) for task in constant for share in labels for seed in range(seeds)]
    for folder, network in job.kept:
        save_network(folder, network)
    if not results:
        names = ", ".join(candidate.name for candidate in found) or "no encoder"
        raise InputError(
            f"expected an encoder whose features suit the tasks ({', '.join(task.name for task in opened)}), got {names}, "
            "which have none per pixel; add a checkpoint, --encoder or --baseline random."
        )
    rows, sums = zip(*results, strict=True)
    return Evaluation(rows, sums, _filled(found, networks, opened), _notes(found, checkpoints, job, store))


def _check_numbers(test_share: float | None, seeds: int, networks: Sequence[Network], *, some: bool) -> None:
    if test_share is not None and not 0 < test_share < 1:
        raise InputError(f"--test-share: expected a share between 0 and 1, got {test_share}; 0.3 is usual.")
    twice = [
        network.name for place, network in enumerate(networks) if network.name in {n.name for n in networks[:place]}
    ]
    if twice:
        raise InputError(f"expected each network once, got {twice[0]} twice; leave one out.")
    if test_share is not None and networks:
        raise InputError(
            f"--test-share: expected none with a network, got {test_share} with {networks[0].name}, which may have been "
            "trained on the tiles that --test-share selects; leave it out."
        )
    if seeds < 1 or not some:
        raise InputError(
            f"expected at least one checkpoint or baseline and at least one seed, got none and {seeds}; add them."
        )


def _measured(network: Network, task: LabelledSet, job: Job) -> tuple[Row, NDArray[np.float64]]:
    """Row of a network with the sums of its test samples."""
    seen, total = 0, len(task.parts.test)

    def count(tiles: int) -> None:
        nonlocal seen
        seen += tiles
        job.steps.tell(f"{network.name} on {task.name}: {seen:,}/{total:,} tiles")

    result = measure_network(network, task, job.device, count)
    job.steps.finish()
    return result


def _constant(task: LabelledSet, share: LabelShare, seed: int, job: Job) -> tuple[Row, NDArray[np.float64]]:
    """Row of the mean of the training labels with the sums of the test samples."""
    job.steps.tell(f"{TRAIN_MEAN} on {task.name}")
    result = train_mean(job.task(task, seed), share, seed)
    job.steps.finish()
    return result


def _filled(
    found: Sequence[Candidate], networks: Sequence[Network], tasks: Sequence[LabelledSet]
) -> dict[tuple[str, str], tuple[str, ...]]:
    """Return the bands that are filled, for each task and encoder; see `Evaluation`."""
    inputs = [(c.name, task, c.model.input(task)) for c in found for task in tasks]
    inputs += [(network.name, task, network.normaliser) for network in networks for task in tasks]
    return {(task.name, name): bands for name, task, own in inputs if (bands := missing_bands(own, task))}


def _notes(
    found: Sequence[Candidate], checkpoints: Sequence[Checkpoint | Network], job: Job, store: Store | None
) -> tuple[str, ...]:
    """Describe what is odd about the data, and what was left out."""
    skipped = [c.name for c in found if "paper" in job.protocols and not c.model.trainable]
    kept = [task for task in job.tasks if job.test_share is None or not task.images.redrawn]
    known = [checkpoint.normaliser.statistics for checkpoint in checkpoints]
    return (
        *(() if job.bench is None else bench_notes(job.tasks, job.bench.input)),
        *(note for c in found for task in job.tasks for note in c.model.notes(task)),
        *dict.fromkeys(job.constant),
        *(note for task in kept for note in data_notes(task, known, store)),
        *(f"{name}: not probed with protocol paper, because it has no trainable network." for name in skipped),
    )


def _check(found: Sequence[Candidate], job: Job) -> None:
    """Refuse what will not work before the first image is read."""
    seeds = sorted({seed for candidate in found for seed in candidate.seeds})
    for task in job.tasks:
        for seed in seeds if job.test_share is not None else seeds[:1]:
            job.task(task, seed).check()
        for candidate in found:
            candidate.model.check(task, job.device)
        for seed in seeds if "paper" in job.protocols else ():
            divided = job.task(task, seed)
            for share in job.labels:
                paper_recipe(divided, len(share.choose(divided, seed)), probe=True)
    if set(job.protocols) == {"paper"} and not any(candidate.model.trainable for candidate in found):
        raise InputError(
            "--protocol paper: expected a trainable encoder, got none; give a checkpoint or a module, or add --protocol linear."
        )


def _check_bench(protocols: Sequence[Protocol], networks: Sequence[Network], test_share: float | None) -> None:
    """Refuse options that cannot be combined with the protocol of torchgeo-bench."""
    others = [name for name in protocols if name != TORCHGEO_BENCH]
    problems = (
        (bool(others), f"--protocol {', '.join(others)}, whose images and metrics differ; run evaluate twice"),
        (bool(networks), "a network, which has its own input; evaluate it separately"),
        (test_share is not None, "--test-share; it uses the splits of the data"),
    )
    for given, problem in problems:
        if given:
            raise InputError(f"--protocol {TORCHGEO_BENCH}: expected neither other protocols, networks nor --test-share, got {problem}.")  # fmt: skip


def _check_names(tasks: Sequence[LabelledSet]) -> None:
    """Refuse two tasks with the same name, such as ``NAME=PATH`` and ``NAME@random=PATH``: their rows would be mixed."""
    names = [task.name for task in tasks]
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise InputError(f"--task: expected each task once, got {twice} twice; leave one out.")


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


def _probe(candidate: Candidate, job: Job) -> Iterator[tuple[Row, NDArray[np.float64]]]:
    """Rows of a candidate, each with the sums of its test samples."""
    for task, seed, share in itertools.product(job.tasks, candidate.seeds, job.labels):
        divided = job.task(task, seed)
        train = share.choose(divided, seed)
        job.steps.tell(f"{candidate.name} on {task.name}")
        for prediction, found in _answers(candidate, divided, train, seed, job):
            row = Row.of(
                divided,
                found,
                encoder=candidate.name,
                seed=seed,
                protocol=prediction.protocol,
                labels=share.text,
                validation=prediction.validation,
                converged=prediction.converged,
                chosen=prediction.chosen,
                leaky=candidate.leaky_for(divided),
                train_tiles=len(train),
                details=prediction.details,
                images_per_s=job.speed(candidate, divided, seed),
            )
            _keep(candidate, divided, prediction, row, job)
            yield row, found.sums
        job.steps.finish()


def _keep(candidate: Candidate, task: LabelledSet, prediction: Prediction, row: Row, job: Job) -> None:
    """Make a network from the requested probe, that of the checkpoint with the first seed."""
    folder, checkpoint, model = job.keep, candidate.checkpoint, prediction.model
    if folder is None or checkpoint is None or model is None or row.seed != candidate.seeds[0]:
        return
    network = probe_network(checkpoint, task, model, row, folder)
    job.kept.append((folder, network))


def _answers(
    candidate: Candidate, task: LabelledSet, train: NDArray[np.intp], seed: int, job: Job
) -> Iterator[tuple[Prediction, Score]]:
    model = candidate.model
    network = model.network() if task.kind.per_pixel or ("paper" in job.protocols and model.trainable) else None
    if task.kind.per_pixel:
        if network is not None:
            yield probe_pixels(network.to(job.device), model.input(task), task, train, seed)
        return
    if network is not None:
        recipe = paper_recipe(task, len(train), probe=True, seed=seed)
        tuner = FineTuner(network, model.input(task), task, train, recipe, job.device)
        validation, _ = tuner.fit()
        done = Prediction("paper", np.empty(0), validation=validation, chosen=tuner.settings)
        yield done, tuner.score(task.parts.test)
    if set(job.protocols) == {"paper"}:
        return
    whole = LabelledFeatures(job.features(candidate, task, seed), task.labels)
    fit, choose, test = (whole.take(rows) for rows in (train, task.parts.validation, task.parts.test))
    question = Question(task.kind, task.outputs, fit, choose, test, seed, task.metric)
    if job.bench is not None:
        details = bench_details(task, job.bench.input, train, model.input(task), candidate.checkpoint is not None)
        key, name = (id(whole.values), train.tobytes()), f"{candidate.name} on {task.name}"
        yield from job.bench.answers(question, details, key, lambda step: job.steps.tell(f"{name}: {step}"))
        return
    for prediction in _predictions(question, job.protocols):
        answers = (prediction.predicted, test.labels, question.classes, prediction.scores)
        yield prediction, score(task.kind, *answers, metric=task.metric)


def _predictions(question: Question, protocols: Sequence[Protocol]) -> Iterator[Prediction]:
    if "knn" in protocols:
        yield from knn(question)
    if "linear" in protocols:
        yield linear(question)
    if "probe" in protocols:
        yield adamw(question)
