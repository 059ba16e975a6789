"""Two gloo processes on the CPU whose module is spread by FSDP2: what each of them holds after two tasks, and a resume.

python -m tests.lightning.run_fsdp FOLDER
"""

import contextlib
import os
import sys
import warnings
from pathlib import Path

import torch
from lightning.pytorch import Callback
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from hopfield_replay import ForgettingMonitor, fit_tasks
from hopfield_replay.denoisers import CallableDenoiser
from tests.lightning.run_tasks import AtTheEnd, run
from tests.lightning.small import Foreign, loader, trainer


def odd(task):
    """An odd number of samples: the processes measure different numbers of them."""
    return loader(task, n=13, batch_size=3)


class Diffusion(Foreign):
    """A network that estimates clean images, and its denoiser; spread where there is a strategy that does."""

    spread = False

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 64))

    def configure_model(self):
        if not self.spread or isinstance(self.layer[0].weight, DTensor):
            return
        mesh = self.device_mesh["data_parallel"]
        for part in (self.layer[0], self.layer[2], self.layer):
            fully_shard(part, mesh=mesh)


class Spread(Diffusion):
    spread = True


class SpreadAveraged(Spread):
    """Keeps an average of its weights, spread as they are."""

    def on_train_start(self):
        self.ema = {name: weight.detach().clone() for name, weight in self.layer.named_parameters()}

    def on_train_batch_end(self, *_):
        for name, weight in self.layer.named_parameters():
            self.ema[name] = 0.5 * self.ema[name] + 0.5 * weight.detach()


def denoiser(module):
    schedule = torch.linspace(0.99, 0.01, 20)
    return CallableDenoiser(lambda x, t: module.layer(x.flatten(1)).view_as(x), schedule, prediction_type="sample")


class Watch(Callback):
    """Notes whether the weights are spread outside of measurements, and what follows a forward pass."""

    def __init__(self):
        self.spread = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.spread.append(isinstance(pl_module.layer[0].weight, DTensor))

    def on_fit_end(self, trainer, pl_module):
        self.spread.append(isinstance(pl_module.layer[0].weight, DTensor))


class PowerCutError(Exception):
    pass


def cut():
    raise PowerCutError


def whole_weights(module):
    return {
        name: (value.full_tensor() if isinstance(value, DTensor) else value).detach()
        for name, value in module.state_dict().items()
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    folder, watch = Path(sys.argv[1]), Watch()
    settings = {"devices": 2, "max_epochs": 1, "make_loader": odd, "count": 2, "denoiser": denoiser}

    def spread():
        return {"module": Spread(), "strategy": ModelParallelStrategy(2, 1, save_distributed_checkpoint=False)}

    module, monitor = run(folder / "whole", watch, **spread(), **settings)
    with contextlib.suppress(PowerCutError):
        run(folder / "cut", AtTheEnd(0, cut), **spread(), **settings)
    resumed, again = run(folder / "cut", ckpt_path="last", **spread(), **settings)
    averaged, third = SpreadAveraged(), ForgettingMonitor(probe_size=6, denoiser=denoiser, weights="ema")
    strategy = ModelParallelStrategy(2, 1, save_distributed_checkpoint=False)
    fit_tasks(trainer(third, strategy=strategy, devices=2, max_epochs=1), averaged, [odd(0)])
    rank = int(os.environ.get("LOCAL_RANK", 0))
    result = {
        "buffer": monitor.buffer.state_dict(),
        "history": [record.to_dict() for record in monitor.history],
        "weights": whole_weights(module),
        "resumed_history": [record.to_dict() for record in again.history],
        "resumed_buffer": again.buffer.state_dict(),
        "resumed_weights": whole_weights(resumed),
        "averaged_history": [record.to_dict() for record in third.history],
        "average": {name: weight.full_tensor() for name, weight in averaged.ema.items()},
        "last": whole_weights(averaged),
        "spread": watch.spread,
        "seen": module.seen,
    }
    torch.save(result, folder / f"rank{rank}.pt")
