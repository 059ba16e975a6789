"""No number is kept in two places: beta, similarity, the share that is replayed, and whom a kept sample stands for."""

import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from hopfield_replay import (
    EnergyReplayBuffer,
    ForgettingMonitor,
    ForgettingTracker,
    GreedyGain,
    ReplayBatches,
    TaskSource,
)
from hopfield_replay.policies import POLICIES
from tests.functional import numpy_energy as reference


def data(task, n=40, seed=0):
    generator = torch.Generator().manual_seed(10 * task + seed)
    return torch.randn(n, 3, generator=generator) * (1 + torch.arange(n)[:, None] / n) + 2 * task


def loader(task, n=40, batch_size=10):
    return DataLoader(TensorDataset(data(task, n)), batch_size=batch_size)


def run(tracker, tasks, ratio=0.5, **options):
    """Some tasks in a loop of one's own, with replay."""
    for task in range(tasks):
        source = TaskSource(loader(task))
        tracker.begin_task(source)
        batches = ReplayBatches(loader(task), tracker.buffer, replay_ratio=ratio)
        for _ in batches:
            pass
        tracker.end_task(source, **options)
    return tracker


# -- beta and similarity


@pytest.mark.parametrize("owner", [ForgettingTracker, ForgettingMonitor])
def test_two_similarities_are_refused(owner):
    with pytest.raises(ValueError, match="has similarity='dot', but the buffer has similarity='distance'"):
        owner(EnergyReplayBuffer(4), similarity="dot")
    with pytest.raises(ValueError, match="has similarity='distance', but the buffer has similarity='dot'"):
        owner(EnergyReplayBuffer(4, similarity="dot"), similarity="distance")
    assert ForgettingTracker(EnergyReplayBuffer(4, similarity="dot")).similarity == "dot"
    assert ForgettingTracker(EnergyReplayBuffer(4, similarity="dot"), similarity="dot").similarity == "dot"
    assert ForgettingTracker(similarity="dot").similarity == "dot"
    with pytest.raises(ValueError, match="similarity must be one of"):
        owner(EnergyReplayBuffer(4), similarity="cosine")


@pytest.mark.parametrize("owner", [ForgettingTracker, ForgettingMonitor])
def test_two_betas_are_refused_and_one_is_shared(owner):
    with pytest.raises(ValueError, match="has beta=3, but the buffer has beta=2"):
        owner(EnergyReplayBuffer(4, beta=2.0), beta=3.0)
    for given, told in ((2.0, "auto"), ("auto", 2.0), (2.0, 2.0)):
        buffer = EnergyReplayBuffer(4, beta=given)
        tracker = ForgettingTracker(buffer, beta=told)
        assert tracker.beta == buffer.beta == 2.0
    buffer = EnergyReplayBuffer(4)
    tracker = ForgettingTracker(buffer)
    assert tracker.beta is buffer.beta is None
    tracker.begin_task(TaskSource(loader(0)))
    assert tracker.beta == buffer.beta > 0
    with pytest.raises(ValueError, match=r"beta=7.0 was given, but the buffer's energies are at beta="):
        buffer.update(data(0), data(0), ids=torch.arange(40), task=0, energies=torch.zeros(40), beta=7.0)


def test_the_second_phase_is_at_the_beta_of_the_energies():
    """With high_rise, which takes the difference of both."""
    tracker = ForgettingTracker(EnergyReplayBuffer(10, "high_rise", groups=None), beta=5.0)
    first, second = data(0), data(1)
    tracker.begin_task(TaskSource([first]))
    tracker.end_task(TaskSource([first]))
    reserve = tracker.buffer.state_dict()["reserve"]["ids"]
    pool = torch.cat([tracker.buffer.ids, reserve])
    tracker.begin_task(TaskSource([second]))
    x, new = first.double().numpy(), second.double().numpy()
    rises = reference.energy(x, new, 5.0) - reference.energy(x, x, 5.0, exclude=np.arange(len(x)))
    best = sorted(pool.tolist(), key=lambda i: -rises[i])[:10]
    assert tracker.buffer.ids.tolist() == best


# -- the share that is replayed


def test_the_share_is_counted_where_it_is_drawn():
    """A stream that nobody tells the tracker of: the records and energies are those of the share that was drawn."""
    counted = run(ForgettingTracker(EnergyReplayBuffer(8), beta=1.0), 3)
    told = run(ForgettingTracker(EnergyReplayBuffer(8), beta=1.0), 3, replay_ratio=0.5)
    for drawn, given in zip(counted.history, told.history, strict=True):
        assert drawn.replay_ratio == given.replay_ratio == (0.5 if drawn.task else 0.0)
        for a, b in zip(drawn.probes, given.probes, strict=True):
            assert torch.equal(a.energy, b.energy)
    last = counted.history[-1].probes[0]
    x, others = counted.probe(0).vectors.double().numpy(), data(2).double().numpy()
    without = reference.energy(x, others, 1.0) - last.energy_start.numpy()
    assert float(last.intrinsic.mean()) < 0.5 * without.mean()  # what was reported without replay


