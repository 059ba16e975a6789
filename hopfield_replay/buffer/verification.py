"""Verification: whether what a buffer holds fits together."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hopfield_replay.encoders import as_encoder, vectors_of

if TYPE_CHECKING:
    from hopfield_replay.buffer.buffer import EnergyReplayBuffer

_CHUNK = 128


@dataclass(frozen=True)
class VerificationReport:
    """What was found.

    Attributes:
        samples: how many were looked at.
        apart: of how many the vector is not what the encoder makes of the sample; None: the encoder does not read them.
        largest: largest difference of a number in a vector; None likewise.
        shares: sum of the shares of the replay, which is 1.
        problems: what does not fit, in words; empty if all does.
    """

    samples: int
    apart: int | None
    largest: float | None
    shares: float
    problems: tuple[str, ...]


def verify(
    buffer: "EnergyReplayBuffer",
    encoder: Callable[[Any], Tensor] | nn.Module | None = None,
    *,
    tolerance: float = 1e-4,
) -> VerificationReport:
    """Encode all kept samples again and compare, and add up what is drawn.

    Args:
        buffer: the buffer.
        encoder: that its vectors were made with; None: its samples, flattened, by the rules of :class:`Columns`.
        tolerance: of the difference of a number in a vector, in parts of the largest one in all vectors.

    Example:
        >>> from hopfield_replay import EnergyReplayBuffer
        >>> buffer = EnergyReplayBuffer(2)
        >>> buffer.update(torch.eye(4), torch.eye(4), ids=torch.arange(4), task=0)
        >>> verify(buffer).problems
        ()
    """
    if not len(buffer):
        return VerificationReport(0, None, None, 0.0, ())
    problems, apart, largest = [], None, None
    try:
        again = _encoded(buffer, encoder)
    except (ValueError, TypeError) as error:
        problems.append(f"vectors cannot be checked: {error}")
    else:
        if again.shape != buffer.vectors.shape:
            problems.append(
                f"vectors have dimension {buffer.vectors.shape[1]}, the encoder's {again.shape[1]}: another encoder "
                "made them"
            )
        else:
            difference = (again.double() - buffer.vectors.double()).abs().amax(1)
            limit = tolerance * float(buffer.vectors.abs().max().clamp(min=1e-30))
            largest, apart = float(difference.max()), int((difference > limit).sum())
            if apart:
                problems.append(f"{apart} vectors are not what the encoder makes of their samples (by {largest:.3g})")
    shares = float(buffer.draw_shares.sum())
    if not abs(shares - 1.0) < 1e-9:
        problems.append(f"the shares of the replay sum to {shares}")
    if bool(buffer.energies.isnan().any()):
        problems.append("energies are NaN")
    return VerificationReport(len(buffer), apart, largest, shares, tuple(problems))


def _encoded(buffer: "EnergyReplayBuffer", encoder: Callable[[Any], Tensor] | nn.Module | None) -> Tensor:
    encode = as_encoder(encoder)
    parts = torch.arange(len(buffer)).split(_CHUNK)
    return torch.cat([vectors_of(encode, buffer.gather(part)).cpu() for part in parts])
