import csv
import io
import math
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger
from torch.utils.data import DataLoader, TensorDataset

from hopfield_replay import EnergyReplayBuffer, ForgettingMonitor, ReplayDataModule, fit_tasks
from hopfield_replay.lightning import views
from hopfield_replay.lightning.logging import BoundaryLog
from hopfield_replay.lightning.sinks import TensorBoardSink, sinks
from hopfield_replay.tracker.summary import summarize
from tests.lightning.small import Foreign, loader, trainer
from tests.lightning.test_monitor import Shrink

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),  # lightning; tiny data needs none
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),  # lightning; epochs have three batches
]
STEPS = [6, 12, 18]  # after each task


def train(denoiser=None, embedding=False, tasks=3, **settings):
    buffer = EnergyReplayBuffer(6)
    monitor = ForgettingMonitor(buffer, probe_size=5, denoiser=denoiser, embedding=embedding)
    fit_tasks(
        trainer(monitor, **settings), Foreign(), [ReplayDataModule(loader(task), buffer) for task in range(tasks)]
    )
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
        assert logged["task"] == task
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
                assert logged[f"forgetting/{name}/worst"] == pytest.approx(max(values), abs=1e-9)
            else:
                assert f"forgetting/{name}/mean" not in logged
                assert f"forgetting/{name}/worst" not in logged


def test_csv(tmp_path):
    monitor = train(Shrink(), logger=CSVLogger(tmp_path))
    with open(tmp_path / "lightning_logs/version_0/metrics.csv", newline="") as file:
        rows = {int(row["step"]): row for row in csv.DictReader(file)}
    assert sorted(rows) == STEPS
    assert [float(rows[step]["task"]) for step in STEPS] == [0, 1, 2]
    assert float(rows[6]["forgetting/beta"]) == pytest.approx(monitor.history[0]["beta"])
    assert rows[6]["forgetting/intrinsic/task_0"] == ""
    assert float(rows[18]["forgetting/intrinsic/task_1"]) > 0


@pytest.mark.filterwarnings("ignore:No denoiser was found")  # ours: energies only
@pytest.mark.parametrize("settings", [{"logger": False}, {"logger": True, "fast_dev_run": True}])
def test_no_logger(settings):
    assert len(train(**settings).history) == 3


def read(folder):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for file in Path(folder).glob("events.out.tfevents.*"):  # those of one second are read in the order of their names
        stem, _, number = file.name.rpartition(".")
        file.rename(file.with_name(f"{stem}.{int(number):06}"))
    everything = {"images": 0, "histograms": 0, "scalars": 0, "tensors": 0}
    events = accumulators.EventAccumulator(str(folder), size_guidance=everything)
    events.Reload()
    return events


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """Three tasks in TensorBoard, the projector included: the monitor, the folder, and its events."""
    pytest.importorskip("tensorboard")
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("board")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*does not have many workers")
        warnings.filterwarnings("ignore", message=".*smaller than the logging interval")
        warnings.filterwarnings("ignore", message=".isinstance.treespec, LeafSpec")
        monitor = train(Shrink(), embedding=True, logger=TensorBoardLogger(folder, name="", version=""))
    return monitor, folder, read(folder)


