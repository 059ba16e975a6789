import numpy as np
import pytest
import torch

from hopfield_replay.theory import NewTask, Rotation, cluster_and_outlier, compare_policies, mixed_density
from hopfield_replay.theory.selection import KNOWING, SelectionResult
from tests.theory import reference

BETA, K = 12.0, 4


@pytest.fixture(scope="module")
def comparison():
    def draw(number):
        return mixed_density((6, 5), (0.3, 0.7), 3, d=12, seed=number), Rotation(0.3), BETA

    return compare_policies(draw, K, draws=5, replay_share=0.25, seed=2)


def protected(number, chosen):
    """Energy that a replay set protects, by the energies of the concatenated sets."""
    setting = mixed_density((6, 5), (0.3, 0.7), 3, d=12, seed=number)
    stored = setting.patterns.numpy()
    new = Rotation(0.3).apply(setting.patterns, torch.Generator().manual_seed(2 + number)).patterns.numpy()
    mass = 14 * 0.25 / (0.75 * K)  # in units of one new pattern
    weights = np.concatenate([np.ones(14), np.full(len(chosen), mass)])
    both = np.concatenate([new, stored[list(chosen)]])
    gain = [reference.energy(x, new, BETA) - reference.energy(x, both, BETA, weights) for x in stored]
    rise = [reference.energy(x, new, BETA) - reference.energy(x, stored, BETA) for x in stored]
    alone = [reference.energy(x, np.delete(stored, i, 0), BETA) for i, x in enumerate(stored)]
    return np.array(gain), np.array(rise), np.array(alone)


def test_highest_energies_against_concatenated_sets(comparison):
    arm = next(a for a in comparison.arms if a.policy == "high_energy")
    means, tails, isolated = [], [], []
    for number in range(5):
        _, rise, alone = protected(number, [0])
        gain = protected(number, np.argsort(-alone)[:K])[0]
        means.append(gain.mean())
        tails.append(gain[rise.argmax()])  # a tenth of 14, rounded
        isolated.append(gain[alone.argmax()])
    assert arm.mean.mean == pytest.approx(np.mean(means), rel=1e-9)
    assert arm.tail.mean == pytest.approx(np.mean(tails), rel=1e-9)
    assert arm.isolated.mean == pytest.approx(np.mean(isolated), rel=1e-9)


def test_greedy_that_knows_the_task_is_best_and_certified(comparison):
    arms = {a.policy: a for a in comparison.arms}
    assert comparison.arms[0].policy == KNOWING[0]
    assert max(a.tail.mean for a in arms.values()) == arms[KNOWING[1]].tail.mean
    assert all(0 < a.share_of_bound <= 1 for a in arms.values())
    assert comparison.exceeding == 0
    assert arms["random"].mean_over_random.mean == 0
    difference = arms["high_energy"].mean.mean - arms["random"].mean.mean
    assert arms["high_energy"].mean_over_random.mean == pytest.approx(difference)


def test_every_policy_is_compared(comparison):
    names = {a.policy for a in comparison.arms}
    assert names >= {"high_energy", "low_energy", "random", "proportional", "greedy_gain", "k_center", "herding"}
    assert names >= {"nearest_neighbour", "facility_location", *KNOWING}


def test_the_whole_set_is_the_optimum():
    def draw(number):
        setting = cluster_and_outlier(3, 0.3, 8)
        return setting, NewTask(-setting.patterns), 5.0

    found = compare_policies(draw, 4, draws=2)
    assert len({round(a.mean.mean, 12) for a in found.arms}) == 1


def test_result_is_plain_and_drawn(comparison):
    result = SelectionResult(0.25, (comparison,))
    assert result.to_dict()["comparisons"][0]["k"] == K
    sets = len(comparison.arms) * comparison.draws
    assert f"0 of {sets} replay sets exceed the certified bound" in " ".join(result.findings())
    assert KNOWING[0] in result.table()
    assert "mixed density (d=12)" in result.verdict()
    figure = pytest.importorskip("matplotlib.figure").Figure
    assert isinstance(result.figure(), figure)


def test_refuses():
    with pytest.raises(ValueError, match="draws must be >= 2"):
        compare_policies(lambda number: (cluster_and_outlier(), Rotation(0.1), 8.0), 2, draws=1)
