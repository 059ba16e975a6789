import pytest
import torch

from hopfield_replay.functional import equal_quotas


def test_equal_quotas_share_what_small_groups_leave():
    groups = torch.tensor([0] * 2 + [1] * 10 + [2] * 5 + [4] * 1)
    assert equal_quotas(groups, 18).tolist() == [2, 10, 5, 0, 1]
    assert equal_quotas(groups, 11).tolist() == [2, 4, 4, 0, 1]
    assert equal_quotas(groups, 2).tolist() == [1, 1, 0, 0, 0]


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="number of candidates, 3, got 4"):
        equal_quotas(torch.tensor([0, 0, 1]), 4)
    with pytest.raises(ValueError, match="from 0"):
        equal_quotas(torch.tensor([0, -1]), 1)
    with pytest.raises(TypeError, match="integers"):
        equal_quotas(torch.tensor([0.0, 1.0]), 1)
