from functools import partial

import pytest
import torch

pytest.importorskip("diffusers")

from lightning.pytorch import Callback

from helpers.arms import TaskCheckpoints
from helpers.ddpm import DDPM
from helpers.splits import Split, be_quiet, shuffled, train_tasks
from hopfield_replay.checkpoints import load_module
from hopfield_replay.denoisers import DiffusersDenoiser, find_denoiser
from hopfield_replay.functional import reconstruction_error
from hopfield_replay.tracker.task_reader import sample_ids

SMALL = {"size": 8, "width": 8, "learning_rate": 1e-2}


@pytest.fixture(autouse=True)
def _quiet():
    be_quiet()


def tasks(count=2, size=60):
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(size, 1, 8, 8, generator=draw) * 2 - 1
    labels = torch.arange(size) % (2 * count)
    return [Split(images, labels, [2 * task, 2 * task + 1], 16, 8) for task in range(count)]


def train(splits, make_model, **settings):
    settings = {"capacity": 6, "replay_ratio": 0.5, "epochs": 1, "seed": 0, "accelerator": "cpu"} | settings
    return train_tasks("random", splits, make_model, **settings)


def errors(model, split, task, probe, labels):
    """Errors of the probes, measured once more without the monitor."""
    at = probe["ids"] - sample_ids(task, torch.zeros(1), held_out=True)
    return reconstruction_error(
        DiffusersDenoiser(model.network, model.scheduler),
        split.held_out.tensors[0][at],
        [100, 200, 300, 400, 500],
        0,
        ids=probe["ids"],
        condition=labels[at],
    )


class Watch(Callback):
    """Notes one weight, the learning rate and the network's precision at every step; a list for each fit."""

    def __init__(self):
        self.weights, self.rates, self.types = [], [], set()

    def on_train_start(self, trainer, pl_module):
        self.weights.append([])
        self.rates.append([])
        self.hook = pl_module.network.conv_in.register_forward_hook(lambda *seen: self.types.add(seen[2].dtype))

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.rates[-1].append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.weights[-1].append(pl_module.network.conv_out.weight.detach().clone())

    def on_train_end(self, trainer, pl_module):
        self.hook.remove()


