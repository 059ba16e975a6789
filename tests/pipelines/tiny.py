"""Pipelines of today's families with random weights, a few hundred kB each, built from configurations."""

import json
import string
import tempfile
from pathlib import Path

import torch
from torch import nn

WORDS = ("cat", "dog", "red", "blue")


def clip_tokenizer(length=8):
    """A CLIP tokenizer with one token for each word."""
    from transformers import CLIPTokenizer

    letters = string.ascii_lowercase
    tokens, merges = [*letters, *(f"{letter}</w>" for letter in letters)], []
    for word in WORDS:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        for size in range(1, len(parts)):
            merges.append(f"{''.join(parts[:size])} {parts[size]}")
            tokens.append("".join(parts[: size + 1]))
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
        (place / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
        return CLIPTokenizer.from_pretrained(folder, model_max_length=length)


def clip_text(tokenizer, projected=False, width=16, projection=16):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length, projection_dim=projection,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)
    nn.init.normal_(model.get_input_embeddings().weight)
    return model.eval()


def t5(width=16):
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((f"▁{word}", -1.0) for word in WORDS)]
    pieces += [(letter, -3.0) for letter in f"▁{string.ascii_lowercase}"]
    tokenizer = T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)
    config = T5Config(vocab_size=len(tokenizer), d_model=width, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    return tokenizer, T5EncoderModel(config).eval()


def byte_tokenizer(kind, **special):
    """A tokenizer of single characters, with a chat template."""
    letters = {letter: number for number, letter in enumerate(string.printable)}
    for token in (*special.values(), *("Ġ" if kind.__name__.startswith("Qwen") else "▁")):
        letters.setdefault(token, len(letters))
    tokenizer = kind(vocab=letters, merges=[], model_max_length=2048, **special)
    tokenizer.chat_template = "{% for message in messages %}<{{ message.content }}>{% endfor %}"
    return tokenizer


def gemma(width=16):
    from transformers import Gemma2Config, Gemma2Model, GemmaTokenizer

    special = {"unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    tokenizer = byte_tokenizer(GemmaTokenizer, **special)
    config = Gemma2Config(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, max_position_embeddings=2048, pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return tokenizer, Gemma2Model(config).eval()


def qwen_tokenizer():
    from transformers import Qwen2Tokenizer

    return byte_tokenizer(Qwen2Tokenizer, unk_token="<unk>", eos_token="<|im_end|>", pad_token="<|endoftext|>")


def qwen3(width=8, layers=2, head=False):
    from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3Model

    tokenizer = qwen_tokenizer()
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=8, num_hidden_layers=layers,
        num_attention_heads=1, num_key_value_heads=1, head_dim=8, max_position_embeddings=2048,
    )  # fmt: skip
    return tokenizer, (Qwen3ForCausalLM if head else Qwen3Model)(config).eval()


def qwen_vl(width=16):
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    tokenizer = qwen_tokenizer()
    text = {
        "vocab_size": len(tokenizer), "hidden_size": width, "intermediate_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "rope_theta": 1e6, "max_position_embeddings": 2048,
        "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
    }  # fmt: skip
    vision = {
        "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": width,
        "fullatt_block_indexes": [0],
    }  # fmt: skip
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    return tokenizer, Qwen2_5_VLForConditionalGeneration(config).eval()


def autoencoder(blocks=2, **more):
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(4,) * blocks, norm_num_groups=2, layers_per_block=1, latent_channels=4, sample_size=32,
        down_block_types=("DownEncoderBlock2D",) * blocks, up_block_types=("UpDecoderBlock2D",) * blocks, **more,
    ).eval()  # fmt: skip


def flow(**more):
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**more)


def unet(**more):
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=16, layers_per_block=1, block_out_channels=(4, 8), norm_num_groups=2, attention_head_dim=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **more,
    )  # fmt: skip


