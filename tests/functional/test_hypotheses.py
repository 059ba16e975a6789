import math

import pytest

from hopfield_replay.functional.hypotheses import holm, student_tail

stats = pytest.importorskip("scipy.stats")


@pytest.mark.parametrize("freedom", [1, 2, 5, 19, 300, 100_000])
@pytest.mark.parametrize("t", [-30.0, -2.5, -1e-9, 0.0, 0.3, 1.0, 3.7, 12.0])
def test_the_tail_of_students_t(freedom, t):
    wanted = stats.t.sf(t, freedom)
    assert student_tail(t, freedom) == pytest.approx(wanted, rel=1e-7, abs=1e-300)


def test_the_tail_needs_a_number_and_freedom():
    assert (student_tail(math.inf, 2), student_tail(-math.inf, 2)) == (0.0, 1.0)
    for t, freedom in ((math.nan, 3), (1.0, 0)):
        with pytest.raises(ValueError, match="needs a number and freedom >= 1"):
            student_tail(t, freedom)


def test_holm_steps_down():
    chances = [0.2, 0.001, 0.02, 0.011, 0.9]
    order = sorted(chances)
    rejected = 0  # by the definition: reject in order while p lies below alpha over what is left
    while rejected < 5 and order[rejected] <= 0.05 / (5 - rejected):
        rejected += 1
    assert sum(adjusted <= 0.05 for adjusted in holm(chances)) == rejected == 2
    assert holm([]) == []
