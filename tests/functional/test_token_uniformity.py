import numpy as np
import pytest
import torch

from hopfield_replay.functional.token_uniformity import token_cosine, token_residual


def tokens(*shape, offset=0.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)) + offset


@pytest.mark.parametrize("offset", [0.0, 0.5, 1e3])
def test_against_numpy(offset):
    x = tokens(3, 6, 5, offset=offset)
    for sample, cosine, residual in zip(x.double().numpy(), token_cosine(x), token_residual(x), strict=True):
        pairs = [
            sample[i] @ sample[j] / np.linalg.norm(sample[i]) / np.linalg.norm(sample[j])
            for i in range(6)
            for j in range(6)
            if i != j
        ]
        np.testing.assert_allclose(float(cosine), np.mean(pairs), atol=1e-12)
        best = np.linalg.lstsq(np.ones((6, 1)), sample, rcond=None)[0]  # of all x the one with the least |X - 1 x^T|
        np.testing.assert_allclose(
            float(residual), np.linalg.norm(sample - best) / np.linalg.norm(sample), rtol=1e-9, atol=1e-12
        )


def test_limits():
    one = tokens(2, 1, 5)
    same = one.expand(2, 7, 5)
    torch.testing.assert_close(token_cosine(same), torch.ones(2).double())
    assert token_residual(same).max() < 1e-12
    simplex = (torch.eye(4) - 0.25)[None]  # the most that four vectors can turn away from one another
    torch.testing.assert_close(token_cosine(simplex), torch.tensor([-1 / 3]).double())
    torch.testing.assert_close(token_residual(simplex), torch.ones(1).double())
    scales = torch.arange(1.0, 8.0)[:, None]
    torch.testing.assert_close(token_cosine(one * scales), torch.ones(2).double())  # one direction, other lengths
    assert token_residual(one * scales).min() > 0.3


def test_zeros_and_extreme_lengths():
    zeros = torch.zeros(1, 3, 2)
    assert token_cosine(zeros).item() == token_residual(zeros).item() == 0.0
    x = tokens(2, 4, 3)
    for length in (1e-30, 1e30):
        torch.testing.assert_close(token_cosine(x * length), token_cosine(x), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(token_residual(x * length), token_residual(x), rtol=1e-5, atol=1e-5)


def test_half_precision_and_gradients():
    x = tokens(2, 4, 3)
    torch.testing.assert_close(token_cosine(x.bfloat16()), token_cosine(x.bfloat16().double()))
    x = x.double().requires_grad_()
    assert torch.autograd.gradcheck(token_cosine, x)
    assert torch.autograd.gradcheck(token_residual, x)


@pytest.mark.parametrize("measure", [token_cosine, token_residual])
def test_bad_input(measure):
    with pytest.raises(TypeError, match=r"must be a torch.Tensor \(batch, n, d\), got list"):
        measure([[1.0]])
    with pytest.raises(TypeError, match=r"floating tensor, got torch.int64"):
        measure(torch.zeros(1, 2, 3, dtype=torch.int64))
    for shape in ((2, 3), (2, 1, 3), (1, 2, 3, 4)):
        with pytest.raises(ValueError, match=r"shape \(batch, n, d\) with two tokens or more, got"):
            measure(torch.zeros(shape))
