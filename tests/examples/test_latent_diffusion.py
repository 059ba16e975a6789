import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="text-to-image pipelines need transformers")

from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, PNDMScheduler

from helpers import latent_diffusion, tiny_pipeline
from helpers.captioned import read_captioned
from hopfield_replay.denoisers import find_denoiser

pytestmark = pytest.mark.heavy


@pytest.fixture
def pipeline(tiny):
    return latent_diffusion.load_pipeline(str(tiny[0]))


@pytest.fixture
def batch():
    draws = torch.Generator().manual_seed(5)
    return {
        "latents": torch.randn(3, 4, 8, 8, generator=draws),
        "input_ids": torch.randint(60, (3, 8), generator=draws),
    }


def test_the_tiny_pipeline_has_the_classes_of_the_real_one(pipeline, tiny):
    names = {name: type(part).__name__ for name, part in pipeline.components.items() if part is not None}
    assert names == {
        "vae": "AutoencoderKL",
        "text_encoder": "CLIPTextModel",
        "tokenizer": "CLIPTokenizer",
        "unet": "UNet2DConditionModel",
        "scheduler": "DDPMScheduler",
    }
    tasks = [read_captioned(folder) for folder in tiny[1]]
    assert [len(task) for task in tasks] == [12, 12]
    assert tasks[0].captions[:3] == ("a handwritten zero", "a handwritten one", "a handwritten two")
    for word in tiny_pipeline.WORDS:
        assert pipeline.tokenizer.tokenize(f"a handwritten {word}") == ["a</w>", "handwritten</w>", f"{word}</w>"]
    tokens = latent_diffusion.LatentDiffusion(pipeline, 1e-3).tokens([f"a {word}" for word in tiny_pipeline.WORDS])
    assert len(tokens.unique(dim=0)) == 10


def test_what_is_built_already_is_left_as_it_is(tiny, monkeypatch):
    monkeypatch.setattr(tiny_pipeline, "_pipeline", None)
    assert tiny_pipeline.build_tiny(tiny[0].parent) == tiny


def damaged(tiny, folder, part):
    shutil.copytree(tiny[0], folder)
    shutil.rmtree(folder / part) if (folder / part).is_dir() else (folder / part).unlink()
    return str(folder)


@pytest.mark.parametrize("part", ["unet", "vae", "tokenizer", "model_index.json"])
def test_a_pipeline_folder_without_a_part_is_refused(tiny, tmp_path, part):
    with pytest.raises(ValueError, match=rf"not the folder of a Stable Diffusion pipeline: it has no {part}\. Give"):
        latent_diffusion.load_pipeline(damaged(tiny, tmp_path / "pipeline", part))


def test_a_pipeline_whose_weights_are_gone_is_refused(tiny, tmp_path):
    folder = damaged(tiny, tmp_path / "pipeline", "unet/diffusion_pytorch_model.safetensors")
    with pytest.raises(ValueError, match="cannot be loaded as a Stable Diffusion pipeline"):
        latent_diffusion.load_pipeline(folder)
    cut = tmp_path / "pipeline" / "text_encoder" / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:1000])
    with pytest.raises(ValueError, match="cannot be loaded as a Stable Diffusion pipeline"):
        latent_diffusion.load_pipeline(folder)


def test_weights_come_in_float32_from_files_of_half_precision_and_of_a_variant(pipeline, tmp_path):
    for part in ("unet", "vae", "text_encoder"):
        getattr(pipeline, part).half()
    pipeline.save_pretrained(tmp_path, variant="fp16")
    with pytest.raises(ValueError, match=r"cannot be loaded .*variants \['fp16'\]: pass --variant"):
        latent_diffusion.load_pipeline(str(tmp_path))
    loaded = latent_diffusion.load_pipeline(str(tmp_path), "fp16")
    for part in ("unet", "vae", "text_encoder"):
        assert {weight.dtype for weight in getattr(loaded, part).parameters()} == {torch.float32}
    assert loaded.vae.use_slicing  # images of 512x512 take far more memory than their latents


