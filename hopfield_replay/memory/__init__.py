"""Patterns, masses and inverse temperature as one object; how the temperature is calibrated and diagnosed."""

from hopfield_replay.memory.memory import HopfieldMemory
from hopfield_replay.memory.temperature import Diagnosis, beta_at_timestep, calibrate_beta, diagnose

__all__ = ["Diagnosis", "HopfieldMemory", "beta_at_timestep", "calibrate_beta", "diagnose"]
