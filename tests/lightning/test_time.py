"""Vectors and errors are taken with the module as it is then, and with the same transform every time."""

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import nn
from torch.utils.data import DataLoader

from hopfield_replay import EnergyReplayBuffer, ForgettingMonitor, ReplayDataModule, fit_tasks
from tests.functional.numpy_energy import energy as numpy_energy
from tests.lightning.small import trainer
from tests.lightning.streams import Indexed, Recorder, Shrink

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),  # lightning; tiny data needs none
    pytest.mark.filterwarnings("ignore:You have overridden .* in `LightningModule`"),  # lightning says which hook runs
    pytest.mark.filterwarnings("ignore:No denoiser was found"),  # ours, on modules that have none
]
MOVED = "The encoder is no longer what it was"


class ScaleByStd(Recorder):
    """Latents that are scaled by the deviation of the first batch, as latent diffusion does."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.ones(()))
        self.first = True

    def encode(self, batch):
        return 20.0 * self.scale * batch[0].flatten(1)

    def on_train_batch_start(self, batch, batch_idx):
        if self.first:
            self.first = False
            self.scale = 1.0 / (20.0 * batch[0].flatten(1)).std()


class Learns(ScaleByStd):
    """An encoder that goes on changing."""

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.scale = self.scale * 0.99


def loaders(count=2):
    return [DataLoader(Indexed(20, 1000 * task), 5) for task in range(count)]


def vectors(module, task):
    images = torch.stack([Indexed(20, 1000 * task)[i][0] for i in range(20)])
    return module.encode((images, None)).detach()


@pytest.mark.filterwarnings("ignore:Nothing is replayed")
def test_a_module_that_rescales_on_the_first_batch():
    module, buffer = ScaleByStd(), EnergyReplayBuffer(6, "random")
    monitor = ForgettingMonitor(buffer, encoder=module.encode, beta=0.5, probe_size=20)
    with pytest.warns(UserWarning, match=MOVED) as caught:
        fit_tasks(trainer(monitor, max_epochs=1), module, loaders())
    assert sum(MOVED in str(warning.message) for warning in caught) == 1  # and not again: it changed once
    first, second = (vectors(module, task) for task in (0, 1))
    start = torch.from_numpy(numpy_energy(first.numpy(), first.numpy(), 0.5, exclude=torch.arange(20).numpy()))
    torch.testing.assert_close(monitor.history[0]["probes"][0]["energy"], start, rtol=1e-4, atol=1e-5)
    kept = monitor.buffer.tasks == 0
    assert kept.any()
    torch.testing.assert_close(monitor.buffer.vectors[kept], first[monitor.buffer.ids[kept]], rtol=1e-5, atol=1e-6)
    later = torch.from_numpy(numpy_energy(first.numpy(), second.numpy(), 0.5))
    torch.testing.assert_close(monitor.history[1]["probes"][0]["energy"], later, rtol=1e-4, atol=1e-5)
    assert (later - start).mean() > 0  # the energies of the first vectors would have fallen


def test_beta_is_calibrated_on_the_vectors_as_they_turn_out():
    module = ScaleByStd()
    monitor = ForgettingMonitor(encoder=module.encode)
    with pytest.warns(UserWarning, match=MOVED):
        fit_tasks(trainer(monitor, max_epochs=1), module, loaders(1))
    assert monitor.history[0]["n_eff"] == pytest.approx(5.0, rel=1e-3)


def test_an_encoder_that_trains():
    module, buffer = Learns(), EnergyReplayBuffer(8, "random")
    monitor = ForgettingMonitor(buffer, encoder=module.encode, beta=0.5, probe_size=20)
    with pytest.warns(UserWarning, match=MOVED):
        fit_tasks(trainer(monitor, max_epochs=2), module, [ReplayDataModule(loader, buffer) for loader in loaders(3)])
    for position in range(len(buffer)):
        task, place = int(buffer.tasks[position]), int(buffer.ids[position]) & (2**39 - 1)
        torch.testing.assert_close(buffer.vectors[position], vectors(module, task)[place], rtol=1e-4, atol=1e-5)
    for task in range(3):
        probe = monitor.tracker.probe(task)
        places = probe["ids"] & (2**39 - 1)
        torch.testing.assert_close(probe["vectors"], vectors(module, task)[places], rtol=1e-4, atol=1e-5)


def test_a_frozen_encoder_says_nothing():
    module = nn.Linear(36, 3)
    monitor = ForgettingMonitor(encoder=nn.Sequential(nn.Flatten(), module, nn.Dropout(0.5)), beta=1.0)
    fit_tasks(trainer(monitor, max_epochs=1), Recorder(), loaders())
    assert len(monitor.history) == 2


class Augments(Recorder):
    """Lightning's documented pattern: augmentation on the device, in training alone."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        if self.trainer.training:
            return [batch[0] + torch.rand_like(batch[0]), *batch[1:]]
        return batch


