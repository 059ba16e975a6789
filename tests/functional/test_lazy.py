import pytest

from hopfield_replay.functional._lazy import LazyGreedy


class Modular:
    """A sum of fixed gains, seen through bounds that are a little too high."""

    exact_bounds = False

    def __init__(self, gains, excess):
        self._gains, self._excess = gains, excess

    @property
    def candidates(self):
        return len(self._gains)

    def bound(self, index):
        return [self._gains[i] + self._excess[i] for i in index]

    def exact(self, index):
        return [self._gains[i] for i in index]

    def add(self, candidate):
        pass


def test_bounds_that_are_too_high_do_not_decide():
    greedy = LazyGreedy(Modular([1.0, 3.0, 2.0, 2.5], [9.0, 0.0, 5.0, 0.1]), [0] * 4, [4])
    greedy.run(4)
    assert greedy.picks == [1, 3, 2, 0]
    assert greedy.values == [3.0, 2.5, 2.0, 1.0]


@pytest.mark.parametrize("excess", [[0.0] * 3, [0.0, 0.1, 0.2], [0.2, 0.1, 0.0]])
def test_gains_that_differ_by_rounding_are_ties_for_the_lowest_index(excess):
    greedy = LazyGreedy(Modular([1.0, 1.0 + 2e-14, 1.0 + 1e-14], excess), [0] * 3, [3])
    greedy.run(3)
    assert greedy.picks == [0, 1, 2]


def test_largest_counts_each_group_up_to_its_quota():
    greedy = LazyGreedy(Modular([5.0, 4.0, 3.0, 2.0, 1.0], [0.0] * 5), [0, 0, 0, 1, 1], [1, 1])
    greedy.run(1)
    assert greedy.largest([1, 1]) == 4.0 + 2.0
    assert greedy.largest([2, 2]) == 4.0 + 3.0 + 2.0 + 1.0
    assert greedy.largest([1, 1]) == 4.0 + 2.0  # asking changes nothing
