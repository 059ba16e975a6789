"""How data becomes vectors: a tensor, or batches of any kind."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from hopfield_replay.encoders import Encoder, as_encoder, first_labels, pixels, split_batch, vectors_of
from hopfield_replay.functional.rows import Matrix, placed
from hopfield_replay.tracker.source import TaskSource
from hopfield_replay.utilities.checks import check_finite
from hopfield_replay.utilities.device import device_of, float64_device
from hopfield_replay.utilities.progress import track

Data = Tensor | Iterable[Any]


_Result = TypeVar("_Result")


@dataclass(frozen=True, eq=False)
class Vectors:
    """Data as vectors.

    Attributes:
        rows: (n, d) float32, on the CPU.
        labels: (n,) int64; None if not every batch has them.
        sample_bytes: of one sample, as it was given in a tensor, else of its vector.
        device: where the encoder computes; without an encoder of its own where the data lies.
        form: shape of a sample that is its own vector, flattened; None: an encoder made it.
    """

    rows: Tensor
    labels: Tensor | None
    sample_bytes: int
    device: torch.device
    form: tuple[int, ...] | None = None


def read_vectors(data: Data, encoder: Callable[[Any], Tensor] | nn.Module | None, name: str) -> Vectors:
    """Read data of any kind.

    Args:
        data: a tensor (n, *shape), or batches.
        encoder: maps a batch to vectors; None: its samples, flattened, by the rules of :class:`Columns`.
        name: of the data, for messages.

    Raises:
        ValueError: no samples, NaN or infinite ones.
        TypeError: data that cannot be read.
    """
    encode = as_encoder(encoder)
    batches = [data] if isinstance(data, Tensor) else (batch for _, batch in TaskSource(data).batches())
    vectors, labels, size, place, form = [], [], 0, device_of(encoder), None
    for batch in track(batches, f"Reading {name}"):
        encoded = vectors_of(encode, batch)
        place = encoded.device if place is None else place
        vectors.append(encoded.cpu())
        labels.append(first_labels(batch, len(encoded)))
        if len(encoded) and not size:
            size = batch[0].nbytes if isinstance(batch, Tensor) else encoded[0].nbytes
            form = form_of(batch, encode)
    if not vectors or not sum(map(len, vectors)):
        raise ValueError(f"{name} holds no samples.")
    assert place is not None  # of the first batch
    known = [label for label in labels if label is not None]
    rows = torch.cat(vectors)
    check_finite(rows, name)
    return Vectors(rows, torch.cat(known) if len(known) == len(labels) else None, size, place, form)


def form_of(batch: Any, encode: Encoder) -> tuple[int, ...] | None:
    """Shape of the samples in a batch that are their own vectors, flattened; None: an encoder makes them."""
    return tuple(split_batch(batch)[0].shape[1:]) if encode is pixels else None


def check_forms(first: tuple[int, ...] | None, second: tuple[int, ...] | None, names: str) -> None:
    """Refuse samples whose numbers stand in different orders, such as images with their channels first and last.

    Args:
        first: form of some samples, see :class:`Vectors`.
        second: of others, of as many numbers.
        names: what to call both.

    Raises:
        ValueError: they have several dimensions each, and not the same ones.

    Example:
        >>> check_forms((1, 8, 8), (8, 8), "old and new")
        >>> check_forms((3, 8, 8), (8, 8, 3), "old and new")
        Traceback (most recent call last):
        ValueError: old and new samples have the shapes (3, 8, 8) and (8, 8, 3)...
    """
    if first is None or second is None:
        return
    sides = [tuple(side for side in form if side != 1) for form in (first, second)]
    if sides[0] != sides[1] and min(map(len, sides)) > 1:
        raise ValueError(
            f"{names} samples have the shapes {first} and {second}: number by number they cannot be compared. Give "
            "all in one, images as (channels, height, width)."
        )


class Compared:
    """Vectors where they are compared: on a device, in as large parts as it has room for, or else on the CPU.

    Args:
        rows: (n, d) on the CPU.
        device: where; the CPU in place of a device without float64.

    Example:
        >>> compared = Compared(torch.ones(3, 2), torch.device("cpu"))
        >>> compared.device, compared.worked_out(len)
        (device(type='cpu'), 3)
    """

    def __init__(self, rows: Tensor, device: torch.device) -> None:
        self.rows, self.device = rows, float64_device(device)
        self.near: Matrix = placed(rows, self.device)

    def worked_out(self, measure: Callable[[Matrix], _Result]) -> _Result:
        """What is measured of all vectors together; on the CPU where the device has no room for that."""
        try:
            return measure(self.near)
        except torch.OutOfMemoryError:
            pass  # past the handler, so that the traceback no longer holds what is in the way
        return measure(self.rows)
