"""States from files: what is taken apart only after it was found whole."""

import copy

import pytest
import torch

from hopfield_replay import ForgettingTracker, TaskSource
from hopfield_replay.utilities.states import check_format, check_ledger, check_plain, check_unshared


def ledger():
    tracker = ForgettingTracker(None, beta=1.0, probe_size=5)
    for task in range(2):
        source = TaskSource([torch.randn(8, 3, generator=torch.Generator().manual_seed(task))])
        tracker.begin_task(source)
        tracker.end_task(source)
    return tracker.state_dict()


def test_a_real_ledger_passes():
    check_ledger(ledger())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("history", 0, "task"), 1),
        (("history", 1, "beta"), "1.0"),
        (("history", 0, "probes", 0, "energy"), torch.zeros(4, dtype=torch.float64)),
        (("probes", 0, "ids"), torch.zeros(5)),
        (("probes", 1, "vectors"), torch.full((5, 3), torch.nan)),
        (("probes", 0, "task"), 3),
        (("probes",), {}),
        (("open_task",), 7),
        (("beta",), -1.0),
    ],
)
def test_damaged_parts_are_refused(path, value):
    state = copy.deepcopy(ledger())
    parent = state
    for step in path[:-1]:
        parent = parent[step]
    parent[path[-1]] = value
    with pytest.raises((ValueError, TypeError, KeyError)):
        check_ledger(state)


@pytest.mark.parametrize(
    ("state", "error"),
    [
        ({"x": torch.zeros(1).expand(1 << 30)}, ValueError),
        ({"x": torch.zeros(2, 2).to_sparse()}, ValueError),
        ({"x": torch.zeros(4, device="meta")}, ValueError),
        ({"x": {1, 2}}, TypeError),
    ],
)
def test_tensors_that_claim_more_than_they_hold_and_other_types(state, error):
    with pytest.raises(error):
        check_plain(state)


def test_many_views_of_one_memory():
    memory = torch.zeros(100)
    check_unshared({"a": memory, "b": torch.zeros(3)})
    with pytest.raises(ValueError, match="920 bytes are made of 400"):
        check_unshared({"a": memory, "b": memory[:50], "c": memory[20:]})


def test_the_format_is_named_without_printing_all_of_it():
    check_format({"format": "buffer 2"}, "buffer 2", "a buffer")
    with pytest.raises(ValueError, match="format 'buffer 1'"):
        check_format({"format": "buffer 1"}, "buffer 2", "a buffer")
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        check_format({"format": "x" * 10**6}, "buffer 2", "a buffer")
    assert len(str(caught.value)) < 300
