"""A Stable Diffusion pipeline small enough for one CPU core, and captioned handwritten digits to train it on."""

import json
import shutil
import string
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from torch.nn.functional import interpolate, mse_loss
from tqdm.auto import trange

from helpers.captioned import write_captioned
from helpers.splits import load

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TASKS = {"zero_to_four": (0, 1, 2, 3, 4), "five_to_nine_inverted": (5, 6, 7, 8, 9)}
_SIZE = 16
_TOKENS = 8  # "a handwritten three" has 3, and its start and end


def build_tiny(folder: Path, *, images: int = 300, vae_steps: int = 150) -> tuple[Path, list[Path]]:
    """Write a pipeline and the folders of its tasks; what is there already is left as it is.

    The first task's digits are white on black, the second task's black on white, with captions that do not say so: what
    the second task teaches of every caption contradicts the first. (Digits alone are too alike: without replay the
    error on the first five rises by 7 % while the others are learned; with it the model still improves on them.)

    The autoencoder is trained on the digits for a moment, so that latents and pictures mean something. The text encoder
    and the UNet are random, as is every weight that the tasks are to change.

    Args:
        folder: appears only when all is written.
        images: of each task.
        vae_steps: training steps of the autoencoder.

    Returns:
        The pipeline's folder, and the folder of each task.
    """
    if not folder.exists():
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        pictures, labels = load("digits", folder)
        pictures = interpolate(pictures, size=_SIZE, mode="bilinear").expand(-1, 3, -1, -1)
        for name, digits in TASKS.items():
            mine = torch.isin(labels, torch.tensor(digits)).nonzero().flatten()[:images]
            captions = [f"a handwritten {WORDS[label]}" for label in labels[mine].tolist()]
            shown = -pictures[mine] if name.endswith("inverted") else pictures[mine]
            write_captioned(partial / "tasks" / name, shown, captions)
        both = torch.cat([pictures, -pictures])
        _pipeline(both, vae_steps, partial / "tokenizer").save_pretrained(partial / "pipeline")
        shutil.rmtree(partial / "tokenizer")
        partial.replace(folder)
    return folder / "pipeline", [folder / "tasks" / name for name in TASKS]


def _pipeline(pictures: Tensor, vae_steps: int, vocabulary: Path) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer = _tokenizer(vocabulary)
        return StableDiffusionPipeline(
            vae=_autoencoder(pictures, vae_steps),
            text_encoder=_text_encoder(tokenizer),
            tokenizer=tokenizer,
            unet=UNet2DConditionModel(
                sample_size=_SIZE // 2,
                layers_per_block=1,
                block_out_channels=(32, 64),
                norm_num_groups=8,
                cross_attention_dim=32,
                attention_head_dim=4,
                down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            ),
            scheduler=DDPMScheduler(
                beta_schedule="scaled_linear",  # Stable Diffusion's schedule
                beta_start=0.00085,
                beta_end=0.012,
                steps_offset=1,
                clip_sample=False,
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


def _tokenizer(folder: Path) -> Any:
    """A CLIP tokenizer with one token for each word of the captions; any other word is spelled in letters."""
    from transformers import CLIPTokenizer

    letters = string.ascii_lowercase
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    merges = []
    for word in ("handwritten", *WORDS):
        parts = [*word[:-1], f"{word[-1]}</w>"]  # byte-pair merges from the left: t h, th r, thr e, thre e</w>
        for length in range(1, len(parts)):
            merges.append(f"{''.join(parts[:length])} {parts[length]}")
            tokens.append("".join(parts[: length + 1]))
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    return CLIPTokenizer.from_pretrained(str(folder), model_max_length=_TOKENS)


def _text_encoder(tokenizer: Any) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    torch.nn.init.normal_(encoder.get_input_embeddings().weight)  # so that words count for more than their places
    return encoder.eval()


def _autoencoder(pictures: Tensor, steps: int) -> Any:
    vae = AutoencoderKL(
        sample_size=_SIZE,
        block_out_channels=(16, 32),
        norm_num_groups=8,
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    optimizer = torch.optim.Adam(vae.parameters(), lr=2e-3)
    for _ in trange(steps, desc="Training the tiny autoencoder", leave=False, delay=1.0):
        batch = pictures[torch.randint(len(pictures), (16,))]
        posterior = vae.encode(batch).latent_dist
        loss = mse_loss(vae.decode(posterior.sample()).sample, batch) + 1e-4 * posterior.kl().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        spread = vae.encode(pictures).latent_dist.mode().std()
    vae.register_to_config(scaling_factor=1.0 / float(spread))  # latents of unit variance, as diffusion expects
    return vae.eval()
