"""Journal: what an audit has measured so far, so that an interrupted one goes on where it was."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hopfield_replay.utilities.files import replacing
from hopfield_replay.utilities.nested import walk

_PARTS = ("before", "after")


@dataclass(frozen=True, eq=False)
class FirstErrors:
    """What was measured of the first version alone.

    Attributes:
        errors: (n, timesteps, draws) float64.
        elements: numbers in a sample.
        chunk_size: samples that went through the model together, on which rounding depends.
    """

    errors: Tensor
    elements: int
    chunk_size: int


class Journal:
    """The errors of batches, each in a file that is called by what was measured.

    An entry is found again only for the same samples, captions and labels under the same versions and settings: all of
    that is in its name, as a hash. Nothing is ever run of what is read.

    Args:
        folder: of the files; made if it is missing.
        what: the two versions and the settings of the measurement, as a text that differs where they do.
        first: the first version and the settings alone, likewise: its errors are measured once for several second
            versions; None: with each of them.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     journal, batch = Journal(folder, "a against b"), {"images": torch.zeros(2, 1), "captions": ["x", "y"]}
        ...     journal.put(batch, torch.arange(2), torch.ones(2, 1, 1), torch.zeros(2, 1, 1), 1)
        ...     before, after, elements = journal.get(batch, torch.arange(2))
        ...     before.flatten(), Journal(folder, "a against c").get(batch, torch.arange(2))
        (tensor([1., 1.]), None)
    """

    def __init__(self, folder: str | Path, what: str, first: str | None = None) -> None:
        self.folder = Path(folder)
        self.what = what
        self._first = first

    def get(self, batch: Any, ids: Tensor) -> tuple[Tensor, Tensor, int] | None:
        """The errors of both versions (n, timesteps, draws) and the numbers in a sample; None if there is no entry."""
        held = _read(self._file(self.what, batch, ids), _PARTS, ("elements",), len(ids))
        return None if held is None else (held["before"], held["after"], int(held["elements"]))

    def get_first(self, batch: Any, ids: Tensor) -> FirstErrors | None:
        """What was measured of the first version, for whatever second one; None if there is no entry."""
        if self._first is None:
            return None
        held = _read(self._file(self._first, batch, ids), ("before",), ("elements", "chunk"), len(ids))
        return None if held is None else FirstErrors(held["before"], int(held["elements"]), int(held["chunk"]))

    def put(self, batch: Any, ids: Tensor, before: Tensor, after: Tensor, elements: int) -> None:
        """Write an entry.

        Raises:
            OSError: a full disk, a read-only folder.
        """
        held = {"before": before.contiguous(), "after": after.contiguous(), "elements": torch.tensor(elements)}
        self._write(self._file(self.what, batch, ids), held)

    def put_first(self, batch: Any, ids: Tensor, first: FirstErrors) -> None:
        """Write what was measured of the first version, if such is kept.

        Raises:
            OSError: a full disk, a read-only folder.
        """
        if self._first is not None:
            numbers = {"elements": torch.tensor(first.elements), "chunk": torch.tensor(first.chunk_size)}
            self._write(self._file(self._first, batch, ids), {"before": first.errors.contiguous(), **numbers})

    def _write(self, file: Path, held: dict[str, Tensor]) -> None:
        from safetensors.torch import save_file

        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(file) as partial:
            save_file(held, partial)

    def _file(self, what: str, batch: Any, ids: Tensor) -> Path:
        digest = hashlib.sha256(f"{what}\0{ids.tolist()}".encode())
        for path, item in walk(batch):
            digest.update(path.encode())
            if isinstance(item, Tensor):
                digest.update(f"{item.dtype}{tuple(item.shape)}".encode())
                digest.update(item.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
            else:
                digest.update(repr(item).encode())
        return self.folder / f"{digest.hexdigest()[:32]}.safetensors"


def _read(file: Path, errors: Sequence[str], numbers: Sequence[str], count: int) -> dict[str, Tensor] | None:
    """What an entry holds; None for none, or a damaged one: it is measured again."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        held: dict[str, Tensor] = load_file(file)
    except (OSError, SafetensorError):
        return None
    if set(held) != {*errors, *numbers} or any(held[part].ndim != 3 or len(held[part]) != count for part in errors):
        return None
    return held


__all__ = ["FirstErrors", "Journal"]
