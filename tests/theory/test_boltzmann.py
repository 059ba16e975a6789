import numpy as np
import pytest
import scipy.stats
import torch

from hopfield_replay.theory import HopfieldBoltzmann


def machine(hidden=4, d=2, beta=3.0, seed=0, batch=()):
    made = HopfieldBoltzmann(hidden, d, beta, batch=batch, scale=0.8, seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        made.log_masses.copy_(torch.randn(made.log_masses.shape, generator=generator, dtype=torch.float64))
        made.offset.copy_(0.3 * torch.randn(made.offset.shape, generator=generator, dtype=torch.float64))
    return made


@pytest.mark.heavy
@pytest.mark.parametrize("beta", [1.0, 3.0, 12.0])
def test_normaliser_against_numerical_integration(beta):
    made = machine(beta=beta)
    axis = np.linspace(-9, 9, 1201)  # the trapezoid rule is exact to rounding for analytic integrands that vanish
    grid = torch.from_numpy(np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2))
    with torch.no_grad():
        density = np.exp(-beta * made.energy(grid).numpy())
        log_z = made.log_partition().item()
    assert log_z == pytest.approx(np.log(density.sum() * (axis[1] - axis[0]) ** 2), abs=1e-10)


def test_energy_by_its_definition():
    made = machine(hidden=3, d=5)
    points = np.random.default_rng(0).normal(size=(6, 5))
    w, c, b = (p.detach().numpy() for p in (made.weight, made.log_masses, made.offset))
    for v, value in zip(points, made.energy(torch.from_numpy(points)).tolist(), strict=True):
        total = sum(np.exp(3.0 * w[m] @ v + c[m]) for m in range(3))
        assert value == pytest.approx((v - b) @ (v - b) / 2 - np.log(total) / 3.0, rel=1e-12)


def test_likelihood_is_that_of_a_gaussian_mixture():
    made = machine(hidden=3, d=4, beta=5.0)
    w, c, b = (p.detach().numpy() for p in (made.weight, made.log_masses, made.offset))
    shares = np.exp(5.0 * ((w**2).sum(1) / 2 + w @ b) + c)
    points = np.random.default_rng(1).normal(size=(7, 4))
    mixture = sum(
        share * scipy.stats.multivariate_normal(b + centre, np.eye(4) / 5.0).pdf(points)
        for share, centre in zip(shares / shares.sum(), w, strict=True)
    )
    found = made.negative_log_likelihood(torch.from_numpy(points)).detach()
    np.testing.assert_allclose(found, -np.log(mixture), rtol=1e-10)


def test_gradient_against_autograd():
    made = machine(hidden=5, d=3, batch=(2,))
    points = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4), requires_grad=True)
    (slope,) = torch.autograd.grad(made.energy(points).sum(), points)
    torch.testing.assert_close(made.gradient(points), slope, rtol=1e-12, atol=1e-12)


def test_gradient_of_the_loss_against_finite_differences():
    made = machine(hidden=2, d=2)
    data = torch.tensor([[0.3, -0.2], [1.0, 0.4]], dtype=torch.float64)
    made.negative_log_likelihood(data).mean().backward()
    for parameter in made.parameters():
        flat, slope = parameter.data.view(-1), parameter.grad.view(-1)
        for i in range(len(flat)):
            ends = []
            for step in (1e-5, -1e-5):
                flat[i] += step
                ends.append(made.negative_log_likelihood(data).mean().item())
                flat[i] -= step
            assert slope[i].item() == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-8)


def test_machines_side_by_side_learn_as_alone():
    data = torch.randn(2, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    masses = torch.tensor([[1.0, 1, 1, 1, 1, 0], [2.0, 1, 1, 1, 1, 1]], dtype=torch.float64)
    together = machine(hidden=3, d=3, batch=(2,))
    alone = []
    for i in range(2):
        single = machine(hidden=3, d=3)
        single.load_state_dict({k: v[i].clone() for k, v in together.state_dict().items()})
        kept = masses[i] > 0
        single.train_on(data[i][kept], masses=masses[i][kept], steps=30)
        alone.append(single.weight.detach())
    together.train_on(data, masses=masses, steps=30)
    torch.testing.assert_close(together.weight.detach(), torch.stack(alone), rtol=1e-8, atol=1e-10)


@pytest.mark.heavy
def test_training_finds_the_mean_of_one_cluster():
    generator = torch.Generator().manual_seed(0)
    data = 0.2 * torch.randn(30, 4, dtype=torch.float64, generator=generator) + 1.0
    made = HopfieldBoltzmann(2, 4, 2.0)
    made.train_on(data, steps=400, lr=0.03)
    points = data.mean(0, keepdim=True)
    assert made.gradient(points).abs().max() < 1e-3  # the centre of the data is a fixed point
    best = scipy.stats.multivariate_normal(data.mean(0), np.eye(4) / 2).logpdf(data).mean()
    assert -made.negative_log_likelihood(data).mean().item() == pytest.approx(best, abs=1e-3)


@pytest.mark.parametrize("arguments", [(0, 2, 1.0), (2, 0, 1.0), (2, 2, 0.0), (2, 2, float("nan"))])
def test_refuses(arguments):
    with pytest.raises(ValueError, match="need hidden >= 1"):
        HopfieldBoltzmann(*arguments)
