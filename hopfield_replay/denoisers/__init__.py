"""How to noise and denoise with the user's model."""

from hopfield_replay.denoisers.callable import CallableDenoiser
from hopfield_replay.denoisers.diffusers import DiffusersDenoiser
from hopfield_replay.denoisers.discovery import find_denoiser
from hopfield_replay.denoisers.schedule import ContinuousSchedule, FlowSchedule, Prediction, Schedule, VarianceSchedule
from hopfield_replay.denoisers.scheduled import ScheduledDenoiser
from hopfield_replay.functional.denoiser import Denoiser

__all__ = [
    "CallableDenoiser",
    "ContinuousSchedule",
    "Denoiser",
    "DiffusersDenoiser",
    "FlowSchedule",
    "Prediction",
    "Schedule",
    "ScheduledDenoiser",
    "VarianceSchedule",
    "find_denoiser",
]
