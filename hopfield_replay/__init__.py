"""Hopfield energies for continual learning of diffusion models: what is forgotten, and what to replay.

Public names load on first use: ``import hopfield_replay`` alone imports neither torch-based frameworks nor plotting.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hopfield_replay.__about__ import __version__ as __version__

if TYPE_CHECKING:
    from hopfield_replay import functional as functional
    from hopfield_replay.analysis import AuditReport as AuditReport
    from hopfield_replay.analysis import Forecast as Forecast
    from hopfield_replay.analysis import RunReport as RunReport
    from hopfield_replay.analysis import SelectionReport as SelectionReport
    from hopfield_replay.analysis import audit as audit
    from hopfield_replay.analysis import forecast as forecast
    from hopfield_replay.analysis import run_report as run_report
    from hopfield_replay.analysis import select as select
    from hopfield_replay.buffer import EnergyReplayBuffer as EnergyReplayBuffer
    from hopfield_replay.buffer import ReplayBatches as ReplayBatches
    from hopfield_replay.guidance import MemoryGuidance as MemoryGuidance
    from hopfield_replay.lightning import ForgettingMonitor as ForgettingMonitor
    from hopfield_replay.lightning import ReplayDataModule as ReplayDataModule
    from hopfield_replay.lightning import ReplayDistillation as ReplayDistillation
    from hopfield_replay.lightning import ReplayLoader as ReplayLoader
    from hopfield_replay.lightning import fit_tasks as fit_tasks
    from hopfield_replay.memory import Diagnosis as Diagnosis
    from hopfield_replay.memory import HopfieldMemory as HopfieldMemory
    from hopfield_replay.memory import beta_at_timestep as beta_at_timestep
    from hopfield_replay.memory import calibrate_beta as calibrate_beta
    from hopfield_replay.policies import GreedyGain as GreedyGain
    from hopfield_replay.policies import balanced as balanced
    from hopfield_replay.tracker import ForgettingTracker as ForgettingTracker
    from hopfield_replay.tracker import GeneratedTask as GeneratedTask
    from hopfield_replay.tracker import TaskSource as TaskSource

_HOMES = {
    "AuditReport": "analysis",
    "Diagnosis": "memory",
    "EnergyReplayBuffer": "buffer",
    "Forecast": "analysis",
    "ForgettingMonitor": "lightning",
    "ForgettingTracker": "tracker",
    "GeneratedTask": "tracker",
    "GreedyGain": "policies",
    "HopfieldMemory": "memory",
    "MemoryGuidance": "guidance",
    "ReplayBatches": "buffer",
    "ReplayDataModule": "lightning",
    "ReplayDistillation": "lightning",
    "ReplayLoader": "lightning",
    "RunReport": "analysis",
    "SelectionReport": "analysis",
    "TaskSource": "tracker",
    "audit": "analysis",
    "balanced": "policies",
    "beta_at_timestep": "memory",
    "calibrate_beta": "memory",
    "fit_tasks": "lightning",
    "forecast": "analysis",
    "run_report": "analysis",
    "select": "analysis",
}

__all__ = ["functional", *_HOMES]


def __getattr__(name: str) -> Any:
    if name == "functional":
        return import_module("hopfield_replay.functional")
    if name in _HOMES:
        return getattr(import_module(f"hopfield_replay.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES, "functional"])
