"""Two and three processes come to the buffer and energies of one, under every policy; none waits for one that failed.

Everything is compared exactly: what the history knows depends on the data alone, however many processes read it.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from hopfield_replay.policies import POLICIES
from tests.lightning.small import same
from tests.reliability import ddp

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),  # lightning; tiny data needs none
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),  # lightning, at every fit
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),  # lightning; the folder was copied
    pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed"),
]
ROOT = Path(__file__).parents[2]
LAUNCHED = ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Ended:
    """How a run of several processes ended, how long after one failed, and what each of them knew before."""

    def __init__(self, commands, folder, processes):
        plain = {name: value for name, value in os.environ.items() if name not in LAUNCHED}
        environment = {**plain, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        self.folder = folder
        with (folder / "log").open("w") as log:
            running = [subprocess.Popen(c, cwd=ROOT, env=environment, stdout=log, stderr=log) for c in commands]
            try:
                self.statuses = [process.wait(300) for process in running]
            finally:
                for process in running:
                    process.kill()  # where it has ended: does nothing
        self.text = (folder / "log").read_text()
        files = [folder / f"rank{rank}.pt" for rank in range(processes)]
        assert all(file.exists() for file in files), self.text[-5000:]
        self.ranks = [torch.load(file, weights_only=True) for file in files]
        failed = float((folder / "failing").read_text())
        while self.left() and time.time() < failed + 120:
            time.sleep(0.1)
        self.seconds = time.time() - failed

    def left(self):
        """Processes that are still there."""
        return [rank["pid"] for rank in self.ranks if Path(f"/proc/{rank['pid']}").exists()]


def launch(folder, processes, ending, policies=POLICIES):
    command = [sys.executable, "-m", "tests.reliability.ddp", str(folder), str(processes), ending, *policies]
    return Ended([command], folder, processes)


@pytest.fixture(scope="module")
def alone():
    return {policy: ddp.run(policy=policy) for policy in POLICIES}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return launch(tmp_path_factory.mktemp("two"), 2, "raise 1")


@pytest.fixture(scope="module")
def three(tmp_path_factory, two):
    folder = tmp_path_factory.mktemp("three")
    shutil.copytree(two.folder / "kept", folder / "cut")
    return launch(folder, 3, "kill 0", ["greedy_gain", "high_loss"])  # with and without what a model measures


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """Two "machines" of one process each, which meet at a port of this one."""
    folder = tmp_path_factory.mktemp("nodes")
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{port}"),
        *("-m", "tests.reliability.ddp", str(folder), "2", "raise 0", "greedy_gain"),
    ]
    return Ended([command] * 2, folder, 2)


def check(found, expected):
    assert same(found["history"], expected["history"])
    assert same(found["buffer"], expected["buffer"])


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_chooses_what_one_process_chooses(two, three, alone, policy):
    for rank in [*two.ranks, *(three.ranks if policy in ("greedy_gain", "high_loss") else [])]:
        check(rank["policies"][policy], alone[policy])


def test_two_nodes_under_torchrun_come_to_the_same(nodes, alone):
    for rank in nodes.ranks:
        check(rank["policies"]["greedy_gain"], alone["greedy_gain"])
        check(rank["resumed"], alone["greedy_gain"])


def test_a_run_resumes_with_its_own_and_with_another_number_of_processes(two, three, alone, tmp_path):
    assert all(rank["cut"] for rank in two.ranks)
    assert not any("cut" in rank for rank in three.ranks)
    for rank in [*two.ranks, *three.ranks]:  # the three go on with what the two have written
        check(rank["resumed"], alone["greedy_gain"])
        assert torch.equal(rank["resumed"]["weight"], two.ranks[0]["resumed"]["weight"]) == (rank in two.ranks)
    shutil.copytree(two.folder / "kept", tmp_path / "cut")
    check(ddp.run(folder=tmp_path / "cut", ckpt_path="last"), alone["greedy_gain"])


def test_where_one_process_cannot_read_its_share_all_stop_with_its_error(two, three, nodes):
    for found in (two, three, nodes):
        for failed in (0, 1):
            lost = f"OSError: sample {failed} is lost"
            for number, rank in enumerate(found.ranks):
                told = (
                    lost
                    if number == failed
                    else f"RuntimeError: Process {failed} failed while reading a few samples: {lost}"
                )
                assert rank["failing"][failed] == told


def test_processes_that_do_not_see_the_same_checkpoints_are_refused(two, three, nodes):
    for found in (two, three, nodes):
        for rank in found.ranks:
            assert "MisconfigurationException: The processes do not go on at the same place" in rank["apart"]
            assert "Every machine must see the folder of the checkpoints" in rank["apart"]


def test_a_process_that_fails_in_training_ends_the_run_with_its_error(two, three, nodes):
    for found in (two, nodes):
        assert all(found.statuses)
        assert "ValueError: this process gives up" in found.text
    assert three.statuses == [-signal.SIGKILL]
    for found in (two, three, nodes):
        assert not found.left()
        assert found.seconds < 60


def test_what_died_goes_on(two, three, nodes, alone):
    for found in (two, three, nodes):
        check(ddp.run(folder=found.folder / "dying", ckpt_path="last"), alone["greedy_gain"])
