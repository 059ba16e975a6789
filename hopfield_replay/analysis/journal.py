"""Journal: what an audit has measured so far, so that an interrupted one goes on where it was."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hopfield_replay.utilities.files import replacing
from hopfield_replay.utilities.nested import walk

_PARTS = ("before", "after")


class Journal:
    """The errors of batches, each in a file that is called by what was measured.

    An entry is found again only for the same samples, captions and labels under the same versions and settings: all of
    that is in its name, as a hash. Nothing is ever run of what is read.

    Args:
        folder: of the files; made if it is missing.
        what: the two versions and the settings of the measurement, as a text that differs where they do.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     journal, batch = Journal(folder, "a against b"), {"images": torch.zeros(2, 1), "captions": ["x", "y"]}
        ...     journal.put(batch, torch.arange(2), torch.ones(2, 1, 1), torch.zeros(2, 1, 1), 1)
        ...     before, after, elements = journal.get(batch, torch.arange(2))
        ...     before.flatten(), Journal(folder, "a against c").get(batch, torch.arange(2))
        (tensor([1., 1.]), None)
    """

    def __init__(self, folder: str | Path, what: str) -> None:
        self.folder = Path(folder)
        self.what = what

    def get(self, batch: Any, ids: Tensor) -> tuple[Tensor, Tensor, int] | None:
        """The errors of both versions (n, timesteps, draws) and the numbers in a sample; None if there is no entry."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            held = load_file(self._file(batch, ids))
        except (OSError, SafetensorError):  # none, or a damaged one: it is measured again
            return None
        if set(held) != {*_PARTS, "elements"} or any(
            held[part].ndim != 3 or len(held[part]) != len(ids) for part in _PARTS
        ):
            return None
        return held["before"], held["after"], int(held["elements"])

    def put(self, batch: Any, ids: Tensor, before: Tensor, after: Tensor, elements: int) -> None:
        """Write an entry.

        Raises:
            OSError: a full disk, a read-only folder.
        """
        from safetensors.torch import save_file

        self.folder.mkdir(parents=True, exist_ok=True)
        held = {"before": before.contiguous(), "after": after.contiguous(), "elements": torch.tensor(elements)}
        with replacing(self._file(batch, ids)) as partial:
            save_file(held, partial)

    def _file(self, batch: Any, ids: Tensor) -> Path:
        digest = hashlib.sha256(f"{self.what}\0{ids.tolist()}".encode())
        for path, item in walk(batch):
            digest.update(path.encode())
            if isinstance(item, Tensor):
                digest.update(f"{item.dtype}{tuple(item.shape)}".encode())
                digest.update(item.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
            else:
                digest.update(repr(item).encode())
        return self.folder / f"{digest.hexdigest()[:32]}.safetensors"


__all__ = ["Journal"]