def test_each_task_counts_for_itself():
    tracker = ForgettingTracker(EnergyReplayBuffer(8), beta=1.0)
    run(tracker, 2)
    source = TaskSource(loader(2))
    tracker.begin_task(source)
    for _ in ReplayBatches(loader(2), tracker.buffer, replay_ratio=0.2):
        pass
    state = tracker.state_dict()
    resumed = ForgettingTracker(EnergyReplayBuffer(8), beta=1.0)  # killed here: the counts go on
    resumed.load_state_dict(state)
    resumed.begin_task(source)
    for one in (tracker, resumed):
        assert one.end_task(source).replay_ratio == pytest.approx(0.2)
        assert (one.buffer.drawn.new, one.buffer.drawn.replayed) == (0, 0)
        one.begin_task(TaskSource(loader(3)))
        assert one.end_task(TaskSource(loader(3))).replay_ratio == 0.0  # nothing was drawn


def test_draws_that_nobody_counted_are_told_and_can_be_counted():
    tracker = run(ForgettingTracker(EnergyReplayBuffer(8), beta=1.0), 1)
    tracker.begin_task(TaskSource(loader(1)))
    for batch in loader(1):
        tracker.buffer.sample(len(batch[0]))
    with pytest.warns(UserWarning, match="40 samples were drawn from the buffer by sample.. or draw.., but how many"):
        assert tracker.end_task(TaskSource(loader(1))).replay_ratio == 0.0
    tracker.begin_task(TaskSource(loader(2)))
    for batch in loader(2):
        tracker.buffer.sample(5, beside=len(batch[0]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tracker.end_task(TaskSource(loader(2))).replay_ratio == pytest.approx(1 / 3)


def kept_at(ratio, policy="greedy_gain"):
    tracker = ForgettingTracker(EnergyReplayBuffer(10, policy), beta=2.0)
    for task in range(2):
        source = TaskSource(loader(task))
        ReplayBatches(loader(task), tracker.buffer, replay_ratio=ratio)  # as a loader is made before its task begins
        tracker.begin_task(source)
        if not task:
            tracker.end_task(source)
    return tracker.buffer


def test_greedy_gain_hears_the_loaders_share():
    few, many = kept_at(0.1), kept_at(0.9)
    assert (few.replay_ratio, many.replay_ratio) == (0.1, 0.9)
    assert few.ids.tolist() != many.ids.tolist()
    for ratio, buffer in ((0.1, few), (0.9, many)):
        assert buffer.ids.tolist() == kept_at(ratio, GreedyGain(ratio)).ids.tolist()
    with pytest.raises(ValueError, match=r"GreedyGain was made with replay_ratio=0.3, but the loader replays 0.5"):
        ReplayBatches(loader(0), EnergyReplayBuffer(4, GreedyGain(0.3)), replay_ratio=0.5)
    schedule = ReplayBatches(loader(0), EnergyReplayBuffer(4, GreedyGain(0.3)), replay_ratio=lambda task, step: 0.5)
    assert len(schedule) == 4  # a share that changes is nobody's


# -- whom a kept sample stands for


def test_what_stands_in_reserve_is_not_drawn_and_gives_its_weight_away():
    """Three equal tasks have equal shares of the draws, before the second phase and after the last task, too."""
    buffer = EnergyReplayBuffer(60, "greedy_gain", groups=None, beta=1.0)
    for task in range(3):
        x = data(task, 100)
        buffer.update(x, x, ids=torch.arange(100) + 1000 * task, task=task)
        assert buffer.state_dict()["reserve"] is not None
        shares = torch.zeros(task + 1, dtype=torch.float64).index_add(0, buffer.tasks, buffer.draw_shares)
        stands_for = torch.cdist(torch.cat([data(t, 100) for t in range(task + 1)]), buffer.vectors).argmin(1)
        if not task:
            assert torch.equal(buffer.draw_shares, stands_for.bincount(minlength=len(buffer)).double() / 100)
        assert float(shares.sum()) == pytest.approx(1.0)
    grouped = EnergyReplayBuffer(60, "greedy_gain", beta=1.0)
    for task in range(3):
        x = data(task, 100)
        grouped.update(x, x, ids=torch.arange(100) + 1000 * task, task=task)
    shares = torch.zeros(3, dtype=torch.float64).index_add(0, grouped.tasks, grouped.draw_shares)
    np.testing.assert_allclose(shares, 1 / 3)
    drawn = grouped.tasks[grouped.draw(60000)].bincount() / 60000
    np.testing.assert_allclose(drawn, 1 / 3, atol=0.01)


@pytest.mark.parametrize("policy", POLICIES)
def test_no_policy_drops_old_tasks_by_default(policy):
    buffer = EnergyReplayBuffer(60, policy, beta=1.0)
    for task in range(4):
        x = data(task, 100)
        buffer.update(x, x, ids=torch.arange(100) + 1000 * task, task=task, losses=torch.rand(100))
    assert buffer.tasks.bincount().tolist() == [15, 15, 15, 15]


def test_a_task_without_a_place_is_told_of_before_it_is_trained():
    tracker = run(ForgettingTracker(EnergyReplayBuffer(2), beta=1.0), 2)
    with pytest.raises(ValueError, match=r"3 groups .task. cannot share a capacity of 2; raise the capacity"):
        tracker.begin_task(TaskSource(loader(2)))
    assert tracker.open_task is None


def test_the_draws_of_a_policy_are_told():
    assert "sampling='rise_weight'" in repr(EnergyReplayBuffer(4))
    assert "sampling='weight'" in repr(EnergyReplayBuffer(4, "k_means"))
    assert "sampling='uniform'" in repr(EnergyReplayBuffer(4, "random"))
