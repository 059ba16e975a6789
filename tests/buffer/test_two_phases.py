"""The buffer's two phases: a choice for an unknown next task, a reserve, and a choice for the known one."""

import io
import math

import numpy as np
import pytest
import torch

from hopfield_replay import EnergyReplayBuffer, ForgettingTracker, GreedyGain, TaskSource, balanced
from tests.functional import numpy_energy as reference
from tests.utilities.test_nested import same

BETA = 0.5


def clusters(seed=0, each=15, d=4, count=4):
    rng = np.random.default_rng(seed)
    centres = 4.0 * np.eye(d)[:count]
    return torch.from_numpy(np.concatenate([c + rng.normal(size=(each, d)) for c in centres])).float()


def ids_of(n, task):
    return torch.arange(n) + 1000 * task


def offer(buffer, x, task, **options):
    buffer.update({"x": x}, x, ids=ids_of(len(x), task), task=task, **options)


def first_phase(capacity=5, policy="greedy_gain", **options):
    buffer = EnergyReplayBuffer(capacity, policy, beta=BETA, **options)
    offer(buffer, clusters(), 0)
    return buffer


def reserve(buffer):
    return buffer.state_dict()["reserve"]


def weights(buffer):
    return buffer.state_dict()["kept"]["weights"]


def protected(old, kept, new, places):
    """Energy that replaying the kept samples, half of every batch, saves of all old ones once ``new`` is trained on."""
    after = reference.energy(old, new, BETA)
    total = 0.0
    for x, e in zip(old, after, strict=True):
        near = sum(math.exp(-BETA * float(np.sum((x - r) ** 2)) / 2) for r in kept) / places
        total += math.log1p(near * math.exp(BETA * e)) / BETA
    return total


def test_the_second_phase_protects_more_than_the_first_and_releases_the_reserve():
    old = clusters().double().numpy()
    new = clusters(seed=5, count=2, each=30)  # half of what the old task had is in the new one too
    buffer = first_phase(6, sampling="weight")
    before = buffer.ids.tolist()
    assert len(reserve(buffer)["ids"]) == 3 * 6
    assert not set(reserve(buffer)["ids"].tolist()) & set(before)
    candidates_left = [*before, *reserve(buffer)["ids"].tolist()]
    buffer.refine(new)
    after = buffer.ids.tolist()
    assert set(after) != set(before)
    assert set(after) <= set(candidates_left)
    values = [protected(old, old[chosen], new.double().numpy(), 6) for chosen in (before, after)]
    assert values[1] > 1.02 * values[0]
    # more picks where the new task is not
    assert sum(i >= 30 for i in after) > sum(i >= 30 for i in before)
    # the samples are those of the ids, and nothing else is held
    assert torch.equal(buffer.gather(torch.arange(6))["x"], clusters()[buffer.ids])
    assert torch.equal(buffer.vectors, clusters()[buffer.ids])
    assert reserve(buffer) is None
    assert buffer.state_dict()["reserve_samples"] is None
    again = buffer.state_dict()
    buffer.refine(new)  # nothing left to choose from
    assert same(buffer.state_dict(), again)


@pytest.mark.heavy
@pytest.mark.parametrize("oversample", [1, 2, 4])
@pytest.mark.parametrize("groups", [None, "task"])
def test_second_phase_is_greedy_among_the_candidates_that_were_set_aside(oversample, groups):
    """The same choice again, written down literally: targets weigh as many samples as are nearest to them."""
    x, new = clusters().double().numpy(), clusters(seed=3, each=10) + 1.0
    buffer = first_phase(5, GreedyGain(oversample=oversample), groups=groups)
    held = buffer.ids.tolist() + ([] if oversample == 1 else reserve(buffer)["ids"].tolist())
    assert len(held) == 5 * oversample
    counted = dict.fromkeys(held, 0)
    for i, row in enumerate(x):
        counted[i if i in counted else min(held, key=lambda j: np.sum((row - x[j]) ** 2))] += 1
    assert dict(zip(buffer.ids.tolist(), weights(buffer).tolist(), strict=True)).items() <= counted.items()
    buffer.refine(new)
    if oversample == 1:
        assert buffer.ids.tolist() == held
        return
    held = sorted(held)
    after = reference.energy(x, new.double().numpy(), BETA)
    a = np.array([[math.exp(-BETA * np.sum((x[k] - x[r]) ** 2) / 2 + BETA * after[k]) / 5 for r in held] for k in held])
    picks = []
    for _ in range(5):
        gains = [
            sum(counted[held[k]] * math.log1p(a[k, [*picks, r]].sum()) for k in range(len(held)))
            if r not in picks
            else -1.0
            for r in range(len(held))
        ]
        picks.append(int(np.argmax(gains)))
    assert buffer.ids.tolist() == [held[r] for r in picks]


