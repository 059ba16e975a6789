"""Which samples are the same: a number for each one, made of its content alone."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from hopfield_replay.encoders import split_batch
from hopfield_replay.utilities.nested import as_mapping, is_record, without_subclass


def contents(batch: Any, count: int) -> Tensor:
    """A number in [0, 2^63) for each of the samples of a batch: equal for equal samples, in any process and any batch.

    Args:
        batch: any nesting of tensors (count, ...) and lists of strings; what has no row for each sample is left out.
        count: number of samples.

    Returns:
        (count,) int64 on the CPU. Two of n samples that differ have one number with a chance of about n^2 / 2^64.

    Example:
        >>> numbers = contents({"x": torch.tensor([[1.0], [2.0], [1.0]]), "text": ["a", "b", "a"]}, 3)
        >>> numbers[0] == numbers[2], numbers[0] == numbers[1]
        (tensor(True), tensor(False))
    """
    digests = [hashlib.sha1(usedforsecurity=False) for _ in range(count)]
    for name, leaf in _columns(batch, count, ""):
        rows: Any = leaf
        if isinstance(leaf, Tensor):
            name += f" {leaf.dtype} {tuple(leaf.shape[1:])}"
            plain = without_subclass(leaf.detach()).cpu().contiguous()
            rows = plain.reshape(count, -1).view(torch.uint8).numpy() if plain.numel() else [b""] * count
        label = name.encode()
        for digest, row in zip(digests, rows, strict=True):
            digest.update(label)
            digest.update(row.encode() if isinstance(row, str) else row)
    return torch.tensor([int.from_bytes(digest.digest()[:8], "big") >> 1 for digest in digests], dtype=torch.int64)


def sample_contents(batch: Any, vectors: Tensor) -> Tensor:
    """The same of the samples alone, whatever comes with them; of their vectors where a batch holds no samples yet.

    What tells a sample from others: its vectors differ in their last digits where it is encoded among others.

    Args:
        batch: as the data holds it.
        vectors: (n, d) that an encoder makes of it.

    Returns:
        (n,) int64 on the CPU.
    """
    try:
        samples, _ = split_batch(batch)
    except (TypeError, ValueError):  # what becomes samples only when it is prepared
        samples = vectors
    return contents(samples if len(samples) == len(vectors) else vectors, len(vectors))


def positions_of(numbers: Tensor, among: Tensor) -> Tensor:
    """Where each of these numbers (n,) stands among others (m,), the last place if there are several; -1: nowhere.

    Example:
        >>> positions_of(torch.tensor([7, 5, 6]), torch.tensor([5, 7, 7]))
        tensor([ 2,  0, -1])
    """
    places = {number: position for position, number in enumerate(among.tolist())}
    return torch.tensor([places.get(number, -1) for number in numbers.tolist()], dtype=torch.int64)


def _columns(tree: Any, count: int, name: str) -> Iterator[tuple[str, Tensor | list[str] | tuple[str, ...]]]:
    """Everything in a batch that has a row for each sample, in an order that does not depend on that of a mapping."""
    if isinstance(tree, Tensor):
        if tree.ndim and len(tree) == count:
            yield name, tree
    elif isinstance(tree, Mapping):
        for key in sorted(tree, key=str):
            yield from _columns(tree[key], count, f"{name}.{key}")
    elif is_record(tree):
        yield from _columns(as_mapping(tree), count, name)
    elif isinstance(tree, list | tuple):
        if len(tree) == count and tree and all(isinstance(item, str) for item in tree):
            yield name, tree
        else:
            for index, item in enumerate(tree):
                yield from _columns(item, count, f"{name}.{index}")


__all__ = ["contents", "positions_of", "sample_contents"]
