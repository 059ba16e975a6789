"""What worked at the start and cannot be measured at a boundary costs its numbers, and never the run."""

import re
import warnings

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from hopfield_replay import EnergyReplayBuffer, ForgettingMonitor, fit_tasks
from hopfield_replay.denoisers import CallableDenoiser
from tests.lightning.small import trainer
from tests.lightning.styles import SelfConditioning, TextToImage, Tutorial, loader

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]  # lightning; tiny data needs none

STEPS = 3  # of a task


def later(module):
    """In the second task something is another one."""
    return module.global_step > STEPS


class StepBreaks(TextToImage):
    """The step that is read refuses to be called outside of training."""

    def training_step(self, batch, batch_idx):
        if later(self) and not self.training:
            raise RuntimeError("not outside of training")
        return super().training_step(batch, batch_idx)


class LossBreaks(SelfConditioning):
    """So does the one whose loss is taken."""

    broken = False

    def on_train_batch_start(self, *_):
        self.broken = later(self)

    def training_step(self, batch, batch_idx):
        if self.broken and not self.training:
            raise RuntimeError("not outside of training")
        return super().training_step(batch, batch_idx)


class NetworkRetires(Tutorial):
    """Another network is trained, and the first one is gone."""

    def __init__(self):
        super().__init__()
        self.last, self.retired = torch.nn.Linear(64, 64), False

    def on_train_batch_start(self, *_):
        self.retired = later(self)
        if self.retired:
            self.net.forward = self.refuse

    def refuse(self, x, t):
        raise RuntimeError("retired")

    def ask(self, noisy, t, y):
        return self.last(noisy.flatten(1)).view_as(noisy) if self.retired else self.net(noisy, t)


class Diverges(Tutorial):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss * float("nan") if later(self) else loss


class OutOfMemory(Tutorial):
    def on_train_batch_start(self, *_):
        if later(self):
            self.net.forward = self.refuse

    def refuse(self, x, t):
        if not self.training:
            raise torch.OutOfMemoryError("no memory is left")
        return type(self.net).forward(self.net, x, t)


