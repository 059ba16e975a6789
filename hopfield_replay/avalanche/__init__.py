"""The Avalanche integration: storage policy, plugin, metrics, strategies (pip install "hopfield-replay[avalanche]")."""

import warnings

try:
    with warnings.catch_warnings():
        # avalanche's GEM plugin imports qpsolvers, which warns where no solver is installed; nothing here needs one
        warnings.filterwarnings("ignore", message="no QP solver found", category=UserWarning)
        import avalanche.training  # noqa: F401
except ImportError as error:
    raise ImportError(
        'hopfield_replay.avalanche needs avalanche-lib: pip install "hopfield-replay[avalanche]".'
    ) from error

from hopfield_replay.avalanche.checkpoint import load_checkpoint, save_checkpoint
from hopfield_replay.avalanche.denoiser import Denoiser, denoising_loss
from hopfield_replay.avalanche.diffusion_training import DiffusionTraining
from hopfield_replay.avalanche.evaluator import loss_evaluator
from hopfield_replay.avalanche.lightning_module_training import LightningModuleTraining
from hopfield_replay.avalanche.metrics import IntrinsicForgetting, ReconstructionForgetting
from hopfield_replay.avalanche.replay_loader import ReplayMinibatchLoader
from hopfield_replay.avalanche.replay_plugin import EnergyReplayPlugin
from hopfield_replay.avalanche.selection_strategy import EnergySelectionStrategy
from hopfield_replay.avalanche.storage_policy import EnergyPrioritizedBuffer
from hopfield_replay.avalanche.wandb_logger import WandBLogger

__all__ = [
    "Denoiser",
    "DiffusionTraining",
    "EnergyPrioritizedBuffer",
    "EnergyReplayPlugin",
    "EnergySelectionStrategy",
    "IntrinsicForgetting",
    "LightningModuleTraining",
    "ReconstructionForgetting",
    "ReplayMinibatchLoader",
    "WandBLogger",
    "denoising_loss",
    "load_checkpoint",
    "loss_evaluator",
    "save_checkpoint",
]
