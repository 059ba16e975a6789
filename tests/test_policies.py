"""What each policy keeps, against a literal choice; the random ones by the frequencies of their choices."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, kstest

from hopfield_replay.candidates import Candidates, sample_keys
from hopfield_replay.policies import POLICIES, HighEnergy, Policy, Random, as_policy


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


def key(sample_id, seed):
    """SplitMix64's mixing function twice, in Python's whole numbers."""
    mask = (1 << 64) - 1

    def mix(z):
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    golden = 0x9E3779B97F4A7C15
    mixed = mix((mix((sample_id + golden) & mask) + seed * golden) & mask)
    return ((mixed >> 11) + 0.5) / 2**53


@pytest.mark.parametrize("seed", [0, 1, 12345, -2])
def test_keys_are_those_of_the_mixing_function(seed):
    ids = [0, 1, 2, (3 << 40) + 5, (3 << 40) + (1 << 39) + 5, 2**62, 17]
    assert sample_keys(torch.tensor(ids), seed).tolist() == [key(i, seed % 2**64) for i in ids]


def test_keys_are_uniform_and_unrelated_between_neighbours_and_seeds():
    ids = torch.arange(20000) + (2 << 40)
    keys, others = sample_keys(ids, 0).numpy(), sample_keys(ids, 1).numpy()
    assert kstest(keys, "uniform").pvalue > 0.01
    assert abs(np.corrcoef(keys, others)[0, 1]) < 0.03
    assert abs(np.corrcoef(keys[1:], keys[:-1])[0, 1]) < 0.03
    assert 0.0 < keys.min() < keys.max() < 1.0


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
