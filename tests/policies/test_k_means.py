"""KMeans as a policy: whatever the order of arrival, by the weights of what is kept, replayed by cluster."""

import torch

from hopfield_replay import EnergyReplayBuffer
from hopfield_replay.policies import KMeans, requirements
from hopfield_replay.policies.candidates import Candidates, sample_keys


def candidates(n=30, **more):
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(0)) + 6.0 * (torch.arange(n) % 3 == 0)[:, None]
    ids = torch.arange(n)
    return Candidates(ids, torch.zeros_like(ids), torch.zeros(n, dtype=torch.float64), x, sample_keys(ids, 0), **more)


def test_order_of_arrival_does_not_matter_and_weights_do():
    pool = candidates()
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    chosen = pool.ids[KMeans().select(pool, 4)]
    assert torch.equal(pool.pick(order).ids[KMeans().select(pool.pick(order), 4)], chosen)
    heavy = candidates(weights=torch.where(torch.arange(30) == 7, 1e6, 1.0).double())
    assert KMeans().select(heavy, 1).tolist() == [7]


def test_a_buffer_replays_each_as_often_as_its_cluster_is_large():
    pool = candidates()
    buffer = EnergyReplayBuffer(2, "k_means", beta=1.0)
    buffer.update(pool.vectors, pool.vectors, ids=pool.ids, task=0)
    assert buffer.sampling == "weight"
    assert buffer.weights.tolist() == [20.0, 10.0]
    torch.testing.assert_close(buffer.draw_shares, torch.tensor([2 / 3, 1 / 3], dtype=torch.float64))
    needs = requirements(KMeans())
    assert (needs.energies, needs.weights, needs.rises, needs.oversample) == (False, True, False, 1)
