"""Removal: a buffer's samples, and its states, without some of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hopfield_replay.buffer.choice import weigh
from hopfield_replay.buffer.provenance import Provenance
from hopfield_replay.policies.candidates import Candidates, as_plain, from_plain, no_candidates
from hopfield_replay.utilities.nested import take


@dataclass(frozen=True, eq=False)
class Remainder:
    """What is left of a buffer's samples.

    Attributes:
        kept: those that are kept.
        reserve: those in reserve.
        stays: positions of the kept ones among those that were kept before.
        waits: positions of the ones in reserve among those that were in reserve before.
    """

    kept: Candidates
    reserve: Candidates
    stays: Tensor
    waits: Tensor


def as_ids(ids: Tensor | Sequence[int]) -> Tensor:
    """Ids (m,) as an int64 tensor.

    Raises:
        TypeError: something else than whole numbers.
    """
    numbers = ids if isinstance(ids, Tensor) else torch.tensor(list(ids))
    if numbers.numel() and (numbers.is_floating_point() or numbers.is_complex() or numbers.dtype == torch.bool):
        raise TypeError(f"ids must be whole numbers, got {numbers.dtype}.")
    return numbers.detach().cpu().flatten().to(torch.int64)


def without(kept: Candidates, reserve: Candidates, ids: Tensor) -> Remainder:
    """A buffer's candidates without those of these ids; what they stood for goes to the nearest of their task.

    With the last kept one the reserve goes, too.

    Args:
        kept: the kept samples.
        reserve: those in reserve; none if there is no reserve.
        ids: (m,) of the samples to leave out; others among them change nothing.
    """
    stays = (~torch.isin(kept.ids, ids)).nonzero().flatten()
    waits = (~torch.isin(reserve.ids, ids)).nonzero().flatten() if len(stays) else stays
    if kept.weights is not None and len(stays) + len(waits):
        pool = kept.join(reserve) if len(reserve) else kept
        left = torch.cat([stays, len(kept) + waits])
        known = torch.isin(pool.tasks, pool.tasks[left]).nonzero().flatten()  # of a task with none left nobody stands
        place = torch.full((len(pool),), -1).index_copy(0, known, torch.arange(len(known)))
        weighed = weigh(pool.pick(known), place[left], "task").pick(place[left])
        every = torch.arange(len(left))
        return Remainder(weighed.pick(every[: len(stays)]), weighed.pick(every[len(stays) :]), stays, waits)
    return Remainder(kept.pick(stays), reserve.pick(waits), stays, waits)


def state_without(state: Mapping[str, Any], ids: Tensor) -> dict[str, Any]:
    """The state of an EnergyReplayBuffer, of any format, without the samples of these ids.

    Args:
        state: of ``state_dict``.
        ids: (m,) int64.
    """
    kept = no_candidates() if state["kept"] is None else from_plain(state["kept"])
    reserve = no_candidates() if state["reserve"] is None else from_plain(state["reserve"])
    left = without(kept, reserve, ids)
    rest = {
        **state,
        "kept": as_plain(left.kept) if len(left.stays) else None,
        "samples": take(state["samples"], left.stays) if len(left.stays) else None,
        "observed": state["observed"][left.stays],
        "reserve": as_plain(left.reserve) if len(left.waits) else None,
        "reserve_samples": take(state["reserve_samples"], left.waits) if len(left.waits) else None,
    }
    if "names" in state:
        held = torch.cat([left.kept.ids, left.reserve.ids])
        rest["names"] = Provenance.from_state(state["names"]).only(held).state()
    return rest
