"""Long sequences of tasks and long streams of samples: what must not grow does not. Numbers: long_runs.py."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hopfield_replay import EnergyReplayBuffer, ForgettingMonitor, ForgettingTracker, TaskSource
from tests.reliability.long_runs import run_tasks, slope
from tests.utilities.test_nested import same

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),  # lightning; tiny data needs none
]
ROOT = Path(__file__).parents[2]


def test_the_slope_is_that_of_a_straight_line():
    each, low, high = slope([9, 9, *(3.0 * i + (-1) ** i for i in range(40))], skip=2)
    assert low < 3.0 < high
    assert each == pytest.approx(3.0, abs=0.02)
    assert slope([7, 5, 5, 5], skip=1) == (0.0, 0.0, 0.0)


def test_nothing_grows_over_many_tasks_when_bounds_are_given(tmp_path):
    pytest.importorskip("sklearn")
    rows, buffer = run_tasks(
        10, size=60, capacity=20, probe_size=16, storage=tmp_path, followed_tasks=3, history_size=2
    )
    assert len(buffer) == 20
    first, last = rows[4], rows[9]  # after the bounds are reached
    assert last["files"] == first["files"]
    assert last["record_kb"] == first["record_kb"]
    assert abs(last["tensors"] - first["tensors"]) <= 4  # a reserve, or None
    assert last["objects"] - first["objects"] < 100
    # the buffer's own history is one number for each sample and boundary; the reserve may be a little smaller or larger
    assert last["state_kb"] - first["state_kb"] < 5 * 20 * 8 / 1e3 + 30
    rows_alone = [file for file in tmp_path.iterdir() if file.name != "in_use"]  # beside the lock
    assert sum(file.stat().st_size for file in rows_alone) <= 20 * (64 * 4 + 8)


def test_without_bounds_a_record_grows_by_one_set_of_probes_for_each_task():
    pytest.importorskip("sklearn")
    rows, _ = run_tasks(4, size=60, capacity=20, probe_size=16)
    sizes = [row["record_kb"] for row in rows]
    assert sizes == pytest.approx([sizes[0] * (task + 1) for task in range(4)])


def source(task, n=30):
    return TaskSource([torch.randn(n, 3, generator=torch.Generator().manual_seed(task)) + task])


def run(tasks, tracker):
    for task in tasks:
        tracker.begin_task(source(task))
        tracker.end_task(source(task), replay_ratio=0.5)
    return tracker


def make(**bounds):
    return ForgettingTracker(EnergyReplayBuffer(6, "high_energy"), probe_size=4, **bounds)


def untimed(records):
    return [{name: value for name, value in record.items() if name != "seconds"} for record in records]


@pytest.mark.parametrize("followed", [1, 2, 3, 9])
@pytest.mark.parametrize("kept", [1, 2, None])
def test_bounds_leave_out_and_change_nothing_else(followed, kept):
    whole = run(range(6), make())
    bounded = run(range(6), make(followed_tasks=followed, history_size=kept))
    assert bounded.next_task == 6
    assert same(bounded.buffer.state_dict(), whole.buffer.state_dict())
    expected = [{**record, "probes": record["probes"][-followed:]} for record in whole.history][-(kept or 6) :]
    assert same(untimed(bounded.history), untimed(expected))


@pytest.mark.parametrize(
    "bounds", [{"history_size": 1}, {"followed_tasks": 2}, {"followed_tasks": 1, "history_size": 2}]
)
def test_a_bounded_tracker_resumes(bounds):
    whole = run(range(5), make(**bounds))
    resumed = make(**bounds)
    resumed.load_state_dict(run(range(3), make(**bounds)).state_dict())
    assert resumed.next_task == 3
    run(range(3, 5), resumed)
    assert same(untimed(resumed.history), untimed(whole.history))


@pytest.mark.parametrize("name", ["followed_tasks", "history_size"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "all"])
def test_bounds_are_whole_numbers(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a whole number >= 1, or None for no bound, got {value!r}"):
        ForgettingMonitor(**{name: value})


def test_the_monitor_hands_the_bounds_on():
    tracker = ForgettingMonitor(followed_tasks=7, history_size=8).tracker
    assert (tracker.followed_tasks, tracker.history_size) == (7, 8)


def test_an_online_stream_of_avalanche_keeps_one_record():
    pytest.importorskip("avalanche")
    from avalanche.benchmarks.utils import make_avalanche_dataset
    from torch.utils.data import TensorDataset

    from hopfield_replay.avalanche import EnergyPrioritizedBuffer

    policy = EnergyPrioritizedBuffer(4, policy="random", groups=None, beta=1.0)
    for task in range(5):
        policy.update_from_dataset(make_avalanche_dataset(TensorDataset(torch.rand(5, 2) + task)))
    assert [record["task"] for record in policy._tracker.history] == [4]
    assert len(policy._tracker._probes) == len(policy._tracker.history[0]["probes"]) == 1


def test_a_stream_of_samples_stays_within_its_limit():
    """In a process of its own, whose private memory is limited."""
    command = "-m tests.reliability.long_runs stream --samples 24000 --chunk 1200 --capacity 200 --policy high_energy"
    given_back = {f"MALLOC_{name}_THRESHOLD_": "65536" for name in ("MMAP", "TRIM")}  # what is freed, at once
    result = subprocess.run(
        [sys.executable, *command.split()], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", **given_back},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    assert '"samples": 24000, "kept": 200, "bytes on disk": 51200' in result.stdout
    each = float(re.search(r"each chunk ([-+.e\d]+)", result.stdout)[1])
    assert abs(each) < 0.1, result.stdout  # MB; a chunk is 0.6 MB of samples and vectors
