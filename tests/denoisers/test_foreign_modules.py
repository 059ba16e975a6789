"""LightningModules as public training tutorials write them: found, measured and left alone without a word from them."""

import pytest
import torch
from torch import nn

from hopfield_replay.denoisers import find_denoiser
from hopfield_replay.encoders import split_batch
from hopfield_replay.functional.diffusion import reconstruction_error
from tests.denoisers.networks import images, unet

diffusers = pytest.importorskip("diffusers")
lightning = pytest.importorskip("lightning.pytorch")


class ButterflyTrainer(lightning.LightningModule):
    """Unconditional, with a moving average and separate schedulers for training and sampling."""

    def __init__(self):
        super().__init__()
        from diffusers.training_utils import EMAModel

        self.net = unet()
        self.ema = EMAModel(self.net.parameters(), decay=0.99)
        self.train_sched = diffusers.DDPMScheduler(num_train_timesteps=100, beta_schedule="squaredcos_cap_v2")
        self.sampler = diffusers.DDIMScheduler(num_train_timesteps=100, beta_schedule="squaredcos_cap_v2")
        self.criterion = nn.MSELoss()

    def training_step(self, batch, batch_idx):
        images, _ = batch
        noise = torch.randn_like(images)
        steps = torch.randint(0, 100, (len(images),))
        return self.criterion(self.net(self.train_sched.add_noise(images, noise, steps), steps).sample, noise)

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.ema.step(self.net.parameters())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.net.parameters(), lr=1e-3)


class DigitGenerator(lightning.LightningModule):
    """Class-conditional, batches are dicts, the network sits inside another module, the prediction is a velocity."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.ModuleDict({"denoise": unet(num_class_embeds=4), "head": nn.Identity()})
        self.noising = diffusers.DDPMScheduler(num_train_timesteps=100, prediction_type="v_prediction")

    def training_step(self, batch, batch_idx):
        clean, digits = batch["pixel_values"], batch["digit"]
        noise = torch.randn_like(clean)
        steps = torch.randint(0, 100, (len(clean),))
        guess = self.backbone["denoise"](self.noising.add_noise(clean, noise, steps), steps, class_labels=digits)[0]
        return nn.functional.mse_loss(guess, self.noising.get_velocity(clean, noise, steps))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


class Items(torch.utils.data.Dataset):
    def __init__(self, kind):
        self.kind = kind

    def __len__(self):
        return 6

    def __getitem__(self, index):
        image = images()[index]
        return (image, index % 4) if self.kind is ButterflyTrainer else {"digit": index % 4, "pixel_values": image}


@pytest.mark.heavy
@pytest.mark.parametrize("kind", [ButterflyTrainer, DigitGenerator])
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning", "ignore:.*does not have many workers")
def test_errors_before_and_after_training_differ_by_the_model_alone(kind, tmp_path):
    torch.manual_seed(0)
    module = kind()
    loader = torch.utils.data.DataLoader(Items(kind), batch_size=6)
    samples, condition = split_batch(next(iter(loader)))
    keys = set(module.state_dict())

    def measure(module):
        return reconstruction_error(find_denoiser(module), samples, [10, 50], 0, condition=condition)

    before = measure(module)
    assert torch.equal(measure(module), before)
    trainer = lightning.Trainer(
        max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, loader)
    after = measure(module)
    assert after.shape == (6, 2)
    assert bool((after != before).all())
    assert set(module.state_dict()) == keys
    if kind is ButterflyTrainer:
        average = find_denoiser(module, averaged=True)
        between = reconstruction_error(average, samples, [10, 50], 0, condition=condition)
        assert bool((between != after).all())


def test_a_conditional_module_without_its_condition():
    with pytest.raises(ValueError, match="needs class_labels"):
        reconstruction_error(find_denoiser(DigitGenerator()), images(), [10], 0)
