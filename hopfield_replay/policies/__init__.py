"""Which samples to keep: a policy orders candidates, best first, with one method."""

from hopfield_replay.policies.balanced import Balanced, balanced
from hopfield_replay.policies.base import Policy, Requirements, requirements
from hopfield_replay.policies.baselines import (
    ByVectors,
    HighEnergy,
    HighLoss,
    HighRise,
    LowEnergy,
    NearestNeighbour,
    Proportional,
    Random,
    Reservoir,
)
from hopfield_replay.policies.candidates import Candidates
from hopfield_replay.policies.greedy_gain import GreedyGain
from hopfield_replay.policies.k_means import KMeans
from hopfield_replay.policies.named import POLICIES, as_policy

__all__ = [
    "POLICIES",
    "Balanced",
    "ByVectors",
    "Candidates",
    "GreedyGain",
    "HighEnergy",
    "HighLoss",
    "HighRise",
    "KMeans",
    "LowEnergy",
    "NearestNeighbour",
    "Policy",
    "Proportional",
    "Random",
    "Requirements",
    "Reservoir",
    "as_policy",
    "balanced",
    "requirements",
]
