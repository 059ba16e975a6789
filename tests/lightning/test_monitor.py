import math

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from hopfield_replay import EnergyReplayBuffer, ForgettingMonitor, ReplayDataModule, fit_tasks
from hopfield_replay.denoisers import DiffusersDenoiser
from hopfield_replay.functional.diffusion import reconstruction_error
from tests.denoisers.networks import unet
from tests.functional.numpy_energy import energy as numpy_energy
from tests.lightning.small import Foreign, Images, WithValidation, image_of, loader, trainer
from tests.lightning.test_replay_loader import filled

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),  # lightning; tiny data needs none
]
NO_DENOISER = pytest.mark.filterwarnings("ignore:No denoiser was found")  # ours, on modules that have none
NO_BATCHES = pytest.mark.filterwarnings("ignore:Total length of")  # lightning, before our error


def replaying(buffer, count=2, ratio=0.5, **settings):
    return [ReplayDataModule(loader(task, **settings), buffer, replay_ratio=ratio) for task in range(count)]


class DDPM(LightningModule):
    """A diffusers UNet with its scheduler; dict batches."""

    def __init__(self):
        super().__init__()
        from diffusers import DDPMScheduler

        self.network = unet()
        self.noise_scheduler = DDPMScheduler()

    def training_step(self, batch, batch_idx):
        images = image_of(batch)
        noise, times = torch.randn_like(images), torch.randint(0, 1000, (len(images),))
        noisy = self.noise_scheduler.add_noise(images, noise, times)
        return (self.network(noisy, times).sample - noise).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.02)


class Shrink:
    """A denoiser that is no network."""

    num_timesteps = 10

    def __init__(self, factor=0.5):
        self.factor = factor

    def noise(self, clean, timestep, noise):
        return clean + noise

    def predict_clean(self, noisy, timestep, condition=None):
        return self.factor * noisy

    def snr(self, timestep):
        return 1.0


class TestForeignModule:
    @pytest.mark.heavy
    @pytest.mark.parametrize("form", ["dict", "tuple", "tensor"])
    def test_trains_unchanged_with_monitor_and_buffer(self, form):
        buffer = EnergyReplayBuffer(6, groups="task")
        monitor = ForgettingMonitor(buffer, probe_size=5)
        module = Foreign()
        with pytest.warns(UserWarning, match=r"No denoiser was found on Foreign .*its own loss is measured") as caught:
            fit_tasks(trainer(monitor), module, replaying(buffer, 3, form=form))
        assert sum("No denoiser" in str(warning.message) for warning in caught) == 1  # not for every task
        sizes = [len(image_of(batch)) for _, batch in module.seen]
        assert sizes == [4] * 6 + [8] * 12  # 2 epochs of 3 batches a task; replay from the second task on
        assert buffer.tasks.sort().values.tolist() == [0, 0, 1, 1, 2, 2]
        assert [record["task"] for record in monitor.history] == [0, 1, 2]
        assert [record["replayed"] for record in monitor.history] == [0, 6, 6]
        for record in monitor.history:
            assert [probe["task"] for probe in record["probes"]] == list(range(record["task"] + 1))
            for probe in record["probes"]:
                assert probe["energy"].shape == (5,)
                assert probe["error"] is None
                assert probe["loss"].shape == (5,)
        kept = buffer.sample(4)
        assert torch.is_tensor(kept) if form == "tensor" else len(kept) == 2

    @NO_DENOISER
    def test_energies_are_those_of_the_data_the_model_trained_on(self):
        buffer = EnergyReplayBuffer(4, "random")
        monitor = ForgettingMonitor(buffer, beta=3.0, probe_size=5)
        old, new = (Images(task).images.flatten(1).numpy() for task in (0, 1))
        fit_tasks(trainer(monitor), Foreign(), replaying(buffer, 1))
        replayed = buffer.ids.tolist()  # ids of task 0 are the positions in its data
        fit_tasks(trainer(monitor), Foreign(), [replaying(buffer, 2, ratio=0.25)[1]])
        first, second = monitor.history
        own = first["probes"][0]
        positions = own["ids"].numpy()
        expected = numpy_energy(old[positions], old, 3.0, exclude=positions)
        torch.testing.assert_close(own["energy"], torch.from_numpy(expected), rtol=1e-5, atol=1e-6)
        patterns = torch.from_numpy(new).double()
        patterns = torch.cat([patterns, torch.from_numpy(old[replayed]).double()]).numpy()
        masses = torch.tensor([0.75 / 12] * 12 + [0.25 / 4] * 4, dtype=torch.float64).numpy()
        left_out = [12 + replayed.index(p) if p in replayed else -1 for p in positions.tolist()]
        expected = numpy_energy(old[positions], patterns, 3.0, masses=masses, exclude=torch.tensor(left_out).numpy())
        later = second["probes"][0]
        torch.testing.assert_close(later["energy"], torch.from_numpy(expected), rtol=1e-5, atol=1e-6)
        assert torch.equal(later["energy_start"], own["energy"])
        assert torch.equal(later["energy_before"], own["energy"])
        assert later["stored"].tolist() == [p in replayed for p in positions.tolist()]
        assert second["replay_ratio"] == 0.25

    @NO_DENOISER
    def test_measuring_changes_no_weight_and_no_batch(self):
        alone, watched = Foreign(), Foreign()
        fit_tasks(trainer(), alone, [loader(0), loader(1)])
        fit_tasks(trainer(ForgettingMonitor()), watched, [loader(0), loader(1)])
        assert torch.equal(alone.layer.weight, watched.layer.weight)
        assert all(torch.equal(a["image"], b["image"]) for (_, a), (_, b) in zip(alone.seen, watched.seen, strict=True))

    def test_table(self):
        monitor = ForgettingMonitor(denoiser=Shrink())
        assert monitor.table() == "No task has ended yet."
        fit_tasks(trainer(monitor), Foreign(), [loader(0), loader(1)])
        lines = monitor.table().splitlines()
        assert [line.split()[:2] for line in lines[2:-2]] == [["0", "0"], ["1", "0"], ["1", "1"]]
        taken = "samples: batch['image'], 1x8x8 in [2.97e-05, 0.0999]; labels: batch['label']; condition: "
        assert lines[-1] == taken + "batch['label']"


