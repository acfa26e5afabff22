"""How good a representation is: probes of frozen encoders, and fine-tuning, on labelled tasks."""

from mmearth_model.evaluation.candidates import BASELINES, RANDOM, Baseline
from mmearth_model.evaluation.evaluate import DEFAULT_PROTOCOLS, PROTOCOLS, Protocol, evaluate
from mmearth_model.evaluation.external.description import EncoderDescription
from mmearth_model.evaluation.external.encoder import ExternalEncoder
from mmearth_model.evaluation.external.opening import open_encoder
from mmearth_model.evaluation.results import Difference, Evaluation, Row, Summary, beside_dict, write_results
from mmearth_model.evaluation.torchgeo_bench import TORCHGEO_BENCH, TorchgeoInput, bench_table, write_bench_table

__all__ = [
    "BASELINES",
    "DEFAULT_PROTOCOLS",
    "PROTOCOLS",
    "RANDOM",
    "TORCHGEO_BENCH",
    "Baseline",
    "Difference",
    "EncoderDescription",
    "Evaluation",
    "ExternalEncoder",
    "Protocol",
    "Row",
    "Summary",
    "TorchgeoInput",
    "bench_table",
    "beside_dict",
    "evaluate",
    "open_encoder",
    "write_bench_table",
    "write_results",
]
