"""Weights and places of chosen samples, on sets small enough to count by hand."""

from dataclasses import replace

import torch

from hopfield_replay.buffer.choice import choose, place_in_group, weigh
from hopfield_replay.policies import HighEnergy
from tests.policies.test_baselines import candidates


def test_groups_share_the_places_and_a_group_without_new_samples_keeps_its_order():
    pool = replace(
        candidates(6, ids=torch.arange(6), energies=torch.tensor([0.0, 9.0, 1.0, 2.0, 5.0, 3.0])),
        tasks=torch.tensor([0, 0, 0, 1, 1, 1]),
    )
    fresh = torch.tensor([False, False, False, True, True, True])
    stays, spare = choose(pool, fresh, HighEnergy(), "task", 4)
    assert stays.tolist() == [0, 1, 4, 5]
    assert spare.tolist() == []


def test_weights_go_to_the_nearest_of_the_group_that_stays():
    pool = candidates(6, ids=torch.arange(6))
    vectors = torch.tensor([[0.0], [1.0], [1.1], [5.0], [5.1], [0.9]])
    pool = replace(pool, vectors=vectors, tasks=torch.tensor([0, 0, 1, 1, 0, 1]))
    alone = weigh(pool, torch.tensor([3, 1]), None)
    assert alone.weights.tolist() == [0.0, 4.0, 0.0, 2.0, 0.0, 0.0]
    grouped = weigh(alone, torch.tensor([3, 1]), "task")
    assert grouped.weights.tolist() == [0.0, 4.0, 0.0, 2.0, 0.0, 0.0]
    assert weigh(pool, torch.tensor([3, 1]), "task").weights.tolist() == [0.0, 3.0, 0.0, 3.0, 0.0, 0.0]


def test_identical_samples_keep_their_own_weight():
    pool = candidates(5, ids=torch.arange(5))  # all vectors are 0
    assert weigh(pool, torch.tensor([4, 2, 3]), None).weights.tolist() == [0.0, 0.0, 1.0, 1.0, 3.0]


def test_places_in_groups():
    assert place_in_group(torch.tensor([1, 0, 1, 1, 0, 2])).tolist() == [1, 1, 2, 3, 2, 1]
