import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from hopfield_replay.denoisers import DiffusersDenoiser, find_denoiser
from tests.denoisers.networks import text_unet, unet

diffusers = pytest.importorskip("diffusers")


class Holder(nn.Module):
    def __init__(self, **attributes):
        super().__init__()
        for name, value in attributes.items():
            setattr(self, name, value)


def test_found_by_what_they_are():
    network, scheduler = unet(), diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    found = find_denoiser(Holder(backbone=Holder(thing=network), beta=scheduler, head=nn.Linear(2, 2)))
    assert isinstance(found, DiffusersDenoiser)
    assert found.model is network
    assert found.snr(500) == DiffusersDenoiser(network, scheduler).snr(500)


def test_nothing_to_find():
    assert find_denoiser(nn.Linear(2, 2)) is None
    assert find_denoiser(Holder(net=unet())) is None
    assert find_denoiser(Holder(scheduler=diffusers.DDPMScheduler())) is None


def test_one_network_under_two_names_and_a_sampling_scheduler():
    network = text_unet()
    training, sampling = diffusers.DDPMScheduler(), diffusers.DDIMScheduler()
    found = find_denoiser(Holder(a=network, b=Holder(c=network), train_noise=training, sampler=sampling))
    assert found.model is network


def test_in_a_pipeline():
    network = unet()
    pipeline = diffusers.DDPMPipeline(network, diffusers.DDPMScheduler())
    assert find_denoiser(Holder(pipeline=pipeline)).model is network


def test_the_trained_network_is_preferred_to_its_average_and_to_a_teacher():
    network, scheduler = unet(), diffusers.DDPMScheduler()
    averaged = AveragedModel(network)
    teacher = copy.deepcopy(network).requires_grad_(False)
    assert find_denoiser(Holder(ema=averaged, teacher=teacher, net=network, s=scheduler)).model is network
    assert find_denoiser(Holder(ema=averaged, s=scheduler)).model is averaged.module


def test_two_networks_are_ambiguous():
    holder = Holder(first=unet(), second=unet(), scheduler=diffusers.DDPMScheduler())
    with pytest.raises(ValueError, match=r"first \(UNet2DModel\), second \(UNet2DModel\)"):
        find_denoiser(holder)


def test_schedulers_that_disagree_are_ambiguous():
    holder = Holder(net=unet(), a=diffusers.DDPMScheduler(), b=diffusers.DDPMScheduler(prediction_type="sample"))
    with pytest.raises(ValueError, match=r"a \(DDPMScheduler\), b \(DDPMScheduler\)"):
        find_denoiser(holder)


def test_own_denoiser_comes_first():
    own = DiffusersDenoiser(unet(), diffusers.DDPMScheduler())
    assert find_denoiser(Holder(my=own, net=unet(), s=diffusers.DDPMScheduler())) is own

    class Itself(nn.Module):
        num_timesteps = 10

        def noise(self, clean, timestep, noise):
            return clean

        def predict_clean(self, noisy, timestep, condition=None):
            return noisy

        def snr(self, timestep):
            return 1.0

    module = Itself()
    assert find_denoiser(module) is module


def test_controlnets_and_autoencoders_are_no_denoisers():
    vae = diffusers.AutoencoderKL(norm_num_groups=2, block_out_channels=(4,))
    holder = Holder(vae=vae, net=text_unet(), s=diffusers.DDPMScheduler(), z=torch.nn.Identity())
    assert find_denoiser(holder).model is holder.net


def test_the_average_on_request():
    from diffusers.training_utils import EMAModel

    network, scheduler = unet(), diffusers.DDPMScheduler()
    averaged, frozen = AveragedModel(network), copy.deepcopy(network).requires_grad_(False)
    shadow = EMAModel(network.parameters())
    assert find_denoiser(Holder(net=network, e=averaged, s=scheduler), averaged=True).model is averaged.module
    assert find_denoiser(Holder(e=averaged, s=scheduler), averaged=True).model is averaged.module
    assert find_denoiser(Holder(net=network, e=frozen, s=scheduler), averaged=True).model is frozen
    found = find_denoiser(Holder(net=network, e=shadow, s=scheduler), averaged=True)
    assert (found.model, found.average) == (network, shadow)
    with pytest.raises(ValueError, match="no average"):
        find_denoiser(Holder(net=network, s=scheduler), averaged=True)
    with pytest.raises(ValueError, match="several averages"):
        find_denoiser(Holder(net=network, a=averaged, b=shadow, s=scheduler), averaged=True)
