import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from hopfield_replay.denoisers import CallableDenoiser
from hopfield_replay.functional import energy
from hopfield_replay.functional.correlation import spearman
from hopfield_replay.functional.diffusion import reconstruction_error
from hopfield_replay.metrics import (
    EnergyForgettingCorrelation,
    GenerativeTaskMatrix,
    IntrinsicForgetting,
    KNNPrecisionRecall,
    ReconstructionForgetting,
)
from hopfield_replay.metrics.distances import frechet_distance, kernel_distance


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Extractor(nn.Module):
    """A frozen projection with what must not leak or change: parameters, a batch norm, dropout."""

    def __init__(self, width=3):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(16, width), nn.BatchNorm1d(width), nn.Dropout(0.5))

    def forward(self, x):
        return self.layers(x)


def shrink(factor):
    return CallableDenoiser(lambda x, t: factor * x, torch.linspace(0.9, 0.1, 10), prediction_type="sample")


def metrics():
    matrix = GenerativeTaskMatrix(2, Extractor())
    reconstruction = ReconstructionForgetting([1, 5])
    reconstruction.remember(shrink(1.0), draw(6, 4))
    return [
        (IntrinsicForgetting(draw(5, 4), draw(7, 4, seed=1), 1.5), lambda m, x: m.update(x.flatten(1)[:, :4])),
        (reconstruction, lambda m, x: m.update(shrink(0.5), draw(6, 4))),
        (EnergyForgettingCorrelation(resamples=50), lambda m, x: m.update(x[:, 0, 0], x[:, 0, 1])),
        (KNNPrecisionRecall(Extractor()), lambda m, x: (m.update(x, real=True), m.update(x + 1, real=False))),
        (matrix, lambda m, x: (m.update(x, task=0), m.update(x + 1, task=0, after=0))),
    ]


@pytest.mark.parametrize("index", range(5))
def test_no_parameters_no_state_no_change_of_the_extractor(index):
    metric, update = metrics()[index]
    holder = nn.Module()
    holder.metric = metric
    update(metric, draw(40, 4, 4))
    first = metric.compute()
    assert list(holder.parameters()) == []
    assert holder.state_dict() == {}
    assert [type(module) for module in holder.modules()] == [nn.Module, type(metric)]
    extractor = getattr(metric, "_extractor", None)
    if extractor is not None:
        model = extractor._encoder.model
        assert all(module.training for module in model.modules())
        assert int(model.layers[2].num_batches_tracked) == 0
        assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())
    copy = pickle.loads(pickle.dumps(metric)) if index == 0 else metric.clone()
    metric.reset()
    update(metric, draw(40, 4, 4))
    for again in (metric.compute(), copy.compute()):
        assert repr(again) == repr(first)


def test_intrinsic_forgetting_is_the_mean_rise():
    old, new, x = draw(5, 4), draw(7, 4, seed=1), draw(9, 4, seed=2)
    masses = torch.rand(5, generator=torch.Generator().manual_seed(0))
    expected = energy(x, new, 1.5) - energy(x, old, 1.5, masses=masses)
    metric = IntrinsicForgetting(old, new, 1.5, old_masses=masses)
    each = IntrinsicForgetting(old, new, 1.5, old_masses=masses, reduction="none")
    for part in x.split(4):
        metric.update(part)
        each.update(part)
    torch.testing.assert_close(metric.compute(), expected.mean())
    torch.testing.assert_close(each.compute(), expected)
    itself = IntrinsicForgetting(old, new, 1.5, reduction="none")
    itself.update(old, exclude_old=torch.arange(5))
    torch.testing.assert_close(itself.compute(), energy(old, new, 1.5) - energy(old, old, 1.5, exclude=torch.arange(5)))
    with pytest.raises(ValueError, match="reduction"):
        IntrinsicForgetting(old, new, 1.0, reduction="sum")


def test_reconstruction_forgetting_pairs_samples_by_id():
    x, ids = draw(6, 4), torch.tensor([10, 20, 30, 40, 50, 60])
    before, after = (reconstruction_error(shrink(factor), x, [1, 5], 3, ids=ids) for factor in (1.0, 0.3))
    results = {}
    for reduction in ("mean", "timestep", "none"):
        metric = ReconstructionForgetting([1, 5], noise_seed=3, reduction=reduction)
        metric.remember(shrink(1.0), x, ids=ids)
        order = torch.tensor([5, 0, 3, 1, 4, 2])
        for part in order.split(4):
            metric.update(shrink(0.3), x[part], ids=ids[part])
        results[reduction] = metric.compute()
        with pytest.raises(ValueError, match=r"1 of 2 samples.*\[7\]"):
            metric.update(shrink(0.3), x[:2], ids=[10, 7])
        metric.reset()
        metric.update(shrink(1.0), x, ids=ids)  # remembered still
        assert float(metric.compute().abs().max()) == 0
    torch.testing.assert_close(results["mean"], (after - before).mean())
    torch.testing.assert_close(results["timestep"], (after - before).mean(0))
    torch.testing.assert_close(results["none"], (after - before)[order])
    with pytest.raises(ValueError, match="reduction"):
        ReconstructionForgetting([1], reduction="sum")


