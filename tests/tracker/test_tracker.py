"""ForgettingTracker against a history written down literally in numpy; resumed, interrupted and fed with bad data."""

import io

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from hopfield_replay import EnergyReplayBuffer, ForgettingTracker, TaskSource, calibrate_beta
from hopfield_replay.tracker import task_reader
from hopfield_replay.tracker import tracker as tracker_module
from tests.functional import numpy_energy as reference
from tests.policies.test_candidates import key
from tests.utilities.test_nested import same

SIZES = (9, 8, 7)
BETA = 0.7


def task_data(task, n=None, seed=0, d=3):
    rng = np.random.default_rng(100 * seed + task)
    return torch.from_numpy(rng.normal(size=(SIZES[task] if n is None else n, d)) + 1.5 * task).float()


def source(images, batch_size=4):
    """Shuffled, as training loaders are, with labels."""
    data = TensorDataset(images, torch.arange(len(images)) % 2)
    return TaskSource(DataLoader(data, batch_size=batch_size, shuffle=len(images) > 0))


class Mean:
    """A model that knows one image, whatever the noise: errors can be written down."""

    num_timesteps = 40

    def __init__(self, image):
        self.image = image

    def noise(self, clean, timestep, noise):
        return clean + noise

    def predict_clean(self, noisy, timestep, condition=None):
        return (self.image * (1 + timestep)).expand_as(noisy)

    def snr(self, timestep):
        return 1.0


class Shrink(Mean):
    """A model that never changes, whose errors depend on the noise."""

    def predict_clean(self, noisy, timestep, condition=None):
        return noisy * self.image


class Broken(Mean):
    def predict_clean(self, noisy, timestep, condition=None):
        raise RuntimeError("out of memory")


def model_after(task):
    return Mean(task_data(task).mean(0))


def run(tracker, *, held_out=False, ratio=0.25, denoiser=model_after, tasks=range(3)):
    for task in tasks:
        data = source(task_data(task))
        tracker.begin_task(data)
        probes = source(task_data(task, 6, seed=1)) if held_out else None
        tracker.end_task(data, denoiser=denoiser(task), replay_ratio=ratio, probe_source=probes)
    return tracker


def make(capacity=6, **options):
    buffer = None if capacity is None else EnergyReplayBuffer(capacity, "high_energy", groups=None)
    return ForgettingTracker(buffer, **{"beta": BETA, "probe_size": 4, "timesteps": [0, 2], "seed": 5, **options})


