"""Whether what a network was shown is a mixture of clean samples and noise, and in which amounts."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# by precision the relative residual of a mixture, and the error of its amounts, relative to their sum with a number:
# in half precision 1 - alpha_bar has lost most of its digits before its root is taken
_EXACT = {torch.float16: (1e-2, 1e-2, 1.0), torch.bfloat16: (3e-2, 1.5e-2, 1.0)}
_EXACT_OTHERS = (1e-3, 1e-4, 0.05)
_ROWS = 64  # samples of a batch that are looked at


@dataclass(frozen=True)
class Mixture:
    r"""Amounts of a mixture :math:`x_t = A x_0 + C + S \epsilon`, fitted to each sample.

    Attributes:
        signal: A (n,) float64: the amount of signal, times whatever the samples are scaled by before they are noised.
        offset: C (n,): 0 but where samples are shifted before they are noised.
        noise: S (n,).
        residual: (n,) the part that is neither, relative to x_t.
        usable: (n,) bool: A and S can be told apart.
        tolerance: the residual of an exact mixture is below it.
        closeness: error of the amounts by rounding, relative to their sum with ``floor``.
        floor: see there.
    """

    signal: Tensor
    offset: Tensor
    noise: Tensor
    residual: Tensor
    usable: Tensor
    tolerance: float
    closeness: float = 1e-4
    floor: float = 0.05

    @property
    def exact(self) -> bool:
        """Whether all samples are mixtures of theirs and this noise."""
        return bool(self.usable.any()) and bool((self.residual[self.usable] < self.tolerance).all())


def mixture(shown: Tensor, clean: Tensor, noise: Tensor) -> Mixture:
    """Fit a mixture to each of n samples, by least squares in float64.

    Args:
        shown: (n, *shape) what the network was shown.
        clean: (n, *shape) the clean samples.
        noise: (n, *shape) the noise.

    Example:
        >>> clean, noise = torch.randn(2, 3, 16)
        >>> found = mixture(0.8 * (2 * clean - 1) + 0.6 * noise, clean, noise)
        >>> found.exact, found.signal.round(decimals=4).tolist(), found.offset.round(decimals=4).tolist()
        (True, [1.6, 1.6, 1.6], [-0.8, -0.8, -0.8])
    """
    x, z, e = (value[:_ROWS].detach().to("cpu", torch.float64).flatten(1) for value in (shown, clean, noise))
    columns = [z, e]
    if x.shape[1] > 3:  # fewer numbers than that cannot tell a shift from signal and noise
        columns.append(torch.ones_like(z))
    design = torch.stack(columns, dim=2)
    amounts = torch.linalg.lstsq(design, x[..., None], driver="gelsd").solution[..., 0]
    fitted = (design @ amounts[..., None])[..., 0]
    size = x.norm(dim=1).clamp(min=1e-12)
    usable = torch.linalg.matrix_rank(design, rtol=1e-4) == design.shape[2]
    if len(columns) == 2:
        amounts = torch.cat([amounts, torch.zeros_like(amounts[:, :1])], dim=1)
    limits = max(_EXACT.get(value.dtype, _EXACT_OTHERS) for value in (shown, clean, noise))
    return Mixture(amounts[:, 0], amounts[:, 2], amounts[:, 1], (x - fitted).norm(dim=1) / size, usable, *limits)


@dataclass(frozen=True)
class Verdict:
    """A statistical test of what is left of noisy samples when the signal is taken away.

    Attributes:
        normal: whether it is standard normal noise, uncorrelated with the samples.
        reason: what speaks against it; empty if nothing does.
    """

    normal: bool
    reason: str


def looks_like_noise(residual: Tensor, clean: Tensor, *, sigmas: float = 5.0) -> Verdict:
    r"""Test whether (x_t - a x_0) / s is standard normal and uncorrelated with x_0.

    Mean, variance, the share outside one standard deviation, the correlation with x_0 and that of neighbouring elements
    must lie within ``sigmas`` standard errors, or 0.02, of 0, 1, 0.3173, 0 and 0. (Noise with an offset for each
    channel has a variance of 1.01.)

    Args:
        residual: (n, *shape).
        clean: (n, *shape).
        sigmas: standard errors that chance may do.

    Example:
        >>> clean = torch.rand(8, 64, generator=torch.Generator().manual_seed(0))
        >>> noise = torch.randn(8, 64, generator=torch.Generator().manual_seed(1))
        >>> looks_like_noise(noise, clean).normal, looks_like_noise(noise + 0.5 * clean, clean).reason
        (True, 'its mean is 0.25, not 0')
    """
    r, z = (value.detach().to("cpu", torch.float64).flatten(1) for value in (residual, clean))
    count = r.numel()
    error = 1 / math.sqrt(count)
    z = z - z.mean()
    own = float((r * z).mean() / z.std().clamp(min=1e-12))
    near = float((r[:, 1:] * r[:, :-1]).mean()) if r.shape[1] > 1 else 0.0
    outside = float((r.abs() > 1).double().mean())
    tests = [
        ("mean", float(r.mean()), 0.0, 1.0),
        ("variance", float(r.var()), 1.0, math.sqrt(2)),
        ("share beyond one standard deviation", outside, 0.3173, math.sqrt(0.3173 * 0.6827)),
        ("correlation with the samples", own, 0.0, 1.0),
        ("correlation between neighbours", near, 0.0, 1.0),
    ]
    for name, value, expected, deviation in tests:
        if not abs(value - expected) <= max(sigmas * deviation * error, 0.02):
            return Verdict(False, f"its {name} is {value:.2g}, not {expected:g}")
    return Verdict(True, "")


__all__ = ["Mixture", "Verdict", "looks_like_noise", "mixture"]
