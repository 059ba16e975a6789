"""Two processes of which one runs out of memory at a boundary: both go on alike, or both say so, and none waits."""

import datetime

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from hopfield_replay import EnergyReplayBuffer, ForgettingTracker, TaskSource
from hopfield_replay.buffer import buffer
from hopfield_replay.denoisers import CallableDenoiser
from hopfield_replay.functional import _affinity_search, _nearest, _projection, many
from hopfield_replay.functional.affinity import StreamedAffinity
from hopfield_replay.memory import readings, settings
from hopfield_replay.policies import shortlist
from hopfield_replay.utilities import distributed
from tests.utilities.test_nested import same

DEVICE = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
HOST = RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 64 bytes.")
SAID = "There is not enough memory for"


def source(task, count=547):
    images = torch.randn(count, 60, generator=torch.Generator().manual_seed(task)) + task
    return TaskSource(DataLoader(TensorDataset(images), batch_size=50))


def made():
    return ForgettingTracker(
        EnergyReplayBuffer(20), probe_size=30, memory=1 << 20, encoder=nn.Identity(), timesteps=[2, 5]
    )


def denoiser():
    return CallableDenoiser(lambda x, t: x * 0.5, torch.linspace(0.99, 0.01, 20), prediction_type="sample")


def run(tracker, tasks=range(2)):
    for task in tasks:
        tracker.begin_task(source(task))
        tracker.end_task(source(task), denoiser=denoiser())
    return {
        "ids": tracker.buffer.ids,
        "weights": tracker.buffer.weights,
        "energies": [probe.energy for record in tracker.history for probe in record.probes],
        "errors": [probe.error for record in tracker.history for probe in record.probes],
        "beta": tracker.beta,
    }


def full(owner, name, most, error=DEVICE, rows=0):
    """A function that fails where it is given more than so many rows."""
    function = getattr(owner, name)

    def called(*arguments, **options):
        if len(arguments[rows]) > most:
            raise error
        return function(*arguments, **options)

    return owner, name, called


# what is short of memory on one process, where more than a few samples are computed together
HALVED = {
    "the search": lambda: full(_affinity_search.Search, "_largest", 3, rows=1),
    "the search on the host": lambda: full(_affinity_search.Search, "_largest", 3, HOST, rows=1),
    "energies": lambda: full(many, "energy", 9),
    "neighbours": lambda: full(many, "effective_patterns", 9),
    "weights": lambda: full(_nearest.NearestOne, "of", 9, rows=1),
    "the encoder": lambda: full(nn.Identity, "forward", 9, rows=1),
    "the model": lambda: full(CallableDenoiser, "predict_clean", 9, rows=1),
}
# where there is none at all, and what is said
NONE = {
    "the search": (lambda: full(_affinity_search.Search, "_largest", 0, rows=1), "The affinities do not fit"),
    "the search on the host": (lambda: full(_affinity_search.Search, "_largest", 0, HOST, rows=1), SAID),
    "what is searched": (lambda: full(_projection.Projection, "apply", 0, HOST, rows=1), SAID),
    "affinities": (lambda: full(StreamedAffinity, "__init__", 0, HOST, rows=1), SAID),
    "the choice": (lambda: full(buffer, "choose", 0, HOST), SAID),
    "calibration": (lambda: full(settings, "calibrate_beta", 0, HOST), SAID),
    "scores of the calibration": (lambda: full(readings, "pieces", 0, HOST), SAID),
    "energies": (lambda: full(many, "energy", 0, HOST), SAID),
    "neighbours": (lambda: full(many, "effective_patterns", 0), "The patterns do not fit"),
    "weights": (lambda: full(_nearest.NearestOne, "of", 0, rows=1), "The kept samples do not fit"),
    "the second choice": (lambda: full(buffer, "predicted_rises", 0, HOST), SAID),
    "the encoder": (lambda: full(nn.Identity, "forward", 0, rows=1), "The encoder does not fit"),
    "the model": (lambda: full(CallableDenoiser, "predict_clean", 0, rows=1), "The model does not fit"),
    "what travels": (lambda: full(distributed, "_room", 0, HOST), SAID),
    "an error of another kind": (lambda: full(buffer, "choose", 0, ValueError("something odd")), "something odd"),
}


