"""Sampling that stored samples steer: old tasks are generated again without training."""

from hopfield_replay.guidance.memory_guidance import MemoryGuidance
from hopfield_replay.guidance.mixture import SampleMixture
from hopfield_replay.guidance.report import GuidanceReport

__all__ = ["GuidanceReport", "MemoryGuidance", "SampleMixture"]
