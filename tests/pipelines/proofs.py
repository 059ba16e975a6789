"""What is shown of every family, one function for each claim; the tests assert it, the table prints it."""

import inspect

import torch
from torch import nn

from hopfield_replay.analysis import audit
from hopfield_replay.checkpoints import load_versions
from hopfield_replay.pipelines import RECEIVED, PipelineModel
from tests.pipelines import tiny

SIZES = {"lumina2": (128, 128)}  # whose pipeline takes every autoencoder to shrink images by 8
CONCEPTS = ("cat", "dog")


def size_of(family):
    return SIZES.get(family, (32, 32))


def saved(family, folder, change=None):
    """A tiny pipeline in a folder; ``change`` is applied to its network before it is saved."""
    pipeline = tiny.build(family)
    if change is not None:
        change(pipeline)
    pipeline.save_pretrained(folder)
    return folder


def pictures(family, count=3):
    """Images of two concepts, bright and dark ones with waves along the one side or the other, and noise."""
    height, width = size_of(family)
    draws = torch.Generator().manual_seed(0)
    batches = []
    for concept in CONCEPTS:
        rows, columns = torch.linspace(0, 12, height)[:, None], torch.linspace(0, 12, width)[None]
        wave = (rows.sin() + 0 * columns) if concept == "cat" else (columns.sin() + 0 * rows)
        images = (
            (0.7 if concept == "cat" else -0.7)
            + 0.3 * wave
            + 0.1 * torch.randn(count, 3, height, width, generator=draws)
        )
        batches.append({"images": images.clamp(-1, 1), "captions": [concept] * count})
    return batches


def audited(before, after, family, **more):
    labels = [batch["captions"][0] for batch in pictures(family) for _ in range(len(batch["images"]))]
    return audit(
        before.denoiser, after.denoiser, pictures(family), labels=labels, prepare=before.prepare, decode=before.decode,
        **{"examples": 0, "timesteps": [250], **more},
    )  # fmt: skip


def unlearn(pipeline, family, concept="dog"):
    """Disturb the network's last layer in the direction that one concept's features have most of, the other's least."""
    model = PipelineModel(pipeline)
    images = {batch["captions"][0]: batch["images"] for batch in pictures(family)}
    clean = {name: model.encode(images[name]) for name in CONCEPTS}
    rows = {name: model.conditions([name] * len(clean[name]), size_of(family)) for name in CONCEPTS}
    called, held = [], {name: [] for name in CONCEPTS}

    def error(name, seed):
        noise = torch.randn(clean[name].shape, generator=torch.Generator().manual_seed(seed))
        noisy = model.denoiser.noise(clean[name], 250, noise)
        with torch.no_grad():
            return (model.denoiser.predict_clean(noisy, 250, rows[name]) - clean[name]).square().mean().item()

    for name in CONCEPTS:
        hooks = [
            layer.register_forward_pre_hook(lambda layer, given: called.append((layer, given[0])))
            for layer in model.network.modules() if isinstance(layer, nn.Linear | nn.Conv2d)
        ]  # fmt: skip
        for seed in range(4):
            error(name, seed)
            layer, features = called[-1]
            features = features.movedim(1, -1) if features.ndim == 4 else features
            held[name].append(features.detach().flatten(0, -2).double())
        for hook in hooks:
            hook.remove()
    other = next(name for name in CONCEPTS if name != concept)
    mine, others = torch.cat(held[concept]), torch.cat(held[other])
    gram = others.T @ others
    root = torch.linalg.cholesky(gram + 1e-6 * gram.trace() / len(gram) * torch.eye(len(gram)).double())
    most = torch.linalg.svd(torch.linalg.solve_triangular(root, mine.T, upper=False)).U[:, :1]
    direction = torch.linalg.solve_triangular(root.T, most, upper=True).flatten()
    direction = (direction / (mine @ direction).square().mean().sqrt()).float()
    away = torch.randn(len(layer.weight), generator=torch.Generator().manual_seed(1))
    before, kept = error(concept, 9), layer.weight.detach().clone()
    middle = layer.weight[:, :, 1, 1] if layer.weight.ndim == 4 else layer.weight
    scale = 0.1
    while error(concept, 9) < 1.3 * before:
        scale *= 2
        with torch.no_grad():
            layer.weight.copy_(kept)
            middle += scale * away[:, None] * direction[None]


