"""The recipes for diffusers' training scripts, in loops that do what these do, and their lines counted."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from hopfield_replay.functional._paired_noise import paired_noise
from tests.denoisers.networks import text_unet, unet

diffusers = pytest.importorskip("diffusers")
pytestmark = [pytest.mark.foreign, pytest.mark.slow]

TEXT = (Path(__file__).parents[2] / "examples" / "recipes.md").read_text()
HERE = "# ... training ..."


def recipe(word):
    """The page's block with this word, and how many lines the table says that it takes."""
    (block,) = (
        body for body in re.findall(r"^```python\n(.*?)^```$", TEXT, re.M | re.S) if word in body and HERE in body
    )
    return block, sum(bool(line.strip()) for line in block.replace(HERE, "").splitlines())


def lines_in_the_table(script):
    (row,) = (line for line in TEXT.splitlines() if line.startswith("|") and f"`{script}`" in line)
    return int(re.match(r"\d+", row.split("|")[2].strip())[0])


def run(block, names):
    before, after = block.split(HERE)
    exec(before, names)
    names["train"]()
    exec(after, names)
    return names["tracker"].history[0]


@pytest.mark.parametrize("prediction", ["epsilon", "sample"])
def test_train_unconditional(prediction):
    block, lines = recipe("watch_step(")
    assert lines == lines_in_the_table("train_unconditional.py") == 6
    torch.manual_seed(0)
    model, noise_scheduler = unet(), diffusers.DDPMScheduler(num_train_timesteps=100, prediction_type=prediction)
    images = torch.rand(12, 1, 8, 8) * 2 - 1
    loader = DataLoader([{"input": image} for image in images], batch_size=4)

    def loss_of(batch):  # the body of the script's loop
        clean_images = batch["input"]
        noise = torch.randn(clean_images.shape, device=clean_images.device)
        timesteps = torch.randint(0, noise_scheduler.config.num_train_timesteps, (len(clean_images),)).long()
        noisy_images = noise_scheduler.add_noise(clean_images, noise, timesteps)
        model_output = model(noisy_images, timesteps).sample
        if prediction == "epsilon":
            return F.mse_loss(model_output.float(), noise.float())
        alpha_t = noise_scheduler.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        return (
            alpha_t / (1 - alpha_t) * F.mse_loss(model_output.float(), clean_images.float(), reduction="none")
        ).mean()

    def train():
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
        for batch in loader:
            loss_of(batch).backward()
            optimizer.step()
            optimizer.zero_grad()

    names = {"model": model, "loaders": [loader], "loss_of": loss_of, "train": train}
    record = run(block, names)
    assert str(names["trust"]).startswith(f"inferred: the module itself predicts {prediction}")
    (probe,) = record.probes
    x = images[probe.ids]
    for column, t in enumerate(record.timesteps):
        noise, at = paired_noise(x, probe.ids.tolist(), t, 0), torch.full((len(x),), int(t))
        noisy = noise_scheduler.add_noise(x, noise, at)
        with torch.no_grad():
            output = model.eval()(noisy, at).sample
        bar = float(noise_scheduler.alphas_cumprod[int(t)])
        guess = output if prediction == "sample" else (noisy - (1 - bar) ** 0.5 * output) / bar**0.5
        expected = (guess.double() - x.double()).square().flatten(1).mean(1)
        torch.testing.assert_close(probe.error[:, column], expected, rtol=1e-3, atol=1e-6)


def test_train_text_to_image():
    block, lines = recipe("DiffusersDenoiser(unet, noise_scheduler)")
    assert lines == lines_in_the_table("train_text_to_image.py") == 8
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(block_out_channels=(4,), norm_num_groups=2, latent_channels=2)
    network, noise_scheduler = text_unet(in_channels=2, out_channels=2), diffusers.DDPMScheduler()
    table = torch.nn.Embedding(9, 12).requires_grad_(False)
    pictures = [{"pixel_values": torch.rand(3, 8, 8) * 2 - 1, "input_ids": torch.arange(3) + i % 5} for i in range(8)]
    names = {
        "vae": vae, "unet": network, "noise_scheduler": noise_scheduler, "train": lambda: None,
        "text_encoder": lambda ids: (table(ids),), "train_dataloader": DataLoader(pictures, batch_size=4),
    }  # fmt: skip
    record = run(block, names)
    (probe,) = record.probes
    x = torch.stack([pictures[i]["pixel_values"] for i in probe.ids])
    hidden = table(torch.stack([pictures[i]["input_ids"] for i in probe.ids]))
    with torch.no_grad():
        z = vae.encode(x).latent_dist.mode() * vae.config.scaling_factor
        for column, t in enumerate(record.timesteps):
            noise, at = paired_noise(z, probe.ids.tolist(), t, 0), torch.full((len(x),), int(t))
            noisy = noise_scheduler.add_noise(z, noise, at)
            output = network.eval()(noisy, at, hidden).sample
            bar = float(noise_scheduler.alphas_cumprod[int(t)])
            guess = (noisy - (1 - bar) ** 0.5 * output) / bar**0.5
            expected = (guess.double() - z.double()).square().flatten(1).mean(1)
            torch.testing.assert_close(probe.error[:, column], expected, rtol=1e-3, atol=1e-6)
