"""The denoiser that is found on a strategy's model."""

import warnings
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule

pytest.importorskip("avalanche")
pytest.importorskip("diffusers")

import diffusers

from hopfield_replay.avalanche.labelled_denoiser import strategy_denoiser
from hopfield_replay.denoisers import DiffusersDenoiser


class Module(LightningModule):
    def __init__(self, says=False):
        super().__init__()
        self.unet = diffusers.UNet2DModel(
            4, 1, 1, block_out_channels=(4, 8), norm_num_groups=2, layers_per_block=1,
            down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
        )  # fmt: skip
        self.scheduler = diffusers.DDPMScheduler()
        if says:
            self.denoiser = DiffusersDenoiser(self.unet, self.scheduler)


def test_a_guess_is_told_and_what_a_module_says_is_none():
    with pytest.warns(UserWarning, match=r"scheduler of Module were found, and not held against its training_step"):
        found = strategy_denoiser(SimpleNamespace(model=Module()))
    assert found.predict_clean(torch.zeros(1, 1, 4, 4), 10, None).shape == (1, 1, 4, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        strategy_denoiser(SimpleNamespace(model=Module(says=True)))
        strategy_denoiser(SimpleNamespace(model=torch.nn.Linear(1, 1)))
        other = Module()
        strategy_denoiser(SimpleNamespace(model=other, denoiser=DiffusersDenoiser(other.unet, other.scheduler)))
