"""Groups: which of several named groups each sample belongs to."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

Names = Sequence[Hashable] | Tensor


@dataclass(frozen=True, eq=False)
class Groups:
    """The group of each sample, numbered by name.

    Attributes:
        index: (n,) int64, the number of each sample's group.
        names: of the groups, sorted; one empty name where there are none.

    Example:
        >>> found = Groups.of(["cat", "dog", "cat"], 3)
        >>> found.index.tolist(), found.counted(torch.tensor([0]))
        ([0, 1, 0], {'cat': {'samples': 2, 'kept': 1}, 'dog': {'samples': 1, 'kept': 0}})
    """

    index: Tensor
    names: tuple[str, ...]

    @classmethod
    def of(cls, names: Names | None, count: int) -> Self:
        """The groups of ``count`` samples by their names; None: one group.

        Raises:
            ValueError: not one name for each sample.
        """
        if names is None:
            return cls(torch.zeros(count, dtype=torch.int64), ("",))
        given = names.tolist() if isinstance(names, Tensor) else list(names)
        if len(given) != count:
            raise ValueError(f"{count} samples need as many labels or groups, got {len(given)}.")
        order = sorted(set(given), key=lambda name: (isinstance(name, str), name))  # numbers count, names are sorted
        number = {name: i for i, name in enumerate(order)}
        return cls(torch.tensor([number[name] for name in given]), tuple(map(str, order)))

    def __len__(self) -> int:
        return len(self.names)

    def counted(self, indices: Tensor) -> dict[str, dict[str, int]]:
        """How many samples each group has, and how many of them are at these positions."""
        sizes = self.index.bincount(minlength=len(self.names)).tolist()
        kept = self.index[indices].bincount(minlength=len(self.names)).tolist()
        return {name: {"samples": sizes[i], "kept": kept[i]} for i, name in enumerate(self.names)}
