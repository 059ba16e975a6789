"""Scripts of these tests in two gloo processes on the CPU, and what is the same whatever spreads their model."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from hopfield_replay import EnergyReplayBuffer, ForgettingMonitor, ReplayDataModule, fit_tasks
from hopfield_replay.functional import reconstruction_error
from tests.lightning.small import Images, energies_of, same, trainer

ROOT = Path(__file__).parents[2]


def results_of(script, folder, *arguments, timeout=600, **environment):
    """What each process of ``tests/lightning/SCRIPT.py`` has written into the folder."""
    plain = {name: value for name, value in os.environ.items() if name not in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE")}
    done = subprocess.run(
        [sys.executable, "-m", f"tests.lightning.{script}", str(folder), *map(str, arguments)],
        cwd=ROOT, env={**plain, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **environment},
        capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(Path(folder) / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


def assert_errors_are_those_of_the_whole_model(ranks):
    from tests.lightning.run_fsdp import Diffusion, denoiser

    module = Diffusion()
    module.load_state_dict(ranks[0]["weights"])
    record = ranks[0]["history"][-1]
    assert len(record["probes"]) == 2
    for task, probe in enumerate(record["probes"]):
        at = probe["ids"] & ((1 << 39) - 1)
        images = Images(task, 13).images[at]
        expected = reconstruction_error(denoiser(module), images, record["timesteps"], 0, ids=probe["ids"])
        torch.testing.assert_close(probe["error"], expected, rtol=1e-5, atol=1e-8)
    earlier = ranks[0]["history"][0]["probes"][0]["error"]
    assert not torch.allclose(earlier, record["probes"][0]["error"])  # measured anew, with other weights


def assert_the_ledger_is_that_of_one_process(ranks):
    from tests.lightning.run_fsdp import Diffusion, denoiser, odd

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
