"""What people have on disk: variants, shards, networks alone, trained text encoders; and what is refused, and why."""

import json
import shutil

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file

from hopfield_replay.checkpoints import load_pipeline, load_versions
from hopfield_replay.cli import main
from hopfield_replay.pipelines import PipelineModel
from tests.pipelines import proofs, tiny

pytestmark = pytest.mark.slow
FAMILY = "stable_diffusion"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return proofs.saved(FAMILY, tmp_path_factory.mktemp("inputs") / "base")


def disturbed(pipeline, amount=0.1):
    with torch.no_grad():
        for weight in tiny.network_of(pipeline).parameters():
            weight.add_(amount * torch.randn(weight.shape, generator=torch.Generator().manual_seed(4)))


def rise(before, after):
    return proofs.audited(*load_versions(before, after, device="cpu"), FAMILY).rises


def test_half_precision_variants_and_shards_load_as_float32(base, tmp_path):
    pipeline = tiny.build(FAMILY)
    pipeline.save_pretrained(tmp_path / "half", variant="fp16")
    pipeline.save_pretrained(tmp_path / "shards", max_shard_size="40KB")
    assert len(list((tmp_path / "shards" / "unet").glob("*-of-*.safetensors"))) > 1
    for name in ("half", "shards"):
        version = load_pipeline(tmp_path / name)
        assert {weight.dtype for weight in version.module.parameters()} == {torch.float32}
        assert rise(base, tmp_path / name).abs().max() == 0
    pipeline.save_pretrained(tmp_path / "half", variant="other")
    with pytest.raises(ValueError, match=r"weights in the variants \['fp16', 'other'\]; say which"):
        load_pipeline(tmp_path / "half")
    load_pipeline(tmp_path / "half", variant="fp16")


def test_bfloat16_keeps_the_autoencoder_in_float32(base):
    version = load_pipeline(base, dtype=torch.bfloat16)
    dtypes = {name: part.dtype for name, part in version.model.pipeline.components.items() if hasattr(part, "dtype")}
    assert dtypes == {"vae": torch.float32, "text_encoder": torch.bfloat16, "unet": torch.bfloat16}
    before, after = load_versions(base, base, device="cpu", dtype=torch.bfloat16)
    report = proofs.audited(before, after, FAMILY)
    assert report.rises.abs().max() == 0
    exact = proofs.audited(*load_versions(base, base, device="cpu"), FAMILY)
    torch.testing.assert_close(report.errors_old, exact.errors_old, rtol=0.1, atol=0.0)


def test_a_network_alone_its_average_and_a_file_of_weights_go_onto_their_base(base, tmp_path):
    from diffusers.training_utils import EMAModel

    pipeline = tiny.build(FAMILY)
    disturbed(pipeline)
    pipeline.save_pretrained(tmp_path / "whole")
    wanted = rise(base, tmp_path / "whole")
    assert wanted.abs().min() > 0
    pipeline.unet.save_pretrained(tmp_path / "unet")
    average = EMAModel(pipeline.unet.parameters(), model_cls=type(pipeline.unet), model_config=pipeline.unet.config)
    average.save_pretrained(tmp_path / "unet_ema")
    save_file(pipeline.unet.state_dict(), tmp_path / "unet.safetensors")
    for name in ("unet", "unet_ema", "unet.safetensors"):
        torch.testing.assert_close(rise(base, tmp_path / name), wanted)
    weights = load_file(tmp_path / "unet.safetensors")
    weights.pop(next(iter(weights)))
    save_file(weights, tmp_path / "some.safetensors")
    with pytest.raises(ValueError, match=r"network weights .*some.safetensors do not fit .*cannot convert"):
        load_versions(base, tmp_path / "some.safetensors", device="cpu")
    other = tiny.build("flux").transformer
    other.save_pretrained(tmp_path / "flux")
    with pytest.raises(ValueError, match="it is a FluxTransformer2DModel, the pipeline's unet is a UNet2DCondition"):
        load_versions(base, tmp_path / "flux", device="cpu")
    with pytest.raises(ValueError, match="holds a network alone: give the pipeline that it is of first"):
        load_pipeline(tmp_path / "unet")
    with pytest.raises(ValueError, match="single file of weights, which does not say how its model is made"):
        load_pipeline(tmp_path / "unet.safetensors")


def test_lora_weights_of_another_family_and_of_another_kind_are_refused(base, tmp_path):
    pytest.importorskip("peft")
    path, _ = proofs.lora("flux", tmp_path / "flux", "diffusers")
    with pytest.raises(ValueError, match=r"LoRA weights .* do not fit .*none of them is for a layer"):
        load_versions(base, path, device="cpu")
    path, _ = proofs.lora(FAMILY, tmp_path / "dora", "kohya")
    weights = load_file(path)
    layer = next(iter(weights)).partition(".")[0]
    save_file({**weights, f"{layer}.dora_scale": torch.ones(1)}, path)
    with pytest.raises(ValueError, match=r"they are DoRA \(.*dora_scale\)"):
        load_versions(base, path, device="cpu")


