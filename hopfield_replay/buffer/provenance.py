"""Provenance: where each kept sample came from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hopfield_replay.utilities.states import check_mapping, check_whole

TASK_BITS = 40  # sample id = task << 40 | held out << 39 | position, as a tracker numbers them


@dataclass(frozen=True)
class Provenance:
    """Names of tasks and of samples, where they are known.

    Attributes:
        tasks: name of each task, by its number.
        samples: name of each sample, such as its file, by its id.

    Example:
        >>> import torch
        >>> found = Provenance().with_names(3, "cats", torch.tensor([7, 8]), ["a.png", "b.png"])
        >>> found.tasks, found.only(torch.tensor([8])).samples
        ({3: 'cats'}, {8: 'b.png'})
    """

    tasks: Mapping[int, str]
    samples: Mapping[int, str]

    def __init__(self, tasks: Mapping[int, str] | None = None, samples: Mapping[int, str] | None = None) -> None:
        object.__setattr__(self, "tasks", dict(tasks or {}))
        object.__setattr__(self, "samples", dict(samples or {}))

    def with_names(self, task: int, task_name: str | None, ids: Tensor, names: Sequence[str] | None) -> "Provenance":
        """The same with the names of one more task.

        Raises:
            ValueError: not one name for each id.
            TypeError: names that are no strings.
        """
        tasks, samples = dict(self.tasks), dict(self.samples)
        if task_name is not None:
            if not isinstance(task_name, str):
                raise TypeError(f"task_name must be a string, got {type(task_name).__name__}.")
            tasks[task] = task_name
        if names is not None:
            if isinstance(names, str) or not all(isinstance(name, str) for name in names):
                raise TypeError("names must be strings, one for each sample.")
            if len(names) != len(ids):
                raise ValueError(f"names must be one for each of the {len(ids)} samples, got {len(names)}.")
            samples.update(zip(ids.tolist(), names, strict=True))
        return Provenance(tasks, samples)

    def only(self, ids: Tensor) -> "Provenance":
        """The same with the names of these samples alone."""
        held = set(ids.tolist())
        return Provenance(self.tasks, {at: name for at, name in self.samples.items() if at in held})

    def joined(self, other: "Provenance") -> "Provenance":
        """These names and the other's."""
        return Provenance({**other.tasks, **self.tasks}, {**other.samples, **self.samples})

    def state(self) -> dict[str, Any]:
        """The names in plain Python."""
        return {"tasks": dict(self.tasks), "samples": dict(self.samples)}

    @classmethod
    def from_state(cls, state: Any) -> "Provenance":
        """The provenance of :meth:`state`.

        Raises:
            TypeError: parts that are no names by number.
            KeyError: a missing part.
        """
        parts: list[Any] = [check_mapping(check_mapping(state, "names")[part], part) for part in ("tasks", "samples")]
        for part in parts:
            for number, name in part.items():
                check_whole(number, "the number of a name")
                if not isinstance(name, str):
                    raise TypeError(f"a name is {type(name).__name__}")
        return cls(*parts)


def position_of(sample_id: int, task: int) -> int | None:
    """The position of a sample in its task's data, if its id says so.

    Example:
        >>> position_of((2 << 40) + 5, 2), position_of((2 << 40) + 5, 1)
        (5, None)
    """
    if sample_id >> TASK_BITS != task:
        return None
    return sample_id & ((1 << (TASK_BITS - 1)) - 1)
