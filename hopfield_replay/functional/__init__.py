"""Pure functions on tensors; torch is the only import."""

from hopfield_replay.functional.energy import EnergyPass, energy, energy_and_retrieval, energy_rise
from hopfield_replay.functional.responsibilities import effective_patterns, responsibilities
from hopfield_replay.functional.retrieval import fixed_points, retrieve
from hopfield_replay.functional.tiles import PatternTiles

__all__ = [
    "EnergyPass",
    "PatternTiles",
    "effective_patterns",
    "energy",
    "energy_and_retrieval",
    "energy_rise",
    "fixed_points",
    "responsibilities",
    "retrieve",
]