def measured(kind, tasks=3, policy=None, **settings):
    """The monitor, the trainer, and what was said of boundaries."""
    torch.manual_seed(0)
    module = kind()
    monitor = ForgettingMonitor(
        None if policy is None else EnergyReplayBuffer(6, policy), probe_size=5, loss_draws=2, **settings
    )
    runner = trainer(monitor, max_epochs=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit_tasks(runner, module, [loader(task, kind) for task in range(tasks)])
    return monitor, runner, [str(w.message) for w in caught if "measured at the boundary" in str(w.message)]


@pytest.mark.parametrize(
    ("kind", "levels", "says"),
    [
        (StepBreaks, ["own step", "energies only"], "RuntimeError: not outside of training"),
        (LossBreaks, ["paired loss", "energies only"], "RuntimeError: not outside of training"),
        (NetworkRetires, ["inferred", "paired loss"], "RuntimeError: retired"),
        (Diverges, ["inferred", "energies only"], "its predictions are not finite"),
        (OutOfMemory, ["inferred", "energies only"], "does not fit into the device's memory"),
    ],
)
def test_a_healthy_run_goes_on_with_less_and_says_so(kind, levels, says):
    monitor, runner, told = measured(kind)
    assert runner.global_step == 3 * STEPS
    assert [record.task for record in monitor.history] == [0, 1, 2]
    assert [record.trust.split(":")[0] for record in monitor.history] == [levels[0], levels[1], levels[1]]
    assert len(told) == 1
    assert re.search(says, told[0]), told[0]
    assert f"From now on: {levels[1]}" in told[0]
    first, last = monitor.history[0].probes[0], monitor.history[-1].probes
    assert (first.error is None) == (levels[0] == "paired loss")  # what was measured is still there
    assert all(probe.error is None for probe in last)
    assert all((probe.loss is None) == (levels[1] == "energies only") for probe in last)
    assert all(bool(probe.energy.isfinite().all()) for probe in last)
    if levels[1] == "paired loss":  # a task that was learned since then has a start of its own
        assert last[0].loss_forgetting is None
        assert last[1].loss_forgetting is not None
    assert monitor.table()
    again = ForgettingMonitor(probe_size=5, loss_draws=2)
    again.load_state_dict(monitor.state_dict())
    assert again.history == monitor.history


def test_a_given_denoiser_that_fails_later_costs_no_run_either():
    def give(module):
        def ask(x, t):
            if later(module):
                raise KeyError("its table is gone")
            return module.net(x, t)

        return CallableDenoiser(ask, module.bar)

    monitor, _, told = measured(Tutorial, denoiser=give)
    assert [record.trust for record in monitor.history] == ["given, verified", "paired loss", "paired loss"]
    assert "KeyError" in told[0]


def test_errors_of_anything_else_are_raised(monkeypatch):
    monkeypatch.setattr("hopfield_replay.functional.patterns.Patterns.energies", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        measured(Tutorial)


def test_a_policy_that_needs_losses_is_told_before_a_weight_is_changed():
    class NoNetwork(Tutorial):
        def training_step(self, batch, batch_idx):
            if not self.training:
                raise RuntimeError("only in training")
            return F.mse_loss(self.net.last(self.net.first(torch.randn(4, 66))), torch.zeros(4, 64))

    module = NoNetwork()
    before = {name: weight.clone() for name, weight in module.state_dict().items()}
    runner = trainer(ForgettingMonitor(EnergyReplayBuffer(4, "high_loss")), max_epochs=1)
    with (
        pytest.warns(UserWarning, match="only energies are measured"),
        pytest.raises(
            MisconfigurationException, match=r"policy HighLoss needs the model's error or loss .* only in training"
        ),
    ):
        runner.fit(module, loader(0, NoNetwork))
    assert all(torch.equal(before[name], weight) for name, weight in module.state_dict().items())
    assert len(measured(SelfConditioning, policy="high_loss")[0].buffer) == 6  # the paired loss is one


class Killed(Callback):
    """Killed after the last checkpoint of a task, before its boundary."""

    def on_train_end(self, trainer, pl_module):
        raise KeyError("killed")


CALLS = []  # of a step, as in a journal that nobody can undo


def note(module):
    CALLS.append((module.training, module.trainer.training, module.trainer.validating))


class Notes(Tutorial):
    def training_step(self, batch, batch_idx):
        note(self)
        return super().training_step(batch, batch_idx)


class NotesTwice(SelfConditioning):
    def training_step(self, batch, batch_idx):
        note(self)
        return super().training_step(batch, batch_idx)


@pytest.mark.filterwarnings("ignore:No denoiser was found", "ignore:Checkpoint directory")
@pytest.mark.parametrize(
    ("kind", "settings", "calls"),
    [
        (Notes, {"denoiser": lambda module: CallableDenoiser(module.net, module.bar)}, 0),
        (Notes, {}, 1),
        (NotesTwice, {}, 5),
    ],
    ids=["given", "inferred", "paired loss"],
)
def test_a_boundary_that_is_made_up_for_is_what_it_would_have_been_and_trains_nothing(kind, settings, calls, tmp_path):
    def run(*before, folder="killed", ckpt_path=None):
        torch.manual_seed(0)
        module, monitor = kind(), ForgettingMonitor(probe_size=5, loss_draws=2, **settings)
        keep = ModelCheckpoint(tmp_path / folder, save_last=True, every_n_train_steps=1)
        runner = trainer(*before, monitor, keep, max_epochs=1, enable_checkpointing=True)
        fit_tasks(runner, module, [loader(0, kind)], ckpt_path=ckpt_path)
        return monitor

    whole = run(folder="whole")
    with pytest.raises(KeyError, match="killed"):
        run(Killed())
    CALLS.clear()
    resumed = run(ckpt_path="last")
    assert resumed.history == whole.history
    assert [(False, False, True)] * calls == CALLS  # in eval mode, the trainer validating


@pytest.mark.parametrize(
    "damage",
    [{"level": "excellent"}, {"words": 3}, {"counts": [1]}, {"counts": [1, "x"]}, {"counts": 4}, {"counts": [-1, 0]}],
)
def test_a_damaged_state_of_what_is_measured(damage):
    state = measured(SelfConditioning, tasks=1)[0].state_dict()
    assert state["measured"] == {"level": "paired loss", "words": "", "counts": [STEPS, 1]}
    state["measured"] |= damage
    with pytest.raises(ValueError, match="state of what is measured is damaged"):
        ForgettingMonitor(probe_size=5).load_state_dict(state)
    del state["measured"]  # of an earlier version
    ForgettingMonitor(probe_size=5).load_state_dict(state)
