"""States of a buffer: their format, how older ones become newer ones, and what one is checked for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hopfield_replay.buffer.drawn import Drawn
from hopfield_replay.buffer.provenance import Provenance
from hopfield_replay.buffer.storage import check_one_form, check_rows
from hopfield_replay.policies.candidates import Candidates, check_join, from_plain, no_candidates
from hopfield_replay.utilities.checks import Similarity, check_beta, check_similarity
from hopfield_replay.utilities.states import DAMAGE, Migration, check_plain, check_unshared, check_whole, migrated

FORMAT = "hopfield-replay buffer 5"  # raised when the parts of a state change
_MIGRATIONS: dict[str, Migration] = {
    "hopfield-replay buffer 2": lambda state: {**state, "format": "hopfield-replay buffer 3", "drawn": [0, 0, None]},
    "hopfield-replay buffer 3": lambda state: {
        **state,
        "format": "hopfield-replay buffer 4",
        "names": Provenance().state(),
    },
    "hopfield-replay buffer 4": lambda state: {**state, "format": FORMAT},  # of no rises
}


@dataclass(frozen=True, eq=False)
class BufferState:
    """What a buffer holds.

    Attributes:
        kept: the n kept samples, without themselves.
        samples: themselves; None if there are none.
        reserve: candidates in reserve, and their samples; None if there are none.
        observed: (n, boundaries) float64.
        drawn: counts of what was replayed, as of :meth:`Drawn.state`.
        beta: inverse temperature; None if it is not known yet.
        similarity: of the energies; None: the state does not say.
        newest: the task of the last update, -1 before the first.
        generator: state of the draws.
        provenance: names.
    """

    kept: Candidates
    samples: Any
    reserve: tuple[Candidates, Any] | None
    observed: Tensor
    drawn: list[int | float | None]
    beta: float | None
    similarity: Similarity | None
    newest: int
    generator: Tensor
    provenance: Provenance


def read_state(state: Mapping[str, Any]) -> BufferState:
    """Check the state of a buffer, of this format or of an older one.

    Raises:
        ValueError: another format, parts that are missing or do not fit together.
    """
    state = migrated(state, FORMAT, _MIGRATIONS, "an EnergyReplayBuffer")
    try:
        check_plain(state)
        check_unshared(state)
        kept = no_candidates() if state["kept"] is None else from_plain(state["kept"])
        reserve = None
        if state["reserve"] is not None:
            reserve = (from_plain(state["reserve"]), state["reserve_samples"])
            check_rows(state["reserve_samples"], len(reserve[0]))
            check_join(kept, reserve[0])
            check_one_form(state["samples"], state["reserve_samples"])
        if len(kept):
            check_rows(state["samples"], len(kept))
        elif state["samples"] is not None:
            raise ValueError("samples of no ids")
        observed = state["observed"].cpu()
        if observed.ndim != 2 or len(observed) != len(kept) or observed.dtype != torch.float64:
            raise ValueError(f"observed has shape {tuple(observed.shape)} for {len(kept)} samples")
        drawn = Drawn()
        drawn.restore(*state["drawn"])
        similarity = state.get("similarity")
        if similarity is not None:
            check_similarity(similarity)
        generator = state["generator"].cpu()
        torch.Generator().set_state(generator)
        return BufferState(
            kept=kept,
            samples=state["samples"],
            reserve=reserve,
            observed=observed,
            drawn=drawn.state(),
            beta=None if state["beta"] is None else check_beta(state["beta"]),
            similarity=similarity,
            newest=check_whole(state["newest_task"], "newest_task", -1),
            generator=generator,
            provenance=Provenance.from_state(state["names"]),
        )
    except DAMAGE as error:
        raise ValueError(f"The state of the buffer is damaged: {error!r}.") from error