def literal_history(capacity, held_out, ratio):
    """The history again: one probe and one pattern at a time."""
    history, probes, kept = [], {}, []  # kept: (energy, id, vector)
    for task in range(3):
        x = task_data(task).double().numpy()
        ids = [(task << 40) + i for i in range(len(x))]
        patterns, masses, names = list(x), [1.0] * len(x), list(ids)
        replayed = {i for _, i, _ in kept}
        if kept:
            masses = [(1 - ratio) / len(x)] * len(x) + [ratio / len(kept)] * len(kept)
            patterns += [vector for _, _, vector in kept]
            names += [i for _, i, _ in kept]
        model = x.astype(np.float32).mean(0).astype(np.float64)
        if held_out:
            y = task_data(task, 6, seed=1).double().numpy()
            everything = {(task << 40) + (1 << 39) + i: row for i, row in enumerate(y)}
        else:
            everything = dict(zip(ids, x, strict=True))
        first = sorted(everything, key=lambda i: -key(i, (-1 - 5) % 2**64))[:4]
        probes[task] = {i: everything[i] for i in sorted(first)}
        record = {"task": task, "replayed": len(kept), "probes": []}
        for owner, mine in probes.items():
            own = np.array([names.index(i) if i in names else -1 for i in mine])
            values = np.array(list(mine.values()))
            record["probes"].append(
                {
                    "task": owner,
                    "ids": list(mine),
                    "stored": [i in replayed for i in mine],
                    "energy": reference.energy(values, np.array(patterns), BETA, masses=np.array(masses), exclude=own),
                    "error": np.array(
                        [[np.mean((row - model * (1 + step)) ** 2) for step in (0, 2)] for row in values]
                    ),
                }
            )
        for entry in record["probes"]:
            first = history[entry["task"]]["probes"][entry["task"]] if entry["task"] < task else entry
            last = history[-1]["probes"][entry["task"]] if entry["task"] < task else entry
            for name in ("energy", "error"):
                entry[f"{name}_start"], entry[f"{name}_before"] = first[name], last[name]
        alone = reference.energy(x, x, BETA, exclude=np.arange(len(x)))
        if capacity is not None:
            kept = sorted([*kept, *zip(alone, ids, x, strict=True)], key=lambda item: -item[0])[:capacity]
        shares = reference.effective_patterns(x, x, BETA, exclude=np.arange(len(x)))
        record["n_eff"] = np.sort(shares)[(len(shares) - 1) // 2]
        history.append(record)
    return history


@pytest.mark.heavy
@pytest.mark.parametrize("held_out", [False, True], ids=["training probes", "held-out probes"])
@pytest.mark.parametrize(("capacity", "ratio"), [(None, 0.0), (6, 0.25), (6, 0.0), (30, 0.5)])
def test_history_is_the_ledger(capacity, ratio, held_out):
    tracker = run(make(capacity), held_out=held_out, ratio=ratio)
    expected = literal_history(capacity if ratio else None, held_out, ratio)
    assert len(tracker.history) == 3
    for found, wanted in zip(tracker.history, expected, strict=True):
        assert found["task"] == wanted["task"]
        assert found["replayed"] == wanted["replayed"]
        assert found["replay_ratio"] == (ratio if wanted["replayed"] else 0.0)
        assert found["beta"] == BETA
        assert found["timesteps"] == [0, 2]
        assert found["seconds"] > 0
        np.testing.assert_allclose(found["n_eff"], wanted["n_eff"], rtol=1e-9)
        for a, b in zip(found["probes"], wanted["probes"], strict=True):
            assert a["task"] == b["task"]
            assert a["ids"].tolist() == b["ids"]
            assert a["stored"].tolist() == b["stored"]
            for name in ("energy", "energy_before", "energy_start", "error", "error_before", "error_start"):
                np.testing.assert_allclose(a[name].numpy(), b[name], rtol=1e-5, atol=1e-7, err_msg=name)
    if capacity == 30 and not held_out:
        assert all(bool(probe["stored"].all()) for probe in tracker.history[2]["probes"][:2])


def test_the_buffer_holds_what_the_ledger_keeps():
    tracker = run(make(6))
    kept = []
    for task in range(3):
        x = task_data(task).double().numpy()
        alone = reference.energy(x, x, BETA, exclude=np.arange(len(x)))
        kept = sorted([*kept, *zip(alone, [(task << 40) + i for i in range(len(x))], strict=True)], reverse=True)[:6]
    assert tracker.buffer.ids.tolist() == [i for _, i in kept]
    np.testing.assert_allclose(tracker.buffer.energies.numpy(), [e for e, _ in kept], rtol=1e-6)
    images, labels = tracker.buffer.gather(torch.arange(6))
    for row, (_, sample_id) in enumerate(kept):
        task, position = sample_id >> 40, sample_id & 0xFFFF
        assert torch.equal(images[row], task_data(task)[position])
        assert labels[row] == position % 2


def test_noise_is_paired_an_unchanged_model_forgets_nothing():
    tracker = run(make(), denoiser=lambda task: Shrink(torch.tensor(0.5)))
    for record in tracker.history:
        for probe in record["probes"]:
            assert torch.equal(probe["error"], probe["error_start"])
    first = tracker.history[0]["probes"][0]["error"]
    other = run(make(seed=6), denoiser=lambda task: Shrink(torch.tensor(0.5))).history[0]["probes"][0]["error"]
    assert not torch.equal(first, other)


def test_default_timesteps_are_shares_of_the_range():
    tracker = run(make(timesteps=None), tasks=range(1))
    assert tracker.history[0]["timesteps"] == [4, 8, 12, 16, 20]
    assert tracker.history[0]["probes"][0]["error"].shape == (4, 5)


def test_without_a_denoiser_there_are_energies_only():
    tracker = run(make(), denoiser=lambda task: None)
    for record in tracker.history:
        assert record["timesteps"] is None
        for probe in record["probes"]:
            assert probe["error"] is probe["error_before"] is probe["error_start"] is None
    with_errors = run(make())
    for a, b in zip(tracker.history, with_errors.history, strict=True):
        for one, other in zip(a["probes"], b["probes"], strict=True):
            assert torch.equal(one["energy"], other["energy"])


def test_a_denoiser_that_comes_later_measures_the_tasks_from_then_on():
    tracker = run(make(), denoiser=lambda task: None if task == 0 else model_after(task))
    first, second = tracker.history[2]["probes"][:2]
    assert first["error"] is None
    assert second["error_start"] is not None
    assert torch.equal(second["error_start"], tracker.history[1]["probes"][1]["error"])


def test_beta_auto_is_that_of_the_first_task():
    tracker = make(beta="auto")
    assert tracker.beta is None
    tracker.begin_task(source(task_data(0)))
    assert tracker.beta == calibrate_beta(task_data(0), n_eff=4.0)
    run(tracker)
    assert [record["beta"] for record in tracker.history] == [tracker.beta] * 3
    assert tracker.beta == calibrate_beta(task_data(0), n_eff=4.0)


def test_similarity_dot():
    tracker = ForgettingTracker(beta=BETA, similarity="dot", probe_size=100)
    x, y = (torch.nn.functional.normalize(task_data(task), dim=1) for task in (0, 1))
    for data in (x, y):
        tracker.end_task(source(data))
    found = tracker.history[1]["probes"][0]
    x, y = x.double().numpy(), y.double().numpy()
    np.testing.assert_allclose(found["energy"], reference.energy(x, y, BETA, similarity="dot"), rtol=1e-6)
    start = reference.energy(x, x, BETA, similarity="dot", exclude=np.arange(9))
    np.testing.assert_allclose(found["energy_start"], start, rtol=1e-6)


def test_encoder_and_prepare():
    raw = (torch.rand(12, 1, 2, 2, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
    tracker = ForgettingTracker(
        EnergyReplayBuffer(3), beta=2.0, probe_size=12, encoder=lambda batch: batch["image"].flatten(1)[:, :2]
    )
    seen = []

    class Watch(Mean):
        def predict_clean(self, noisy, timestep, condition=None):
            seen.append((noisy.shape, sorted(condition)))
            return noisy

    def prepare(batch):
        return {**batch, "image": batch["image"].float() / 255}

    data = TaskSource(DataLoader([{"image": image, "text": "a"} for image in raw], batch_size=5), prepare=prepare)
    tracker.end_task(data, denoiser=Watch(torch.zeros(1)))
    x = (raw.flatten(1)[:, :2].float() / 255).double().numpy()
    expected = reference.energy(x, x, 2.0, exclude=np.arange(12))
    np.testing.assert_allclose(tracker.history[0]["probes"][0]["energy"], expected, rtol=1e-5)
    assert {shape[1:] for shape, _ in seen} == {(1, 2, 2)}
    assert seen[0][1] == ["text"]  # the condition: what the batch holds besides the images
    kept = tracker.buffer.gather(torch.arange(3))
    assert kept["image"].dtype == torch.uint8  # what the loader yields, not what the model sees
    assert torch.equal(kept["image"], raw[tracker.buffer.ids])


def test_probes_are_fewer_than_asked_for_in_a_small_task_and_a_batch_may_be_larger_than_it():
    tracker = ForgettingTracker(beta=1.0, probe_size=512)
    tracker.end_task(source(task_data(0, 5), batch_size=64))
    assert tracker.history[0]["probes"][0]["ids"].tolist() == [0, 1, 2, 3, 4]


def test_a_single_sample_has_no_others():
    tracker = ForgettingTracker(EnergyReplayBuffer(4), beta=1.0)
    tracker.end_task(source(task_data(0, 1)))
    tracker.end_task(source(task_data(1)), replay_ratio=0.5)
    assert tracker.history[0]["probes"][0]["energy"].tolist() == [torch.inf]
    assert torch.isfinite(tracker.history[1]["probes"][0]["energy"]).all()


def test_progress_is_shown_for_every_long_pass(monkeypatch):
    names = []

    def track(iterable, name):
        names.append(name)
        return iterable

    for module in (tracker_module, task_reader):
        monkeypatch.setattr(module, "track", track)
    tracker = make()
    data = source(task_data(0))
    tracker.begin_task(data)
    tracker.end_task(data, probe_source=source(task_data(0, seed=1)))
    assert names == ["Reading task 0", "Forgetting after task 0"]  # which probes there are is known without reading


# -- resuming


class Counting(TaskSource):
    reads = 0

    def batches(self):
        self.reads += 1
        return super().batches()


def test_beginning_twice_changes_nothing_and_the_end_reads_no_more():
    data = Counting(source(task_data(0)).loader)
    tracker = make()
    tracker.begin_task(data)
    before = tracker.state_dict()
    assert (tracker.open_task, tracker.next_task) == (0, 0)
    tracker.begin_task(data)
    assert same(tracker.state_dict(), before)
    tracker.end_task(data)
    assert data.reads == 2  # once for each beginning: the second may be another task's
    assert (tracker.open_task, tracker.next_task) == (None, 1)


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def untimed(tracker):
    """The state without the seconds."""
    state = tracker.state_dict()
    return {**state, "history": [{k: v for k, v in record.items() if k != "seconds"} for record in state["history"]]}


@pytest.mark.heavy
@pytest.mark.parametrize("stop", [0, 1, 2])
@pytest.mark.parametrize("begun", [False, True])
def test_a_restored_tracker_writes_the_same_history(stop, begun):
    whole = run(make(beta="auto"), held_out=True)
    first = run(make(beta="auto"), held_out=True, tasks=range(stop))
    if begun:
        first.begin_task(source(task_data(stop)))
    second = make(beta="auto")
    second.load_state_dict(through_a_file(first.state_dict()))
    assert second.open_task == (stop if begun else None)
    assert same(untimed(first), untimed(second))
    run(second, held_out=True, tasks=range(stop, 3))
    assert same(untimed(second), untimed(whole))


def test_a_state_is_a_snapshot():
    tracker = run(make(), tasks=range(1))
    state = tracker.state_dict()
    before = through_a_file(state)
    run(tracker, tasks=range(1, 3))
    assert same(state, before)


def test_states_that_do_not_fit_change_nothing():
    tracker = run(make(), tasks=range(2))
    before = through_a_file(tracker.state_dict())
    with pytest.raises(ValueError, match="written without a buffer, but this run is with one; resume with the same"):
        tracker.load_state_dict(make(None).state_dict())
    with pytest.raises(ValueError, match="written with a buffer, but this run is without one"):
        make(None).load_state_dict(before)
    with pytest.raises(ValueError, match="Not a state of a ForgettingTracker of this version: format None"):
        tracker.load_state_dict({})
    with pytest.raises(ValueError, match="more than this buffer's capacity of 6"):
        tracker.load_state_dict(run(make(20), tasks=range(2)).state_dict())
    assert same(tracker.state_dict(), before)


# -- failures


class Unwilling:
    def select(self, candidates, k):
        raise RuntimeError("cannot choose")


@pytest.mark.heavy
@pytest.mark.parametrize("case", ["denoiser", "policy", "reader", "probes", "ratio", "timesteps"])
@pytest.mark.parametrize("task", [0, 2])
def test_a_failed_end_of_a_task_changes_nothing(case, task, monkeypatch):
    tracker = run(make(beta="auto"), tasks=range(task))
    data = source(task_data(task))
    tracker.begin_task(data)
    before = through_a_file(tracker.state_dict())
    given = {"denoiser": model_after(task), "replay_ratio": 0.25}
    with monkeypatch.context() as patch:
        if case == "denoiser":
            given["denoiser"] = Broken(torch.zeros(1))
        elif case == "policy":
            patch.setattr(tracker.buffer, "policy", Unwilling())
        elif case == "reader":
            fetch, calls = data.fetch, []

            def fetch_once(positions):
                calls.append(positions)
                if len(calls) > 1:  # the probes are read first, then what the buffer keeps
                    raise RuntimeError("the disk is gone")
                return fetch(positions)

            patch.setattr(data, "fetch", fetch_once)
        elif case == "probes":
            given["probe_source"] = source(torch.empty(0, 3))
        elif case == "ratio":
            given["replay_ratio"] = 1.0
        else:
            patch.setattr(tracker, "timesteps", [400])
        with pytest.raises((RuntimeError, ValueError, MemoryError)):
            tracker.end_task(data, **given)
    assert same(tracker.state_dict(), before)
    run(tracker, tasks=range(task, 3))
    assert same(untimed(tracker), untimed(run(make(beta="auto"))))


def test_a_refused_task_is_forgotten():
    tracker = make(beta="auto")
    with pytest.raises(ValueError, match="at least 3 patterns, got 2; pass beta as a number"):
        tracker.begin_task(source(task_data(0, 2)))
    assert tracker.open_task is None
    assert tracker.beta is None
    assert same(untimed(run(tracker)), untimed(run(make(beta="auto"))))


def filled():
    """A tracker whose beta is not known yet, beside a buffer of an earlier run that draws by the rise."""
    images = task_data(0)
    buffer = EnergyReplayBuffer(6, "random", sampling="rise_weight")
    buffer.update([images, torch.arange(len(images)) % 2], images, ids=torch.arange(len(images)) + (9 << 40), task=9,
        labels=torch.arange(len(images)) % 2, energies=torch.zeros(len(images)))  # fmt: skip
    tracker = ForgettingTracker(buffer, probe_size=4)
    buffer.settings.beta = None
    return tracker


def test_a_task_that_begins_with_other_data_is_given_up_for_it():
    given_up, alone = filled(), filled()
    given_up.begin_task(source(task_data(2, 12)))
    given_up.buffer.sample(4, beside=4)
    for tracker in (given_up, alone):
        tracker.begin_task(source(task_data(1, 9)))
    assert given_up.beta == alone.beta  # of the data that is trained on
    assert torch.equal(given_up.buffer.predicted_rises, alone.buffer.predicted_rises)
    assert given_up.buffer.drawn.state() == [0, 0, None]


@pytest.mark.parametrize("other", [task_data(1, 9), task_data(1, 14), 3.0 * task_data(0)])
def test_a_task_does_not_end_with_other_data(other):
    tracker = make(beta="auto")
    tracker.begin_task(source(task_data(0)))
    before = tracker.state_dict()
    with pytest.raises(ValueError, match=r"None of the [0-9] samples .* when task 0 began. Give end_task"):
        tracker.end_task(source(other), denoiser=model_after(0))
    assert same(tracker.state_dict(), before)
    tracker.end_task(source(task_data(0)), denoiser=model_after(0), replay_ratio=0.25)  # the same data
    assert same(untimed(tracker), untimed(run(make(beta="auto"), tasks=range(1))))


# -- bad input


def with_row(value, row=5):
    images = task_data(0).clone()
    images[row, 1] = value
    return images


class Words(IterableDataset):
    def __iter__(self):
        return iter(["a", "b"])


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (source(torch.empty(0, 3)), ValueError, "Task 0 has no training samples: its data set is empty"),
        (TaskSource([]), ValueError, "Task 0 has no training samples"),
        (source(with_row(torch.nan)), ValueError, r"Task 0 holds NaN or inf.* 1 of 9 samples \(positions \[5\] of its"),
        (source(with_row(-torch.inf, 8)), ValueError, r"Task 0 holds NaN or inf.*positions \[8\].*Repair or remove"),
        (TaskSource([torch.ones(4, 3), torch.ones(4, 2)]), ValueError, r"2 numbers \(from position 4 .* have 3; all"),
        (TaskSource([torch.ones(4, 3).long()]), ValueError, r"batch \(Tensor\) holds no floating tensor .* Convert"),
        (TaskSource([{"y": torch.ones(4)}]), ValueError, r"batch \(dict\) holds no floating tensor .*encoder"),
        (TaskSource(DataLoader(Words(), batch_size=2)), ValueError, r"batch \(list\) holds no floating tensor"),
    ],
)
def test_bad_data_is_refused_before_the_training(data, error, message):
    tracker = make()
    with pytest.raises(error, match=message):
        tracker.begin_task(data)
    assert same(tracker.state_dict(), make().state_dict())


def test_another_shape_in_a_later_task():
    tracker = run(make(), tasks=range(1))
    with pytest.raises(ValueError, match=r"Task 1 has samples of 4 numbers .*but those before have 3; all need one sh"):
        tracker.begin_task(source(task_data(1, d=4)))


def test_bad_probe_data():
    tracker = make()
    with pytest.raises(ValueError, match="The probe data of task 0 is empty"):
        tracker.end_task(source(task_data(0)), probe_source=source(torch.empty(0, 3)))
    images = task_data(0, 4, seed=1)
    images[2] = torch.nan
    with pytest.raises(ValueError, match=r"The probe data of task 0 holds NaN .* 1 of 4 samples \(positions \[2\]"):
        tracker.end_task(source(task_data(0)), probe_source=source(images))
    assert tracker.history == []


@pytest.mark.parametrize(
    ("encoder", "error", "message"),
    [
        (lambda batch: batch[0].numpy(), TypeError, r"encoder must return a floating tensor \(n, d\), got float32 of"),
        (lambda batch: batch[0].long(), TypeError, r"encoder must return a floating tensor .* torch.int64"),
        (lambda batch: batch[0][:, 0], TypeError, r"encoder must return a floating tensor .* of shape \(4,\)"),
        (lambda batch: batch[0][:2], ValueError, "encoder must return a vector for each sample, got 2 for 4"),
        (lambda batch: batch[0] / 0, ValueError, r"Task 0 holds NaN or infinite values in 9 of 9 samples"),
    ],
)
def test_bad_encoders(encoder, error, message):
    with pytest.raises(error, match=message):
        make(encoder=encoder).begin_task(source(task_data(0)))


def test_shares_of_labels_need_labels():
    tracker = ForgettingTracker(EnergyReplayBuffer(4, groups="label"), beta=1.0)
    with pytest.raises(
        ValueError, match=r'groups="label" needs a tensor of integers .* in every batch, and found none'
    ):
        tracker.begin_task(TaskSource([task_data(0)]))
    run(tracker, denoiser=lambda task: None)
    assert tracker.buffer.labels.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("ratio", [1.0, -0.1, 2.0, float("nan")])
def test_bad_replay_ratio(ratio):
    with pytest.raises(ValueError, match=r"replay_ratio must lie in \[0, 1\), got"):
        make().end_task(source(task_data(0)), replay_ratio=ratio)


def test_a_denoiser_of_unbounded_time_needs_timesteps():
    denoiser = model_after(0)
    denoiser.num_timesteps = None
    with pytest.raises(ValueError, match=r"This denoiser has no number of timesteps; pass timesteps=\(...\)"):
        make(timesteps=None).end_task(source(task_data(0)), denoiser=denoiser)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"buffer": [1]}, TypeError, "buffer must be an EnergyReplayBuffer or None, got list"),
        ({"probe_size": 0}, ValueError, "probe_size must be a whole number >= 1, got 0"),
        ({"probe_size": 2.5}, ValueError, "probe_size must be a whole number >= 1, got 2.5"),
        ({"timesteps": []}, ValueError, "timesteps is empty; give at least one, or None"),
        ({"encoder": "vae"}, TypeError, "encoder must be None, a torch module or a function of the batch, got str"),
        ({"beta": 0.0}, ValueError, r"beta .* must be positive and finite, got 0.0"),
        ({"similarity": "cosine"}, ValueError, "similarity must be one of"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        ForgettingTracker(**arguments)


def test_followed_samples_are_given_out_by_task():
    tracker = ForgettingTracker(probe_size=3)
    data = [torch.randn(9, 2, generator=torch.Generator().manual_seed(task)) for task in range(2)]
    for one in data:
        tracker.end_task(TaskSource([one]))
    for task, one in enumerate(data):
        probe = tracker.probe(task)
        torch.testing.assert_close(probe["vectors"], one[probe["ids"] - (task << 40)])
    with pytest.raises(ValueError, match=r"No samples of task 2 are followed, only of \[0, 1\]"):
        tracker.probe(2)


def test_probes_that_were_not_held_out_are_told():
    tracker = ForgettingTracker(beta=2.0, probe_size=50)
    train, more = task_data(0), task_data(1)
    tracker.begin_task(source(train))
    with pytest.warns(UserWarning, match=r"5 of the 12 probes of task 0 are training samples of it"):
        tracker.end_task(source(train), probe_source=source(torch.cat([train[:5], more[:7]])))
    tracker.begin_task(source(more))
    tracker.end_task(source(more), probe_source=source(train[:3]))  # of another task: silent
