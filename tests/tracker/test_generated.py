"""Replay without old data: what is drawn, chosen, replayed and dropped, and that nothing real is kept."""

from collections import namedtuple

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader, WeightedRandomSampler

from hopfield_replay import (
    EnergyReplayBuffer,
    ForgettingMonitor,
    ForgettingTracker,
    GeneratedTask,
    ReplayBatches,
    ReplayDataModule,
    TaskSource,
    fit_tasks,
)
from hopfield_replay.tracker import PipelineSampler
from tests.lightning.small import Foreign, Images, loader
from tests.utilities.test_nested import same, tensors


class Model:
    """A density around a point, whose samples and conditions are drawn in the form of the task's batches."""

    def __init__(self):
        self.centre, self.calls, self.wrong = 0.0, [], None

    def __call__(self, count):
        self.calls.append(count)
        x = self.centre + torch.randn(count, 3)
        if self.wrong is not None:
            x[0] = self.wrong
        return {"x": x, "y": torch.arange(count) % 2, "text": ["drawn"] * count}


def task(number, count=20):
    x = 5.0 * number + torch.randn(count, 3, generator=torch.Generator().manual_seed(number))
    return [{"x": x, "y": torch.zeros(count, dtype=torch.int64), "text": ["real"] * count}]


def tracked(model, count=30, capacity=6, **settings):
    options = {name: settings.pop(name) for name in ("policy", "groups") if name in settings}
    buffer = EnergyReplayBuffer(capacity, beta=1.0, **options)
    return ForgettingTracker(buffer, probe_size=5, generated=GeneratedTask(model, count, batch_size=8, **settings))


def test_candidates_are_drawn_before_a_task_chosen_by_the_policy_replayed_and_dropped():
    model = Model()
    tracker = tracked(model)
    for number in range(3):
        source = TaskSource(task(number))
        tracker.begin_task(source)
        assert len(tracker.buffer) == (0 if number == 0 else 6)
        batches = ReplayBatches(source.loader, tracker.buffer)
        (batch,) = batches
        assert batch["text"] == ["real"] * 20 + ["drawn"] * (0 if number == 0 else 20)
        replayed = tracker.buffer.vectors.clone()
        record = tracker.end_task(source)
        assert (record.replayed, len(tracker.buffer)) == (len(replayed), 0)
        model.centre = 5.0 * number  # what it has learned
    assert model.calls == [8, 8, 8, 6] * 2
    assert [record.replay_ratio for record in tracker.history] == [0.0, 0.5, 0.5]


def test_the_choice_is_that_of_the_policy_among_the_candidates_with_the_new_data():
    model = Model()
    drawn = []
    tracker = tracked(lambda count: drawn.append(model(count)) or drawn[-1], first_task=0, policy="k_center")
    tracker.begin_task(TaskSource(task(1)))
    vectors = torch.cat([batch["x"] for batch in drawn])
    alone = EnergyReplayBuffer(6, "k_center", beta=1.0)
    alone.update(vectors, vectors, ids=torch.arange(30), task=0)
    assert torch.equal(tracker.buffer.vectors, alone.vectors)
    assert torch.equal(tracker.buffer.gather(torch.arange(6))["x"], alone.vectors)
    assert tracker.buffer.provenance.tasks == {0: "generated"}


def test_greedy_gain_refines_among_what_is_generated():
    tracker = tracked(Model(), first_task=0)
    tracker.begin_task(TaskSource(task(1)))
    assert tracker.buffer._reserve is None  # the second phase is done
    assert float(tracker.buffer.weights.sum()) == 30.0


def test_labels_are_where_the_tracker_was_told():
    def two(count):
        return {**Model()(count), "fine": torch.arange(count) % 3 + 7}

    data = [{**batch, "fine": torch.arange(20) % 3 + 7} for batch in task(1)]
    Form = namedtuple("Form", ["x", "y", "text", "fine"])
    for form, labels, expected in (
        (lambda batch: Form(**batch), lambda batch: batch.fine, {7, 8, 9}),
        (dict, "fine", {7, 8, 9}), (dict, lambda batch: batch["fine"] + 1, {8, 9, 10}), (dict, None, {0, 1}),
    ):  # fmt: skip
        buffer = EnergyReplayBuffer(6, beta=1.0, groups="label")
        generated = GeneratedTask(lambda count, form=form: form(two(count)), 30, first_task=0)
        tracker = ForgettingTracker(buffer, generated=generated, labels=labels)
        tracker.begin_task(TaskSource([form(batch) for batch in data]))
        assert set(buffer.labels.tolist()) == expected


def test_what_is_generated_is_chosen_in_the_light_of_what_will_be_drawn():
    weights = torch.arange(20) ** 2.0
    loader = DataLoader(task(1)[0]["x"], 20, sampler=WeightedRandomSampler(weights, 20))
    model = Model()
    drawn = []
    tracker = tracked(lambda count: drawn.append(model(count)["x"]) or drawn[-1], first_task=0)
    tracker.begin_task(TaskSource(loader))
    vectors = torch.cat(drawn)
    alone = EnergyReplayBuffer(6, beta=1.0)
    alone.update(vectors, vectors, ids=torch.arange(30), task=0)
    alone.refine(loader.dataset[1:], masses=weights[1:])
    assert torch.equal(tracker.buffer.vectors, alone.vectors)
    assert torch.allclose(tracker.buffer.predicted_rises, alone.predicted_rises, rtol=1e-9)


