import pytest
import torch

from hopfield_replay import HopfieldMemory
from hopfield_replay.denoisers import CallableDenoiser, FlowSchedule
from hopfield_replay.functional import PatternTiles
from hopfield_replay.guidance import MemoryGuidance

LEVELS = torch.linspace(0.9, 0.1, 10)
MODEL = CallableDenoiser(lambda x, t: 0 * x, LEVELS)
MEMORY, CURRENT = torch.eye(4), -torch.eye(4)


def guidance(**changes):
    settings = {"denoiser": MODEL, "memory": MEMORY, "current": CURRENT, "strength": 0.5} | changes
    return MemoryGuidance(settings.pop("denoiser"), settings.pop("memory"), settings.pop("current"), **settings)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"strength": 1.2}, ValueError, r"in \[0, 1\], got 1.2"),
        ({"strength": -0.1}, ValueError, r"in \[0, 1\], got -0.1"),
        ({"strength": float("nan")}, ValueError, r"in \[0, 1\], got nan"),
        ({"strength": "half"}, TypeError, "a number in .* or a function of the timestep, got 'half'"),
        ({"strength": True}, TypeError, "got True"),
        ({"memory": MEMORY[:0]}, ValueError, "memory holds 0 samples and needs at least 1"),
        ({"memory": [[1.0, 2.0]]}, TypeError, "memory must be a tensor .*PatternTiles or a HopfieldMemory, got list"),
        ({"memory": torch.full((2, 4), torch.nan)}, ValueError, "NaN or infinite values in 2 of 2 rows"),
        ({"memory": torch.eye(4).long()}, TypeError, "must be a real floating tensor"),
        ({"memory": HopfieldMemory(MEMORY, 1.0, similarity="dot")}, ValueError, 'memory has similarity="dot"'),
        ({"current": CURRENT[:1]}, ValueError, "current holds 1 samples and needs at least 2"),
        ({"current": torch.eye(3)}, ValueError, "memory holds samples of 4 elements and current of 3"),
        ({"labels": torch.arange(3)}, ValueError, r"labels must have shape \(4,\).*got \(3,\)"),
        ({"labels": torch.rand(4)}, TypeError, "labels must be a tensor of whole numbers"),
        ({"labels": torch.arange(4), "memory": PatternTiles([MEMORY])}, TypeError, "as one tensor"),
        ({"probes": -1}, ValueError, "probes must be a whole number >= 0, got -1"),
        ({"denoiser": lambda x, t: x}, TypeError, "denoiser must have num_timesteps"),
    ],
)
def test_what_a_guidance_is_made_of(changes, error, message):
    with pytest.raises(error, match=message):
        guidance(**changes)


@pytest.mark.parametrize(
    ("changes", "noisy", "timestep", "message"),
    [
        ({}, torch.zeros(2, 5), 3, r"shape \(5,\), 5 elements, and the memory's have 4: store what the model denoises"),
        ({}, torch.zeros(2, 4), 10, "timestep 10 is out of range: 0 <= t < 10"),
        ({}, torch.zeros(2, 4), 2.5, "whole timesteps 0 <= t < 10, got 2.5"),
        ({}, torch.full((2, 4), torch.inf), 3, "the noisy samples holds NaN or infinite values in 2 of 2 rows"),
        ({"strength": lambda t: t}, torch.zeros(2, 4), 3, r"in \[0, 1\], got 3"),
        ({"denoiser": CallableDenoiser(lambda x, t: x, FlowSchedule(10))}, torch.zeros(2, 4), 0, "no noise left"),
        ({"denoiser": CallableDenoiser(lambda x, t: x, FlowSchedule(10))}, torch.zeros(2, 4), 10.5, "0 <= t < 10"),
    ],
)
def test_what_it_is_asked(changes, noisy, timestep, message):
    with pytest.raises(ValueError, match=message):
        guidance(**changes).predict_clean(noisy, timestep)


def test_labels():
    with pytest.raises(ValueError, match="the memory has no labels"):
        guidance().given(torch.tensor([1]))
    labelled = guidance(labels=torch.arange(4))
    with pytest.raises(TypeError, match="whole numbers"):
        labelled.given(torch.tensor([0.5]))
    with pytest.raises(ValueError, match=r"given\(\) got 2 labels, and the model is called with 3 samples"):
        labelled.given(torch.tensor([1, 2])).predict_clean(torch.zeros(3, 4), 3)


def test_steering_needs_a_module_and_one_timestep():
    with (
        pytest.raises(TypeError, match=r"got CallableDenoiser of function. Use the guidance in the place"),
        guidance().steer(),
    ):
        pass

    class Net(torch.nn.Module):
        def forward(self, x, t=None):
            return x

    network = Net()
    made = guidance(denoiser=CallableDenoiser(network, LEVELS))
    with made.steer():
        with pytest.raises(ValueError, match="called with 2 different timesteps: guidance is for sampling"):
            network(torch.zeros(2, 4), torch.tensor([3, 4]))
        with pytest.raises(TypeError, match="Net was called with x: guidance needs the noisy samples and the timestep"):
            network(torch.zeros(2, 4))
    assert torch.equal(network(torch.ones(1, 4)), torch.ones(1, 4))


def test_a_report_on_samples_of_another_space():
    with pytest.raises(ValueError, match="same dimension"):
        guidance().report(torch.zeros(2, 5))


def test_memories_of_every_kind_say_the_same():
    expected = guidance().predict_clean(torch.ones(3, 4) / 3, 4)
    for memory in (HopfieldMemory(MEMORY, 3.0), PatternTiles([MEMORY[:1], MEMORY[1:]]), MEMORY.view(4, 2, 2)):
        torch.testing.assert_close(guidance(memory=memory).predict_clean(torch.ones(3, 4) / 3, 4), expected)
    report = guidance(memory=PatternTiles([MEMORY[:1], MEMORY[1:]])).report(torch.eye(4) * 2)
    torch.testing.assert_close(report.nearest_stored, torch.ones(4).double())
