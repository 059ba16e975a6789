"""Pure functions on tensors; torch is the only import."""

from hopfield_replay.functional.energy import energy, energy_rise
from hopfield_replay.functional.responsibilities import effective_patterns, responsibilities
from hopfield_replay.functional.retrieval import fixed_points, retrieve
from hopfield_replay.functional.tiles import PatternTiles

__all__ = [
    "PatternTiles",
    "effective_patterns",
    "energy",
    "energy_rise",
    "fixed_points",
    "responsibilities",
    "retrieve",
]
