"""The theory, reproduced: tractable settings, task changes, and experiments that anybody can run and try to break.

Every ``reproduce_*`` function takes plain numbers and returns a result with ``table()``, ``figure()``, ``findings()``
and ``to_dict()``; :func:`reproduce_all` writes a report of them all. Names load on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hopfield_replay.theory.boltzmann import HopfieldBoltzmann as HopfieldBoltzmann
    from hopfield_replay.theory.boltzmann_replay import BoltzmannResult as BoltzmannResult
    from hopfield_replay.theory.boltzmann_replay import reproduce_boltzmann as reproduce_boltzmann
    from hopfield_replay.theory.changes import NewTask as NewTask
    from hopfield_replay.theory.changes import Replacement as Replacement
    from hopfield_replay.theory.changes import Rotation as Rotation
    from hopfield_replay.theory.changes import Task as Task
    from hopfield_replay.theory.changes import TaskChange as TaskChange
    from hopfield_replay.theory.changes import Translation as Translation
    from hopfield_replay.theory.changes import WithReplay as WithReplay
    from hopfield_replay.theory.estimate import Estimate as Estimate
    from hopfield_replay.theory.falsify import FalsifyResult as FalsifyResult
    from hopfield_replay.theory.falsify import reproduce_falsify as reproduce_falsify
    from hopfield_replay.theory.recovery import RecoveryResult as RecoveryResult
    from hopfield_replay.theory.recovery import measure_recovery as measure_recovery
    from hopfield_replay.theory.recovery import reproduce_recovery as reproduce_recovery
    from hopfield_replay.theory.replay_gain import ReplayGainResult as ReplayGainResult
    from hopfield_replay.theory.replay_gain import measure_replay_gain as measure_replay_gain
    from hopfield_replay.theory.replay_gain import reproduce_replay_gain as reproduce_replay_gain
    from hopfield_replay.theory.report import Report as Report
    from hopfield_replay.theory.report import reproduce_all as reproduce_all
    from hopfield_replay.theory.result import markdown_table as markdown_table
    from hopfield_replay.theory.rise import RiseResult as RiseResult
    from hopfield_replay.theory.rise import measure_rise as measure_rise
    from hopfield_replay.theory.rise import reproduce_rise as reproduce_rise
    from hopfield_replay.theory.selection import SelectionResult as SelectionResult
    from hopfield_replay.theory.selection import compare_policies as compare_policies
    from hopfield_replay.theory.selection import reproduce_selection as reproduce_selection
    from hopfield_replay.theory.settings import Setting as Setting
    from hopfield_replay.theory.settings import by_energy as by_energy
    from hopfield_replay.theory.settings import cluster_and_outlier as cluster_and_outlier
    from hopfield_replay.theory.settings import digits as digits
    from hopfield_replay.theory.settings import from_file as from_file
    from hopfield_replay.theory.settings import mixed_density as mixed_density
    from hopfield_replay.theory.settings import several_clusters as several_clusters

_HOMES = {
    "HopfieldBoltzmann": "boltzmann",
    "BoltzmannResult": "boltzmann_replay",
    "reproduce_boltzmann": "boltzmann_replay",
    "NewTask": "changes",
    "Replacement": "changes",
    "Rotation": "changes",
    "Task": "changes",
    "TaskChange": "changes",
    "Translation": "changes",
    "WithReplay": "changes",
    "Estimate": "estimate",
    "FalsifyResult": "falsify",
    "reproduce_falsify": "falsify",
    "RecoveryResult": "recovery",
    "measure_recovery": "recovery",
    "reproduce_recovery": "recovery",
    "ReplayGainResult": "replay_gain",
    "measure_replay_gain": "replay_gain",
    "reproduce_replay_gain": "replay_gain",
    "Report": "report",
    "reproduce_all": "report",
    "markdown_table": "result",
    "RiseResult": "rise",
    "measure_rise": "rise",
    "reproduce_rise": "rise",
    "SelectionResult": "selection",
    "compare_policies": "selection",
    "reproduce_selection": "selection",
    "Setting": "settings",
    "by_energy": "settings",
    "cluster_and_outlier": "settings",
    "digits": "settings",
    "from_file": "settings",
    "mixed_density": "settings",
    "several_clusters": "settings",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"hopfield_replay.theory.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
