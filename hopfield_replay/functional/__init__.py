"""Pure functions on tensors; torch is the only import."""

from hopfield_replay.functional.energy import (
    effective_patterns,
    energy,
    energy_rise,
    fixed_points,
    responsibilities,
    retrieve,
)
from hopfield_replay.functional.forgetting import expected_rise, replay_gain, susceptibility

__all__ = [
    "effective_patterns",
    "energy",
    "energy_rise",
    "expected_rise",
    "fixed_points",
    "replay_gain",
    "responsibilities",
    "retrieve",
    "susceptibility",
]
