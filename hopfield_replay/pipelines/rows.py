"""What a network is given for each sample besides the samples and the time: cut into rows, and joined again."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Path = tuple[str, ...]


class Row:
    """The arguments of a network for one sample; a leaf of a batch, and nothing to walk through.

    Attributes:
        own: by their paths, tensors of one row, or lists of one item.
        shared: by their paths, what all samples of a call have in common.

    Args:
        own: see above.
        shared: see above.

    Example:
        >>> rows = [Row({("text",): torch.full((1, 2), float(i))}, {("scale",): 3}) for i in range(2)]
        >>> joined(rows)
        {'scale': 3, 'text': tensor([[0., 0.],
                [1., 1.]])}
    """

    def __init__(self, own: dict[Path, Any], shared: dict[Path, Any]) -> None:
        self.own = own
        self.shared = shared

    @property
    def form(self) -> tuple[Any, ...]:
        """What two rows must have in common to go through the network together."""
        own = tuple((path, _shape(leaf)) for path, leaf in self.own.items())
        return own, tuple((path, _shape(leaf)) for path, leaf in self.shared.items())

    def to(self, device: torch.device | str) -> "Row":
        """The same row on another device."""
        own, shared = ({path: _moved(leaf, device) for path, leaf in part.items()} for part in (self.own, self.shared))
        return Row(own, shared)


def own_paths(first: Mapping[str, Any], second: Mapping[str, Any], counts: tuple[int, int]) -> set[Path]:
    """Which arguments have a row for each sample: those that are as long as there are samples in both of two calls.

    Args:
        first: the arguments of one call.
        second: those of another one.
        counts: of samples in each; they differ.

    Raises:
        ValueError: the two calls were given other things.

    Example:
        >>> sorted(own_paths({"text": torch.zeros(2, 5), "ids": torch.zeros(2, 3)},
        ...     {"text": torch.zeros(3, 5), "ids": torch.zeros(2, 3)}, (2, 3)))
        [('text',)]
    """
    leaves = [dict(_leaves(arguments)) for arguments in (first, second)]
    if set(leaves[0]) != set(leaves[1]):
        raise ValueError(f"the network is given {sorted(set(leaves[0]) ^ set(leaves[1]))} at some times only")
    return {
        path for path, leaf in leaves[0].items() if _length(leaf) == counts[0] and _length(leaves[1][path]) == counts[1]
    }


def cut(arguments: Mapping[str, Any], own: set[Path], count: int) -> list[Row]:
    """The arguments of a call, sample by sample.

    Raises:
        ValueError: one that should have a row for each sample has not.

    Example:
        >>> rows = cut({"text": torch.zeros(2, 5), "more": {"x": [1, 2]}}, {("text",), ("more", "x")}, 2)
        >>> rows[1].own[("more", "x")], joined(rows)["more"]
        ([2], {'x': [1, 2]})
    """
    held = dict(_leaves(arguments))
    for path, leaf in held.items():
        if path in own and leaf is not None and _length(leaf) != count:
            raise ValueError(f"the network is given {'.'.join(path)} with {_length(leaf)} rows for {count} samples")
    parted = {path: leaf for path, leaf in held.items() if path in own and leaf is not None}  # masks may be left out
    shared = {path: leaf for path, leaf in held.items() if path not in parted}
    return [Row({path: leaf[i : i + 1] for path, leaf in parted.items()}, shared) for i in range(count)]


def joined(rows: Sequence[Row]) -> dict[str, Any]:
    """The arguments of a call for these samples, whose rows are of one form."""
    arguments: dict[str, Any] = {}
    for path, leaf in rows[0].shared.items():
        _put(arguments, path, leaf)
    for path, leaf in rows[0].own.items():
        leaves = [row.own[path] for row in rows]
        _put(arguments, path, torch.cat(leaves) if isinstance(leaf, Tensor) else [i for part in leaves for i in part])
    return arguments


def _leaves(tree: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Everything in mappings, by its path; an empty mapping is a leaf."""
    if isinstance(tree, Mapping) and (tree or not path):
        for name, item in tree.items():
            yield from _leaves(item, (*path, str(name)))
    else:
        yield path, tree


def _length(leaf: Any) -> int | None:
    if isinstance(leaf, Tensor):
        return len(leaf) if leaf.ndim else None
    return len(leaf) if isinstance(leaf, list | tuple) else None


def _shape(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return tuple(leaf.shape), leaf.dtype
    return "list" if isinstance(leaf, list | tuple) else str(leaf)


def _moved(leaf: Any, device: torch.device | str) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.to(device)
    return [_moved(item, device) for item in leaf] if isinstance(leaf, list) else leaf


def _put(tree: dict[str, Any], path: Path, leaf: Any) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = leaf


__all__ = ["Path", "Row", "cut", "joined", "own_paths"]
