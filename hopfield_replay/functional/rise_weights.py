"""How much the protection of each old sample counts: by the rise of its energy that the next task will cause."""

import math

import torch
from torch import Tensor

from hopfield_replay.utilities.checks import check_masses


def predicted_rises(own: Tensor, after: Tensor) -> Tensor:
    r"""Rise of the energy of each old sample under the next task, as a weight: finite and not negative.

    .. math:: \Delta E_k = \max(0,\; E(x_k \mid \text{next}) - E(x_k \mid \text{own} \setminus x_k))

    A sample that nothing of the next task is near (+inf) counts as the largest finite rise. Of one without another
    sample of its own task near it, such as the only one of a task, nothing is known: it counts as their mean.

    Args:
        own: (n,) leave-one-out energy of each sample under its own task.
        after: (n,) its energy under the next task's data.

    Returns:
        (n,) float64.

    Raises:
        ValueError: shapes that differ, NaN, energies of minus infinity.

    Example:
        >>> import torch
        >>> predicted_rises(torch.tensor([1.0, 2.0, 0.0, torch.inf]), torch.tensor([4.0, 1.0, torch.inf, 5.0]))
        tensor([3., 0., 3., 2.], dtype=torch.float64)

    Source: this library's own.
    """
    if own.ndim != 1 or own.shape != after.shape:
        raise ValueError(f"own and after must be (n,), one energy for each sample, got {_shapes(own, after)}.")
    own, after = own.to(torch.float64), after.to(torch.float64)
    for name, energies in (("own", own), ("after", after)):
        bad = (energies.isnan() | (energies == -math.inf)).nonzero().flatten()
        if len(bad):
            raise ValueError(f"{name} holds NaN or minus infinity for samples {bad[:5].tolist()}.")
    alone = own.isinf()
    rises = (after - own.masked_fill(alone, 0.0)).clamp(min=0.0)
    finite = rises[~alone & rises.isfinite()]
    largest = float(finite.max()) if len(finite) else 0.0
    rises = rises.clamp(max=largest if largest > 0.0 else 1.0)  # all that rise are infinite: they are alike
    known = rises[~alone]
    return rises.masked_fill(alone, float(known.mean()) if len(known) else 0.0)


def rise_weights(
    rises: Tensor,
    *,
    masses: Tensor | None = None,
    groups: Tensor | None = None,
    temper: float = 1.0,
    floor: float = 1.0,
) -> Tensor:
    r"""How much each sample counts, of mean 1 in its group: a floor, and more the more it is going to lose.

    .. math:: u_k = \frac{f + \Delta E_k^p / \overline{\Delta E^p}}{f + 1}

    with the mean over the samples of the group of k, by their masses. A group none of which rises counts evenly.

    **Why.** Let each old sample rise by :math:`\Delta E_k` without replay, and let a replay protect :math:`g_k` of it.
    The mean rise that is left falls by the mean of :math:`g_k`, whoever is protected; the mean square of what is left
    falls, to first order, by twice the mean of :math:`\Delta E_k\, g_k`. The risk that counts both,

    .. math:: \overline{\Delta E - g} + \overline{(\Delta E - g)^2} \big/ 2 \overline{\Delta E},

    falls by the mean of :math:`(1 + \Delta E_k / \overline{\Delta E})\, g_k`: the weights above with p = 1 and f = 1;
    with f = 0 the square alone, with p = 0 the mean alone.

    **The draws that follow.** A batch of which a fixed share is drawn from the kept samples with chances q_r protects
    :math:`g_k(q) = \frac1\beta \log(1 + \sum_r q_r a_{kr})` of sample k (see :func:`replay_gain`), which is concave in
    q. Where the mean of :math:`u_k g_k` is stationary under :math:`\sum_r q_r = 1`,

    .. math:: q_r \propto \sum_k u_k \frac{q_r a_{kr}}{1 + \sum_s q_s a_{ks}},

    the part of all protection that r gives. Where replay outweighs the next task near the old samples, and the kept
    sample nearest to each gives all of its protection, that is the sum of the u_k for which r stands: its mass times
    the mean of their u_k. So one rule says both which samples to keep and how often to draw them.

    Args:
        rises: (n,) rise of each sample, finite and >= 0, see :func:`predicted_rises`.
        masses: (n,) how many samples each stands for, finite and >= 0; ones if None.
        groups: (n,) integers: each group has a mean of its own, so that all of them keep their shares; None: one group.
        temper: exponent p >= 0 of the rises.
        floor: f >= 0, what a sample counts that does not rise at all, in parts of the mean of those that do.

    Returns:
        (n,) float64, >= 0, of mean 1 by mass in each group.

    Raises:
        ValueError: rises or masses that are negative, NaN or infinite, shapes that differ, an exponent or a floor below
            0 or not finite.

    Example:
        >>> import torch
        >>> rise_weights(torch.tensor([0.0, 1.0, 2.0])), rise_weights(torch.tensor([0.0, 1.0, 2.0]), floor=0.0)
        (tensor([0.5000, 1.0000, 1.5000], dtype=torch.float64), tensor([0., 1., 2.], dtype=torch.float64))

    Source: this library's own.
    """
    for name, number in (("temper", temper), ("floor", floor)):
        check_share_of_mean(number, name)
    if rises.ndim != 1:
        raise ValueError(f"rises must be (n,), one for each sample, got {tuple(rises.shape)}.")
    rises = rises.to(torch.float64)
    bad = (~(rises.isfinite() & (rises >= 0))).nonzero().flatten()
    if len(bad):
        raise ValueError(
            f"rises must be finite and not negative, got {rises[bad[:5]].tolist()} for samples {bad[:5].tolist()}; "
            "predicted_rises() makes such of energies."
        )
    n = len(rises)
    counts = check_masses(masses, rises[:, None], "masses")
    if counts is None:
        counts = torch.ones_like(rises)
    if groups is not None and groups.shape != (n,):
        raise ValueError(f"groups must be ({n},), one integer for each sample, got {tuple(groups.shape)}.")
    index = torch.zeros_like(rises, dtype=torch.int64) if groups is None else groups.unique(return_inverse=True)[1]
    weights = torch.ones_like(rises)
    for number in range(int(index.max()) + 1 if n else 0):
        members = (index == number).nonzero().flatten()
        top = float(rises[members].max())
        if top == 0.0:
            continue
        powers = (rises[members] / top) ** temper  # of the largest: no overflow
        mean = float(powers @ counts[members]) / max(float(counts[members].sum()), _TINY)
        if mean > 0.0:  # what rises stands for nobody
            weights[members] = (floor + powers / mean) / (floor + 1.0)
    return weights


def check_share_of_mean(number: float, name: str) -> float:
    """Return an exponent or a floor of :func:`rise_weights`: finite and >= 0.

    Raises:
        ValueError: another number.
        TypeError: no number.
    """
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise TypeError(f"{name} must be a number, got {type(number).__name__}.")
    if not 0.0 <= number < math.inf:
        raise ValueError(f"{name} must be finite and not negative, got {number!r}.")
    return float(number)


_TINY = torch.finfo(torch.float64).tiny


def _shapes(*tensors: Tensor) -> str:
    return " and ".join(str(tuple(tensor.shape)) for tensor in tensors)


__all__ = ["check_share_of_mean", "predicted_rises", "rise_weights"]
