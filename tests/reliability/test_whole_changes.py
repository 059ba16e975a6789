"""Hit at any line by an exception that comes from outside, a boundary is made as a whole or not at all."""

import copy
import signal

import pytest
import torch

from hopfield_replay import EnergyReplayBuffer, ForgettingTracker, TaskSource
from tests.utilities.test_interrupts import lines_of, no_collector  # noqa: F401  # a fixture
from tests.utilities.test_nested import same

pytestmark = pytest.mark.heavy


def images(task, n=12):
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(task))


def tracker(folder, policy, tasks, begin):
    """A tracker with so many tasks behind it, and perhaps the next one begun."""
    buffer = EnergyReplayBuffer(5, policy, storage=folder)
    found = ForgettingTracker(buffer, probe_size=3)
    for task in range(tasks):
        source = TaskSource([images(task)])
        found.begin_task(source)
        found.end_task(source)
    if begin:
        found.begin_task(TaskSource([images(tasks)]))
    return found


def state_of(found):
    state = copy.deepcopy(found.state_dict())
    for record in state["history"]:
        record["seconds"] = 0.0
    return state


CHANGES = {
    "end_task": (True, lambda found, other: found.end_task(TaskSource([images(1)]))),
    "begin_task": (False, lambda found, other: found.begin_task(TaskSource([images(1)]))),
    "load_state_dict": (True, lambda found, other: found.load_state_dict(other)),
}


@pytest.mark.parametrize("storage", [False, True])
@pytest.mark.parametrize("name", CHANGES)
def test_hit_at_any_line_the_state_is_of_before_or_of_after(tmp_path, name, storage):
    begin, change = CHANGES[name]
    number = iter(range(10**6))

    def fresh():
        return tracker(tmp_path / str(next(number)) if storage else None, "greedy_gain", 1, begin)

    other = tracker(None, "greedy_gain", 3, True).state_dict()
    found = fresh()
    before = state_of(found)
    total, _ = lines_of(lambda: change(found, other))
    after = state_of(found)
    assert not same(before, after)
    assert total > 300
    # everywhere, and densely where the change is made: towards the end
    places = sorted({*range(1, total, max(1, total // 40)), *range(max(1, total - 80), total + 1)})
    seen = {"before": 0, "after": 0}
    for place in places:
        found = fresh()
        lines_of(lambda found=found: change(found, other), place)
        state = state_of(found)
        kind = "after" if same(state, after) else "before"
        if kind == "before":
            assert same(state, before), f"half changed at line {place} of {total}"
        seen[kind] += 1
    assert min(seen.values()) > 3, seen


def test_an_exit_at_any_moment_of_a_boundary(tmp_path):
    """A handler of the user's that exits, called by a clock: the history and the buffer belong together, always."""

    def leave(number, frame):
        raise SystemExit(1)

    before = signal.signal(signal.SIGALRM, leave)
    draw = torch.Generator().manual_seed(0)
    outcomes = set()
    try:
        for _ in range(40):
            found = tracker(None, "random", 1, True)
            delay = float(torch.rand((), generator=draw)) * 0.03 + 1e-4
            signal.setitimer(signal.ITIMER_REAL, delay)
            try:
                found.end_task(TaskSource([images(1)]))
            except SystemExit:
                pass
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            learned = len(found.history)
            assert found.buffer.newest_task == learned - 1
            assert set(found.buffer.tasks.tolist()) <= set(range(learned))
            where = found.buffer.ids - (found.buffer.tasks << 40)
            for task, place, kept in zip(found.buffer.tasks, where, found.buffer.gather(torch.arange(5)), strict=True):
                assert torch.equal(kept, images(int(task))[int(place)])
            outcomes.add(learned)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert outcomes <= {1, 2}
