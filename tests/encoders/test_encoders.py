from collections import OrderedDict

import pytest
import torch
from torch import nn

from hopfield_replay.encoders import LatentEncoder, ModuleEncoder, as_encoder, pixels, split_batch

IMAGES, LABELS, TEXT, WEIGHTS = torch.randn(4, 3, 8, 8), torch.arange(4), torch.randn(4, 5, 2), torch.rand(4)


@pytest.mark.parametrize(
    ("batch", "rest"),
    [
        (IMAGES, None),
        ((IMAGES, LABELS), [LABELS]),
        ([IMAGES], None),
        ((LABELS, IMAGES, TEXT), [LABELS, TEXT]),
        ({"y": LABELS, "pixel_values": IMAGES}, {"y": LABELS}),
        ({"x": IMAGES}, None),
        (OrderedDict(idx=LABELS, x=(IMAGES, TEXT)), {"idx": LABELS, "x": [TEXT]}),
        ((WEIGHTS, IMAGES), [WEIGHTS]),
        ((["a", "b", "c", "d"], IMAGES), [["a", "b", "c", "d"]]),
    ],
)
def test_samples_are_the_first_floating_tensor_and_the_rest_is_the_condition(batch, rest):
    samples, condition = split_batch(batch)
    assert samples is IMAGES
    assert repr(condition) == repr(rest)


@pytest.mark.parametrize("batch", [LABELS, (LABELS, LABELS), {}, "text", None, (IMAGES.to(torch.uint8), LABELS)])
def test_batches_without_floating_samples(batch):
    with pytest.raises(ValueError, match="no floating tensor"):
        split_batch(batch)


def test_pixels_are_flattened():
    assert torch.equal(pixels((LABELS, IMAGES)), IMAGES.reshape(4, -1))
    assert as_encoder(None) is pixels


def test_a_module_is_applied_in_chunks_in_eval_mode_without_gradients():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5)).train()
    expected = module.eval()(IMAGES).detach().flatten(1)
    module.train()
    state = {key: value.clone() for key, value in module.state_dict().items()}
    encoder = ModuleEncoder(module, chunk_size=3)
    vectors = encoder({"x": IMAGES})
    torch.testing.assert_close(vectors, expected)
    assert encoder.features(IMAGES).shape == (4, 2, 6, 6)
    assert not vectors.requires_grad
    assert module.training
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())


def test_precision_and_plain_functions():
    module = nn.Linear(192, 2).to(torch.bfloat16)
    assert as_encoder(nn.Sequential(nn.Flatten(), module))(IMAGES).dtype == torch.float32

    def own(batch):
        return batch["z"]

    assert as_encoder(own) is own
    assert torch.equal(ModuleEncoder(lambda x: x.mean((2, 3)))(IMAGES), IMAGES.mean((2, 3)))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ModuleEncoder("resnet"), TypeError, "callable"),
        (lambda: ModuleEncoder(nn.Flatten(), chunk_size=0), ValueError, "chunk_size"),
        (lambda: ModuleEncoder(lambda x: (x,))(IMAGES), TypeError, "return a tensor"),
        (lambda: ModuleEncoder(lambda x: x.mean())(IMAGES), ValueError, "one feature vector"),
        (lambda: ModuleEncoder(lambda x: x[:1])(IMAGES), ValueError, "one feature vector"),
        (lambda: ModuleEncoder(lambda x: x / 0)(IMAGES), ValueError, "NaN or infinite"),
        (lambda: as_encoder("pixels"), TypeError, "function of the batch"),
        (lambda: LatentEncoder(nn.Linear(1, 1)), TypeError, "autoencoder"),
    ],
)
def test_bad_encoders(make, error, message):
    with pytest.raises(error, match=message):
        make()


def vae(**settings):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    return diffusers.AutoencoderKL(block_out_channels=(4,), norm_num_groups=2, latent_channels=2, **settings)


def test_latents_are_shifted_and_scaled_as_in_training():
    model = vae(scaling_factor=0.5, shift_factor=0.25)
    expected = torch.cat([(model.encode(image[None]).latent_dist.mean - 0.25) * 0.5 for image in IMAGES]).detach()
    encoder = as_encoder(model)
    assert isinstance(encoder, LatentEncoder)
    torch.testing.assert_close(LatentEncoder(model, chunk_size=3).features(IMAGES), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encoder((IMAGES, LABELS)), expected.flatten(1), rtol=1e-4, atol=1e-5)
    assert torch.equal(encoder(IMAGES), encoder(IMAGES))  # the posterior's mean, not a draw


def test_latents_with_a_mean_and_a_deviation_for_each_channel():
    model = vae(scaling_factor=0.5, latents_mean=(1.0, -1.0), latents_std=(2.0, 4.0))
    raw = model.encode(IMAGES).latent_dist.mean.detach()
    expected = torch.stack([(raw[:, 0] - 1) * 0.5 / 2, (raw[:, 1] + 1) * 0.5 / 4], 1)
    torch.testing.assert_close(LatentEncoder(model).features(IMAGES), expected)


@pytest.mark.parametrize(
    "settings",
    [
        {"scaling_factor": 0.5, "shift_factor": 0.25},
        {"scaling_factor": 0.5, "latents_mean": (1.0, -1.0), "latents_std": (2.0, 4.0)},
    ],
)
def test_latents_are_decoded_as_they_were_encoded(settings):
    model = vae(**settings).eval()
    encoder = LatentEncoder(model, chunk_size=3)
    expected = model.decode(model.encode(IMAGES).latent_dist.mean).sample.detach()
    torch.testing.assert_close(encoder.decode(encoder.features(IMAGES)), expected, rtol=1e-3, atol=1e-4)


def test_other_autoencoders():
    diffusers = pytest.importorskip("diffusers")
    tiny = diffusers.AutoencoderTiny(encoder_block_out_channels=(4, 4), decoder_block_out_channels=(4, 4),
        num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1), latent_channels=2)  # fmt: skip
    assert as_encoder(tiny)(IMAGES).shape == (4, 2 * 4 * 4)


def test_latents_that_overflow_in_half_precision():
    model = vae()
    with torch.no_grad():
        model.quant_conv.bias.fill_(1e38)
    model.to(torch.float16)
    with pytest.raises(ValueError, match=r"torch.float16.*half precision"):
        LatentEncoder(model)(IMAGES)


def test_cached_latents_need_no_encoder():
    latents = torch.randn(4, 2, 8, 8)
    assert torch.equal(as_encoder(None)({"latents": latents, "prompt": TEXT}), latents.flatten(1))
