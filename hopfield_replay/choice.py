"""What stays of a pool of samples: a policy's picks within the places of each group."""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from hopfield_replay.candidates import Candidates
from hopfield_replay.functional import equal_quotas
from hopfield_replay.policies import Policy


def choose(
    pool: Candidates, fresh: Tensor, policy: Policy, groups: Literal["task", "label"] | None, capacity: int
) -> tuple[Tensor, Tensor]:
    """Positions in the pool to keep, group after group, best first; and those to hold in reserve.

    Groups share the capacity equally. A group without fresh samples keeps the first picks of its own order, since the
    data it was chosen from is gone. The reserve holds what a policy with ``oversample`` > 1 picked beyond the places.

    Args:
        pool: the n samples, kept ones in their order of choice.
        fresh: (n,) bool, False for the kept ones.
        policy: chooses within each group.
        groups: what the groups are; None: one group.
        capacity: places in all, >= 1.

    Raises:
        ValueError: more groups than places, or a policy that does not pick what it is asked for.
    """
    if groups is None:
        group = torch.zeros_like(pool.ids)
    else:
        names = pool.tasks if groups == "task" else pool.labels
        assert names is not None  # update refuses samples without labels
        group = names.unique(return_inverse=True)[1]
    count = int(group.max()) + 1
    if count > capacity:
        raise ValueError(
            f"{count} groups ({groups}) cannot share a capacity of {capacity}; raise the capacity to at least {count}."
        )
    chosen, spare = [], []
    for number, quota in enumerate(equal_quotas(group, min(capacity, len(pool))).tolist()):
        members = (group == number).nonzero().flatten()
        if bool(fresh[members].any()):
            more = min(len(members), quota * getattr(policy, "oversample", 1))
            picks = policy.select(pool.pick(members), more)
            if len(picks) != more or len(picks.unique()) != more or not _inside(picks, len(members)):
                raise ValueError(f"{policy!r} must select {more} distinct candidates, got {picks.tolist()}.")
            chosen.append(members[picks[:quota]])
            spare.append(members[picks[quota:]])
        else:
            chosen.append(members[:quota])  # its data is gone: the first picks of its own order stay
    return torch.cat(chosen), torch.cat(spare) if spare else torch.empty(0, dtype=torch.int64)


def weigh(pool: Candidates, stays: Tensor) -> Candidates:
    """Every sample's weight goes to the nearest one that stays, so that those stand for all that were seen."""
    pool = pool.weighted()
    assert pool.weights is not None
    nearest = torch.cat([torch.cdist(part, pool.vectors[stays]).argmin(1) for part in pool.vectors.split(4096)])
    nearest[stays] = torch.arange(len(stays))  # even beside an identical one
    weights = torch.zeros_like(pool.weights)
    weights[stays] = torch.zeros(len(stays), dtype=torch.float64).index_add(0, nearest, pool.weights)
    return replace(pool, weights=weights)


def _inside(picks: Tensor, count: int) -> bool:
    return bool(((picks >= 0) & (picks < count)).all())
