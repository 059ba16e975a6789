"""Token uniformity of a diffusers model, layer by layer, recorded while it runs."""

from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from hopfield_replay.attention.installation import self_attention_layers
from hopfield_replay.functional.token_uniformity import token_cosine, token_residual


@dataclass(frozen=True)
class LayerUniformity:
    """How alike the tokens are after one layer, averaged over the samples that went through it.

    Attributes:
        layer: name of the module.
        cosine: mean cosine similarity of pairs of tokens; 1: all point the same way.
        residual: relative norm of what tells tokens apart; 0: rank collapse.
        samples: number of samples.

    Example:
        >>> row = LayerUniformity("transformer_blocks.0", cosine=0.25, residual=0.9, samples=5)
        >>> f"{row.layer}: {row.cosine} over {row.samples} samples"
        'transformer_blocks.0: 0.25 over 5 samples'
    """

    layer: str
    cosine: float
    residual: float
    samples: int


def token_layers(model: nn.Module) -> dict[str, nn.Module]:
    """What writes to the stream of tokens: the transformer blocks with self-attention, and attention without a block.

    Raises:
        TypeError, ValueError: as :func:`self_attention_layers`.
    """
    from diffusers.models.attention import BasicTransformerBlock

    modules = dict(model.named_modules())
    layers = {}
    for name in self_attention_layers(model):
        block = name.rpartition(".")[0]
        name = block if isinstance(modules[block], BasicTransformerBlock) else name
        layers[name] = modules[name]
    return layers


class TokenUniformityRecorder:
    """Records token uniformity after every layer of a model, within a ``with`` block.

    Args:
        model: a diffusers model with self-attention.

    Raises:
        TypeError, ValueError: not a module; no self-attention in it.

    Example:
        >>> from diffusers import DiTTransformer2DModel
        >>> model = DiTTransformer2DModel(2, 4, 1, num_layers=2, sample_size=4, num_embeds_ada_norm=2)
        >>> with TokenUniformityRecorder(model) as recorder, torch.no_grad():
        ...     _ = model(torch.ones(5, 1, 4, 4), torch.tensor([5]), torch.tensor([0]))
        >>> [(row.layer, row.samples) for row in recorder.table()]
        [('transformer_blocks.0', 5), ('transformer_blocks.1', 5)]
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers = token_layers(model)
        self._found: dict[str, list[Tensor]] = {name: [] for name in self._layers}
        self._hooks: list[Any] = []

    def __enter__(self) -> Self:
        for name, layer in self._layers.items():
            self._hooks.append(layer.register_forward_hook(_Record(self._found[name])))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._hooks:
            self._hooks.pop().remove()

    def table(self) -> list[LayerUniformity]:
        """One row for each layer that ran, in the model's order."""
        rows = []
        for name, parts in self._found.items():
            if parts:
                values = torch.cat(parts, 1)
                cosine, residual = values.mean(1).tolist()
                rows.append(LayerUniformity(name, cosine, residual, values.shape[1]))
        return rows


class _Record:
    """A forward hook that notes both measures of a layer's output, (2, batch)."""

    def __init__(self, values: list[Tensor]) -> None:
        self._found = values

    @torch.no_grad()
    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> None:
        tokens = output.flatten(2).transpose(1, 2) if output.ndim == 4 else output
        self._found.append(torch.stack([token_cosine(tokens), token_residual(tokens)]).cpu())


__all__ = ["LayerUniformity", "TokenUniformityRecorder", "token_layers"]
