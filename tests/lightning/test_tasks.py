import warnings

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint, ModelSummary
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from hopfield_replay import EnergyReplayBuffer, ReplayDataModule, fit_tasks
from tests.lightning.small import Foreign, loader, trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),  # lightning; tiny data needs none
]


class Watch(Callback):
    """What every task's fit looked like."""

    def __init__(self):
        self.epochs, self.steps, self.optimizers, self.hooks = [], [], [], []

    def on_train_start(self, trainer, pl_module):
        self.epochs.append([])
        self.steps.append([trainer.global_step])
        self.optimizers.append(trainer.optimizers[0])
        self.hooks.append("start")

    def on_train_epoch_start(self, trainer, pl_module):
        self.epochs[-1].append(trainer.current_epoch)

    def on_train_end(self, trainer, pl_module):
        self.steps[-1].append(trainer.global_step)
        self.hooks.append("end")


def tasks(count=3, **settings):
    return [loader(task, **settings) for task in range(count)]


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("limits", "epochs", "steps"),
    [
        ({"max_epochs": 2}, [0, 1], 6),
        ({"max_epochs": 1}, [0], 3),
        ({"max_epochs": -1, "max_steps": 4}, [0, 1], 4),
        ({"max_epochs": None, "max_steps": 6}, [0, 1], 6),
        ({"max_epochs": 2, "max_steps": 4}, [0, 1], 4),
        ({"max_epochs": 1, "max_steps": 4}, [0], 3),
    ],
)
def test_every_task_gets_the_full_limits(limits, epochs, steps):
    watch = Watch()
    runner = trainer(watch, **limits)
    before = runner.max_steps
    fit_tasks(runner, Foreign(), tasks())
    assert watch.epochs == [epochs] * 3
    assert watch.steps == [[0, steps], [steps, 2 * steps], [2 * steps, 3 * steps]]
    assert watch.hooks == ["start", "end"] * 3
    assert runner.max_steps == before


def test_optimizers_start_anew_and_the_model_goes_on():
    watch, module = Watch(), Foreign()
    start = module.layer.weight.clone()
    fit_tasks(trainer(watch), module, tasks())
    assert len({id(optimizer) for optimizer in watch.optimizers}) == 3
    alone = Foreign()  # three fresh trainers, one after the other, are the same as fit_tasks
    for task in tasks():
        trainer().fit(alone, task)
    assert torch.equal(module.layer.weight, alone.layer.weight)
    assert not torch.equal(module.layer.weight, start)


class Scheduled(Foreign):
    """A schedule over a task, which needs to know the number of steps."""

    def __init__(self):
        super().__init__()
        self.estimates = []

    def configure_optimizers(self):
        self.estimates.append(self.trainer.estimated_stepping_batches)
        optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
        rates = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.5, total_iters=self.estimates[-1])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rates, "interval": "step"}}


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("limits", "steps"),
    [
        ({"max_epochs": 4}, 12),
        ({"max_epochs": -1, "max_steps": 5}, 5),
        ({"max_epochs": 4, "max_steps": 5}, 5),
        ({"max_epochs": 2, "accumulate_grad_batches": 2}, 4),
    ],
)
def test_the_estimate_of_steps_is_right_for_every_task(limits, steps):
    watch, module = Watch(), Scheduled()
    fit_tasks(trainer(watch, **limits), module, tasks())
    assert module.estimates == [steps] * 3
    assert [end - start for start, end in watch.steps] == [steps] * 3
    assert [optimizer.param_groups[0]["lr"] for optimizer in watch.optimizers] == pytest.approx([0.5] * 3)


def test_a_second_call_goes_on():
    watch, module = Watch(), Foreign()
    runner = trainer(watch)
    fit_tasks(runner, module, tasks(2))
    fit_tasks(runner, module, tasks(2))
    assert watch.epochs == [[0, 1]] * 4
    assert runner.global_step == 24


def test_fast_dev_run_tries_one_batch_of_every_task():
    watch = Watch()
    fit_tasks(trainer(watch, fast_dev_run=True), Foreign(), tasks())
    assert watch.steps == [[0, 1], [1, 2], [2, 3]]


def test_limits_come_back_after_a_crash():
    class Crash(Foreign):
        def on_train_epoch_start(self):
            if self.trainer.global_step >= 6:
                raise RuntimeError("power cut")

    runner = trainer(max_epochs=-1, max_steps=6)
    with pytest.raises(RuntimeError, match="power cut"):
        fit_tasks(runner, Crash(), tasks())
    assert runner.max_steps == 6


