"""Distances between two sets of features, by torchmetrics."""

import warnings

import torch
from torch import Tensor
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from hopfield_replay.metrics._extractor import PassThrough
from hopfield_replay.utilities.checks import as_matrix


def _moved(real: Tensor, generated: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64, about the mean of the real ones: what torchmetrics sums cancels where the mean is large.

    Raises:
        TypeError, ValueError: no features, NaN (which would end the process in linear algebra), or two widths.
    """
    true, made = as_matrix(real, "real").double(), as_matrix(generated, "generated").double()
    if true.shape[1] != made.shape[1]:
        raise ValueError(f"real features have {true.shape[1]} columns, generated ones {made.shape[1]}.")
    centre = true.mean(0)
    for side, name in ((true, "real"), (made, "generated")):
        if not bool((side - centre).square().sum().isfinite()):
            raise ValueError(f"{name} holds features up to {float(side.abs().max()):.3g}, too large to be squared.")
    return true - centre, made - centre


def frechet_distance(real: Tensor, generated: Tensor) -> Tensor:
    """Frechet distance between the normal distributions of two sets of features.

    Args:
        real: (n, d), n > d.
        generated: (m, d), m > d.

    Returns:
        A float64 scalar, in squared units of the features.

    Raises:
        TypeError: features that are not floating.
        ValueError: no more samples than features on a side: the covariance would be singular; NaN; two widths.

    Example:
        >>> x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
        >>> frechet_distance(x, x + torch.tensor([2.0, 0.0, 0.0])).round(decimals=2)
        tensor(4., dtype=torch.float64)

    Source: Heusel et al., arXiv:1706.08500.
    """
    true, made = _moved(real, generated)
    features = true.shape[1]
    if min(len(real), len(generated)) <= features:
        raise ValueError(
            f"the Frechet distance of {features} features needs more than {features} samples on each side, got "
            f"{len(real)} real and {len(generated)} generated. Use more samples, fewer features or distance='kid'."
        )
    # the caller has gathered already: a second gathering would count every sample once for each rank
    metric = FrechetInceptionDistance(feature=PassThrough(features), sync_on_compute=False).to(true.device)
    metric.update(true, real=True)
    metric.update(made, real=False)
    result: Tensor = metric.compute()
    return result


def kernel_distance(real: Tensor, generated: Tensor) -> Tensor:
    """Squared maximum mean discrepancy with the cubic kernel, unbiased: the mean over 50 seeded subsets of up to 1000.

    Features are standardised by the mean and the deviation of the real ones, for the kernel is not free of scale.

    Args:
        real: (n, d), n >= 2.
        generated: (m, d), m >= 2.

    Returns:
        A float64 scalar; near 0, of either sign, for equal distributions.

    Raises:
        TypeError: features that are not floating.
        ValueError: fewer than two samples on a side; NaN; two widths.

    Example:
        >>> x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
        >>> bool(kernel_distance(x[:50], x[50:] + 2) > 10 * kernel_distance(x[:50], x[50:]).abs())
        True

    Source: Binkowski et al., arXiv:1801.01401.
    """
    count = min(len(real), len(generated))
    if count < 2:
        raise ValueError(f"the kernel distance needs two samples on each side, got {len(real)} and {len(generated)}.")
    true, made = _moved(real, generated)
    deviation = true.std(0)
    deviation = torch.where(deviation > 0, deviation, 1.0)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", message=".*will save all extracted features")  # they live for this call only
        torch.manual_seed(0)  # torchmetrics draws the subsets from the global generator
        metric = KernelInceptionDistance(
            PassThrough(true.shape[1]), subsets=50, subset_size=min(count, 1000), sync_on_compute=False
        )
        metric.update(true / deviation, real=True)
        metric.update(made / deviation, real=False)
        result: Tensor = metric.compute()[0]
    return result


__all__ = ["frechet_distance", "kernel_distance"]
