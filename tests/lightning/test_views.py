"""What a boundary shows is read off its record by hand."""

import numpy as np
import pytest
import torch

from hopfield_replay import EnergyReplayBuffer, ForgettingTracker, TaskSource
from hopfield_replay.functional import reconstruction_error
from hopfield_replay.lightning import views
from hopfield_replay.utilities.nested import identity
from tests.lightning.test_monitor import Shrink


class Drifting(Shrink):
    """Worse for bright samples with every task."""

    def predict_clean(self, noisy, timestep, condition=None):
        return noisy * (1.0 - self.factor * noisy.mean((1, 2, 3), keepdim=True))


def boundary(tasks=3, capacity=6, groups=None, denoiser=Drifting):
    buffer = EnergyReplayBuffer(capacity, groups=groups)
    tracker = ForgettingTracker(buffer, probe_size=7)
    generator = torch.Generator().manual_seed(0)
    for task in range(tasks):
        data = TaskSource([(torch.rand(12, 1, 5, 5, generator=generator) + task, torch.arange(12) % 3)])
        tracker.begin_task(data)
        held = (buffer.ids, buffer.tasks)
        model = None if denoiser is None else denoiser(0.1 * task)
        tracker.end_task(data, denoiser=model, replay_ratio=0.5)
    return views.Boundary(tracker, held, model, identity)


def test_turnover_counts_ids():
    found = boundary()
    before, after = set(found.held[0].tolist()), set(found.buffer.ids.tolist())
    assert after - before
    assert before - after
    for task, counts in found.turnover.items():
        mine = [{i for i in ids if i >> 40 == task} for ids in (before & after, after - before, before - after)]
        assert counts == tuple(map(len, mine))
    assert sum(map(sum, found.turnover.values())) == len(before | after)


def test_most_forgotten_are_shown_with_their_errors(monkeypatch):
    pytest.importorskip("matplotlib")
    found, shown = boundary(), {}
    monkeypatch.setattr(views, "picture_rows", lambda rows, **given: shown.update(rows=rows, **given))
    views.most_forgotten(found)
    probes = found.record["probes"][:2]
    rises = np.concatenate([(probe["error"] - probe["error_start"]).mean(1) for probe in probes])
    worst = np.argsort(-rises, kind="stable")[:6]
    (_, samples), (noised, noisy), (_, denoised) = shown["rows"]
    assert noised == "noised to t = 3"
    step = found.record["timesteps"].index(3)
    for row, position in enumerate(worst):
        task, place = divmod(int(position), 7)
        torch.testing.assert_close(samples[row], found.tracker.probe(task)["batch"][0][place])
        errors = [float(probes[task][name][place, step]) for name in ("error_start", "error")]
        assert shown["captions"][row] == f"task {task}\n{errors[0]:.2g} to\n{errors[1]:.2g}"
        assert float((denoised[row] - samples[row]).square().mean()) == pytest.approx(errors[1])
        again = reconstruction_error(
            found.denoiser, samples[row][None], [3], noise_seed=0, ids=probes[task]["ids"][[place]]
        )
        assert float(again) == pytest.approx(errors[1])
    torch.testing.assert_close(denoised, found.denoiser.predict_clean(noisy, 3))


def test_the_buffer_is_shown_task_by_task(monkeypatch):
    pytest.importorskip("matplotlib")
    found, shown = boundary(groups="task"), {}
    monkeypatch.setattr(views, "picture_rows", lambda rows, **given: shown.update(rows=rows, **given))
    views.contents(found)
    assert [name for name, _ in shown["rows"]] == [f"task {task}: 2 of 2 kept" for task in range(3)]
    for task, (_, samples) in enumerate(shown["rows"]):
        mine = found.buffer.tasks == task
        torch.testing.assert_close(samples.flatten(1), found.buffer.vectors[mine])


@pytest.mark.heavy
@pytest.mark.parametrize("groups", [None, "task", "label"])
def test_protection_counts_each_groups_best_first(groups, monkeypatch):
    found, given = boundary(groups=groups), []
    monkeypatch.setattr(views, "protection_curve", lambda kept, followed, *_, **__: given.append((kept, followed)))
    assert found.protection is None
    ((kept, followed),) = given
    assert len(followed) == 21
    group = {"task": found.buffer.tasks, "label": found.buffer.labels}.get(groups, torch.zeros(6)).tolist()
    places = [group[:i].count(group[i]) for i in range(6)]
    expected = sorted(range(6), key=lambda i: (places[i], i))
    torch.testing.assert_close(kept, found.buffer.vectors[expected])


def test_table_and_settings():
    found = boundary(denoiser=None)
    table = views.result(found.tracker.history)
    assert [row[:2] for row in table.rows] == [["2", "0"], ["2", "1"], ["2", "2"], ["1", "0"], ["1", "1"], ["0", "0"]]
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert table.rows[0][table.columns.index("reconstruction forgetting")] == ""
    assert views.settings(found)["replay_ratio"] == 0.5
    empty = views.Boundary(ForgettingTracker(), None, None, identity)
    empty.tracker.history.append(found.record)
    assert empty.turnover == {}
    assert views.settings(empty)["policy"] == "none"


def test_nothing_is_drawn_of_nothing():
    first = boundary(tasks=1)
    drawn = {name: draw() for name, draw in views.figures(first).items() if not name.startswith("3_")}
    assert set(drawn.values()) == {None}
    without = boundary(denoiser=None)
    assert views.most_forgotten(without) is None


def test_without_errors_the_energy_is_followed_over_tasks():
    pytest.importorskip("matplotlib")
    found = boundary(denoiser=None)
    (axis,) = views.over_tasks(found.tracker.history).axes
    assert axis.get_ylabel().startswith("intrinsic forgetting")
    at = [record["probes"][0] for record in found.tracker.history]
    expected = [[i, float((p["energy"] - p["energy_start"]).mean())] for i, p in enumerate(at)]
    np.testing.assert_allclose(axis.lines[0].get_xydata(), expected)