@pytest.mark.heavy
@pytest.mark.parametrize("groups", [None, "task", "label"])
@pytest.mark.parametrize("refined", [True, False])
@pytest.mark.parametrize("oversample", [1, 3])
def test_weights_sum_to_the_number_of_samples_seen(groups, refined, oversample):
    buffer = EnergyReplayBuffer(8, GreedyGain(oversample=oversample), groups=groups, beta=BETA)
    seen = 0
    for task in range(4):
        x = clusters(seed=task, each=6) + 0.5 * task
        labels = torch.arange(len(x)) % 2
        if refined:
            buffer.refine(x)
        for part in (slice(0, 10), slice(10, None)):  # a task may come in several batches
            rows, ids = x[part], ids_of(len(x), task)[part]
            buffer.update(rows, rows, ids=ids, task=task, labels=labels[part])
            seen += len(rows)
            state = buffer.state_dict()
            parts = [s for s in (state["kept"], state["reserve"]) if s is not None]
            assert sum(float(p["weights"].sum()) for p in parts) == pytest.approx(seen)
            if groups == "task":  # and of each task to its own
                for known in range(task):
                    share = sum(float(p["weights"][p["tasks"] == known].sum()) for p in parts)
                    assert share == pytest.approx(24)
    assert len(buffer) == 8


def test_a_reserve_of_which_nothing_new_is_first_still_belongs_to_the_newest_task():
    buffer = EnergyReplayBuffer(3, balanced(GreedyGain(), by="task"), groups=None, beta=BETA)
    offer(buffer, clusters(each=3), 0)
    x = clusters(seed=1, each=8)
    offer_rows(buffer, x[:16], 1, 0)
    held = len(buffer) + len(reserve(buffer)["ids"])
    offer_rows(buffer, x[16:], 1, 16)  # more of the same task: the reserve goes on
    assert len(buffer) + len(reserve(buffer)["ids"]) == held == 12


def offer_rows(buffer, rows, task, start):
    buffer.update({"x": rows}, rows, ids=torch.arange(start, start + len(rows)) + 1000 * task, task=task)


def test_without_a_second_phase_the_reserve_of_the_last_task_is_dropped():
    buffer = first_phase(5, groups="task")
    first = buffer.ids.tolist()
    offer(buffer, clusters(seed=1) + 2.0, 1)
    assert buffer.ids[buffer.tasks == 0].tolist() == first[:3]  # its own order, shortened
    assert set(reserve(buffer)["tasks"].tolist()) == {1}


@pytest.mark.parametrize("groups", [None, "task"])
def test_other_policies_have_no_second_phase(groups):
    buffer = first_phase(policy="herding", groups=groups)
    before = buffer.state_dict()
    assert before["reserve"] is None
    buffer.refine(clusters(seed=9))
    assert same(buffer.state_dict(), before)


def test_all_stay_where_there_is_room():
    buffer = first_phase(100)
    assert sorted(buffer.ids.tolist()) == list(range(60))
    assert reserve(buffer) is None
    assert weights(buffer).tolist() == [1.0] * 60


