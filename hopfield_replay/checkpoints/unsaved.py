"""What no checkpoint holds of a module, and its constructor makes anew: two versions must have the same of it."""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy


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


def sums(tensor: Tensor) -> str:
    """What a tensor holds, in short: the sums of its numbers and of their squares.

    Example:
        >>> import torch
        >>> sums(torch.tensor([1.0, 2.0]))
        '3.0 5.0'
    """
    held = torch.view_as_real(tensor.detach().resolve_conj()) if tensor.is_complex() else tensor.detach()
    held = held.to(torch.float64)
    return f"{held.sum().item()} {held.square().sum().item()}"


def fixed(module: nn.Module) -> dict[str, str]:
    """The :func:`sums` of all that a module holds and does not train, by name."""
    frozen = [(name, weight) for name, weight in module.named_parameters() if not weight.requires_grad]
    return {name: sums(held) for name, held in [*module.named_buffers(), *frozen] if not is_lazy(held)}


def check_apart(before: nn.Module, after: nn.Module, names: str, fixed_before: Mapping[str, str]) -> None:
    """Refuse two versions that hold the same weights: the second checkpoint was loaded over the first.

    Args:
        before: the first version.
        after: the second one.
        names: of both, for messages.
        fixed_before: :func:`fixed` of the first one, before the second was loaded.

    Raises:
        ValueError: they share a weight that is trained, or something else that differs between them.
    """
    now = fixed(before)
    if changed := [name for name, held in fixed_before.items() if now.get(name) != held]:
        raise ValueError(
            f"{names} share {len(changed)} tensors that differ between them (first: {changed[0]}): loading the second "
            "changed the first. Make new tensors for each model (register_buffer of a clone)."
        )
    first = {id(weight) for weight in before.parameters() if weight.requires_grad}
    if shared := [name for name, weight in after.named_parameters() if id(weight) in first]:
        raise ValueError(
            f"{names} share {len(shared)} weights (first: {shared[0]}): what makes the model returns the same ones at "
            "each call, and loads the second checkpoint over the first. Make new ones."
        )


__all__ = ["check_apart", "check_unsaved", "fixed", "sums", "unsaved"]
