"""Put modern Hopfield attention into a diffusers model, and take it out again."""

from types import TracebackType
from typing import Any, Self

from torch import nn

from hopfield_replay.attention.processor import HopfieldAttnProcessor
from hopfield_replay.attention.state import CarriedScores
from hopfield_replay.functional.hopfield_attention import Start, check_inheritance, check_start


def self_attention_layers(model: nn.Module) -> dict[str, Any]:
    """The diffusers Attention modules of a model that attend to their own input, by name, in the model's order.

    Raises:
        ImportError: diffusers is not installed.
        TypeError: not a module.
        ValueError: there is none.
    """
    try:
        from diffusers.models.attention_processor import Attention
    except ImportError as error:
        raise ImportError('Hopfield attention needs diffusers: pip install "hopfield-replay[diffusion]".') from error
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}; of a pipeline pass its unet.")
    every = {name: module for name, module in model.named_modules() if isinstance(module, Attention)}
    layers = {name: module for name, module in every.items() if not module.is_cross_attention}
    if not layers:
        other = f"{len(every)} cross-attention modules only" if every else "no attention module of diffusers"
        raise ValueError(
            f"{type(model).__name__} has no self-attention to carry scores through: it has {other}. Models with "
            "diffusers' Attention modules are supported: UNet2DModel with attention blocks, UNet2DConditionModel, "
            "DiTTransformer2DModel, Transformer2DModel, ..."
        )
    return layers


class HopfieldAttention:
    """Modern Hopfield attention in a model; made by :func:`install_hopfield_attention`, a context manager.

    Args:
        model: the model that gets called: each of its forwards begins with empty scores.
        layers: its self-attention modules by name.
        a: share of the carried scores, in [0, 1).
        start: what the first layer starts from, see :func:`install_hopfield_attention`.

    Attributes:
        layers: names of the self-attention modules that carry scores.
        a: share of the carried scores.

    Example:
        >>> from diffusers import DiTTransformer2DModel
        >>> model = DiTTransformer2DModel(2, 4, 1, num_layers=2, sample_size=4, num_embeds_ada_norm=2)
        >>> hopfield = install_hopfield_attention(model, 0.2)
        >>> hopfield.layers, hopfield.a
        (('transformer_blocks.0.attn1', 'transformer_blocks.1.attn1'), 0.2)
        >>> hopfield.remove()
    """

    def __init__(self, model: nn.Module, layers: dict[str, Any], a: float, start: Start) -> None:
        self.layers = tuple(layers)
        self.a = a
        self._modules = list(layers.values())
        self._carried = CarriedScores(model)
        self._hooks = [
            model.register_forward_pre_hook(self._carried.begin, prepend=True),
            model.register_forward_hook(self._carried.end, always_call=True),
        ]
        for module in self._modules:
            module.processor = HopfieldAttnProcessor(module.processor, self._carried, a, start)

    def remove(self) -> None:
        """Put the previous processors back; a processor that was set since stays. A second call does nothing."""
        for hook in self._hooks:
            hook.remove()
        self._carried.release()
        for module in self._modules:
            if isinstance(module.processor, HopfieldAttnProcessor):
                module.processor = module.processor.previous
        self._modules = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


def install_hopfield_attention(model: nn.Module, a: float, *, start: Start = "zero") -> HopfieldAttention:
    """Carry attention scores through the self-attention layers of a model: h_n = a h_{n-1} + (1 - a) Q K^T / sqrt(d).

    Layers with the same number of tokens, heads and samples carry one state, in the order in which they run; it is
    empty at the begin of every forward of ``model``. Cross-attention stays as it is, weights and their names do, too.
    With a = 0 the model computes what it did, bit by bit. It works with the model's own gradient checkpointing (the
    scores of every layer are kept all the same), with DistributedDataParallel and with copies of the model.

    Args:
        model: a diffusers model, or a module that holds one and is what gets called.
        a: share of the carried scores, in [0, 1).
        start: ``"zero"`` or ``"scores"``: what the first layer starts from, see
            :func:`~hopfield_replay.functional.hopfield_attention.hopfield_attention`.

    Returns:
        What ends it: ``.remove()``, or a ``with`` block.

    Raises:
        ImportError: diffusers is not installed.
        TypeError: model is no module; a is no number.
        ValueError: a outside [0, 1); no self-attention; it is installed already; a self-attention module has another
            processor than AttnProcessor or AttnProcessor2_0, whose work would be lost.

    Example:
        >>> import torch
        >>> from diffusers import DiTTransformer2DModel
        >>> model = DiTTransformer2DModel(2, 4, 1, num_layers=3, sample_size=4, num_embeds_ada_norm=2).eval()
        >>> x, t, label = torch.ones(1, 1, 4, 4), torch.tensor([5]), torch.tensor([0])
        >>> with install_hopfield_attention(model, 0.2) as hopfield:
        ...     len(hopfield.layers), model(x, t, label).sample.shape
        (3, torch.Size([1, 1, 4, 4]))

    Source: Masumura and Taki, arXiv:2511.20698.
    """
    a = check_inheritance(a)
    check_start(start)
    layers = self_attention_layers(model)
    from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

    for name, module in layers.items():
        processor = type(module.processor)
        if processor is HopfieldAttnProcessor:
            raise ValueError(f"Hopfield attention is installed already (in {name}); call .remove() of the first one.")
        if processor not in (AttnProcessor, AttnProcessor2_0):
            raise ValueError(
                f"{name} has a {processor.__name__}, whose work Hopfield attention does not do. Only self-attention "
                "with AttnProcessor or AttnProcessor2_0 can be replaced; set one of these first if that is meant."
            )
    return HopfieldAttention(model, layers, a, start)


__all__ = ["HopfieldAttention", "install_hopfield_attention", "self_attention_layers"]