def test_the_model_is_summarized_once(monkeypatch):
    shown = []
    monkeypatch.setattr(ModelSummary, "summarize", staticmethod(lambda *parts, **_: shown.append(parts)))
    summary = ModelSummary(max_depth=3)
    for calls in (1, 2):  # and once more in another call
        fit_tasks(trainer(summary, max_epochs=1, enable_model_summary=True), Foreign(), tasks())
        assert len(shown) == calls


def test_checkpoints_of_earlier_tasks_are_no_surprise(tmp_path):
    before = list(warnings.filters)
    heard = []

    class Says(Callback):
        def on_train_start(self, trainer, module):
            with pytest.warns(UserWarning, match="another thing"):
                warnings.warn("another thing", UserWarning, stacklevel=1)
            heard.append(trainer.global_step)

    def run(tasks):
        runner = trainer(ModelCheckpoint(tmp_path, save_last=True), Says(), max_epochs=1, enable_checkpointing=True)
        fit_tasks(runner, Foreign(), [loader(task) for task in range(tasks)])

    run(3)
    assert len(heard) == 3
    assert warnings.filters == before
    with pytest.raises(UserWarning, match="exists and is not empty"):  # of another run
        run(1)


@pytest.mark.filterwarnings("ignore:Nothing is replayed. .*and no ForgettingMonitor")
def test_datamodules_and_loaders_may_be_mixed():
    module, buffer = Foreign(), EnergyReplayBuffer(2)
    fit_tasks(trainer(max_epochs=1), module, [loader(), ReplayDataModule(loader(1), buffer)])
    assert [int(batch["label"][0]) for _, batch in module.seen] == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("datamodules", "error", "message"),
    [
        ([], ValueError, "datamodules is empty"),
        (ReplayDataModule(loader(), EnergyReplayBuffer(2)), TypeError, "one entry for each task, got ReplayDataModule"),
        (loader(), TypeError, "one entry for each task, got DataLoader"),
        ((task for task in tasks()), TypeError, "one entry for each task, got generator"),
    ],
)
def test_datamodules_that_are_no_list(datamodules, error, message):
    with pytest.raises(error, match=message):
        fit_tasks(trainer(), Foreign(), datamodules)


def test_a_learning_rate_monitor_and_other_callbacks_live_with_it(tmp_path):
    from lightning.pytorch.loggers import CSVLogger

    runner = trainer(LearningRateMonitor(), logger=CSVLogger(tmp_path), log_every_n_steps=1)
    fit_tasks(runner, Scheduled(), tasks(2))


def test_ddp_spawn_is_refused_in_the_main_process():
    runner = trainer(strategy="ddp_spawn", devices=2)
    with pytest.raises(MisconfigurationException, match=r'ddp_spawn.*use strategy="ddp"'):
        fit_tasks(runner, Foreign(), tasks())


class TestCheckpoints:
    def test_a_path_without_a_file(self, tmp_path):
        with pytest.raises(MisconfigurationException, match="must be a checkpoint file or"):
            fit_tasks(trainer(), Foreign(), tasks(), ckpt_path=tmp_path / "none.ckpt")

    def test_no_last_checkpoint(self, tmp_path):
        runner = trainer(ModelCheckpoint(dirpath=tmp_path), enable_checkpointing=True)
        with pytest.raises(MisconfigurationException, match=r"found no last\*.ckpt.*save_last=True"):
            fit_tasks(runner, Foreign(), tasks(), ckpt_path="last")

    def test_written_without_fit_tasks(self, tmp_path):
        runner = trainer()
        runner.fit(Foreign(), loader())
        runner.save_checkpoint(tmp_path / "plain.ckpt")
        with pytest.raises(MisconfigurationException, match="does not say in which task it was written"):
            fit_tasks(trainer(), Foreign(), tasks(), ckpt_path=tmp_path / "plain.ckpt")

    def test_of_a_task_that_is_not_there(self, tmp_path):
        runner = trainer()
        fit_tasks(runner, Foreign(), tasks(3))
        runner.save_checkpoint(tmp_path / "third.ckpt")
        with pytest.raises(MisconfigurationException, match=r"written in task 2, but only the tasks 0 to 1"):
            fit_tasks(trainer(), Foreign(), tasks(2), ckpt_path=tmp_path / "third.ckpt")