def stable_diffusion():
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    tokenizer = clip_tokenizer()
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        steps_offset=1,
        clip_sample=False,
    )
    return StableDiffusionPipeline(
        vae=autoencoder(scaling_factor=0.18), text_encoder=clip_text(tokenizer), tokenizer=tokenizer,
        unet=unet(cross_attention_dim=16), scheduler=scheduler, safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip


def stable_diffusion_xl():
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    tokenizer = clip_tokenizer()
    scheduler = EulerDiscreteScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    return StableDiffusionXLPipeline(
        vae=autoencoder(scaling_factor=0.13), tokenizer=tokenizer, tokenizer_2=clip_tokenizer(), scheduler=scheduler,
        text_encoder=clip_text(tokenizer), text_encoder_2=clip_text(tokenizer, projected=True),
        unet=unet(
            cross_attention_dim=32, addition_embed_type="text_time", addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 16, transformer_layers_per_block=(1, 1),
            use_linear_projection=True,
        ),
    )  # fmt: skip


def stable_diffusion_3():
    from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

    tokenizer, (tokenizer_3, encoder_3) = clip_tokenizer(), t5(32)
    return StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=16, patch_size=2, in_channels=4, out_channels=4, num_layers=1, attention_head_dim=8,
            num_attention_heads=2, caption_projection_dim=16, joint_attention_dim=32, pooled_projection_dim=32,
        ),
        scheduler=flow(shift=3.0), vae=autoencoder(scaling_factor=1.5, shift_factor=0.06),
        text_encoder=clip_text(tokenizer, projected=True), text_encoder_2=clip_text(tokenizer, projected=True),
        tokenizer=tokenizer, tokenizer_2=clip_tokenizer(), text_encoder_3=encoder_3, tokenizer_3=tokenizer_3,
    )  # fmt: skip


def flux(guidance=True):
    from diffusers import FluxPipeline, FluxTransformer2DModel

    tokenizer, (tokenizer_2, encoder_2) = clip_tokenizer(), t5()
    return FluxPipeline(
        transformer=FluxTransformer2DModel(
            patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
            num_attention_heads=1, joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=(4, 4, 8),
            guidance_embeds=guidance,
        ),
        scheduler=flow(use_dynamic_shifting=True), vae=autoencoder(scaling_factor=0.36, shift_factor=0.11),
        text_encoder=clip_text(tokenizer), tokenizer=tokenizer, text_encoder_2=encoder_2, tokenizer_2=tokenizer_2,
    )  # fmt: skip


def flux2_klein():
    from diffusers import AutoencoderKLFlux2, Flux2KleinPipeline, Flux2Transformer2DModel

    tokenizer, encoder = qwen3(layers=28, head=True)
    vae = AutoencoderKLFlux2(
        block_out_channels=(4, 4), norm_num_groups=2, layers_per_block=1, latent_channels=2, sample_size=32,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    ).eval()  # fmt: skip
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2.0)
    return Flux2KleinPipeline(
        transformer=Flux2Transformer2DModel(
            patch_size=1, in_channels=8, num_layers=1, num_single_layers=1, attention_head_dim=16,
            num_attention_heads=1, joint_attention_dim=24, timestep_guidance_channels=16,
            axes_dims_rope=(4, 4, 4, 4), guidance_embeds=False,
        ),
        scheduler=flow(use_dynamic_shifting=True), vae=vae, text_encoder=encoder, tokenizer=tokenizer,
    )  # fmt: skip


def pixart_sigma():
    from diffusers import DPMSolverMultistepScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel

    tokenizer, encoder = t5()
    return PixArtSigmaPipeline(
        transformer=PixArtTransformer2DModel(
            sample_size=16, num_layers=1, patch_size=2, attention_head_dim=8, num_attention_heads=2, in_channels=4,
            caption_channels=16, cross_attention_dim=16, out_channels=8, use_additional_conditions=False,
        ),
        scheduler=DPMSolverMultistepScheduler(), vae=autoencoder(scaling_factor=0.13), text_encoder=encoder,
        tokenizer=tokenizer,
    )  # fmt: skip


