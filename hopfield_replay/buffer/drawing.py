"""How kept samples are drawn: the chance of each, and the draw."""

from typing import Literal

import torch
from torch import Tensor

from hopfield_replay.buffer.choice import group_index, place_in_group
from hopfield_replay.functional import rise_weights
from hopfield_replay.functional.correlation import ranks
from hopfield_replay.policies.base import Policy, requirements
from hopfield_replay.policies.candidates import Candidates

Sampling = Literal["uniform", "weight", "rise_weight", "energy", "rise", "gain"]
SAMPLINGS: tuple[Sampling, ...] = ("uniform", "weight", "rise_weight", "energy", "rise", "gain")
WEIGHTED = ("weight", "rise_weight")  # which count how many samples each stands for


def default_sampling(policy: Policy) -> Sampling:
    """How samples are drawn under a policy if nothing is said: as what it chooses by asks for.

    Example:
        >>> from hopfield_replay.policies import as_policy
        >>> default_sampling(as_policy("greedy_gain")), default_sampling(as_policy("random"))
        ('rise_weight', 'uniform')
    """
    needs = requirements(policy)
    return "rise_weight" if needs.rises else "weight" if needs.weights else "uniform"


def shares(
    kept: Candidates, sampling: Sampling, groups: Literal["task", "label"] | None, rises: Tensor, temper: float
) -> Tensor:
    """The chance (n,) float64 of each kept sample in a draw; they sum to 1.

    Args:
        kept: the n samples, best first of each group, with weights where ``sampling`` counts them.
        sampling: as of :class:`EnergyReplayBuffer`.
        groups: the same.
        rises: (n,) of the energies at the last boundary.
        temper: power of the predicted rises.
    """
    if sampling in WEIGHTED:
        assert kept.weights is not None
        chances = kept.weights
        if kept.rises is not None:
            chances = chances * rise_weights(kept.rises, masses=chances, groups=kept.tasks, temper=temper)
    elif sampling == "uniform":
        chances = torch.ones(len(kept), dtype=torch.float64)
    elif sampling == "gain":
        chances = 1.0 / place_in_group(group_index(kept, groups))
    else:
        chances = 1.0 / ranks(-(kept.energies if sampling == "energy" else rises))
    return chances / chances.sum()


def positions(n: int, count: int, edges: Tensor | None, generator: torch.Generator) -> Tensor:
    """Positions (n,) in [0, count), drawn with replacement.

    Args:
        n: how many.
        count: of the samples, >= 1.
        edges: (count,) cumulative sums of their chances; None: all have the same.
        generator: of the draw.

    Example:
        >>> positions(4, 2, torch.tensor([0.0, 1.0]), torch.Generator())
        tensor([1, 1, 1, 1])
    """
    points = torch.rand(n, dtype=torch.float64, generator=generator)
    if edges is None:
        return (points * count).to(torch.int64).clamp_(max=count - 1)
    return torch.searchsorted(edges, points * edges[-1], right=True).clamp_(max=count - 1)
