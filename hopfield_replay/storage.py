"""Where kept samples live: rows of a nesting of tensors that is allocated once, and files without pickle."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hopfield_replay.nested import Leaf, leaves, map_leaves, rows, take


class SampleStore:
    """``capacity`` rows of samples of one form; the form is that of the first samples put in.

    Args:
        capacity: number of rows, >= 1.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._tree: Any = None

    @property
    def nbytes(self) -> int:
        """Bytes of all rows, used or not."""
        if self._tree is None:
            return 0
        kept = [leaf for _, leaf in leaves(self._tree)]
        return sum(leaf.nbytes if isinstance(leaf, Tensor) else sum(map(len, leaf)) for leaf in kept)

    def put(self, samples: Any, slots: Tensor) -> None:
        """Copy the samples into these rows; nothing is written if their form is not that of the store.

        Raises:
            ValueError: samples of another shape, dtype or nesting, or another number of them.
        """
        if rows(samples) != len(slots):
            raise ValueError(f"{rows(samples)} samples were given for {len(slots)} places.")
        if self._tree is None:
            self._tree = map_leaves(lambda _, leaf: _allocate(leaf, self.capacity), samples)
        map_leaves(_check_form, self._tree, samples)

        def write(_: str, kept: Any, new: Any) -> None:
            if isinstance(kept, Tensor):
                kept[slots] = new.detach().to(kept.device)
            else:
                for slot, text in zip(slots.tolist(), new, strict=True):
                    kept[slot] = text

        map_leaves(write, self._tree, samples)

    def get(self, slots: Tensor) -> Any:
        """Copies of these rows, in the nesting they came in."""
        return take(self._tree, slots)


def _allocate(leaf: Leaf, capacity: int) -> Tensor | list[str]:
    return torch.zeros(capacity, *leaf.shape[1:], dtype=leaf.dtype) if isinstance(leaf, Tensor) else [""] * capacity


def _check_form(path: str, kept: Any, new: Any) -> None:
    if _form(kept) != _form(new):
        raise ValueError(
            f"{path} was kept as {_form(kept)} so far, but is now {_form(new)}; all tasks must yield samples of one "
            "shape and dtype."
        )


def _form(leaf: Leaf) -> str:
    return f"{leaf.dtype} of shape {tuple(leaf.shape[1:])}" if isinstance(leaf, Tensor) else "text"


def plain(tree: Any) -> Any:
    """The same nesting in dict, tuple and list: ``weights_only=True`` does not load a namedtuple's class."""
    if isinstance(tree, Mapping):
        return {key: plain(item) for key, item in tree.items()}
    if isinstance(tree, tuple):
        return tuple(plain(item) for item in tree)
    return [plain(item) for item in tree] if isinstance(tree, list) else tree


def save_tree(path: str | os.PathLike[str], tree: Any) -> None:
    """Write a nesting of plain Python and tensors as safetensors; an old file is replaced only when all is written."""
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    outline = _flatten(tree, tensors)
    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        save_file(tensors, str(partial), metadata={_HEADER: json.dumps(outline)})
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def load_tree(path: str | os.PathLike[str]) -> Any:
    """Read what :func:`save_tree` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            outline = json.loads((file.metadata() or {})[_HEADER])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a mapping
        return _unflatten(outline, tensors)
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a file written by hopfield-replay, or it is damaged ({error}).") from error


_HEADER = "hopfield_replay"


def _flatten(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """An outline of the tree for JSON; its tensors are taken out under running numbers."""
    if isinstance(tree, Tensor):
        name = str(len(tensors))
        tensors[name] = tree.contiguous().clone()
        return {"tensor": name}
    if isinstance(tree, dict):
        return {"dict": [[key, _flatten(item, tensors)] for key, item in tree.items()]}
    if isinstance(tree, tuple | list):
        return {type(tree).__name__: [_flatten(item, tensors) for item in tree]}
    return {"value": tree}


def _unflatten(outline: Any, tensors: dict[str, Tensor]) -> Any:
    ((kind, content),) = outline.items()
    build: dict[str, Callable[[], Any]] = {
        "tensor": lambda: tensors[content],
        "dict": lambda: {key: _unflatten(item, tensors) for key, item in content},
        "tuple": lambda: tuple(_unflatten(item, tensors) for item in content),
        "list": lambda: [_unflatten(item, tensors) for item in content],
        "value": lambda: content,
    }
    return build[kind]()
