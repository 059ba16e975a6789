"""What no checkpoint holds of a module, and its constructor makes anew: two versions must have the same of it."""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def unsaved(module: nn.Module, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a module that a checkpoint does not hold, by name.

    These are buffers that are not persistent, tensors that are plain attributes, and weights that a module with
    ``strict_loading = False`` leaves out.

    Args:
        module: made, and loaded.
        state: the checkpoint's weights.

    Example:
        >>> module = nn.Linear(2, 1)
        >>> module.register_buffer("frequencies", torch.ones(3), persistent=False)
        >>> list(unsaved(module, module.state_dict()))
        ['frequencies']
    """
    return {name: tensor for name, tensor in _tensors(module) if name not in state}


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()
    for path, part in module.named_modules():
        for name, value in vars(part).items():
            if isinstance(value, Tensor) and name != "_example_input_array":  # Lightning's, for pictures of the graph
                yield f"{path}.{name}" if path else name, value


def check_unsaved(before: Mapping[str, Tensor], after: Mapping[str, Tensor], names: str) -> None:
    """Refuse two versions that differ in what no checkpoint holds: the rise would be partly, or only, that.

    A tensor of the outermost module that is no weight, which may be for pictures alone, is warned of.

    Args:
        before: unsaved tensors of the first version.
        after: those of the second one.
        names: of both, for messages.

    Raises:
        ValueError: which ones.

    Warns:
        UserWarning: such a tensor of the outermost module.
    """
    differing = [
        name
        for name in sorted({*before, *after})
        if not (name in before and name in after and _equal(before[name], after[name]))
    ]
    if not differing:
        return
    said = (
        f"{names} differ in what their checkpoints do not hold: {', '.join(differing[:5])}. The constructor makes it, "
        "at random or of other arguments"
    )
    held = {**before, **after}
    if all("." not in name and not isinstance(held[name], nn.Parameter) for name in differing):
        warnings.warn(f"{said}; if the network reads it, the rise is partly that.", stacklevel=4)
        return
    raise ValueError(
        f"{said}, so that neither version may be what was trained. Keep it in the state_dict (as a parameter or a "
        "persistent buffer), or make it the same each time (from a seed of its own)."
    )


def _equal(first: Tensor, second: Tensor) -> bool:
    one, two = first.detach().cpu(), second.detach().cpu()
    if one.shape != two.shape or one.dtype != two.dtype or one.layout != two.layout:
        return False
    return one.layout != torch.strided or bool(((one == two) | ((one != one) & (two != two))).all())


def check_apart(before: nn.Module, after: nn.Module, names: str) -> None:
    """Refuse two versions that hold the same weights: the second checkpoint was loaded over the first.

    Raises:
        ValueError: they share a weight that is trained.
    """
    first = {id(weight) for weight in before.parameters() if weight.requires_grad}
    if shared := [name for name, weight in after.named_parameters() if id(weight) in first]:
        raise ValueError(
            f"{names} share {len(shared)} weights (first: {shared[0]}): what makes the model returns the same ones at "
            "each call, and loads the second checkpoint over the first. Make new ones."
        )


__all__ = ["check_apart", "check_unsaved", "unsaved"]