@pytest.mark.heavy
@pytest.mark.parametrize("by_file", [False, True], ids=["torch.save", "safetensors"])
@pytest.mark.parametrize("groups", [None, "label"])
def test_a_checkpoint_between_the_phases_goes_on(by_file, groups, tmp_path):
    first = EnergyReplayBuffer(6, groups=groups, beta=BETA, storage=tmp_path / "rows")
    x = clusters()
    first.update((x, [str(i) for i in range(60)]), x, ids=torch.arange(60), task=0, labels=torch.arange(60) % 3)
    second = EnergyReplayBuffer(6, groups=groups, beta=BETA)
    if by_file:
        first.save(tmp_path / "state")
        second.load(tmp_path / "state")
    else:
        file = io.BytesIO()
        torch.save(first.state_dict(), file)
        file.seek(0)
        second.load_state_dict(torch.load(file, weights_only=True))
    assert same(first.state_dict(), second.state_dict())
    new = clusters(seed=4) + 1.5
    first.refine(new)
    second.refine(new)
    assert same(first.state_dict(), second.state_dict())
    assert list(first.gather(torch.arange(6))[1]) == [str(i) for i in first.ids.tolist()]
    for buffer in (first, second):
        buffer.update((new, ["n"] * 60), new, ids=ids_of(60, 1), task=1, labels=torch.arange(60) % 3)
    assert same(first.state_dict(), second.state_dict())


@pytest.mark.parametrize(
    ("patterns", "error", "message"),
    [
        (torch.zeros(3, 5), ValueError, "same dimension"),
        (torch.full((3, 4), torch.nan), ValueError, "NaN"),
        (torch.zeros(0, 4), ValueError, "The next task has no patterns"),
    ],
)
def test_a_failed_second_phase_changes_nothing(patterns, error, message):
    buffer = first_phase()
    before = buffer.state_dict()
    with pytest.raises(error, match=message):
        buffer.refine(patterns)
    assert same(buffer.state_dict(), before)
    buffer.refine(clusters(seed=2))
    assert reserve(buffer) is None


def test_masses_of_the_next_task_count():
    new = torch.cat([clusters(seed=5, count=1, each=20), clusters(seed=6, each=5)])
    choices = []
    for masses in (None, torch.tensor([1.0] * 20 + [0.0] * 20), torch.tensor([0.0] * 20 + [1.0] * 20)):
        buffer = first_phase(6)
        buffer.refine(new, masses=masses)
        choices.append(buffer.ids.tolist())
    assert choices[1] != choices[2]
    alone = first_phase(6)
    alone.refine(new[:20])
    assert alone.ids.tolist() == choices[1]


# -- the tracker drives both phases


def test_the_tracker_refines_once_at_the_beginning_of_a_task():
    x, new = clusters(), clusters(seed=5, count=2, each=30)
    buffer = EnergyReplayBuffer(6, beta=BETA)
    tracker = ForgettingTracker(buffer, beta=BETA, probe_size=4, allow_changes=True)
    tracker.begin_task(TaskSource([x]))
    tracker.end_task(TaskSource([x]))
    by_hand = EnergyReplayBuffer(6, beta=BETA)
    by_hand.update(x, x, ids=torch.arange(60), task=0)
    assert buffer.ids.tolist() == by_hand.ids.tolist()
    assert reserve(buffer) is not None
    state = tracker.state_dict()
    other = ForgettingTracker(EnergyReplayBuffer(6, beta=BETA), beta=BETA, probe_size=4, allow_changes=True)
    other.load_state_dict(state)
    by_hand.refine(new)
    for each in (tracker, other):
        each.begin_task(TaskSource([new]))
        assert each.buffer.ids.tolist() == by_hand.ids.tolist()
        assert reserve(each.buffer) is None
        each.begin_task(TaskSource([new + 9.0]))  # a resumed run begins again: no third choice
        assert each.buffer.ids.tolist() == by_hand.ids.tolist()


class Level:
    """A model whose error on a sample is the square of its distance from one number."""

    num_timesteps = 10

    def noise(self, clean, timestep, noise):
        return clean

    def predict_clean(self, noisy, timestep, condition=None):
        return torch.full_like(noisy, 1.0 + timestep)

    def snr(self, timestep):
        return 1.0


