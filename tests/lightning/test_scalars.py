"""What a boundary logs is what its tables say, under the same names, also where tasks have unequally many probes."""

import pytest
import torch

from hopfield_replay.lightning.logging import scalars
from hopfield_replay.lightning.views import changed, over_tasks, result
from hopfield_replay.tracker import overall
from tests.tracker.test_table import boundary, probe


def test_means_are_over_all_followed_samples_and_the_worst_task_is_there():
    record = boundary(2, probe(0, 41, 0), probe(1, 7, 1), probe(2, 9, 2))
    logged = scalars(record, None)
    rises = [(entry["error"] - entry["error_start"]).mean(1) for entry in record.probes[:2]]
    assert logged["forgetting/reconstruction/mean"] == pytest.approx(float(torch.cat(rises).mean()))
    assert logged["forgetting/reconstruction/worst"] == pytest.approx(max(float(rise.mean()) for rise in rises))
    for name in ("intrinsic", "reconstruction", "model_energy"):
        assert logged[f"forgetting/{name}/mean"] == overall(record)[name]
    assert logged["task"] == 2
    assert "forgetting/reconstruction/task_2" not in logged


def test_tasks_count_from_zero_in_figures_and_tables():
    pytest.importorskip("matplotlib")
    history = [boundary(task, *(probe(t, 5, 10 * task + t) for t in range(task + 1))) for task in range(3)]
    (axis,) = over_tasks(history).axes
    assert axis.get_xticks().tolist() == [0, 1, 2]
    assert axis.get_xlabel() == "after task"
    assert axis.get_legend_handles_labels()[1] == ["task 0", "task 1", "task 2"]
    table = result(history)
    assert [row[:2] for row in table.rows[: table.newest]] == [["2", "0"], ["2", "1"], ["2", "2"]]


def test_of_a_module_only_what_differs_from_its_defaults():
    class Module:
        def __init__(self, size, rate=0.1, width=8, name="a"):
            self.hparams = {"size": size, "rate": rate, "width": width, "name": name, "extra": 3, "net": object()}

    assert changed(Module(4, width=16)) == {"width": 16, "extra": 3}
