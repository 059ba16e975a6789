"""What each policy keeps, against a literal choice; the random ones by the frequencies of their choices."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from hopfield_replay import EnergyReplayBuffer, balanced
from hopfield_replay.policies import POLICIES, HighEnergy, HighRise, NearestNeighbour, Policy, Random, as_policy
from hopfield_replay.policies.candidates import Candidates, sample_keys


def candidates(n=20, seed=0, ids=None, energies=None, key_seed=0):
    rng = np.random.default_rng(seed)
    ids = torch.from_numpy(rng.permutation(1000)[:n]) if ids is None else ids
    energies = torch.from_numpy(rng.normal(size=n)) if energies is None else energies
    return Candidates(
        ids,
        torch.zeros(n, dtype=torch.int64),
        energies,
        torch.zeros(n, 1),
        sample_keys(ids, key_seed),
        losses=1.0 + energies.abs(),
    )


def shuffled(c, seed=7):
    order = torch.randperm(len(c), generator=torch.Generator().manual_seed(seed))
    return c.pick(order)


@pytest.mark.parametrize("name", ["high_energy", "low_energy"])
def test_sorted_policies_with_ties(name):
    energies = torch.tensor([2.0, 1.0, 2.0, torch.inf, 1.0, -3.0, torch.inf], dtype=torch.float64)
    ids = torch.tensor([50, 40, 30, 20, 10, 0, 60])
    sign = -1 if name == "high_energy" else 1
    expected = [i for _, _, i in sorted((sign * float(e), int(n), i) for i, (e, n) in enumerate(zip(energies, ids)))]  # noqa: B905
    for k in range(1, 8):
        assert as_policy(name).select(candidates(7, ids=ids, energies=energies), k).tolist() == expected[:k]


@pytest.mark.parametrize("name", POLICIES)
def test_choice_is_nested_distinct_and_does_not_depend_on_the_order(name):
    pool = candidates()
    policy = as_policy(name)
    everything = policy.select(pool, 20)
    assert sorted(everything.tolist()) == list(range(20))
    assert everything.dtype == torch.int64
    for k in (1, 7, 19):
        assert policy.select(pool, k).tolist() == everything[:k].tolist()
        other = shuffled(pool)
        assert other.ids[policy.select(other, k)].tolist() == pool.ids[everything[:k]].tolist()


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["random", "reservoir"])
def test_uniform_policies_take_each_sample_equally_often(name):
    counts = np.zeros(12)
    for trial in range(1000):
        pool = candidates(12, ids=torch.arange(12) + 100, key_seed=trial)
        counts[as_policy(name).select(pool, 4).numpy()] += 1
    # without replacement the counts vary less than independent ones: the test is on the safe side
    assert chisquare(counts).pvalue > 0.01
    assert counts.sum() == 4000


def test_random_and_reservoir_are_two_draws():
    pool = candidates(200)
    both = [set(as_policy(name).select(pool, 100).tolist()) for name in ("random", "reservoir")]
    assert both[0] != both[1]


def weights(energies):
    """Energy above the lowest, plus a hundredth of the mean of that; infinite ones count as the largest finite one."""
    top = max(e for e in energies if math.isfinite(e))
    above = [min(e, top) - min(energies) for e in energies]
    return [a + 0.01 * sum(above) / len(above) for a in above]


@pytest.mark.heavy
@pytest.mark.parametrize("energies", [[0.0, 1.0, 2.0, 5.0], [-3.0, -3.5, -1.0, math.inf], [4.0, 4.0, 4.0, 4.0]])
def test_proportional_picks_first_in_proportion_to_its_weights(energies):
    trials = 1500
    first, second = np.zeros(4), np.zeros(4)
    for trial in range(trials):
        pool = candidates(4, ids=torch.arange(4), energies=torch.tensor(energies).double(), key_seed=trial)
        picks = as_policy("proportional").select(pool, 2)
        first[picks[0]] += 1
        second[picks[1]] += 1
    share = np.array(weights(energies)) if max(energies) > min(energies) else np.ones(4)
    share = share / share.sum()
    assert chisquare(first, trials * share).pvalue > 0.01
    # then without replacement, from the others
    then = [sum(share[j] * share[i] / (1 - share[j]) for j in range(4) if j != i) for i in range(4)]
    assert chisquare(second, trials * np.array(then)).pvalue > 0.01


def test_proportional_with_no_finite_energy_is_uniform():
    pool = candidates(6, energies=torch.full((6,), torch.inf, dtype=torch.float64))
    assert torch.equal(as_policy("proportional").select(pool, 3), Random().select(pool, 3))


def test_high_rise_keeps_what_the_next_task_raises_most():
    pool = candidates()
    alone = as_policy("high_rise").select(pool, 20)
    assert torch.equal(alone, as_policy("low_energy").select(pool, 20))  # the next task is unknown: a far one
    after = torch.from_numpy(np.random.default_rng(3).normal(size=20))
    after[4], after[9] = torch.inf, torch.inf
    rises = [
        (-(float(new) - float(old)), int(i), n)
        for n, (new, old, i) in enumerate(zip(after, pool.energies, pool.ids, strict=True))
    ]
    expected = [n for _, _, n in sorted(rises)]
    known = replace(pool, next_energies=after)
    assert as_policy("high_rise").select(known, 7).tolist() == expected[:7]
    assert set(expected[:2]) == {4, 9}


def test_high_rise_waits_for_the_next_task():
    old = torch.tensor([[0.0], [0.2], [0.4], [9.0], [9.2], [9.4]])
    buffer = EnergyReplayBuffer(2, "high_rise")
    buffer.update(old, old, ids=torch.arange(6), task=0)
    buffer.refine(torch.tensor([[0.1], [0.3]]))  # the new task lies on the first three: the others rise
    assert set(buffer.ids.tolist()) <= {3, 4, 5}


@pytest.mark.parametrize("oversample", [0, 1.5, True])
def test_high_rise_checks_its_reserve(oversample):
    with pytest.raises(ValueError, match="oversample must be a whole number >= 1"):
        HighRise(oversample)


def test_names_and_objects():
    class First:
        def select(self, candidates, k):
            return torch.arange(k)

    for name in POLICIES:
        assert isinstance(as_policy(name), Policy)
    own = First()
    assert as_policy(own) is own
    with pytest.raises(ValueError, match=r"Unknown policy 'best'; choose one of .*'high_energy'.* or pass an object"):
        as_policy("best")
    for wrong in (HighEnergy, 3, None, len):
        with pytest.raises(TypeError, match="policy must be a name or an object with a method select"):
            as_policy(wrong)


# -- choices by vectors, losses and groups, written down literally


def cloud(n=18, seed=0, d=3, **fields):
    rng = np.random.default_rng(seed)
    vectors = torch.from_numpy(rng.normal(size=(n, d)))
    return replace(candidates(n, seed=seed), vectors=vectors, **fields)


def dist(a, b):
    return math.sqrt(sum((p - q) ** 2 for p, q in zip(a, b, strict=True)))


def literal_k_center(x, k):
    mean = [sum(column) / len(x) for column in zip(*x, strict=True)]
    picks = [min(x, key=lambda p: dist(p, mean))]
    while len(picks) < k:
        picks.append(max(x, key=lambda p: min(dist(p, q) for q in picks)))
    return picks


def literal_facility_location(x, k):
    picks = []
    while len(picks) < k:

        def left_over(p):  # rounded: two that are nearest to each other often gain alike, and the first wins
            return round(sum(min(dist(y, q) for q in [*picks, p]) for y in x), 6)

        picks.append(min((p for p in x if p not in picks), key=left_over))
    return picks


def literal_herding(x, k):
    mean = [sum(column) / len(x) for column in zip(*x, strict=True)]
    picks = []
    while len(picks) < k:
        left = [p for p in x if p not in picks]

        def off(p):
            together = [*picks, p]
            return dist([sum(column) / len(together) for column in zip(*together, strict=True)], mean)

        picks.append(min(left, key=off))
    return picks


def literal_nearest_neighbour(x, k):
    def isolation(p):
        return sorted(dist(p, q) for q in x if q is not p)[9]

    return sorted(x, key=isolation, reverse=True)[:k]


@pytest.mark.parametrize("name", ["k_center", "facility_location", "herding", "nearest_neighbour"])
@pytest.mark.parametrize("seed", range(3))
def test_geometric_policies(name, seed):
    pool = cloud(seed=seed)
    x = pool.vectors.tolist()
    expected = globals()[f"literal_{name}"]([x[i] for i in pool.ids.argsort()], 6)  # of equals the smaller id
    assert pool.vectors[as_policy(name).select(pool, 6)].tolist() == expected
    for k in (1, 4, 18):  # nested, distinct, and the same samples in any order of arrival
        picks = as_policy(name).select(pool, k)
        assert len(picks.unique()) == k
        assert pool.vectors[picks[: min(k, 6)]].tolist() == expected[:k]
    other = shuffled(pool)
    assert other.vectors[as_policy(name).select(other, 6)].tolist() == expected


def test_fewer_samples_than_neighbours():
    pool = cloud(4)
    x = pool.vectors.tolist()
    farthest = sorted(range(4), key=lambda i: (-max(dist(x[i], y) for y in x), int(pool.ids[i])))
    assert as_policy("nearest_neighbour").select(pool, 2).tolist() == farthest[:2]
    assert as_policy("nearest_neighbour").select(cloud(1), 1).tolist() == [0]
    with pytest.raises(ValueError, match="neighbours must be a whole number >= 1, got 0"):
        NearestNeighbour(0)


@pytest.mark.heavy
def test_high_loss_draws_in_proportion_to_the_losses():
    losses = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64)
    trials, first = 1500, np.zeros(4)
    for trial in range(trials):
        pool = replace(candidates(4, ids=torch.arange(4), key_seed=trial), losses=losses)
        first[as_policy("high_loss").select(pool, 2)[0]] += 1
    assert chisquare(first, trials * losses.numpy() / 7.5).pvalue > 0.01


def test_losses_of_zero_and_below_come_last_and_none_are_an_error():
    pool = replace(candidates(6), losses=torch.tensor([0.0, 3.0, -2.0, 1.0, 0.0, 2.0]).double())
    assert set(as_policy("high_loss").select(pool, 3).tolist()) == {1, 3, 5}
    assert len(as_policy("high_loss").select(pool, 6).unique()) == 6
    with pytest.raises(ValueError, match=r'"high_loss" needs losses: update\(..., losses=\) or a monitor'):
        as_policy("high_loss").select(replace(pool, losses=None), 2)


@pytest.mark.parametrize("by", ["task", "label"])
@pytest.mark.parametrize("seed", range(8))
def test_balanced_quotas_are_exact(by, seed):
    rng = np.random.default_rng(seed)
    groups = torch.from_numpy(rng.choice([3, 5, 8, 40], size=25, p=[0.1, 0.2, 0.3, 0.4]))
    pool = replace(candidates(25, seed=seed), **{"tasks" if by == "task" else "labels": groups})
    names, sizes = np.unique(groups.numpy(), return_counts=True)
    for k in (1, 3, 7, 14, 25):
        shares = dict.fromkeys(names.tolist(), 0)
        for _ in range(k):  # one place at a time to the poorest that has any left
            poorest = min((n for n, s in zip(names.tolist(), sizes) if shares[n] < s), key=lambda n: (shares[n], n))  # noqa: B905
            shares[poorest] += 1
        picks = balanced("high_energy", by=by).select(pool, k).tolist()
        for name, share in shares.items():
            members = [i for i in range(25) if int(groups[i]) == name]
            best = sorted(members, key=lambda i: -float(pool.energies[i]))[:share]
            assert [i for i in picks if int(groups[i]) == name] == best
        assert len(picks) == k
        assert picks == balanced("high_energy", by=by).select(pool, 25)[:k].tolist()  # nested


def test_balanced_passes_on_what_its_policy_needs():
    assert balanced("high_loss").needs_losses
    assert not balanced("greedy_gain").needs_losses
    assert (balanced("greedy_gain").oversample, balanced("random").oversample) == (4, 1)
    assert balanced("greedy_gain").needs_weights
    with pytest.raises(ValueError, match='by must be "task" or "label", got \'class\''):
        balanced("random", by="class")
    with pytest.raises(ValueError, match="Unknown policy 'best'"):
        balanced("best")
    with pytest.raises(ValueError, match="needs labels, and the candidates have none"):
        balanced("random", by="label").select(candidates(), 3)


def test_balanced_in_a_buffer_over_tasks():
    buffer = EnergyReplayBuffer(6, balanced("high_energy", by="label"), groups=None)
    labels = torch.tensor([0, 0, 0, 0, 0, 1, 1, 2])
    for task in range(2):
        energies = torch.arange(8.0) + 10 * task
        rows = torch.zeros(8, 1)
        buffer.update(rows, rows, ids=torch.arange(8) + 10 * task, task=task, labels=labels, energies=energies)
    assert sorted(buffer.ids.tolist()) == [7, 13, 14, 15, 16, 17]


# -- streams of batches


STREAMED = ("random", "reservoir", "high_energy", "low_energy", "high_loss")


@pytest.mark.heavy
@pytest.mark.parametrize("name", STREAMED)
@pytest.mark.parametrize("sizes", [[40], [7, 1, 20, 12], [1] * 40])
def test_the_choice_over_a_stream_is_that_of_all_at_once(name, sizes):
    rng = np.random.default_rng(3)
    energies, losses = torch.from_numpy(rng.normal(size=40)), torch.from_numpy(rng.exponential(size=40))
    arrival = torch.from_numpy(rng.permutation(40))
    everything = replace(candidates(40, ids=torch.arange(40), energies=energies), losses=losses)
    expected = as_policy(name).select(everything, 9).tolist()
    buffer = EnergyReplayBuffer(9, name)
    for part in arrival.split(sizes):
        rows = part[:, None].float()
        buffer.update(rows, rows, ids=part, task=0, energies=energies[part], losses=losses[part])
    assert buffer.ids.tolist() == expected
    assert buffer.gather(torch.arange(9)).flatten().tolist() == expected


def test_infinite_losses_are_named():
    rows = torch.zeros(3, 1)
    losses = torch.tensor([1.0, torch.inf, 2.0])
    with pytest.raises(ValueError, match=r"losses are infinite for ids \[11\]: has the training diverged"):
        EnergyReplayBuffer(2, "high_loss").update(rows, rows, ids=torch.arange(3) + 10, task=0, losses=losses)
    with pytest.raises(ValueError, match="losses must be a tensor of shape"):
        EnergyReplayBuffer(2, "high_loss").update(rows, rows, ids=torch.arange(3), task=0, losses=losses[:2])


def test_policies_show_what_they_were_given():
    """By default a log held an address in memory, another one in each run."""
    from hopfield_replay.policies import POLICIES, as_policy, balanced

    shown = {name: repr(as_policy(name)) for name in POLICIES}
    assert shown["high_rise"] == "HighRise(oversample=4)"
    assert shown["herding"] == "ByVectors(order=herding)"
    assert repr(balanced(as_policy("random"), by="label")) == "Balanced(policy=Random(), by='label')"
    assert not [text for text in shown.values() if " at 0x" in text]
