"""Samples and condition of a batch, where both lie in it as the network takes them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hopfield_replay.denoisers.inferred import Shared, others
from hopfield_replay.denoisers.witness import Place, Statement, tensors_in


@dataclass(frozen=True, eq=False)
class BatchReader:
    """Reads what a network denoises, and its condition, off a batch.

    Args:
        place: of the samples.
        scale: what they are multiplied by on their way to the network.
        shift: what is added to them then.
        arguments: the network's other arguments, with a :class:`Place` wherever the batch has them.

    Example:
        >>> reader = BatchReader(Place((0,)), 2.0, -1.0, {"y": Place((1,))})
        >>> samples, condition = reader((torch.ones(2, 3), torch.tensor([4, 5])))
        >>> samples, condition["y"]
        (tensor([[1., 1., 1.],
                [1., 1., 1.]]), tensor([4, 5]))
    """

    place: Place
    scale: float
    shift: float
    arguments: Mapping[int | str, Any]

    def __call__(self, batch: Any) -> tuple[Tensor, Any]:
        """Samples (n, *shape) in the network's scale, and the condition of an InferredDenoiser."""
        samples = self.place.of(batch)
        samples = samples.to(torch.promote_types(samples.dtype, torch.float32))
        if (self.scale, self.shift) != (1.0, 0.0):
            samples = samples * self.scale + self.shift
        return samples, {name: _filled(value, batch) for name, value in self.arguments.items()}


def batch_reader(testimony: Statement, batch: Any) -> BatchReader | None:
    """A reader for the batches of a step that was witnessed; None if the step makes what its network is shown.

    Args:
        testimony: what the step does.
        batch: what it was called with.
    """
    if testimony.place is None or testimony.time is None:
        return None
    try:
        arguments = {name: _placed(value, batch) for name, value in others(testimony.call, testimony.time).items()}
    except LookupError:
        return None
    return BatchReader(testimony.place, testimony.reading.scale, testimony.reading.shift, arguments)


def _placed(value: Any, batch: Any) -> Any:
    """A network's argument with a place for each tensor; LookupError if one is not in the batch."""
    if isinstance(value, Tensor):
        for place, item in tensors_in(batch):
            if item.shape == value.shape and torch.equal(item.to(value.device, value.dtype), value):
                return place
        raise LookupError
    if isinstance(value, Shared):
        if isinstance(value.value, Tensor):
            raise LookupError
        return value
    if isinstance(value, Mapping):
        return {key: _placed(item, batch) for key, item in value.items()}
    if not isinstance(value, list | tuple):  # texts, which the step may have changed
        raise LookupError
    return [_placed(item, batch) for item in value]


def _filled(value: Any, batch: Any) -> Any:
    if isinstance(value, Place):
        return value.of(batch)
    if isinstance(value, Shared):
        return value
    if isinstance(value, Mapping):
        return {key: _filled(item, batch) for key, item in value.items()}
    return [_filled(item, batch) for item in value]


__all__ = ["BatchReader", "batch_reader"]
