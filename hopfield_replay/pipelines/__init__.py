"""Text-to-image pipelines, read by watching one step of their own call: no code for any one family."""

from hopfield_replay.pipelines.denoiser import RECEIVED, PipelineDenoiser
from hopfield_replay.pipelines.model import PipelineModel, takes_prompts
from hopfield_replay.pipelines.rehearsal import CannotBeReadError
from hopfield_replay.pipelines.rows import Row

__all__ = ["RECEIVED", "CannotBeReadError", "PipelineDenoiser", "PipelineModel", "Row", "takes_prompts"]
