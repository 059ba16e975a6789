"""What the Trainer offers beside plain training, over several tasks with replay and measured boundaries."""

import os
import signal
import time

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelCheckpoint,
    StochasticWeightAveraging,
    Timer,
    WeightAveraging,
)
from lightning.pytorch.tuner import Tuner
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from hopfield_replay import EnergyReplayBuffer, ForgettingMonitor, ReplayDataModule, fit_tasks
from hopfield_replay.buffer.storage import SampleStore
from hopfield_replay.functional.diffusion import reconstruction_error
from tests.lightning.run_tasks import AtTheEnd, run
from tests.lightning.small import Foreign, Images, WithValidation, image_of, loader, same, trainer
from tests.lightning.test_resume import CutAtStep, PowerCutError, check_same, cut

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),  # lightning; tiny data needs none
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),  # lightning, at every fit
    pytest.mark.filterwarnings("ignore:No denoiser was found"),  # ours, on modules that have none
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
]


class Layer:
    """The module's layer as a denoiser: its errors depend on the weights."""

    num_timesteps = 10

    def __init__(self, module):
        self.layer = module.layer

    def noise(self, clean, timestep, noise):
        return clean + 0.1 * timestep * noise

    def predict_clean(self, noisy, timestep, condition=None):
        return self.layer(noisy.flatten(1).to(self.layer.weight.dtype)).view_as(noisy)

    def snr(self, timestep):
        return 1.0


class Data(LightningDataModule):
    """12 images of one task; the batch size can be changed."""

    def __init__(self, task, batch_size=4, n=12):
        super().__init__()
        self.task, self.batch_size, self.n = task, batch_size, n

    def train_dataloader(self):
        return loader(self.task, self.n, batch_size=self.batch_size)

    def val_dataloader(self):
        return loader(self.task, n=4, batch_size=self.batch_size)


def go(*callbacks, module=None, data=Data, count=2, **settings):
    """Two tasks of two epochs of three batches; half of every batch of the second task is replayed."""
    buffer = EnergyReplayBuffer(6, "random", groups="task")
    monitor = ForgettingMonitor(buffer, probe_size=5, denoiser=Layer)
    module = WithValidation() if module is None else module
    runner = trainer(*callbacks, monitor, **settings)
    fit_tasks(runner, module, [ReplayDataModule(data(task), buffer) for task in range(count)])
    return runner, monitor, module


def energies(monitor):
    """What depends on the data alone."""
    return [(p["ids"], p["energy"], p["stored"]) for record in monitor.history for p in record["probes"]]


@pytest.fixture(scope="module")
def plain():
    return go()


NEXT = {"logger": None, "enable_checkpointing": None, "enable_progress_bar": None, "enable_model_summary": None}


