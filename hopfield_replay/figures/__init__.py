"""Every figure, as a function from plain tensors, records and numbers to a matplotlib Figure.

All are 800 pixels wide at their own resolution, in colours that every kind of colour vision tells apart, with markers,
lines or hatches that do so in grey. Needs matplotlib: pip install "hopfield-replay[tensorboard]".
"""

from hopfield_replay.figures.audit import error_change, rises_by_group
from hopfield_replay.figures.buffer import buffer_turnover, protected_energy_curve
from hopfield_replay.figures.contact_sheet import contact_sheet
from hopfield_replay.figures.forecast import rises_and_protection
from hopfield_replay.figures.forgetting import energy_against_forgetting, forgetting_over_tasks
from hopfield_replay.figures.gallery import picture_rows
from hopfield_replay.figures.series import rises_over_versions
from hopfield_replay.figures.theory_gains import protected_by_policy, recovery_by_rotation, replay_gains
from hopfield_replay.figures.theory_regions import where_the_rule_holds
from hopfield_replay.figures.theory_rises import energy_rises, learned_rises_and_gains
from hopfield_replay.utilities.drawing import legend_above, new_figure, panels, series_style
from hopfield_replay.utilities.pictures import as_pictures

__all__ = [
    "as_pictures",
    "buffer_turnover",
    "contact_sheet",
    "energy_against_forgetting",
    "energy_rises",
    "error_change",
    "forgetting_over_tasks",
    "learned_rises_and_gains",
    "legend_above",
    "new_figure",
    "panels",
    "picture_rows",
    "protected_by_policy",
    "protected_energy_curve",
    "recovery_by_rotation",
    "replay_gains",
    "rises_and_protection",
    "rises_by_group",
    "rises_over_versions",
    "series_style",
    "where_the_rule_holds",
]
