"""Where forecast, audit and select compare vectors: on a pretended GPU, also one that is full, they find the same."""

import pytest
import torch
from torch import nn

from hopfield_replay import audit, forecast
from hopfield_replay.analysis import select
from hopfield_replay.cli.main import main
from hopfield_replay.denoisers import CallableDenoiser, VarianceSchedule
from hopfield_replay.functional import StreamedAffinity, affinity, energy, knn_distance, many
from hopfield_replay.functional.many import distances_of
from hopfield_replay.functional.rows import Rows, placed
from hopfield_replay.memory import readings, temperature
from hopfield_replay.utilities import device as utilities_device
from tests.reliability.pretended_gpu import GPU, PretendedGpu

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
OLD, NEW = (torch.randn(90, 6, generator=torch.Generator().manual_seed(seed)) + 2 * seed for seed in range(2))
IMAGES = torch.rand(40, 1, 3, 4, generator=torch.Generator().manual_seed(2))
SCHEDULE = VarianceSchedule(torch.linspace(0.99, 0.01, 20))


class Shrink(nn.Module):
    """A network whose only weight lies on a device."""

    def __init__(self, factor, place):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))
        self._parameters["factor"] = nn.Parameter(self.factor.detach().to(place))

    def forward(self, x, t):
        return self.factor * x


class Encoder(nn.Module):
    def __init__(self, place):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(6))
        self._parameters["weight"] = nn.Parameter(self.weight.detach().to(place))

    def forward(self, x):
        return x @ self.weight


def foreseen(place=CPU, **options):
    found = forecast(OLD, NEW, capacities=(5, 9), policies=("random", "k_center"), encoder=Encoder(place), **options)
    return [found.rises, found.energies, torch.tensor([found.beta, *found.certificates, *found.curves[0].mean])]


def chosen(place=CPU, **options):
    found = select(OLD, NEW, keep=9, encoder=Encoder(place), **options)
    return [found.indices, found.weights, found.shortfall, torch.tensor([found.beta, found.certificate])]


def compared(place=CPU, **options):
    models = [CallableDenoiser(Shrink(factor, place), SCHEDULE, prediction_type="sample") for factor in (0.9, 0.5)]
    found = audit(*models, IMAGES, old_data=IMAGES, new_data=IMAGES + 0.3, examples=0, **options)
    return [found.energies, found.energy_rises, torch.tensor([found.beta])]


FUNCTIONS = (foreseen, chosen, compared)


@pytest.fixture(autouse=True)
def without_fixed_points(monkeypatch):
    """Which cost seconds on the pretended GPU."""
    monkeypatch.setattr(temperature, "_merged_fraction", lambda *arguments: 0.0)


@pytest.fixture
def seen(monkeypatch):
    """Devices of all samples whose energies or distances are asked for."""
    places = []

    def noting(function):
        def noted(x, *arguments, **options):
            places.append(x.device)
            return function(x, *arguments, **options)

        return noted

    monkeypatch.setattr(many, "energy", noting(energy))
    monkeypatch.setattr(many, "knn_distance", noting(knn_distance))
    return places


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("model", "device", "expected"), [(GPU, None, GPU), (CPU, "cuda", GPU), (GPU, "cpu", CPU), (CPU, None, CPU)]
)
def test_energies_are_computed_there(function, model, device, expected, seen):
    here = function()
    seen.clear()
    with PretendedGpu():
        there = function(model, device=device)
    assert set(seen) == {expected}
    for found, wanted in zip(there, here, strict=True):
        assert found.device == CPU
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_device_without_float64_leaves_it_to_the_cpu(function, seen, monkeypatch):
    here = function()
    seen.clear()
    monkeypatch.setattr(utilities_device, "WITHOUT_FLOAT64", (GPU.type,))
    with PretendedGpu(float64=False):
        there = function(device="cuda")
    assert set(seen) == {CPU}
    for found, wanted in zip(there, here, strict=True):
        torch.testing.assert_close(found, wanted)


