"""Encoders from disk against the models they were saved from."""

import json
import warnings

import pytest
import torch

from hopfield_replay.checkpoints import load_encoder


def images(size=28, channels=3):
    return torch.rand(3, channels, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def dinov2(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14, mlp_ratio=1
    )
    model = transformers.Dinov2Model(config).eval()
    model.save_pretrained(tmp_path)
    processor = {"crop_size": {"height": 28, "width": 28}, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.1, 0.2, 0.3]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    return model, tmp_path


def test_a_vision_model_gets_images_as_its_processor_would_make_them(dinov2):
    model, path = dinov2
    encoder, size = load_encoder(path)
    assert size == 28
    pixels = torch.stack(
        [(images()[:, c] + 1) / 2 / s - m / s for c, (m, s) in enumerate([(0.4, 0.1), (0.5, 0.2), (0.6, 0.3)])], 1
    )
    with torch.no_grad():
        expected = model(pixel_values=pixels).pooler_output
    expected = expected / expected.norm(dim=1, keepdim=True)
    assert torch.allclose(encoder(images()), expected, atol=1e-5)
    assert encoder(images(channels=1)).shape == (3, 16)  # grey images are shown in three channels


def test_a_model_of_images_and_texts_gives_the_features_that_both_share(tmp_path):
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**small, "vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2}
    config = transformers.CLIPConfig(
        text_config=text, vision_config={**small, "image_size": 28, "patch_size": 14}, projection_dim=8
    )
    transformers.CLIPModel(config).save_pretrained(tmp_path)
    processor = {"size": {"shortest_edge": 28}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    found = load_encoder(tmp_path).encoder(images())
    assert found.shape == (3, 8)
    assert torch.allclose(found.norm(dim=1), torch.ones(3))


@pytest.mark.parametrize("whole", [False, True])
def test_an_autoencoder_gives_its_latents_alone_or_in_a_pipeline(tmp_path, whole):
    diffusers = pytest.importorskip("diffusers")
    vae = diffusers.AutoencoderKL(
        block_out_channels=(4, 4), down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
        norm_num_groups=2, latent_channels=2, sample_size=17,
    ).eval()  # fmt: skip
    vae.save_pretrained(tmp_path / "vae")
    if whole:
        (tmp_path / "model_index.json").write_text("{}")
    encoder, size = load_encoder(tmp_path if whole else tmp_path / "vae")
    assert size == 16  # a multiple of what it scales down by
    with torch.no_grad():
        expected = vae.encode(images(16)).latent_dist.mode() * vae.config.scaling_factor
    assert torch.allclose(encoder(images(16)), expected.flatten(1), atol=1e-6)


def test_a_torchscript_file_is_a_module(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(torch.nn.Flatten(), images(4)), tmp_path / "encoder.pt")
    encoder, size = load_encoder(tmp_path / "encoder.pt")
    assert size == 224
    assert torch.equal(encoder(images(4)), images(4).flatten(1))


def test_what_is_no_encoder_is_refused(tmp_path, dinov2):
    _, model = dinov2
    (tmp_path / "x.pt").write_bytes(b"no")
    cases = [
        (tmp_path / "x.pt", "not a TorchScript file"),
        (tmp_path / "missing", "does not exist"),
    ]
    for number, (content, message) in enumerate(
        [
            ("{", "no JSON configuration"),
            ("[]", "not a JSON object"),
            ("{}", "neither a class of diffusers"),
            ('{"_class_name": "UNet2DModel"}', "none of AutoencoderKL"),
            ('{"_class_name": ["a", "b"]}', "none of AutoencoderKL"),
            ('{"model_type": "dinov2", "auto_map": {}}', "code of its own"),
            ('{"model_type": "no such"}', "no JSON configuration"),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "config.json").write_text(content)
        cases.append((folder, message))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "model_index.json").write_text("{}")
    cases.append((tmp_path / "empty", "without an autoencoder"))
    for path, message in cases:
        with pytest.raises(ValueError, match=message):
            load_encoder(path)
    (model / "preprocessor_config.json").write_text("{}")
    with pytest.raises(ValueError, match="says no size"):
        load_encoder(model)
    (model / "own.py").write_text("raise SystemExit")
    with pytest.raises(ValueError, match="code of its own"):
        load_encoder(model)