def sana():
    from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel

    tokenizer, encoder = gemma()
    vae = AutoencoderDC(
        latent_channels=4, attention_head_dim=2, encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"), encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8), encoder_qkv_multiscales=((), (5,)), decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1), downsample_block_type="conv",
        upsample_block_type="interpolate", scaling_factor=0.41,
    ).eval()  # fmt: skip
    return SanaPipeline(
        transformer=SanaTransformer2DModel(
            sample_size=32, patch_size=1, in_channels=4, out_channels=4, num_layers=1, num_attention_heads=2,
            attention_head_dim=4, num_cross_attention_heads=2, cross_attention_head_dim=4, cross_attention_dim=8,
            caption_channels=16,
        ),
        scheduler=DPMSolverMultistepScheduler(
            use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0, algorithm_type="dpmsolver++"
        ),
        vae=vae, text_encoder=encoder, tokenizer=tokenizer,
    )  # fmt: skip


def lumina2():
    from diffusers import Lumina2Pipeline, Lumina2Transformer2DModel

    tokenizer, encoder = gemma()
    return Lumina2Pipeline(
        transformer=Lumina2Transformer2DModel(
            sample_size=16, patch_size=2, in_channels=4, hidden_size=16, num_layers=1, num_refiner_layers=1,
            num_attention_heads=1, num_kv_heads=1, multiple_of=2, axes_dim_rope=(4, 4, 8), axes_lens=(300, 32, 32),
            cap_feat_dim=16,
        ),
        scheduler=flow(shift=6.0), vae=autoencoder(4, scaling_factor=0.36, shift_factor=0.11), text_encoder=encoder,
        tokenizer=tokenizer,  # its pipeline takes every autoencoder to shrink images by 8
    )  # fmt: skip


def qwen_image():
    from diffusers import AutoencoderKLQwenImage, QwenImagePipeline, QwenImageTransformer2DModel

    tokenizer, encoder = qwen_vl()
    vae = AutoencoderKLQwenImage(
        base_dim=4, z_dim=4, dim_mult=[1, 2, 4], num_res_blocks=1, temperal_downsample=[False, True],
        latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.0, 2.0, 0.5, 1.5],
    ).eval()  # fmt: skip
    return QwenImagePipeline(
        transformer=QwenImageTransformer2DModel(
            patch_size=2, in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=1,
            joint_attention_dim=16, axes_dims_rope=(8, 4, 4),
        ),
        scheduler=flow(use_dynamic_shifting=True), vae=vae, text_encoder=encoder, tokenizer=tokenizer,
    )  # fmt: skip


def z_image():
    from diffusers import ZImagePipeline, ZImageTransformer2DModel

    tokenizer, encoder = qwen3(width=16)
    return ZImagePipeline(
        transformer=ZImageTransformer2DModel(
            in_channels=4, dim=16, n_layers=1, n_refiner_layers=1, n_heads=1, n_kv_heads=1, cap_feat_dim=16,
            axes_dims=[4, 4, 8], axes_lens=[1024, 32, 32],
        ),
        scheduler=flow(shift=3.0), vae=autoencoder(scaling_factor=0.36, shift_factor=0.11), text_encoder=encoder,
        tokenizer=tokenizer,
    )  # fmt: skip


FAMILIES = {
    build.__name__: build
    for build in (stable_diffusion, stable_diffusion_xl, stable_diffusion_3, flux, flux2_klein, pixart_sigma, sana,
                  lumina2, qwen_image, z_image)
}  # fmt: skip


def network_of(pipeline):
    return pipeline.transformer if getattr(pipeline, "transformer", None) is not None else pipeline.unet


def build(family, seed=0):
    """A random pipeline; layers that start at zero are random, too, so that what it predicts means something."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = FAMILIES[family]()
        for weight in network_of(pipeline).parameters():
            if not weight.any():
                nn.init.normal_(weight, std=0.1)
    pipeline.set_progress_bar_config(disable=True)
    network_of(pipeline).eval()
    return pipeline
