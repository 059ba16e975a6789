"""A denoiser made from another one answers as that one does, where it does not say otherwise."""

import pytest
import torch

from hopfield_replay import MemoryGuidance
from hopfield_replay.denoisers import CallableDenoiser, ContinuousSchedule, Denoiser
from hopfield_replay.denoisers.delegating import DelegatingDenoiser

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


def model(schedule, **options):
    return CallableDenoiser(lambda x, t, *condition: 0.3 * x + sum(condition), schedule, **options)


def guided(denoiser):
    return MemoryGuidance(denoiser, X, X + 1, strength=0.5)


def labelled(denoiser):
    pytest.importorskip("avalanche")
    from hopfield_replay.avalanche.labelled_denoiser import LabelledDenoiser

    return LabelledDenoiser(denoiser)


def plain(denoiser):
    made = DelegatingDenoiser()
    made.denoiser = denoiser
    return made


@pytest.mark.parametrize("make", [plain, guided, labelled])
@pytest.mark.parametrize(
    "schedule", [torch.tensor([0.9, 0.5, 0.1]), ContinuousSchedule(signal=lambda t: 1.0, noise=lambda t: t)]
)
def test_what_is_not_changed_is_the_others(make, schedule):
    inner = model(schedule)
    outer = make(inner)
    assert isinstance(outer, Denoiser)
    assert outer.num_timesteps == inner.num_timesteps
    assert outer.snr(1) == inner.snr(1)
    noise = X.flip(0)
    assert outer.noise(X, 1, noise).equal(inner.noise(X, 1, noise))


def test_the_condition_reaches_the_other():
    inner = model(torch.tensor([0.9, 0.5]), conditional=True)
    assert plain(inner).predict_clean(X, 1, X).equal(inner.predict_clean(X, 1, X))
    assert not plain(inner).predict_clean(X, 1, X).equal(inner.predict_clean(X, 1, 2 * X))
