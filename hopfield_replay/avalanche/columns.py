"""The tensors behind an AvalancheDataset, where there are any: minibatches by indexing instead of item by item."""

from functools import partial
from typing import Any

import torch
from avalanche.benchmarks.utils.classification_dataset import _TensorClassificationDataset, lookup
from avalanche.benchmarks.utils.transforms import TupleTransform
from torch import Tensor
from torch.utils.data import TensorDataset, default_collate

from hopfield_replay.avalanche.experience_source import data_attributes


class Columns:
    """Minibatches of an AvalancheDataset, by indexing where tensors lie behind it, and else item by item.

    Tensors lie behind a TensorDataset under any subsets; its targets may be mapped by a table, as ``nc_benchmark``
    does, and data attributes may be appended. Nothing is copied beforehand but the targets. Samples that are decoded
    or transformed are read item by item, and so are several data sets in one.

    Args:
        dataset: an AvalancheDataset.

    Attributes:
        known: whether there are tensors behind it.

    Example:
        >>> from avalanche.benchmarks.utils import make_avalanche_dataset
        >>> columns = Columns(make_avalanche_dataset(TensorDataset(torch.arange(6.0).view(3, 2))).subset([2, 0]))
        >>> columns.known, columns.rows([0])
        (True, [tensor([[4., 5.]])])
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.collate_fn = getattr(dataset, "collate_fn", default_collate)
        self._columns: list[Tensor] = []
        self._index: Tensor | None = None
        self.known = False
        if self.collate_fn is not default_collate or not len(dataset):
            return
        try:
            # avalanche 0.6 shows neither the data sets nor the indices and transformations of an AvalancheDataset
            self._columns, self._index = _resolve(
                dataset._flat_data, dataset._flat_data._transform_groups.current_group
            )
            self._appended = [
                default_collate(list(attribute)) for attribute in data_attributes(dataset) if attribute.use_in_getitem
            ]
        except (_Opaque, AttributeError, TypeError):
            return
        ends = [0, len(dataset) - 1]
        self.known = _same(self._indexed(ends), self._collated(ends))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, indices: list[int]) -> Any:
        """One collated minibatch; what a DataLoader calls with the indices of a batch."""
        return self._indexed(indices) if self.known else self._collated(indices)

    rows = __getitems__

    def _indexed(self, indices: list[int]) -> list[Tensor]:
        at = torch.as_tensor(indices)
        source = at if self._index is None else self._index[at]
        return [*(column[source] for column in self._columns), *(column[at] for column in self._appended)]

    def _collated(self, indices: list[int]) -> Any:
        return self.collate_fn([self.dataset[index] for index in indices])


class _Opaque(Exception):
    """Not a tensor data set, or one whose items are transformed."""


def _resolve(node: Any, group: str) -> tuple[list[Tensor], Tensor | None]:
    if type(node) in (TensorDataset, _TensorClassificationDataset):
        return list(node.tensors), None
    (child,) = node._datasets if len(node._datasets) == 1 else (None,)
    if child is None:
        raise _Opaque
    columns, index = _resolve(child, group)
    if node._indices is not None:
        own = torch.as_tensor(list(node._indices))
        index = own if index is None else index[own]
    for groups in (node._frozen_transform_groups, node._transform_groups):
        columns = _transformed(columns, groups.transform_groups[group])
    return columns, index


def _transformed(columns: list[Tensor], transform: Any) -> list[Tensor]:
    if transform is None:
        return columns
    if not isinstance(transform, TupleTransform):
        raise _Opaque
    result = list(columns)
    for position, function in enumerate(transform.transforms):
        if function is None:
            continue
        if not isinstance(function, partial) or function.func is not lookup or function.keywords:
            raise _Opaque
        result[position] = torch.as_tensor(function.args[0])[result[position]]
    return result


def _same(first: Any, second: Any) -> bool:
    return (
        isinstance(second, list)
        and len(first) == len(second)
        and all(
            isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
            for a, b in zip(first, second, strict=True)
        )
    )
