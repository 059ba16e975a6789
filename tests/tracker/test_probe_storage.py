"""What checkpoints hold of the samples that are followed, and what can be measured after a resume."""

import pytest
import torch

from hopfield_replay import EnergyReplayBuffer, ForgettingMonitor, ForgettingTracker, GeneratedTask, TaskSource
from tests.utilities.test_nested import same, tensors


class Shrink:
    """A denoiser whose errors grow with ``bias``."""

    num_timesteps = 10

    def __init__(self):
        self.bias = 0.0

    def noise(self, clean, timestep, noise):
        return clean + noise

    def predict_clean(self, noisy, timestep, condition=None):
        return noisy / 2 + self.bias

    def snr(self, timestep):
        return 1.0


class Encoder(torch.nn.Module):
    """Halves the number of values of a sample."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()), requires_grad=False)

    def forward(self, x):
        return self.scale * (x[:, ::2] + x[:, 1::2])


def images(task):
    return 3.0 * task + torch.rand(16, 6, generator=torch.Generator().manual_seed(task))


def train(tracker, denoiser, tasks):
    for task in tasks:
        source = TaskSource([images(task)])
        tracker.begin_task(source)
        denoiser.bias = 0.1 * task
        tracker.end_task(source, denoiser=denoiser)


def tracked(storage, **settings):
    return ForgettingTracker(probe_size=8, timesteps=[2, 5], probe_storage=storage, **settings)


def holds(state, rows):
    """Whether some tensor has one of these rows in it, in any precision."""
    return any(
        tensor.ndim == 2 and tensor.shape[1] == rows.shape[1] and bool((tensor.double() == rows[:, None]).all(2).any())
        for tensor in tensors(state)
    )


@pytest.mark.parametrize("encoder", [None, Encoder()])
@pytest.mark.parametrize("storage", ["samples", "vectors", "none"])
def test_what_a_state_holds(storage, encoder):
    tracker = tracked(storage, encoder=encoder)
    train(tracker, Shrink(), range(2))
    rows = torch.cat([images(0), images(1)]).double()
    pixels = storage == "samples" or (storage == "vectors" and encoder is None)  # where vectors are the samples
    assert holds(tracker.state_dict(), rows) == pixels
    if encoder is not None:
        assert holds(tracker.state_dict(), encoder(rows)) == (storage != "none")


@pytest.mark.parametrize("storage", ["samples", "vectors", "none"])
def test_small_pictures_of_samples_are_samples(storage):
    tracker = tracked(storage)
    for task in range(2):
        shown = TaskSource([images(task).view(16, 1, 2, 3)])
        tracker.begin_task(shown)
        tracker.end_task(shown, denoiser=Shrink())
    assert set(tracker.pictures.learned) == {0, 1}
    state = tracker.state_dict()
    uint8 = [tensor for tensor in tensors(state) if tensor.dtype == torch.uint8]
    assert bool(uint8) == (storage == "samples")
    resumed = tracked(storage)
    resumed.load_state_dict(state)
    assert set(resumed.pictures.learned) == ({0, 1} if storage == "samples" else set())


@pytest.mark.parametrize("storage", ["samples", "vectors", "none"])
def test_what_is_measured_after_a_resume(storage):
    whole, first, resumed = tracked("samples"), tracked(storage), tracked(storage)
    train(whole, Shrink(), range(4))
    train(first, Shrink(), range(2))
    assert same(
        [r.to_dict() | {"seconds": 0} for r in first.history], [r.to_dict() | {"seconds": 0} for r in whole.history[:2]]
    )
    resumed.load_state_dict(first.state_dict())
    train(resumed, Shrink(), range(2, 4))
    assert len(resumed.history) == 4
    for record, expected in zip(resumed.history[2:], whole.history[2:], strict=True):
        measured = {probe.task: probe for probe in record.probes}
        assert set(measured) == ({0, 1, 2, 3} if storage != "none" else {2, 3}) & set(range(record.task + 1))
        for probe in expected.probes:
            found = measured.get(probe.task)
            if found is None:
                continue
            assert torch.equal(found.energy, probe.energy)  # also those of earlier tasks
            assert torch.equal(found.intrinsic, probe.intrinsic)
            if storage == "samples" or probe.task >= 2:
                assert torch.equal(found.reconstruction, probe.reconstruction)
            else:
                assert found.error is None
                assert found.reconstruction is None
                assert found.error_start is not None  # what was measured before stays
    assert "task" in resumed.table()
    assert len(resumed.history_frame()) > 0
    again = tracked(storage)
    again.load_state_dict(resumed.state_dict())
    assert again.next_task == 4


def test_a_state_with_samples_is_loaded_by_a_run_that_stores_none():
    first, second = tracked("samples"), tracked("none")
    train(first, Shrink(), range(2))
    second.load_state_dict(first.state_dict())
    train(second, Shrink(), [2])
    assert [probe.task for probe in second.history[2].probes] == [0, 1, 2]
    assert not holds(second.state_dict(), torch.cat([images(task) for task in range(3)]).double())


def test_vectors_of_an_encoder_that_changes_are_given_up():
    encoder = Encoder()
    first, resumed = (tracked("vectors", encoder=encoder) for _ in range(2))
    train(first, Shrink(), range(2))
    resumed.load_state_dict(first.state_dict())
    source = TaskSource([images(2)])
    resumed.begin_task(source)
    encoder.scale.fill_(2.0)
    with (
        pytest.warns(UserWarning, match=r"samples of the tasks \[0, 1\] were not stored"),
        pytest.warns(UserWarning, match="The encoder is no longer what it was"),
    ):
        record = resumed.end_task(source, denoiser=Shrink())
    assert [probe.task for probe in record.probes] == [2]


def test_a_run_without_real_samples_is_resumed():
    def tracker():
        buffer = EnergyReplayBuffer(4, beta=1.0)
        return ForgettingTracker(buffer, generated=GeneratedTask(lambda n: torch.rand(n, 6), 8))

    first, second = tracker(), tracker()
    for tracked_so_far, tasks in ((first, [0]), (second, [1])):
        if tasks == [1]:
            second.load_state_dict(first.state_dict())
        train(tracked_so_far, Shrink(), tasks)
    assert [record.task for record in second.history] == [0, 1]


def test_other_names_are_refused():
    with pytest.raises(ValueError, match=r"probe_storage must be .*, got 'vector'\. Did you mean 'vectors'\?"):
        ForgettingMonitor(probe_storage="vector")
    assert ForgettingMonitor(probe_storage="none").tracker.probe_storage == "none"
