import math

import pytest
import torch

from hopfield_replay.functional.task_matrix import task_summary

NAN = math.nan
MATRIX = [[1.0, NAN, NAN], [4.0, 2.0, NAN], [3.0, 7.0, 5.0]]


def test_by_hand():
    got = task_summary(torch.tensor(MATRIX))
    assert got.tasks == 3
    assert got.average_final == pytest.approx((3 + 7 + 5) / 3)
    assert got.average_incremental == pytest.approx((1 + 3 + 5) / 3)
    assert got.forgetting_rate == pytest.approx(((3 - 1) + (7 - 2)) / 2)
    assert got.backward_transfer == pytest.approx(-3.5)
    assert got.forgetting == pytest.approx(((3 - 1) + (7 - 2)) / 2)


def test_forgetting_is_measured_from_the_best_and_the_rate_from_the_start():
    got = task_summary(torch.tensor([[4.0, 0, 0], [1.0, 2.0, 0], [3.0, 2.0, 0.0]]))
    assert got.forgetting_rate == pytest.approx((-1 + 0) / 2)
    assert got.forgetting == pytest.approx((2 + 0) / 2)


def test_incomplete_matrices_are_summed_up_to_the_last_complete_row():
    rows = [row[:] for row in MATRIX]
    rows[2][1] = NAN
    got = task_summary(torch.tensor(rows))
    assert (got.tasks, got.average_final, got.forgetting) == (2, 3.0, 3.0)
    first = task_summary(torch.tensor([[1.0]]))
    assert (first.tasks, first.average_final) == (1, 1.0)
    assert math.isnan(first.forgetting)
    assert math.isnan(first.backward_transfer)
    assert math.isnan(task_summary(torch.full((2, 2), NAN)).average_final)


def test_bad_matrices():
    with pytest.raises(TypeError, match="Tensor"):
        task_summary(MATRIX)
    with pytest.raises(ValueError, match="square"):
        task_summary(torch.zeros(2, 3))
