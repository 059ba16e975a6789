"""LightningCLI: callback, buffer and datamodules from YAML files, for one fit and for a sequence of tasks."""

from functools import partial
from pathlib import Path

import pytest
import torch

pytest.importorskip("jsonargparse")

from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from hopfield_replay import EnergyReplayBuffer, ForgettingMonitor, ReplayDataModule, fit_tasks
from tests.lightning.small import Foreign, image_of, same, trainer
from tests.lightning.test_resume import PowerCutError
from tests.reliability.one_task import OneTask
from tests.reliability.train_tasks import main

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),  # lightning; tiny data needs none
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),  # lightning, at every fit
    pytest.mark.filterwarnings("ignore:No denoiser was found"),  # ours, on modules that have none
    pytest.mark.filterwarnings("ignore:(?s).*(deprecated in v4|JsonargparseDeprecationWarning)"),  # lightning's own use
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),  # the callback that cut the power
]
HERE = Path(__file__).parent


def call(make, *args):
    """What a script does that was started with these arguments."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["train.py", *args])
        return make()


def run_tasks(folder, *args):
    cli = call(main, "--config", str(HERE / "tasks.yaml"), f"--trainer.default_root_dir={folder}", *args)
    (monitor,) = (callback for callback in cli.trainer.callbacks if isinstance(callback, ForgettingMonitor))
    return cli, monitor


def sizes(module):
    return [len(image_of(batch)) for _, batch in module.seen]


def test_tasks_from_yaml_are_those_of_the_same_lines_of_python(tmp_path):
    cli, monitor = run_tasks(tmp_path)
    buffer = EnergyReplayBuffer(6, "random", groups="task")
    reference, module = ForgettingMonitor(buffer, probe_size=5), Foreign()
    runner = trainer(EMAWeightAveraging(decay=0.9), reference)
    fit_tasks(runner, module, [ReplayDataModule(OneTask(task), buffer, replay_ratio=0.5) for task in range(2)])
    assert same(monitor.history, reference.history)
    assert same(monitor.buffer.state_dict(), reference.buffer.state_dict())
    assert torch.equal(cli.model.layer.weight, module.layer.weight)
    assert sizes(cli.model) == sizes(module) == [4] * 6 + [8] * 6
    assert [task.hparams.task for task in cli.config_init.tasks] == [0, 1]


def test_resuming_from_the_command_line(tmp_path):
    _, whole = run_tasks(tmp_path / "whole")
    power = ["--trainer.callbacks+=tests.lightning.test_resume.CutAtStep", "--trainer.callbacks.step=10"]
    with pytest.raises(PowerCutError):
        run_tasks(tmp_path / "cut", *power)
    cli, monitor = run_tasks(tmp_path / "cut", "--ckpt_path=last", f"--trainer.default_root_dir={tmp_path / 'cut'}")
    assert same(monitor.history, whole.history)
    assert sizes(cli.model) == [8] * 3


def test_the_file_that_is_saved_repeats_the_run(tmp_path):
    _, first = run_tasks(tmp_path / "first")
    saved = str(tmp_path / "first" / "config.yaml")
    cli = call(main, "--config", saved, f"--trainer.default_root_dir={tmp_path / 'again'}")
    (monitor,) = (callback for callback in cli.trainer.callbacks if isinstance(callback, ForgettingMonitor))
    assert same(monitor.history, first.history)


def test_one_fit_with_plain_lightning_cli(tmp_path):
    where = f"--trainer.default_root_dir={tmp_path}"
    make = partial(LightningCLI, load_from_checkpoint_support=False)
    cli = call(make, "fit", "--config", str(HERE / "fit.yaml"), where)
    monitor = next(callback for callback in cli.trainer.callbacks if isinstance(callback, ForgettingMonitor))
    assert (monitor.tracker.beta, monitor.tracker.probe_size, len(monitor.buffer)) == (2.0, 5, 6)
    assert cli.datamodule.train_dataloader().stream.buffer is monitor.buffer
    assert cli.datamodule.replay_ratio == 0.25
    assert len(monitor.history) == 1


def test_hyperparameters_that_lightning_cli_mixes_up_are_named(tmp_path):
    """By default it hands every datamodule in the file those of ``data``."""
    where = f"--trainer.default_root_dir={tmp_path}"
    with pytest.raises(Exception, match=r"gave OneTask the hyperparameters .*load_from_checkpoint_support=False"):
        call(LightningCLI, "fit", "--seed_everything=0", "--config", str(HERE / "fit.yaml"), where)


def test_options_are_documented_and_wrong_ones_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        call(main, "--trainer.callbacks.help=hopfield_replay.ForgettingMonitor")
    shown = " ".join(capsys.readouterr().out.split())
    assert "samples of each task that are followed" in shown
    assert "inverse temperature;" in shown
    for wrong, said in (("--trainer.callbacks.probe_sise=3", "probe_sise"), ("--trainer.callbacks.beta=warm", "warm")):
        with pytest.raises(SystemExit):
            call(main, "--trainer.callbacks=hopfield_replay.ForgettingMonitor", wrong)
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("monitor", [None, ForgettingMonitor()])
def test_no_buffer_anywhere(monitor):
    runner = trainer(*([] if monitor is None else [monitor]))
    with pytest.raises(
        MisconfigurationException, match=r"has no buffer, and its trainer has no ForgettingMonitor with"
    ):
        runner.fit(Foreign(), datamodule=ReplayDataModule(OneTask(0)))


def test_no_buffer_and_no_trainer():
    with pytest.raises(MisconfigurationException, match=r"ReplayDataModule has no buffer"):
        ReplayDataModule(OneTask(0)).train_dataloader()
