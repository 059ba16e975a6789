"""Tasks under DeepSpeed's ZeRO in two processes: trained and measured as by one; what is refused says why."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hopfield_replay import EnergyReplayBuffer, ForgettingMonitor, ReplayDataModule, fit_tasks
from hopfield_replay.functional import reconstruction_error
from tests.lightning.run_fsdp import Diffusion, denoiser, odd
from tests.lightning.small import Images, energies_of, same, trainer

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),  # lightning; tiny data needs none
    pytest.mark.filterwarnings("ignore:.*could not be verified"),  # ours: the step calls the network without a time
]
pytest.importorskip("deepspeed", reason="DeepSpeed is not installed", exc_type=ImportError)
ROOT = Path(__file__).parents[2]


def two_processes(folder, stage):
    plain = {name: value for name, value in os.environ.items() if name not in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.lightning.run_deepspeed", str(folder), str(stage)],
        cwd=ROOT, env={**plain, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.fixture(scope="module", params=[1, 2])
def ranks(request, tmp_path_factory):
    return two_processes(tmp_path_factory.mktemp("zero"), request.param)


def test_all_processes_know_the_same(ranks):
    first, second = ranks
    assert same(first["history"], second["history"])
    assert same(first["weights"], second["weights"])
    assert same(*({k: v for k, v in rank["buffer"].items() if k != "generator"} for rank in ranks))


def test_errors_are_those_of_the_whole_model(ranks):
    module = Diffusion()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    module.load_state_dict(ranks[0]["weights"])
    assert not same(before, ranks[0]["weights"])
    record = ranks[0]["history"][-1]
    assert len(record["probes"]) == 2
    for task, probe in enumerate(record["probes"]):
        at = probe["ids"] & ((1 << 39) - 1)
        images = Images(task, 13).images[at]
        expected = reconstruction_error(denoiser(module), images, record["timesteps"], 0, ids=probe["ids"])
        torch.testing.assert_close(probe["error"], expected, rtol=1e-5, atol=1e-8)
    earlier = ranks[0]["history"][0]["probes"][0]["error"]
    assert not torch.allclose(earlier, record["probes"][0]["error"])  # measured anew, with other weights


def test_the_ledger_is_that_of_one_process(ranks):
    buffer = EnergyReplayBuffer(7, "random", groups="task")
    monitor = ForgettingMonitor(buffer, probe_size=6, denoiser=denoiser)
    tasks = [ReplayDataModule(odd(task), buffer, replay_ratio=0.4) for task in range(2)]
    fit_tasks(trainer(monitor, max_epochs=1), Diffusion(), tasks)
    without = [
        [
            [{k: v for k, v in probe.items() if not k.startswith("error")} for probe in energies_of(record)]
            for record in history
        ]
        for history in (ranks[0]["history"], [record.to_dict() for record in monitor.history])
    ]
    assert same(*without)
    assert same(ranks[0]["buffer"], buffer.state_dict())


def test_the_first_task_is_replayed_in_the_second(ranks):
    for rank in ranks:
        labels = [set(batch.tolist()) for batch in rank["seen"]]
        second = [seen for seen in labels if 1 in seen]
        assert second
        assert all(0 in seen for seen in second)


def test_checkpoints_are_folders(ranks):
    for rank in ranks:
        assert "OnTheCpu writes checkpoints as folders, which are never whole at one moment" in rank["folders"]


def test_split_weights_are_refused(tmp_path):
    for rank in two_processes(tmp_path, 3):
        assert "OnTheCpu at stage 3 splits the weights" in rank["refused"]
