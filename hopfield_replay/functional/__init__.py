"""Pure functions on tensors; torch is the only import."""

from hopfield_replay.functional.affinity import StreamedAffinity, affinity, far_task_energy, replay_mass
from hopfield_replay.functional.energy import EnergyPass, energy, energy_and_retrieval, energy_rise
from hopfield_replay.functional.forgetting import expected_rise, replay_gain, susceptibility
from hopfield_replay.functional.ordering import facility_location, herding, k_center, neighbour_distance, proportional
from hopfield_replay.functional.responsibilities import effective_patterns, responsibilities
from hopfield_replay.functional.retrieval import fixed_points, retrieve
from hopfield_replay.functional.selection import Selection, equal_quotas, greedy_replay_gain, protected_energy
from hopfield_replay.functional.tiles import PatternTiles

__all__ = [
    "EnergyPass",
    "PatternTiles",
    "Selection",
    "StreamedAffinity",
    "affinity",
    "effective_patterns",
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
    "k_center",
    "neighbour_distance",
    "proportional",
    "protected_energy",
    "replay_gain",
    "replay_mass",
    "responsibilities",
    "retrieve",
    "susceptibility",
]
