"""Batches as any nesting of dicts, tuples, lists and dataclasses, whose leaves have one row for each sample.

A leaf is a tensor of shape (n, ...) or a list or tuple of n strings (captions; the default collate function of a
DataLoader makes a tuple of them when a sample is a tuple).
"""

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import fields, is_dataclass, replace
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


def is_record(tree: Any) -> bool:
    """Whether a part of a batch is a dataclass."""
    return is_dataclass(tree) and not isinstance(tree, type)


def as_mapping(tree: Any) -> dict[str, Any]:
    """The fields of a dataclass by name, as they are."""
    return {field.name: getattr(tree, field.name) for field in fields(tree)}


def without_subclass(tensor: Tensor) -> Tensor:
    """The tensor itself; of a subclass (such as MONAI's MetaTensor) its values alone, whose rows can be taken freely.

    Example:
        >>> without_subclass(torch.nn.Parameter(torch.ones(1), requires_grad=False)).__class__.__name__
        'Tensor'
    """
    return tensor if type(tensor) is Tensor else torch.Tensor.as_subclass(tensor, Tensor)


def refilled(mapping: Mapping[Any, Any], items: dict[Any, Any]) -> Any:
    """A mapping of the same class with these items; of a class that cannot be copied and filled a dict.

    Args:
        mapping: such as transformers' BatchFeature.
        items: for all of its keys.

    Example:
        >>> from collections import OrderedDict
        >>> refilled(OrderedDict(x=1), {"x": 2}) == OrderedDict(x=2)
        True
    """
    if type(mapping) is dict or not isinstance(mapping, MutableMapping):
        return items
    try:
        same = copy.copy(mapping)
        same.update(items)
    except Exception:  # a class of somebody's own
        return items
    return same


def walk(tree: Any, path: str = "batch", *, whole: Callable[[Any], bool] = _is_text) -> Iterator[tuple[str, Any]]:
    """Yield ``(path, item)`` for everything in dicts, tuples and lists that is none of these, in their order.

    Args:
        tree: any nesting.
        path: what the whole is called.
        whole: which dicts, tuples and lists are items themselves and are not entered; lists of strings by default.

    Example:
        >>> list(walk({"image": 1, "text": ("a", "b"), "more": [2]}))
        [("batch['image']", 1), ("batch['text']", ('a', 'b')), ("batch['more'][0]", 2)]
    """
    if whole(tree):
        yield path, tree
    elif isinstance(tree, Mapping):
        for key, item in tree.items():
            yield from walk(item, f"{path}[{key!r}]", whole=whole)
    elif isinstance(tree, tuple | list):
        for index, item in enumerate(tree):
            yield from walk(item, f"{path}[{index}]", whole=whole)
    elif is_record(tree):
        for key, item in as_mapping(tree).items():
            yield from walk(item, f"{path}.{key}", whole=whole)
    else:
        yield path, tree


def leaves(tree: Any) -> Iterator[tuple[str, Leaf]]:
    """Yield ``(path, leaf)`` in a fixed order; a TypeError names what is not a tensor or a list of strings."""
    for path, item in walk(tree):
        if not isinstance(item, Tensor) and not _is_text(item):
            raise TypeError(
                f"{path} is {type(item).__name__}; a batch that is kept must be made of tensors and lists of strings "
                "(in dicts, tuples and lists). Convert it in the dataset or drop it in the collate_fn."
            )
        yield path, item


