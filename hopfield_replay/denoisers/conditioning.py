"""Which items of a batch a network takes as its condition."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hopfield_replay.utilities.nested import map_leaves, walk

_SAMPLES = ("sample", "hidden_states", "timestep", "return_dict")


def accepted(network: nn.Module) -> dict[str, inspect.Parameter]:
    """Parameters of the network's forward besides the samples and the timestep."""
    original = getattr(network, "_orig_mod", network)  # torch.compile hides the signature
    parameters = inspect.signature(original.forward).parameters
    return {name: value for name, value in parameters.items() if name not in _SAMPLES}


def tensors(condition: Any) -> list[tuple[str, Tensor]]:
    """Every tensor of a nested condition, with its path."""
    return [(path, item) for path, item in walk(condition, "condition") if isinstance(item, Tensor)]


def _is_label(value: Tensor) -> bool:
    return value.ndim == 1 and not value.is_floating_point() and not value.is_complex()


def _is_dit(config: Any) -> bool:
    return getattr(config, "norm_type", None) == "ada_norm_zero"  # its embedding of the labels sits in every block


def _needs(network: nn.Module, parameters: Mapping[str, inspect.Parameter]) -> dict[str, Callable[[Tensor], bool]]:
    """The conditions that a diffusers network cannot do without, each with how to recognise it."""
    config: Any = getattr(network, "config", {})
    needs: dict[str, Callable[[Tensor], bool]] = {}
    if "class_labels" in parameters:
        embedding = getattr(config, "class_embed_type", None)
        if embedding is not None:
            needs["class_labels"] = lambda value: value.is_floating_point() or _is_label(value)
        elif (
            getattr(network, "class_embedding", None) is not None or getattr(config, "norm_type", "") == "ada_norm_zero"
        ):
            needs["class_labels"] = _is_label
    width = getattr(config, "encoder_hid_dim", None) or getattr(config, "cross_attention_dim", None)
    if "encoder_hidden_states" in parameters and width is not None:
        widths = width if isinstance(width, list | tuple) else [width]
        needs["encoder_hidden_states"] = lambda value: (
            value.ndim == 3 and value.is_floating_point() and value.shape[-1] in widths
        )
    return needs


def is_conditional(network: nn.Module) -> bool:
    """Whether a diffusers network needs a condition."""
    return bool(_needs(network, accepted(network)))


def arguments(network: nn.Module, condition: Any) -> dict[str, Any]:
    """Keyword arguments for the network's forward, from what the batch holds besides the samples.

    Mapping entries named as a parameter of forward are passed by that name. A condition that the network needs and
    that no entry names is taken by what it is: class labels are whole numbers (n,), hidden states are floating
    (n, L, width). What the network cannot take is left out.

    Raises:
        ValueError: the network needs a condition that is not there, or that several items could be.
    """
    parameters = accepted(network)
    needs = _needs(network, parameters)
    named = dict(condition) if isinstance(condition, Mapping) else {}
    chosen = {name: value for name, value in named.items() if name in parameters and value is not None}
    if "class_labels" not in needs:
        chosen.pop("class_labels", None)  # an unconditional network refuses labels that the batch happens to hold
    rest = {key: value for key, value in named.items() if key not in chosen} if named else condition
    for name, fits in needs.items():
        if name in chosen:
            continue
        fitting = [(path, value) for path, value in tensors(rest) if fits(value)]
        if len(fitting) != 1:
            problem = f"could be any of {[path for path, _ in fitting]}" if fitting else "is not in the batch"
            raise ValueError(
                f"{type(network).__name__} is conditional and needs {name}, which {problem}. Pass "
                f"condition={{{name!r}: ...}}; it holds {_listing(condition)}."
            )
        chosen[name] = fitting[0][1]
    return chosen


def _listing(condition: Any) -> str:
    items = [f"{path}: {value.dtype} {tuple(value.shape)}" for path, value in tensors(condition)]
    return ", ".join(items) or "no tensor"


def move(condition: Any, device: torch.device, dtype: torch.dtype | None) -> Any:
    """Move every tensor of a nested condition, and cast the floating ones."""

    def moved(_: str, item: Any) -> Any:
        if not isinstance(item, Tensor):
            return item
        return item.to(device, dtype if item.is_floating_point() else None)

    return map_leaves(moved, condition)


__all__ = ["arguments", "is_conditional", "move"]
