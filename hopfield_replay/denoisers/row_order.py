"""Whether a training step shows its network the samples of a batch in their order."""

from typing import Any

import torch
from torch import Tensor, nn

from hopfield_replay.denoisers.doors import Passed, unseen
from hopfield_replay.denoisers.own_step import Step, copied, seeded, traceless
from hopfield_replay.utilities.nested import rows, take

_TRIED = 8  # samples


def in_order(step: Step, module: nn.Module, network: nn.Module, batch: Any) -> bool | None:
    """Whether each row of what a network is shown is that sample of the batch.

    The step is called again, with equal random draws and up to the network's door, with one sample after the other
    replaced by another one of the batch: its own row must change most then.

    Args:
        step: a batch to whatever it gives.
        module: comes back as it was.
        network: which the step calls.
        batch: a batch.

    Returns:
        False: of most samples another row changes, as where the step shuffles them, or moves them to their noise. None:
        it cannot be seen (the network is not called, or has other rows).

    Example:
        >>> net, x = nn.Linear(2, 2), torch.eye(4, 2)
        >>> in_order(lambda x: net(x + torch.randn_like(x)), net, net, x)
        True
        >>> in_order(lambda x: net(x.flip(0)), net, net, x)
        False
    """
    count = rows(batch)
    before = _shown(step, module, network, batch)
    if before is None or len(before) != count or count < 2:
        return None
    told = []
    for row in torch.linspace(0, count - 1, min(count, _TRIED)).long().tolist():
        order = torch.arange(count)
        order[row] = (row + count // 2) % count
        after = _shown(step, module, network, take(batch, order))
        if after is None or after.shape != before.shape:
            return None
        changes = (after - before).abs().nan_to_num(0.0).sum(1)
        if float(changes.max()) > 0:
            told.append(int(changes.argmax()) == row)
    return 2 * sum(told) > len(told) if told else None


def _shown(step: Step, module: nn.Module, network: nn.Module, batch: Any) -> Tensor | None:
    """The first tensor of more than one number a sample that a network is called with, (n, d) float64 on the CPU."""
    seen: list[Tensor] = []

    def look(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for value in (*args, *kwargs.values()):
            if isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 1:
                seen.append(value.detach().to("cpu", torch.float64).flatten(1))
                raise Passed

    handle = network.register_forward_pre_hook(look, with_kwargs=True)
    try:
        with unseen(), traceless(module), seeded(module, 0), torch.no_grad():
            step(copied(batch))
    except Passed:
        pass
    finally:
        handle.remove()
    return seen[0] if seen else None


__all__ = ["in_order"]