@pytest.mark.parametrize(
    ("settings", "steps", "batches"),
    [
        ({}, 12, 12),
        ({"precision": "bf16-mixed"}, 12, 12),
        ({"precision": "bf16-true"}, 12, 12),
        ({"precision": "64-true"}, 12, 12),
        ({"accumulate_grad_batches": 2}, 8, 12),
        ({"val_check_interval": 2}, 12, 12),
        ({"val_check_interval": 0.34}, 12, 12),
        ({"val_check_interval": 4, "check_val_every_n_epoch": None}, 12, 12),
        ({"check_val_every_n_epoch": 2}, 12, 12),
        ({"limit_val_batches": 0}, 12, 12),
        ({"num_sanity_val_steps": 2}, 12, 12),
        ({"barebones": True, "num_sanity_val_steps": None, **NEXT}, 12, 12),
        ({"inference_mode": True}, 12, 12),
        ({"inference_mode": False}, 12, 12),
        ({"gradient_clip_val": 0.01}, 12, 12),
        ({"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}, 12, 12),
        ({"detect_anomaly": True}, 12, 12),
        ({"profiler": "simple"}, 12, 12),
        ({"use_distributed_sampler": False}, 12, 12),
        ({"min_epochs": 2, "max_epochs": 3}, 18, 18),
        ({"reload_dataloaders_every_n_epochs": 1}, 12, 12),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:.*logging on epoch level in distributed setting")  # lightning
@pytest.mark.filterwarnings("ignore:.*barebones=True")  # lightning lists what it leaves out
def test_a_setting_that_leaves_the_data_alone_leaves_energies_and_buffer_alone(plain, settings, steps, batches):
    runner, monitor, module = go(**settings)
    assert (runner.global_step, len(module.seen)) == (steps, batches)
    sizes = [len(image_of(batch)) for _, batch in module.seen]
    assert sizes == [4] * (batches // 2) + [8] * (batches // 2)
    assert same(energies(monitor), energies(plain[1]))
    assert same(monitor.buffer.state_dict(), plain[1].buffer.state_dict())
    assert [probe["error"].dtype for record in monitor.history for probe in record["probes"]] == [torch.float64] * 3
    now = monitor.history[1]["probes"][0]["error"].mean()
    assert now == pytest.approx(float(plain[1].history[1]["probes"][0]["error"].mean()), rel=0.15)  # other rounding


def test_half_precision_errors_are_the_networks_own():
    """Weights of bfloat16 are measured as they are: the errors are near, and not equal to, those of float32."""
    (_, full, _), (_, half, _) = go(), go(precision="bf16-true")
    for first, second in zip(full.history[1]["probes"], half.history[1]["probes"], strict=True):
        torch.testing.assert_close(first["error"], second["error"], rtol=0.1, atol=0.02)
        assert not torch.equal(first["error"], second["error"])


def test_gradients_are_clipped_in_every_task():
    class Norms(Callback):
        seen = ()

        def on_before_zero_grad(self, trainer, pl_module, optimizer):
            grads = [p.grad for p in pl_module.parameters() if p.grad is not None]
            if grads:
                self.seen = (*self.seen, float(torch.cat([g.flatten() for g in grads]).norm()))

    norms = Norms()
    go(norms, gradient_clip_val=0.01)
    assert len(norms.seen) == 8  # validation sets the others to zero
    assert max(norms.seen) == pytest.approx(0.01, rel=1e-3)


def test_accumulation_by_epoch_starts_anew_with_every_task():
    runner, monitor, _ = go(GradientAccumulationScheduler({0: 3, 1: 1}))
    assert runner.global_step == 2 * (1 + 3)
    assert len(monitor.history) == 2


@pytest.mark.parametrize(("overfit", "kept"), [(1, 4), (0.67, 8)])
@pytest.mark.filterwarnings("ignore:You requested to overfit but enabled .* dataloader shuffling")
def test_overfitting_measures_and_keeps_the_batches_that_are_repeated(overfit, kept):
    class Shuffled(Data):
        def train_dataloader(self):
            return loader(self.task, shuffle=True)

        val_dataloader = train_dataloader

    _, monitor, module = go(overfit_batches=overfit, data=Shuffled)
    assert len(module.seen) == 4 * kept // 4
    first = monitor.history[0]["probes"][0]
    assert bool((first["ids"] < kept).all())
    trained = torch.cat([image_of(batch) for epoch, batch in module.seen[: kept // 4]])
    assert torch.equal(trained, Images(0).images[:kept])  # the same as the monitor's
    assert bool(((monitor.buffer.ids & 0xFF) < kept).all())


@pytest.mark.parametrize("quick", [True, 1, 2])
def test_fast_dev_run_goes_through_every_task_and_boundary(quick):
    runner, monitor, module = go(fast_dev_run=quick)
    assert runner.global_step == 2 * int(quick)
    assert [len(record["probes"]) for record in monitor.history] == [1, 2]
    assert [len(image_of(batch)) for _, batch in module.seen] == [4] * int(quick) + [8] * int(quick)


def test_deterministic():
    runs = [go(deterministic=True) for _ in range(2)]
    torch.use_deterministic_algorithms(False)  # the Trainer leaves it on
    assert same(runs[0][1].history, runs[1][1].history)
    assert torch.equal(runs[0][2].layer.weight, runs[1][2].layer.weight)


# -- callbacks that watch a score


class Scripted(WithValidation):
    """Its validation loss is written down: falling for three epochs in the first task, for five in the second."""

    losses = ((0.3, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1), (9.0, 8.0, 7.0, 6.0, 5.0, 5.0, 5.0, 5.0))

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.losses[int(batch["label"][0])][self.current_epoch])

    def epochs(self):
        """Epochs of both tasks."""
        own = [(int(batch["label"][0]), epoch) for epoch, batch in self.seen]
        return [len({epoch for task, epoch in own if task == wanted}) for wanted in range(2)]


def scripted(folder, *callbacks, ckpt_path=None, module=None, **settings):
    buffer = EnergyReplayBuffer(6, "random")
    monitor = ForgettingMonitor(buffer, probe_size=5, denoiser=Layer)
    stopping = EarlyStopping("val/loss", patience=2)
    best = ModelCheckpoint(folder, "{step}", "val/loss")
    every = ModelCheckpoint(folder / "every", save_last=True)
    module = Scripted() if module is None else module
    runner = trainer(*callbacks, stopping, monitor, best, every, enable_checkpointing=True, max_epochs=8, **settings)
    fit_tasks(runner, module, [ReplayDataModule(Data(task), buffer) for task in range(2)], ckpt_path=ckpt_path)
    return module, monitor, stopping, best


def written_in_task(path):
    return torch.load(path, weights_only=True)["callbacks"]["TaskCursor"]["task"]


def test_early_stopping_has_its_full_patience_in_every_task(tmp_path):
    module, monitor, stopping, _ = scripted(tmp_path)
    assert module.epochs() == [5, 7]  # the last improvement, and two more
    assert float(stopping.best_score) == 5.0
    assert len(monitor.history) == 2


def test_the_best_checkpoint_is_that_of_the_task_and_those_of_earlier_tasks_stay(tmp_path):
    _, _, _, best = scripted(tmp_path)
    assert float(best.best_model_score) == 5.0
    assert best.best_model_path == str(tmp_path / f"step={5 * 3 + 5 * 3}.ckpt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["every", "step=30.ckpt", "step=9.ckpt"]
    assert [written_in_task(tmp_path / name) for name in ("step=9.ckpt", "step=30.ckpt")] == [0, 1]


@pytest.mark.parametrize("mode", ["min", "max"])
def test_scores_that_should_rise(tmp_path, mode):
    class Rising(Scripted):
        def validation_step(self, batch, batch_idx):
            self.log("val/loss", (1 if mode == "min" else -1) * self.losses[int(batch["label"][0])][self.current_epoch])

    stopping = EarlyStopping("val/loss", patience=1, mode=mode)
    best = ModelCheckpoint(tmp_path, "{step}", "val/loss", mode=mode)
    _, _, module = go(stopping, best, module=Rising(), max_epochs=8, enable_checkpointing=True)
    assert module.epochs() == [4, 6]
    assert abs(float(best.best_model_score)) == 5.0


@pytest.mark.parametrize("step", [13, 34])  # in the last epochs of either task: one epoch of patience is used up
def test_a_resumed_task_goes_on_with_the_patience_it_had(tmp_path, step):
    whole = scripted(tmp_path / "whole")
    with pytest.raises(PowerCutError):
        scripted(tmp_path / "cut", CutAtStep(step))
    module, monitor, stopping, best = scripted(tmp_path / "cut", ckpt_path="last")
    assert same(monitor.history, whole[1].history)
    assert torch.equal(module.layer.weight, whole[0].layer.weight)
    assert same(stopping.state_dict(), whole[2].state_dict())
    assert best.best_model_path.split("/")[-1] == whole[3].best_model_path.split("/")[-1]


@pytest.mark.parametrize("task", [0, 1])
def test_a_task_that_was_stopped_early_is_not_trained_on_after_a_resume(tmp_path, task):
    whole = scripted(tmp_path / "whole")
    with pytest.raises(PowerCutError):
        scripted(tmp_path / "cut", AtTheEnd(task, cut))
    module, monitor, _, _ = scripted(tmp_path / "cut", ckpt_path="last")
    assert module.epochs() == ([0, 7] if task == 0 else [0, 0])
    assert same(monitor.history, whole[1].history)


@pytest.mark.parametrize("give", ["max_time", "callback"])
def test_max_time_holds_for_every_task(give):
    class Slow(Foreign):
        def training_step(self, batch, batch_idx):
            time.sleep(0.02)
            return super().training_step(batch, batch_idx)

    module = Slow()
    limit = {"seconds": 0.2}
    timer = [Timer(limit)] if give == "callback" else []
    settings = {"max_time": limit} if give == "max_time" else {}
    go(*timer, module=module, max_epochs=1000, data=lambda task: loader(task), **settings)
    counts = [sum(int(batch["label"][0]) == task for _, batch in module.seen) for task in range(2)]
    assert min(counts) >= 1
    assert max(counts) <= 11  # 0.2 s of 0.02 s at least


def test_min_steps_hold_for_every_task(tmp_path):
    class Flat(Scripted):
        losses = ((1.0,) * 8,) * 2

    module = Flat()
    scripted(tmp_path, module=module, min_steps=12)
    assert module.epochs() == [4, 4]  # patience alone would end it after three


# -- averaged weights


def averaged(folder, averaging, *callbacks, ckpt_path=None):
    buffer = EnergyReplayBuffer(6, "random")
    monitor = ForgettingMonitor(buffer, probe_size=6, denoiser=Layer)
    saving = ModelCheckpoint(folder, save_last=True)
    module = Foreign()
    runner = trainer(*callbacks, averaging, monitor, saving, enable_checkpointing=True)
    fit_tasks(runner, module, [ReplayDataModule(loader(task), buffer) for task in range(3)], ckpt_path=ckpt_path)
    return module, monitor


AVERAGING = [
    WeightAveraging,
    lambda: EMAWeightAveraging(decay=0.5),
    lambda: EMAWeightAveraging(decay=0.5, update_every_n_steps=10**9, update_starting_at_epoch=0),
]


class Last(Callback):
    """The last weights of every task, before any average replaces them."""

    def __init__(self):
        self.weights = []

    def on_train_end(self, trainer, pl_module):
        self.weights.append(pl_module.layer.weight.detach().clone())


@pytest.mark.parametrize("make", AVERAGING)
def test_boundaries_measure_averaged_weights_of_this_task(make):
    raw, after = Last(), Last()
    buffer = EnergyReplayBuffer(6, "random")
    monitor = ForgettingMonitor(buffer, probe_size=6, denoiser=Layer)
    runner = trainer(raw, make(), after, monitor)
    module = Foreign()
    fit_tasks(runner, module, [ReplayDataModule(loader(task), buffer) for task in range(3)])
    for task, (last, average) in enumerate(zip(raw.weights, after.weights, strict=True)):
        assert not torch.equal(last, average)
        if task:
            assert not torch.equal(average, after.weights[task - 1])  # the task's training is not thrown away
    probe = monitor.history[2]["probes"][0]
    now = reconstruction_error(Layer(module), Images(0).images[probe["ids"]], [1, 2, 3, 4, 5], 0, ids=probe["ids"])
    assert torch.equal(module.layer.weight, after.weights[2])
    torch.testing.assert_close(probe["error"], now, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("task", [0, 1])
@pytest.mark.parametrize("make", AVERAGING)
def test_a_boundary_that_is_made_up_for_measures_the_averaged_weights(tmp_path, make, task):
    whole = averaged(tmp_path / "whole", make())
    with pytest.raises(PowerCutError):
        averaged(tmp_path / "cut", make(), AtTheEnd(task, cut))
    module, monitor = averaged(tmp_path / "cut", make(), ckpt_path="last")
    assert same(monitor.history, whole[1].history)
    assert same(monitor.buffer.state_dict(), whole[1].buffer.state_dict())
    assert torch.equal(module.layer.weight, whole[0].layer.weight)


def test_averaging_that_comes_too_late_is_named():
    runner = trainer(ForgettingMonitor(), WeightAveraging())
    with pytest.warns(UserWarning, match=r"WeightAveraging is listed after ForgettingMonitor.*List it before"):
        fit_tasks(runner, Foreign(), [loader()])


def test_averaging_that_would_throw_later_tasks_away_is_refused():
    with pytest.raises(MisconfigurationException, match=r"StochasticWeightAveraging averages the first task only"):
        go(StochasticWeightAveraging(0.01))
    go(StochasticWeightAveraging(0.01), count=1)


# -- fits inside of fits


class Tunable(Foreign):
    def __init__(self):
        super().__init__()
        self.lr = 1e-2

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def schedule(task, step):
    """Half of the first epoch's batches, a quarter of the second's."""
    return 0.5 if step < 3 else 0.25


def untuned(monitor):
    """The history is that of a run without finders."""
    reference = go(module=Tunable(), limit_val_batches=0)[1]
    assert same(energies(monitor), energies(reference))
    assert same(monitor.buffer.state_dict(), reference.buffer.state_dict())


NO_VALIDATION = pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader` but have no `validation_step`")


@NO_VALIDATION
def test_a_batch_size_finder_leaves_the_ledger_alone_and_reaches_the_wrapped_datamodule(tmp_path):
    made = {}

    def data(task):
        made[task] = Data(task, batch_size=2)
        return made[task]

    finder = BatchSizeFinder(steps_per_trial=1, max_trials=2)
    _, monitor, module = go(finder, module=Tunable(), data=data, default_root_dir=tmp_path, max_epochs=1)
    assert {task: one.batch_size for task, one in made.items()} == {0: 4, 1: 4}
    assert [len(image_of(batch)) for _, batch in module.seen][-3:] == [8] * 3
    untuned(monitor)


@NO_VALIDATION
def test_a_learning_rate_finder_leaves_the_ledger_alone(tmp_path):
    finder = LearningRateFinder(num_training_steps=30, max_lr=0.1)
    _, monitor, module = go(finder, module=Tunable(), default_root_dir=tmp_path, max_epochs=10)
    assert module.lr != 1e-2
    untuned(monitor)


@NO_VALIDATION
def test_a_finder_leaves_a_datamodule_the_buffer_of_the_monitor(tmp_path):
    buffer = EnergyReplayBuffer(6, "random", groups="task")
    finder, monitor = LearningRateFinder(num_training_steps=30, max_lr=0.1), ForgettingMonitor(buffer, probe_size=5)
    data = [ReplayDataModule(Data(task)) for task in range(2)]
    runner = trainer(finder, monitor, default_root_dir=tmp_path, max_epochs=10, limit_val_batches=0)
    fit_tasks(runner, Tunable(), data)
    assert monitor.history[1].replayed == 6
    assert len(buffer) == 6


class Later(LearningRateFinder):
    """In the middle of a task."""

    def on_fit_start(self, *args):
        pass

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            self.lr_find(trainer, pl_module)


@NO_VALIDATION
@pytest.mark.parametrize("finder", [LearningRateFinder, Later])
def test_what_is_replayed_after_a_finder_is_what_is_replayed_without_one(tmp_path, finder):
    def replayed(*callbacks):
        buffer = EnergyReplayBuffer(6, "random", groups="task")
        monitor = ForgettingMonitor(buffer, probe_size=5)
        data = [ReplayDataModule(Data(task), buffer, replay_ratio=schedule) for task in range(2)]
        module = Tunable()
        fit_tasks(trainer(*callbacks, monitor, default_root_dir=tmp_path, limit_val_batches=0), module, data)
        return [image_of(batch) for _, batch in module.seen][-3:], monitor.history[1]["replay_ratio"]

    assert same(replayed(finder(num_training_steps=10)), replayed())


@NO_VALIDATION
def test_a_learning_rate_finder_in_the_middle_of_a_task(tmp_path):
    _, monitor, _ = go(Later(num_training_steps=10), module=Tunable(), default_root_dir=tmp_path)
    untuned(monitor)


@NO_VALIDATION
def test_a_tuner_before_the_first_task(tmp_path):
    buffer = EnergyReplayBuffer(6, "random", groups="task")
    monitor = ForgettingMonitor(buffer, probe_size=5, denoiser=Layer)
    tasks = [ReplayDataModule(Data(task), buffer) for task in range(2)]
    runner, module = trainer(monitor, default_root_dir=tmp_path, max_epochs=10), Tunable()
    found = Tuner(runner).lr_find(module, datamodule=tasks[0], num_training=30, max_lr=0.1)
    assert monitor.history == []
    assert module.lr == found.suggestion()
    fit_tasks(runner, module, tasks)
    untuned(monitor)


# -- reloaded data


def test_a_schedule_is_accounted_for_over_reloads():
    shares = []
    for settings in ({}, {"reload_dataloaders_every_n_epochs": 1}):
        buffer = EnergyReplayBuffer(6, "random", groups="task")
        monitor = ForgettingMonitor(buffer, probe_size=5)
        data = [ReplayDataModule(Data(task), buffer, replay_ratio=schedule) for task in range(2)]
        fit_tasks(trainer(monitor, limit_val_batches=0, **settings), WithValidation(), data)
        shares.append(monitor.history[1]["replay_ratio"])
    assert shares[0] == pytest.approx(16 / 40)  # 12 beside the first 12 samples, 4 beside the next
    assert shares[1] == shares[0]


@pytest.mark.parametrize("stop", [CutAtStep(10), AtTheEnd(1, cut)])
def test_a_schedule_is_accounted_for_over_a_resume(tmp_path, stop):
    def scheduled(folder, *callbacks, ckpt_path=None):
        buffer = EnergyReplayBuffer(6, "random", groups="task")
        monitor = ForgettingMonitor(buffer, probe_size=5)
        saving = ModelCheckpoint(folder, save_last=True)
        runner = trainer(*callbacks, monitor, saving, enable_checkpointing=True)
        tasks = [ReplayDataModule(loader(task), buffer, replay_ratio=schedule) for task in range(2)]
        fit_tasks(runner, Foreign(), tasks, ckpt_path=ckpt_path)
        return monitor

    whole = scheduled(tmp_path / "whole")
    assert whole.history[1]["replay_ratio"] == pytest.approx(16 / 40)
    with pytest.raises(PowerCutError):
        scheduled(tmp_path / "cut", stop)
    assert same(scheduled(tmp_path / "cut", ckpt_path="last").history, whole.history)


def test_data_that_changes_within_a_task_is_named():
    class Growing(Data):
        def train_dataloader(self):
            return loader(self.task, 12 if self.trainer.current_epoch == 0 else 16)

    with pytest.warns(UserWarning, match=r"task 0 was reloaded and changed, from 12 to 16 samples: only the first"):
        _, monitor, _ = go(reload_dataloaders_every_n_epochs=1, data=Growing, count=1)
    assert bool((monitor.buffer.ids < 12).all())


# -- interruptions


@pytest.fixture
def _sigint():
    """Lightning ignores SIGINT from the first interruption on."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


class Interrupt(Callback):
    """Presses Ctrl-C in front of a step."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.usefixtures("_sigint")
def test_an_interrupted_task_has_no_boundary_and_goes_on_when_resumed(tmp_path):
    whole = run(tmp_path / "whole")
    monitors = []

    class Watch(Callback):
        def on_exception(self, trainer, pl_module, exception):
            monitors.append(next(c for c in trainer.callbacks if isinstance(c, ForgettingMonitor)))

    with pytest.raises(SystemExit):
        run(tmp_path / "cut", Interrupt(10), Watch())
    (monitor,) = monitors  # as the whole fit leaves it, after every callback has heard of the interruption
    assert (len(monitor.history), monitor.buffer.tasks.unique().tolist()) == (1, [0])
    check_same(run(tmp_path / "cut", ckpt_path="last"), whole, 18 - 9)


@pytest.mark.usefixtures("_sigint")
def test_a_checkpoint_on_exception_goes_on_in_the_interrupted_task(tmp_path):
    whole = go()[1]
    runs = []
    for callbacks in ([Interrupt(10)], []):
        buffer = EnergyReplayBuffer(6, "random", groups="task")
        monitor = ForgettingMonitor(buffer, probe_size=5, denoiser=Layer)
        saving = ModelCheckpoint(tmp_path, save_last=True, save_on_exception=True)
        runner = trainer(*callbacks, monitor, saving, enable_checkpointing=True)
        tasks = [ReplayDataModule(Data(task), buffer) for task in range(2)]
        if callbacks:
            with pytest.raises(SystemExit):
                fit_tasks(runner, WithValidation(), tasks)
            signal.signal(signal.SIGINT, signal.default_int_handler)
        else:
            fit_tasks(runner, WithValidation(), tasks, ckpt_path="last")
            assert runner.global_step >= 12
        runs.append(monitor)
    assert same(energies(runs[1]), energies(whole))
    assert same(runs[1].buffer.state_dict(), whole.buffer.state_dict())


@pytest.mark.usefixtures("_sigint")
def test_another_data_set_after_an_interrupted_fit_is_read_anew():
    """As in a notebook: the task that was begun is not taken for the one that begins."""
    monitor = ForgettingMonitor(EnergyReplayBuffer(3), probe_size=5, beta=1.0)
    interrupted = trainer(Interrupt(1), monitor)
    with pytest.raises(SystemExit):
        interrupted.fit(Foreign(), loader(5))
    trainer(monitor).fit(Foreign(), loader(1))
    reference = ForgettingMonitor(EnergyReplayBuffer(3), probe_size=5, beta=1.0)
    trainer(reference).fit(Foreign(), loader(1))
    assert same(monitor.history, reference.history)


@pytest.mark.usefixtures("_sigint")
@pytest.mark.parametrize("checkpoint", ["last", "exception.ckpt"])
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")  # lightning, the callback is not given again
def test_an_interruption_of_the_commit_waits_for_its_end(tmp_path, monkeypatch, checkpoint):
    """Ctrl-C while the buffer takes its samples: the history is of before or of after, never of between."""
    whole = run(tmp_path / "whole")
    prepare, calls = SampleStore.prepare_put, []

    def interrupted(self, samples, slots):
        write = prepare(self, samples, slots)

        def interrupted_write():
            calls.append(len(slots))
            if len(calls) == 2:
                os.kill(os.getpid(), signal.SIGINT)
            write()

        return interrupted_write

    monkeypatch.setattr(SampleStore, "prepare_put", interrupted)
    saving = ModelCheckpoint(tmp_path / "cut", "exception", save_on_exception=True, every_n_epochs=100)
    with pytest.raises(SystemExit):
        run(tmp_path / "cut", saving)
    monkeypatch.undo()
    state = torch.load(tmp_path / "cut" / "exception.ckpt", weights_only=True)["callbacks"]["ForgettingMonitor"]
    assert (len(state["history"]), state["open_task"]) == (2, None)
    from_ = "last" if checkpoint == "last" else tmp_path / "cut" / checkpoint
    check_same(run(tmp_path / "cut", ckpt_path=from_), whole, 6)


# -- modules


def test_manual_optimization_with_two_optimizers():
    class Two(Foreign):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.scale = torch.nn.Parameter(torch.ones(()))

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx) * self.scale
            optimizers = self.optimizers()
            for optimizer in optimizers:
                optimizer.zero_grad()
            self.manual_backward(loss)
            for optimizer in optimizers:
                optimizer.step()

        def configure_optimizers(self):
            return [torch.optim.Adam(self.layer.parameters()), torch.optim.SGD([self.scale], lr=0.1)]

    runner, monitor, module = go(module=Two(), data=lambda task: loader(task))
    assert runner.global_step == 2 * 12  # Lightning counts the steps of every optimizer
    assert len(monitor.history) == 2
    assert [len(image_of(batch)) for _, batch in module.seen] == [4] * 6 + [8] * 6


def test_a_compiled_module():
    module = Foreign()
    _, monitor, _ = go(module=torch.compile(module, backend="eager"), data=lambda task: loader(task))
    _, plain, reference = go(module=Foreign(), data=lambda task: loader(task))
    assert same(energies(monitor), energies(plain))
    torch.testing.assert_close(module.layer.weight, reference.layer.weight)
    torch.testing.assert_close(monitor.history[1]["probes"][0]["error"], plain.history[1]["probes"][0]["error"])


# -- loggers


def test_several_loggers_get_every_boundary(tmp_path):
    pytest.importorskip("tensorboard")
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board, table = TensorBoardLogger(tmp_path, "board"), CSVLogger(tmp_path, "table")
    go(logger=[board, table], log_every_n_steps=1)
    events = EventAccumulator(board.log_dir).Reload()
    assert sorted(event.step for event in events.Scalars("forgetting/beta")) == [6, 12]  # two files of one second
    lines = (tmp_path / "table" / "version_0" / "metrics.csv").read_text().splitlines()
    names, rows = lines[0].split(","), [line.split(",") for line in lines[1:]]
    at, step = names.index("forgetting/beta"), names.index("step")
    assert [int(row[step]) for row in rows if row[at]] == [6, 12]
    assert "forgetting/intrinsic/task_0" in names


def test_wandb_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    from lightning.pytorch.loggers import WandbLogger

    for name in ("WANDB_SILENT", "WANDB_DISABLE_GIT", "WANDB_X_DISABLE_STATS", "WANDB_X_DISABLE_META"):
        monkeypatch.setenv(name, "true")
    logger = WandbLogger(save_dir=tmp_path, offline=True, project="tests", mode="offline")
    _, monitor, _ = go(logger=logger, log_every_n_steps=1)
    summary = dict(logger.experiment.summary)
    logger.experiment.finish()
    assert summary["forgetting/beta"] == pytest.approx(monitor.history[1]["beta"])
    assert summary["trainer/global_step"] == 12


@pytest.mark.filterwarnings("ignore:The encoder is no longer what it was")
def test_a_function_of_the_users_gets_batches_in_the_precision_of_the_training():
    """It may hand them to the module, whose weights are bfloat16."""
    buffer = EnergyReplayBuffer(6, "random")
    module = WithValidation()

    def encoder(batch):
        return module.layer(batch["image"].flatten(1))

    monitor = ForgettingMonitor(buffer, probe_size=5, denoiser=Layer, encoder=encoder)
    fit_tasks(
        trainer(monitor, precision="bf16-true"), module, [ReplayDataModule(Data(task), buffer) for task in (0, 1)]
    )
    assert buffer.vectors.shape == (6, 64)