@pytest.mark.parametrize("shape", [(3,), (1, 8, 8)])
def test_samples_are_compared_with_themselves_alone(shape):
    """Batches without ids were each compared with the last one that was remembered."""
    x = draw(12, *shape)
    metric = ReconstructionForgetting([1, 5])
    for batch in x.split(4):
        metric.remember(shrink(1.0), batch)
    with pytest.raises(ValueError, match=r"4 of 4 samples are not those that .* \[0, 1, 2, 3\]\). Pass ids="):
        metric.update(shrink(0.3), x[:4])
    metric.remember(shrink(1.0), x)
    with pytest.raises(ValueError, match="2 of 12 samples are not those"):
        metric.update(shrink(0.3), x[[0, 1, 2, 4, 3, *range(5, 12)]])
    metric.update(shrink(0.3), x + 1e-3 * draw(12, *shape, seed=1))  # encoded anew in half precision
    assert len(metric.rows("rises")) == 12


def test_correlation_over_batches():
    values = draw(3, 50)
    metric = EnergyForgettingCorrelation(resamples=200)
    for part in torch.arange(50).split(17):
        metric.update(values[0, part], values[1, part], values[2, part])
    got = metric.compute()
    assert float(got["spearman"]) == pytest.approx(spearman(values[0], values[1]))
    assert float(got["partial"]) == pytest.approx(spearman(values[0], values[1], control=values[2]))
    assert got["partial_low"] < got["partial"] < got["partial_high"]
    assert float(got["n"]) == 50
    metric.update(values[0], values[1])
    with pytest.raises(ValueError, match="50 of 100"):
        metric.compute()
    with pytest.raises(ValueError, match="NaN"):
        metric.update(torch.full((3,), torch.nan), torch.zeros(3))
    with pytest.raises(ValueError, match=r"forgetting must have shape \(3,\)"):
        metric.update(torch.zeros(3), torch.zeros(4))


def test_frechet_distance_equals_scipy():
    linalg = pytest.importorskip("scipy.linalg")
    real, made = draw(200, 5) + 1000, draw(150, 5, seed=1) @ draw(5, 5, seed=2) + 1001
    covariances = [np.cov(x.double().numpy(), rowvar=False) for x in (real, made)]
    shift = (real.double().mean(0) - made.double().mean(0)).square().sum()
    root = linalg.sqrtm(covariances[0] @ covariances[1]).real
    expected = float(shift) + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert float(frechet_distance(real, made)) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match=r"more than 5 samples.*5 real and 150.*kid"):
        frechet_distance(real[:5], made)


def test_kernel_distance_equals_a_literal_sum():
    real, made = 7 + 3 * draw(12, 4), 7 + 3 * draw(12, 4, seed=1)
    scale = real.double().std(0)
    a, b = ((x.double() - real.double().mean(0)) / scale for x in (real, made))

    def kernel(x, y):
        return (float(x @ y) / 4 + 1) ** 3

    within = sum(kernel(x[i], x[j]) for x in (a, b) for i in range(12) for j in range(12) if i != j) / (12 * 11)
    across = sum(kernel(x, y) for x in a for y in b) / 144
    assert float(kernel_distance(real, made)) == pytest.approx(within - 2 * across, rel=1e-9)
    state = torch.get_rng_state()
    assert kernel_distance(draw(40, 4), made) == kernel_distance(draw(40, 4), made)
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ValueError, match="two samples"):
        kernel_distance(real[:1], made)


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_features_that_no_distance_can_be_told_of(distance):
    """NaN ended the process in linear algebra."""
    good, bad = draw(30, 3), draw(30, 3)
    bad[7, 1] = math.nan
    for pair, name in (((bad, good), "real"), ((good, bad), "generated")):
        with pytest.raises(ValueError, match=rf"{name} holds NaN or infinite values in 1 of 30 rows"):
            distance(*pair)
    with pytest.raises(ValueError, match="real features have 3 columns, generated ones 4"):
        distance(good, draw(30, 4))
    with pytest.raises(ValueError, match=r"generated holds features up to \S+e\+200, too large"):
        distance(good.double(), good.double() * 1e200)
    with pytest.raises(TypeError, match="real must be a real floating tensor"):
        distance(good.long(), good)


def fill(metric, rank=0, world=1):
    """A sequence of three tasks in which task 0 drifts away after task 1."""
    for task in range(3):
        metric.update(draw(400, 4, 4, seed=task)[rank::world] + task, task=task)
        for after in range(task, 3):
            drift = 0.5 * (after - task) if task == 0 else 0.0
            metric.update(
                draw(150, 4, 4, seed=10 + 3 * after + task)[rank::world] + task + drift, task=task, after=after
            )
    return metric


