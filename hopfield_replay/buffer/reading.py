"""Reading: all samples of a loader with their vectors, in one pass."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hopfield_replay.buffer.storage import plain
from hopfield_replay.encoders import as_encoder, first_labels, vectors_of
from hopfield_replay.utilities.checks import check_loader
from hopfield_replay.utilities.nested import Source, gather_from, rows, take
from hopfield_replay.utilities.progress import track


class Read(NamedTuple):
    """What a loader yielded.

    Attributes:
        fetch: returns the samples at positions (m,), as they were read.
        vectors: (n, d) float32.
        labels: (n,) int64; None if not every batch has them.
    """

    fetch: Callable[[Tensor], Any]
    vectors: Tensor
    labels: Tensor | None


def read_all(loader: Iterable[Any], encoder: Callable[[Any], Tensor] | nn.Module | None) -> Read:
    """Read a loader once: whatever its order and its augmentation, a sample and its vector belong together.

    All samples are held until the choice is made.

    Raises:
        ValueError: no samples, an encoder that does not return a vector for each.
        TypeError: what cannot be iterated.
    """
    check_loader(loader)
    encode = as_encoder(encoder)
    vectors: list[Tensor] = []
    labels: list[Tensor | None] = []
    sources: list[Source] = []
    for batch in track(loader, "Reading samples"):
        encoded, count = vectors_of(encode, batch).cpu(), rows(batch)
        if len(encoded) != count:
            raise ValueError(f"encoder must return a vector for each sample, got {len(encoded)} for {count}.")
        vectors.append(encoded)
        labels.append(first_labels(batch, count))
        sources.append((count, partial(take, plain(batch))))
    if not sources:
        raise ValueError("The loader yields no samples.")
    known = [label for label in labels if label is not None]
    return Read(
        partial(gather_from, sources), torch.cat(vectors), torch.cat(known) if len(known) == len(labels) else None
    )
