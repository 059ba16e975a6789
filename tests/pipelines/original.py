"""Weights of diffusers in the names of the implementations they came from: the inverse of diffusers' conversion."""

import re

import torch
from safetensors.torch import save_file

_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
_AROUND = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0", "conv_out": "out.2", "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}  # fmt: skip


def unet(network):
    """A UNet2DConditionModel's weights as latent diffusion named them."""
    weights, per_block = network.state_dict(), network.config.layers_per_block + 1
    made = {}
    for key, weight in weights.items():
        layer, _, kind = key.rpartition(".")
        if layer in _AROUND:
            place = _AROUND[layer]
        elif layer.startswith("mid_block"):
            _, part, number, rest = layer.split(".", 3)
            place = f"middle_block.{2 * int(number) if part == 'resnets' else 1}.{_inner(part, rest)}"
        else:
            side, block, part, number, rest = layer.split(".", 4)
            at = int(block) * per_block + int(number) + (side == "down_blocks")
            blocks = "input_blocks" if side == "down_blocks" else "output_blocks"
            if part == "downsamplers":
                place = f"input_blocks.{at + per_block - 1}.0.op"
            elif part == "upsamplers":
                attention = any(name.startswith(f"{side}.{block}.attentions") for name in weights)
                place = f"output_blocks.{at + per_block - 1}.{2 if attention else 1}.conv"
            else:
                place = f"{blocks}.{at}.{0 if part == 'resnets' else 1}.{_inner(part, rest)}"
        made[f"model.diffusion_model.{place}.{kind}"] = weight
    return made


def _inner(part, layer):
    return _RESNET[layer] if part == "resnets" else layer


def autoencoder(vae, prefix="first_stage_model."):
    """An AutoencoderKL's weights as latent diffusion named them."""
    made, last = {}, len(vae.config.block_out_channels) - 1
    for key, weight in vae.state_dict().items():
        name = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
        name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(r"up_blocks\.(\d)\.resnets", lambda found: f"up.{last - int(found[1])}.block", name)
        name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda found: f"up.{last - int(found[1])}.upsample", name)
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
        if "attentions" in name:
            name = name.replace("mid_block.attentions.0", "mid.attn_1").replace("group_norm", "norm")
            name = re.sub(r"to_([qkv])\.", r"\1.", name).replace("to_out.0", "proj_out")
            weight = weight[:, :, None, None] if weight.ndim == 2 else weight  # they were convolutions
        made[prefix + name] = weight
    return made


def clip(encoder, prefix="cond_stage_model.transformer."):
    """A CLIP text encoder's weights as in the files of Stable Diffusion 1."""
    return {
        f"{prefix}text_model.{key.removeprefix('text_model.')}": value for key, value in encoder.state_dict().items()
    }


def open_clip(encoder, prefix="conditioner.embedders.1.model."):
    """A CLIP text encoder's weights as OpenCLIP names them: one matrix for queries, keys and values."""
    weights = {key.removeprefix("text_model."): value for key, value in encoder.state_dict().items()}
    made = {
        "positional_embedding": weights.pop("embeddings.position_embedding.weight"),
        "token_embedding.weight": weights.pop("embeddings.token_embedding.weight"),
        "text_projection": weights.pop("text_projection.weight").T.contiguous(),
    }
    for kind in ("weight", "bias"):
        made[f"ln_final.{kind}"] = weights.pop(f"final_layer_norm.{kind}")
        for layer in range(encoder.config.num_hidden_layers):
            old, new = f"encoder.layers.{layer}", f"transformer.resblocks.{layer}"
            parts = [weights.pop(f"{old}.self_attn.{part}_proj.{kind}") for part in "qkv"]
            made[f"{new}.attn.in_proj_{kind}"] = torch.cat(parts)
            made[f"{new}.attn.out_proj.{kind}"] = weights.pop(f"{old}.self_attn.out_proj.{kind}")
            for part, name in (("layer_norm1", "ln_1"), ("layer_norm2", "ln_2"), ("mlp.fc1", "mlp.c_fc"),
                               ("mlp.fc2", "mlp.c_proj")):  # fmt: skip
                made[f"{new}.{name}.{kind}"] = weights.pop(f"{old}.{part}.{kind}")
    assert not [key for key in weights if not key.endswith("position_ids")], weights
    return {prefix + key: value for key, value in made.items()}


def mmdit(network, prefix="model.diffusion_model."):
    """The weights of Stable Diffusion 3's transformer as its authors named them."""
    weights, made = dict(network.state_dict()), {}
    last = network.config.num_layers - 1

    def moved(old, new, *kinds, swapped=False):
        for kind in kinds or ("weight", "bias"):
            weight = weights.pop(f"{old}.{kind}")
            made[f"{new}.{kind}"] = torch.cat(weight.chunk(2)[::-1]) if swapped else weight

    made["pos_embed"] = weights.pop("pos_embed.pos_embed")
    moved("pos_embed.proj", "x_embedder.proj")
    moved("context_embedder", "context_embedder")
    moved("proj_out", "final_layer.linear")
    moved("norm_out.linear", "final_layer.adaLN_modulation.1", swapped=True)  # shift and scale
    for number in (1, 2):
        for old, new in (("timestep_embedder", "t_embedder"), ("text_embedder", "y_embedder")):
            moved(f"time_text_embed.{old}.linear_{number}", f"{new}.mlp.{2 * number - 2}")
    for block in range(last + 1):
        old, new = f"transformer_blocks.{block}", f"joint_blocks.{block}"
        for kind in ("weight", "bias"):
            for parts, side in ((("to_q", "to_k", "to_v"), "x_block"),
                                (("add_q_proj", "add_k_proj", "add_v_proj"), "context_block")):  # fmt: skip
                joined = torch.cat([weights.pop(f"{old}.attn.{part}.{kind}") for part in parts])
                made[f"{new}.{side}.attn.qkv.{kind}"] = joined
        moved(f"{old}.attn.to_out.0", f"{new}.x_block.attn.proj")
        moved(f"{old}.norm1.linear", f"{new}.x_block.adaLN_modulation.1")
        moved(f"{old}.norm1_context.linear", f"{new}.context_block.adaLN_modulation.1", swapped=block == last)
        moved(f"{old}.ff.net.0.proj", f"{new}.x_block.mlp.fc1")
        moved(f"{old}.ff.net.2", f"{new}.x_block.mlp.fc2")
        if block != last:
            moved(f"{old}.attn.to_add_out", f"{new}.context_block.attn.proj")
            moved(f"{old}.ff_context.net.0.proj", f"{new}.context_block.mlp.fc1")
            moved(f"{old}.ff_context.net.2", f"{new}.context_block.mlp.fc2")
    assert not weights, sorted(weights)
    return {prefix + key: value for key, value in made.items()}


def stable_diffusion(pipeline):
    """All weights of a StableDiffusionPipeline."""
    return {**unet(pipeline.unet), **autoencoder(pipeline.vae), **clip(pipeline.text_encoder)}


def stable_diffusion_xl(pipeline):
    """All weights of a StableDiffusionXLPipeline."""
    first = clip(pipeline.text_encoder, "conditioner.embedders.0.transformer.")
    return {**unet(pipeline.unet), **autoencoder(pipeline.vae), **first, **open_clip(pipeline.text_encoder_2)}


def stable_diffusion_3(pipeline):
    """All weights of a StableDiffusion3Pipeline but those of its T5."""
    return {**mmdit(pipeline.transformer), **autoencoder(pipeline.vae)}


def save(weights, file):
    save_file({name: weight.contiguous().clone() for name, weight in weights.items()}, file)
    return file
