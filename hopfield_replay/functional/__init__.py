"""Pure functions on tensors; torch is the only import."""

from hopfield_replay.functional.affinity import StreamedAffinity, affinity, far_task_energy, replay_mass
from hopfield_replay.functional.correlation import Correlation, ranks, spearman, spearman_interval
from hopfield_replay.functional.denoiser import Denoiser
from hopfield_replay.functional.diffusion import (
    ddim_denoise,
    multistep_reconstruction_error,
    reconstruction_error,
    reconstruction_errors,
)
from hopfield_replay.functional.draws import proportional
from hopfield_replay.functional.energy import EnergyPass, energy, energy_and_retrieval, energy_rise
from hopfield_replay.functional.forgetting import expected_rise, replay_gain, susceptibility
from hopfield_replay.functional.hopfield_attention import hopfield_attention
from hopfield_replay.functional.hypotheses import holm
from hopfield_replay.functional.k_medoids import k_means_medoids
from hopfield_replay.functional.likelihood import log_likelihood
from hopfield_replay.functional.model_energy import elbo_weights, model_energy, timestep_of_beta, timesteps_between
from hopfield_replay.functional.neighbours import knn_distance, precision_recall
from hopfield_replay.functional.ordering import facility_location, herding, k_center
from hopfield_replay.functional.quotas import equal_quotas
from hopfield_replay.functional.responsibilities import effective_patterns, responsibilities
from hopfield_replay.functional.retrieval import fixed_points, retrieve
from hopfield_replay.functional.rise_weights import predicted_rises, rise_weights
from hopfield_replay.functional.rows import Rows
from hopfield_replay.functional.selection import Selection, greedy_replay_gain, protected_energy
from hopfield_replay.functional.sparse_affinity import SparseAffinity
from hopfield_replay.functional.task_matrix import TaskSummary, task_summary
from hopfield_replay.functional.tiles import PatternTiles
from hopfield_replay.functional.token_uniformity import token_cosine, token_residual

__all__ = [
    "Correlation",
    "Denoiser",
    "EnergyPass",
    "PatternTiles",
    "Rows",
    "Selection",
    "SparseAffinity",
    "StreamedAffinity",
    "TaskSummary",
    "affinity",
    "ddim_denoise",
    "effective_patterns",
    "elbo_weights",
    "energy",
    "energy_and_retrieval",
    "energy_rise",
    "equal_quotas",
    "expected_rise",
    "facility_location",
    "far_task_energy",
    "fixed_points",
    "greedy_replay_gain",
    "herding",
    "holm",
    "hopfield_attention",
    "k_center",
    "k_means_medoids",
    "knn_distance",
    "log_likelihood",
    "model_energy",
    "multistep_reconstruction_error",
    "precision_recall",
    "predicted_rises",
    "proportional",
    "protected_energy",
    "ranks",
    "reconstruction_error",
    "reconstruction_errors",
    "replay_gain",
    "replay_mass",
    "responsibilities",
    "retrieve",
    "rise_weights",
    "spearman",
    "spearman_interval",
    "susceptibility",
    "task_summary",
    "timestep_of_beta",
    "timesteps_between",
    "token_cosine",
    "token_residual",
]
