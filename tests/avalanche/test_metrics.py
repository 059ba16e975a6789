"""IntrinsicForgetting and ReconstructionForgetting: against a loop in numpy, and in every logger."""

import csv
import io
import math
import re
from itertools import count

import numpy as np
import pytest
import torch

from tests.avalanche.streams import KINDS, QUIET, benchmark, data, naive, number, silent

from avalanche.core import SupervisedPlugin  # isort: skip
from avalanche.benchmarks.scenarios.online import split_online_stream
from avalanche.logging import CSVLogger, TensorboardLogger, TextLogger
from avalanche.training.plugins import ReplayPlugin

from hopfield_replay.avalanche import (
    EnergyReplayPlugin,
    IntrinsicForgetting,
    ReconstructionForgetting,
    WandBLogger,
    loss_evaluator,
)

pytestmark = QUIET


def mean_energy(x, patterns, masses, beta, skip_self=False):
    """Mean energy of x by a loop in float64; with skip_self a pattern equal to x does not count for it."""
    x, patterns = x.double().flatten(1).numpy(), patterns.double().flatten(1).numpy()
    weights = np.asarray(masses) / np.sum(masses)
    total = 0.0
    for row in x:
        terms, used = [], []
        for pattern, weight in zip(patterns, weights, strict=True):
            if not (skip_self and np.array_equal(row, pattern)):
                terms.append(math.log(weight) - 0.5 * beta * float(((row - pattern) ** 2).sum()))
                used.append(weight)
        peak = max(terms)
        total -= (peak + math.log(sum(math.exp(t - peak) for t in terms)) - math.log(sum(used))) / beta
    return total / len(x)


def images_of(experience) -> torch.Tensor:
    return torch.stack([experience.dataset[i][0] for i in range(len(experience.dataset))])


def key(name: str, experience: int, kind: str, stream: str = "test") -> str:
    task = {"task-aware": f"/Task{experience:03}", "task-free": "/Task000", "class-incremental": ""}[kind]
    return f"ExperienceForgetting/{name}/eval_phase/{stream}_stream{task}/Exp{experience:03}"


class Memory(SupervisedPlugin):
    """What the buffer held while each experience was trained."""

    def __init__(self, plugin) -> None:
        super().__init__()
        self.plugin = plugin
        self.vectors, self.shares, self.rows = [], [], []

    def after_training_iteration(self, strategy, **kwargs):
        self.rows[-1] += len(strategy.mb_x)

    def before_training_exp(self, strategy, **kwargs):
        buffer = self.plugin.storage_policy.buffer
        self.rows.append(0)
        self.vectors.append(torch.stack([buffer[i][0] for i in range(len(buffer))]) if len(buffer) else None)
        counts = [1.0] * len(buffer)
        if isinstance(self.plugin, EnergyReplayPlugin):  # each sample stands for those that are nearest to it
            counts = self.plugin.storage_policy.memory.state_dict()["kept"]["weights"].tolist() if len(buffer) else []
        self.shares.append([count / sum(counts) for count in counts])


@pytest.mark.heavy
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("replay", ["none", "ours", "stock"])
@pytest.mark.filterwarnings("ignore:Call to deprecated function update:DeprecationWarning")  # by the stock plugin
def test_intrinsic_forgetting_is_the_rise_of_the_energy(kind, replay):
    images, labels = data(72)
    made = benchmark(kind, images, labels)
    plugins = {
        "none": [],
        "ours": [EnergyReplayPlugin(9, replay_ratio=0.25, sampling="weight")],
        "stock": [ReplayPlugin(9, batch_size_mem=4)],  # 4, 4 and 1 beside 8 each
    }[replay]
    log = [Memory(plugins[0])] if plugins else []
    metric = IntrinsicForgetting(beta=0.05)
    strategy = naive(*plugins, *log, evaluator=silent(metric))
    share = {"none": 0.0, "ours": 0.25, "stock": 9 / (9 + 24)}[replay]
    start, results = [], []
    for task, experience in enumerate(made.train_stream):
        strategy.train(experience)
        results.append(strategy.eval(made.test_stream))
        patterns = images_of(experience)
        masses = [1.0 / len(patterns)] * len(patterns)
        if log and log[0].vectors[task] is not None:
            old, often = log[0].vectors[task], log[0].shares[task]
            assert abs(share - (1 - len(patterns) / log[0].rows[task])) < 0.02  # 24 new ones
            masses = [(1 - share) / len(patterns)] * len(patterns) + [share * part for part in often]
            patterns = torch.cat([patterns, old])
        energies = [mean_energy(images_of(e), patterns, masses, 0.05) for e in list(made.test_stream)[: task + 1]]
        start.append(energies[-1])
        for earlier, value in enumerate(energies):
            assert results[-1][key("IntrinsicForgetting", earlier, kind)] == pytest.approx(
                value - start[earlier], abs=1e-5
            )
        for later in range(task + 1, 3):
            assert key("IntrinsicForgetting", later, kind) not in results[-1]
        if task:
            mean = sum(value - first for value, first in zip(energies[:-1], start[:-1], strict=True)) / task
            assert results[-1]["StreamForgetting/IntrinsicForgetting/eval_phase/test_stream"] == pytest.approx(
                mean, abs=1e-5
            )
    assert metric.result().keys() == {0, 1, 2}


