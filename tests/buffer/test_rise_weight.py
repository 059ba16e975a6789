"""Draws by the predicted rise: what the next task will not disturb is left to it, and all of it follows by numbers."""

import io

import numpy as np
import pytest
import torch

from hopfield_replay import EnergyReplayBuffer, ForgettingTracker, GreedyGain, TaskSource
from tests.functional import numpy_energy as reference
from tests.utilities.test_nested import same

BETA = 0.5


def cloud(n, centre, seed=0, d=3):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, d)) + np.array(centre)).float()


def two(near=20, far=30):
    """A cluster at 0, another 9 apart."""
    return torch.cat([cloud(near, [0, 0, 0]), cloud(far, [9, 0, 0], seed=1)])


def offer(buffer, x, task, **options):
    buffer.update({"x": x}, x, ids=torch.arange(len(x)) + 1000 * task, task=task, **options)


def risen(capacity=6, policy=None, **options):
    return EnergyReplayBuffer(
        capacity,
        GreedyGain(objective="rise") if policy is None else policy,
        beta=BETA,
        sampling="rise_weight",
        **options,
    )


def literal_shares(buffer, tasks, coming, candidates):
    """The draws again: each candidate's rise goes to the nearest kept sample of its task, all in numpy.

    ``candidates``: id of each sample that competed, and of how many it stood for.
    """
    kept = buffer.ids.tolist()
    at = {task * 1000 + i: x for task, rows in enumerate(tasks) for i, x in enumerate(rows.double().numpy())}
    after = dict(zip(at, reference.energy(np.stack(list(at.values())), coming.double().numpy(), BETA), strict=True))
    own = {}
    for task, rows in enumerate(tasks):
        found = reference.energy(rows.double().numpy(), rows.double().numpy(), BETA, exclude=np.arange(len(rows)))
        own |= {task * 1000 + i: e for i, e in enumerate(found)}
    mass, rise = dict.fromkeys(kept, 0.0), dict.fromkeys(kept, 0.0)
    for i, count in candidates.items():
        mine = [k for k in kept if k // 1000 == i // 1000]
        nearest = i if i in kept else min(mine, key=lambda k: np.sum((at[k] - at[i]) ** 2))
        mass[nearest] += count
        rise[nearest] += count * max(0.0, after[i] - own[i])
    chances = []
    for k in kept:
        mine = [j for j in kept if j // 1000 == k // 1000]
        mean = sum(rise[j] for j in mine) / sum(mass[j] for j in mine)
        chances.append(mass[k] + (rise[k] / mean if mean else mass[k]))
    # each task has twice its mass
    return np.array(chances) / sum(chances)


def candidates_of(buffer):
    state = buffer.state_dict()
    parts = [part for part in (state["kept"], state["reserve"]) if part is not None]
    return {i: w for part in parts for i, w in zip(part["ids"].tolist(), part["weights"].tolist(), strict=True)}


def test_draws_go_to_the_cluster_that_the_next_task_does_not_hold():
    """Of two clusters one rises evenly: of the share s of all samples it is drawn (1 + s) / 2 of the time."""
    buffer = EnergyReplayBuffer(2, "k_means", beta=BETA, sampling="rise_weight")
    x = torch.cat([torch.zeros(20, 3), torch.zeros(30, 3) + 9.0])
    offer(buffer, x, 0)
    other = buffer.ids >= 20
    assert buffer.draw_shares[other].tolist() == [0.6]
    assert float((buffer.ids[buffer.draw(4000)] >= 20).double().mean()) == pytest.approx(0.6, abs=0.03)
    buffer.refine(torch.zeros(40, 3))
    assert buffer.predicted_rises[~other].tolist() == [0.0]
    assert buffer.predicted_rises[other].tolist() == [pytest.approx(3 * 81 / 2 - np.log(49 / 29) / BETA)]
    assert buffer.draw_shares[other].tolist() == [pytest.approx(0.8)]
    drawn = buffer.draw(4000)
    assert float((buffer.ids[drawn] >= 20).double().mean()) == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("groups", [None, "task", "label"])
@pytest.mark.parametrize("policy", [None, "random", "k_means"])
def test_shares_are_those_of_numpy(groups, policy):
    buffer = risen(policy=policy, groups=groups)
    offer(buffer, two(), 0, labels=torch.zeros(50, dtype=torch.int64))
    candidates, coming = candidates_of(buffer), cloud(40, [0, 0, 0], seed=2)
    before = buffer.draw_shares
    buffer.refine(coming)
    expected = literal_shares(buffer, [two()], coming, candidates)
    np.testing.assert_allclose(buffer.draw_shares.numpy(), expected, rtol=1e-5)
    assert sum(candidates.values()) == 50
    far = buffer.ids >= 20
    assert float(buffer.draw_shares[far].sum()) > 0.75 > 0.65 > float(before[buffer.ids.argsort()[-1]])


def test_every_new_task_renews_all_and_every_task_keeps_its_share():
    tasks = [two(), cloud(25, [0, 9, 0], seed=3), cloud(40, [9, 0, 0], seed=4)]
    buffer = risen(8)
    offer(buffer, tasks[0], 0)
    buffer.refine(tasks[1])
    offer(buffer, tasks[1], 1)
    assert buffer.predicted_rises is None  # of a task that has passed
    plain = buffer.draw_shares
    candidates = candidates_of(buffer)
    buffer.refine(tasks[2])
    np.testing.assert_allclose(
        buffer.draw_shares.numpy(), literal_shares(buffer, tasks[:2], tasks[2], candidates), rtol=1e-5
    )
    first = buffer.tasks == 0
    assert float(buffer.draw_shares[first].sum()) == pytest.approx(float(plain[first].sum())) == pytest.approx(2 / 3)
    far = first & (buffer.ids >= 20)  # where the new task is
    near = first & (buffer.ids < 20)
    assert float(buffer.draw_shares[near].sum()) > 0.4 > 0.3 > float(buffer.draw_shares[far].sum())


def test_what_does_not_rise_is_drawn_by_weight():
    x = two()
    plain, buffer = EnergyReplayBuffer(6, GreedyGain(), beta=BETA, sampling="weight"), risen()
    for one in (plain, buffer):
        offer(one, x, 0)
    assert torch.equal(buffer.draw_shares, plain.draw_shares)  # nothing is known yet
    for one in (plain, buffer):
        one.refine(torch.cat([x, x]))  # the next task holds the old one
    assert buffer.predicted_rises.tolist() == [0.0] * 6
    assert torch.equal(buffer.ids, plain.ids)
    torch.testing.assert_close(buffer.draw_shares, plain.draw_shares, rtol=1e-12, atol=0.0)


def test_one_task_that_does_not_rise_beside_another_that_does():
    buffer = risen(6)
    offer(buffer, cloud(20, [0, 0, 0]), 0)
    offer(buffer, two(10, 10) + 30.0, 1)
    plain, masses = buffer.draw_shares, buffer.weights
    buffer.refine(cloud(20, [0, 0, 0]))
    still = buffer.tasks == 0
    assert float(buffer.predicted_rises[still].sum()) == 0.0
    torch.testing.assert_close(buffer.draw_shares[still], buffer.weights[still] / 40, rtol=1e-12, atol=0.0)
    assert float(plain[still].sum()) == pytest.approx(0.5)
    assert float(masses.sum()) == 40


def test_a_task_of_one_sample_and_one_out_of_reach():
    buffer = risen(4)
    offer(buffer, torch.zeros(1, 3), 0)
    assert buffer.draw_shares.tolist() == [1.0]
    buffer.refine(cloud(9, [1, 0, 0]))
    assert buffer.draw_shares.tolist() == [1.0]
    offer(buffer, two(), 1)
    buffer.refine(cloud(9, [0, 0, 0]) + 1e30)  # its squares are infinite in float32
    assert bool(buffer.predicted_rises.isfinite().all())
    assert float(buffer.draw_shares.sum()) == pytest.approx(1.0)
    assert float(buffer.draw_shares[buffer.tasks == 0].sum()) == pytest.approx(1 / 51)


@pytest.mark.parametrize("when", ["before refine", "after refine"])
def test_a_state_goes_on_as_if_nothing_had_happened(when, tmp_path):
    coming = cloud(40, [0, 0, 0], seed=2)
    buffer = risen()
    offer(buffer, two(), 0)
    if when == "after refine":
        buffer.refine(coming)
    buffer.save(tmp_path / "buffer")
    again = risen(storage=tmp_path / "rows")
    again.load(tmp_path / "buffer")
    for one in (buffer, again):
        if when == "before refine":
            one.refine(coming)
    assert buffer.predicted_rises is not None
    assert same(buffer.state_dict(), again.state_dict())
    assert torch.equal(buffer.draw_shares, again.draw_shares)
    assert torch.equal(buffer.draw(50), again.draw(50))


@pytest.mark.parametrize("damage", [-1.0, torch.nan, torch.inf])
def test_a_state_with_impossible_rises_is_refused(damage):
    buffer = risen()
    offer(buffer, two(), 0)
    buffer.refine(cloud(9, [0, 0, 0]))
    state = buffer.state_dict()
    state["kept"]["rises"] = torch.full_like(state["kept"]["rises"], damage)
    other = risen()
    with pytest.raises(ValueError, match="rises are"):
        other.load_state_dict(state)
    assert not len(other)


def test_what_a_removed_sample_stood_for_rises_with_who_takes_its_place():
    buffer = risen()
    offer(buffer, two(), 0)
    buffer.refine(cloud(40, [0, 0, 0], seed=2))
    total = float(buffer.weights @ buffer.predicted_rises)
    share = float(buffer.draw_shares[buffer.ids >= 20].sum())
    gone = buffer.ids[buffer.ids >= 20][:1]
    buffer.remove(gone)
    assert float(buffer.weights @ buffer.predicted_rises) == pytest.approx(total)
    assert float(buffer.draw_shares[buffer.ids >= 20].sum()) == pytest.approx(share)
    smaller = buffer.resized(3)
    assert float(smaller.weights @ smaller.predicted_rises) == pytest.approx(total)


def test_buffers_that_know_rises_merge_and_one_that_does_not_leaves_weights():
    def made(task, refined):
        buffer = risen()
        offer(buffer, two() + 20.0 * task, task)
        if refined:
            buffer.refine(cloud(40, [0, 0, 0], seed=2))
        return buffer

    both = made(0, True).resized(12)
    both.merge(made(1, True))
    assert bool((both.predicted_rises[both.tasks == 1] > 0).all())
    one = made(0, True).resized(12)
    one.merge(made(1, False))
    assert one.predicted_rises is None
    torch.testing.assert_close(one.draw_shares, one.weights / 100)


def test_energies_of_another_beta_are_refused():
    buffer = risen()
    offer(buffer, two(), 0)
    energies = torch.zeros(50, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"beta=2\.0 was given, but the buffer's energies are at beta=0\.5"):
        offer(buffer, two(), 1, energies=energies, beta=2.0)
    with pytest.raises(ValueError, match="no patterns"):
        risen_with_one_task().refine(torch.empty(0, 3))


def risen_with_one_task():
    buffer = risen(policy="random")
    offer(buffer, two(), 0)
    return buffer


def test_other_samplings_are_as_they_were():
    for sampling in ("uniform", "weight", "energy", "rise", "gain"):
        buffer = EnergyReplayBuffer(6, "random", beta=BETA, sampling=sampling)
        offer(buffer, two(), 0)
        state = buffer.state_dict()
        buffer.refine(cloud(40, [0, 0, 0]))
        assert same(buffer.state_dict(), state)
    with pytest.raises(ValueError, match='"weight", "rise_weight", "energy"'):
        EnergyReplayBuffer(4, sampling="rises")
    assert (
        EnergyReplayBuffer(4).sampling == EnergyReplayBuffer(4, GreedyGain(objective="tail")).sampling == "rise_weight"
    )
    assert EnergyReplayBuffer(4, "k_means").sampling == "weight"


def test_temper_of_the_policy_is_that_of_the_draws():
    found = []
    for temper in (0.0, 0.5, 1.0):
        buffer = EnergyReplayBuffer(6, GreedyGain(objective="rise", temper=temper, oversample=1), beta=BETA)
        offer(buffer, two(), 0)
        buffer.refine(cloud(40, [3, 0, 0], seed=2))
        found.append(float(buffer.draw_shares[buffer.ids >= 20].sum()))
    assert found[0] == pytest.approx(0.6)
    assert found[0] < found[1] < found[2]


@pytest.mark.parametrize("stopped", ["between tasks", "in a task"])
def test_a_tracker_resumes_with_the_same_draws(stopped):
    tasks = [two(), cloud(40, [0, 0, 0], seed=2)]

    def tracker():
        return ForgettingTracker(risen(), beta=BETA, probe_size=10)

    whole = tracker()
    whole.begin_task(TaskSource([tasks[0]]))
    whole.end_task(TaskSource([tasks[0]]))
    if stopped == "in a task":
        whole.begin_task(TaskSource([tasks[1]]))
    file = io.BytesIO()
    torch.save(whole.state_dict(), file)
    file.seek(0)
    again = tracker()
    again.load_state_dict(torch.load(file, weights_only=True))
    if stopped == "between tasks":
        whole.begin_task(TaskSource([tasks[1]]))
    again.begin_task(TaskSource([tasks[1]]))  # a resumed run begins its task again
    assert again.buffer.predicted_rises is not None
    assert torch.equal(again.buffer.draw_shares, whole.buffer.draw_shares)
    assert same(again.buffer.state_dict(), whole.buffer.state_dict())
    records = [one.end_task(TaskSource([tasks[1]]), replay_ratio=0.5) for one in (whole, again)]
    assert torch.equal(records[0].probes[0]["energy"], records[1].probes[0]["energy"])
    assert again.buffer.predicted_rises is None