def under(change, do, rank):
    """What it does while the process of this rank is so short of memory; an error as text."""
    owner, name, called = change()
    before = getattr(owner, name)
    if dist.get_rank() == rank:
        setattr(owner, name, called)
    try:
        return do()
    except (RuntimeError, MemoryError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        setattr(owner, name, before)


def work(rank, folder):
    torch.set_num_threads(1)
    time = datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=time)
    shortlist.MATRIX, distributed._LARGE = 100, 0
    found = {"halved": {name: under(change, lambda: run(made()), 1) for name, change in HALVED.items()}}
    found["none"] = {
        name: under(change, lambda: run(made()), number % 2) for number, (name, (change, _)) in enumerate(NONE.items())
    }
    tracker = made()
    found["began"] = under(NONE["scores of the calibration"][0], lambda: tracker.begin_task(source(0)), 1)
    tracker.begin_task(source(0))
    found["ended"] = under(NONE["the choice"][0], lambda: tracker.end_task(source(0), denoiser=denoiser()), 1)
    tracker.end_task(source(0), denoiser=denoiser())
    found["after"] = run(tracker, range(1, 2))
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full")
    torch.multiprocessing.spawn(work, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module")
def alone():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shortlist, "MATRIX", 100)
        return run(made())


def assert_equal(one, other):
    assert torch.equal(one["ids"], other["ids"])
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.heavy
@pytest.mark.parametrize("name", HALVED)
def test_both_take_fewer_at_a_time_and_choose_as_one_process_does(name, found, alone):
    for ours in found:
        assert_equal(ours["halved"][name], alone)


@pytest.mark.heavy
@pytest.mark.parametrize("name", NONE)
def test_both_say_what_happened(name, found):
    failed, said = list(NONE).index(name) % 2, NONE[name][1]
    own, other = (found[rank]["none"][name] for rank in (failed, 1 - failed))
    assert said in own
    assert own.startswith(("MemoryError", "ModelDoesNotFit", "ValueError"))
    assert said in other
    assert f"Process {failed} failed while" in other or other.startswith("MemoryError: There is not enough memory for")


@pytest.mark.heavy
def test_what_failed_can_be_tried_again(found, alone):
    for ours in found:
        assert "There is not enough memory for" in ours["began"]
        assert "There is not enough memory for" in ours["ended"]
        assert_equal(ours["after"], alone)


def test_a_device_that_is_full_takes_fewer_at_a_time(alone, monkeypatch):
    monkeypatch.setattr(shortlist, "MATRIX", 100)
    for change in HALVED.values():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(*change())
            assert_equal(run(made()), alone)


@pytest.mark.parametrize("name", sorted(set(NONE) - {"what travels", "an error of another kind"}))
def test_without_any_it_is_said_and_nothing_has_changed(name, alone, monkeypatch):
    monkeypatch.setattr(shortlist, "MATRIX", 100)
    change, said = NONE[name]
    tracker = made()
    tracker.begin_task(source(0))
    tracker.end_task(source(0), denoiser=denoiser())
    before = tracker.state_dict()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(*change())
        if name in ("calibration", "scores of the calibration"):  # which is the first task's
            with pytest.raises(MemoryError, match=said):
                made().begin_task(source(0))
            return
        with pytest.raises(MemoryError, match=said):
            run(tracker, range(1, 2))
    after = tracker.state_dict()
    if after["open_task"] is None:
        assert same(before, after)
    assert same(before["history"], after["history"])
    assert_equal(run(tracker, range(1, 2)), alone)
