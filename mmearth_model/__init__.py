"""MP-MAE: pretrain, evaluate and embed.

Names are loaded on first use, so that ``import mmearth_model`` does not wait for PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmearth_model.account import plan_line, training_account
    from mmearth_model.benchmarking import Timing, Workload, bench
    from mmearth_model.checkpoints import Checkpoint, load_checkpoint, load_encoder
    from mmearth_model.converting import convert
    from mmearth_model.dataset import TileDataset
    from mmearth_model.encoder import ConvNeXtV2, EncoderConfig, FeatureMaps
    from mmearth_model.evaluation import Evaluation, evaluate
    from mmearth_model.mpmae import MPMAE, MPMAEConfig
    from mmearth_model.plan import TrainPlan, plan_training
    from mmearth_model.pretraining import TrainingDiverged, TrainingInterrupted, TrainProgress, pretrain
    from mmearth_model.recipe import TrainRecipe, make_recipe
    from mmearth_model.targets import Normaliser

_HOME = {
    "Checkpoint": "checkpoints",
    "ConvNeXtV2": "encoder",
    "EncoderConfig": "encoder",
    "Evaluation": "evaluation",
    "FeatureMaps": "encoder",
    "MPMAE": "mpmae",
    "MPMAEConfig": "mpmae",
    "Normaliser": "targets",
    "TileDataset": "dataset",
    "Timing": "benchmarking",
    "TrainPlan": "plan",
    "TrainProgress": "pretraining",
    "TrainRecipe": "recipe",
    "TrainingDiverged": "pretraining",
    "TrainingInterrupted": "pretraining",
    "Workload": "benchmarking",
    "bench": "benchmarking",
    "convert": "converting",
    "evaluate": "evaluation",
    "load_checkpoint": "checkpoints",
    "load_encoder": "checkpoints",
    "make_recipe": "recipe",
    "plan_line": "account",
    "plan_training": "plan",
    "pretrain": "pretraining",
    "training_account": "account",
}

__all__ = [
    "MPMAE",
    "Checkpoint",
    "ConvNeXtV2",
    "EncoderConfig",
    "Evaluation",
    "FeatureMaps",
    "MPMAEConfig",
    "Normaliser",
    "TileDataset",
    "Timing",
    "TrainPlan",
    "TrainProgress",
    "TrainRecipe",
    "TrainingDiverged",
    "TrainingInterrupted",
    "Workload",
    "bench",
    "convert",
    "evaluate",
    "load_checkpoint",
    "load_encoder",
    "make_recipe",
    "plan_line",
    "plan_training",
    "pretrain",
    "training_account",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any public name
    """Load a public name from the module that defines it, on first use (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
