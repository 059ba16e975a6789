"""EncoderWatch: whether an encoder still is what it was when vectors were taken with it."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from hopfield_replay.buffer.storage import plain
from hopfield_replay.utilities.distributed import gather_objects
from hopfield_replay.utilities.states import DAMAGE, check_mapping

_CHANGE = 1e-5  # of the largest number; the same batch on the same machine has the same features


class EncoderWatch:
    """Keeps a few samples and their vectors, and encodes them again when it is asked.

    Attributes:
        moves: the encoder has been seen to change.

    Example:
        >>> scale = [1.0]
        >>> watch = EncoderWatch()
        >>> watch.look(torch.ones(2, 3), lambda batch: scale[0] * batch)
        >>> watch.changed(lambda batch: scale[0] * batch)
        False
        >>> scale[0] = 0.5
        >>> watch.changed(lambda batch: scale[0] * batch)
        True
    """

    def __init__(self) -> None:
        self.moves = False
        self._batch: Any = None
        self._vectors: Tensor | None = None

    @property
    def looked(self) -> bool:
        """Whether there is something to compare with."""
        return self._vectors is not None

    def look(self, batch: Any, encode: Callable[[Any], Tensor]) -> None:
        """Remember these samples and their vectors as they are now."""
        self.prepare_look(batch, encode)()

    def prepare_look(self, batch: Any, encode: Callable[[Any], Tensor]) -> Callable[[], None]:
        """All of :meth:`look` but the change itself, which is returned."""
        kept, vectors = plain(batch), encode(batch)

        def change() -> None:
            self._batch, self._vectors = kept, vectors

        return change

    def changed(self, encode: Callable[[Any], Tensor]) -> bool:
        """Whether the samples have other vectors than when they were looked at; in any process."""
        differs = False
        if self._vectors is not None:
            now, before = encode(self._batch), self._vectors
            differs = now.shape != before.shape or bool(
                ((now - before).abs().amax() > _CHANGE * before.abs().amax()).item()
            )
        changed = any(gather_objects(differs))
        self.moves |= changed
        return changed

    def state_dict(self) -> dict[str, Any]:
        """The samples and their vectors: tensors and plain Python only."""
        return {"batch": self._batch, "vectors": self._vectors, "moves": self.moves}

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Take over a state; None: look anew.

        Raises:
            ValueError: a damaged state.
        """
        if state is None:
            self.moves, self._batch, self._vectors = False, None, None
            return
        try:
            vectors = check_mapping(state, "the encoder's watch")["vectors"]
            vectors = None if vectors is None else torch.as_tensor(vectors).cpu()
            self.moves, self._batch, self._vectors = bool(state["moves"]), state["batch"], vectors
        except DAMAGE as error:
            raise ValueError(f"The state of the encoder's watch is damaged: {error!r}.") from error


__all__ = ["EncoderWatch"]