class TestTensorBoard:
    def test_scalars(self, logged):
        monitor, _, events = logged
        assert [(event.step, event.value) for event in events.Scalars("forgetting/beta")] == [
            (step, pytest.approx(record["beta"])) for step, record in zip(STEPS, monitor.history, strict=True)
        ]
        assert [event.step for event in events.Scalars("forgetting/reconstruction/task_0")] == [12, 18]
        shares = [events.Scalars(f"buffer/share/task_{task}")[-1].value for task in monitor.buffer.tasks.unique()]
        assert sum(shares) == pytest.approx(1.0)
        new, dropped = ([event.value for event in events.Scalars(f"buffer/{name}")] for name in ("new", "dropped"))
        assert new[0] == 6
        assert dropped == [0, new[1], new[2]]  # a full buffer loses as many as it takes
        bound = [event.value for event in events.Scalars("buffer/protected_energy_bound")]
        kept = [event.value for event in events.Scalars("buffer/protected_energy")]
        assert all(b > 0 and a <= b for a, b in zip(kept, bound, strict=True))

    def test_histograms_before_and_after(self, logged):
        monitor, _, events = logged
        names = ["7_energy_after", "8_energy_before", "6_intrinsic_forgetting", "5_reconstruction_forgetting"]
        assert set(events.Tags()["histograms"]) == {
            "7_energy_after/task_2", *(f"{name}/task_{task}" for name in names for task in range(2))
        }  # fmt: skip
        assert [event.step for event in events.Histograms("7_energy_after/task_0")] == STEPS
        assert [event.step for event in events.Histograms("8_energy_before/task_0")] == STEPS[1:]
        error, lost, after, before = (events.Histograms(f"{n}/task_0")[-1].histogram_value for n in sorted(names))
        first, second, third = (record["probes"][0] for record in monitor.history)
        assert before.num == 5
        assert before.sum == pytest.approx(float(second["energy"].sum()))
        assert after.sum == pytest.approx(float(third["energy"].sum()))
        assert lost.sum == pytest.approx(float((third["energy"] - first["energy"]).sum()))
        assert error.sum == pytest.approx(float((third["error"] - first["error"]).mean(1).sum()), abs=1e-6)

    def test_images(self, logged):
        _, _, events = logged
        steps = {tag: [image.step for image in events.Images(tag)] for tag in events.Tags()["images"]}
        later = STEPS[1:]
        assert steps == {
            "1_forgetting/over_tasks": later,
            "2_most_forgotten/denoised": later,
            "3_buffer/contents": STEPS,
            "3_buffer/protected_energy": STEPS,
            "3_buffer/turnover": STEPS,
            "4_against_forgetting/energy_rise": later,
            "4_against_forgetting/energy_when_learned": later,
        }
        for tag in steps:
            image = events.Images(tag)[-1]
            assert image.encoded_image_string.startswith(b"\x89PNG")
            assert image.width == 400  # a card of the page is about 350 pixels wide

    def test_tables(self, logged):
        monitor, _, events = logged
        text = [
            event.tensor_proto.string_val[0].decode() for event in events.Tensors("0_summary/1_result/text_summary")
        ]
        lead, empty, *lines = [" ".join(line.split()) for line in text[-1].split("\n")]  # columns are padded
        worst = max(summarize(monitor.history[-1])[:2], key=lambda row: row["reconstruction"])
        forgotten = f"reconstruction forgetting {worst['reconstruction']:.4g}"
        assert lead.startswith(f"**Worst after task 2: task {worst['task']}, {forgotten} (error ")
        assert not empty
        assert len(lines) == 2 + 3  # what is new; each step has its own
        assert len({line.count("|") for line in lines}) == 1
        assert lines[2].startswith("| 2 | 0 | 5 | ")  # the newest boundary first
        row = summarize(monitor.history[-1])[0]
        assert f"| {row['intrinsic']:.4g} | {row['reconstruction']:.4g} |" in lines[2]
        text = events.Tensors("0_summary/2_settings/text_summary")[-1].tensor_proto.string_val[0].decode()
        text = " ".join(text.split())
        assert "| policy | GreedyGain |" in text
        assert "| capacity | 6 |" in text

    def test_hyperparameters_that_vary_are_compared_by_the_runs_own_scalars(self, logged):
        monitor, folder, events = logged
        plugin = pytest.importorskip("tensorboard.plugins.hparams.plugin_data_pb2")
        assert [path for path in folder.rglob("events*") if path.parent != folder] == []  # no runs of their own
        data = [
            events.SummaryMetadata(f"_hparams_/{name}").plugin_data.content
            for name in ("session_start_info", "experiment")
        ]
        start, experiment = map(plugin.HParamsPluginData.FromString, data)
        given = start.session_start_info.hparams
        assert sorted(given) == ["capacity", "policy", "probe_size", "replay_ratio", "seed"]
        assert given["policy"].string_value == "GreedyGain"
        numbers = [given[name].number_value for name in ("capacity", "probe_size", "replay_ratio", "seed")]
        assert numbers == [6, 5, 0.5, 0]
        compared = [info.name.tag for info in experiment.experiment.metric_infos]
        assert compared[:2] == ["forgetting/reconstruction/worst", "forgetting/reconstruction/mean"]
        rows = summarize(monitor.history[-1])[:2]
        (*_, worst), (*_, mean) = (events.Scalars(name) for name in compared[:2])
        assert worst.value == pytest.approx(max(row["reconstruction"] for row in rows), abs=1e-6)
        assert mean.value == pytest.approx(sum(row["reconstruction"] for row in rows) / 2, abs=1e-6)

    def test_projector_on_request(self, logged):
        monitor, folder, _ = logged
        vectors = np.loadtxt(folder / "00018/buffer/tensors.tsv")
        np.testing.assert_allclose(vectors, monitor.buffer.vectors, rtol=1e-5)
        head, *rows = (folder / "00018/buffer/metadata.tsv").read_text().splitlines()
        assert head.split("\t") == ["task", "id", "energy", "label"]
        assert [int(row.split("\t")[1]) for row in rows] == monitor.buffer.ids.tolist()
        assert (folder / "00018/buffer/sprite.png").exists()

    @pytest.mark.filterwarnings("ignore:No denoiser was found")  # ours: energies only
    def test_energies_only(self, tmp_path):
        logger = TensorBoardLogger(tmp_path, name="", version="")
        train(tasks=2, logger=logger)
        tags = read(tmp_path).Tags()
        assert "forgetting/intrinsic/mean" in tags["scalars"]
        assert not [tag for tag in tags["scalars"] + tags["histograms"] if "reconstruction" in tag or "error" in tag]
        assert "1_forgetting/over_tasks" in tags["images"]
        assert "2_most_forgotten/denoised" not in tags["images"]
        assert not list(tmp_path.glob("000*"))  # no projector


