"""Tiny data, modules and trainers for the tests of the Lightning integration."""

from collections.abc import Mapping

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Images(Dataset):
    """8x8 images of one task in [0, 1]; a sample is a dict, a tuple or a tensor."""

    def __init__(self, task=0, n=12, form="dict", dtype=torch.float32):
        generator = torch.Generator().manual_seed(100 + task)
        self.images = (0.1 * torch.rand(n, 1, 8, 8, generator=generator) + 0.3 * task).to(dtype)
        self.task = task
        self.form = form

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image, label = self.images[index], torch.tensor(self.task)
        return {"dict": {"label": label, "image": image}, "tuple": (image, label), "tensor": image}[self.form]


class Resumable(DataLoader):
    """Remembers how many batches it has given: a run goes on inside an epoch."""

    given = 0
    skip = 0

    def __iter__(self):
        skip, self.skip, self.given = self.skip, 0, self.skip
        for number, batch in enumerate(super().__iter__()):
            if number >= skip:
                self.given = number + 1
                yield batch

    def state_dict(self):
        return {"given": self.given % len(self)}

    def load_state_dict(self, state):
        self.skip = state["given"]


def loader(task=0, n=12, form="dict", batch_size=4, **settings):
    return DataLoader(Images(task, n, form), batch_size=batch_size, **settings)


def image_of(batch):
    return batch["image"] if isinstance(batch, dict) else batch[0] if isinstance(batch, tuple | list) else batch


class Foreign(LightningModule):
    """Somebody's module: dict (or tuple, tensor) batches, no denoiser, deterministic steps; it notes what it saw."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(64, 64)
        self.seen = []  # (current_epoch, batch) of every training step

    def training_step(self, batch, batch_idx):
        flat = image_of(batch).flatten(1)
        self.seen.append((self.current_epoch, batch))
        return (self.layer(flat) - flat).square().mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class WithValidation(Foreign):
    def validation_step(self, batch, batch_idx):
        flat = image_of(batch).flatten(1)
        self.log("val/loss", (self.layer(flat) - flat).square().mean())


def trainer(*callbacks, **settings):
    quiet = {
        "max_epochs": 2, "accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0,
    }  # fmt: skip
    return Trainer(callbacks=list(callbacks), **{**quiet, **settings})


def energies_of(record):
    """What a record says of the data alone, and not of the model."""
    return [{k: v for k, v in probe.items() if not k.startswith("loss")} for probe in record["probes"]]


def same(a, b):
    """Whether two nestings of tensors and plain Python are equal, apart from times."""
    if isinstance(a, torch.Tensor):
        if not isinstance(b, torch.Tensor) or a.dtype != b.dtype or a.shape != b.shape:
            return False
        return bool(((a == b) | ((a != a) & (b != b))).all())  # nan is what was not observed
    if isinstance(a, Mapping):
        return set(a) == set(b) and all(same(a[key], b[key]) for key in a if key != "seconds")
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b
