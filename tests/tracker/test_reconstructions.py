"""Pictures of reconstructions are what the model makes of the samples, and go where the samples go."""

import numpy as np
import pytest
import torch

from hopfield_replay import ForgettingTracker, TaskSource
from hopfield_replay.denoisers import CallableDenoiser
from hopfield_replay.tracker.reconstructions import Reconstructions
from hopfield_replay.tracker.removal import state_without

SCHEDULE = torch.linspace(0.99, 0.01, 10)


def constant(value):
    """A model that says the same of everything."""
    return CallableDenoiser(lambda x, t: torch.full_like(x, value), SCHEDULE, prediction_type="sample")


def run(denoisers, shape=(1, 4, 4), **settings):
    tracker = ForgettingTracker(probe_size=20, **settings)
    generator = torch.Generator().manual_seed(0)
    for denoiser in denoisers:
        source = TaskSource([torch.rand(16, *shape, generator=generator)])
        tracker.begin_task(source)
        tracker.end_task(source, denoiser=denoiser)
    return tracker


def test_before_and_after_are_what_the_model_said():
    tracker = run([constant(0.2), constant(0.6), constant(1.0)])
    most = tracker.pictures.most
    record = tracker.history[-1]
    rises = {
        (p.task, int(i)): float(r) for p in record.probes[:2] for i, r in zip(p.ids, p.reconstruction, strict=True)
    }
    worst = sorted(rises, key=rises.get, reverse=True)[:12]
    assert list(zip(most.tasks.tolist(), most.ids.tolist(), strict=True)) == worst
    for at, (task, sample_id) in enumerate(worst):
        batch, ids = tracker.probe(task).batch, tracker.probe(task).ids.tolist()
        clean = batch[ids.index(sample_id)][0].numpy()
        np.testing.assert_allclose(most.sample[at, ..., 0].numpy(), clean * 255, atol=0.51)
        assert most.before[at].unique().tolist() == [round((0.2, 0.6)[task] * 255)]
        assert most.after[at].unique().tolist() == [255]
    assert most.sample.dtype == torch.uint8


def test_they_are_part_of_the_state_and_leave_with_their_samples():
    tracker = run([constant(0.2), constant(1.0)])
    state = tracker.state_dict()
    again = ForgettingTracker(probe_size=20)
    again.load_state_dict(state)
    assert torch.equal(again.pictures.most.before, tracker.pictures.most.before)
    gone = tracker.pictures.most.ids[:3]
    for left in (tracker, again):
        if left is tracker:
            left.remove(gone)
        else:
            left.load_state_dict(state_without(state, gone))
        assert not torch.isin(left.pictures.most.ids, gone).any()
        assert len(left.pictures.most.sample) == 9
        assert not torch.isin(left.pictures.learned[0][0], gone).any()
        assert len(left.pictures.learned[0][1]) == 13
    tracker.remove(tracker.probe(0).ids)
    assert tracker.pictures.most is None
    assert list(tracker.pictures.learned) == [1]


def test_an_old_state_has_none_and_a_damaged_one_is_refused():
    state = run([constant(0.2), constant(1.0)]).state_dict()
    old = {name: value for name, value in state.items() if name != "pictures"}
    tracker = ForgettingTracker(probe_size=20)
    tracker.load_state_dict(old)
    assert tracker.pictures.most is None
    for damage in (
        {"learned": {"0": {"ids": torch.arange(3), "drawn": torch.zeros(2, 4, 4, 3, dtype=torch.uint8)}}, "most": None},
        {"learned": {"0": {"ids": torch.arange(3), "drawn": torch.zeros(3, 4, 4, 3)}}, "most": None},
        {"learned": {"cat": {}}, "most": None},
        {"learned": {}, "most": {"tasks": 3}},
        {"learned": 4},
        7,
    ):
        with pytest.raises(ValueError, match="damaged"):
            tracker.load_state_dict({**state, "pictures": damage})


def test_samples_that_are_no_pictures_and_models_that_fail_cost_nothing_else():
    assert run([constant(0.2), constant(1.0)], shape=(5,)).pictures == Reconstructions()
    assert run([None, None]).pictures.most is None
    calls = []

    def fails(x, t):
        calls.append(len(x))
        if len(calls) > 5:  # after the errors, when pictures are drawn
            raise RuntimeError("no more")
        return torch.zeros_like(x)

    tracker = run([CallableDenoiser(fails, SCHEDULE, prediction_type="sample")])
    assert tracker.history[0].probes[0].error is not None
    assert tracker.pictures == Reconstructions()


def test_what_was_learned_before_pictures_were_kept_has_none_of_then():
    tracker = run([constant(0.2)])
    tracker._pictures = Reconstructions()  # as after an older state
    source = TaskSource([torch.rand(16, 1, 4, 4)])
    tracker.begin_task(source)
    tracker.end_task(source, denoiser=constant(1.0))
    assert tracker.pictures.most.before is None
    assert tracker.pictures.most.after.unique().tolist() == [255]
