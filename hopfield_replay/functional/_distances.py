"""Distances between two sets of vectors through one matrix product."""

from torch import Tensor


def half_squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j|^2 / 2 of every pair, (n, m), in the dtype of x; rounding grows with the norms: centre both before."""
    half = x @ y.T
    half.neg_().add_(0.5 * x.square().sum(1, keepdim=True)).add_(0.5 * y.square().sum(1))
    return half.clamp_(min=0.0)