CALLS = count()


def rounded(batch):
    """An encoder whose last digits differ from call to call, as those of networks do with the batch's size."""
    return batch[0].flatten(1) * (1 + 1e-7 * (1 + next(CALLS) % 9))


@pytest.mark.parametrize("encoder", [None, rounded])
def test_a_training_sample_is_no_pattern_of_its_own(encoder):
    images, labels = data(72)
    made = benchmark("class-incremental", images, labels)
    strategy = naive(evaluator=silent(IntrinsicForgetting(beta=0.5, encoder=encoder)))
    first, second = list(made.train_stream)[:2]
    strategy.train(first)
    strategy.eval(made.train_stream)
    strategy.train(second)
    found = strategy.eval(made.train_stream)[key("IntrinsicForgetting", 0, "class-incremental", "train")]
    own, other = images_of(first), images_of(second)
    ones = [1.0] * len(own)
    expected = mean_energy(own, other, ones, 0.5) - mean_energy(own, own, ones, 0.5, skip_self=True)
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.heavy
@pytest.mark.parametrize("boundaries", [False, True])
def test_experiences_of_an_online_stream_belong_to_those_they_were_split_from(boundaries):
    images, labels = data(72)
    made = benchmark("class-incremental", images, labels)
    metric = IntrinsicForgetting(beta=0.05)
    strategy, found, trained = naive(evaluator=silent(metric)), [], []
    online = split_online_stream(made.train_stream, 12, access_task_boundaries=boundaries, seed=0)
    for experience in online:
        strategy.train(experience)
        trained.append(images_of(experience))
        strategy.eval(made.train_stream)
        found.append(metric.result())
    assert [set(rises) for rises in found] == [{0}, {0}, {0, 1}, {0, 1}, {0, 1, 2}, {0, 1, 2}]
    own = images_of(made.train_stream[0])
    before, after = (mean_energy(own, trained[t], [1.0] * 12, 0.05, skip_self=True) for t in (1, 5))
    assert found[5][0] == pytest.approx(after - before, abs=1e-5)


def test_energies_of_one_pattern_set_are_computed_once(monkeypatch):
    from hopfield_replay.avalanche import metrics

    calls = []
    original = metrics.energy
    monkeypatch.setattr(metrics, "energy", lambda *a, **k: (calls.append(1), original(*a, **k))[1])
    made = benchmark("task-free", *data(72))
    strategy = naive(evaluator=silent(IntrinsicForgetting()))
    strategy.train(made.train_stream[0])
    first = strategy.eval(made.test_stream)
    assert strategy.eval(made.test_stream) == first
    assert len(calls) == 1


def test_reconstruction_forgetting_is_the_rise_of_the_error():
    """A model whose estimate of the clean images is one number: what it was trained to be."""

    class Mean(torch.nn.Module):
        num_timesteps = 100

        def __init__(self) -> None:
            super().__init__()
            self.mean = torch.nn.Parameter(torch.zeros(1, 8, 8))

        def forward(self, x):
            return self.mean - x

        def noise(self, clean, timestep, noise):
            return clean + noise

        def predict_clean(self, noisy, timestep, condition=None):
            assert set(condition) == {"class_labels"}
            assert len(condition["class_labels"]) == len(noisy)
            return self.mean.expand_as(noisy)

        def snr(self, timestep):
            return 1.0

    network = Mean()
    made = benchmark("task-aware", *data(72))
    metric = ReconstructionForgetting()
    strategy = naive(
        network=network, evaluator=silent(metric), criterion=lambda output, _: (output**2).mean(), train_epochs=5
    )
    errors = []
    for task, experience in enumerate(made.train_stream):
        strategy.train(experience)
        found = strategy.eval(made.test_stream)
        with torch.no_grad():
            now = [float(((network.mean - images_of(e)) ** 2).mean()) for e in made.test_stream]
        errors.append(now[task])
        for earlier in range(task + 1):
            assert found[key("ReconstructionForgetting", earlier, "task-aware")] == pytest.approx(
                now[earlier] - errors[earlier], abs=1e-5
            )
    assert found[key("ReconstructionForgetting", 0, "task-aware")] > 0.001


