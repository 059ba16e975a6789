"""Records: read by attribute and by name, plain on request, and refused unless every part is what it must be."""

import copy

import pytest
import torch

from hopfield_replay import ForgettingTracker, TaskSource
from hopfield_replay.tracker.record import history_from


def history():
    tracker = ForgettingTracker(None, beta=1.0, probe_size=5)
    for task in range(2):
        source = TaskSource([torch.randn(8, 3, generator=torch.Generator().manual_seed(task))])
        tracker.begin_task(source)
        tracker.end_task(source)
    return tracker.state_dict()


def test_a_real_history_passes():
    state = history()
    records, probes = history_from(state)
    assert [record.task for record in records] == [0, 1]
    assert [record.to_dict() for record in records] == state["history"]
    assert [probe.to_dict() for probe in probes] == state["probes"]


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
    state = copy.deepcopy(history())
    parent = state
    for step in path[:-1]:
        parent = parent[step]
    parent[path[-1]] = value
    with pytest.raises((ValueError, TypeError, KeyError)):
        history_from(state)


def test_records_read_like_the_dicts_that_they_make():
    record = history_from(history())[0][1]
    assert record["task"] == record.task == 1
    assert record["probes"][0]["energy"] is record.probes[0].energy
    assert set(record.probes[0]) == set(record.probes[0].to_dict())
    assert len(record) == len(record.to_dict())
    with pytest.raises(KeyError):
        record["intrinsic"]
    with pytest.raises(AttributeError):
        record.task = 3
