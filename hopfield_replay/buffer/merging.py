"""Merging: two buffers' samples as one pool."""

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from hopfield_replay.buffer.choice import group_index, weigh
from hopfield_replay.buffer.provenance import TASK_BITS, Provenance
from hopfield_replay.memory.settings import EnergySettings
from hopfield_replay.policies.candidates import Candidates


def released(
    kept: Candidates, reserve: tuple[Candidates, Any] | None, groups: Literal["task", "label"] | None
) -> Candidates:
    """The kept samples once the reserve is released: they stand for it."""
    if reserve is None or not len(kept):
        return kept
    stays = torch.arange(len(kept))
    return weigh(kept.join(reserve[0]), stays, groups).pick(stays)


def renumbered(candidates: Candidates, names: Provenance, first: int) -> tuple[Candidates, Provenance]:
    """The samples and their names with tasks that are counted from ``first``."""
    tasks = candidates.tasks + first
    places = candidates.ids & ((1 << TASK_BITS) - 1)
    ids = places + (tasks << TASK_BITS)
    changed = dict(zip(candidates.ids.tolist(), ids.tolist(), strict=True))
    samples = {changed[at]: name for at, name in names.samples.items() if at in changed}
    moved = Provenance({task + first: name for task, name in names.tasks.items()}, samples)
    return replace(candidates, ids=ids, tasks=tasks), moved


def shared_groups(pool: Candidates, own: int, groups: Literal["task", "label"] | None) -> Tensor:
    """Which samples (n,) are of a group that is both among the first ``own`` of the pool and among the others."""
    group = group_index(pool, groups)
    return torch.isin(group, group[:own]) & torch.isin(group, group[own:])


def check_merge(own: Candidates, theirs: Candidates, settings: EnergySettings, others: EnergySettings) -> None:
    """Refuse samples that cannot be of one buffer.

    Raises:
        ValueError: which of these does not fit: ids, vectors, labels, beta, similarity.
    """
    for name in ("beta", "similarity"):
        mine, other = getattr(settings, name), getattr(others, name)
        if None not in (mine, other) and mine != other:
            raise ValueError(
                f"One buffer has {name}={mine!r}, the other {name}={other!r}; energies must be of one kind."
            )
    if len(own) and own.vectors.shape[1] != theirs.vectors.shape[1]:
        raise ValueError(
            f"One buffer has vectors of dimension {own.vectors.shape[1]}, the other {theirs.vectors.shape[1]}."
        )
    if len(own) and (own.labels is None) != (theirs.labels is None):
        raise ValueError("One buffer has labels and the other has none.")
    if len(theirs.ids.unique()) < len(theirs):
        raise ValueError(
            "Two of the other buffer's samples have one position in their task; give them ids of their own."
        )
    both = theirs.ids[torch.isin(theirs.ids, own.ids)]
    if len(both):
        raise ValueError(
            f"ids {both[:5].tolist()} are in both buffers. If they are of other samples, as of another run, pass "
            "renumber=True; if they are the same samples, remove them from one of the buffers."
        )