def full_beyond(limit, function, sizes):
    def measured(x, *arguments, **options):
        sizes.append(len(x))
        if len(x) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return function(x, *arguments, **options)

    return measured


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_device_that_is_full_gets_less_at_a_time(function, monkeypatch):
    """Energies and distances by halves; what asks for all vectors at once is worked out in memory."""
    here, sizes = function(), []
    monkeypatch.setattr(many, "energy", full_beyond(13, energy, sizes))
    monkeypatch.setattr(many, "knn_distance", full_beyond(13, knn_distance, sizes))
    held = readings._pairwise

    def full_there(patterns, *arguments):
        if patterns.device == GPU:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return held(patterns, *arguments)

    monkeypatch.setattr(readings, "_pairwise", full_there)
    with PretendedGpu():
        there = function(device="cuda")
    assert max(size for size in sizes if size <= 13) > 1
    assert max(sizes) > 13
    for found, wanted in zip(there, here, strict=True):
        torch.testing.assert_close(found, wanted)


def test_a_matrix_of_affinities_comes_in_pieces_that_fit(monkeypatch):
    expected = affinity(OLD, NEW, 0.0, 0.2, masses=1.0)
    every, sizes = StreamedAffinity.log_rows, []
    monkeypatch.setattr(
        StreamedAffinity, "log_rows", lambda self, index: full_beyond(7, lambda i: every(self, i), sizes)(index)
    )
    with PretendedGpu():
        rows = StreamedAffinity(OLD.to(GPU), NEW.to(GPU), 0.0, 0.2, masses=1.0)
        found = rows.matrix(place=CPU)
        assert found.device == CPU
        assert rows.matrix().device == GPU
    torch.testing.assert_close(found, expected)
    assert max(size for size in sizes if size <= 7) == 5  # 90 halved until it fits
    with PretendedGpu():
        monkeypatch.setattr(StreamedAffinity, "log_rows", full_beyond(0, len, []))
        monkeypatch.setattr(StreamedAffinity, "log_rows", lambda self, index: full_beyond(0, len, [])(index))
        with pytest.raises(MemoryError, match="The affinities do not fit"):
            rows.matrix()


def test_rows_for_which_a_device_has_no_room_come_in_pieces(monkeypatch):
    move = torch.Tensor.to

    def full(self, *arguments, **options):
        if GPU in arguments and len(self) > 50:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return move(self, *arguments, **options)

    monkeypatch.setattr(torch.Tensor, "to", full)
    with PretendedGpu():
        found = placed(OLD, GPU)
        assert isinstance(found, Rows)
        assert found.device == GPU
        assert torch.equal(found[10:60].cpu(), OLD[10:60])
        assert distances_of(OLD[:9], found[:50], 2).device == CPU


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_device_that_is_not_there(function):
    with pytest.raises(ValueError, match=r"device='cuda:99' cannot be used here"):
        function(device="cuda:99")


def test_data_that_is_broken_is_named():
    broken = NEW.clone()
    broken[3, 2] = torch.nan
    with pytest.raises(ValueError, match=r"new holds NaN or infinite values in 1 of 90 rows"):
        forecast(OLD, broken, capacities=(5,))
    images = IMAGES.clone()
    images[7] = torch.inf
    models = [CallableDenoiser(Shrink(0.5, CPU), SCHEDULE, prediction_type="sample")] * 2
    with pytest.raises(ValueError, match=r"old_data holds NaN or infinite values in 1 of 40 rows"):
        audit(*models, IMAGES, old_data=images)


def test_the_command_line_takes_a_device(tmp_path, capsys):
    import numpy as np

    files = []
    for name, data in (("old", OLD), ("new", NEW)):
        files.append(str(tmp_path / f"{name}.npz"))
        np.savez(files[-1], x=data.view(90, 1, 2, 3).numpy())
    said = []
    for device in ([], ["--device", "cpu"]):
        assert main(["forecast", *files, "--capacities", "5", *device]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    with PretendedGpu():
        assert main(["forecast", *files, "--capacities", "5", "--device", "cuda"]) == 0
    assert capsys.readouterr().out == said[0]
    assert main(["forecast", *files, "--device", "cuda:99"]) == 2
    assert "'cuda:99' cannot be used here" in capsys.readouterr().err
