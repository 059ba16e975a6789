"""Diffusion models and LightningModules under Avalanche."""

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import DataLoader

from tests.avalanche.streams import KINDS, QUIET, benchmark, data, model, silent

from avalanche.evaluation.metrics import loss_metrics  # isort: skip
from avalanche.training.plugins import EWCPlugin, LwFPlugin, MASPlugin
from avalanche.training.supervised import Naive

diffusers = pytest.importorskip("diffusers", reason="needs diffusers")

from hopfield_replay.avalanche import (  # noqa: E402
    Denoiser,
    DiffusionTraining,
    EnergyReplayPlugin,
    IntrinsicForgetting,
    LightningModuleTraining,
    ReconstructionForgetting,
    denoising_loss,
)

pytestmark = QUIET


def unet(**settings):
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        8, 1, 1, block_out_channels=(4, 8), norm_num_groups=2, layers_per_block=1,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, **settings,
    )  # fmt: skip


def diffusion(network, *plugins, scheduler=None, metrics=(), **settings):
    return DiffusionTraining(
        model=network,
        scheduler=diffusers.DDPMScheduler() if scheduler is None else scheduler,
        optimizer=torch.optim.Adam(network.parameters(), lr=3e-3),
        plugins=list(plugins),
        evaluator=silent(loss_metrics(experience=True), *metrics),
        **{"train_mb_size": 20, "eval_mb_size": 20, **settings},
    )


@pytest.mark.heavy
@pytest.mark.parametrize("kind", KINDS)
def test_diffusion_training_learns_and_measures_its_forgetting(kind):
    made = benchmark(kind, *data(), experiences=2)
    plugin = EnergyReplayPlugin(12)
    strategy = diffusion(
        unet(), plugin, metrics=[IntrinsicForgetting(), ReconstructionForgetting(timesteps=[300])], train_epochs=15
    )
    before = strategy.eval(made.test_stream)
    results = []
    for experience in made.train_stream:
        strategy.train(experience)
        results.append(strategy.eval(made.test_stream))
    losses = {name: value for name, value in before.items() if name.startswith("Loss_Exp")}
    assert len(losses) == 2
    assert all(results[-1][name] < 0.7 * value for name, value in losses.items())
    names = [name for name in results[-1] if name.startswith("ExperienceForgetting/ReconstructionForgetting")]
    assert len(names) == 2
    assert len(plugin.storage_policy) == 12


@pytest.mark.heavy
def test_the_noise_belongs_to_a_sample_and_not_to_its_minibatch():
    made = benchmark("task-free", *data(), experiences=2)
    levels = []
    for size in (7, 60):
        metric = ReconstructionForgetting(timesteps=[300])
        strategy = diffusion(unet(), metrics=[metric], eval_mb_size=size, train_epochs=0)
        strategy.train(made.train_stream[0])
        strategy.eval(made.test_stream)
        levels += metric._start.values()
    assert levels[0] == pytest.approx(levels[1], rel=1e-5)


def test_evaluation_draws_the_same_noise_every_time():
    made = benchmark("task-free", *data(), experiences=2)
    strategy = diffusion(unet())
    first = strategy.eval(made.test_stream)
    assert strategy.eval(made.test_stream) == first


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_the_network_learns_what_its_scheduler_says(prediction_type):
    """The loss of a network that always says 0 is the mean square of the target, worked out by hand."""

    class Zero(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))
            self.seen = []

        def forward(self, sample, timestep, return_dict=True):
            self.seen.append((sample.clone(), timestep.clone()))
            return (sample * self.weight,)

    images, labels = data(24)
    made = benchmark("task-free", images, labels, experiences=1)
    scheduler = diffusers.DDPMScheduler(prediction_type=prediction_type)
    network = Zero()
    found = diffusion(network, scheduler=scheduler, eval_mb_size=24).eval(made.test_stream)
    ((noisy, timesteps),) = network.seen
    clean = torch.stack([made.test_stream[0].dataset[i][0] for i in range(24)])
    a = scheduler.alphas_cumprod[timesteps].view(-1, 1, 1, 1).double()
    noise = (noisy - a.sqrt() * clean) / (1 - a).sqrt()
    target = {"epsilon": noise, "sample": clean, "v_prediction": a.sqrt() * noise - (1 - a).sqrt() * clean}
    assert len(timesteps.unique()) > 12
    (loss,) = [value for name, value in found.items() if name.startswith("Loss_Exp")]
    assert loss == pytest.approx(float((target[prediction_type] ** 2).mean()), rel=1e-4)