class Noisy(Recorder):
    """Augmentation that asks for the module's flag alone."""

    def on_before_batch_transfer(self, batch, dataloader_idx):
        return [batch[0] + torch.rand_like(batch[0]), *batch[1:]] if self.training else batch


class Always(Recorder):
    """Augmentation that asks nothing: the same numbers every time, at least."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return [batch[0] + torch.rand_like(batch[0]), *batch[1:]]


@pytest.mark.parametrize("kind", [Augments, Noisy])
def test_augmentation_in_hooks_is_off_while_something_is_measured(kind):
    module = kind()
    monitor = ForgettingMonitor(denoiser=Shrink(), timesteps=[2, 5], beta=1.0)
    fit_tasks(trainer(monitor), module, loaders())
    images = torch.stack([Indexed(20)[i][0] for i in range(20)])
    torch.testing.assert_close(monitor.tracker.probe(0)["vectors"], images.flatten(1), rtol=0, atol=0)
    lost = monitor.history[1]["probes"][0]
    assert torch.equal(lost["error"], lost["error_start"])  # nothing was learnt, so nothing was lost
    assert module.training
    assert len(module.batches) == 2 * 2 * 4
    assert not torch.equal(module.batches[0][0], images[:5])  # in training it was on


def test_hooks_that_always_augment_draw_the_same_every_time():
    monitor = ForgettingMonitor(denoiser=Shrink(), timesteps=[2, 5], beta=1.0)
    fit_tasks(trainer(monitor), Always(), loaders())
    lost = monitor.history[1]["probes"][0]
    assert torch.equal(lost["error"], lost["error_start"])


def test_the_hooks_of_a_datamodule_and_the_order_of_all_hooks():
    class Data(LightningDataModule):
        def __init__(self, task):
            super().__init__()
            self.task = task

        def train_dataloader(self):
            return loaders(2)[self.task]

        def on_before_batch_transfer(self, batch, dataloader_idx):
            assert not self.trainer.sanity_checking
            return [2 * batch[0], *batch[1:]]

    module = Recorder()
    monitor = ForgettingMonitor(beta=1.0)
    fit_tasks(trainer(monitor, max_epochs=1), module, [Data(0), Data(1)])
    images = torch.stack([Indexed(20)[i][0] for i in range(20)])
    torch.testing.assert_close(monitor.tracker.probe(0)["vectors"], 2 * images.flatten(1), rtol=0, atol=0)
    torch.testing.assert_close(module.batches[0][0], 2 * images[:5], rtol=0, atol=0)


def test_measuring_draws_none_of_the_trainings_random_numbers():
    class Draws(Augments):
        def training_step(self, batch, batch_idx):
            self.drawn = torch.rand(1)
            return super().training_step(batch, batch_idx)

    drawn = []
    for callbacks in ([], [ForgettingMonitor(EnergyReplayBuffer(5), beta=1.0)]):
        torch.manual_seed(3)
        module = Draws()
        fit_tasks(trainer(*callbacks), module, [DataLoader(Indexed(20), 5, shuffle=True)])
        drawn.append((module.drawn, module.tasks))
    assert torch.equal(drawn[0][0], drawn[1][0])
    assert drawn[0][1] == drawn[1][1]


def test_energies_do_not_depend_on_the_precision_of_the_training():
    class Half(LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(36, 1)

        def training_step(self, batch, batch_idx):
            assert batch[0].dtype == torch.bfloat16
            return self.layer(batch[0].flatten(1)).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.0)

    monitor = ForgettingMonitor(beta=1.0)
    fit_tasks(trainer(monitor, max_epochs=1, precision="bf16-true"), Half(), loaders(1))
    images = torch.stack([Indexed(20)[i][0] for i in range(20)])
    assert torch.equal(monitor.tracker.probe(0)["vectors"], images.flatten(1))
