"""Batches as any nesting of dicts, tuples and lists, whose leaves have one row for each sample.

A leaf is a tensor of shape (n, ...) or a list or tuple of n strings (captions; the default collate function of a
DataLoader makes a tuple of them when a sample is a tuple).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Leaf = Tensor | list[str] | tuple[str, ...]
Source = tuple[int, Callable[[Tensor], Any]]  # how many samples there are, and a function that returns some of them


def identity(batch: Any) -> Any:
    """Nothing happens to a batch on its way to the model."""
    return batch


def _is_text(tree: Any) -> bool:
    return type(tree) in (list, tuple) and len(tree) > 0 and all(isinstance(item, str) for item in tree)


def leaves(tree: Any, path: str = "batch") -> Iterator[tuple[str, Leaf]]:
    """Yield ``(path, leaf)`` in a fixed order; a TypeError names what is not a tensor or a list of strings."""
    if isinstance(tree, Tensor) or _is_text(tree):
        yield path, tree
    elif isinstance(tree, Mapping):
        for key, item in tree.items():
            yield from leaves(item, f"{path}[{key!r}]")
    elif isinstance(tree, tuple | list):
        for index, item in enumerate(tree):
            yield from leaves(item, f"{path}[{index}]")
    else:
        raise TypeError(
            f"{path} is {type(tree).__name__}; a batch that is kept must be made of tensors and lists of strings "
            "(in dicts, tuples and lists). Convert it in the dataset or drop it in the collate_fn."
        )


def map_leaves(function: Callable[..., Any], tree: Any, *others: Any, path: str = "batch") -> Any:
    """Apply ``function(path, leaf, *other_leaves)``; ``others`` must have the structure of ``tree``.

    The result has the containers of ``tree`` (mappings become dicts).
    """
    if isinstance(tree, Mapping):
        for other in others:
            if not isinstance(other, Mapping) or set(other) != set(tree):
                raise ValueError(f"{path} has keys {list(tree)}, but the other batch has {_describe(other)}.")
        return {k: map_leaves(function, v, *(o[k] for o in others), path=f"{path}[{k!r}]") for k, v in tree.items()}
    if isinstance(tree, tuple | list) and not _is_text(tree):
        for other in others:
            if not isinstance(other, tuple | list) or len(other) != len(tree):
                raise ValueError(f"{path} has {len(tree)} items, but the other batch has {_describe(other)}.")
        items = [
            map_leaves(function, item, *(o[i] for o in others), path=f"{path}[{i}]") for i, item in enumerate(tree)
        ]
        if hasattr(tree, "_fields"):  # a namedtuple takes its fields one by one
            return type(tree)(*items)
        return tuple(items) if isinstance(tree, tuple) else items
    for other in others:
        if not isinstance(other, Tensor) and not _is_text(other):
            raise ValueError(f"{path} is {_describe(tree)}, but in the other batch it is {_describe(other)}.")
    return function(path, tree, *others)


def _describe(tree: Any) -> str:
    if isinstance(tree, Tensor):
        return f"a tensor of shape {tuple(tree.shape)} and dtype {tree.dtype}"
    if isinstance(tree, Mapping):
        return f"a mapping with keys {list(tree)}"
    if isinstance(tree, tuple | list):
        return f"a {type(tree).__name__} of {len(tree)} items"
    return f"a {type(tree).__name__}"


def rows(tree: Any) -> int:
    """Number of samples; every leaf must agree."""
    found = list(leaves(tree))
    if not found:
        raise ValueError("The batch is empty: it holds no tensor.")
    for path, leaf in found:
        if isinstance(leaf, Tensor) and leaf.ndim == 0:
            raise ValueError(f"{path} is a scalar tensor; every leaf needs one row for each sample.")
    first_path, first = found[0]
    for path, leaf in found[1:]:
        if len(leaf) != len(first):
            raise ValueError(
                f"{path} has {len(leaf)} rows, but {first_path} has {len(first)}; every leaf needs one row a sample."
            )
    return len(first)


def take(tree: Any, index: Tensor) -> Any:
    """Rows ``index`` of every leaf, as copies."""

    def pick(_: str, leaf: Leaf) -> Leaf:
        if isinstance(leaf, Tensor):
            return leaf[index.to(leaf.device)]
        return type(leaf)(leaf[i] for i in index.tolist())

    return map_leaves(pick, tree)


def concatenate(first: Any, second: Any) -> Any:
    """Rows of ``first``, then rows of ``second``, in the containers, dtypes and devices of ``first``."""

    def join(path: str, a: Leaf, b: Leaf) -> Leaf:
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            if a.shape[1:] != b.shape[1:] or a.dtype != b.dtype:
                raise ValueError(
                    f"{path} cannot be joined: {_describe(a)} and {_describe(b)}. All tasks must yield samples of one "
                    "shape and dtype."
                )
            return torch.cat([a, b.to(a.device)])
        if _is_text(a) and _is_text(b):
            return type(a)([*a, *b])
        raise ValueError(f"{path} is {_describe(a)} in one batch and {_describe(b)} in the other.")

    return map_leaves(join, first, second)


def gather_from(sources: Sequence[Source], positions: Tensor) -> Any:
    """Samples at these positions, counted through all sources one after the other, in this order."""
    parts, order, start = [], [], 0
    for count, read in sources:
        mine = ((positions >= start) & (positions < start + count)).nonzero().flatten()
        if len(mine):
            found = read(positions[mine] - start)
            if rows(found) != len(mine):
                raise ValueError(f"{rows(found)} samples came back for {len(mine)} positions.")
            parts.append(found)
            order.append(mine)
        start += count
    joined = parts[0]
    for part in parts[1:]:
        joined = concatenate(joined, part)
    return take(joined, torch.cat(order).argsort())
