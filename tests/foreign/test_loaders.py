"""Data of other libraries, as their documentation uses it: trained on is measured, kept and replayed.

Every object here is the library's own. What is not installed is skipped; `pip install datasets webdataset monai` takes
seconds, and changes nothing of torch.
"""

import io
import tarfile
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate

from hopfield_replay import EnergyReplayBuffer, ForgettingMonitor, ReplayDataModule, fit_tasks
from tests.lightning.small import trainer
from tests.lightning.streams import Indexed, Shrink

pytestmark = [
    pytest.mark.slow,
    pytest.mark.foreign,
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),  # lightning; tiny data needs none
    pytest.mark.filterwarnings("ignore:You have overridden .* in `LightningModule`"),  # lightning says which hook runs
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),  # the libraries' own archives and images
    pytest.mark.filterwarnings("ignore:Exception ignored in. <_io.FileIO:pytest.PytestUnraisableExceptionWarning"),
]
N = 24


def picture(index, task=0):
    """An RGB picture of 8 x 8 pixels that is like no other."""
    generator = np.random.default_rng(1000 * task + index)
    return generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)


class Learner(LightningModule):
    """Notes which images it was trained on, by their content."""

    def __init__(self, images):
        super().__init__()
        self.images = images
        self.layer = nn.Linear(1, 1)
        self.tasks = []

    def on_train_start(self):
        self.tasks.append([])

    def training_step(self, batch, batch_idx):
        images = self.images(batch)
        self.tasks[-1].extend(row.tobytes() for row in images.as_subclass(Tensor).cpu().numpy())
        return self.layer(images.as_subclass(Tensor).flatten(1).mean(1, keepdim=True)).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def check(loaders, images, labels=None, random=False, **settings):
    """Two tasks; returns the monitor and the module."""
    torch.manual_seed(0)
    buffer = EnergyReplayBuffer(8, "random")
    limits = settings.pop("limits", {"max_epochs": 2})
    monitor = ForgettingMonitor(buffer, beta=1.0, probe_size=1000, denoiser=Shrink(), timesteps=[1], **settings)
    module = Learner(images)
    fit_tasks(trainer(monitor, **limits), module, [ReplayDataModule(loader, buffer) for loader in loaders])
    kept = buffer.gather(torch.arange(len(buffer)))
    own = images(kept)
    torch.testing.assert_close(buffer.vectors, own.flatten(1).float(), rtol=0, atol=0)
    if labels is not None:
        assert torch.equal(buffer.labels, labels(kept))
    if not random:
        trained = [set(task) for task in module.tasks]
        probes = images(monitor.tracker.probe(0).batch)
        assert {row.tobytes() for row in probes.numpy()} == trained[0]
        for task in (0, 1):
            assert {row.tobytes() for row in own[buffer.tasks == task].numpy()} <= trained[task]
        assert len(trained[0] & trained[1]) > 0  # replayed
    return monitor, module


class TestHuggingFace:
    @pytest.fixture(autouse=True)
    def _datasets(self):
        self.datasets = pytest.importorskip("datasets")

    def rows(self, task):
        for index in range(N):
            yield {"image": picture(index, task).astype(np.float32) / 255, "label": index % 3, "sample_rate": 44100}

    def test_map_style_with_the_torch_format(self):
        def data(task):
            found = self.datasets.Dataset.from_list(list(self.rows(task))).with_format("torch")
            return DataLoader(found, batch_size=5, shuffle=True)

        monitor, _ = check([data(0), data(1)], lambda b: b["image"], lambda b: b["label"])
        assert monitor.tracker.taken.startswith("samples: batch['image'], 8x8x3 in [0, 1]; labels: batch['label']")

    def test_transforms_on_the_fly_and_splits(self):
        def to_tensors(rows):
            rows["image"] = [torch.tensor(image) for image in rows["image"]]
            return rows

        def data(task):
            found = self.datasets.Dataset.from_list(list(self.rows(task)))
            split = found.train_test_split(0.25, seed=0)["train"].with_transform(to_tensors)
            return DataLoader(split, batch_size=5, drop_last=True)

        check([data(0), data(1)], lambda b: b["image"], lambda b: b["label"])

    def test_iterable_with_a_shuffle_buffer(self):
        def data(task):
            found = self.datasets.Dataset.from_list(list(self.rows(task))).to_iterable_dataset(num_shards=2)
            return DataLoader(found.shuffle(seed=3, buffer_size=10).with_format("torch"), batch_size=5)

        monitor, _ = check([data(0), data(1)], lambda b: b["image"], lambda b: b["label"])
        assert len(monitor.tracker.probe(0).ids) == N

    def test_an_endless_stream_of_it(self):
        def data(task):
            found = self.datasets.Dataset.from_list(list(self.rows(task))).to_iterable_dataset()
            return DataLoader(found.repeat(None).with_format("torch"), batch_size=5)

        check([data(0), data(1)], lambda b: b["image"], limits={"max_steps": 3, "max_epochs": -1})