def error_of_own_step(family, steps):
    """Difference of the denoiser's clean prediction and where the pipeline's last step arrives, over its size."""
    pipeline = tiny.build(family)
    if "timestep_spacing" in pipeline.scheduler.config:  # else the last step of some starts where there is no noise
        pipeline.scheduler = type(pipeline.scheduler).from_config(
            pipeline.scheduler.config, timestep_spacing="trailing"
        )
    height, width = size_of(family)
    known, seen = inspect.signature(pipeline.__call__).parameters, []
    given = {"use_resolution_binning": False} if "use_resolution_binning" in known else {}
    if "callback_on_step_end" in known:
        given["callback_on_step_end"] = lambda _, __, ___, kept: seen.append(kept["latents"].clone()) or kept
    else:
        given["callback"] = lambda _, __, latents: seen.append(latents.clone())
    pipeline(
        prompt=["cat", "red dog"], height=height, width=width, num_inference_steps=steps, output_type="latent",
        guidance_scale=0.0 if family == "z_image" else 1.0, generator=torch.Generator().manual_seed(5), **given,
    )  # fmt: skip
    before, arrived = seen[-2], seen[-1]
    scheduler = pipeline.scheduler
    timestep = float(scheduler.timesteps[-1])
    if type(scheduler).__name__.startswith("Euler"):  # its samples are x_0 + sigma noise
        before = before / (1 + float(scheduler.sigmas[steps - 1]) ** 2) ** 0.5
    model = PipelineModel(pipeline)
    rows = model.conditions(["cat", "red dog"], (height, width))
    step = int(timestep) if timestep == int(timestep) else timestep
    with torch.no_grad():
        mine = model.denoiser.predict_clean(before, step, {RECEIVED: rows})
        if family == "sana":  # its scheduler cuts off what is behind the point of its timesteps, and not of its noise
            sigma = float(scheduler.sigmas[steps - 1])
            mine = before - sigma / (timestep / 1000) * (before - mine)
    return float((mine - arrived).abs().max() / arrived.abs().max()), timestep


NO_LORA = {"pixart_sigma"}  # diffusers' pipeline takes none; peft's own format works
KOHYA = {  # what kohya's trainers call the network, where diffusers converts their files
    "stable_diffusion": "lora_unet", "stable_diffusion_xl": "lora_unet", "flux": "lora_transformer",
    "qwen_image": "lora_unet", "z_image": "lora_unet",
}  # fmt: skip


def formats(family):
    return [*(["diffusers"] if family not in NO_LORA else []), "peft", *(["kohya"] if family in KOHYA else [])]


def lora(family, folder, kind, rank=2):
    """Random LoRA weights in one of three formats, and the network's weights with them: W + B A."""
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
    from safetensors.torch import save_file

    pipeline = tiny.build(family)
    network = tiny.network_of(pipeline)
    wanted = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    names = [
        name for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear) and name.rsplit(".", 1)[-1] in ("to_q", "to_v")
    ]  # fmt: skip
    wrapped = get_peft_model(network, LoraConfig(r=rank, lora_alpha=rank, target_modules=names))
    draws = torch.Generator().manual_seed(3)
    for name, weight in wrapped.named_parameters():
        if ".lora_" in name:
            weight.data = torch.randn(weight.shape, generator=draws)
    weights = {
        name.removeprefix("base_model.model."): weight for name, weight in get_peft_model_state_dict(wrapped).items()
    }
    for name in names:
        wanted[f"{name}.weight"] += weights[f"{name}.lora_B.weight"] @ weights[f"{name}.lora_A.weight"]
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "peft":
        wrapped.save_pretrained(folder)
        return folder, wanted
    component = "transformer" if getattr(pipeline, "transformer", None) is not None else "unet"
    if kind == "diffusers":
        type(pipeline).save_lora_weights(folder, **{f"{component}_lora_layers": weights})
        return folder, wanted
    save_file(kohya(weights, KOHYA[family], rank), folder / "kohya.safetensors")
    return folder / "kohya.safetensors", wanted


def kohya(weights, prefix, rank):
    """The same weights in the names of kohya's trainers: underscores for dots, up and down, and an alpha."""
    made = {}
    for name, weight in weights.items():
        layer, _, matrix = name.partition(".lora_")
        place = f"{prefix}_{layer.replace('.', '_')}"
        made[f"{place}.lora_{'down' if matrix.startswith('A') else 'up'}.weight"] = weight.contiguous()
        made[f"{place}.alpha"] = torch.tensor(float(rank))
    return made


def versions(before, after):
    return load_versions(before, after, device="cpu")