def test_a_variant_of_one_part_is_taken_with_the_plain_files_of_the_others(tiny, pipeline, tmp_path):
    folder = Path(shutil.copytree(tiny[0], tmp_path / "pipeline"))
    torch.nn.init.constant_(pipeline.unet.conv_in.bias, 3.0)
    pipeline.unet.save_pretrained(folder / "unet", variant="non_ema")
    loaded = [latent_diffusion.load_pipeline(str(folder), variant) for variant in (None, "non_ema")]
    assert [bool((part.unet.conv_in.bias == 3.0).all()) for part in loaded] == [False, True]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"unet": {"in_channels": 9}}, r"takes 9 channels \(latents have 4\): .* but not .*inpainting"),
        ({"unet": {"addition_embed_type": "text_time"}}, "and has addition_embed_type: .* but not Stable Diffusion XL"),
        ({"scheduler": {"prediction_type": "flow"}}, r"DDPMScheduler with prediction_type='flow'; one with alphas_cum"),
        ({}, r"FlowMatchEulerDiscreteScheduler with prediction_type='epsilon'; one with alphas_cumprod"),
    ],
)
def test_pipelines_of_other_kinds_are_refused(pipeline, changed, message, monkeypatch, tiny):
    if not changed:
        pipeline.scheduler = FlowMatchEulerDiscreteScheduler()
    for part, settings in changed.items():
        getattr(pipeline, part).register_to_config(**settings)
    monkeypatch.setattr(latent_diffusion.StableDiffusionPipeline, "from_pretrained", lambda *_, **__: pipeline)
    with pytest.raises(ValueError, match=message):
        latent_diffusion.load_pipeline(str(tiny[0]))


@pytest.mark.parametrize(
    ("scheduler", "settings", "kind"),
    [
        (PNDMScheduler, {"skip_prk_steps": True}, "epsilon"),  # of Stable Diffusion 1.5
        (DDIMScheduler, {"prediction_type": "v_prediction", "clip_sample": False}, "v_prediction"),  # of 2.1
    ],
)
def test_what_the_schedulers_of_published_weights_say_is_trained_and_measured(pipeline, scheduler, settings, kind):
    noise = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
    before = pipeline.scheduler.alphas_cumprod
    pipeline.scheduler = scheduler(**noise, **settings, set_alpha_to_one=False)
    model = latent_diffusion.LatentDiffusion(pipeline, 1e-3)
    assert model.scheduler.config.prediction_type == kind
    torch.testing.assert_close(model.scheduler.alphas_cumprod, before)
    assert find_denoiser(model).prediction_type == kind


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_loss_is_that_of_denoising_under_the_captions(pipeline, batch, kind):
    pipeline.scheduler.register_to_config(prediction_type=kind)
    model = latent_diffusion.LatentDiffusion(pipeline, 1e-3, seed=7)
    seen = []
    model.unet.register_forward_hook(
        lambda _, args, kwargs, out: seen.append((args, kwargs, out.sample)), with_kwargs=True
    )
    model.log = lambda *args, **kwargs: None
    prepared = model.on_after_batch_transfer(batch, 0)
    loss = model.training_step(prepared, 0)
    ((noisy, times), condition, predicted) = seen[0]
    hidden = pipeline.text_encoder(batch["input_ids"]).last_hidden_state
    torch.testing.assert_close(condition["encoder_hidden_states"], hidden)

    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    signal = np.sqrt(np.cumprod(1 - betas))[times.numpy()].reshape(3, 1, 1, 1)
    amount = np.sqrt(1 - signal**2)
    clean = batch["latents"].double().numpy()
    noise = (noisy.double().numpy() - signal * clean) / amount
    assert abs(noise.std() - 1) < 0.1
    target = {"epsilon": noise, "v_prediction": signal * noise - amount * clean, "sample": clean}[kind]
    assert loss.item() == pytest.approx(np.mean((predicted.detach().double().numpy() - target) ** 2), rel=1e-3)
    assert model.training_step(prepared, 0) == loss  # noise is a function of the seed and the step
    assert model.training_step(prepared, 1) != loss  # and of the batch, where a step accumulates several


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_captions_are_left_out_as_often_as_asked_for(pipeline, batch, share):
    model = latent_diffusion.LatentDiffusion(pipeline, 1e-3, caption_dropout=share)
    model.log = lambda *args, **kwargs: None
    seen = []
    model.unet.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["encoder_hidden_states"]), with_kwargs=True
    )
    prepared = model.on_after_batch_transfer(batch, 0)
    empty = pipeline.text_encoder(model.tokens([""])).last_hidden_state
    with torch.no_grad():
        for number in range(8):
            model.training_step(prepared, number)
    left_out = torch.cat([(hidden == empty).all((1, 2)) for hidden in seen])
    kept = torch.cat([(hidden == prepared["encoder_hidden_states"]).all((1, 2)) for hidden in seen])
    assert torch.equal(left_out, ~kept)
    assert abs(float(left_out.float().mean()) - share) < 0.3
    assert "no_caption" not in model.state_dict()