class TestWebDataset:
    @pytest.fixture(autouse=True)
    def _shards(self, tmp_path):
        self.wds = pytest.importorskip("webdataset")
        for task in (0, 1):
            for shard in range(2):
                with tarfile.open(tmp_path / f"task{task}-{shard}.tar", "w") as tar:
                    for index in range(shard * N // 2, (shard + 1) * N // 2):
                        for name, content in (
                            ("npy", self.array(index, task)),
                            ("cls", str(index % 3).encode()),
                        ):
                            member = tarfile.TarInfo(f"{index:04d}.{name}")
                            member.size = len(content)
                            tar.addfile(member, io.BytesIO(content))
        self.folder = tmp_path

    @staticmethod
    def array(index, task):
        file = io.BytesIO()
        np.save(file, picture(index, task).transpose(2, 0, 1).astype(np.float32) / 255)
        return file.getvalue()

    def pipeline(self, task, **settings):
        shards = [str(path) for path in sorted(self.folder.glob(f"task{task}-*.tar"))]
        data = self.wds.WebDataset(shards, shardshuffle=settings.get("shardshuffle", False), empty_check=False)
        if settings.get("shuffle"):
            data = data.shuffle(10)
        return data.decode().to_tuple("npy", "cls")

    def images(self, batch):
        return batch[0] if isinstance(batch[0], Tensor) else torch.as_tensor(batch[0])

    def test_samples_batched_by_a_data_loader(self):
        loaders = [DataLoader(self.pipeline(task), batch_size=5) for task in (0, 1)]
        check(loaders, self.images, lambda b: b[1])

    def test_shuffled_shards_and_samples_batched_by_the_pipeline(self):
        loaders = [
            DataLoader(
                self.pipeline(task, shardshuffle=2, shuffle=True).batched(5, collation_fn=default_collate),
                batch_size=None,
            )
            for task in (0, 1)
        ]
        check(loaders, self.images)

    def test_its_own_loader_with_an_epoch_of_resampled_shards(self):
        """WebLoader is no DataLoader: an iterable that is chosen from as it passes."""

        def loader(task):
            shards = [str(path) for path in sorted(self.folder.glob(f"task{task}-*.tar"))]
            data = self.wds.WebDataset(shards, resampled=True, shardshuffle=False).shuffle(10).decode()
            data = data.to_tuple("npy", "cls").batched(5, collation_fn=default_collate)
            return self.wds.WebLoader(data, batch_size=None, num_workers=0).with_epoch(4)

        check([loader(0), loader(1)], self.images, limits={"max_epochs": 1})


class TestImageFolder:
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.vision = pytest.importorskip("torchvision")
        image = pytest.importorskip("PIL.Image")
        for task in (0, 1):
            for index in range(N):
                folder = tmp_path / f"task{task}" / f"class{index % 3}"
                folder.mkdir(parents=True, exist_ok=True)
                image.fromarray(picture(index, task)).save(folder / f"{index}.png")
        self.folder = tmp_path

    def loader(self, task, transform, **settings):
        data = self.vision.datasets.ImageFolder(self.folder / f"task{task}", transform)
        return DataLoader(data, batch_size=5, **settings)

    def test_without_random_transforms(self):
        to_tensor = self.vision.transforms.ToTensor()
        loaders = [self.loader(task, to_tensor, shuffle=True, drop_last=True) for task in (0, 1)]
        check(loaders, lambda b: b[0], lambda b: b[1])

    @pytest.mark.parametrize("workers", [0, 1])
    def test_with_random_crops_and_flips(self, workers):
        transforms = self.vision.transforms
        transform = transforms.Compose(
            [transforms.RandomCrop(6), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
        )
        settings = {"shuffle": True, "num_workers": workers, "persistent_workers": workers > 0}
        loaders = [self.loader(task, transform, **settings) for task in (0, 1)]
        with pytest.warns(UserWarning, match="were not what they had been when they were read again"):
            monitor, _ = check(loaders, lambda b: b[0], lambda b: b[1], random=True)
        assert len(monitor.tracker.probe(0).ids) == N

    def test_pictures_of_several_sizes(self):
        from PIL import Image

        Image.fromarray(picture(0)[:5]).save(self.folder / "task0" / "class0" / "small.png")
        module = Learner(lambda b: b[0])
        with pytest.raises(ValueError, match=r"Samples of several sizes cannot be read in one batch .*Resize or crop"):
            fit_tasks(
                trainer(ForgettingMonitor(beta=1.0, denoiser=Shrink())),
                module,
                [self.loader(0, self.vision.transforms.ToTensor())],
            )
        assert module.tasks == [] or module.tasks == [[]]


class TestMonai:
    @pytest.fixture(autouse=True)
    def _monai(self):
        self.monai = pytest.importorskip("monai")
        from monai import transforms

        self.transforms = transforms

    def items(self, task):
        return [{"image": picture(i, task).astype(np.float32), "label": i % 3} for i in range(N)]

    def loader(self, task, dataset=None, *more):
        from monai.data import DataLoader as MonaiLoader
        from monai.data import Dataset

        transform = self.transforms.Compose(
            [
                self.transforms.EnsureChannelFirstd("image", channel_dim=2),
                self.transforms.ScaleIntensityd("image"),
                *more,
                self.transforms.EnsureTyped("image"),
            ]
        )
        return MonaiLoader((dataset or Dataset)(self.items(task), transform), batch_size=5, shuffle=True)

    def test_meta_tensors(self):
        from monai.data import MetaTensor

        assert isinstance(next(iter(self.loader(0)))["image"], MetaTensor)
        monitor, _ = check([self.loader(0), self.loader(1)], lambda b: b["image"], lambda b: b["label"], random=False)
        assert type(monitor.buffer.gather(torch.arange(2))["image"]) is Tensor

    def test_a_cached_data_set(self):
        from monai.data import CacheDataset

        def cached(items, transform):
            return CacheDataset(items, transform, progress=False, num_workers=None)

        check([self.loader(0, cached), self.loader(1, cached)], lambda b: b["image"], lambda b: b["label"])

    @pytest.mark.filterwarnings("ignore:.*were not what they had been")
    def test_random_transforms_of_its_own_random_state(self):
        """They draw from a state of theirs, which a measurement must not make other."""
        flips = self.transforms.RandFlipd("image", prob=0.5, spatial_axis=0)
        check([self.loader(0, None, flips), self.loader(1, None, flips)], lambda b: b["image"], random=True)


class Pair(NamedTuple):
    image: Tensor
    label: Tensor


@dataclass
class Record:
    image: Tensor
    label: Tensor
    caption: list[str]


def records(items):
    images, labels = zip(*items, strict=True)
    return Record(torch.stack(images), torch.stack(labels), [f"number {int(label)}" for label in labels])


class TestForms:
    """Batches of every form, with a module and hooks that use them as they are."""

    def learner(self, form, images):
        class Uses(Learner):
            def on_after_batch_transfer(self, batch, dataloader_idx):
                assert isinstance(batch, form)  # also what came out of a buffer or a checkpoint
                return batch

        return Uses(images)

    @pytest.mark.parametrize(
        ("collate", "form"),
        [
            (lambda items: Pair(*default_collate(items)), Pair),
            (records, Record),
            (lambda items: list(default_collate(items)), list),
            (lambda items: tuple(default_collate(items)), tuple),
        ],
        ids=["named tuple", "dataclass", "list", "tuple"],
    )
    def test_every_form(self, collate, form):
        def images(batch):
            if isinstance(batch, dict):
                return batch["image"]
            return batch.image if isinstance(batch, Pair | Record) else batch[0]

        buffer = EnergyReplayBuffer(6, "random")
        monitor = ForgettingMonitor(
            buffer, beta=1.0, probe_size=100, denoiser=Shrink(), timesteps=[1],
            encoder=lambda batch: images(batch).flatten(1) * 2 if isinstance(batch, form) else None,
        )  # fmt: skip
        loaders = [DataLoader(Indexed(N, 1000 * task), 5, shuffle=True, collate_fn=collate) for task in (0, 1)]
        module = self.learner(form, images)
        fit_tasks(trainer(monitor), module, [ReplayDataModule(loader, buffer) for loader in loaders])
        kept = buffer.gather(torch.arange(6))
        assert torch.equal(buffer.vectors, 2 * images(kept).flatten(1))
        trained = [set(task) for task in module.tasks]
        assert {row.tobytes() for row in images(kept)[buffer.tasks == 0].numpy()} <= trained[0]
        assert len(trained[0] & trained[1]) > 0


class Asks(Indexed):
    """Opens its files in its workers."""

    opened = False

    def __getitem__(self, index):
        if torch.utils.data.get_worker_info() is not None:
            assert self.opened
        return super().__getitem__(index)


def open_files(_):
    torch.utils.data.get_worker_info().dataset.opened = True  # an attribute of the data set itself


def test_worker_init_fn_and_persistent_workers():
    loaders = [
        DataLoader(
            Asks(12, 1000 * task), 5, num_workers=1, worker_init_fn=open_files, persistent_workers=True, shuffle=True
        )
        for task in (0, 1)
    ]
    check(loaders, lambda b: b[0], lambda b: b[1], limits={"max_epochs": 1})