def test_without_matplotlib_all_but_figures_is_there(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monitor = train(Shrink(), logger=TensorBoardLogger(tmp_path, name="", version=""))
    tags = read(tmp_path).Tags()
    assert len(monitor.history) == 3
    assert tags["images"] == []
    assert "7_energy_after/task_2" in tags["histograms"]
    assert "0_summary/1_result/text_summary" in tags["tensors"]


class Run:
    """What WandbLogger needs of a run of Weights & Biases."""

    def __init__(self):
        self.logged, self.config, self.step = [], {}, 0

    def log(self, values, **_):
        self.logged.append(values)

    def define_metric(self, *_, **__):
        pass

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return


def test_wandb_gets_the_same(monkeypatch):
    wandb = pytest.importorskip("wandb")
    from lightning.pytorch.loggers import WandbLogger

    run = Run()
    run.config = SimpleNamespace(update=lambda values, **_: settings.update(values))
    settings = {}
    logger = WandbLogger(experiment=run)
    monitor = train(Shrink(), logger=logger)
    seen = {}
    for values in run.logged:
        for name, value in values.items():
            seen.setdefault(name, []).append((values["trainer/global_step"], value))
    assert [step for step, _ in seen["forgetting/beta"]] == STEPS
    for name in ("4_against_forgetting/energy_rise", "2_most_forgotten/denoised"):
        assert [step for step, _ in seen[name]] == STEPS[1:]
        assert all(isinstance(image, wandb.Image) for _, (image,) in seen[name])
    assert [step for step, _ in seen["3_buffer/contents"]] == STEPS
    (_, histogram) = seen["7_energy_after/task_0"][-1]
    assert sum(histogram.histogram) == 5
    (_, table) = seen["0_summary/1_result"][-1]
    assert len(table.data) == 6
    assert table.data[0][:2] == ["2", "0"]
    assert settings["capacity"] == 6
    assert settings["beta"] == monitor.history[-1]["beta"]


class Tracked(MLFlowLogger):
    """An MLFlowLogger with a client that keeps what it gets."""

    run_id = name = version = "one"
    save_dir = None

    def __init__(self):
        Logger.__init__(self)
        self.metrics, self.params, self.artifacts = {}, {}, {}

    @property
    def experiment(self):
        return self

    def log_metrics(self, metrics, step=None):
        self.metrics.setdefault(step, {}).update(metrics)

    def log_hyperparams(self, params):
        assert not self.params  # a run of MLflow cannot change them
        self.params = params

    def log_figure(self, run_id, figure, artifact_file):
        figure.savefig(io.BytesIO())
        self.artifacts[artifact_file] = figure

    def log_text(self, run_id, text, artifact_file):
        self.artifacts[artifact_file] = text

    def finalize(self, status):
        pass


def test_mlflow_gets_the_same():
    pytest.importorskip("matplotlib")
    logger = Tracked()
    monitor = train(Shrink(), logger=logger)
    assert [logger.metrics[step]["task"] for step in STEPS] == [0, 1, 2]
    assert {name: logger.params[name] for name in ("policy", "capacity", "replay_ratio")} == {
        "policy": "GreedyGain", "capacity": 6, "replay_ratio": 0.5
    }  # fmt: skip
    assert {f"views/1_forgetting/over_tasks_step_{step}.png" for step in STEPS[1:]} < set(logger.artifacts)
    rows = list(csv.DictReader(io.StringIO(logger.artifacts["views/0_summary/1_result.csv"])))
    assert len(rows) == 6
    settings = dict(csv.reader(io.StringIO(logger.artifacts["views/0_summary/2_settings.csv"])))
    assert float(settings["beta"]) == monitor.history[-1].beta


def test_files_where_no_logger_can_hold_views(tmp_path):
    pytest.importorskip("matplotlib")
    monitor = train(Shrink(), logger=CSVLogger(tmp_path, name="", version=""))
    views = tmp_path / "views"
    assert sorted(str(path.relative_to(views)) for path in views.rglob("*.*")) == sorted(
        [
            "0_summary/1_result.csv",
            "0_summary/2_settings.csv",
            *(f"1_forgetting/over_tasks_step_{s}.png" for s in (12, 18)),
            *(f"4_against_forgetting/energy_{n}_step_{s}.png" for n in ("rise", "when_learned") for s in (12, 18)),
            *(f"2_most_forgotten/denoised_step_{s}.png" for s in (12, 18)),
            *(f"3_buffer/{n}_step_{s}.png" for n in ("contents", "protected_energy", "turnover") for s in STEPS),
        ]
    )
    with open(views / "0_summary/1_result.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["after task"], row["of task"]) for row in rows] == [
        ("2", "0"), ("2", "1"), ("2", "2"), ("1", "0"), ("1", "1"), ("0", "0")
    ]  # fmt: skip
    assert float(rows[0]["error"]) == pytest.approx(float(monitor.history[-1]["probes"][0]["error"].mean()), rel=1e-3)


def test_files_only_where_nothing_else_holds_views(tmp_path):
    pytest.importorskip("tensorboard")
    loggers = [CSVLogger(tmp_path / "csv"), TensorBoardLogger(tmp_path / "board")]
    assert [type(sink).__name__ for sink in sinks(SimpleNamespace(loggers=loggers))] == ["TensorBoardSink"]
    assert sinks(SimpleNamespace(loggers=[Memory()])) == []


def test_a_view_that_fails_is_warned_of_once_and_loses_nothing(tmp_path, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no ink")

    monkeypatch.setattr(views, "energy_against_forgetting", broken)
    monkeypatch.setattr(views, "protection_curve", broken)
    monkeypatch.setattr(TensorBoardSink, "histogram", broken)
    with pytest.warns(UserWarning, match="could not be shown") as caught:
        monitor = train(Shrink(), tasks=2, logger=TensorBoardLogger(tmp_path, name="", version=""))
    shown = sorted(str(w.message) for w in caught if "could not be shown" in str(w.message))
    assert len(monitor.history) == 2
    assert len([text for text in shown if "'4_against_forgetting/energy_rise'" in text]) == 1
    assert len([text for text in shown if "'protected energy'" in text]) == 1
    assert all("(RuntimeError: no ink)" in text for text in shown)
    tags = read(tmp_path).Tags()
    assert "1_forgetting/over_tasks" in tags["images"]
    assert len(read(tmp_path).Scalars("forgetting/beta")) == 2


class Idle(Foreign):
    """Takes samples of any shape."""

    def training_step(self, batch, batch_idx):
        return self.layer.weight.sum() * 0


@pytest.mark.parametrize("shape", [(4, 6, 6), (9,), (2, 3, 4, 5)])
def test_samples_that_are_latents_or_no_images(tmp_path, shape):
    """Four channels are shown beside each other; what is no image is left out; neither is warned of."""
    data = [TensorDataset(torch.rand(12, *shape) + task) for task in range(2)]
    buffer = EnergyReplayBuffer(5)
    monitor = ForgettingMonitor(buffer, probe_size=5, denoiser=Shrink(), embedding=True)
    fit = trainer(monitor, logger=TensorBoardLogger(tmp_path, name="", version=""))
    fit_tasks(fit, Idle(), [ReplayDataModule(DataLoader(one, batch_size=4), buffer) for one in data])
    tags = set(read(tmp_path).Tags()["images"])
    assert {"4_against_forgetting/energy_rise", "3_buffer/turnover", "3_buffer/protected_energy"} <= tags
    assert ("3_buffer/contents" in tags) == ("2_most_forgotten/denoised" in tags) == (len(shape) == 3)


def test_only_the_first_process_shows(tmp_path):
    other = SimpleNamespace(global_step=6, is_global_zero=False, loggers=[Memory()])
    done = train(Shrink())
    boundary = views.Boundary(done.tracker, None, Shrink(), lambda batch: batch)
    other.loggers.append(CSVLogger(tmp_path))
    BoundaryLog().log(other, boundary)
    assert not list(tmp_path.rglob("*.png"))
    assert "buffer/protected_energy" not in other.loggers[0].metrics[6]


def test_logging_leaves_the_random_numbers_alone(tmp_path):
    after = []
    for logger in (False, TensorBoardLogger(tmp_path)):
        torch.manual_seed(3)
        train(Shrink(), tasks=2, logger=logger)
        after.append(torch.rand(3))
    assert torch.equal(*after)