def test_the_learning_rate_warms_up(pipeline):
    rates = []
    chosen = latent_diffusion.LatentDiffusion(pipeline, 0.1, warmup=4).configure_optimizers()
    for _ in range(6):
        rates += chosen["lr_scheduler"]["scheduler"].get_last_lr()
        chosen["optimizer"].step()
        chosen["lr_scheduler"]["scheduler"].step()
    assert rates == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])


def test_only_the_unet_is_trained_and_kept(pipeline, batch):
    model = latent_diffusion.LatentDiffusion(pipeline, 1e-3)
    model.log = lambda *args, **kwargs: None
    model.training_step(model.on_after_batch_transfer(batch, 0), 0).backward()
    assert {name.split(".")[0] for name, weight in model.named_parameters() if weight.grad is not None} == {"unet"}
    checkpoint = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(checkpoint)
    assert {name.split(".")[0] for name in checkpoint["state_dict"]} == {"unet"}
    model.on_load_checkpoint(checkpoint)
    checkpoint["state_dict"].popitem()
    with pytest.raises(ValueError, match="do not train the same weights"):
        model.on_load_checkpoint(checkpoint)


def test_the_monitor_finds_the_denoiser_and_its_condition(pipeline, batch):
    model = latent_diffusion.LatentDiffusion(pipeline, 1e-3)
    denoiser = find_denoiser(model)
    assert denoiser is not None
    assert denoiser.model is model.unet
    condition = model.on_after_batch_transfer(batch, 0)
    latents = condition.pop("latents")
    first = denoiser.predict_clean(latents, 500, condition)
    other = denoiser.predict_clean(latents, 500, {"encoder_hidden_states": condition["encoder_hidden_states"].flip(0)})
    assert first.shape == latents.shape
    assert not torch.allclose(first, other)


def test_pictures_are_the_same_at_every_call_and_differ_between_each_other(pipeline):
    model = latent_diffusion.LatentDiffusion(pipeline, 1e-3)
    drawing = latent_diffusion.Drawing(count=2, steps=2, guidance=1.0, size=16)
    first, again = (model.sample(["a handwritten one"] * 2, drawing) for _ in range(2))
    assert [picture.size for picture in first] == [(16, 16)] * 2
    assert [picture.tobytes() for picture in first] == [picture.tobytes() for picture in again]
    assert first[0].tobytes() != first[1].tobytes()
    assert model.unet.training


def test_lora_trains_low_rank_matrices_of_the_targets_only(pipeline):
    pytest.importorskip("peft", reason="LoRA needs peft")
    latent_diffusion.add_lora(pipeline.unet, 2, ["to_q", "to_out.0"])
    trained = {name for name, weight in pipeline.unet.named_parameters() if weight.requires_grad}
    assert trained
    assert all(".lora_A." in name or ".lora_B." in name for name in trained)
    assert {name.split(".lora_")[0].split("attn")[1].split(".", 1)[1] for name in trained} == {"to_q", "to_out.0"}
    assert find_denoiser(latent_diffusion.LatentDiffusion(pipeline, 1e-3)) is not None


@pytest.mark.parametrize("targets", [["query"], ["to_q", "query"], []])
def test_lora_targets_that_do_not_exist_are_refused(pipeline, targets):
    pytest.importorskip("peft", reason="LoRA needs peft")
    before = [name for name, weight in pipeline.unet.named_parameters() if weight.requires_grad]
    with pytest.raises(ValueError, match=r"no layers called .*are called .*'to_q'"):
        latent_diffusion.add_lora(pipeline.unet, 2, targets)
    assert [name for name, weight in pipeline.unet.named_parameters() if weight.requires_grad] == before


def test_a_missing_package_is_named_with_the_command():
    with pytest.raises(
        ImportError, match=r'nonexistent_package not installed: pip install "hopfield-replay\[latent\]"'
    ):
        latent_diffusion.require("torch", "nonexistent_package")
