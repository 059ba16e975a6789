"""torchmetrics classes over the pure functions; each works alone in a user's own module. And two distances."""

from hopfield_replay.metrics.distances import frechet_distance, kernel_distance
from hopfield_replay.metrics.energy_forgetting_correlation import EnergyForgettingCorrelation
from hopfield_replay.metrics.generative_task_matrix import GenerativeTaskMatrix
from hopfield_replay.metrics.intrinsic_forgetting import IntrinsicForgetting
from hopfield_replay.metrics.knn_precision_recall import KNNPrecisionRecall
from hopfield_replay.metrics.reconstruction_forgetting import ReconstructionForgetting

__all__ = [
    "EnergyForgettingCorrelation",
    "GenerativeTaskMatrix",
    "IntrinsicForgetting",
    "KNNPrecisionRecall",
    "ReconstructionForgetting",
    "frechet_distance",
    "kernel_distance",
]
