"""What a buffer keeps, as an AvalancheDataset like the one that the samples came from."""

from typing import Any

from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.benchmarks.utils.data_attribute import DataAttribute
from torch import Tensor
from torch.utils.data import Dataset

from hopfield_replay.avalanche.experience_source import data_attributes


class Form:
    """How the items of an AvalancheDataset look, so that kept samples can be mixed with new ones in one batch.

    Args:
        dataset: an AvalancheDataset with at least one sample.

    Attributes:
        dataset_type: its class.
        collate_fn: its collate function.
        in_item: names of the data attributes that are appended to each item, in this order.
        as_number: for each other part of an item, whether it is a Python number.

    Raises:
        TypeError: samples that are not tensors, under the ``eval`` transformations.
    """

    def __init__(self, dataset: Any) -> None:
        dataset = dataset.eval()
        self.dataset_type: type = type(dataset)
        self.collate_fn = dataset.collate_fn
        self.in_item = [attribute.name for attribute in data_attributes(dataset) if attribute.use_in_getitem]
        item = dataset[0]
        try:
            self.collate_fn([item])
        except TypeError as error:
            raise TypeError(
                f"Samples of this data set cannot be put into a minibatch ({error}). Give it an eval transformation "
                "that makes tensors of them, e.g. torchvision's ToTensor."
            ) from error
        parts = item.values() if isinstance(item, dict) else item if isinstance(item, tuple | list) else [item]
        self.as_number = [isinstance(part, int | float) for part in parts]


class _Kept(Dataset[Any]):
    """Items of materialised samples, without the parts that data attributes append."""

    def __init__(self, minibatch: Any, count: int, form: Form) -> None:
        self.count = count
        self.is_tuple = isinstance(minibatch, tuple | list)
        self.names = list(minibatch) if isinstance(minibatch, dict) else []
        if self.is_tuple:
            self.columns = list(minibatch)[: len(minibatch) - len(form.in_item)]
        elif self.names:
            self.names = [name for name in self.names if name not in form.in_item]
            self.columns = [minibatch[name] for name in self.names]
        else:
            self.columns = [minibatch]
        self.as_number = form.as_number

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        parts = [
            column[index].item() if number and isinstance(column, Tensor) else column[index]
            for column, number in zip(self.columns, self.as_number, strict=False)
        ]
        if self.is_tuple:
            return tuple(parts)
        return dict(zip(self.names, parts, strict=True)) if self.names else parts[0]


def kept_dataset(kept: dict[str, Any], count: int, form: Form) -> Any:
    """Build the data set.

    Args:
        kept: ``count`` samples as an ExperienceSource fetches them.
        count: how many.
        form: of the data set that they came from.
    """
    attributes = [
        DataAttribute(values.tolist(), name, use_in_getitem=name in form.in_item)
        for name, values in kept["attributes"].items()
    ]
    return form.dataset_type(
        [_Kept(kept["sample"], count, form)], data_attributes=attributes, collate_fn=form.collate_fn
    )


def empty_dataset() -> Any:
    """A data set without samples."""
    return AvalancheDataset([])


def positions_of(values: Tensor) -> dict[int, list[int]]:
    """Positions of each value, values ascending.

    Example:
        >>> import torch
        >>> positions_of(torch.tensor([7, 3, 7]))
        {3: [1], 7: [0, 2]}
    """
    return {int(value): (values == value).nonzero().flatten().tolist() for value in values.unique()}
