"""What a network is taught, from where the gradient of the loss points."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_ROWS = 64  # samples of a batch that are looked at
_LIKELY = 0.9  # agreement of the right target at least, where a loss has other terms beside it
_TIE = 1e-9  # targets that differ by a factor only, for an answer of zeros


@dataclass(frozen=True)
class Target:
    r"""What a network predicts: :math:`p x_0 + q \epsilon`.

    Attributes:
        name: in the words of diffusers where they have one.
        weights: (a, s, sigma_data) to (p, q).
    """

    name: str
    weights: Callable[[float, float, float], tuple[float, float]]

    def clean(self, answer: Tensor, noisy: Tensor, signal: float, noise: float, sigma_data: float = 1.0) -> Tensor:
        r"""The clean samples that an answer stands for, given :math:`x_t = a x_0 + s \epsilon`.

        Raises:
            ValueError: at these amounts the answer says nothing about the clean samples.
        """
        p, q = self.weights(signal, noise, sigma_data)
        part = p * noise - q * signal
        if abs(part) < 1e-12:
            raise ValueError(
                f"at signal {signal:g} and noise {noise:g} a prediction of {self.name} says nothing about the clean "
                "sample. Use another timestep."
            )
        return (noise * answer - q * noisy) / part


def _preconditioned(signal: float, noise: float, deviation: float) -> tuple[float, float]:
    sigma = noise / signal
    whole = math.hypot(sigma, deviation)
    return sigma / (deviation * whole), -deviation / whole


TARGETS = (
    Target("epsilon", lambda a, s, d: (0.0, 1.0)),
    Target("sample", lambda a, s, d: (1.0, 0.0)),
    Target("v_prediction", lambda a, s, d: (-s, a)),
    Target("flow_prediction", lambda a, s, d: (-1.0, 1.0)),
    Target("flow towards the samples", lambda a, s, d: (1.0, -1.0)),
    Target("score", lambda a, s, d: (0.0, -1.0 / s)),
    Target("preconditioned sample", _preconditioned),
    Target("minus epsilon", lambda a, s, d: (0.0, -1.0)),
)


@dataclass(frozen=True)
class Teaching:
    """What a gradient says.

    Attributes:
        target: the one that it points to; None if none is sure.
        agreement: of each target's name, from 0 to 1: how far the gradient points away from it.
    """

    target: Target | None
    agreement: dict[str, float]

    def said(self) -> str:
        """The two best agreements, in words."""
        best = sorted(self.agreement.items(), key=lambda item: -item[1])[:2]
        return ", ".join(f"{name} {value:.3f}" for name, value in best)


def read_target(
    answer: Tensor,
    gradient: Tensor,
    clean: Tensor,
    noise: Tensor,
    signal: Tensor,
    amount: Tensor,
    sigma_data: float = 1.0,
) -> Teaching:
    """The target that the gradient at a network's answer points to.

    The gradient of a squared error is proportional to answer - target (cosine 1, whatever the weight of a sample); that
    of an absolute, Huber or weighted error has its sign in every element. The better of both counts, as the mean over
    samples; elements without gradient (masks, clamps) do not.

    Args:
        answer: (n, *shape).
        gradient: (n, *shape) of the loss at the answer.
        clean: (n, *shape) in the space of the network.
        noise: (n, *shape).
        signal: (n,) a.
        amount: (n,) s.
        sigma_data: of preconditioning.

    Example:
        >>> clean, noise, answer = torch.randn(3, 4, 16)
        >>> a, s = torch.full((2, 4), 0.5**0.5)
        >>> read_target(answer, (answer - clean).sign(), clean, noise, a, s).target.name
        'sample'
    """
    out, grad, z, e = (
        value[:_ROWS].detach().to("cpu", torch.float64).flatten(1) for value in (answer, gradient, clean, noise)
    )
    if not bool(grad.isfinite().all()) or not bool(grad.abs().sum() > 0):
        return Teaching(None, {})
    pairs = list(zip(signal.tolist(), amount.tolist(), strict=True))[: len(out)]
    agreement: dict[str, float] = {}
    for target in TARGETS:
        try:
            weights = [target.weights(a, s, sigma_data) for a, s in pairs]
        except (ZeroDivisionError, OverflowError):
            continue
        p, q = torch.tensor(weights, dtype=torch.float64).T
        agreement[target.name] = _agreement(grad, out - p[:, None] * z - q[:, None] * e)
    best = max(agreement.values())
    tied = [target for target in TARGETS if agreement.get(target.name, -1.0) > best - _TIE]  # usual ones first
    others = [value for value in agreement.values() if value <= best - _TIE]
    sure = best >= _LIKELY and 1 - best <= (1 - max(others)) / 3
    return Teaching(tied[0] if sure else None, agreement)


def _agreement(grad: Tensor, difference: Tensor) -> float:
    """Mean over samples of the cosine, or of the share of equal signs, whichever is higher."""
    taught = (grad != 0) & (difference.abs() > 1e-4 * difference.abs().mean(1, keepdim=True))
    rows = taught.any(1)
    grad, difference, taught = grad[rows], (difference * taught)[rows], taught[rows]
    cosine = torch.nn.functional.cosine_similarity(grad * taught, difference, dim=1).mean()
    signs = ((grad.sign() == difference.sign()) & taught).sum(1) / taught.sum(1)
    return float(torch.maximum(cosine, 2 * signs.mean() - 1))


__all__ = ["TARGETS", "Target", "Teaching", "read_target"]
