"""What a resumed run has in common with one that was never interrupted.

Lightning restores weights, optimizers, loops and callbacks, but not torch's global random numbers. The module here
draws none, and its loaders do not shuffle; so from a checkpoint at an epoch's end the rest of the run is the same in
every bit. (Under max_steps Lightning takes an epoch's end for its middle: the number of steps is right, the batches are
others.) From a checkpoint inside an epoch a plain DataLoader starts again at its first batch, and Lightning warns of
it: the replayed samples are still the same, and everything is when the loader can be resumed.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.callbacks import ModelCheckpoint

from hopfield_replay import EnergyReplayBuffer, ForgettingMonitor, ReplayDataModule, fit_tasks
from tests.lightning.run_tasks import AtTheEnd, run
from tests.lightning.small import Foreign, Images, Resumable, WithValidation, energies_of, loader, same, trainer

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),  # lightning; tiny data needs none
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),  # lightning, at every fit
    pytest.mark.filterwarnings("ignore:No denoiser was found"),  # ours, on modules that have none
]
ROOT = Path(__file__).parents[2]


class PowerCutError(Exception):
    pass


def cut():
    raise PowerCutError


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that nothing interrupts."""
    return run(tmp_path_factory.mktemp("whole"))


def check_same(resumed, whole, steps):
    """The history, the buffer, the weights, and the last ``steps`` training batches are those of the whole run."""
    (module, monitor), (reference, expected) = resumed, whole
    assert same(*([energies_of(record) for record in m.history] for m in (monitor, expected)))
    assert same(monitor.buffer.state_dict(), expected.buffer.state_dict())
    assert torch.equal(module.layer.weight, reference.layer.weight)
    assert len(module.seen) == steps
    assert same(module.seen, reference.seen[len(reference.seen) - steps :])