def test_reconstruction_forgetting_without_a_denoiser_says_so():
    made = benchmark("task-free", *data(72))
    strategy = naive(evaluator=silent(ReconstructionForgetting()))
    strategy.train(made.train_stream[0])
    with pytest.raises(ValueError, match="No denoiser was found on Sequential"):
        strategy.eval(made.test_stream)


def test_nothing_is_emitted_for_an_experience_that_was_not_evaluated_when_learned():
    made = benchmark("task-free", *data(72))
    strategy = naive(evaluator=silent(IntrinsicForgetting()))
    assert not strategy.eval(made.test_stream)
    strategy.train(made.train_stream[0])
    strategy.train(made.train_stream[1])
    assert list(strategy.eval(made.test_stream)) == [key("IntrinsicForgetting", 1, "task-free")]


def run_with(logger, evaluator=None) -> dict[str, float]:
    made = benchmark("task-free", *data(72))
    strategy = naive(evaluator=evaluator or silent(IntrinsicForgetting(), loggers=[logger]))
    for experience in list(made.train_stream)[:2]:
        strategy.train(experience)
        found = strategy.eval(made.test_stream)
    return found


def test_text_logger():
    file = io.StringIO()
    found = run_with(TextLogger(file))
    name = key("IntrinsicForgetting", 0, "task-free")
    assert f"{name} = {found[name]:.4f}" in file.getvalue()


def test_csv_logger(tmp_path):
    logger = CSVLogger(str(tmp_path))
    found = run_with(logger)
    logger.close()
    with open(tmp_path / "eval_results.csv") as file:
        rows = list(csv.DictReader(file))
    values = {(row["eval_exp"], row["training_exp"]): row["forgetting"] for row in rows}
    assert float(values["0", "1"]) == pytest.approx(found[key("IntrinsicForgetting", 0, "task-free")], abs=1e-4)


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")  # tensorboard's own imports
def test_tensorboard_logger(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    logger = TensorboardLogger(str(tmp_path))
    found = run_with(logger)
    logger.writer.flush()
    events = accumulator.EventAccumulator(str(tmp_path)).Reload()
    name = key("IntrinsicForgetting", 0, "task-free")
    assert [event.value for event in events.Scalars(name)] == pytest.approx([0.0, found[name]])
    assert [event.step for event in events.Scalars(name)] == [3, 6]


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore")  # wandb's own: open files, deprecated calls
def test_wandb_logger_offline(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandBLogger("project", "run", dir=str(tmp_path), save_code=False, params={"mode": "offline"})
    try:
        found = run_with(logger)
        wandb.log({}, step=1000)  # a step is written when the next one begins
        name = key("IntrinsicForgetting", 0, "task-free")
        assert wandb.run.offline
        assert dict(wandb.run.summary)[name] == pytest.approx(found[name])
    finally:
        wandb.finish()


def test_loss_evaluator_measures_losses_and_what_is_added(capsys):
    found = run_with(None, evaluator=loss_evaluator(IntrinsicForgetting()))
    kinds = {re.split("/", name)[0] for name in found}
    assert kinds == {"Loss_Epoch", "Loss_Exp", "Loss_Stream", "ExperienceForgetting", "StreamForgetting"}
    assert "Loss_Stream" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IntrinsicForgetting(beta=0.0), "beta"),
        (lambda: IntrinsicForgetting(similarity="cosine"), "similarity"),
        (lambda: ReconstructionForgetting(timesteps=[]), "timesteps is empty"),
    ],
)
def test_wrong_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_numbers_of_the_helper():
    assert number(data()[0]) == list(range(120))