def map_leaves(
    function: Callable[..., Any],
    tree: Any,
    *others: Any,
    path: str = "batch",
    whole: Callable[[Any], bool] = _is_text,
) -> Any:
    """Apply ``function(path, item, *other_items)`` to what :func:`walk` yields, in the same containers.

    ``others`` must have the structure of ``tree``, where a dict may stand for a dataclass.
    """
    if is_record(tree) and not whole(tree):
        parts = [as_mapping(other) if is_record(other) else other for other in others]
        return replace(tree, **map_leaves(function, as_mapping(tree), *parts, path=path, whole=whole))
    others = tuple(as_mapping(other) if is_record(other) else other for other in others)
    if isinstance(tree, Mapping) and not whole(tree):
        for other in others:
            if not isinstance(other, Mapping) or set(other) != set(tree):
                raise ValueError(f"{path} has keys {list(tree)}, but the other batch has {_describe(other)}.")
        return refilled(
            tree,
            {
                key: map_leaves(function, item, *(other[key] for other in others), path=f"{path}[{key!r}]", whole=whole)
                for key, item in tree.items()
            },
        )
    if isinstance(tree, tuple | list) and not whole(tree):
        for other in others:
            if not isinstance(other, tuple | list) or len(other) != len(tree):
                raise ValueError(f"{path} has {len(tree)} items, but the other batch has {_describe(other)}.")
        items = [
            map_leaves(function, item, *(other[i] for other in others), path=f"{path}[{i}]", whole=whole)
            for i, item in enumerate(tree)
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
    kept = list(leaves(tree))
    if not kept:
        raise ValueError("The batch is empty: it holds no tensor.")
    for path, leaf in kept:
        if isinstance(leaf, Tensor) and leaf.ndim == 0:
            raise ValueError(f"{path} is a scalar tensor; every leaf needs one row for each sample.")
    first_path, first = kept[0]
    for path, leaf in kept[1:]:
        if len(leaf) != len(first):
            raise ValueError(
                f"{path} has {len(leaf)} rows, but {first_path} has {len(first)}; every leaf needs one row a sample. "
                "Pad or drop the others in the collate_fn."
            )
    return len(first)


def take(tree: Any, index: Tensor) -> Any:
    """Rows ``index`` of every leaf, as copies."""

    def pick(_: str, leaf: Leaf) -> Leaf:
        if isinstance(leaf, Tensor):
            return without_subclass(leaf)[index.to(leaf.device)]
        return type(leaf)(leaf[i] for i in index.tolist())

    return map_leaves(pick, tree)


def concatenate(first: Any, second: Any) -> Any:
    """Rows of ``first``, then rows of ``second``, in the containers, dtypes and devices of ``first``."""

    def join(path: str, a: Leaf, b: Leaf) -> Leaf:
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            if a.shape[1:] != b.shape[1:] or a.dtype != b.dtype:
                raise ValueError(
                    f"{path} cannot be joined: {_describe(a)} and {_describe(b)}. All tasks must yield samples of one "
                    "shape and dtype: resize images, and pad texts to one length."
                )
            return torch.cat([without_subclass(a), without_subclass(b).to(a.device)])
        if _is_text(a) and _is_text(b):
            return type(a)([*a, *b])
        raise ValueError(f"{path} is {_describe(a)} in one batch and {_describe(b)} in the other.")

    return map_leaves(join, first, second)


def shaped_like(form: Any, batch: Any) -> Any:
    """A batch in the containers of another one: named tuples and dataclasses, which come out of a file as plain ones.

    Args:
        form: a batch of the same nesting.
        batch: what is put into its containers; comes back as it is if the nesting is another one.

    Example:
        >>> from collections import namedtuple
        >>> Pair = namedtuple("Pair", "x y")
        >>> shaped_like(Pair(torch.zeros(1), torch.zeros(1)), (torch.ones(2), torch.zeros(2)))
        Pair(x=tensor([1., 1.]), y=tensor([0., 0.]))
    """
    try:
        return map_leaves(lambda _, __, leaf: leaf, form, batch)
    except (ValueError, TypeError, LookupError):
        return batch


def gather_from(sources: Sequence[Source], positions: Tensor) -> Any:
    """Samples at these positions, counted through all sources one after the other, in this order."""
    parts, order, start = [], [], 0
    for count, read in sources:
        mine = ((positions >= start) & (positions < start + count)).nonzero().flatten()
        if len(mine):
            samples = read(positions[mine] - start)
            if rows(samples) != len(mine):
                raise ValueError(f"{rows(samples)} samples came back for {len(mine)} positions.")
            parts.append(samples)
            order.append(mine)
        start += count
    joined = parts[0]
    for part in parts[1:]:
        joined = concatenate(joined, part)
    return take(joined, torch.cat(order).argsort())
