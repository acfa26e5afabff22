"""MP-MAE: pretrain, evaluate and embed.

Names are loaded on first use, so that ``import mmearth_model`` does not wait for PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmearth_model.benchmarking import Timing, Workload, bench
    from mmearth_model.data.dataset import TileDataset
    from mmearth_model.data.targets import Normaliser
    from mmearth_model.datasets import MMEarthStore
    from mmearth_model.evaluation import EncoderDescription, Evaluation, ExternalEncoder, evaluate, open_encoder
    from mmearth_model.experiments.robustness.curves import Robustness
    from mmearth_model.experiments.robustness.run import robustness
    from mmearth_model.heads.network import Network, Output, Predicted, load_network, save_network
    from mmearth_model.maps.areas import AreaReport, report_areas, write_areas
    from mmearth_model.maps.dense import embed_dense
    from mmearth_model.maps.dense_pictures import write_picture, write_similarity
    from mmearth_model.maps.describing import SceneOptions
    from mmearth_model.maps.drawing import draw_validation, write_validation
    from mmearth_model.maps.mosaic import predict_mosaic
    from mmearth_model.maps.planning import WindowOptions
    from mmearth_model.maps.polygons import write_polygons
    from mmearth_model.maps.predict import predict_scene
    from mmearth_model.maps.stores import predict_rasters, predict_table
    from mmearth_model.maps.vectors import open_vectors
    from mmearth_model.network.encoder import ConvNeXtV2, EncoderConfig
    from mmearth_model.network.feature_maps import FeatureMaps
    from mmearth_model.network.mpmae import MPMAE, MPMAEConfig
    from mmearth_model.programs.writing import export_program
    from mmearth_model.published import Published, read_published
    from mmearth_model.report.gather import Report, read_report
    from mmearth_model.report.writing import write_report
    from mmearth_model.training.account import plan_line, training_account
    from mmearth_model.training.plan import TrainPlan, plan_training
    from mmearth_model.training.pretraining import TrainingDiverged, TrainingInterrupted, TrainProgress, pretrain
    from mmearth_model.training.recipe import TrainRecipe, make_recipe
    from mmearth_model.weights.checkpoints import Checkpoint, load_checkpoint, load_encoder
    from mmearth_model.weights.converting import convert
    from mmearth_model.weights.describing import describe

_MODULES = {
    "benchmarking": "Timing Workload bench",
    "data.dataset": "TileDataset",
    "data.targets": "Normaliser",
    "datasets": "MMEarthStore",
    "evaluation": "EncoderDescription Evaluation ExternalEncoder evaluate open_encoder",
    "experiments.robustness.curves": "Robustness",
    "experiments.robustness.run": "robustness",
    "heads.network": "Network Output Predicted load_network save_network",
    "maps.areas": "AreaReport report_areas write_areas",
    "maps.describing": "SceneOptions",
    "maps.drawing": "draw_validation write_validation",
    "maps.mosaic": "predict_mosaic",
    "maps.polygons": "write_polygons",
    "maps.stores": "predict_rasters predict_table",
    "maps.dense": "embed_dense",
    "maps.dense_pictures": "write_picture write_similarity",
    "maps.vectors": "open_vectors",
    "maps.planning": "WindowOptions",
    "maps.predict": "predict_scene",
    "network.encoder": "ConvNeXtV2 EncoderConfig",
    "network.feature_maps": "FeatureMaps",
    "network.mpmae": "MPMAE MPMAEConfig",
    "programs.writing": "export_program",
    "published": "Published read_published",
    "report.gather": "Report read_report",
    "report.writing": "write_report",
    "training.account": "plan_line training_account",
    "training.plan": "TrainPlan plan_training",
    "training.pretraining": "TrainProgress TrainingDiverged TrainingInterrupted pretrain",
    "training.recipe": "TrainRecipe make_recipe",
    "weights.checkpoints": "Checkpoint load_checkpoint load_encoder",
    "weights.converting": "convert",
    "weights.describing": "describe",
}
"""Module -> the public names that it defines."""
_HOME = {name: module for module, names in _MODULES.items() for name in names.split()}

__all__ = [
    "MPMAE",
    "AreaReport",
    "Checkpoint",
    "ConvNeXtV2",
    "EncoderConfig",
    "EncoderDescription",
    "Evaluation",
    "ExternalEncoder",
    "FeatureMaps",
    "MMEarthStore",
    "MPMAEConfig",
    "Network",
    "Normaliser",
    "Output",
    "Predicted",
    "Published",
    "Report",
    "Robustness",
    "SceneOptions",
    "TileDataset",
    "Timing",
    "TrainPlan",
    "TrainProgress",
    "TrainRecipe",
    "TrainingDiverged",
    "TrainingInterrupted",
    "WindowOptions",
    "Workload",
    "bench",
    "convert",
    "describe",
    "draw_validation",
    "embed_dense",
    "evaluate",
    "export_program",
    "load_checkpoint",
    "load_encoder",
    "load_network",
    "make_recipe",
    "open_encoder",
    "open_vectors",
    "plan_line",
    "plan_training",
    "predict_mosaic",
    "predict_rasters",
    "predict_scene",
    "predict_table",
    "pretrain",
    "read_published",
    "read_report",
    "report_areas",
    "robustness",
    "save_network",
    "training_account",
    "write_areas",
    "write_picture",
    "write_polygons",
    "write_report",
    "write_similarity",
    "write_validation",
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
