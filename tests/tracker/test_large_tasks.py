"""Tasks whose vectors do not stay in memory: the same results, in files and in pieces, and only what is needed."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from hopfield_replay import EnergyReplayBuffer, ForgettingTracker, TaskSource
from hopfield_replay.functional.rows import Rows
from hopfield_replay.policies import GreedyGain, HighEnergy, balanced, requirements
from hopfield_replay.tracker.measurement import Measurement
from tests.functional import numpy_energy as reference

SMALL = 1 << 20  # bytes: a sixteenth of it, 64 KiB, stays in memory
TASKS = [torch.from_numpy(np.random.default_rng(task).normal(size=(400, 60)) + task).float() for task in range(3)]


def source(images):
    return TaskSource(DataLoader(TensorDataset(images), batch_size=50))


def run(policy, **options):
    """A tracker after two tasks, while the third is open."""
    tracker = ForgettingTracker(EnergyReplayBuffer(20, policy=policy), probe_size=30, **options)
    for images in TASKS[:2]:
        tracker.begin_task(source(images))
        tracker.end_task(source(images))
    tracker.begin_task(source(TASKS[2]))
    return tracker


POLICIES = (
    *("random", "greedy_gain", "high_energy", "high_rise", "nearest_neighbour", "k_center", "herding"),
    *("facility_location", "proportional", "k_means", balanced("herding", by="task")),
)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("policy", POLICIES)
def test_a_task_in_files_gives_what_it_gives_in_memory(policy, tmp_path):
    files, memory = run(policy, beta=0.1, memory=SMALL, scratch=tmp_path), run(policy, beta=0.1)
    assert isinstance(files._at_hand.begun(2).vectors, Rows)
    assert isinstance(memory._at_hand.begun(2).vectors, torch.Tensor)
    assert torch.equal(files.buffer.ids, memory.buffer.ids)
    assert torch.equal(files.buffer.vectors, memory.buffer.vectors)
    for name in ("energies", "weights", "draw_shares", "rises"):
        found, expected = getattr(files.buffer, name), getattr(memory.buffer, name)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    for found, expected in zip(files.history, memory.history, strict=True):
        assert found.n_eff == pytest.approx(expected.n_eff, rel=1e-6)
        for one, other in zip(found.probes, expected.probes, strict=True):
            torch.testing.assert_close(one.energy, other.energy, rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(one.density, other.density)
    assert list(tmp_path.iterdir()) == []  # the files have no names


def test_beta_is_calibrated_on_a_sample_of_a_task_in_files():
    files, memory = run("random", memory=SMALL), run("random")
    assert files.beta == pytest.approx(memory.beta, rel=0.05)


def test_a_task_in_files_is_resumed():
    whole = run("greedy_gain", memory=SMALL)
    resumed = ForgettingTracker(EnergyReplayBuffer(20), probe_size=30, memory=SMALL)
    resumed.load_state_dict(whole.state_dict())
    resumed.begin_task(source(TASKS[2]))
    for tracker in (whole, resumed):
        tracker.end_task(source(TASKS[2]))
    assert torch.equal(whole.buffer.ids, resumed.buffer.ids)
    assert whole.history[-1] == resumed.history[-1]


def test_energies_that_nobody_reads_are_not_computed(monkeypatch):
    asked = []
    every = Measurement.own_energies
    monkeypatch.setattr(Measurement, "own_energies", lambda self: asked.append(self) or every(self))
    for policy in ("random", "reservoir", "greedy_gain", "k_center", GreedyGain(objective="rise")):
        run(policy)
    assert not asked
    run("low_energy")
    assert len(asked) == 2


@pytest.mark.parametrize("memory", [SMALL, 1 << 30])
def test_rises_are_counted_without_the_energies_of_all_samples(memory, monkeypatch):
    """What is kept, in both phases, is what is kept where those of all are computed."""
    found = run(GreedyGain(objective="rise"), beta=0.1, memory=memory).buffer
    plain = run(GreedyGain(), beta=0.1, memory=memory).buffer
    monkeypatch.setattr(GreedyGain, "needs_energies", True)
    asked, every = [], Measurement.own_energies
    monkeypatch.setattr(Measurement, "own_energies", lambda self: asked.append(self) or every(self))
    expected = run(GreedyGain(objective="rise"), beta=0.1, memory=memory).buffer
    assert len(asked) == 2
    assert torch.equal(found.ids, expected.ids)
    assert not torch.equal(found.ids, plain.ids)
    for name in ("energies", "weights", "draw_shares", "rises"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("memory", [SMALL, 1 << 30])
@pytest.mark.parametrize("policy", ["random", "greedy_gain"])
def test_what_is_kept_has_its_leave_one_out_energy_all_the_same(policy, memory):
    buffer = run(policy, memory=memory).buffer
    vectors = TASKS[1].double().numpy()
    for row in (buffer.tasks == 1).nonzero().flatten().tolist():
        place = int(buffer.ids[row]) - (1 << 40)
        others = np.delete(vectors, place, axis=0)
        expected = reference.energy(vectors[place : place + 1], others, buffer.beta)
        assert float(buffer.energies[row]) == pytest.approx(float(expected[0]), rel=1e-5)


def test_a_buffer_computes_the_energies_of_what_stays():
    """Also those of samples that were kept before of the same task, under all of it."""
    x = TASKS[0][:90]
    buffer = EnergyReplayBuffer(25, policy="random", beta=0.3)
    buffer.update(x[:40], x[:40], ids=torch.arange(40), task=0)
    kept = buffer.ids
    buffer.update(x[40:], x[40:], ids=torch.arange(40, 90), task=0)
    pool = torch.cat([x[kept], x[40:]]).double().numpy()
    names = torch.cat([kept, torch.arange(40, 90)]).tolist()
    for name, energy in zip(buffer.ids.tolist(), buffer.energies.tolist(), strict=True):
        at = names.index(name)
        expected = reference.energy(pool[at : at + 1], np.delete(pool, at, axis=0), 0.3)
        assert energy == pytest.approx(float(expected[0]), rel=1e-5)


def test_a_policy_that_cannot_have_the_vectors_says_so_before_training():
    class Whole:
        def select(self, candidates, k):
            return candidates.vectors.norm(dim=1).argsort()[:k]

    large = torch.randn(5000, 60)  # 1.2 MB, of which 1 MiB is allowed
    tracker = ForgettingTracker(EnergyReplayBuffer(20, policy=Whole()), memory=SMALL)
    with pytest.raises(
        ValueError, match=r"Whole needs all vectors .* 5000 of 60 numbers are 1 MiB, and memory= allows"
    ):
        tracker.begin_task(source(large))
    assert tracker.open_task is None
    assert tracker.beta is None
    assert not requirements(Whole()).in_pieces
    assert requirements(HighEnergy()).in_pieces
    run(Whole(), memory=SMALL)  # what fits is put together


@pytest.mark.parametrize(("memory", "error"), [(1000, ValueError), ("1 GB", ValueError), (SMALL - 1, ValueError)])
def test_memory_that_is_none(memory, error):
    with pytest.raises(error, match=r"memory \(bytes\)"):
        ForgettingTracker(memory=memory)


def test_a_batch_that_is_more_than_the_memory():
    tracker = ForgettingTracker(memory=SMALL)
    with pytest.raises(ValueError, match=r"memory=1048576 bytes is less than the 1200000 bytes of one batch"):
        tracker.begin_task(TaskSource([torch.randn(5000, 60)]))


def test_a_folder_for_files_that_is_not_there(tmp_path):
    large = torch.randn(20_000, 60)
    tracker = ForgettingTracker(EnergyReplayBuffer(20), memory=SMALL, scratch=tmp_path / "none")
    with pytest.raises(OSError, match=r"need room in .*none.*TMPDIR"):
        tracker.begin_task(source(large))
    assert tracker.open_task is None


def test_n_eff_of_a_sample_has_its_error():
    tracker = ForgettingTracker(probe_size=10)
    exact = tracker.end_task(source(TASKS[0]))
    assert exact.n_eff_error == 0.0
    many = torch.cat([TASKS[0], TASKS[0] + 0.01 * torch.randn(400, 60), TASKS[0] * 1.01])
    record = ForgettingTracker(probe_size=10).end_task(source(many))
    assert 0.0 < record.n_eff_error < record.n_eff


def test_a_boundary_that_fails_loses_nothing():
    class Fails:
        fails = True
        needs_energies = False
        reads_in_pieces = True

        def select(self, candidates, k):
            if self.fails:
                raise RuntimeError("out of luck")
            return candidates.keys.argsort(descending=True)[:k]

    policy = Fails()
    tracker = ForgettingTracker(EnergyReplayBuffer(20, policy=policy), beta=0.1, probe_size=30, memory=SMALL)
    tracker.begin_task(source(TASKS[0]))
    with pytest.raises(RuntimeError, match="out of luck"):
        tracker.end_task(source(TASKS[0]))
    assert (len(tracker.buffer), tracker.history, tracker.open_task) == (0, [], 0)
    policy.fails = False
    tracker.end_task(source(TASKS[0]))
    expected = ForgettingTracker(EnergyReplayBuffer(20, policy="random"), beta=0.1, probe_size=30, memory=SMALL)
    expected.begin_task(source(TASKS[0]))
    expected.end_task(source(TASKS[0]))
    assert torch.equal(tracker.buffer.ids, expected.buffer.ids)
    torch.testing.assert_close(tracker.buffer.energies, expected.buffer.energies)


def test_a_stream_that_can_be_read_once_is_read_once():
    class Once(IterableDataset):
        def __init__(self, images):
            self.left = iter(images)

        def __iter__(self):
            return self.left

    tracker = ForgettingTracker(EnergyReplayBuffer(20), probe_size=30, memory=SMALL)
    once = TaskSource(DataLoader(Once(TASKS[0]), batch_size=50))
    tracker.begin_task(once)
    record = tracker.end_task(once)
    assert len(record.probes[0].ids) == 30
    kept = {tuple(row) for row in tracker.buffer.gather(torch.arange(20)).tolist()}
    assert kept <= {tuple(row) for row in TASKS[0].tolist()}
