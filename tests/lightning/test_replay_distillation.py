"""ReplayDistillation against modules that have the penalty in their training step."""

import copy
import warnings

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from hopfield_replay import EnergyReplayBuffer, ForgettingMonitor, ReplayDataModule, ReplayDistillation, fit_tasks
from hopfield_replay.tracker import sample_ids
from tests.lightning.small import Resumable, trainer
from tests.lightning.two_processes import results_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),  # lightning; tiny data needs none
    pytest.mark.filterwarnings("ignore:No denoiser was found"),  # ours, on modules that have none
    pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning"),
]
STRENGTH = 2.0


class Vectors(Dataset):
    """Vectors of one task, with what noise and time the step is to use, so that runs can be compared."""

    def __init__(self, task, n=12):
        generator = torch.Generator().manual_seed(100 + task)
        self.columns = {
            "x": torch.randn(n, 6, generator=generator) + task,
            "noise": torch.randn(n, 6, generator=generator),
            "t": torch.rand(n, generator=generator),
        }

    def __len__(self):
        return len(self.columns["x"])

    def __getitem__(self, index):
        return {name: column[index] for name, column in self.columns.items()}


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(7, 16), nn.Tanh(), nn.Linear(16, 6))

    def forward(self, x, t):
        return self.layers(torch.cat([x, t[:, None]], 1))


class Denoising(LightningModule):
    """Somebody's module of which the callback knows nothing."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.network = Network()

    def shown(self, batch):
        return batch["x"] + batch["t"][:, None] * batch["noise"]

    def loss(self, batch):
        return (self.network(self.shown(batch), batch["t"]) - batch["noise"]).square().mean()

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.05)


class ByHand(Denoising):
    """The same with the penalty written out; the mark says which samples are replayed."""

    def on_train_start(self):
        self.__dict__["old"] = copy.deepcopy(self.network).eval()

    def loss(self, batch):
        replayed = batch["replayed"]
        loss = super().loss(batch)
        if not replayed.any():
            return loss
        x, t = self.shown(batch)[replayed], batch["t"][replayed]
        with torch.no_grad():
            wanted = self.old(x, t)
        return loss + STRENGTH * (self.network(x, t) - wanted).square().mean()


class Manual(LightningModule):
    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        optimizer.step()


class ManualDenoising(Manual, Denoising):
    automatic_optimization = False


class ManualByHand(Manual, ByHand):
    automatic_optimization = False


def loader(task, kind=DataLoader):
    return kind(Vectors(task), batch_size=4)


def train(module, *callbacks, distil=True, tasks=2, network=None, kind=DataLoader, ckpt_path=None, **settings):
    buffer = EnergyReplayBuffer(6, "random", groups="task")
    monitor = ForgettingMonitor(buffer, probe_size=4, samples="x", condition=False, labels=False)
    distillation = [ReplayDistillation(STRENGTH, network=network)] if distil else []
    data = [ReplayDataModule(loader(task, kind), buffer, replay_ratio=0.5, mark="replayed") for task in range(tasks)]
    fit_tasks(trainer(*callbacks, monitor, *distillation, **settings), module, data, ckpt_path=ckpt_path)
    return module


def assert_alike(first, second, **tolerance):
    for (name, found), expected in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        torch.testing.assert_close(found, expected, msg=lambda text, name=name: f"{name}: {text}", **tolerance)


def differ(first, second):
    return any(not torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("settings", [{}, {"accumulate_grad_batches": 2}, {"gradient_clip_val": 0.3}])
def test_it_trains_as_the_penalty_in_the_step_does(settings):
    held = train(Denoising(), **settings)
    assert_alike(held, train(ByHand(), distil=False, **settings), rtol=1e-5, atol=1e-6)
    assert differ(held, train(Denoising(), distil=False, **settings))


def test_manual_optimization():
    assert_alike(train(ManualDenoising()), train(ManualByHand(), distil=False), rtol=1e-5, atol=1e-6)


def test_a_scaled_loss():
    def plugin():
        return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=256.0))

    held, by_hand = train(Denoising(), plugins=[plugin()]), train(ByHand(), distil=False, plugins=[plugin()])
    assert_alike(held, by_hand, rtol=3e-2, atol=3e-3)
    assert differ(held, train(Denoising(), distil=False, plugins=[plugin()]))


def test_three_tasks_hold_to_the_last_network_and_the_first_task_is_free():
    assert_alike(train(Denoising(), tasks=3), train(ByHand(), distil=False, tasks=3), rtol=1e-5, atol=1e-6)
    assert not differ(train(Denoising(), tasks=1), train(Denoising(), tasks=1, distil=False))


class Averaged(ByHand):
    """Holds to the average of the last task, which the callback brings at its end."""


@pytest.mark.parametrize("last", [False, True])
def test_with_averaged_weights_the_average_is_held_to(last):
    def average():
        return EMAWeightAveraging(device="cpu", decay=0.5, update_every_n_steps=1)

    expected = train(Averaged(), average(), distil=False)
    buffer = EnergyReplayBuffer(6, "random", groups="task")
    monitor = ForgettingMonitor(buffer, probe_size=4, samples="x", condition=False, labels=False)
    distillation = ReplayDistillation(STRENGTH)
    callbacks = [distillation, average(), monitor] if last else [average(), monitor, distillation]
    module = Denoising()
    data = [ReplayDataModule(loader(task), buffer, replay_ratio=0.5, mark="replayed") for task in range(2)]
    fit_tasks(trainer(*callbacks), module, data)
    assert_alike(module, expected, rtol=1e-5, atol=1e-6)


class Keeps(Denoising):
    """Keeps an average of its own."""

    def __init__(self):
        super().__init__()
        self.ema = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(0.5))

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.ema.update_parameters(self.network)


class KeepsByHand(Keeps, ByHand):
    def on_train_start(self):
        self.__dict__["old"] = copy.deepcopy(self.ema.module).eval()


def test_with_an_average_of_the_modules_own_that_is_held_to():
    held = train(Keeps())  # the copy, whose weights could learn, is no second network
    assert_alike(held.network, train(KeepsByHand(), distil=False).network, rtol=1e-5, atol=1e-6)


class Cut(Callback):
    """Ends the run in the second task, after some steps."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == 9:
            raise RuntimeError("cut")


