"""Balanced: another policy within each task or label, in equal shares."""

from typing import Literal

import torch
from torch import Tensor

from hopfield_replay.policies.base import Policy, requirements
from hopfield_replay.policies.candidates import Candidates
from hopfield_replay.policies.named import as_policy
from hopfield_replay.utilities.choices import did_you_mean
from hopfield_replay.utilities.showing import ShownSettings


class Balanced(ShownSettings):
    """Another policy within each task or label, in equal shares, taken in turns; see :func:`balanced`.

    Args:
        policy: an object with ``select``.
        by: ``"task"`` or ``"label"``.

    Example:
        >>> from hopfield_replay.policies import Random
        >>> Balanced(Random(), by="task").by
        'task'
    """

    def __init__(self, policy: "Policy", by: Literal["task", "label"]) -> None:
        self.policy = policy
        self.by = by
        needs = requirements(policy)
        self.oversample = needs.oversample
        self.needs_energies = needs.energies
        self.needs_losses = needs.losses
        self.needs_labels = needs.labels or by == "label"
        self.needs_weights = needs.weights
        self.needs_rises = needs.rises
        self.temper = needs.temper
        self.is_random = needs.random
        self.replay_ratio = needs.replay_ratio
        self.reads_in_pieces = needs.in_pieces

    def select(self, candidates: Candidates, k: int) -> Tensor:
        """The first of every group, then the second of every group, until k are chosen."""
        group = candidates.tasks if self.by == "task" else candidates.labels
        if group is None:
            raise ValueError('balanced(by="label") needs labels, and the candidates have none.')
        ranks = torch.empty(len(candidates), dtype=torch.float64)
        for name in group.unique():
            members = (group == name).nonzero().flatten()
            quota = min(k, len(members))
            ranks[members] = torch.inf
            ranks[members[self.policy.select(candidates.pick(members), quota)]] = torch.arange(quota).double()
        order: Tensor = (ranks * (len(candidates) + 1) + group.unique(return_inverse=True)[1]).argsort(stable=True)
        return order[:k]


def balanced(policy: "str | Policy", by: Literal["task", "label"] = "label") -> Balanced:
    """A policy that gives every task or label an equal share of the places, within whatever it may choose from.

    Args:
        policy: a name or an object with ``select``.
        by: ``"task"`` or ``"label"``.

    Raises:
        ValueError: another ``by``, or an unknown policy.

    Example:
        >>> c = Candidates(torch.arange(4), torch.zeros(4), torch.tensor([9.0, 8.0, 7.0, 1.0]), torch.eye(4),
        ...     torch.rand(4), labels=torch.tensor([0, 0, 0, 1]))
        >>> balanced("high_energy", by="label").select(c, 2)
        tensor([0, 3])
    """
    if by not in ("task", "label"):
        raise ValueError(f'by must be "task" or "label", got {by!r}.{did_you_mean(by, ("task", "label"))}')
    return Balanced(as_policy(policy), by)
