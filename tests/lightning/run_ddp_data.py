"""Two gloo processes on the CPU that train on every kind of loader: who was trained on, measured, kept, replayed.

python -m tests.lightning.run_ddp_data FOLDER
"""

import itertools
import sys
import warnings
from pathlib import Path

import torch
from torch.utils.data import DataLoader, SubsetRandomSampler, get_worker_info

from hopfield_replay import EnergyReplayBuffer, ForgettingMonitor, ReplayDataModule, fit_tasks
from hopfield_replay.utilities.distributed import world
from tests.lightning.small import trainer
from tests.lightning.streams import DATA, EVEN, Indexed, Recorder, Shrink, Stream, crop


class Split(Stream):
    """Each process yields its share."""

    def __iter__(self):
        assert get_worker_info() is None
        return itertools.islice(super().__iter__(), world()[0], None, world()[1])


LOADERS = {
    "in order": (lambda: DataLoader(DATA, 3), {}),
    "an odd number": (lambda: DataLoader(Indexed(13), 3), {}),
    "shuffled": (lambda: DataLoader(DATA, 3, shuffle=True), {}),
    "a subset": (lambda: DataLoader(DATA, 3, sampler=SubsetRandomSampler(EVEN)), {}),
    "drop_last": (lambda: DataLoader(DATA, 3, shuffle=True, drop_last=True), {"max_epochs": 1}),
    "limited": (lambda: DataLoader(DATA, 3), {"limit_train_batches": 2}),
    "limited, shuffled": (lambda: DataLoader(DATA, 3, shuffle=True), {"limit_train_batches": 2}),
    "max_steps": (lambda: DataLoader(DATA, 3, shuffle=True), {"max_steps": 3, "max_epochs": -1}),
    "crops": (lambda: DataLoader(Indexed(24, change=crop), 3, shuffle=True), {}),
    "a stream": (lambda: DataLoader(Split(shuffled=False), 3), {}),
    "an endless stream": (lambda: DataLoader(Stream(endless=True), 3), {"max_steps": 4, "max_epochs": -1}),
}


def main():
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    folder, found = Path(sys.argv[1]), {}
    for name, (make, settings) in LOADERS.items():
        buffer = EnergyReplayBuffer(8, "random")
        monitor = ForgettingMonitor(buffer, beta=1.0, probe_size=1000, timesteps=[1], denoiser=Shrink())
        module = Recorder()
        change = crop if name == "crops" else lambda image: image
        tasks = [make(), DataLoader(Indexed(24, 10**7, change), 3)]
        fit_tasks(
            trainer(monitor, strategy="ddp", devices=2, **settings),
            module,
            [ReplayDataModule(task, buffer, replay_ratio=0.5) for task in tasks],
        )
        images, labels = buffer.gather(torch.arange(len(buffer)))
        found[name] = {
            "trained": module.tasks,
            "measured": monitor.tracker.probe(0).batch[1].tolist(),
            "kept": buffer.labels.tolist(),
            "belong": torch.equal(buffer.vectors, images.flatten(1)) and torch.equal(buffer.labels, labels),
            "ids": buffer.ids,
        }
    torch.save(found, folder / f"rank{world()[0]}.pt")


if __name__ == "__main__":
    main()
