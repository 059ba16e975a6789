"""Regularisers beside replay: the gradients that they add are those of their penalties, written out."""

import math

import pytest
import torch
from torch.nn.functional import mse_loss

from helpers import regularisers
from helpers.ddpm import DDPM
from helpers.regularisers import L2, DiagonalEWC, Distillation, LoRA, RankOneEWC, noised, sample_gradients, weights
from helpers.splits import Split
from hopfield_replay.functional import spearman


@pytest.fixture
def model():
    torch.manual_seed(0)
    made = DDPM(4, width=8, network="mlp", classes=10)
    with torch.no_grad():  # the last layer begins at zero, where nothing before it has a gradient
        for parameter in made.network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return made


@pytest.fixture
def tasks():
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.rand(60, 1, 4, 4, generator=generator) * 2 - 1, torch.arange(60) % 4
    return [Split(images, labels, classes, 8, 4) for classes in ([0, 1], [2, 3])]


def moved(model):
    """Every weight somewhere else, with a gradient of one."""
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
            parameter.grad = torch.ones_like(parameter)


def added(model):
    return {name: parameter.grad - 1 for name, parameter in model.network.named_parameters()}


def of_penalty(model, penalty):
    parameters = dict(model.network.named_parameters())
    return dict(zip(parameters, torch.autograd.grad(penalty(parameters), parameters.values()), strict=True))


def literal_gradients(model, task, seed):
    """One backward pass for each training image."""
    images, labels = task.train.tensors
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    rows = []
    model.eval()
    torch.manual_seed(seed)
    for part in chosen.split(regularisers.CHUNK):
        noisy, times, noise = noised(model, images[part])
        for i in range(len(part)):
            predicted = model(noisy[i : i + 1], times[i : i + 1], labels[part][i : i + 1])
            loss = mse_loss(predicted, noise[i : i + 1])
            rows.append(torch.autograd.grad(loss, list(model.network.parameters())))
    return [torch.stack(column) for column in zip(*rows, strict=True)]


def test_gradients_of_single_samples_are_those_of_a_loop(model, tasks, monkeypatch):
    monkeypatch.setattr(regularisers, "CHUNK", 3)
    state = torch.get_rng_state()
    parts = list(sample_gradients(model, tasks[0], 5))
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    literal = literal_gradients(model, tasks[0], 5)
    for name, expected in zip(weights(model.network), literal, strict=True):
        torch.testing.assert_close(torch.cat([part[name] for part in parts]), expected, rtol=1e-4, atol=1e-6)


def test_l2_pulls_to_where_the_last_task_ended(model, tasks):
    pulling = L2(tasks, 0.3)
    for task in tasks:
        pulling.remember(model, task)
        anchor = weights(model.network)
        moved(model)
        pulling.pull(model)
        expected = of_penalty(model, lambda now, to=anchor: 0.15 * sum((now[n] - to[n]).square().sum() for n in to))
        torch.testing.assert_close(added(model), expected, rtol=1e-4, atol=1e-6)


def test_ewc_weighs_by_the_mean_square_of_single_gradients_summed_over_tasks(model, tasks):
    pulling, expected = DiagonalEWC(tasks, 0.3, seed=2), None
    for task in tasks:
        squares = [column.square().sum(0) for column in literal_gradients(model, task, 2)]
        mean = sum(s.sum() for s in squares) / sum(s.numel() for s in squares)
        ours = [s / mean for s in squares]
        expected = ours if expected is None else [a + b for a, b in zip(expected, ours, strict=True)]
        pulling.remember(model, task)
        anchor = weights(model.network)
        moved(model)
    pulling.pull(model)
    fisher = dict(zip(anchor, expected, strict=True))
    penalty = of_penalty(model, lambda now: 0.15 * sum((fisher[n] * (now[n] - anchor[n]).square()).sum() for n in now))
    torch.testing.assert_close(added(model), penalty, rtol=1e-3, atol=1e-5)


def test_the_rank_one_penalty_knows_one_direction_of_each_task(model, tasks):
    pulling, terms = RankOneEWC(tasks, 0.3, seed=2), []
    for task in tasks:
        mean = [column.mean(0) for column in literal_gradients(model, task, 2)]
        norm = math.sqrt(sum(float(m.square().sum()) for m in mean))
        pulling.remember(model, task)
        terms.append((dict(zip(weights(model.network), (m / norm for m in mean), strict=True)), weights(model.network)))
        moved(model)
    pulling.pull(model)
    count = sum(p.numel() for p in model.network.parameters())

    def penalty(now):
        along = [sum((unit[n] * (now[n] - anchor[n])).sum() for n in now) for unit, anchor in terms]
        return 0.15 * count * sum(a.square() for a in along)

    torch.testing.assert_close(added(model), of_penalty(model, penalty), rtol=1e-3, atol=1e-4)


