"""Gradients against finite differences of the energy itself and against autograd through a literal log-sum-exp."""

import pytest
import torch

from hopfield_replay.functional import energy, energy_and_retrieval, energy_rise, retrieve
from tests.functional.test_energy import SIMILARITIES, problem


def literal(x, patterns, masses, beta, similarity, exclude, normalize):
    """The definition, (n, N) at once, for autograd."""
    scores = beta * x @ patterns.T
    if similarity == "distance":
        scores = -beta / 2 * (x[:, None] - patterns).square().sum(2)
    weights = masses.expand(len(x), -1)
    if exclude is not None:
        weights = weights * (torch.arange(len(patterns)) != exclude[:, None])
    top = scores.max(1, keepdim=True).values
    logarithm = (weights * (scores - top).exp()).sum(1).log() + top[:, 0]
    if normalize:
        logarithm = logarithm - weights.sum(1).log()
    return (x.square().sum(1) / 2 if similarity == "dot" else 0.0) - logarithm / beta


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("leave_out", [True, False])
def test_gradients_to_queries_patterns_and_masses(similarity, normalize, leave_out):
    x, patterns, masses, own = (torch.from_numpy(a) for a in problem())
    inputs = [t.clone().requires_grad_() for t in (x, patterns, masses)]
    exclude = own if leave_out else None
    upstream = torch.linspace(-1, 2, len(x), dtype=torch.float64)
    result = energy(
        inputs[0],
        inputs[1],
        4.0,
        masses=inputs[2],
        similarity=similarity,
        exclude=exclude,
        normalize=normalize,
    )
    expected = literal(*inputs, 4.0, similarity, exclude, normalize)
    torch.testing.assert_close(result, expected)
    for got, want in zip(
        torch.autograd.grad(result, inputs, upstream), torch.autograd.grad(expected, inputs, upstream), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_gradients_of_the_rise(similarity):
    x, old, _, own = (torch.from_numpy(a) for a in problem())
    new = old.flip(0) + 0.1
    inputs = [t.clone().requires_grad_() for t in (x, old, new)]
    rise = energy_rise(*inputs, 4.0, similarity=similarity, exclude_old=own)
    ones = torch.ones(len(old), dtype=torch.float64)
    expected = literal(inputs[0], inputs[2], ones, 4.0, similarity, None, True) - literal(
        inputs[0], inputs[1], ones, 4.0, similarity, own, True
    )
    for got, want in zip(
        torch.autograd.grad(rise.sum(), inputs), torch.autograd.grad(expected.sum(), inputs), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)


def test_gradients_reach_images_in_their_own_dtype():
    x, patterns = torch.randn(3, 1, 4, 4, requires_grad=True), torch.randn(5, 1, 4, 4, requires_grad=True)
    energy(x, patterns, 0.5).sum().backward()
    assert x.grad.dtype == torch.float32
    assert x.grad.shape == (3, 1, 4, 4)
    assert patterns.grad.shape == (5, 1, 4, 4)


@pytest.mark.parametrize("precision", ["float64", "float32", "fast"])
def test_float32_gradients_are_close(precision):
    x, patterns = torch.randn(300, 20), torch.randn(5000, 20)
    x.requires_grad_()
    energy(x, patterns, 2.0, precision=precision).sum().backward()
    expected = x.detach().double() - retrieve(x.detach().double(), patterns.double(), 2.0)
    torch.testing.assert_close(x.grad.double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_no_mass_left_has_gradient_x_and_no_nan(similarity):
    inputs = [torch.randn(2, 3), torch.randn(4, 3), torch.zeros(4)]
    for tensor in inputs:
        tensor.requires_grad_()
    energy(inputs[0], inputs[1], 1.0, masses=inputs[2], similarity=similarity).sum().backward()
    assert torch.equal(inputs[0].grad, inputs[0].detach())
    assert not inputs[1].grad.any()
    assert not inputs[2].grad.any()


def test_second_derivatives_are_refused():
    x = torch.randn(2, 3, requires_grad=True)
    with pytest.raises(RuntimeError, match="differentiated once"):
        torch.autograd.grad(energy(x, torch.randn(4, 3), 1.0).sum(), x, create_graph=True)


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_one_pass_gives_energy_retrieval_and_gradient(similarity, precision):
    x, patterns, masses, _ = (torch.from_numpy(a) for a in problem())
    options = {"masses": masses, "similarity": similarity}
    found = energy_and_retrieval(x, patterns, 4.0, precision=precision, **options)
    torch.testing.assert_close(found.energy, energy(x, patterns, 4.0, **options), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.retrieval, retrieve(x, patterns, 4.0, **options), rtol=0, atol=1e-6)
    assert torch.equal(found.gradient, x - found.retrieval)
