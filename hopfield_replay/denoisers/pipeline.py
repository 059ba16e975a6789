"""Denoiser of a saved diffusers pipeline."""

from pathlib import Path

from torch import nn

from hopfield_replay.denoisers.discovery import find_denoiser
from hopfield_replay.functional.denoiser import Denoiser


def load_pipeline(path: str) -> Denoiser:
    """Load a folder written by ``pipeline.save_pretrained`` and find its denoiser.

    Args:
        path: the folder, with ``model_index.json``.

    Raises:
        ImportError: diffusers is not installed.
        ValueError: no such folder, or a pipeline without a network and its scheduler.
    """
    try:
        from diffusers import DiffusionPipeline
    except ImportError as error:
        raise ImportError('Saved pipelines need diffusers: pip install "hopfield-replay[diffusion]".') from error
    if not (Path(path) / "model_index.json").is_file():
        raise ValueError(f"{path} holds no model_index.json: give a folder written by a pipeline's save_pretrained.")
    holder = nn.Module()
    holder.pipeline = DiffusionPipeline.from_pretrained(path, local_files_only=True)
    found = find_denoiser(holder)
    if found is None:
        raise ValueError(f"The pipeline in {path} holds no denoising network with a scheduler.")
    return found
