"""Data whose labels are its indices, in every kind of loader: who was trained on can be told from the labels."""

import itertools
import random

import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

N = 40


def image(index):
    """The image of one index: no two are alike."""
    generator = torch.Generator().manual_seed(index)
    return torch.rand(1, 6, 6, generator=generator)


class Indexed(Dataset):
    """Pairs of an image and its index as the label, from ``first`` on."""

    def __init__(self, n=N, first=0, change=lambda image: image):
        self.n, self.first, self.change = n, first, change

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        if not -self.n <= index < self.n:
            raise IndexError(index)
        return self.change(image(self.first + index)), torch.tensor(self.first + index)


class Stream(IterableDataset):
    """The same pairs as they come: shuffled anew in every pass, or endless and random."""

    def __init__(self, n=N, first=0, shuffled=False, endless=False, change=lambda image: image):
        self.n, self.first, self.shuffled, self.endless, self.change = n, first, shuffled, endless, change
        self.passes = 0
        self.given = 0

    def __iter__(self):
        self.passes += 1
        order = list(range(self.n))
        if self.shuffled:
            random.shuffle(order)
        for number in itertools.cycle(order) if self.endless else order:
            index = random.randrange(10**6) if self.endless else number
            self.given += 1
            yield self.change(image(self.first + index)), torch.tensor(self.first + index)


def crop(image):
    """A random crop, drawn from torch's global numbers."""
    top, left = torch.randint(0, 3, (2,)).tolist()
    return image[:, top : top + 4, left : left + 4]


def flip(image):
    """A random flip, drawn from Python's global numbers."""
    return image.flip(-1) if random.random() < 0.5 else image