def test_distillation_asks_for_the_teachers_answers_on_its_own_images(model, tasks):
    pulling = Distillation(tasks, 2.0, count=6, batch_size=4)
    pulling.remember(model, tasks[0])
    assert set(pulling.labels.tolist()) == {0, 1}
    assert pulling.images.shape == (6, 1, 4, 4)
    teacher = {name: value.clone() for name, value in pulling.teacher.state_dict().items()}
    moved(model)
    torch.manual_seed(3)
    pulling.pull(model)
    torch.manual_seed(3)
    drawn = torch.randint(6, (4,))
    noisy, times, _ = noised(model, pulling.images[drawn])
    labels = pulling.labels[drawn]
    with torch.no_grad():
        wanted = pulling.teacher(noisy, times, class_labels=labels).sample
    expected = torch.autograd.grad(
        2.0 * mse_loss(model(noisy, times, labels), wanted), list(model.network.parameters())
    )
    torch.testing.assert_close(list(added(model).values()), list(expected), rtol=1e-3, atol=1e-5)
    assert all(torch.equal(value, teacher[name]) for name, value in pulling.teacher.state_dict().items())


def test_adapters_change_nothing_when_they_begin_and_are_gone_when_they_are_merged(model):
    pytest.importorskip("peft")
    adapters = LoRA(2)
    x, times, labels = torch.randn(3, 1, 4, 4), torch.tensor([5, 50, 500]), torch.tensor([0, 1, 2])
    names, before = list(weights(model.network)), model(x, times, labels)
    adapters.setup(None, model, "fit")  # the first task trains everything
    assert all(parameter.requires_grad for parameter in model.network.parameters())
    adapters.teardown(None, model, "fit")
    adapters.setup(None, model, "fit")
    torch.testing.assert_close(model(x, times, labels), before)
    trained = {name for name, parameter in model.network.named_parameters() if parameter.requires_grad}
    assert trained
    assert all("lora_" in name or "class_embedding" in name for name in trained)
    with torch.no_grad():
        for name, parameter in model.network.named_parameters():
            if "lora_B" in name:
                parameter += 0.1
    changed = model(x, times, labels)
    assert not torch.allclose(changed, before)
    adapters.teardown(None, model, "fit")
    torch.testing.assert_close(model(x, times, labels), changed, rtol=1e-4, atol=1e-5)
    assert list(weights(model.network)) == names


@pytest.mark.parametrize("strength", [-1.0, math.nan, math.inf])
def test_a_strength_that_is_none_is_refused(tasks, strength):
    with pytest.raises(ValueError, match="strength must be finite and at least 0"):
        L2(tasks, strength)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # upstream's, of themselves
def test_the_diagonal_is_that_of_avalanches_ewc():
    pytest.importorskip("avalanche")
    from avalanche.training.plugins import EWCPlugin

    from hopfield_replay.avalanche import Denoiser, denoising_loss
    from tests.avalanche.streams import benchmark

    generator = torch.Generator().manual_seed(1)
    images, labels = torch.rand(400, 1, 4, 4, generator=generator) * 2 - 1, torch.arange(400) % 2
    model = DDPM(4, width=8, network="mlp")
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    split = Split(images, labels, [0, 1], 400, 4, test=(images, labels))
    ours = DiagonalEWC([split], 1.0)
    ours.remember(model, split)
    theirs = Denoiser(model.network, model.scheduler)
    dataset = benchmark("task-free", images, labels, experiences=1).train_stream[0].dataset
    importances = EWCPlugin(1.0).compute_importances(
        theirs, denoising_loss, torch.optim.SGD(theirs.parameters(), lr=0.1), dataset, torch.device("cpu"), 1
    )
    found = {name.removeprefix("network."): value.data.flatten() for name, value in importances.items()}
    assert found.keys() == ours.weight.keys()
    a, b = (torch.cat([one[name].flatten() for name in found]) for one in (found, ours.weight))
    assert spearman(a, b) > 0.97  # one noise and timestep for each image, drawn anew: the same only on average
    assert float((a / a.mean()).dot(b / b.mean()) / (b / b.mean()).square().sum()) == pytest.approx(1, abs=0.15)