@pytest.mark.parametrize(("distance", "label"), [("fid", "FID"), ("kid", "KID")])
def test_task_matrix(distance, label):
    extractor = Extractor().eval()
    metric = fill(GenerativeTaskMatrix(3, extractor, distance=distance))
    got = metric.compute()
    assert all(key.startswith(f"{label}-Extractor/") for key in got)
    got = {key.split("/")[1]: value for key, value in got.items()}
    measure = frechet_distance if distance == "fid" else kernel_distance
    with torch.no_grad():
        expected = measure(extractor(draw(400, 4, 4, seed=0)), extractor(draw(150, 4, 4, seed=16) + 1.0))
    matrix = got["matrix"]
    torch.testing.assert_close(matrix[2, 0], expected, rtol=1e-5, atol=1e-9)
    assert matrix[0, 0] < matrix[1, 0] < matrix[2, 0]
    assert bool(matrix[0, 1:].isnan().all())
    assert got["forgetting"] == pytest.approx(
        float((matrix[2, :2] - torch.stack([matrix[:2, 0].min(), matrix[1, 1]])).mean())
    )
    assert got["backward_transfer"] == -got["forgetting_rate"]
    assert got["floor_n"].tolist() == [150.0] * 3
    assert bool((got["floor"].abs() < matrix[2, 0] / 3).all())


def test_task_matrix_with_few_real_samples_and_an_own_distance():
    def gap(real, generated):
        return (real.mean() - generated.mean()).abs()

    metric = GenerativeTaskMatrix(2, nn.Flatten(), distance=gap, name="pixels")
    metric.update(torch.zeros(3, 2), task=0)
    metric.update(torch.ones(5, 2), task=0, after=0)
    got = metric.compute()
    assert float(got["gap-pixels/matrix"][0, 0]) == 1
    assert got["gap-pixels/floor_n"].tolist() == [1.0, 0.0]
    assert float(got["gap-pixels/tasks"]) == 1
    assert math.isnan(got["gap-pixels/forgetting"])
    small = GenerativeTaskMatrix(1, nn.Flatten())
    small.update(draw(9, 4), task=0)
    small.update(draw(9, 4, seed=1), task=0, after=0)
    got = small.compute()
    assert bool(got["FID-Flatten/matrix"].isfinite().all())
    assert bool(got["FID-Flatten/floor"].isnan().all())  # 4 + 4 samples for 4 features


def test_bad_input_of_the_generative_metrics():
    with pytest.raises(ValueError, match="num_tasks"):
        GenerativeTaskMatrix(0, nn.Flatten())
    with pytest.raises(TypeError, match="distance"):
        GenerativeTaskMatrix(1, nn.Flatten(), distance="mmd")
    with pytest.raises(TypeError, match="callable"):
        GenerativeTaskMatrix(1, "inception")
    metric = GenerativeTaskMatrix(2, nn.Flatten())
    for task, after in ((2, None), (-1, None), (1, 0), (0, 2)):
        with pytest.raises(ValueError, match=r"task must lie in 0\.\.1"):
            metric.update(draw(9, 4), task=task, after=after)
    metric.update(draw(9, 4), task=0, after=0)
    with pytest.raises(ValueError, match="no real ones"):
        metric.compute()
    metric.update(draw(3, 4), task=0)
    with pytest.raises(ValueError, match="more than 4 samples"):
        metric.compute()
    with pytest.raises(ValueError, match="columns"):
        metric.update(draw(9, 5), task=0)
    maps = KNNPrecisionRecall(nn.Conv2d(1, 2, 3))
    with pytest.raises(ValueError, match=r"Conv2d returns maps of shape \(2, 4, 4\).*Pool"):
        maps.update(draw(3, 1, 6, 6), real=True)
    with pytest.raises(ValueError, match="no floating tensor"):
        KNNPrecisionRecall(nn.Flatten()).update(torch.zeros(3, 4, dtype=torch.uint8), real=True)
    with pytest.raises(TypeError, match="samples"):
        KNNPrecisionRecall(nn.Flatten()).update([draw(3, 4)], real=True)
    few = KNNPrecisionRecall(nn.Flatten())
    few.update(draw(9, 4), real=True)
    with pytest.raises(ValueError, match="k = 3"):
        few.compute()


def test_forward_gives_the_batch_and_keeps_the_rest():
    old, new, x = draw(5, 4), draw(7, 4, seed=1), draw(9, 4, seed=2)
    rise = energy(x, new, 1.5) - energy(x, old, 1.5)
    metric = IntrinsicForgetting(old, new, 1.5)
    torch.testing.assert_close(metric(x[:4]), rise[:4].mean())
    torch.testing.assert_close(metric(x[4:]), rise[4:].mean())
    torch.testing.assert_close(metric.compute(), rise.mean())
    remembering = ReconstructionForgetting([1, 5], reduction="none")
    remembering.remember(shrink(1.0), x)
    single = remembering(shrink(0.5), x[:4], ids=range(4))
    remembering(shrink(0.5), x[4:], ids=range(4, 9))
    assert single.shape == (4, 2)
    assert remembering.compute().shape == (9, 2)


def test_names():
    assert GenerativeTaskMatrix(1, Extractor()).name == "FID-Extractor"
    assert GenerativeTaskMatrix(1, lambda x: x, distance="kid").name == "KID-lambda"
    assert GenerativeTaskMatrix(1, draw, name="digits").name == "FID-digits"