class CutAtStep(Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise PowerCutError


@pytest.mark.parametrize(
    ("step", "steps_left"),
    [
        (4, 18 - 3),  # in the second epoch of the first task: from the end of its first
        (10, 18 - 9),  # in the second epoch of the second task
        (7, 18 - 6),  # in the first epoch of the second task: from the end of the first task, whose boundary is redone
    ],
)
def test_cut_inside_an_epoch(tmp_path, whole, step, steps_left):
    with pytest.raises(PowerCutError):
        run(tmp_path, CutAtStep(step))
    check_same(run(tmp_path, ckpt_path="last"), whole, steps_left)


@pytest.mark.parametrize("task", [0, 1, 2])
def test_cut_between_a_tasks_last_checkpoint_and_its_boundary(tmp_path, whole, task):
    with pytest.raises(PowerCutError):
        run(tmp_path, AtTheEnd(task, cut))
    check_same(run(tmp_path, ckpt_path=tmp_path / "last.ckpt"), whole, 18 - 6 * (task + 1))


def test_killed_between_a_tasks_last_checkpoint_and_its_boundary(tmp_path, whole):
    killed = subprocess.run(
        [sys.executable, "-m", "tests.lightning.run_tasks", str(tmp_path), "1"],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"]["ForgettingMonitor"]
    assert (saved["open_task"], len(saved["history"])) == (1, 1)  # the second boundary is not in it
    check_same(run(tmp_path, ckpt_path="last"), whole, 6)


def test_cut_twice(tmp_path, whole):
    with pytest.raises(PowerCutError):
        run(tmp_path, AtTheEnd(0, cut))
    with pytest.raises(PowerCutError):
        run(tmp_path, CutAtStep(10), ckpt_path="last")
    check_same(run(tmp_path, ckpt_path="last"), whole, 18 - 9)


def test_every_task_has_its_hooks_after_a_resume(tmp_path):
    class Hooks(Callback):
        def __init__(self):
            self.seen = []

        def on_train_epoch_start(self, trainer, pl_module):
            self.seen.append(("epoch", trainer.current_epoch))

        def on_train_end(self, trainer, pl_module):
            self.seen.append("end")

    with pytest.raises(PowerCutError):
        run(tmp_path, AtTheEnd(0, cut))
    hooks = Hooks()
    run(tmp_path, hooks, ckpt_path="last")
    assert hooks.seen == [("epoch", 0), ("epoch", 1), "end"] * 2


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_the_limit_of_steps_holds_for_the_resumed_task(tmp_path):
    limits = {"max_epochs": -1, "max_steps": 5}
    with pytest.raises(PowerCutError):
        run(tmp_path, CutAtStep(9), **limits)
    module, monitor = run(tmp_path, ckpt_path="last", **limits)  # from step 8; the second task ends at step 10
    assert [int(batch["label"][0]) for _, batch in module.seen] == [1] * 2 + [2] * 5
    assert len(monitor.history) == 3


@pytest.mark.parametrize("task", [0, 1])
def test_the_limit_of_steps_holds_after_a_boundary_is_made_up_for(tmp_path, task):
    limits = {"max_epochs": -1, "max_steps": 6}
    reference = run(tmp_path / "whole", **limits)
    with pytest.raises(PowerCutError):
        run(tmp_path / "cut", AtTheEnd(task, cut), **limits)
    check_same(run(tmp_path / "cut", ckpt_path="last", **limits), reference, 18 - 6 * (task + 1))


class TestInsideAnEpoch:
    @pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
    def test_the_replayed_samples_go_on(self, tmp_path, whole):
        with pytest.raises(PowerCutError):
            run(tmp_path, CutAtStep(10), every_step=True)
        module, monitor = run(tmp_path, ckpt_path="last", every_step=True)
        reference, expected = whole
        assert len(module.seen) == 18 - 10
        for (_, batch), (_, wanted) in zip(module.seen, reference.seen[10:], strict=True):
            assert torch.equal(batch["image"][4:], wanted["image"][4:])
        assert same(monitor.buffer.state_dict(), expected.buffer.state_dict())  # it depends on the data alone
        assert [probe["energy"].tolist() for r in monitor.history for probe in r["probes"]] == [
            probe["energy"].tolist() for r in expected.history for probe in r["probes"]
        ]

    @pytest.mark.parametrize("cut_at", [4, 8, 9, 10, 11])
    def test_a_resumable_loader_makes_it_exact(self, tmp_path, whole, cut_at):
        def make(task):
            return Resumable(Images(task), batch_size=4)

        with pytest.raises(PowerCutError):
            run(tmp_path, CutAtStep(cut_at), every_step=True, make_loader=make)
        resumed = run(tmp_path, ckpt_path="last", every_step=True, make_loader=make)
        check_same(resumed, whole, 18 - cut_at)


@pytest.mark.filterwarnings("ignore:You have overridden .* in `LightningModule`")  # lightning says which hook runs
def test_a_boundary_that_fails_can_be_repeated(tmp_path, whole):
    """The error comes from inside the measurement, after the task was trained."""

    class Fragile(Foreign):
        def transfer_batch_to_device(self, batch, device, dataloader_idx):
            if self.trainer.global_step == 12 and len(batch["image"]) == 6:  # the probes
                raise PowerCutError
            return batch

    with pytest.raises(PowerCutError):
        run(tmp_path, module=Fragile())
    check_same(run(tmp_path, ckpt_path="last"), whole, 6)


def test_probes_from_validation_data_are_made_up_for_too(tmp_path):
    class Data(LightningDataModule):
        def __init__(self, task):
            super().__init__()
            self.task = task

        def train_dataloader(self):
            return loader(self.task)

        def val_dataloader(self):
            return loader(self.task + 10, n=5)

    def go(folder, *callbacks, ckpt_path=None):
        buffer = EnergyReplayBuffer(4)
        monitor = ForgettingMonitor(buffer, probe_source="val")
        saving = ModelCheckpoint(dirpath=folder, save_last=True)
        tasks = [ReplayDataModule(Data(task), buffer) for task in range(2)]
        runner = trainer(*callbacks, monitor, saving, enable_checkpointing=True)
        fit_tasks(runner, WithValidation(), tasks, ckpt_path=ckpt_path)
        return monitor

    reference = go(tmp_path / "whole")
    with pytest.raises(PowerCutError):
        go(tmp_path / "cut", AtTheEnd(0, cut))
    resumed = go(tmp_path / "cut", ckpt_path="last")
    assert same(resumed.history, reference.history)
    assert same(resumed.buffer.state_dict(), reference.buffer.state_dict())


def test_a_state_without_a_buffer_is_not_taken_for_one_with(tmp_path):
    runner = trainer(ForgettingMonitor())
    fit_tasks(runner, Foreign(), [loader()])
    runner.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"written without a buffer, but this run is with one; resume with the same"):
        fit_tasks(
            trainer(ForgettingMonitor(EnergyReplayBuffer(3))), Foreign(), [loader()], ckpt_path=tmp_path / "a.ckpt"
        )


def test_what_is_not_the_same_when_the_module_draws_global_random_numbers(tmp_path):
    """Lightning does not restore them: weights differ, but buffer, energies and the number of steps do not."""

    class Noisy(Foreign):
        def training_step(self, batch, batch_idx):
            batch = {**batch, "image": batch["image"] + 0.1 * torch.randn_like(batch["image"])}
            return super().training_step(batch, batch_idx)

    def shuffled(task):
        return loader(task, shuffle=True)

    def go(folder, *callbacks, **options):
        torch.manual_seed(5)
        module = Noisy()
        torch.manual_seed(5)
        return run(folder, *callbacks, module=module, make_loader=shuffled, **options)

    reference, expected = go(tmp_path / "whole")
    again, _ = go(tmp_path / "again")
    assert torch.equal(again.layer.weight, reference.layer.weight)  # not interrupted, it repeats itself
    with pytest.raises(PowerCutError):
        go(tmp_path / "cut", CutAtStep(10))
    resumed, monitor = go(tmp_path / "cut", ckpt_path="last")
    assert not torch.equal(resumed.layer.weight, reference.layer.weight)
    assert len(resumed.seen) == 18 - 9
    assert same(*([energies_of(record) for record in m.history] for m in (monitor, expected)))
    assert same(monitor.buffer.state_dict(), expected.buffer.state_dict())
