"""BufferFile: the buffers in a file of one, in a tracker's state or in a whole checkpoint, to look into and to edit."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hopfield_replay.buffer.buffer import EnergyReplayBuffer
from hopfield_replay.buffer.removal import state_without
from hopfield_replay.buffer.storage import load_tree, save_tree
from hopfield_replay.checkpoints.file import read_plain
from hopfield_replay.tracker import removal as tracker_removal
from hopfield_replay.utilities.files import replacing
from hopfield_replay.utilities.states import DAMAGE

_BUFFER, _TRACKER = "hopfield-replay buffer ", "hopfield-replay tracker "


class BufferFile:
    """A file with the state of one or more buffers, wherever in it they stand.

    Args:
        path: of :meth:`EnergyReplayBuffer.save`, of ``torch.save`` of a state of a buffer or a tracker, or a checkpoint
            of Lightning or Accelerate.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that cannot be read, or holds no buffer.

    Example:
        >>> import tempfile
        >>> buffer = EnergyReplayBuffer(2)
        >>> buffer.update(torch.eye(4), torch.eye(4), ids=torch.arange(4), task=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     buffer.save(folder + "/buffer.safetensors")
        ...     file = BufferFile(folder + "/buffer.safetensors")
        ...     removed = file.remove(buffer.ids[:1])
        ...     file.save()
        ...     [len(found) for found in BufferFile(folder + "/buffer.safetensors").buffers().values()], removed
        ([1], 1)
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path} is no file.")
        self._tree = load_tree(self.path) if self.path.suffix == ".safetensors" else read_plain(self.path)
        if not list(_places(self._tree)):
            raise ValueError(f"{self.path} holds no buffer: no state of an EnergyReplayBuffer or a ForgettingTracker.")

    def buffers(self) -> dict[str, EnergyReplayBuffer]:
        """The buffers, by where in the file they stand.

        Raises:
            ValueError: a damaged state.
        """
        buffers = {}
        for place, state in _places(self._tree):
            state = state["buffer"] if state["format"].startswith(_TRACKER) else state
            if state is None:
                continue
            try:
                count = 0 if state["kept"] is None else len(state["kept"]["ids"])
                similarity = state.get("similarity")
                buffer = EnergyReplayBuffer(max(1, count), similarity="distance" if similarity is None else similarity)
            except DAMAGE as error:
                raise ValueError(f"{self.path}: the buffer at {place or 'the top'} is damaged ({error!r}).") from error
            buffer.load_state_dict(state)
            buffers[place] = buffer
        return buffers

    def remove(self, ids: Tensor | Sequence[int]) -> int:
        """Leave samples out of all buffers, and out of what trackers follow and remember; see :meth:`save`.

        Returns:
            How many of the ids were held, in a buffer or by a tracker.

        Raises:
            ValueError: a damaged state.
        """
        gone = torch.as_tensor(ids).flatten().to(torch.int64)
        held = torch.zeros(len(gone), dtype=torch.bool)

        def edited(state: dict[str, Any]) -> dict[str, Any]:
            without = tracker_removal.state_without if state["format"].startswith(_TRACKER) else state_without
            for tensor in _ids(state):
                held.logical_or_(torch.isin(gone, tensor))
            return without(state, gone)

        try:
            self._tree = _replaced(self._tree, edited)
        except DAMAGE as error:
            raise ValueError(f"{self.path} holds a damaged state ({error!r}).") from error
        return int(held.sum())

    def save(self) -> None:
        """Write the file anew, all or nothing. What is free on the disk then may still hold what was removed.

        Raises:
            OSError: a full disk, a read-only folder.
        """
        if self.path.suffix == ".safetensors":
            save_tree(self.path, self._tree)
            return
        with replacing(self.path) as partial:
            torch.save(self._tree, partial)


def _is_state(tree: Any) -> bool:
    named = tree.get("format") if isinstance(tree, dict) else None
    return isinstance(named, str) and named.startswith((_BUFFER, _TRACKER))


def _places(tree: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if _is_state(tree):
        yield place, tree
    elif isinstance(tree, dict):
        for name, part in tree.items():
            yield from _places(part, f"{place}/{name}" if place else str(name))
    elif isinstance(tree, list | tuple):
        for i, part in enumerate(tree):
            yield from _places(part, f"{place}/{i}" if place else str(i))


def _replaced(tree: Any, edited: Any) -> Any:
    """The tree with every state in it edited; other parts are the same objects."""
    if _is_state(tree):
        return edited(tree)
    if isinstance(tree, dict):
        for name in tree:
            tree[name] = _replaced(tree[name], edited)
    elif isinstance(tree, list):
        tree[:] = [_replaced(part, edited) for part in tree]
    elif type(tree) is tuple:
        return tuple(_replaced(part, edited) for part in tree)
    return tree


def _ids(tree: Any) -> Iterator[Tensor]:
    """Every tensor that is called ids."""
    if isinstance(tree, dict):
        for name, part in tree.items():
            if name == "ids" and isinstance(part, Tensor):
                yield part
            else:
                yield from _ids(part)
    elif isinstance(tree, list | tuple):
        for part in tree:
            yield from _ids(part)
