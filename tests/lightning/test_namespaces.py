"""Modules, datamodules, callbacks, loggers and Trainers of pytorch_lightning work as those of lightning.pytorch do."""

import functools
from dataclasses import dataclass

import lightning.pytorch
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import DataLoader

from hopfield_replay import EnergyReplayBuffer, ForgettingMonitor, ReplayDataModule, ReplayLoader, fit_tasks
from hopfield_replay.lightning.namespaces import is_a, kinds
from tests.lightning.small import Images

pytorch_lightning = pytest.importorskip("pytorch_lightning")
callbacks = pytest.importorskip("pytorch_lightning.callbacks")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),  # lightning; tiny data needs none
    pytest.mark.filterwarnings("ignore:.*The number of training batches"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
]


@dataclass
class Settings:
    width: int = 16


def modules(pl):
    """A DDPM and its data, written against one of both packages."""

    class DDPM(pl.LightningModule):
        def __init__(self, settings=None, optimizer=None):
            super().__init__()
            torch.manual_seed(0)
            self.save_hyperparameters()
            self.first, self.second = nn.Linear(65, 16), nn.Linear(16, 64)
            self.register_buffer("bars", (1 - torch.linspace(1e-3, 0.1, 50)).cumprod(0))

        def forward(self, x, t):
            h = torch.cat([x.flatten(1), t[:, None] / 50], 1)
            return self.second(self.first(h).tanh()).view_as(x)

        def training_step(self, batch, batch_idx):
            x = batch["image"]
            noise, t = torch.randn_like(x), torch.randint(0, 50, (len(x),))
            bar = self.bars[t].view(-1, 1, 1, 1)
            loss = (self(bar.sqrt() * x + (1 - bar).sqrt() * noise, t) - noise).square().mean()
            self.log("loss", loss)
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.05)

    class Data(pl.LightningDataModule):
        def __init__(self, task):
            super().__init__()
            self.task = task
            self.prepared = []

        def setup(self, stage):
            self.prepared.append(stage)

        def train_dataloader(self):
            return DataLoader(Images(self.task), batch_size=4)

    return DDPM, Data


def run(pl, folder, *, tasks=3, ckpt_path=None, stop=None, hparams=None, **settings):
    ddpm, data = modules(pl)
    buffer = EnergyReplayBuffer(6)
    monitor = ForgettingMonitor(buffer, probe_size=5)
    stopping = pl.callbacks.EarlyStopping("loss", patience=1, min_delta=100.0, check_on_train_epoch_end=True)
    keeping = pl.callbacks.ModelCheckpoint(folder / "kept", save_last=True)
    trainer = pl.Trainer(
        max_epochs=4, accelerator="cpu", devices=1, logger=pl.loggers.CSVLogger(folder), enable_progress_bar=False,
        enable_model_summary=False, callbacks=[monitor, stopping, keeping, *([stop] if stop else [])],
        default_root_dir=folder, log_every_n_steps=1,
    )  # fmt: skip
    wrapped = [data(task) for task in range(tasks)]
    fit_tasks(
        trainer,
        ddpm(**(hparams or {})),
        [ReplayDataModule(dm, buffer) for dm in wrapped],
        ckpt_path=ckpt_path,
        **settings,
    )
    return trainer, monitor, wrapped, stopping


@pytest.mark.parametrize("pl", [lightning.pytorch, pytorch_lightning], ids=lambda pl: pl.__name__)
def test_a_sequence_of_tasks(pl, tmp_path):
    trainer, monitor, wrapped, _ = run(pl, tmp_path)
    assert [record.task for record in monitor.history] == [0, 1, 2]
    assert monitor.history[1].trust.startswith("inferred: the module itself predicts epsilon")
    assert [record.replay_ratio for record in monitor.history] == [0.0, 0.5, 0.5]
    assert monitor.history[1].probes[0].reconstruction.abs().min() > 0
    # early stopping is renewed: with a patience of 1 each task takes two epochs, of three batches
    assert trainer.global_step == 18
    assert [dm.prepared for dm in wrapped] == [["fit"]] * 3
    assert (tmp_path / "kept" / "last.ckpt").is_file()
    assert list(tmp_path.rglob("metrics.csv"))
    assert list(tmp_path.rglob("views"))


@pytest.mark.heavy
def test_both_give_the_same_numbers(tmp_path):
    first, second = (run(pl, tmp_path / pl.__name__)[1] for pl in (lightning.pytorch, pytorch_lightning))
    for one, other in zip(first.history, second.history, strict=True):
        for a, b in zip(one.probes, other.probes, strict=True):
            assert torch.equal(a.energy, b.energy)
            assert torch.equal(a.error, b.error)
    assert torch.equal(first.buffer.ids, second.buffer.ids)


@pytest.mark.heavy
def test_last_is_found_and_gone_on_from(tmp_path):
    class Stop(callbacks.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.global_step > 6:
                raise KeyError("killed")

    with pytest.raises(KeyError, match="killed"):
        run(pytorch_lightning, tmp_path, stop=Stop())
    trainer, monitor, _, _ = run(pytorch_lightning, tmp_path, ckpt_path="last")
    assert [record.task for record in monitor.history] == [0, 1, 2]
    assert trainer.global_step == 18


@pytest.mark.parametrize(
    "make",
    [
        lambda: {"settings": Settings()},
        lambda: {"optimizer": functools.partial(torch.optim.Adam, lr=1)},
        lambda: {"optimizer": torch.optim.Adam},
        lambda: {"settings": pytest.importorskip("omegaconf").OmegaConf.create({"width": 16, "rates": [1, 2]})},
    ],
    ids=["dataclass", "partial", "class", "OmegaConf"],
)
@pytest.mark.heavy
def test_hyperparameters_that_are_not_allow_listed_are_told_from_damage(tmp_path, make):
    hparams = make()
    run(pytorch_lightning, tmp_path, tasks=2, hparams=hparams)
    last = tmp_path / "kept" / "last.ckpt"
    with pytest.raises(MisconfigurationException, match=r"is whole, but holds .*pass weights_only=False"):
        run(pytorch_lightning, tmp_path, tasks=3, ckpt_path=last, hparams=hparams)
    _, monitor, _, _ = run(pytorch_lightning, tmp_path, tasks=3, ckpt_path=last, hparams=hparams, weights_only=False)
    assert [record.task for record in monitor.history] == [0, 1, 2]
    last.write_bytes(last.read_bytes()[:-200])
    with pytest.raises(ValueError, match="is not a checkpoint, or it is damaged"):
        run(pytorch_lightning, tmp_path, tasks=3, ckpt_path=last, hparams=hparams)


def test_bad_datamodules_are_told_as_ever():
    model, data = modules(pytorch_lightning)
    trainer = lightning.pytorch.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    with pytest.raises(TypeError, match="datamodules must be a list with one entry for each task, got Data"):
        fit_tasks(trainer, model(), data(0))
    combined = pytorch_lightning.utilities.combined_loader.CombinedLoader([DataLoader(Images(0))])
    with pytest.raises(TypeError, match="joins replay to one loader, got CombinedLoader"):
        ReplayLoader(combined, EnergyReplayBuffer(2))


def test_kinds():
    both = kinds(lightning.pytorch.Callback)
    assert both == (lightning.pytorch.Callback, pytorch_lightning.Callback)
    assert is_a(ForgettingMonitor(), pytorch_lightning.Callback)
    assert not is_a(3, lightning.pytorch.Callback)
    assert kinds(dict) == (dict,)