class OtherHalves(Sampler):
    """Another random half in every pass, and nobody can know which."""

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n // 2

    def __iter__(self):
        return iter(random.sample(range(self.n), self.n // 2))


class Endless(Sampler):
    """Shuffled again and again, without an end."""

    def __init__(self, n):
        self.n = n

    def __iter__(self):
        while True:
            yield from torch.randperm(self.n).tolist()


class Recorder(LightningModule):
    """Notes the labels of every batch that it was trained on, task after task."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.tasks = []
        self.batches = []

    def on_train_start(self):
        self.tasks.append([])

    def training_step(self, batch, batch_idx):
        images, labels = (batch["image"], batch["label"]) if isinstance(batch, dict) else batch[:2]
        self.tasks[-1].extend(labels.tolist())
        self.batches.append(batch)
        return self.layer(images.flatten(1).mean(1, keepdim=True)).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


class Shrink:
    """A denoiser that is no network."""

    num_timesteps = 10

    def noise(self, clean, timestep, noise):
        return clean + noise

    def predict_clean(self, noisy, timestep, condition=None):
        return 0.5 * noisy

    def snr(self, timestep):
        return 1.0


def weights():
    found = torch.arange(N).remainder(4).double()  # a quarter has weight 0
    return WeightedRandomSampler(found, 200)


DATA = Indexed()
EVEN, ODD = list(range(0, N, 2)), list(range(1, N, 2))

# name: loader, settings of the Trainer
LOADERS = {
    "in order": (lambda: DataLoader(DATA, 6), {}),
    "shuffled": (lambda: DataLoader(DATA, 6, shuffle=True), {}),
    "a subset's sampler": (lambda: DataLoader(DATA, 6, sampler=SubsetRandomSampler(EVEN)), {}),
    "a batch sampler": (lambda: DataLoader(DATA, batch_sampler=BatchSampler(SubsetRandomSampler(ODD), 6, False)), {}),
    "a list of batches as batch sampler": (lambda: DataLoader(DATA, batch_sampler=[[3, 5], [7, 9, 11]]), {}),
    "weights, some of them 0": (lambda: DataLoader(DATA, 6, sampler=weights()), {"max_epochs": 5}),
    "weights, few draws": (lambda: DataLoader(DATA, 6, sampler=WeightedRandomSampler(torch.ones(N), 12)), {}),
    "with replacement": (lambda: DataLoader(DATA, 6, sampler=RandomSampler(DATA, replacement=True)), {}),
    "a random few": (lambda: DataLoader(DATA, 6, sampler=RandomSampler(DATA, num_samples=10)), {}),
    "a distributed sampler": (
        lambda: DataLoader(DATA, 6, sampler=DistributedSampler(DATA, 4, 1, shuffle=False)),
        {},
    ),
    "a shuffling distributed sampler": (lambda: DataLoader(DATA, 6, sampler=DistributedSampler(DATA, 4, 1)), {}),
    "another half in every epoch": (lambda: DataLoader(DATA, 6, sampler=OtherHalves(N)), {}),
    "drop_last": (lambda: DataLoader(DATA, 6, drop_last=True), {}),
    "drop_last, shuffled": (lambda: DataLoader(DATA, 6, drop_last=True, shuffle=True), {"max_epochs": 1}),
    "limit_train_batches": (lambda: DataLoader(DATA, 6), {"limit_train_batches": 3}),
    "limit_train_batches, shuffled": (lambda: DataLoader(DATA, 6, shuffle=True), {"limit_train_batches": 0.5}),
    "max_steps": (lambda: DataLoader(DATA, 6), {"max_steps": 4, "max_epochs": -1}),
    "max_steps, shuffled": (lambda: DataLoader(DATA, 6, shuffle=True), {"max_steps": 4, "max_epochs": -1}),
    "max_steps of accumulated batches": (
        lambda: DataLoader(DATA, 6),
        {"max_steps": 2, "max_epochs": -1, "accumulate_grad_batches": 2},
    ),
    "overfit_batches": (lambda: DataLoader(DATA, 6, shuffle=True), {"overfit_batches": 2}),
    "fast_dev_run": (lambda: DataLoader(DATA, 6, shuffle=True), {"fast_dev_run": True}),
    "an endless sampler": (
        lambda: DataLoader(DATA, 6, sampler=Endless(N)),
        {"max_steps": 5, "max_epochs": -1},
    ),
    "whole batches": (
        lambda: DataLoader([(torch.stack([image(2 * i), image(2 * i + 1)]), torch.tensor([2 * i, 2 * i + 1]))
                            for i in range(9)], batch_size=None, sampler=SubsetRandomSampler([1, 2, 5])),
        {},
    ),
    "whole batches from a batch sampler": (
        lambda: DataLoader(Bulk(), batch_size=None, sampler=BatchSampler(SubsetRandomSampler(EVEN), 6, False)),
        {},
    ),
    "a stream": (lambda: DataLoader(Stream(), 6), {}),
    "a stream in two workers": (lambda: DataLoader(Shared(), 6, num_workers=2), {}),
    "a shuffled stream": (lambda: DataLoader(Stream(shuffled=True), 6), {}),
    "a shuffled stream, limited": (lambda: DataLoader(Stream(shuffled=True), 6), {"limit_train_batches": 3}),
    "an endless stream": (lambda: DataLoader(Stream(endless=True), 6), {"max_steps": 7, "max_epochs": -1}),
    "random crops": (lambda: DataLoader(Indexed(change=crop), 6), {}),
    "random crops, shuffled": (lambda: DataLoader(Indexed(change=crop), 6, shuffle=True), {}),
    "random crops, shuffled and limited": (
        lambda: DataLoader(Indexed(change=crop), 6, shuffle=True),
        {"limit_train_batches": 3, "max_epochs": 1},
    ),
    "random flips": (lambda: DataLoader(Indexed(change=flip), 6, shuffle=True), {}),
    "a stream of random crops": (lambda: DataLoader(Stream(shuffled=True, change=crop), 6), {}),
    "workers": (lambda: DataLoader(DATA, 6, sampler=SubsetRandomSampler(EVEN), num_workers=1), {"max_epochs": 1}),
}  # fmt: skip


class Bulk(Indexed):
    """Reads many indices in one call."""

    def __getitem__(self, indices):
        images, labels = zip(*(super(Bulk, self).__getitem__(i) for i in indices), strict=True)
        return torch.stack(images), torch.stack(labels)


class Shared(Stream):
    """Each worker yields its share."""

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        mine, of = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return itertools.islice(super().__iter__(), mine, None, of)