def test_the_tracker_gives_losses_and_observed_energies():
    seen = []

    class Spy:
        needs_losses = True

        def select(self, c, k):
            seen.append(c)
            return torch.arange(k)

    buffer = EnergyReplayBuffer(5, Spy(), groups=None, beta=BETA)
    tracker = ForgettingTracker(buffer, beta=BETA, probe_size=4, timesteps=[1, 3])
    x = clusters(each=3)
    for task in range(3):
        data = x + task
        tracker.begin_task(TaskSource([data[:7], data[7:]]))
        tracker.end_task(TaskSource([data[:7], data[7:]]), denoiser=Level(), replay_ratio=0.25)
        rows = (data if task == 0 else torch.cat([x[:5], data])).double().numpy()
        expected = [np.mean([np.mean((row - 2.0) ** 2), np.mean((row - 4.0) ** 2)]) for row in rows]
        np.testing.assert_allclose(seen[-1].losses.numpy(), expected, rtol=1e-5)
    # the five samples of task 0 stayed: their energies under the next task's data and the replayed ones but themselves
    found = buffer.observed.numpy()
    assert found.shape == (5, 2)
    kept = x[:5].double().numpy()
    for boundary in (1, 2):
        patterns = np.concatenate([x.double().numpy() + boundary, kept])
        masses = np.array([0.75 / 12] * 12 + [0.25 / 5] * 5)
        expected = reference.energy(kept, patterns, BETA, masses=masses, exclude=12 + np.arange(5))
        np.testing.assert_allclose(found[:, boundary - 1], expected, rtol=1e-6)  # float32 vectors
    np.testing.assert_allclose(buffer.rises.numpy(), found[:, 1] - buffer.energies.numpy())


def test_losses_need_a_denoiser():
    tracker = ForgettingTracker(EnergyReplayBuffer(5, "high_loss"), beta=BETA)
    with pytest.raises(ValueError, match="needs the model's loss on every sample, but no denoiser is known"):
        tracker.end_task(TaskSource([clusters()]))
    assert tracker.history == []


# -- history and priorities


def test_history_follows_the_samples():
    buffer = EnergyReplayBuffer(3, "high_energy", groups=None)
    assert buffer.observed.shape == (0, 0)
    zeros = torch.zeros(4, 2)

    def feed(task, energies, **options):
        buffer.update(zeros, zeros, ids=ids_of(4, task), task=task, energies=torch.tensor(energies), **options)

    feed(0, [1.0, 2.0, 3.0, 4.0])
    assert buffer.ids.tolist() == [3, 2, 1]
    assert buffer.rises.tolist() == [0.0, 0.0, 0.0]
    feed(1, [0.0, 3.5, 0.0, 0.0], observed=torch.tensor([10.0, 20.0, 30.0]))
    assert buffer.ids.tolist() == [3, 1001, 2]
    assert same(buffer.observed, torch.tensor([[10.0], [torch.nan], [20.0]]).double())
    assert buffer.rises.tolist() == [6.0, 0.0, 17.0]
    feed(2, [9.0, 0.0, 0.0, 0.0], observed=torch.tensor([11.0, 21.0, torch.inf]))
    assert buffer.ids.tolist() == [2000, 3, 1001]
    assert same(buffer.observed, torch.tensor([[torch.nan] * 2, [10.0, 11.0], [torch.nan, 21.0]]).double())
    feed(3, [0.0] * 4, observed=torch.tensor([torch.inf, 1.0, 1.0]))
    assert buffer.rises.tolist() == [torch.inf, -3.0, -2.5]
    with pytest.raises(ValueError, match=r"observed must have shape \(3,\), got \(2,\)"):
        feed(4, [0.0] * 4, observed=torch.zeros(2))