def test_nothing_real_is_kept_unless_it_is_asked_for():
    for keep in (False, True):
        tracker = tracked(Model(), keep_probes=keep)
        for number in range(2):
            tracker.begin_task(TaskSource(task(number)))
            tracker.end_task(TaskSource(task(number)))
        held = [tensor for tensor in tensors(tracker.state_dict()) if tensor.ndim == 2 and tensor.shape[1] == 3]
        assert bool(held) == keep
        assert len(tracker.history[1].probes) == (2 if keep else 1)
        assert (tracker.history[1].probes[0].intrinsic.mean() > 0) == keep


def test_draws_leave_the_random_state_alone_and_are_the_same_again():
    states, drawn = [], []
    for _ in range(2):
        tracker = tracked(Model(), first_task=0)
        torch.manual_seed(7)
        tracker.begin_task(TaskSource(task(1)))
        states.append(torch.rand(3))
        drawn.append(tracker.buffer.state_dict())
    torch.manual_seed(7)
    assert torch.equal(states[0], torch.rand(3))
    assert same(drawn[0], drawn[1])


def test_a_resumed_task_goes_on_with_what_was_drawn():
    model = Model()
    tracker = tracked(model, first_task=0)
    source = TaskSource(task(1))
    tracker.begin_task(source)
    again = tracked(model, first_task=0)
    again.load_state_dict(tracker.state_dict())
    calls = len(model.calls)
    again.begin_task(source)
    assert len(model.calls) == calls
    assert torch.equal(again.buffer.vectors, tracker.buffer.vectors)


def test_the_module_is_in_evaluation_mode_without_gradients_while_it_is_sampled():
    module = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Dropout())
    module[1].training = False
    seen = []

    def sample(count):
        seen.append((module.training, module[1].training, torch.is_grad_enabled()))
        return {"x": module(torch.randn(count, 3)), "y": torch.zeros(count).long(), "text": ["drawn"] * count}

    tracker = tracked(sample, first_task=0, module=module, count=4)
    tracker.begin_task(TaskSource(task(0)))
    assert seen == [(False, False, False)]
    assert (module.training, module[1].training) == (True, False)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_samples_that_are_not_finite_stop_the_task_before_it_begins(wrong):
    model = Model()
    tracker = tracked(model, first_task=0)
    model.wrong = wrong
    with pytest.raises(
        ValueError, match=r"4 of 30 generated samples hold NaN or infinite values \(first: \[0, 8, 16, 24\]\)"
    ):
        tracker.begin_task(TaskSource(task(0)))
    assert (tracker.open_task, len(tracker.buffer)) == (None, 0)


def test_bad_settings_are_refused():
    for change, error, message in (
        ({"sample": 3}, TypeError, "must be a function"),
        ({"count": 0}, ValueError, "count must be a whole number >= 1"),
        ({"first_task": -1}, ValueError, "first_task"),
        ({"batch_size": 0}, ValueError, "batch_size"),
    ):
        with pytest.raises(error, match=message):
            GeneratedTask(**{"sample": Model(), "count": 3, **change})
    with pytest.raises(ValueError, match="needs a buffer"):
        ForgettingTracker(generated=GeneratedTask(Model(), 3))
    with pytest.raises(ValueError, match="loss on real samples"):
        ForgettingTracker(EnergyReplayBuffer(2, "high_loss"), generated=GeneratedTask(Model(), 3))
    tracker = tracked(lambda count: torch.zeros(count + 1, 3), first_task=0)
    with pytest.raises(ValueError, match=r"sample\(8\) must draw 8 samples, got 9"):
        tracker.begin_task(TaskSource(task(0)))


def test_a_pipeline_draws_its_prompts_in_turns():
    def pipeline(prompt, output_type, num_inference_steps):
        assert (output_type, num_inference_steps) == ("pt", 3)
        return type(
            "Output", (), {"images": torch.linspace(0, 1, len(prompt))[:, None, None, None].expand(-1, 3, 2, 2)}
        )

    sampler = PipelineSampler(pipeline, ["a", "b", "c"], names=("pixels", "caption"), num_inference_steps=3)
    first, second = sampler(2), sampler(2)
    assert [*first["caption"], *second["caption"]] == ["a", "b", "c", "a"]
    assert first["pixels"][:, 0, 0, 0].tolist() == [-1.0, 1.0]
    for prompts in ([], "a cat"):
        with pytest.raises(ValueError, match="list of prompts"):
            PipelineSampler(pipeline, prompts)


@pytest.mark.filterwarnings("ignore:No denoiser was found", "ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*The number of training batches", "ignore:.*tensorboard")
def test_under_a_trainer_the_module_generates_in_evaluation_mode_and_all_is_logged(tmp_path):
    module, modes = Foreign(), []

    def sample(count):
        modes.append(module.training)
        return {"label": torch.zeros(count, dtype=torch.int64), "image": torch.rand(count, 1, 8, 8)}

    buffer = EnergyReplayBuffer(4)
    monitor = ForgettingMonitor(buffer, probe_size=4, generated=GeneratedTask(sample, 12))
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=TensorBoardLogger(tmp_path), enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path, callbacks=[monitor],
    )  # fmt: skip
    fit_tasks(trainer, module, [ReplayDataModule(loader(number), buffer) for number in range(2)])
    assert modes == [False]
    assert module.training
    assert [record.replayed for record in monitor.history] == [0, 4]
    assert monitor.history[1].replay_ratio == 0.5
    real = Images(1).images[0].numpy().tobytes()
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    assert real not in (tmp_path / "end.ckpt").read_bytes()