@pytest.mark.heavy
def test_the_average_of_the_weights_is_what_is_measured_and_saved(tmp_path):
    splits, watch = tasks(), Watch()
    callbacks = [watch, TaskCheckpoints(tmp_path)]
    model, monitor = train(splits, partial(DDPM, **SMALL), epochs=2, ema_decay=0.7, callbacks=callbacks)
    assert [len(steps) for steps in watch.weights] == [4, 4]
    average = watch.weights[1][0]
    for weight in watch.weights[1][1:]:
        average = 0.7 * average + 0.3 * weight
    torch.testing.assert_close(model.network.conv_out.weight.detach(), average)
    assert not torch.allclose(average, watch.weights[1][-1], rtol=1e-3)
    probe = monitor.history[1]["probes"][0]
    labels = splits[0].held_out.tensors[1]
    torch.testing.assert_close(probe["error"], errors(model, splits[0], 0, probe, labels), rtol=1e-4, atol=1e-6)
    first, second = (load_module(tmp_path / f"task{task}.ckpt", DDPM).module for task in (0, 1))  # no arguments needed
    torch.testing.assert_close(probe["error_start"], errors(first, splits[0], 0, probe, labels), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(second.state_dict(), model.state_dict())


@pytest.mark.heavy
@pytest.mark.parametrize("network", ["unet", "mlp", "dit"])
def test_the_class_conditional_model_is_found_and_measured_with_its_labels(network):
    splits = tasks()
    settings = SMALL | {"width": 16, "layers": 2} if network == "dit" else SMALL
    model, monitor = train(splits, partial(DDPM, **settings, classes=4, network=network), epochs=3)
    assert find_denoiser(model).model is model.network
    probe = monitor.history[1]["probes"][0]
    labels = splits[0].held_out.tensors[1]
    measured = partial(torch.allclose, probe["error"], rtol=1e-4, atol=1e-6)
    assert measured(errors(model, splits[0], 0, probe, labels))
    assert not measured(errors(model, splits[0], 0, probe, 1 - labels))  # the other class of that task


def test_the_classes_condition_samples():
    torch.manual_seed(0)
    model = DDPM(**SMALL, classes=4).eval()
    labels = torch.tensor([0, 3])
    found = model.sample(2, labels, steps=2)
    assert found.shape == (2, 1, 8, 8)
    assert torch.equal(found, model.sample(2, labels, steps=2))
    assert not torch.equal(found, model.sample(2, labels.flip(0), steps=2))
    with pytest.raises(ValueError, match="one label for each of the 2 images, got none"):
        model.sample(2)
    with pytest.raises(ValueError, match=r"the 2 images, got labels of shape \(3,\)"):
        model.sample(2, torch.zeros(3, dtype=torch.int64))
    plain = DDPM(**SMALL).eval()
    assert torch.equal(plain.sample(2, steps=2), plain.sample(2, labels, steps=2))


@pytest.mark.heavy
@pytest.mark.parametrize("network", ["unet", "mlp", "dit"])
def test_samples_are_drawn_on_the_device_of_the_weights(network):
    model = DDPM(8, width=16, network=network, classes=4).to("meta").eval()  # refuses tensors of the CPU, as a GPU does
    assert model.sample(2, torch.tensor([0, 3]), steps=2).device.type == "meta"


@pytest.mark.heavy
def test_the_mlp_learns_to_denoise():
    torch.manual_seed(0)
    model = DDPM(4, width=64, network="mlp")
    image = torch.rand(1, 1, 4, 4).expand(64, -1, -1, -1) * 2 - 1  # of one image only: then the noise is known
    labels = torch.zeros(64, dtype=torch.int64)
    assert model.loss(image, labels).item() == pytest.approx(1.0, abs=0.15)  # a prediction of zero
    optimizer = model.configure_optimizers()
    for _ in range(300):
        optimizer.zero_grad()
        model.loss(image, labels).backward()
        optimizer.step()
    assert sum(model.loss(image, labels).item() for _ in range(10)) / 10 < 0.1
    assert (model.sample(64) - image).abs().mean() < 0.15
    assert (torch.rand_like(image) * 2 - 1 - image).abs().mean() > 0.5  # by chance


def test_an_unknown_network():
    with pytest.raises(ValueError, match=r"unet.*mlp.*dit.*transformer"):
        DDPM(8, network="transformer")


def test_a_dit_has_heads_of_sixteen_and_needs_classes():
    model = DDPM(8, width=48, network="dit", layers=3, classes=10).eval()
    assert len(model.network.transformer_blocks) == 3
    assert model.network.transformer_blocks[0].attn1.heads == 3
    assert model.sample(2, torch.tensor([0, 9]), steps=2).shape == (2, 1, 8, 8)
    with pytest.raises(ValueError, match=r'network="dit" is class-conditional: pass the number of classes'):
        DDPM(8, width=48, network="dit")


def test_schedules_are_those_of_the_papers():
    t = torch.arange(1000, dtype=torch.float64)
    linear = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    torch.testing.assert_close(DDPM(**SMALL).scheduler.alphas_cumprod.double(), linear, rtol=1e-3, atol=1e-6)

    def curve(u):
        return torch.cos((u + 0.008) / 1.008 * torch.pi / 2) ** 2

    found = DDPM(**SMALL, schedule="cosine").scheduler.alphas_cumprod.double()
    expected = (curve((t + 1) / 1000) / curve(torch.zeros(()).double()))[:-1]  # the last step is clipped
    torch.testing.assert_close(found[:-1], expected, rtol=1e-3, atol=1e-6)
    with pytest.raises(ValueError, match=r"schedule must be one of \['linear', 'cosine'\], got 'sine'"):
        DDPM(**SMALL, schedule="sine")


@pytest.mark.heavy
def test_every_task_warms_up():
    watch = Watch()
    train(tasks(), partial(DDPM, **SMALL, warmup=4), epochs=3, callbacks=[watch])
    assert watch.rates == [pytest.approx([2.5e-3, 5e-3, 7.5e-3, 1e-2, 1e-2, 1e-2])] * 2


@pytest.mark.heavy
@pytest.mark.parametrize(("precision", "expected"), [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)])
def test_precision_is_the_trainers(precision, expected):
    watch = Watch()
    model, monitor = train(tasks(), partial(DDPM, **SMALL), precision=precision, ema_decay=0.9, callbacks=[watch])
    assert expected in watch.types
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert monitor.history[1]["probes"][0]["error"].isfinite().all()


def test_levels_and_attention():
    unet = DDPM(8, 3, 8, levels=(1, 2, 2), attention=1, layers=2).network
    assert [type(block).__name__ for block in unet.down_blocks] == ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"]
    assert [type(block).__name__ for block in unet.up_blocks] == ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"]
    assert tuple(unet.config.block_out_channels) == (8, 16, 16)
    assert unet(torch.zeros(1, 3, 8, 8), 0).sample.shape == (1, 3, 8, 8)


def test_held_out_images_come_from_the_test_set_if_there_is_one():
    images, labels = torch.zeros(40, 1, 8, 8), torch.arange(40) % 4
    test = torch.ones(20, 1, 8, 8), torch.arange(20) % 4
    split = Split(images, labels, [1, 2], 100, 8, test=test)
    assert [len(split.train), len(split.held_out)] == [20, 10]
    assert split.train.tensors[0].eq(0).all()
    assert split.held_out.tensors[0].eq(1).all()
    assert set(split.held_out.tensors[1].tolist()) == {1, 2}
    alone = Split(images, labels, [1, 2], 100, 8)
    assert [len(alone.train), len(alone.held_out)] == [16, 4]
    where = shuffled(labels, [1, 2], 0)
    assert sorted(where.tolist()) == [at for at in range(40) if at % 4 in (1, 2)]
