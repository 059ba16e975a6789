"""How to noise and denoise with the user's model: given, found, or inferred from its training step."""

from hopfield_replay.denoisers.averages import Average, find_averages
from hopfield_replay.denoisers.callable import CallableDenoiser
from hopfield_replay.denoisers.delegating import DelegatingDenoiser
from hopfield_replay.denoisers.diffusers import DiffusersDenoiser
from hopfield_replay.denoisers.discovery import find_denoiser
from hopfield_replay.denoisers.held_network import HeldNetwork
from hopfield_replay.denoisers.schedule import ContinuousSchedule, FlowSchedule, Prediction, Schedule, VarianceSchedule
from hopfield_replay.denoisers.scheduled import ScheduledDenoiser
from hopfield_replay.denoisers.trust import Trust, watch_step
from hopfield_replay.denoisers.witness import Witness
from hopfield_replay.functional.denoiser import Denoiser

__all__ = [
    "Average",
    "CallableDenoiser",
    "ContinuousSchedule",
    "DelegatingDenoiser",
    "Denoiser",
    "DiffusersDenoiser",
    "FlowSchedule",
    "HeldNetwork",
    "Prediction",
    "Schedule",
    "ScheduledDenoiser",
    "Trust",
    "VarianceSchedule",
    "Witness",
    "find_averages",
    "find_denoiser",
    "watch_step",
]
