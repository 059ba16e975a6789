"""The random keys of samples, and what joining candidates keeps."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from hopfield_replay.policies.candidates import Candidates, as_plain, check_join, from_plain, sample_keys


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


def known(n, start=0, **more):
    ids = torch.arange(start, start + n)
    reals = torch.arange(n, dtype=torch.float64)
    return Candidates(ids, torch.zeros_like(ids), reals, torch.ones(n, 2), sample_keys(ids, 0), **more)


def test_joining_keeps_what_both_sides_know():
    labels = torch.tensor([1, 2, 3])
    losses = torch.ones(3, dtype=torch.float64)
    both = known(3, labels=labels, losses=losses).join(known(3, start=10, labels=labels))
    assert both.ids.tolist() == [0, 1, 2, 10, 11, 12]
    assert both.labels.tolist() == [1, 2, 3, 1, 2, 3]
    assert both.losses is None
    assert both.weights is None
    weighed = known(2, weights=torch.tensor([4.0, 5.0])).join(known(1, start=10))
    assert weighed.weights.tolist() == [4.0, 5.0, 1.0]  # who is not weighed stands for itself


def test_picking_and_going_through_plain_tensors():
    pool = known(4, labels=torch.tensor([5, 6, 7, 8]))
    picked = pool.pick(torch.tensor([3, 1]))
    assert (picked.ids.tolist(), picked.energies.tolist(), picked.labels.tolist()) == ([3, 1], [3.0, 1.0], [8, 6])
    back = from_plain(as_plain(picked))
    for name, value in as_plain(picked).items():
        assert getattr(back, name) is value or torch.equal(getattr(back, name), value)


def test_what_cannot_be_of_one_pool():
    with pytest.raises(ValueError, match="do not fit"):
        check_join(known(3), known(3, start=2))
    with pytest.raises(ValueError, match="do not fit"):
        check_join(known(3), known(3, start=5, labels=torch.zeros(3, dtype=torch.int64)))