@pytest.mark.filterwarnings("ignore:.*Checkpoint directory.*exists")
@pytest.mark.parametrize("kind", ["Denoising", "Two"])
def test_a_resumed_task_holds_to_what_it_began_with(tmp_path, kind):
    made = {"Denoising": Denoising, "Two": Two}[kind]

    def kept(folder):
        return ModelCheckpoint(folder, save_last=True, every_n_train_steps=1, save_top_k=0)

    settings = {"enable_checkpointing": True, "kind": Resumable}
    whole = train(made(), kept(tmp_path / "whole"), **settings)
    with pytest.raises(RuntimeError, match="cut"):
        train(made(), kept(tmp_path / "cut"), Cut(), **settings)
    again = made()
    for weight in again.parameters():
        weight.data.zero_()
    train(again, kept(tmp_path / "cut"), ckpt_path="last", **settings)
    assert_alike(again, whole, rtol=0, atol=0)


def test_the_monitor_measures_as_without_it():
    """It looks at the first step's gradients, and must see those of the loss alone."""
    said = []
    for distil in (True, False):
        buffer = EnergyReplayBuffer(6, "random", groups="task")
        buffer.update(Vectors(7, 6).columns, torch.randn(6, 6), ids=sample_ids(1000, torch.arange(6)), task=1000)
        monitor = ForgettingMonitor(buffer, probe_size=4, samples="x", condition=False, labels=False)
        data = ReplayDataModule(loader(1), buffer, replay_ratio=0.5)
        callbacks = [monitor, ReplayDistillation(STRENGTH)] if distil else [monitor]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer(*callbacks).fit(Denoising(), data)
        said.append(monitor.history[-1].trust)
    assert said[0] == said[1]


class Skips:
    """Leaves the rest of an epoch out; no batch ends there."""

    def on_train_batch_start(self, batch, batch_idx):
        return -1 if batch_idx == 1 else None


class SkippingDenoising(Skips, Denoising):
    pass


class SkippingByHand(Skips, ByHand):
    pass


def test_a_batch_that_the_module_skips_is_held_no_longer():
    held = train(SkippingDenoising())
    assert_alike(held, train(SkippingByHand(), distil=False), rtol=1e-5, atol=1e-6)
    assert not held.network._forward_hooks


class Two(Denoising):
    def __init__(self):
        super().__init__()
        self.other = nn.Linear(2, 2)


class Both(Denoising):
    """Trains two networks."""

    def __init__(self):
        super().__init__()
        self.second = Network()

    def loss(self, batch):
        return super().loss(batch) + self.second(self.shown(batch), batch["t"]).square().mean()


