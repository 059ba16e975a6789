"""What stays of a pool of samples: a policy's picks within the places of each group."""

from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from hopfield_replay.functional import equal_quotas
from hopfield_replay.functional._nearest import NearestOne
from hopfield_replay.functional.rows import Matrix, pieces
from hopfield_replay.functional.shared_rows import by_share, is_shared
from hopfield_replay.policies import Policy, requirements
from hopfield_replay.policies.candidates import Candidates
from hopfield_replay.utilities.device import in_chunks_that_fit

_ROWS, _NUMBERS = 4096, 1 << 24  # of a piece: as many rows, or as many numbers, whichever is less


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
    group = group_index(pool, groups)
    count = int(group.max()) + 1
    if count > capacity:
        raise ValueError(
            f"{count} groups ({groups}) cannot share a capacity of {capacity}; raise the capacity to at least {count}."
        )
    needs = requirements(policy)
    chosen, spare = [], []
    for number, quota in enumerate(equal_quotas(group, min(capacity, len(pool))).tolist()):
        members = (group == number).nonzero().flatten()
        if bool(fresh[members].any()):
            more = min(len(members), quota * needs.oversample)
            # no copy of a million vectors where all are of one group
            offered = pool if len(members) == len(pool) else pool.pick(members)
            picks = policy.select(offered if needs.in_pieces else offered.held(), more)
            if len(picks) != more or len(picks.unique()) != more or not _inside(picks, len(members)):
                raise ValueError(
                    f"{type(policy).__name__} must select {more} distinct candidates, got {picks.tolist()}."
                )
            chosen.append(members[picks[:quota]])
            spare.append(members[picks[quota:]])
        else:
            chosen.append(members[:quota])  # its data is gone: the first picks of its own order stay
    return torch.cat(chosen), torch.cat(spare) if spare else torch.empty(0, dtype=torch.int64)


def weigh(pool: Candidates, stays: Tensor, groups: Literal["task", "label"] | None) -> Candidates:
    """Every sample's weight goes to the nearest one of its group that stays: those stand for all that were seen.

    Args:
        pool: the n samples; weights of None count as ones.
        stays: positions of those that stay; a group of which none does goes with its weights.
        groups: what the groups are; None: one group.

    Returns:
        The pool with new weights, of the same sum within each group and 0 for those that go; rises that are known
        become the mean over what each stands for.
    """
    pool = pool.weighted()
    assert pool.weights is not None
    group = group_index(pool, groups)
    weights = torch.zeros_like(pool.weights)
    rises = None if pool.rises is None else pool.rises.clone()
    for number in range(int(group.max()) + 1):
        members, left = (group == number).nonzero().flatten(), stays[group[stays] == number]
        if not len(left):  # in a state written with other groups
            continue
        vectors, step = pool.rows[left], max(256, min(_ROWS, _NUMBERS // max(1, pool.rows.shape[1])))
        place = vectors.device if pool.device is None else pool.device
        search = NearestOne(vectors.to(place))
        if is_shared(pool.rows):
            nearest = by_share(pool.rows, members, partial(_nearest, search=search, step=step, place=place))
        else:
            parts = members.split(step)
            nearest = torch.cat([_fitting(search, pool.rows[_consecutive(part)], place) for part in parts])
        nearest[torch.searchsorted(members, left)] = torch.arange(len(left))  # even beside an identical one
        none = torch.zeros(len(left), dtype=torch.float64)
        weights[left] = none.index_add(0, nearest, pool.weights[members])
        if rises is not None and pool.rises is not None:
            total = none.index_add(0, nearest, pool.weights[members] * pool.rises[members])
            rises[left] = torch.where(weights[left] > 0, total / weights[left], rises[left])
    return replace(pool, weights=weights, rises=rises)


def _nearest(rows: Matrix, search: NearestOne, step: int, place: torch.device) -> Tensor:
    """Which one is the nearest to each of the rows (n,), on the CPU."""
    found = [_fitting(search, part, place) for _, part in pieces(rows, step * rows.shape[1])]
    return torch.cat([torch.empty(0, dtype=torch.int64), *found])


def _fitting(search: NearestOne, rows: Tensor, place: torch.device) -> Tensor:
    """The same of rows that are compared together, fewer of them where the device is full."""

    def measure(size: int) -> Tensor:
        return torch.cat([search.of(part.to(place)).cpu() for part in rows.split(size)])

    return in_chunks_that_fit(measure, max(1, len(rows)), "The kept samples do")[0]


def _consecutive(index: Tensor) -> Tensor | slice:
    """Ascending positions, as a slice where they have no gaps: that is read faster."""
    first, last = int(index[0]), int(index[-1]) + 1
    return slice(first, last) if last - first == len(index) else index


def group_index(pool: Candidates, groups: Literal["task", "label"] | None) -> Tensor:
    """Group (n,) of each sample, counted from 0."""
    if groups is None:
        return torch.zeros_like(pool.ids)
    names = pool.tasks if groups == "task" else pool.labels
    assert names is not None  # the buffer refuses samples without labels
    index: Tensor = names.unique(return_inverse=True)[1]
    return index


def place_in_group(group: Tensor) -> Tensor:
    """Which of its group each sample is, (n,) float64: 1 for the first, 2 for the second, ..."""
    order = group.argsort(stable=True)
    sizes = group.bincount()
    before = sizes.cumsum(0) - sizes
    place = torch.empty(len(group), dtype=torch.float64)
    place[order] = (torch.arange(len(group)) - before[group[order]] + 1).to(torch.float64)
    return place


def _inside(picks: Tensor, count: int) -> bool:
    return bool(((picks >= 0) & (picks < count)).all())
