"""ExperienceSource: an Avalanche data set, read in order and materialised by position."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from hopfield_replay.encoders import as_encoder, vectors_of
from hopfield_replay.tracker.contents import sample_contents
from hopfield_replay.tracker.source import TaskSource
from hopfield_replay.utilities.nested import identity, map_leaves

_BATCH_SIZE = 256


class ExperienceSource(TaskSource):
    """Reads the samples of an AvalancheDataset under its ``eval`` transformations, without augmentation.

    Fetched samples come as ``{"sample": minibatch, "attributes": {name: values}}``: the minibatch is what the data
    set's own collate function makes; the attributes are the numeric data attributes (targets, task labels, ids).

    Args:
        dataset: an AvalancheDataset.
        prepare: what happens to a minibatch on its way to the model.
    """

    def __init__(self, dataset: Any, prepare: Callable[[Any], Any] = identity) -> None:
        self.dataset = dataset.eval() if hasattr(dataset, "eval") else dataset
        super().__init__(
            DataLoader(self.dataset, batch_size=_BATCH_SIZE, collate_fn=getattr(self.dataset, "collate_fn", None)),
            prepare=prepare,
        )

    def fetch(self, positions: Tensor) -> dict[str, Any]:
        """The samples at these positions, in this order, with their data attributes."""
        attributes = {}
        for attribute in data_attributes(self.dataset):
            values = [attribute[position] for position in positions.tolist()]
            numbers = [value.item() if isinstance(value, Tensor) and not value.ndim else value for value in values]
            if all(isinstance(number, int | float) for number in numbers):
                attributes[attribute.name] = torch.as_tensor(numbers)
        return {"sample": super().fetch(positions), "attributes": attributes}


def minibatch(batch: Any) -> Any:
    """The minibatch in what an ExperienceSource yields or fetches."""
    return batch["sample"] if isinstance(batch, dict) and set(batch) == {"sample", "attributes"} else batch


def on_device(batch: Any, device: Any) -> Any:
    """A minibatch on a strategy's device; as it is if ``device`` is none (upstream's tests pass mocks)."""
    if not isinstance(device, torch.device):
        return batch
    return map_leaves(lambda _, leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, batch)


def read_vectors(dataset: Any, encoder: Callable[[Any], Tensor] | None, device: Any) -> tuple[Tensor, Tensor]:
    """Vectors (n, d) of all samples of an AvalancheDataset, float32, and a number (n,) for each sample's content.

    Args:
        dataset: with at least one sample.
        encoder: maps a minibatch to vectors; None: its samples, flattened, by the rules of :class:`Columns`.
        device: of the encoder.

    Returns:
        Both on the CPU.
    """
    vectors, numbers = [], []
    for _, batch in ExperienceSource(dataset).batches():
        vectors.append(encode(batch, encoder, device))
        numbers.append(sample_contents(minibatch(batch), vectors[-1]))
    return torch.cat(vectors), torch.cat(numbers)


def encode(batch: Any, encoder: Callable[[Any], Tensor] | None, device: Any) -> Tensor:
    """Vectors (n, d) of one minibatch, float32, on the CPU."""
    return vectors_of(as_encoder(encoder), batch if encoder is None else on_device(batch, device)).cpu()


def data_attributes(dataset: Any) -> list[Any]:
    """The data attributes of an AvalancheDataset; of any other data set: none."""
    return list(getattr(dataset, "_data_attributes", {}).values())  # avalanche 0.6 has no public way to list them
