"""The base of metrics whose state is rows, gathered also where a rank has none."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from hopfield_replay.utilities.device import float64_device


class RowMetric(Metric):
    """A metric whose list states are kept flat, so that ranks may hold any number of rows, also none.

    torchmetrics gathers a list state on the ranks where it is not empty: a rank without rows would leave the others
    waiting. Here every list begins with an empty tensor, and rows are flattened, for an empty tensor of unknown width
    joins with nothing else.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better: bool | None = None

    width: Tensor

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._kinds: dict[str, torch.dtype] = {}
        self.add_state("width", torch.tensor(0), dist_reduce_fx="max")

    def add_rows(self, name: str, dtype: torch.dtype) -> None:
        """Declare a state of rows (n, width), or of numbers (n,)."""
        self._kinds[name] = dtype
        self.add_state(name, [], dist_reduce_fx="cat")
        self._begin(name)

    def append(self, name: str, rows: Tensor) -> None:
        """Add rows to a state; all matrices of a metric have one width."""
        if rows.ndim == 2:
            if int(self.width) not in (0, rows.shape[1]):
                raise ValueError(f"rows had {int(self.width)} columns before, now {rows.shape[1]}.")
            self.width = torch.full_like(self.width, rows.shape[1])
        getattr(self, name).append(rows.detach().to(self.place).to(self._kinds[name]).flatten())

    def rows(self, name: str) -> Tensor:
        """All rows of a state, (n, width), in the order of the ranks; (n,) if no matrix was ever added."""
        held = getattr(self, name)
        flat = held if isinstance(held, Tensor) else torch.cat(held)
        return flat.view(-1, int(self.width)) if int(self.width) else flat

    def number(self, value: float) -> Tensor:
        """A result, float64."""
        return torch.tensor(value, dtype=torch.float64, device=self.place)

    @property
    def place(self) -> torch.device:
        """Where rows and results are: the metric's device, or the CPU in place of one without float64."""
        return float64_device(self.device)

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **settings: Any) -> nn.Module:
        """Move the metric; its rows stay on the CPU where its new device has no float64."""
        there = fn(torch.zeros(0)).device
        held = {} if float64_device(there) == there else {name: getattr(self, name) for name in self._kinds}
        for name in held:
            setattr(self, name, [])
        super()._apply(fn, *args, **settings)
        for name, rows in held.items():
            setattr(self, name, [row.to(self.place) for row in rows])
        return self

    def reset(self) -> None:
        """Forget everything that was added."""
        super().reset()
        for name in self._kinds:
            self._begin(name)

    def _begin(self, name: str) -> None:
        getattr(self, name).append(torch.zeros(0, dtype=self._kinds[name], device=self.place))


__all__ = ["RowMetric"]
