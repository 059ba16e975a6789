"""Strategies that cannot carry tasks are refused with the reason, each in the shape in which Lightning makes it."""

import pytest
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
    XLAStrategy,
)
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from hopfield_replay import EnergyReplayBuffer, ForgettingMonitor, ReplayDataModule, fit_tasks
from hopfield_replay.lightning.checkpoints import check_resumes
from hopfield_replay.lightning.requeue import Requeue
from hopfield_replay.lightning.strategies import check_averaging, check_launcher, check_whole_model
from tests.lightning.small import Foreign, loader, trainer


def bare(strategy, **attributes):
    """One whose package is not installed, or which only builds on its own hardware; without its constructor."""
    made = object.__new__(strategy)
    vars(made).update(attributes)
    return made


class OwnSharding(FSDPStrategy):
    """A subclass, as people write them."""


SPLIT = {
    "fsdp": FSDPStrategy,
    "a subclass of fsdp": OwnSharding,
}


def zero(stage):
    """One of DeepSpeed, which need not be installed, with the settings that its constructor makes."""
    return bare(DeepSpeedStrategy, config={"zero_optimization": {"stage": stage}})


@pytest.mark.parametrize("name", SPLIT)
def test_models_that_are_split_cannot_be_measured(name, monkeypatch):
    strategy = SPLIT[name]()
    buffer = EnergyReplayBuffer(3)
    runner = trainer(ForgettingMonitor(buffer))
    monkeypatch.setattr(type(runner), "strategy", strategy)  # such a trainer builds on several GPUs only
    message = rf"{type(strategy).__name__} cannot run the model outside of a training step.*such as ddp"
    with pytest.raises(MisconfigurationException, match=message):
        runner.callbacks[0].setup(runner, Foreign(), "fit")
    check_launcher(strategy)  # their processes live on: without a monitor tasks can be trained


def test_weights_that_deepspeed_splits(monkeypatch):
    runner = trainer(ForgettingMonitor(EnergyReplayBuffer(3)))
    monkeypatch.setattr(type(runner), "strategy", zero(3))
    with pytest.raises(MisconfigurationException, match=r"DeepSpeedStrategy at stage 3 splits.*stage 1 or 2"):
        runner.callbacks[0].setup(runner, Foreign(), "fit")


@pytest.mark.parametrize("size", ["auto", 2])
def test_computations_that_are_split_cannot_be_measured(size, monkeypatch):
    strategy = ModelParallelStrategy(tensor_parallel_size=size)
    runner = trainer(ForgettingMonitor(EnergyReplayBuffer(3)))
    monkeypatch.setattr(type(runner), "strategy", strategy)
    message = f"ModelParallelStrategy splits the computation itself over {size} processes.*set tensor_parallel_size=1"
    with pytest.raises(MisconfigurationException, match=message):
        runner.callbacks[0].setup(runner, Foreign(), "fit")


def test_checkpoints_that_are_folders(monkeypatch, tmp_path):
    """They would not be found by ckpt_path="last", and the tasks would silently begin anew."""
    runner, plain = trainer(ModelCheckpoint(dirpath=tmp_path, save_last=True), enable_checkpointing=True), trainer()
    monkeypatch.setattr(type(runner), "strategy", ModelParallelStrategy(2, 1))
    with pytest.raises(MisconfigurationException, match=r"checkpoints as folders.*save_distributed_checkpoint=False"):
        fit_tasks(runner, Foreign(), [loader()])
    monkeypatch.setattr(type(runner), "strategy", zero(2))
    with pytest.raises(MisconfigurationException, match=r"DeepSpeedStrategy writes.*enable_checkpointing=False"):
        fit_tasks(runner, Foreign(), [loader()])
    check_resumes(plain)  # which keeps none
    monkeypatch.setattr(type(runner), "strategy", ModelParallelStrategy(2, 1, save_distributed_checkpoint=False))
    check_resumes(runner)


def test_callbacks_that_copy_what_is_spread(monkeypatch):
    """Torch refuses it with an AssertionError of its own."""
    runner = trainer(EMAWeightAveraging(), ForgettingMonitor())
    monkeypatch.setattr(type(runner), "strategy", ModelParallelStrategy(2, 1))
    message = "EMAWeightAveraging copies the module, which torch does not do where fully_shard has spread it"
    with pytest.raises(MisconfigurationException, match=message):
        fit_tasks(runner, Foreign(), [loader()])
    check_averaging(DDPStrategy(), runner.callbacks)
    check_averaging(ModelParallelStrategy(2, 1), [])


def test_a_folder_is_no_checkpoint_to_go_on_from(tmp_path):
    for folder in (tmp_path / "last.ckpt", tmp_path / "hpc_ckpt_1.ckpt"):
        folder.mkdir()
    (tmp_path / "last.ckpt" / "latest").write_text("checkpoint")  # as DeepSpeed writes them
    message = r"last.ckpt' is a folder, as DeepSpeed.*Give a checkpoint file"
    with pytest.raises(MisconfigurationException, match=message):
        fit_tasks(trainer(), Foreign(), [loader()], ckpt_path=tmp_path / "last.ckpt")


def test_a_folder_that_was_written_for_slurm(tmp_path, monkeypatch):
    """Lightning would load it into the fit of every task."""
    (tmp_path / "hpc_ckpt_1.ckpt").mkdir()
    runner = trainer(default_root_dir=tmp_path)
    assert Requeue().newest(runner, None) is None  # under SLURM alone is it looked for
    monkeypatch.setattr(SLURMEnvironment, "detect", staticmethod(lambda: True))
    with pytest.raises(MisconfigurationException, match=r"hpc_ckpt_1.ckpt, written when SLURM.*is a folder.*Remove"):
        Requeue().newest(runner, None)


@pytest.mark.parametrize("name", ["ddp_spawn", "ddp_fork", "ddp_notebook"])
def test_processes_that_end_with_every_fit(name):
    method = name.removeprefix("ddp_").replace("notebook", "fork")
    monitor = ForgettingMonitor()
    runner = trainer(monitor, strategy=name, devices=2)
    message = rf'strategy="ddp_{method}" starts its processes by {method}, ends them with every fit.*use strategy="ddp"'
    with pytest.raises(MisconfigurationException, match=message):
        fit_tasks(runner, Foreign(), [ReplayDataModule(loader(), EnergyReplayBuffer(2))])
    with pytest.raises(MisconfigurationException, match=message):
        monitor.setup(runner, Foreign(), "fit")


def test_processes_of_xla():
    with pytest.raises(MisconfigurationException, match="XLAStrategy starts its processes by fork"):
        check_launcher(bare(XLAStrategy, _start_method="fork"))


@pytest.mark.parametrize(
    "strategy",
    [
        *(SingleDeviceStrategy("cpu"), DDPStrategy(), ModelParallelStrategy(2, 1), zero(1), zero(2)),
        bare(DeepSpeedStrategy, config={}),
    ],
)
def test_those_that_can(strategy):
    check_launcher(strategy)
    check_whole_model(strategy)
