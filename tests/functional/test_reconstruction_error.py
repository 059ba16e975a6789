import math

import pytest
import torch
from torch import Tensor, nn

from hopfield_replay.functional.denoiser import Denoiser, evaluating
from hopfield_replay.functional.diffusion import reconstruction_error


class Recorder:
    """A denoiser at a_t = s_t that answers 0, and keeps the noisy samples it was shown."""

    num_timesteps = 1000

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def noise(self, clean: Tensor, timestep: float, noise: Tensor) -> Tensor:
        return (clean + noise) / math.sqrt(2)

    def predict_clean(self, noisy: Tensor, timestep: float, condition=None) -> Tensor:
        self.seen.append(noisy)
        return torch.zeros_like(noisy)

    def snr(self, timestep: float) -> float:
        return 1.0


class Network(nn.Module):
    """A denoiser that is a module, with dropout and a batch norm."""

    num_timesteps = 10

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.BatchNorm1d(3))
        self.layers[2].eval()

    def noise(self, clean, timestep, noise):
        return clean + noise

    def predict_clean(self, noisy, timestep, condition=None):
        return self.layers(noisy)

    def snr(self, timestep):
        return 1.0


def draws(x, ids=None, seed=3, steps=(10,), chunk_size=4):
    recorder = Recorder()
    reconstruction_error(recorder, torch.zeros_like(x), steps, seed, ids=ids, chunk_size=chunk_size)
    return torch.cat(recorder.seen)


def test_equals_a_loop_over_samples_and_timesteps():
    x = torch.randn(5, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    errors = reconstruction_error(Recorder(), x, [1, 2], 0)
    expected = torch.tensor([[sum(float(v) ** 2 for v in row.flatten()) / 6] * 2 for row in x], dtype=torch.float64)
    torch.testing.assert_close(errors, expected, rtol=1e-14, atol=0)


def test_noise_belongs_to_the_sample_not_to_the_batch_order_or_precision():
    x = torch.zeros(9, 4, 4)
    whole = draws(x, chunk_size=9)
    assert torch.equal(draws(x, chunk_size=1), whole)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(draws(x, ids=order), whole[order])
    assert torch.equal(draws(x[3:5], ids=[3, 4]), whole[3:5])
    torch.testing.assert_close(draws(x.double(), chunk_size=9).float(), whole, rtol=1e-6, atol=1e-7)


def test_noise_differs_between_seeds_ids_and_timesteps_and_is_standard_normal():
    x = torch.zeros(500, 64)
    drawn = {
        "base": draws(x, chunk_size=500),
        "seed": draws(x, seed=4, chunk_size=500),
        "step": draws(x, steps=(11,), chunk_size=500),
        "ids": draws(x, ids=torch.arange(500) + 500, chunk_size=500),
    }
    for values in drawn.values():
        values *= math.sqrt(2)
        assert abs(values.mean()) < 0.03
        assert abs(values.var() - 1) < 0.05
    rows = nn.functional.normalize(torch.cat(list(drawn.values())))
    assert (rows @ rows.T).fill_diagonal_(0).abs().max() < 0.85  # independent ones reach 5.5 / sqrt(64) = 0.69


def test_global_random_state_is_untouched():
    before = torch.get_rng_state()
    reconstruction_error(Recorder(), torch.zeros(3, 4), [1], 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_model_is_measured_in_eval_mode_and_left_as_it_was():
    network = Network().train()
    network.layers[2].eval()
    state = {key: value.clone() for key, value in network.state_dict().items()}
    x = torch.randn(4, 3)
    first = reconstruction_error(network, x, [1], 0)
    assert torch.equal(first, reconstruction_error(network, x, [1], 0))
    assert [module.training for module in network.modules()] == [True, True, True, True, False]
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert all(weight.grad is None for weight in network.parameters())
    assert not first.requires_grad


def test_flags_come_back_after_an_error():
    network = Network().train()
    with pytest.raises(RuntimeError, match="inside"), evaluating(network):
        raise RuntimeError("inside")
    assert network.training


def test_condition_is_cut_with_the_samples():
    class Conditional(Recorder):
        def predict_clean(self, noisy, timestep, condition=None):
            assert condition["plain"] == "kept"
            assert condition["scale"].ndim == 0
            assert condition["captions"] == [str(int(i)) for i in condition["nested"][0]]
            return condition["nested"][0].view(-1, 1).expand_as(noisy)

    condition = {
        "nested": (torch.arange(5.0), torch.zeros(5, 2)),
        "plain": "kept",
        "scale": torch.tensor(2.0),
        "captions": list("01234"),
    }
    x = torch.arange(5.0).view(-1, 1).expand(5, 3)
    errors = reconstruction_error(Conditional(), x, [1], 0, condition=condition, chunk_size=2)
    assert torch.equal(errors, torch.zeros(5, 1, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"shape \(4,\) for 5 samples"):
        reconstruction_error(Conditional(), x, [1], 0, condition=torch.zeros(4))


def test_empty_set():
    assert reconstruction_error(Recorder(), torch.zeros(0, 3), [1, 2], 0).shape == (0, 2)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"denoiser": nn.Linear(1, 1)}, TypeError, "predict_clean"),
        ({"x": torch.zeros(3, dtype=torch.long)}, TypeError, "floating"),
        ({"x": torch.zeros(3)}, ValueError, "shape"),
        ({"x": torch.full((2, 2), torch.nan)}, ValueError, "NaN"),
        ({"timesteps": []}, ValueError, "empty"),
        ({"timesteps": [1000]}, ValueError, "0 <= t < 1000"),
        ({"timesteps": [-1]}, ValueError, "out of range"),
        ({"timesteps": ["1"]}, TypeError, "numbers"),
        ({"ids": [1]}, ValueError, "one id for each"),
        ({"ids": [0.0, 1.0]}, TypeError, "whole"),
        ({"ids": torch.zeros(2)}, TypeError, "whole"),
        ({"chunk_size": 0}, ValueError, "chunk_size"),
    ],
)
def test_bad_input(change, error, message):
    given = {"denoiser": Recorder(), "x": torch.zeros(2, 3), "timesteps": [1], "noise_seed": 0, **change}
    with pytest.raises(error, match=message):
        reconstruction_error(**given)


def test_protocol_is_checkable():
    assert isinstance(Recorder(), Denoiser)
    assert not isinstance(nn.Linear(1, 1), Denoiser)
