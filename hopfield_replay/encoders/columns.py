"""Columns: which part of a batch is the sample, which the label and which the condition."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor

from hopfield_replay.utilities.nested import as_mapping, is_record, without_subclass

Column = str | int | Callable[[Any], Any]

_LABELS = ("label", "labels", "y", "target", "class", "class_label", "cls")
_SAMPLES = (
    *("sample", "samples", "image", "images", "img", "imgs", "pixel_values", "pixels", "latent", "latents"),
    *("x", "x0", "data", "input", "inputs", "video", "videos", "audio", "waveform", "signal"),
)
_RIVALS = ("target", "targets", "y", "gt", "hr", "output", "outputs", "clean", "high_res", "ground_truth")
# words in the name of what is never the sample
_OTHERS = {
    *("mask", "masks", "index", "idx", "id", "ids", "rate", "weight", "weights", "time", "timestep", "timesteps"),
    *("noise", "label", "labels", "class", "cls", "prompt", "text", "caption", "cond", "condition", "context"),
    *("embed", "embeds", "embedding", "embeddings"),
}


@dataclass(frozen=True)
class _Leaf:
    path: str
    name: str | None  # in lower case; None in a list or tuple
    value: Any

    @property
    def elements(self) -> int:
        """Numbers in a sample."""
        return int(torch.Size(self.value.shape[1:]).numel())


@dataclass(frozen=True)
class Columns:
    """Where in a batch the samples, the labels and the condition are; by rules where it is not said.

    * Samples: the one floating tensor (n, *shape) that they can be. A scalar for each sample, or a mask, an index, a
      rate by its name, is none; of several the one that has a name of samples (image, pixel_values, latents, x, ...),
      or the only one in the shape of images.
    * Labels: integers (n,) that are called label, labels, y, target, class, class_label or cls, or the second of a
      pair; nothing else.
    * Condition: the batch without the samples; all of it where the samples were computed from it by a function.

    What these rules cannot tell is refused.

    Args:
        samples: what the model denoises: a name, an index, or a function of the batch as the model gets it.
        labels: as ``samples``, of the batch as the loader yields it; False (or a function that returns None): there are
            none.
        condition: as ``samples``; False: there is none.

    Raises:
        TypeError: neither a name, nor an index, nor a function.

    Example:
        >>> columns = Columns()
        >>> images, labels = torch.zeros(2, 1, 4, 4), torch.tensor([3, 7])
        >>> columns.split((images, labels))[1], columns.labels_of((images, labels), 2)
        ([tensor([3, 7])], tensor([3, 7]))
        >>> columns.describe((images, labels))
        'samples: batch[0], 1x4x4; labels: batch[1]; condition: batch[1]'
        >>> low, high = torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 4, 4)
        >>> Columns(samples=1).split((low, high))[1][0].shape  # the condition is what is left
        torch.Size([2, 1, 2, 2])
        >>> columns.split((low, high))
        Traceback (most recent call last):
        ValueError: the samples could be any of batch[0] (1x2x2), batch[1] (1x4x4)...
    """

    samples: Column | None = None
    labels: Column | Literal[False] | None = None
    condition: Column | Literal[False] | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None or (value is False and field.name != "samples"):
                continue
            if isinstance(value, bool) or not (isinstance(value, str | int) or callable(value)):
                raise TypeError(
                    f"{field.name} must be a name, an index or a function of the batch, got {type(value).__name__}."
                )

    def samples_of(self, batch: Any) -> Tensor:
        """The samples (n, *shape), floating.

        Raises:
            ValueError: there are none, or several things that they could be; a name or an index that is not there.
            TypeError: what was asked for is no floating tensor with a row for each sample.
        """
        return without_subclass(self._samples(batch))

    def inputs_of(self, batch: Any) -> Tensor:
        """The samples as they stand in the batch, for an encoder: what a function computes of them is passed over."""
        return (Columns() if callable(self.samples) else self).samples_of(batch)

    def split(self, batch: Any) -> tuple[Tensor, Any]:
        """The samples, and the condition: None if nothing is left.

        Raises:
            ValueError, TypeError: as :meth:`samples_of`; a condition of another length.
        """
        samples = self._samples(batch)
        return without_subclass(samples), self._condition(batch, samples)

    def labels_of(self, batch: Any, count: int) -> Tensor | None:
        """The labels (count,), int64 on the CPU; None if there are none.

        Args:
            batch: as the loader yields it.
            count: number of samples.

        Raises:
            ValueError: several columns that differ; labels that are no whole numbers, or beyond int64; another length.
            TypeError: what was asked for is no tensor.
        """
        leaf = self._labels(batch, count)
        return None if leaf is None else _whole(leaf, count)

    def describe(self, batch: Any, extent: str = "") -> str:
        """What is taken of batches like this one, in a line.

        Args:
            batch: as the model gets it.
            extent: what to say after the shape of the samples.
        """
        samples = self._samples(batch)
        shape = "x".join(map(str, samples.shape[1:]))
        labels = self._labels(batch, len(samples))
        condition = self._condition(batch, samples)
        return (
            f"samples: {_where(self.samples, samples, batch)}, {shape}{extent}; "
            f"labels: {'none' if labels is None else _where(self.labels, labels.value, batch)}; "
            f"condition: {_what(self.condition, condition, batch)}"
        )

    def _samples(self, batch: Any) -> Tensor:
        if self.samples is None:
            return _by_rule(batch)
        with torch.no_grad():
            value = _pick(batch, self.samples, "samples")
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.ndim < 2:
            what = f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(
                f"samples={_shown(self.samples)} must be a floating tensor (n, *shape), got {what}. Convert it in the "
                "data set's transform, or pass a function of the batch that does."
            )
        return value

    def _condition(self, batch: Any, samples: Tensor) -> Any:
        if self.condition is False:
            return None
        if self.condition is None:
            return _without(batch, samples)
        condition = _pick(batch, self.condition, "condition")
        for leaf in _leaves(condition, "condition"):
            if isinstance(leaf.value, Tensor) and leaf.value.ndim and len(leaf.value) != len(samples):
                raise ValueError(
                    f"condition={_shown(self.condition)} has {len(leaf.value)} rows for {len(samples)} samples "
                    f"({leaf.path}); it needs one for each (expand what all samples share)."
                )
        return condition

    def _labels(self, batch: Any, count: int) -> _Leaf | None:
        if self.labels is False:
            return None
        if self.labels is not None:
            labels = _pick(batch, self.labels, "labels")
            if labels is None and callable(self.labels):
                return None
            if not isinstance(labels, Tensor):
                raise TypeError(f"labels={_shown(self.labels)} must be a tensor (n,), got {type(labels).__name__}.")
            return _Leaf(f"labels={_shown(self.labels)}", None, labels)
        named = [leaf for leaf in _leaves(batch) if leaf.name in _LABELS and _is_label(leaf.value, count)]
        if type(batch) in (tuple, list) and len(batch) == 2 and _is_label(batch[1], count):
            named.append(_Leaf("batch[1]", None, batch[1]))
        for leaf in named[1:]:
            if not torch.equal(leaf.value.reshape(-1), named[0].value.reshape(-1)):
                raise ValueError(
                    f"the labels could be {named[0].path} or {leaf.path}. Say which: labels=name, or labels=False."
                )
        return named[0] if named else None


def _by_rule(batch: Any) -> Tensor:
    """The one tensor of a batch that the samples can be."""
    leaves = [leaf for leaf in _leaves(batch) if isinstance(leaf.value, Tensor)]
    floating = [leaf for leaf in leaves if leaf.value.is_floating_point() and leaf.value.ndim > 1]
    whole = [leaf for leaf in leaves if _is_picture_of_integers(leaf)]
    left = [leaf for leaf in floating if leaf.name is None or not _OTHERS & set(re.split(r"[\W_]+", leaf.name))]
    if not left:
        held = floating or whole
        hint = f" ({', '.join(f'{leaf.path}: {leaf.value.dtype} {_size(leaf)}' for leaf in held)})" if held else ""
        raise ValueError(
            f"the batch ({type(batch).__name__}) holds no floating tensor of samples (n, *shape){hint}. Convert images "
            "to floats in the dataset's transform, say where the samples are (samples=), or pass an encoder that reads "
            "such batches."
        )
    several = [leaf for leaf in left if leaf.elements > 1] or left[:1]
    if len(several) == 1:
        unlike = [leaf for leaf in whole if leaf.elements > several[0].elements]
        if not unlike or several[0].value.ndim > 3:
            only: Tensor = several[0].value
            return only
        several = [*several, *unlike]
    else:
        called = [leaf for leaf in several if leaf.name in _SAMPLES]
        pictures = [leaf for leaf in several if leaf.value.ndim > 3]
        best = called if len(called) == 1 and not any(leaf.name in _RIVALS for leaf in several) else pictures
        if len(best) == 1:
            picked: Tensor = best[0].value
            return picked
    choices = ", ".join(f"{leaf.path} ({_size(leaf)})" for leaf in several)
    raise ValueError(
        f'the samples could be any of {choices}. Say which: samples=0, samples="name" or samples=function of the batch.'
    )


def _is_picture_of_integers(leaf: _Leaf) -> bool:
    value = leaf.value
    return not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool) and value.ndim > 2


def _size(leaf: _Leaf) -> str:
    return "x".join(map(str, leaf.value.shape[1:])) or "one number"


def _is_label(value: Any, count: int) -> bool:
    if not isinstance(value, Tensor) or value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        return False
    return tuple(value.shape) in ((count,), (count, 1))


def _whole(leaf: _Leaf, count: int) -> Tensor:
    values = without_subclass(leaf.value.detach()).cpu()
    if tuple(values.shape) not in ((count,), (count, 1)):
        raise ValueError(f"{leaf.path} has shape {tuple(values.shape)} for {count} samples; labels must be (n,).")
    values = values.reshape(-1)
    if values.is_complex() or (
        values.is_floating_point() and not bool(((values == values.round()) & (values.abs() < 2**53)).all())
    ):
        raise ValueError(f"{leaf.path} holds values that are no whole numbers; labels must be integers (n,).")
    labels: Tensor = values.to(torch.int64)
    if values.dtype == torch.uint64 and bool((labels < 0).any()):
        raise ValueError(f"{leaf.path} holds labels beyond int64; number the classes from 0.")
    return labels


def _leaves(tree: Any, path: str = "batch", name: str | None = None) -> Iterator[_Leaf]:
    """What a batch is made of, each with its path."""
    if isinstance(tree, Mapping):
        for key, item in tree.items():
            yield from _leaves(item, f"{path}[{key!r}]", str(key).lower())
    elif (named := _named(tree)) is not None:
        for key, item in named.items():
            yield from _leaves(item, f"{path}.{key}", key.lower())
    elif isinstance(tree, list | tuple) and any(isinstance(item, Tensor | Mapping | list | tuple) for item in tree):
        for index, item in enumerate(tree):
            yield from _leaves(item, f"{path}[{index}]", name)
    else:
        yield _Leaf(path, name, tree)


def _named(tree: Any) -> dict[str, Any] | None:
    """The parts of a named tuple or a dataclass by name; None of anything else."""
    if is_record(tree):
        return as_mapping(tree)
    return dict(tree._asdict()) if isinstance(tree, tuple) and hasattr(tree, "_asdict") else None


def _pick(batch: Any, column: Column, what: str) -> Any:
    if callable(column):
        return column(batch)
    if isinstance(column, str):
        named = batch if isinstance(batch, Mapping) else _named(batch) or {}
        if column in named:
            return named[column]
    elif isinstance(batch, list | tuple) and -len(batch) <= column < len(batch):
        return batch[column]
    held = ", ".join(leaf.path for leaf in _leaves(batch))
    raise ValueError(f"{what}={column!r} is not in the batch, a {type(batch).__name__} that holds {held}.")


def _without(tree: Any, part: Any) -> Any:
    """A nesting without one of its leaves, found by identity; None if nothing is left."""
    if tree is part:
        return None
    tree = tree if (named := _named(tree)) is None else named
    if isinstance(tree, Mapping):
        left = {key: _without(item, part) for key, item in tree.items()}
        return {key: item for key, item in left.items() if item is not None or tree[key] is None} or None
    if isinstance(tree, list | tuple):
        kept = [_without(item, part) for item in tree]
        same = len(kept) == len(tree) and all(a is b for a, b in zip(kept, tree, strict=True))
        return tree if same else [a for a, b in zip(kept, tree, strict=True) if a is not None or b is None] or None
    return tree


def _shown(column: Any) -> str:
    if callable(column):
        return getattr(column, "__qualname__", type(column).__name__)
    return repr(column)


def _where(column: Any, value: Any, batch: Any) -> str:
    path = next((leaf.path for leaf in _leaves(batch) if leaf.value is value), None)
    return path or (_shown(column) if column is not None else "batch")


def _what(column: Any, condition: Any, batch: Any) -> str:
    if condition is None:
        return "none"
    if callable(column):
        return _shown(column)
    inside = [leaf for leaf in _leaves(batch) if any(leaf.value is left.value for left in _leaves(condition))]
    return ", ".join(leaf.path for leaf in inside[:6]) + (", ..." if len(inside) > 6 else "") if inside else "none"


def split_batch(batch: Any) -> tuple[Tensor, Any]:
    """Part a batch into its samples and its condition, by the rules of :class:`Columns`.

    Args:
        batch: a tensor, or any nesting of tuples, lists, mappings, named tuples and dataclasses.

    Returns:
        The samples (n, *shape), and the batch without them: None if nothing is left.

    Raises:
        ValueError: the batch holds no floating tensor of samples, or several that they could be.

    Example:
        >>> split_batch((torch.zeros(2, 3), torch.tensor([4, 5])))
        (tensor([[0., 0., 0.],
                [0., 0., 0.]]), [tensor([4, 5])])
    """
    return Columns().split(batch)


def first_labels(batch: Any, n: int) -> Tensor | None:
    """The labels (n,) of a batch by the rules of :class:`Columns`, int64 on the CPU, or None.

    Args:
        batch: as the loader yields it.
        n: number of samples.

    Example:
        >>> first_labels((torch.zeros(2, 3), torch.tensor([4, 5])), 2)
        tensor([4, 5])
        >>> first_labels({"x": torch.zeros(2, 3), "sample_rate": torch.tensor([44100, 44100])}, 2) is None
        True
    """
    return Columns().labels_of(batch, n)


__all__ = ["Column", "Columns", "first_labels", "split_batch"]