class Doubled(Denoising):
    """Calls its network with every sample twice."""

    def loss(self, batch):
        return super().loss({name: value.repeat(2, *[1] * (value.ndim - 1)) for name, value in batch.items()})


def test_the_network_is_named_or_made_out():
    by_hand = train(ByHand(), distil=False)
    for network in ("network", lambda module: module.network, None):
        held = train(Two(), network=network)
        assert_alike(held.network, by_hand.network, rtol=1e-5, atol=1e-6)


def test_it_may_be_listed_before_the_monitor_that_sees_the_network():
    def networks(first):
        buffer = EnergyReplayBuffer(6, "random", groups="task")
        monitor = ForgettingMonitor(buffer, probe_size=4, samples="x", condition=False, labels=False)
        callbacks = [ReplayDistillation(STRENGTH), monitor]
        data = [ReplayDataModule(loader(task), buffer, replay_ratio=0.5) for task in range(2)]
        fit_tasks(trainer(*(callbacks if first else callbacks[::-1])), module := Two(), data)
        return module

    assert_alike(networks(True), networks(False), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("module", "network", "error", "said"),
    [
        (
            Both,
            None,
            MisconfigurationException,
            r"cannot be told; pass network=.*'network' \(Network\), 'second' \(Network\)",
        ),
        (Two, "unet", MisconfigurationException, "has no module 'unet'; it has: 'network'"),
        (Two, lambda module: "network", MisconfigurationException, "must return a torch module, got str"),
        (Two, "other", MisconfigurationException, "does not call Linear"),
        (Doubled, None, ValueError, r"shape \(8, 6\) in a batch of 4 samples"),
    ],
)
def test_what_cannot_be_held_is_said_in_the_first_task(module, network, error, said):
    made = module()
    with pytest.raises(error, match=said):
        train(made, network=network)
    assert not made.network._forward_hooks


def test_wrong_arguments():
    for wrong in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="at least 0"):
            ReplayDistillation(wrong)
    with pytest.raises(TypeError, match="must be a number, got '3'"):
        ReplayDistillation("3")
    for wrong in (3, Network()):
        with pytest.raises(TypeError, match="name of a module, or a function"):
            ReplayDistillation(network=wrong)


@pytest.mark.parametrize("kind", [FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy])
def test_spread_models_are_refused(kind):
    class Pretended:
        strategy = object.__new__(kind)

    with pytest.raises(MisconfigurationException, match=f"under {kind.__name__} weights are spread"):
        ReplayDistillation().setup(Pretended(), Denoising(), "fit")


def test_a_fit_without_replay_says_that_nothing_is_held():
    distillation = ReplayDistillation()
    module = Denoising()
    with pytest.warns(UserWarning, match="holds nothing in this fit"):
        fit_tasks(trainer(distillation), module, [loader(0), loader(1)])


@pytest.mark.heavy
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_two_processes_hold_as_by_hand(tmp_path):
    first, second = results_of("run_distillation", tmp_path, timeout=240)
    for name, weight in first["held"].items():
        assert torch.equal(weight, second["held"][name])
        torch.testing.assert_close(weight, first["by hand"][name], rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:What was found on Lazy is not used")  # where diffusers was imported
def test_attributes_that_cannot_be_had_are_no_obstacle():
    class Lazy(Two):
        @property
        def shadow_params(self):
            raise RuntimeError("set in setup")

        @property
        def num_timesteps(self):
            raise RuntimeError("set in setup")

    assert_alike(train(Lazy()), train(Two()), rtol=0, atol=0)


class Shuffles(Denoising):
    """Pairs samples with noise by moving the samples."""

    def loss(self, batch):
        order = torch.cdist(batch["noise"], batch["x"]).sum(1).argsort()
        return super().loss({**batch, "x": batch["x"][order]})


def test_a_step_that_moves_its_samples_is_refused_in_the_first_task():
    module = Shuffles()
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(MisconfigurationException, match="shows Network the samples of a batch in another order"):
        train(module)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


class LearnsBeside(Two):
    """A loss of which no target is told, with a part that learns beside the network."""

    def loss(self, batch):
        answer = self.network(self.shown(batch), batch["t"])
        return (answer - batch["noise"]).square().mean() + self.other(answer[:, :2]).tanh().mean()


def test_where_nothing_but_the_loss_is_measured_the_network_is_the_one_that_was_seen_being_trained():
    named, found = train(LearnsBeside(), network="network"), train(LearnsBeside())
    assert_alike(found, named, rtol=0, atol=0)
    assert differ(found, train(LearnsBeside(), distil=False))