@pytest.mark.parametrize("sampling", ["uniform", "energy", "rise", "gain"])
def test_draws_follow_the_priorities(sampling):
    from scipy.stats import chisquare

    buffer = EnergyReplayBuffer(6, "high_energy", groups="task", sampling=sampling)
    rows = torch.zeros(3, 1)
    buffer.update(rows, rows, ids=torch.arange(3), task=0, energies=torch.tensor([3.0, 2.0, 1.0]))
    if sampling == "rise":  # nothing has risen yet: all are equal
        assert chisquare(buffer.draw(3000).bincount(minlength=3).numpy()).pvalue > 0.01
    new = torch.tensor([9.0, 5.0, 2.0])
    observed = torch.tensor([4.0, 5.0, 2.0])  # rises 1, 3, 1
    buffer.update(rows, rows, ids=torch.arange(3) + 10, task=1, energies=new, observed=observed)
    assert buffer.ids.tolist() == [0, 1, 2, 10, 11, 12]
    rank = {
        "uniform": [1, 1, 1, 1, 1, 1],
        "energy": [3, 4.5, 6, 1, 2, 4.5],  # 3 2 1 9 5 2
        "rise": [2.5, 1, 2.5, 5, 5, 5],  # 1 3 1 0 0 0
        "gain": [1, 2, 3, 1, 2, 3],
    }[sampling]
    share = 1 / np.array(rank)
    counts = buffer.draw(12000).bincount(minlength=6).numpy()
    assert chisquare(counts, 12000 * share / share.sum()).pvalue > 0.01


@pytest.mark.parametrize("groups", [None, "task"])
def test_draws_by_weight_have_the_density_of_what_was_seen(groups):
    """A sample is drawn as often as there are samples to which it is the nearest kept one, over all tasks."""
    from scipy.stats import chisquare

    generator = torch.Generator().manual_seed(0)
    seen = [torch.randn(size, 2, generator=generator) + 3 * task for task, size in enumerate((120, 40))]
    buffer = EnergyReplayBuffer(12, "k_center", groups=groups, sampling="weight")
    offered = {}
    stands_for = torch.zeros(12, dtype=torch.float64)
    for task, vectors in enumerate(seen):
        ids = torch.arange(len(vectors)) + 1000 * task
        before = dict(zip(buffer.ids.tolist(), weights(buffer).tolist(), strict=True)) if task else {}
        offered |= dict(zip(ids.tolist(), vectors, strict=True))
        buffer.update(vectors, vectors, ids=ids, task=task, beta=1.0)
        kept = buffer.ids.tolist()
        counts = dict.fromkeys(kept, 0.0)
        for i, w in [*before.items(), *((i, 1.0) for i in ids.tolist())]:
            among = kept if groups is None else [k for k in kept if k // 1000 == i // 1000]
            counts[min(among, key=lambda k: (float((offered[k] - offered[i]).norm()), k != i))] += w
        stands_for = torch.tensor([counts[k] for k in kept])
    shares = buffer.draw_shares
    np.testing.assert_allclose(shares.numpy(), stands_for.numpy() / 160, atol=1e-12)
    assert chisquare(buffer.draw(8000).bincount(minlength=12).numpy(), 8000 * shares.numpy()).pvalue > 0.01


@pytest.mark.parametrize("sampling", ["weight", "gain"])
def test_replayed_samples_have_the_masses_of_their_draws(sampling):
    tasks = [torch.randn(30, 2, generator=torch.Generator().manual_seed(task)) for task in range(2)]
    tracker = ForgettingTracker(EnergyReplayBuffer(4, "herding", sampling=sampling), beta=1.0, probe_size=30)
    for task, vectors in enumerate(tasks):
        tracker.begin_task(TaskSource([vectors]))
        kept, shares = tracker.buffer.vectors.double(), tracker.buffer.draw_shares if task else None
        tracker.end_task(TaskSource([vectors]), replay_ratio=0.25 if task else 0.0)
    assert shares.unique().numel() > 1
    probe = tracker.history[1]["probes"][0]
    x = tracker.probe(0)["vectors"].double()
    new, replayed = torch.cdist(x, tasks[1].double()), torch.cdist(x, kept)
    terms = torch.cat(
        [0.75 / 30 * (-0.5 * new**2).exp(), 0.25 * shares * (-0.5 * replayed**2).exp() * (replayed > 0)], 1
    )
    total = 0.75 + 0.25 * (shares * (replayed > 0)).sum(1)
    np.testing.assert_allclose(probe["energy"].numpy(), -(terms.sum(1) / total).log().numpy(), atol=1e-5)