@pytest.mark.heavy
@pytest.mark.parametrize("family", ["flux2_klein", "lumina2", "stable_diffusion_3", "sana", "pixart_sigma"])
def test_names_of_kohya_that_diffusers_does_not_convert_are_an_error_and_never_nothing(family, tmp_path, monkeypatch):
    pytest.importorskip("peft")
    folder = proofs.saved(family, tmp_path / "base")
    monkeypatch.setitem(proofs.KOHYA, family, "lora_unet")
    path, _ = proofs.lora(family, tmp_path / "lora", "kohya")
    told = r"named in kohya's way \(lora_unet_.*\), which the installed diffusers does not convert .*; save them in"
    if family == "pixart_sigma":
        told = "PixArtSigmaPipeline of the installed diffusers takes no LoRA weights: merge them yourself"
    with pytest.raises(ValueError, match=told):
        load_versions(folder, path, device="cpu")


def test_flux2_weights_of_kohya_are_merged_whole_or_refused(tmp_path):
    """diffusers leaves out what its conversion does not know: a part of the weights was once merged as all of them."""
    pytest.importorskip("peft")
    folder = proofs.saved("flux2_klein", tmp_path / "base")
    network = tiny.network_of(tiny.build("flux2_klein"))
    attention = network.transformer_blocks[0].attn
    draws = torch.Generator().manual_seed(0)
    width = attention.to_q.in_features
    down, up = torch.randn(2, width, generator=draws), torch.randn(3 * width, 2, generator=draws)
    place = "lora_unet_double_blocks_0_img_attn_qkv"
    weights = {f"{place}.lora_down.weight": down, f"{place}.lora_up.weight": up, f"{place}.alpha": torch.tensor(2.0)}
    save_file(weights, tmp_path / "kohya.safetensors")
    after = load_versions(folder, tmp_path / "kohya.safetensors", device="cpu")[1]
    found = tiny.network_of(after.model.pipeline).transformer_blocks[0].attn
    for number, name in enumerate(("to_q", "to_k", "to_v")):
        wanted = getattr(attention, name).weight + up[number * width : (number + 1) * width] @ down
        torch.testing.assert_close(getattr(found, name).weight, wanted, rtol=0.0, atol=1e-5)
    other = "lora_unet_double_blocks_0_img_attn_other"
    more = {f"{other}.lora_down.weight": down.clone(), f"{other}.lora_up.weight": up[:width].clone()}
    save_file(weights | more, tmp_path / "more.safetensors")
    with pytest.raises(ValueError, match=rf"leaves out {width} of their {4 * width} outputs: it does not know all"):
        load_versions(folder, tmp_path / "more.safetensors", device="cpu")


def test_each_version_has_its_own_text_encoder(base, tmp_path):
    """The second version's captions were once encoded by the first one's text encoder."""
    pipeline = tiny.build(FAMILY)
    with torch.no_grad():
        for weight in pipeline.text_encoder.parameters():
            weight.add_(0.5 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(4)))
    pipeline.save_pretrained(tmp_path / "texts")
    before, after = load_versions(base, tmp_path / "texts", device="cpu")
    found = proofs.audited(before, after, FAMILY).errors_new
    alone = load_pipeline(tmp_path / "texts")
    wanted = proofs.audited(alone, alone, FAMILY).errors_old
    torch.testing.assert_close(found, wanted)
    assert before.module.vae is after.module.vae  # held once
    assert before.module.unet is after.module.unet
    assert before.module.text_encoder is not after.module.text_encoder


def test_two_autoencoders_are_refused(base, tmp_path):
    pipeline = tiny.build(FAMILY)
    with torch.no_grad():
        next(pipeline.vae.parameters()).add_(0.1)
    pipeline.save_pretrained(tmp_path / "vae")
    with pytest.raises(ValueError, match="have different autoencoders: their latents cannot be compared"):
        load_versions(base, tmp_path / "vae", device="cpu")


def test_pipelines_that_work_in_another_way_say_so(base, tmp_path):
    from diffusers import StableDiffusionInpaintPipeline

    source = tiny.build(FAMILY)
    parts = {**source.components, "unet": tiny.unet(cross_attention_dim=16, in_channels=9)}
    StableDiffusionInpaintPipeline(**parts, requires_safety_checker=False).save_pretrained(tmp_path / "inpaint")
    with pytest.raises(ValueError, match=r"cannot be audited: StableDiffusionInpaintPipeline .*call audit\(\) with"):
        load_pipeline(tmp_path / "inpaint")
    model = PipelineModel(source)
    with pytest.raises(ValueError, match=r"Resize the images to a multiple of|cannot be called with prompts alone"):
        model.encode(torch.zeros(1, 3, 33, 33))
    with pytest.raises(ValueError, match=r"needs what the pipeline makes of the captions of these 2 samples"):
        model.denoiser.predict_clean(torch.zeros(2, 4, 16, 16), 5, torch.zeros(2, 8, 16))
    source.vae.decoder.requires_grad_(False)
    with torch.no_grad():
        next(source.vae.encoder.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match=r"latents hold NaN or infinity in torch\.float32"):
        PipelineModel(source).encode(torch.zeros(1, 3, 32, 32))


