"""How much is replayed beside batches of any size, against exact fractions; and that a position can be resumed."""

from fractions import Fraction

import pytest
import torch

from hopfield_replay import EnergyReplayBuffer
from hopfield_replay.buffer.replay_stream import ReplayStream, check_replay_ratio


def buffer(n=10):
    made = EnergyReplayBuffer(n, "random", beta=1.0)
    made.update(torch.arange(float(n))[:, None], torch.arange(float(n))[:, None], ids=torch.arange(n), task=0)
    return made


@pytest.mark.parametrize("ratio", [0.5, 0.25, 0.1, 0.9])
def test_the_share_is_right_over_an_epoch(ratio):
    stream = ReplayStream([], buffer(), ratio, seed=0)
    exact, drawn, new = Fraction(ratio).limit_denominator(100), 0, 0
    for size in [8, 8, 8, 3, 1, 1, 1, 8, 5]:
        batch = stream.draw(size)
        drawn, new = drawn + (0 if batch is None else len(batch)), new + size
        assert abs(drawn - new * exact / (1 - exact)) <= Fraction(1, 2)


def test_a_schedule_sees_task_and_step():
    seen = []

    def ratio(task, step):
        seen.append((task, step))
        return 0.5 if step % 2 else 0.0

    stream = ReplayStream([None] * 4, buffer(), ratio, seed=0)
    sizes = [batch if batch is None else len(batch) for batch in (stream.draw(6) for _ in range(4))]
    assert sizes == [None, 6, None, 6]
    assert seen == [(1, 0), (1, 1), (1, 2), (1, 3)]
    assert stream.share == pytest.approx(12 / 36)


def test_draws_depend_on_seed_and_epoch_and_go_on_after_a_resume():
    def draws(stream, count):
        return [stream.draw(4).flatten().tolist() for _ in range(count)]

    first, same, other = (ReplayStream([], buffer(), 0.5, seed=seed) for seed in (0, 0, 1))
    whole = draws(first, 6)
    assert draws(same, 2) == whole[:2]
    assert draws(other, 2) != whole[:2]
    resumed = ReplayStream([], buffer(), 0.5, seed=0)
    resumed.load_state_dict(same.state_dict())
    assert draws(resumed, 4) == whole[2:]
    resumed.set_epoch(1)
    fresh = ReplayStream([], buffer(), 0.5, seed=0)
    fresh.set_epoch(1)
    second = draws(fresh, 6)
    assert draws(resumed, 6) == second
    assert second != whole


def test_an_empty_buffer_draws_nothing():
    assert ReplayStream([], EnergyReplayBuffer(3), 0.5, seed=0).draw(8) is None


@pytest.mark.parametrize(
    ("ratio", "error"), [(0.0, ValueError), (1.0, ValueError), ("half", TypeError), (True, TypeError)]
)
def test_ratios_that_are_none(ratio, error):
    with pytest.raises(error, match="replay_ratio must"):
        check_replay_ratio(ratio)
