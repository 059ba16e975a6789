"""How data becomes vectors: a tensor, or batches of any kind."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from hopfield_replay.encoders import as_encoder, first_labels, vectors_of
from hopfield_replay.tracker.source import TaskSource
from hopfield_replay.utilities.progress import track

Data = Tensor | Iterable[Any]


def read_vectors(
    data: Data, encoder: Callable[[Any], Tensor] | nn.Module | None, name: str
) -> tuple[Tensor, Tensor | None, int]:
    """Vectors (n, d), labels (n,) or None, and the bytes of a sample.

    Args:
        data: a tensor (n, *shape), or batches.
        encoder: maps a batch to vectors; None: its samples, flattened, by the rules of :class:`Columns`.
        name: of the data, for messages.

    Raises:
        ValueError: no samples.
        TypeError: data that cannot be read.
    """
    encode = as_encoder(encoder)
    batches = [data] if isinstance(data, Tensor) else (batch for _, batch in TaskSource(data).batches())
    vectors, labels, size = [], [], 0
    for batch in track(batches, f"Reading {name}"):
        encoded = vectors_of(encode, batch).cpu()
        vectors.append(encoded)
        labels.append(first_labels(batch, len(encoded)))
        if len(encoded) and not size:
            size = batch[0].nbytes if isinstance(batch, Tensor) else encoded[0].nbytes
    if not vectors or not sum(map(len, vectors)):
        raise ValueError(f"{name} holds no samples.")
    known = [label for label in labels if label is not None]
    return torch.cat(vectors), torch.cat(known) if len(known) == len(labels) else None, size