def test_foreign_libraries_and_code_are_refused_for_every_family(tmp_path):
    for family in ("flux", "qwen_image"):
        folder = proofs.saved(family, tmp_path / family)
        index = folder / "model_index.json"
        held = json.loads(index.read_text())
        for entry, message in ((["antigravity", "geohash"], "no class of diffusers"), ([["x"], "y"], "no class of")):
            index.write_text(json.dumps({**held, "transformer": entry}))
            with pytest.raises(ValueError, match=message):
                load_pipeline(folder)
        index.write_text(json.dumps({**held, "_class_name": ["pipeline", "Evil"]}))
        with pytest.raises(ValueError, match="names no class of diffusers"):
            load_pipeline(folder)
        index.write_text(json.dumps(held))
        (folder / "transformer" / "net.py").write_text("")
        with pytest.raises(ValueError, match="is code"):
            load_pipeline(folder)
        shutil.rmtree(folder)


def test_captions_that_are_too_long_are_said_to_be_cut_once():
    model = PipelineModel(tiny.build(FAMILY))
    long = "cat dog red blue cat dog red blue"
    with pytest.warns(UserWarning, match=r"1 captions are longer than the 8 tokens .* are cut \(first: 'cat dog"):
        rows = model.conditions([long, "cat"], (32, 32))
    model.conditions([long], (32, 32))
    cut = model.conditions(["cat dog red blue cat dog"], (32, 32))
    torch.testing.assert_close(rows[0].own["encoder_hidden_states",], cut[0].own["encoder_hidden_states",])
    PipelineModel(tiny.build("flux")).conditions([long], (32, 32))  # T5 reads it, if CLIP does not


class Cramped:
    """Raises for more than one at a time, as a full GPU does."""

    def __init__(self, call):
        self.call, self.sizes = call, []

    def __call__(self, first, *args, **kwargs):
        self.sizes.append(len(first))
        if len(first) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self.call(first, *args, **kwargs)


def test_what_does_not_fit_is_done_with_less_at_a_time(monkeypatch):
    pipeline = tiny.build(FAMILY)
    model = PipelineModel(pipeline)
    images = torch.rand(3, 3, 32, 32) * 2 - 1
    wanted = model.encode(images), model.conditions(["cat", "dog", "red"], (32, 32))
    monkeypatch.setattr(pipeline.vae, "encode", Cramped(pipeline.vae.encode))
    cramped = Cramped(pipeline.text_encoder.forward)
    monkeypatch.setattr(pipeline.text_encoder, "forward", cramped)
    torch.testing.assert_close(model.encode(images), wanted[0], rtol=1e-4, atol=1e-5)
    found = model.conditions(["cat", "dog", "red"], (32, 32))
    assert set(cramped.sizes) > {1}
    for one, two in zip(found, wanted[1], strict=True):
        texts = [row.own[("encoder_hidden_states",)] for row in (one, two)]
        torch.testing.assert_close(*texts, rtol=1e-4, atol=1e-5)


def test_prompts_are_drawn_by_both_versions(base, tmp_path, capsys):
    pipeline = tiny.build(FAMILY)
    disturbed(pipeline, 0.5)
    pipeline.save_pretrained(tmp_path / "after")
    (tmp_path / "prompts.txt").write_text("cat\nred dog\n")
    paths = ["audit", "--device", "cpu", "--before", str(base), "--prompts", str(tmp_path / "prompts.txt")]
    more = [
        "--seeds",
        "2",
        "--steps",
        "2",
        "--size",
        "32",
        "--fail-above",
        "0.0",
        "--output-dir",
        str(tmp_path / "out"),
    ]
    assert main([*paths, "--after", str(base), *more[:-2]]) == 0
    assert "relative distance 0.0%" in capsys.readouterr().out
    assert main([*paths, "--after", str(tmp_path / "after"), *more]) in (0, 1)
    assert "2 prompts, 2 seeds: relative distance" in capsys.readouterr().out
    assert {"audit.html", "audit.json", "drawings.png"} <= {path.name for path in (tmp_path / "out").iterdir()}
    assert main([*paths[:5], "--after", str(base)]) == 2
    assert "give either --data (samples to reconstruct) or --prompts" in capsys.readouterr().err
