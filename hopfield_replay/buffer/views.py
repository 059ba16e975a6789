"""Views of a buffer: as a data set, as a table, as a few lines in a notebook."""

import math
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from hopfield_replay.buffer.provenance import Provenance, position_of
from hopfield_replay.policies.candidates import Candidates
from hopfield_replay.utilities.nested import map_leaves
from hopfield_replay.utilities.text import printable


class KeptSamples(Dataset[Any]):
    """The samples that a buffer held when this was made, best first; each as it was before it was collated.

    Args:
        samples: a nesting of tensors (n, ...) and lists of n strings.
        count: n.

    Example:
        >>> import torch
        >>> kept = KeptSamples({"image": torch.zeros(2, 3), "text": ["a", "b"]}, 2)
        >>> len(kept), kept[-1]
        (2, {'image': tensor([0., 0., 0.]), 'text': 'b'})
    """

    def __init__(self, samples: Any, count: int) -> None:
        self._samples, self._count = samples, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Any:
        if not -self._count <= index < self._count:
            raise IndexError(f"{index} of {self._count} samples")
        return map_leaves(lambda _, leaf: leaf[index], self._samples)


def rows_of(kept: Candidates, names: Provenance, shares: Tensor, rises: Tensor) -> list[dict[str, Any]]:
    """One dict for each kept sample, best first: what is known of it, in plain Python.

    Args:
        kept: the samples.
        names: of their tasks and of themselves.
        shares: (n,) the chance of each in a draw.
        rises: (n,) of their energies.
    """
    columns: dict[str, list[Any]] = {
        "id": kept.ids.tolist(),
        "task": kept.tasks.tolist(),
        "task_name": [names.tasks.get(task) for task in kept.tasks.tolist()],
        "position": [position_of(at, task) for at, task in zip(kept.ids.tolist(), kept.tasks.tolist(), strict=True)],
        "name": [names.samples.get(at) for at in kept.ids.tolist()],
        "label": _column(kept.labels, len(kept)),
        "energy": kept.energies.tolist(),
        "rise": rises.tolist(),
        "weight": _column(kept.weights, len(kept)),
        "share": shares.tolist(),
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _column(values: Tensor | None, count: int) -> list[Any]:
    return [None] * count if values is None else values.tolist()


COLUMNS = ("task", "kept", "share of the replay", "mean energy")


def by_task(rows: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """For each task its name, its number of kept samples, their share of the replay and their mean energy, as text."""
    lines: list[tuple[str, ...]] = []
    for task in sorted({row["task"] for row in rows}):
        mine = [row for row in rows if row["task"] == task]
        name = mine[0]["task_name"]
        energies = [row["energy"] for row in mine if math.isfinite(row["energy"])]
        mean = sum(energies) / len(energies) if energies else math.inf
        share = sum(row["share"] for row in mine)
        lines.append(
            (
                str(task) if name is None else f"{task} ({printable(name)})",
                str(len(mine)),
                f"{share:.1%}",
                f"{mean:.4g}",
            )
        )
    return lines
