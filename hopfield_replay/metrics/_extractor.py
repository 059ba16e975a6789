"""The user's feature extractor, used by a metric without becoming a part of it."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hopfield_replay.encoders import ModuleEncoder


class FrozenExtractor:
    """Features (n, d) of samples, in eval mode and without gradients.

    A plain object: as a submodule of the metric, the extractor's parameters would enter the parameters, the optimizer
    and the checkpoint of the module that holds the metric.

    Args:
        extractor: maps samples (n, *shape) to features (n, d); a module stays on its own device.
        name: how metrics call it; its class or function name if None.
    """

    def __init__(self, extractor: Callable[[Tensor], Tensor], name: str | None = None) -> None:
        self._encoder = ModuleEncoder(extractor)
        kind = extractor if hasattr(extractor, "__name__") else type(extractor)
        self.name: str = kind.__name__.strip("<>") if name is None else name

    def __call__(self, samples: Tensor) -> Tensor:
        """Features of samples (n, *shape), float32, (n, d)."""
        if not isinstance(samples, Tensor):
            raise TypeError(f"samples must be a torch.Tensor (n, *shape), got {type(samples).__name__}.")
        features = self._encoder.features(samples)
        if features.ndim != 2:
            raise ValueError(
                f"the extractor {self.name} returns maps of shape {tuple(features.shape[1:])} for a sample, not a "
                "vector. Pool or flatten them, e.g. with torch.nn.Sequential(extractor, torch.nn.Flatten())."
            )
        return features.to(torch.float32)


class PassThrough(nn.Module):
    """The extractor of a torchmetrics class that is given features already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        """Return the features."""
        return features


__all__ = ["FrozenExtractor", "PassThrough"]
