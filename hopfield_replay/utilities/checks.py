"""Checks of arguments shared by the pure functions: what was given, what is expected, what to do."""

import math
import operator
import os
from collections.abc import Iterator
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor

from hopfield_replay.utilities.choices import did_you_mean
from hopfield_replay.utilities.device import where_float64_is

Similarity = Literal["distance", "dot"]


def check_integer(
    value: object,
    name: str,
    least: int,
    most: int | None = None,
    *,
    of: str = "",
    wrong_type: type[Exception] = ValueError,
) -> int:
    """Return a whole number from ``least`` to ``most`` (None: no bound).

    Args:
        value: what was given; True and False are no numbers.
        name: of the argument.
        least: smallest value that is allowed.
        most: largest value that is allowed.
        of: what the largest value is, for the message.
        wrong_type: raised for what is no whole number.

    Raises:
        ValueError: a number out of range.

    Example:
        >>> check_integer(3, "steps", 1)
        3
    """
    if isinstance(value, bool) or not isinstance(value, int):
        least_allowed = "" if wrong_type is TypeError else f" >= {least}"
        raise wrong_type(f"{name} must be a whole number{least_allowed}, got {value!r}.")
    if most is not None and not least <= value <= most:
        raise ValueError(f"{name} must lie between {least} and {of and of + ', '}{most}, got {value}.")
    if value < least:
        raise ValueError(f"{name} must be a whole number >= {least}, got {value}.")
    return value


def check_seed(seed: int) -> int:
    """Return a seed as an int.

    Raises:
        TypeError: no whole number.

    Example:
        >>> check_seed(3)
        3
    """
    try:
        return operator.index(seed)
    except TypeError:
        raise TypeError(f"seed must be a whole number, got {seed!r}.") from None


def check_similarity(similarity: str) -> None:
    """Refuse any similarity but "distance" and "dot"."""
    if similarity not in get_args(Similarity):
        raise ValueError(
            f"similarity must be one of {get_args(Similarity)}, got {similarity!r}."
            f"{did_you_mean(similarity, get_args(Similarity))}"
        )


def check_beta(beta: float) -> float:
    """Return ``beta`` as a float; it must be positive and finite."""
    if isinstance(beta, Tensor):
        if beta.numel() != 1:
            raise ValueError(f"beta must be one number, got a tensor of shape {tuple(beta.shape)}.")
        beta = beta.item()
    if isinstance(beta, bool) or not isinstance(beta, int | float):
        raise TypeError(f"beta (inverse temperature) must be a number, got {type(beta).__name__}.")
    if not (math.isfinite(beta) and beta > 0):
        raise ValueError(f"beta (inverse temperature) must be positive and finite, got {beta}.")
    return float(beta)


def check_ratio(value: object, name: str) -> float:
    """Return a share as a float; it must lie strictly between 0 and 1."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number between 0 and 1, got {value!r}.")
    if not 0.0 < value < 1.0:
        raise ValueError(f"{name} must lie strictly between 0 and 1, got {value}.")
    return float(value)


_ROWS = 4096  # rows looked at together: memory does not grow with the number of samples


def check_finite(x: Tensor, name: str) -> None:
    """Refuse NaN and infinity, and say in which rows they are."""
    chunks = [x[row : row + _ROWS] for row in range(0, len(x), _ROWS)]
    # the sum of finite rows is finite (or overflows, which the second look clears); isfinite() costs ten times as much
    if all(bool(torch.isfinite(chunk.sum())) for chunk in chunks):
        return
    bad = torch.cat([(~torch.isfinite(chunk)).reshape(len(chunk), -1).any(1) for chunk in chunks]).nonzero().flatten()
    if bad.numel():
        raise ValueError(
            f"{name} holds NaN or infinite values in {bad.numel()} of {len(x)} rows "
            f"(first rows: {bad[:5].tolist()}). Remove or repair these samples."
        )


def flatten(x: Tensor, name: str) -> Tensor:
    """Flatten ``(n, *shape)`` to ``(n, d)``; floating and real. From a device without float64 it comes to the CPU."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}.")
    if not x.is_floating_point():
        raise TypeError(f"{name} must be a real floating tensor, got {x.dtype}. Convert it, e.g. with {name}.float().")
    if x.ndim < 2:
        raise ValueError(f"{name} must have shape (n, d) or (n, *shape), got {tuple(x.shape)}.")
    return where_float64_is(x.reshape(len(x), math.prod(x.shape[1:])))