@pytest.mark.heavy
@pytest.mark.parametrize("kind", KINDS)
def test_class_conditional_networks_get_the_targets(kind):
    seen = []
    network = unet(num_class_embeds=6)
    network.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs["class_labels"]), with_kwargs=True)
    made = benchmark(kind, *data(), experiences=2)
    strategy = diffusion(network, EnergyReplayPlugin(12), metrics=[ReconstructionForgetting(timesteps=[100])])
    for experience in made.train_stream:
        strategy.train(experience)
    assert set(torch.cat(seen).tolist()) == set(range(6))
    assert any("Reconstruction" in name for name in strategy.eval(made.test_stream))


def test_schedulers_without_noise_levels_are_refused():
    with pytest.raises(ValueError, match=r"FlowMatchEulerDiscreteScheduler.*cannot be trained with"):
        diffusion(unet(), scheduler=diffusers.FlowMatchEulerDiscreteScheduler())
    with pytest.raises(ValueError, match="cannot be trained with"):
        Denoiser(unet(), object())


def second_step(*plugins) -> float:
    """How far the weights of a Denoiser move in the second of two experiences, under Naive with replay."""
    network = Denoiser(unet(), diffusers.DDPMScheduler())
    strategy = Naive(
        model=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=1e-2),
        criterion=denoising_loss,
        train_mb_size=20,
        train_epochs=2,
        eval_mb_size=60,
        plugins=[EnergyReplayPlugin(12), *plugins],
        evaluator=silent(ReconstructionForgetting(timesteps=[300])),
    )
    made = benchmark("task-free", *data(), experiences=2)
    torch.manual_seed(1)
    for experience in made.train_stream:
        before = torch.cat([p.detach().flatten() for p in network.parameters()])
        strategy.train(experience)
        found = strategy.eval(made.test_stream)
    assert len([name for name in found if "ReconstructionForgetting" in name]) == 3
    return float((torch.cat([p.detach().flatten() for p in network.parameters()]) - before).norm())


@pytest.mark.heavy
@pytest.mark.parametrize("plugin", [EWCPlugin(100.0), MASPlugin(100.0)], ids=["ewc", "mas"])
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")  # upstream's regularisation plugins, of themselves
def test_denoiser_under_naive_with_a_regularisation_that_holds_its_weights(plugin, capsys):
    assert 0 < second_step(plugin) < 0.97 * second_step()


