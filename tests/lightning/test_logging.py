import csv
import math

import pytest
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from hopfield_replay import EnergyReplayBuffer, ForgettingMonitor, ReplayDataModule, fit_tasks
from tests.lightning.small import Foreign, loader, trainer
from tests.lightning.test_monitor import Shrink

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),  # lightning; tiny data needs none
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),  # lightning; epochs have three batches
]
STEPS = [6, 12, 18]  # after each task


def train(denoiser=None, **settings):
    buffer = EnergyReplayBuffer(6)
    monitor = ForgettingMonitor(buffer, probe_size=5, denoiser=denoiser)
    fit_tasks(trainer(monitor, **settings), Foreign(), [ReplayDataModule(loader(task), buffer) for task in range(3)])
    return monitor


class Memory(Logger):
    """Keeps what it gets."""

    name = version = "memory"

    def __init__(self):
        super().__init__()
        self.metrics = {}

    def log_metrics(self, metrics, step=None):
        self.metrics.setdefault(step, {}).update(metrics)

    def log_hyperparams(self, params):
        pass


def test_every_logger_gets_the_scalars_of_every_boundary():
    loggers = [Memory(), Memory()]
    monitor = train(Shrink(), logger=loggers)
    assert loggers[0].metrics == loggers[1].metrics
    assert sorted(loggers[0].metrics) == STEPS
    for task, step in enumerate(STEPS):
        logged, record = loggers[0].metrics[step], monitor.history[task]
        assert all(math.isfinite(value) for value in logged.values())
        assert logged["forgetting/beta"] == record["beta"]
        assert logged["forgetting/n_eff"] == record["n_eff"]
        assert logged["buffer/samples"] == 6
        assert logged["buffer/bytes"] == monitor.buffer.nbytes
        means = {"intrinsic": [], "reconstruction": []}
        for probe in record["probes"]:
            error = sum(map(sum, probe["error"].tolist())) / probe["error"].numel()
            assert logged[f"forgetting/error/task_{probe['task']}"] == pytest.approx(error)
            if probe["task"] == task:
                assert f"forgetting/intrinsic/task_{task}" not in logged  # nothing was forgotten of it yet
                continue
            rise = sum(b - a for a, b in zip(probe["energy_start"].tolist(), probe["energy"].tolist(), strict=True)) / 5
            lost = error - sum(map(sum, probe["error_start"].tolist())) / probe["error"].numel()
            assert logged[f"forgetting/intrinsic/task_{probe['task']}"] == pytest.approx(rise)
            assert logged[f"forgetting/reconstruction/task_{probe['task']}"] == pytest.approx(lost, abs=1e-9)
            means["intrinsic"].append(rise)
            means["reconstruction"].append(lost)
        for name, values in means.items():
            if values:
                expected = pytest.approx(sum(values) / len(values), abs=1e-9)
                assert logged[f"forgetting/{name}/mean"] == expected
            else:
                assert f"forgetting/{name}/mean" not in logged


def test_csv(tmp_path):
    monitor = train(Shrink(), logger=CSVLogger(tmp_path))
    with open(tmp_path / "lightning_logs/version_0/metrics.csv", newline="") as file:
        rows = {int(row["step"]): row for row in csv.DictReader(file)}
    assert sorted(rows) == STEPS
    assert float(rows[6]["forgetting/beta"]) == pytest.approx(monitor.history[0]["beta"])
    assert rows[6]["forgetting/intrinsic/task_0"] == ""
    assert float(rows[18]["forgetting/intrinsic/task_1"]) > 0


@pytest.mark.filterwarnings("ignore:No denoiser was found")  # ours: energies only
@pytest.mark.parametrize("settings", [{"logger": False}, {"logger": True, "fast_dev_run": True}])
def test_no_logger(settings):
    assert len(train(**settings).history) == 3


class TestTensorBoard:
    @staticmethod
    def read(folder):
        accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        everything = {"images": 0, "histograms": 0, "scalars": 0}
        events = accumulators.EventAccumulator(str(folder), size_guidance=everything)
        events.Reload()
        return events

    def test_events_hold_scalars_histograms_and_the_figure(self, tmp_path):
        pytest.importorskip("matplotlib")
        logger = TensorBoardLogger(tmp_path, name="", version="")
        monitor = train(Shrink(), logger=logger)
        logger.experiment.close()
        events = self.read(tmp_path)
        beta = events.Scalars("forgetting/beta")
        assert [(event.step, event.value) for event in beta] == [
            (step, pytest.approx(record["beta"])) for step, record in zip(STEPS, monitor.history, strict=True)
        ]
        assert [event.step for event in events.Scalars("forgetting/reconstruction/task_0")] == [12, 18]
        tags = events.Tags()
        assert set(tags["histograms"]) == {
            *(f"energy/task_{task}" for task in range(3)),
            *(f"intrinsic_forgetting/task_{task}" for task in range(2)),
            *(f"reconstruction_forgetting/task_{task}" for task in range(2)),
        }
        assert [event.step for event in events.Histograms("energy/task_0")] == STEPS
        histogram = events.Histograms("energy/task_0")[-1].histogram_value
        assert histogram.num == 5
        assert histogram.sum == pytest.approx(float(monitor.history[-1]["probes"][0]["energy"].sum()))
        figures = events.Images("energy_against_forgetting")
        assert [figure.step for figure in figures] == [12, 18]
        assert figures[0].encoded_image_string.startswith(b"\x89PNG")

    @pytest.mark.filterwarnings("ignore:No denoiser was found")  # ours: energies only
    def test_energies_only(self, tmp_path):
        logger = TensorBoardLogger(tmp_path, name="", version="")
        train(logger=logger)
        logger.experiment.close()
        tags = self.read(tmp_path).Tags()
        assert "forgetting/intrinsic/mean" in tags["scalars"]
        assert not [tag for tag in tags["scalars"] + tags["histograms"] if "reconstruction" in tag or "error" in tag]
        assert tags["images"] == []