def as_matrix(x: Tensor, name: str) -> Tensor:
    """Flatten ``(n, *shape)`` to ``(n, d)``; floating, real and finite."""
    matrix = flatten(x, name)
    check_finite(matrix, name)
    return matrix


class Shaped(Protocol):
    """Vectors of any kind: their shape, and on which device they are."""

    @property
    def shape(self) -> torch.Size: ...  # noqa: D102
    @property
    def device(self) -> torch.device: ...  # noqa: D102


def check_same_space(queries: Shaped, dimension: int, device: torch.device) -> None:
    """Queries and patterns must have one dimension and live on one device."""
    if queries.shape[1] != dimension:
        raise ValueError(
            "x and patterns must have the same dimension, "
            f"got x with d = {queries.shape[1]} and patterns with d = {dimension}."
        )
    if queries.device != device:
        raise ValueError(f"x is on {queries.device} and patterns on {device}; move them to one device.")


def as_pair(x: Tensor, patterns: Tensor) -> tuple[Tensor, Tensor]:
    """Flatten queries and patterns, and check that they live in one space on one device."""
    queries, stored = flatten(x, "x"), flatten(patterns, "patterns")
    check_same_space(queries, stored.shape[1], stored.device)
    check_finite(queries, "x")
    check_finite(stored, "patterns")
    return queries, stored


def check_masses(masses: Tensor | None, patterns: "Stored", name: str = "masses") -> Tensor | None:
    """Return masses as float64 of shape (N,); non-negative and finite."""
    if masses is None:
        return None
    if not isinstance(masses, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(masses).__name__}.")
    if masses.is_complex() or masses.dtype == torch.bool:
        raise TypeError(f"{name} must be real numbers, got {masses.dtype}.")
    if masses.shape != (len(patterns),):
        raise ValueError(f"{name} must have shape ({len(patterns)},), one for each pattern, got {tuple(masses.shape)}.")
    masses = where_float64_is(masses)
    if masses.device != patterns.device:
        raise ValueError(
            f"{name} is on {masses.device} and the patterns on {patterns.device}; move them to one device."
        )
    masses = masses.to(torch.float64)
    if not bool(torch.isfinite(masses).all()) or bool((masses < 0).any()):
        raise ValueError(
            f"{name} must be finite and not negative, got values from {masses.min().item()} to {masses.max().item()}."
        )
    return masses


class Stored(Protocol):
    """Patterns of any kind: how many there are, and on which device."""

    @property
    def device(self) -> torch.device | None: ...  # noqa: D102
    def __len__(self) -> int: ...


def check_exclude(exclude: Tensor | None, n: int, patterns: Stored) -> Tensor | None:
    """Return the leave-one-out indices as int64 (n,), each in [-1, N)."""
    if exclude is None:
        return None
    if not isinstance(exclude, Tensor):
        raise TypeError(f"exclude must be a LongTensor of shape ({n},), got {type(exclude).__name__}.")
    if exclude.is_floating_point() or exclude.is_complex() or exclude.dtype == torch.bool:
        raise TypeError(f"exclude must hold integer indices, got {exclude.dtype}.")
    if exclude.shape != (n,):
        raise ValueError(f"exclude must have shape ({n},), one index for each query, got {tuple(exclude.shape)}.")
    if n and (int(exclude.min()) < -1 or int(exclude.max()) >= len(patterns)):
        raise ValueError(
            f"exclude must lie in [-1, {len(patterns)}) (-1 excludes nothing), got values from {int(exclude.min())} "
            f"to {int(exclude.max())}."
        )
    return exclude.to(device=patterns.device, dtype=torch.int64)


def check_loader(loader: Any) -> None:
    """Refuse what does not yield batches, or yields them only once."""
    if isinstance(loader, str | os.PathLike):
        raise TypeError(
            f"Expected samples (a tensor, a DataLoader or an iterable of batches), got the path {str(loader)!r}. "
            "Images are read with hopfield_replay.analysis.read_collection, or by the hopfield-replay commands."
        )
    if hasattr(loader, "train_dataloader"):
        raise TypeError(
            f"Expected a DataLoader or an iterable of batches, got {type(loader).__name__}; give one of its loaders, "
            "such as train_dataloader() after setup()."
        )
    if not hasattr(loader, "__iter__"):
        raise TypeError(f"Expected a DataLoader or an iterable of batches, got {type(loader).__name__}.")
    if isinstance(loader, Iterator) and not hasattr(loader, "__len__"):
        raise TypeError(
            f"{type(loader).__name__} can be read only once; give a DataLoader or an object that can be iterated again."
        )
