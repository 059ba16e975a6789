"""Removal: what a tracker remembers, without some samples."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hopfield_replay.buffer.removal import state_without as buffer_without
from hopfield_replay.tracker.reconstructions import Reconstructions
from hopfield_replay.utilities.nested import take


def rows_without(record: Mapping[str, Any], ids: Tensor) -> dict[str, Any]:
    """A probe set or a probe record, as a dict, without the samples of these ids.

    Args:
        record: with ``ids`` (n,); every tensor (n, ...) has a row for each sample, and so has its ``batch``.
        ids: (m,) int64 of the samples to leave out.

    Example:
        >>> record = {"ids": torch.tensor([3, 5]), "energy": torch.tensor([0.1, 0.2]), "task": 0}
        >>> rows_without(record, torch.tensor([3]))
        {'ids': tensor([5]), 'energy': tensor([0.2000]), 'task': 0}
    """
    count = len(record["ids"])
    stays = (~torch.isin(record["ids"], ids)).nonzero().flatten()

    def of(name: str, value: Any) -> Any:
        if name == "batch" and value is not None:
            return take(value, stays) if len(stays) else None
        return value[stays] if isinstance(value, Tensor) and value.ndim and len(value) == count else value

    return {name: of(name, value) for name, value in record.items()}


def state_without(state: Mapping[str, Any], ids: Tensor) -> dict[str, Any]:
    """The state of a ForgettingTracker, of any format, without the samples of these ids; sets without a sample go.

    Args:
        state: of ``state_dict``.
        ids: (m,) int64.
    """
    history = [{**record, "probes": left_of(record["probes"], ids)} for record in state["history"]]
    return {
        **state,
        "history": history,
        "probes": left_of(state["probes"], ids),
        "encoder": None,  # a few samples that it was seen with, which may be among them
        "buffer": None if state["buffer"] is None else buffer_without(state["buffer"], ids),
        "pictures": Reconstructions.from_state(state.get("pictures")).without(ids).state(),
    }


def left_of(records: Sequence[Mapping[str, Any]], ids: Tensor) -> list[dict[str, Any]]:
    """Probe sets or records without the samples of these ids; those without any sample are left out."""
    left = [rows_without(record, ids) for record in records]
    return [record for record in left if len(record["ids"])]
