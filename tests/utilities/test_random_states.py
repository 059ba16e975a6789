import random

import numpy as np
import pytest
import torch

from hopfield_replay.utilities.random_states import random_states_kept


def draw():
    return torch.rand(2).tolist(), random.random(), np.random.rand()  # noqa: NPY002


def test_states_come_back_also_after_an_error():
    torch.manual_seed(0), random.seed(0), np.random.seed(0)  # noqa: NPY002
    first = draw()
    torch.manual_seed(0), random.seed(0), np.random.seed(0)  # noqa: NPY002
    with pytest.raises(KeyError), random_states_kept():
        {}[str(draw())]
    assert draw() == first


@pytest.mark.parametrize("seed", [0, 5, 2**40, -3])
def test_a_seed_is_of_all_of_them(seed):
    found = []
    for _ in range(2):
        draw()
        with random_states_kept(seed):
            found.append(draw())
    assert found[0] == found[1]
