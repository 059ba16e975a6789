"""Two gloo processes on the CPU under DeepSpeed's ZeRO: what each of them holds after two tasks, and what is refused.

python -m tests.lightning.run_deepspeed FOLDER STAGE
"""

import os
import sys
import warnings
from pathlib import Path

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DeepSpeedStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from hopfield_replay import EnergyReplayBuffer, ForgettingMonitor, ReplayDataModule, fit_tasks
from tests.lightning.run_fsdp import Diffusion, denoiser, odd
from tests.lightning.small import trainer


class OnTheCpu(DeepSpeedStrategy):
    """Lightning asks for a GPU; DeepSpeed itself does not."""

    @property
    def root_device(self):
        return torch.device("cpu", 0)  # DeepSpeed asks for its number

    def setup_environment(self):
        super(DeepSpeedStrategy, self).setup_environment()

    def setup_distributed(self):
        self.set_world_ranks()
        self._init_deepspeed_distributed()


def fit(stage, *callbacks, **settings):
    module, buffer = Diffusion(), EnergyReplayBuffer(7, "random", groups="task")
    monitor = ForgettingMonitor(buffer, probe_size=6, denoiser=denoiser)
    tasks = [ReplayDataModule(odd(task), buffer, replay_ratio=0.4) for task in range(2)]
    strategy = OnTheCpu(stage=stage, process_group_backend="gloo", logging_batch_size_per_gpu=3)
    runner = trainer(monitor, *callbacks, strategy=strategy, devices=2, max_epochs=1, **settings)
    fit_tasks(runner, module, tasks)
    return module, monitor


def refused(*arguments, **settings):
    try:
        fit(*arguments, **settings)
    except MisconfigurationException as error:
        return str(error)
    return "nothing"


if __name__ == "__main__":
    os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed  # noqa: F401  # its module below is there then

    # an extension that is compiled, which takes minutes
    sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    folder, stage = Path(sys.argv[1]), int(sys.argv[2])
    found = {"folders": refused(stage, ModelCheckpoint(dirpath=folder / "kept"), enable_checkpointing=True)}
    if stage == 3:
        found["refused"] = refused(stage)
    else:
        module, monitor = fit(stage)
        found |= {
            "buffer": monitor.buffer.state_dict(),
            "history": [record.to_dict() for record in monitor.history],
            "weights": {name: value.detach().clone() for name, value in module.state_dict().items()},
            "seen": [batch["label"] for _, batch in module.seen],
        }
    torch.save(found, folder / f"rank{os.environ.get('LOCAL_RANK', 0)}.pt")
