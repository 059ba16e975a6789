import pytest
import torch
from torch import nn

from hopfield_replay.denoisers import CallableDenoiser
from hopfield_replay.functional.likelihood import log_likelihood
from hopfield_replay.functional.model_energy import timesteps_between
from tests.functional.mixture import Mixture

CENTRES = torch.tensor([[1.0, 0.0], [-1.0, 0.4], [0.2, -1.2]], dtype=torch.float64)
MIXTURE = Mixture(CENTRES, 0.3, torch.tensor([0.5, 0.3, 0.2]))
X = torch.tensor([[1.0, 0.1], [0.0, 0.0], [-1.0, 1.0], [0.3, -1.3], [2.0, 2.0]], dtype=torch.float64)


@pytest.mark.heavy
def test_a_mixture_in_continuous_time():
    grid = torch.logspace(-2, 2, 200, dtype=torch.float64)
    got = log_likelihood(MIXTURE.exploding(), X, grid, 0, probes=None)
    torch.testing.assert_close(got, MIXTURE.log_density(X, 0.01), rtol=4e-3, atol=4e-3)


@pytest.mark.heavy
def test_a_mixture_as_a_ddpm():
    denoiser = MIXTURE.preserving()
    steps = timesteps_between(denoiser, denoiser.snr(999), denoiser.snr(0), 150)
    got = log_likelihood(denoiser, X, steps, 0, probes=None)
    torch.testing.assert_close(got, MIXTURE.log_density(X, denoiser.snr(0) ** -0.5), rtol=1e-2, atol=1e-2)


@pytest.mark.heavy
def test_half_the_spacing_has_a_quarter_of_the_error():
    coarse, fine = (
        log_likelihood(MIXTURE.exploding(), X, torch.logspace(-1, 3, n).double(), 0, probes=None)
        - MIXTURE.log_density(X, 0.1)
        for n in (61, 121)
    )
    assert 2.8 < float(coarse.abs().sum() / fine.abs().sum()) < 5.5


@pytest.mark.heavy
def test_hutchinson_is_right_in_the_mean_and_paired():
    grid = torch.logspace(-1, 2, 12, dtype=torch.float64)
    exact = log_likelihood(MIXTURE.exploding(), X, grid, 0, probes=None)
    copies = log_likelihood(MIXTURE.exploding(), X.repeat(400, 1), grid, 0, probes=2, chunk_size=2000)
    deviation = copies.view(400, 5).std(0) / 20
    assert bool(((copies.view(400, 5).mean(0) - exact).abs() < 4 * deviation + 1e-12).all())
    assert bool((deviation > 0).any())
    one = log_likelihood(MIXTURE.exploding(), X, grid, 7, ids=[3, 1, 4, 5, 9])
    order = torch.tensor([4, 2, 0, 1, 3])
    ids = torch.tensor([3, 1, 4, 5, 9])[order]
    again = log_likelihood(MIXTURE.exploding(), X[order], grid, 7, ids=ids, chunk_size=2)
    torch.testing.assert_close(again, one[order])


def test_in_inference_mode_and_without_touching_the_model():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 2))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = layers

        def forward(self, x, t, condition):
            return self.layers(x) * condition[:, None]

    net = Net().train()
    denoiser = CallableDenoiser(net, torch.linspace(0.99, 0.01, 20), conditional=True)
    scale = torch.rand(5)
    expected = log_likelihood(denoiser, X.float(), range(20), 0, condition=scale)
    with torch.inference_mode():
        got = log_likelihood(denoiser, X.float() + 0, range(20), 0, condition=scale + 0)
    torch.testing.assert_close(got, expected)
    assert net.training
    assert all(weight.grad is None for weight in net.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"timesteps": [0.1]}, "at least two"),
        ({"timesteps": [0.1, 0.1]}, "at least two"),
        ({"timesteps": [0.0, 0.1]}, "positive and finite"),
        ({"probes": 0}, "probes"),
    ],
)
def test_bad_input(change, message):
    given = {"denoiser": MIXTURE.exploding(), "x": X, "timesteps": [0.1, 1.0], "noise_seed": 0, **change}
    with pytest.raises(ValueError, match=message):
        log_likelihood(**given)
