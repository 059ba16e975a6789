"""Pure functions on tensors; torch is the only import."""

from hopfield_replay.functional.energy import (
    effective_patterns,
    energy,
    energy_rise,
    fixed_points,
    responsibilities,
    retrieve,
)

__all__ = [
    "effective_patterns",
    "energy",
    "energy_rise",
    "fixed_points",
    "responsibilities",
    "retrieve",
]