@pytest.mark.heavy
def test_denoiser_is_a_denoiser_with_the_losses_of_diffusion_training():
    made = benchmark("task-free", *data(), experiences=1)
    weights = []
    for form in ("strategy", "module"):
        network = unet()
        torch.manual_seed(2)
        if form == "strategy":
            strategy = diffusion(network, train_epochs=2)
        else:
            strategy = Naive(
                model=Denoiser(network, diffusers.DDPMScheduler()),
                optimizer=torch.optim.Adam(network.parameters(), lr=3e-3),
                criterion=denoising_loss,
                train_mb_size=20,
                train_epochs=2,
                evaluator=silent(),
            )
        strategy.train(made.train_stream[0])
        weights.append(torch.cat([p.detach().flatten() for p in network.parameters()]))
    assert weights[0].allclose(weights[1], atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")  # upstream's LwF, of itself
def test_lwf_composes_with_replay_on_a_classifier():
    network = model()
    strategy = Naive(
        model=network, optimizer=torch.optim.SGD(network.parameters(), lr=0.05), train_mb_size=8,
        plugins=[LwFPlugin(), EnergyReplayPlugin(12)], evaluator=silent(),
    )  # fmt: skip
    for experience in benchmark("task-free", *data()).train_stream:
        strategy.train(experience)


class Module(LightningModule):
    """Logs, schedules its learning rate, optimises one of its two layers."""

    def __init__(self, interval: str = "epoch") -> None:
        super().__init__()
        self.net = model()
        self.frozen = nn.Linear(2, 2)
        self.interval = interval

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = nn.functional.cross_entropy(self.net(x), y)
        self.log("loss", loss, prog_bar=True)
        self.log_dict({"twice": 2 * loss})
        return {"loss": loss * (1 + 0.1 * batch_idx)}

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.net.parameters(), lr=0.01)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": self.interval}}


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning")  # data in memory needs none
@pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning")  # nor any log
@pytest.mark.parametrize("interval", ["epoch", "step"])
def test_a_lightning_module_ends_with_the_weights_that_lightning_gives_it(interval):
    experience = benchmark("class-incremental", *data(), experiences=1).train_stream[0]
    torch.manual_seed(0)
    ours, theirs = Module(interval), Module(interval)
    theirs.load_state_dict(ours.state_dict())
    strategy = LightningModuleTraining(model=ours, train_mb_size=16, train_epochs=3, evaluator=silent())
    strategy.train(experience, shuffle=False)
    Trainer(
        max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(theirs, DataLoader(experience.dataset, batch_size=16))  # fmt: skip
    for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        assert a.equal(b)
    assert strategy.logged["twice"] == 2 * strategy.logged["loss"]
    assert "log" not in vars(ours)


@pytest.mark.heavy
def test_a_lightning_module_with_replay_and_losses_per_experience():
    made = benchmark("task-aware", *data())
    plugin = EnergyReplayPlugin(12)
    strategy = LightningModuleTraining(
        model=Module(), train_mb_size=8, train_epochs=3, plugins=[plugin],
        evaluator=silent(loss_metrics(experience=True), IntrinsicForgetting()),
    )  # fmt: skip
    for experience in made.train_stream:
        strategy.train(experience)
        found = strategy.eval(made.test_stream)
    assert len([name for name in found if name.startswith("Loss_Exp")]) == 3
    assert plugin.share == 0.5


def test_a_batch_of_another_form():
    seen = []

    class Dictionary(Module):
        def training_step(self, batch, batch_idx):
            seen.append(set(batch))
            return super().training_step((batch["image"], batch["label"]), batch_idx)

    strategy = LightningModuleTraining(
        model=Dictionary(), to_batch=lambda mb: {"image": mb[0], "label": mb[1]}, train_mb_size=40, evaluator=silent()
    )
    strategy.train(benchmark("task-free", *data()).train_stream[0])
    assert seen == [{"image", "label"}]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"automatic_optimization": False}, "optimises by itself"),
        ({"configure_optimizers": lambda: None}, "must give one optimizer"),
        ({"configure_optimizers": lambda: [1, 2]}, "must give one optimizer"),
    ],
)
def test_modules_that_need_a_trainer_are_refused(change, message):
    module = Module()
    for name, value in change.items():
        setattr(module, name, value)
    with pytest.raises(MisconfigurationException, match=message):
        LightningModuleTraining(model=module, evaluator=silent())


def test_schedulers_that_need_a_value_and_steps_without_loss_are_refused():
    class Plateau(Module):
        def configure_optimizers(self):
            optimizer = torch.optim.Adam(self.parameters())
            return [optimizer], [torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)]

    class Silent(Module):
        def training_step(self, batch, batch_idx):
            return None

    with pytest.raises(MisconfigurationException, match="ReduceLROnPlateau"):
        LightningModuleTraining(model=Plateau(), evaluator=silent())
    strategy = LightningModuleTraining(model=Silent(), train_mb_size=8, evaluator=silent())
    with pytest.raises(MisconfigurationException, match="must return a loss"):
        strategy.train(benchmark("task-free", *data()).train_stream[0])
    with pytest.raises(TypeError, match="must be a LightningModule"):
        LightningModuleTraining(model=model(), evaluator=silent())
