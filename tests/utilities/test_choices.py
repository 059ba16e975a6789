import pytest

from hopfield_replay.policies import POLICIES
from hopfield_replay.utilities.choices import did_you_mean


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("greedygain", "greedy_gain"),
        ("Greedy Gain", "greedy_gain"),
        ("greedy", "greedy_gain"),
        ("kmeans", "k_means"),
        ("k-center", "k_center"),
        ("nearest_neighbor", "nearest_neighbour"),
        ("HighEnergy", "high_energy"),
    ],
)
def test_the_name_that_was_meant(given, meant):
    assert did_you_mean(given, POLICIES) == f" Did you mean {meant!r}?"


@pytest.mark.parametrize("given", ["best", "", "coreset", None, 3])
def test_nothing_is_guessed(given):
    assert did_you_mean(given, POLICIES) == ""
