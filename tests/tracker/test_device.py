"""Where the vectors of a task are compared: where the model trains, on a pretended GPU, also one that is full."""

import pytest
import torch

from hopfield_replay import EnergyReplayBuffer, ForgettingTracker, TaskSource
from hopfield_replay.functional import PatternTiles, energy, many
from hopfield_replay.functional.many import energies_of
from hopfield_replay.functional.rows import Rows, placed
from hopfield_replay.utilities import device as utilities_device
from tests.reliability.pretended_gpu import GPU, PretendedGpu

pytestmark = pytest.mark.slow


CPU = torch.device("cpu")
TASKS = [torch.randn(300, 60, generator=torch.Generator().manual_seed(task)) + task for task in range(3)]


def run(place, **options):
    """A tracker after two tasks whose batches are brought to a device, while the third is open."""
    tracker = ForgettingTracker(EnergyReplayBuffer(12), beta=0.1, probe_size=20, **options)
    for images in TASKS:
        source = TaskSource(list(images.split(50)), prepare=lambda batch: batch.to(place))
        tracker.begin_task(source)
        if tracker.next_task < 2:
            tracker.end_task(source)
    return tracker


@pytest.mark.parametrize("memory", [1 << 20, 1 << 30])
@pytest.mark.parametrize("float64", [True, False])
def test_vectors_are_compared_where_they_are_encoded(memory, float64, monkeypatch):
    """On a device without float64 they are encoded alone."""
    here = run(CPU, memory=memory)
    monkeypatch.setattr(utilities_device, "WITHOUT_FLOAT64", () if float64 else (GPU.type,))
    with PretendedGpu(float64):
        there = run(GPU, memory=memory)
        forced = run(GPU, memory=memory, device="cpu")
    assert there._at_hand.begun(2).device == (GPU if float64 else CPU)
    assert forced._at_hand.begun(2).device == CPU
    assert isinstance(there._at_hand.begun(2).vectors, Rows) == (memory == 1 << 20)
    assert there._at_hand.begun(2).vectors.device == CPU  # nothing stays on the device while the model trains
    for tracker in (there, forced):
        assert torch.equal(tracker.buffer.ids, here.buffer.ids)
        torch.testing.assert_close(tracker.buffer.draw_shares, here.buffer.draw_shares)
        for found, expected in zip(tracker.history, here.history, strict=True):
            assert found.n_eff == pytest.approx(expected.n_eff)
            for one, other in zip(found.probes, expected.probes, strict=True):
                torch.testing.assert_close(one.energy, other.energy)
                torch.testing.assert_close(one.density, other.density)


def test_a_device_that_is_full_gets_less_at_a_time(monkeypatch):
    sizes = []

    def full(x, *arguments, **options):
        sizes.append(len(x))
        if len(x) > 7:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return energy(x, *arguments, **options)

    monkeypatch.setattr(many, "energy", full)
    x, own = TASKS[0][:60], torch.arange(60)
    expected = energy(x, x, 0.1, exclude=own)
    with PretendedGpu():
        patterns = PatternTiles.of_rows(x.to(GPU))
        torch.testing.assert_close(energies_of(x, patterns, 0.1, exclude=own), expected)
        assert max(size for size in sizes if size <= 7) == 7  # 60 halved until it fits
        torch.testing.assert_close(energies_of(Rows(x[:20], x[20:]), patterns, 0.1, exclude=own), expected)


def test_a_device_with_no_room_at_all_says_so(monkeypatch):
    def full(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(many, "energy", full)
    with pytest.raises(MemoryError, match=r"The patterns do not fit into the device's memory.*2.00 GiB.*CPU"):
        energies_of(TASKS[0], PatternTiles(TASKS[1]), 0.1)


@pytest.mark.parametrize("device", ["nonsense", "cuda:99", 3.5])
def test_a_device_that_is_not_there(device):
    with pytest.raises(ValueError, match=r"device=.* cannot be used here"):
        ForgettingTracker(device=device)


def test_rows_that_fit_on_a_device_are_held_there_and_others_come_in_pieces(monkeypatch):
    whole = TASKS[0]
    rows = Rows(whole[:100], whole[100:])
    with PretendedGpu():
        streamed = placed(rows, GPU)
        assert isinstance(streamed, Rows)
        assert streamed.device == GPU
        assert torch.equal(streamed[5:150].cpu(), whole[5:150])
        assert torch.equal(streamed[torch.tensor([250, 3])].cpu(), whole[[250, 3]])
        monkeypatch.setattr("hopfield_replay.functional.rows.room_on", lambda device: 4 * whole.nbytes)
        held = placed(rows, GPU)
        assert isinstance(held, torch.Tensor)
        assert held.device == GPU
        assert torch.equal(held.cpu(), whole)
    assert placed(rows, CPU) is rows
