"""What a network is taught, from where the gradient of the loss points."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_ROWS = 64  # samples of a batch that are looked at
_ELEMENTS = 65536  # and numbers of each, drawn at random where there are more
_LIKELY = 0.9  # agreement of the right target at least, where a loss has other terms beside it
_SQUARED = 0.999  # a cosine above it is that of a squared error
_COUNTED = 0.01  # share of the elements that a loss may leave out


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
        agreement: of each target's name, from -1 to 1: how far the gradient points away from it.
        squared: whether the loss is a squared error, as far as that can be seen, so that these are cosines.
        left_out: share of the elements of samples, from 0 to 1, that the loss does not count (masks, padding, clamps).
    """

    target: Target | None
    agreement: dict[str, float]
    squared: bool = True
    left_out: float = 0.0

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
    of an absolute, Huber or weighted error has its sign in every element. What is better told by one of them counts,
    as the mean over samples; elements without gradient (masks, clamps) do not. Two targets that are told equally well
    and differ in more than a factor are none.

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
    out, grad, z, e = (_looked_at(value) for value in (answer, gradient, clean, noise))
    if not bool(grad.isfinite().all()) or not bool(grad.abs().sum() > 0):
        return Teaching(None, {})
    pairs = list(zip(signal.tolist(), amount.tolist(), strict=True))[: len(out)]
    differences: dict[str, Tensor] = {}
    for target in TARGETS:
        try:
            weights = [target.weights(a, s, sigma_data) for a, s in pairs]
        except (ZeroDivisionError, OverflowError):
            continue
        p, q = torch.tensor(weights, dtype=torch.float64).T
        differences[target.name] = out - p[:, None] * z - q[:, None] * e
    cosines, signs = ({name: tell(grad, d) for name, d in differences.items()} for tell in (_cosine, _signs))
    agreement = cosines if max(cosines.values()) > min(max(signs.values()), _SQUARED) else signs
    best = max(agreement, key=lambda name: agreement[name])
    rivals = [name for name in differences if name != best and not _parallel(differences[name], differences[best])]
    second = max((agreement[name] for name in rivals), default=-1.0)
    sure = agreement[best] >= _LIKELY and 1 - agreement[best] <= (1 - second) / 3 and agreement[best] > second
    if not sure:
        return Teaching(None, agreement, agreement is cosines)
    alike = [target for target in TARGETS if target.name in differences and target.name not in rivals]
    usual = alike[0]  # of targets that differ by a factor
    return Teaching(usual, agreement, agreement is cosines, _left_out(grad, differences[best]))


def _looked_at(values: Tensor) -> Tensor:
    rows = values[:_ROWS].detach().flatten(1)
    if rows.shape[1] > _ELEMENTS:
        order = torch.randperm(rows.shape[1], generator=torch.Generator().manual_seed(0))
        rows = rows[:, order[:_ELEMENTS].to(rows.device)]
    return rows.to("cpu", torch.float64)


def _taught(grad: Tensor, difference: Tensor) -> Tensor:
    """Which elements say something: those with a gradient, and a difference that rounding does not drown."""
    return (grad != 0) & (difference.abs() > 1e-4 * difference.abs().mean(1, keepdim=True))


def _left_out(grad: Tensor, difference: Tensor) -> float:
    """Share of elements without gradient; 0 unless some of them differ more than others with one (half precision)."""
    rows = grad.any(1)  # a sample whose whole weight is 0 says nothing
    grad, size = grad[rows], difference[rows].abs()
    least = size.masked_fill(grad == 0, math.nan).nanquantile(0.05, dim=1, keepdim=True)
    without = grad == 0
    evident = float((without & (size > least)).double().mean()) > _COUNTED
    return float(without.double().mean()) if evident else 0.0


def _cosine(grad: Tensor, difference: Tensor) -> float:
    taught = _taught(grad, difference)
    rows = taught.any(1)
    grad, difference = (grad * taught)[rows], (difference * taught)[rows]
    return float(torch.nn.functional.cosine_similarity(grad, difference, dim=1).mean())


def _signs(grad: Tensor, difference: Tensor) -> float:
    """2 (share of equal signs) - 1: 0 by chance."""
    taught = _taught(grad, difference)
    rows = taught.any(1)
    equal = ((grad.sign() == difference.sign()) & taught)[rows].sum(1) / taught[rows].sum(1)
    return float(2 * equal.mean() - 1)


def _parallel(first: Tensor, second: Tensor) -> bool:
    """Whether two differences are the same but for a factor of each sample: of an answer that is 0."""
    return float(torch.nn.functional.cosine_similarity(first, second, dim=1).min()) > 1 - 1e-9


__all__ = ["TARGETS", "Target", "Teaching", "read_target"]