class TestDenoiser:
    @pytest.mark.heavy
    def test_a_diffusers_network_is_found(self):
        pytest.importorskip("diffusers")
        monitor = ForgettingMonitor(probe_size=6)
        module = DDPM()
        fit_tasks(trainer(monitor), module, [loader(0), loader(1)])
        first, second = monitor.history
        assert first["timesteps"] == [100, 200, 300, 400, 500]
        start, later = first["probes"][0], second["probes"][0]
        assert start["error"].shape == (6, 5)
        assert torch.equal(later["error_start"], start["error"])
        assert not torch.equal(later["error"], start["error"])  # the network went on learning
        now = reconstruction_error(
            DiffusersDenoiser(module.network, module.noise_scheduler),
            Images(0).images[start["ids"]],
            [100, 200, 300, 400, 500],
            0,
            ids=start["ids"],
        )
        torch.testing.assert_close(later["error"], now, rtol=1e-4, atol=1e-6)
        assert torch.isfinite(later["error"]).all()

    def test_of_two_networks_the_one_that_is_trained_is_measured(self):
        pytest.importorskip("diffusers")
        module = DDPM()
        module.other = unet()
        monitor = ForgettingMonitor(probe_size=4)
        with pytest.warns(
            UserWarning, match=r"several denoising networks: .*network.*other.*inferred: network predicts"
        ):
            trainer(monitor).fit(module, loader())
        expected = DiffusersDenoiser(module.network, module.noise_scheduler)
        (probe,), images = monitor.history[0].probes, Images(0).images
        errors = reconstruction_error(expected, images[probe.ids], monitor.history[0].timesteps, 0, ids=probe.ids)
        torch.testing.assert_close(probe.error, errors, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("give", [lambda given: given, lambda given: lambda module: given])
    def test_given_as_an_object_or_a_function_of_the_module(self, give):
        monitor = ForgettingMonitor(denoiser=give(Shrink(0.0)), timesteps=(2, 7), probe_size=5)
        fit_tasks(trainer(monitor), Foreign(), [loader()])
        (probe,) = monitor.history[0]["probes"]
        images = Images(0).images[probe["ids"]].double()
        expected = images.square().mean((1, 2, 3))[:, None].expand(5, 2)  # it always answers zero
        torch.testing.assert_close(probe["error"], expected)

    def test_given_as_a_class_that_takes_the_module(self):
        class OfModule(Shrink):
            def __init__(self, module):
                super().__init__(0.0 if isinstance(module, Foreign) else 1.0)

        monitor = ForgettingMonitor(denoiser=OfModule, timesteps=(2,), probe_size=5)
        fit_tasks(trainer(monitor), Foreign(), [loader()])
        assert bool((monitor.history[0]["probes"][0]["error"] > 0).all())

    @pytest.mark.parametrize("denoiser", ["ddpm", 5])
    def test_no_denoiser_at_all(self, denoiser):
        with pytest.raises(TypeError, match=r"denoiser must have num_timesteps, .*got (str|int)"):
            ForgettingMonitor(denoiser=denoiser)

    @pytest.mark.heavy
    def test_the_averaged_weights_are_measured_when_averaging_is_listed_before(self):
        pytest.importorskip("diffusers")
        averaging, monitor, module = WeightAveraging(), ForgettingMonitor(probe_size=4), DDPM()
        fit_tasks(trainer(averaging, monitor), module, [loader(0), loader(1)])
        probe = monitor.history[1]["probes"][0]
        now = reconstruction_error(
            DiffusersDenoiser(module.network, module.noise_scheduler),
            Images(0).images[probe["ids"]], [100, 200, 300, 400, 500], 0, ids=probe["ids"],
        )  # fmt: skip
        torch.testing.assert_close(probe["error"], now, rtol=1e-4, atol=1e-6)


@NO_DENOISER
class TestProbeSource:
    @staticmethod
    def data(task, buffer, **settings):
        class Data(LightningDataModule):
            def train_dataloader(self):
                return loader(task)

            def val_dataloader(self):
                return loader(task + 10, n=3, batch_size=2)

        return ReplayDataModule(Data(), buffer, **settings)

    @pytest.mark.heavy
    @pytest.mark.parametrize(
        "settings",
        [{}, {"check_val_every_n_epoch": 5}, {"num_sanity_val_steps": 2}, {"fast_dev_run": 2}],
    )
    def test_probes_come_from_the_validation_data(self, settings):
        buffer = EnergyReplayBuffer(4)
        monitor = ForgettingMonitor(buffer, probe_source="val", beta=2.0)
        fit_tasks(trainer(monitor, **settings), WithValidation(), [self.data(task, buffer) for task in range(2)])
        probe = monitor.history[1]["probes"][0]
        seen = 2 if settings.get("fast_dev_run") else 3
        held_out = Images(10, 3).images[:seen].flatten(1).numpy()
        patterns = Images(0).images[: 8 if settings.get("fast_dev_run") else 12].flatten(1).numpy()
        expected = numpy_energy(held_out, patterns, 2.0)
        torch.testing.assert_close(probe["energy_start"], torch.from_numpy(expected), rtol=1e-5, atol=1e-6)
        assert not probe["stored"].any()

    @pytest.mark.parametrize("module", [Foreign, WithValidation])
    @pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")  # lightning
    def test_without_validation_data_it_says_so_before_training(self, module):
        runner = trainer(ForgettingMonitor(probe_source="val"))
        with pytest.raises(MisconfigurationException, match=r'needs a validation loader.*use probe_source="train"'):
            runner.fit(module(), loader())
        assert runner.global_step == 0

    def test_unknown(self):
        with pytest.raises(ValueError, match='"train" or "val", got \'test\''):
            ForgettingMonitor(probe_source="test")


@NO_DENOISER
class TestBadData:
    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_stops_before_a_step_is_trained(self, value):
        data = Images()
        data.images[7, 0, 3, 3] = value
        runner, module = trainer(ForgettingMonitor(EnergyReplayBuffer(3))), Foreign()
        with pytest.raises(ValueError, match=r"Task 0 holds NaN or infinite values .*positions \[7\]"):
            runner.fit(module, DataLoader(data, batch_size=4, shuffle=True))
        assert runner.global_step == 0
        assert module.seen == []

    def test_in_a_later_task_names_the_task_and_keeps_the_ledger(self):
        data, monitor = Images(1), ForgettingMonitor()
        data.images[2] = math.nan
        with pytest.raises(ValueError, match="Task 1 holds NaN"):
            fit_tasks(trainer(monitor), Foreign(), [loader(), DataLoader(data, batch_size=4)])
        assert len(monitor.history) == 1

    def test_without_a_floating_tensor(self):
        data = DataLoader(TensorDataset(torch.zeros(8, 1, 8, 8, dtype=torch.uint8), torch.zeros(8)), batch_size=4)
        with pytest.raises(ValueError, match=r"holds no floating tensor .*Convert images .*or pass an encoder"):
            trainer(ForgettingMonitor()).fit(Foreign(), data)

    def test_an_encoder_is_the_way_out(self):
        data = DataLoader(Images(dtype=torch.float32), batch_size=4)

        class Bytes(Foreign):
            def training_step(self, batch, batch_idx):
                return super().training_step({"image": batch["image"].float()}, batch_idx)

        monitor = ForgettingMonitor(encoder=lambda batch: batch["image"].flatten(1)[:, :3].float(), beta=1.0)
        trainer(monitor).fit(Bytes(), data)
        vectors = Images().images.flatten(1)[:, :3].numpy()
        expected = numpy_energy(vectors, vectors, 1.0, exclude=torch.arange(12).numpy())
        torch.testing.assert_close(monitor.history[0]["probes"][0]["energy"], torch.from_numpy(expected))

    @NO_BATCHES
    @pytest.mark.parametrize("replay", [False, True])
    @pytest.mark.parametrize(
        "make",
        [lambda: loader(n=0), lambda: loader(n=3, drop_last=True), lambda: DataLoader(TensorDataset(torch.zeros(0)))],
    )
    def test_a_loader_without_a_batch(self, make, replay):
        buffer = EnergyReplayBuffer(3)
        monitor = ForgettingMonitor(buffer)
        data = [ReplayDataModule(make(), buffer) if replay else make()]
        with pytest.raises(MisconfigurationException, match=r"task 0 yields no batch.*empty, or smaller.*drop_last"):
            fit_tasks(trainer(monitor), Foreign(), data)
        assert monitor.history == []

    @NO_BATCHES
    def test_a_later_loader_without_a_batch(self):
        with pytest.raises(MisconfigurationException, match="task 1 yields no batch"):
            fit_tasks(trainer(ForgettingMonitor()), Foreign(), [loader(), loader(n=2, drop_last=True)])

    def test_an_empty_stream(self):
        class Nothing(IterableDataset):
            def __iter__(self):
                return iter(())

        with pytest.raises(ValueError, match="Task 0 has no training samples: its data set is empty"):
            trainer(ForgettingMonitor()).fit(Foreign(), DataLoader(Nothing()))

    def test_smaller_than_a_batch_works(self):
        buffer = EnergyReplayBuffer(10)
        monitor = ForgettingMonitor(buffer, probe_size=100)
        fit_tasks(trainer(monitor), Foreign(), replaying(buffer, 2, n=6, batch_size=64))
        assert len(buffer) == 10
        assert len(monitor.history[1]["probes"][1]["ids"]) == 6

    def test_several_training_loaders(self):
        runner = trainer(ForgettingMonitor())
        with pytest.raises(MisconfigurationException, match="training loader of type dict; use one DataLoader"):
            runner.fit(Foreign(), {"a": loader(), "b": loader()})
        assert runner.global_step == 0

    def test_another_shape_in_a_later_task(self):
        buffer = EnergyReplayBuffer(3)
        small = DataLoader([{"image": torch.rand(1, 4, 4), "label": 1} for _ in range(8)], batch_size=4)
        data = [replaying(buffer, 1)[0], ReplayDataModule(small, buffer)]
        with pytest.raises(ValueError, match=r"Task 1 has samples of 16 numbers .* before have 64; all need one shape"):
            fit_tasks(trainer(ForgettingMonitor(buffer)), Foreign(), data)


@NO_DENOISER
class TestMisuse:
    def test_a_second_fit_without_fit_tasks_says_why_nothing_ran(self):
        runner, module = trainer(ForgettingMonitor()), Foreign()
        runner.fit(module, loader(0))
        with pytest.warns(UserWarning, match=r"trained nothing: .*max_epochs=2, max_steps=-1.*fit_tasks\("):
            runner.fit(module, loader(1))
        assert len(module.seen) == 6

    def test_a_finished_checkpoint_is_no_reason_to_warn(self, tmp_path):
        first = ForgettingMonitor()
        runner = trainer(first)
        fit_tasks(runner, Foreign(), [loader(0), loader(1)])
        runner.save_checkpoint(tmp_path / "two.ckpt")
        second, module = ForgettingMonitor(), Foreign()
        fit_tasks(trainer(second), module, [loader(task) for task in range(3)], ckpt_path=tmp_path / "two.ckpt")
        assert [record["task"] for record in second.history] == [0, 1, 2]
        assert [int(batch["label"][0]) for _, batch in module.seen] == [2] * 6

    def test_replay_from_a_buffer_that_is_not_filled(self):
        data = ReplayDataModule(loader(), filled("dict"))
        with pytest.warns(UserWarning, match=r"replay from one buffer, EnergyRep.*fills none.*give it to both"):
            trainer(ForgettingMonitor()).fit(Foreign(), data)

    def test_ddp_spawn(self):
        runner = trainer(strategy="ddp_spawn", devices=2)
        with pytest.raises(MisconfigurationException, match=r'ddp_spawn".*use strategy="ddp"'):
            ForgettingMonitor().setup(runner, Foreign(), "fit")

    def test_sharded_models(self, monkeypatch):
        runner = trainer()
        monkeypatch.setattr(type(runner), "strategy", FSDPStrategy())  # building such a trainer takes a GPU
        with pytest.raises(MisconfigurationException, match=r"FSDPStrategy cannot run the model outside.*such as ddp"):
            ForgettingMonitor().setup(runner, Foreign(), "fit")

    def test_other_stages_and_strategies_pass(self):
        ForgettingMonitor().setup(trainer(strategy="ddp_spawn", devices=2), Foreign(), "test")
        ForgettingMonitor().setup(trainer(strategy="ddp", devices=2), Foreign(), "fit")


@NO_DENOISER
def test_checkpoints_load_without_pickle(tmp_path):
    buffer = EnergyReplayBuffer(5)
    runner = trainer(ForgettingMonitor(buffer, denoiser=Shrink()))
    fit_tasks(runner, Foreign(), replaying(buffer))
    runner.save_checkpoint(tmp_path / "a.ckpt")
    state = torch.load(tmp_path / "a.ckpt", weights_only=True)
    saved = state["callbacks"]["ForgettingMonitor"]
    assert torch.equal(saved["buffer"]["kept"]["ids"], buffer.ids)
    assert len(saved["history"]) == 2


@NO_DENOISER
@pytest.mark.parametrize("settings", [{"fast_dev_run": True}, {"limit_train_batches": 1}, {"overfit_batches": 1}])
def test_quick_runs(settings):
    buffer = EnergyReplayBuffer(5)
    monitor, module = ForgettingMonitor(buffer), Foreign()
    fit_tasks(trainer(monitor, **settings), module, replaying(buffer))
    assert [record["task"] for record in monitor.history] == [0, 1]
    assert len(buffer) == 5


@pytest.mark.heavy
@NO_DENOISER
def test_workers():
    buffers = []
    for workers in (0, 1):
        buffer = EnergyReplayBuffer(5)
        fit_tasks(trainer(ForgettingMonitor(buffer), max_epochs=1), Foreign(), replaying(buffer, num_workers=workers))
        buffers.append(buffer)
    assert torch.equal(buffers[0].ids, buffers[1].ids)
    assert torch.equal(buffers[0].energies, buffers[1].energies)
