"""A module whose weights are spread over processes (FSDP2), whole on each of them while it is measured."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
from torch import nn


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Have all weights that ``fully_shard`` has spread on every process; afterwards as they were.

    Within it the processes call the module as often as each of them likes: nothing travels. To be entered by all
    processes together; within itself it does nothing.

    Args:
        module: of any kind; one that is not spread is left alone.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> with gathered(net):
        ...     net.weight.shape
        torch.Size([2, 2])
    """
    parts = _spread_parts(module)
    settings = []
    try:
        for part in parts:
            part.unshard()
            settings.append(_Resharding(part))
            part.set_reshard_after_forward(False, recurse=False)
        yield
    finally:
        for part, setting in zip(parts, settings, strict=False):
            setting.restore()
            part.reshard()


def _spread_parts(module: nn.Module) -> list[Any]:
    """The modules to which ``fully_shard`` was applied and whose weights are not gathered yet."""
    if not dist.is_available() or not dist.is_initialized():
        return []
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

    def spread(part: nn.Module) -> bool:
        return any(isinstance(weight, DTensor) for weight in part.parameters())

    return [part for part in module.modules() if isinstance(part, FSDPModule) and spread(part)]


class _Resharding:
    """What a part does with its weights after a forward pass, which torch lets one set, but not ask."""

    def __init__(self, part: Any) -> None:
        self._state = part._get_fsdp_state()
        held = vars(self._state)
        groups = held["_fsdp_param_groups"] if "_fsdp_param_groups" in held else [held["_fsdp_param_group"]]
        self._meshes = [(group, group.post_forward_mesh_info) for group in groups if group is not None]
        self._auto = held.get("_auto_reshard_after_forward")

    def restore(self) -> None:
        """Set it again."""
        for group, mesh in self._meshes:
            group.post_forward_mesh_info = mesh
        if self._auto is not None:
            self._state._auto_reshard_after_forward = self._auto


__all__ = ["gathered"]
