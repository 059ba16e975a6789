"""A buffer that can be looked into, cut down and joined: against literal loops over its samples."""

import pandas
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from hopfield_replay import EnergyReplayBuffer
from hopfield_replay.buffer import verify
from hopfield_replay.buffer.provenance import Provenance
from tests.utilities.test_nested import same


def cloud(count, seed=0, shift=0.0):
    return torch.rand(count, 3, generator=torch.Generator().manual_seed(seed)) + shift


def filled(capacity=6, tasks=2, count=20, first=0, **settings):
    """A buffer with a history, a reserve, labels and names."""
    buffer = EnergyReplayBuffer(capacity, beta=2.0, **settings)
    for task in range(first, first + tasks):
        x = cloud(count, task, 3.0 * task)
        observed = torch.arange(float(len(buffer))) if len(buffer) else None
        names = [f"{task}/{i}.png" for i in range(count)]
        batch = {"image": x, "text": [f"caption {task} {i}" for i in range(count)]}
        ids = (task << 40) + torch.arange(count)
        labels = torch.arange(count) % 2
        buffer.update(
            batch, x, ids=ids, task=task, labels=labels, observed=observed, names=names, task_name=f"task {task}"
        )
    return buffer


def belongs(buffer, position):
    """Whether sample, vector, label, name and id at a position are of one."""
    at, task = int(buffer.ids[position]), int(buffer.tasks[position])
    row = at & ((1 << 40) - 1)
    kept = buffer.gather(torch.tensor([position]))
    expected = cloud(20, task, 3.0 * task)[row]
    return (
        torch.equal(kept["image"][0], expected)
        and kept["text"] == [f"caption {task} {row}"]
        and torch.equal(buffer.vectors[position], expected)
        and int(buffer.labels[position]) == row % 2
        and buffer.provenance.samples[at] == f"{task}/{row}.png"
    )


def stood_for(buffer, candidates, weights, gone):
    """Weights of what is left, when each removed one's goes to the nearest left one of its task; a literal loop."""
    left = [i for i in range(len(candidates.ids)) if int(candidates.ids[i]) not in gone]
    found = {int(candidates.ids[i]): float(weights[i]) for i in left}
    for i in range(len(candidates.ids)):
        if int(candidates.ids[i]) in gone:
            mine = [j for j in left if candidates.tasks[j] == candidates.tasks[i]]
            if mine:
                near = min(mine, key=lambda j: float((candidates.vectors[j] - candidates.vectors[i]).norm()))
                found[int(candidates.ids[near])] += float(weights[i])
    return found


@pytest.mark.parametrize("storage", [False, True])
def test_a_removed_sample_is_nowhere_and_the_others_are_as_they_were(tmp_path, storage):
    buffer = filled(storage=tmp_path / "rows" if storage else None)
    reserve = buffer._reserve[0]
    pool = buffer._kept.join(reserve)
    gone = [int(buffer.ids[1]), int(buffer.ids[4]), int(reserve.ids[2]), 12345]
    order = [at for at in buffer.ids.tolist() if at not in gone]
    history = {int(at): row.tolist() for at, row in zip(buffer.ids, buffer.observed, strict=True)}
    assert buffer.remove(gone) == 3
    assert buffer.ids.tolist() == order
    assert all(belongs(buffer, i) for i in range(len(buffer)))
    for at, row in zip(buffer.ids.tolist(), buffer.observed.tolist(), strict=True):
        assert str(row) == str(history[at])  # NaN counts as NaN
    assert not set(gone) & {*buffer._reserve[0].ids.tolist(), *buffer.provenance.samples}
    assert len(buffer._reserve[1]["text"]) == len(reserve) - 1
    expected = stood_for(buffer, pool, pool.weights, set(gone))
    after = buffer._kept.join(buffer._reserve[0])
    assert {int(at): float(w) for at, w in zip(after.ids, after.weights, strict=True)} == pytest.approx(expected)
    again = EnergyReplayBuffer(6)
    again.load_state_dict(buffer.state_dict())
    assert same(again.state_dict(), buffer.state_dict())
    buffer.update(
        {"image": cloud(5, 9), "text": ["new"] * 5}, cloud(5, 9), ids=(2 << 40) + torch.arange(5), task=2,
        labels=torch.zeros(5, dtype=torch.int64), energies=torch.zeros(5),
    )  # fmt: skip
    assert len(buffer) == 6  # the free places are taken


def test_rows_of_what_is_gone_are_overwritten_also_of_what_left_earlier(tmp_path):
    buffer = filled(policy="high_energy", storage=tmp_path / "rows")
    first = {int(at): buffer.gather(torch.tensor([i]))["image"][0] for i, at in enumerate(buffer.ids)}
    buffer.remove(buffer.ids[:2])
    held = b"".join(path.read_bytes() for path in (tmp_path / "rows").glob("*.bin"))
    for at, row in first.items():
        assert (row.numpy().tobytes() in held) == (at in buffer.ids.tolist())


def test_all_can_go_and_what_is_not_there_changes_nothing():
    buffer = filled()
    before = buffer.state_dict()
    assert buffer.remove([999]) == 0
    assert same(buffer.state_dict(), before)
    buffer.remove(buffer.ids[buffer.tasks == 1])  # a whole task
    assert buffer.tasks.unique().tolist() == [0]
    buffer.clear()
    assert (len(buffer), buffer._reserve, buffer.provenance.samples) == (0, None, {})
    assert buffer.clear() is None
    buffer.load_state_dict(buffer.state_dict())
    with pytest.raises(TypeError, match="ids must be whole numbers"):
        buffer.remove([0.5])


@pytest.mark.parametrize("policy", ["greedy_gain", "random", "high_energy"])
def test_merged_tasks_keep_their_first_picks_and_their_weight(policy):
    first, second = filled(policy=policy), filled(first=2, policy=policy)
    counts = dict.fromkeys(range(4), 20.0)
    both = [(at, t) for b in (first, second) for at, t in zip(b.ids.tolist(), b.tasks.tolist(), strict=True)]
    best = {task: [at for at, of in both if of == task] for task in counts}
    before = second.state_dict()
    first.merge(second)
    assert same(second.state_dict(), before)
    assert len(first) == 6
    sizes = [int((first.tasks == task).sum()) for task in range(4)]
    assert sorted(sizes) == [1, 1, 2, 2]
    for task, size in enumerate(sizes):
        assert first.ids[first.tasks == task].tolist() == best[task][:size]
        if first.weights is not None:
            assert float(first.weights[first.tasks == task].sum()) == pytest.approx(counts[task])
    assert all(belongs(first, i) for i in range(6))
    assert first.newest_task == 3
    assert first.provenance.tasks == {task: f"task {task}" for task in range(4)}


def test_runs_that_numbered_alike_are_told_apart():
    first, second = filled(tasks=1), filled(tasks=1)
    with pytest.raises(ValueError, match=r"are in both buffers.*renumber=True"):
        first.merge(second)
    first.merge(second, renumber=True)
    assert first.tasks.tolist() == [0, 0, 0, 1, 1, 1]
    assert (first.ids[:3] + (1 << 40)).tolist() == first.ids[3:].tolist()  # the same samples by the same policy
    assert first.provenance.tasks == {0: "task 0", 1: "task 0"}
    assert [first.provenance.samples[at] for at in first.ids[3:].tolist()] == [
        first.provenance.samples[at] for at in first.ids[:3].tolist()
    ]
    empty = EnergyReplayBuffer(6)
    empty.merge(filled())
    assert (len(empty), empty.beta) == (6, 2.0)
    empty.merge(EnergyReplayBuffer(3))
    assert len(empty) == 6


def test_of_a_group_that_both_have_the_policy_chooses_anew():
    settings = {"policy": "high_energy", "groups": "label"}
    first, second = filled(tasks=1, **settings), filled(tasks=1, first=5, **settings)
    pool = first._kept.join(second._kept)
    first.merge(second)
    for label in (0, 1):
        mine = (pool.labels == label).nonzero().flatten().tolist()
        expected = sorted(mine, key=lambda i: -float(pool.energies[i]))[:3]
        assert first.ids[first.labels == label].tolist() == pool.ids[expected].tolist()


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("other", "error", "message"),
    [
        (list, TypeError, "Only an EnergyReplayBuffer"),
        (lambda: EnergyReplayBuffer(2, beta=1.0), None, ""),
        (lambda: other(beta=1.0), ValueError, "beta=2.0, the other beta=1.0"),
        (lambda: other(similarity="dot"), ValueError, "similarity='distance', the other similarity='dot'"),
        (lambda: other(dimension=2), ValueError, "dimension 3, the other 2"),
        (lambda: other(labels=None), ValueError, "labels"),
        (lambda: other(batch=torch.zeros(4, 3)), ValueError, "batch"),
        (lambda: filled(capacity=9, tasks=9, first=3), ValueError, "11 groups .* cannot share a capacity of 6"),
    ],
)
def test_what_does_not_fit_is_not_merged_and_nothing_changes(other, error, message):
    buffer = filled()
    before = buffer.state_dict()
    if error is None:
        buffer.merge(other())
    else:
        with pytest.raises(error, match=message):
            buffer.merge(other())
    assert same(buffer.state_dict(), before)


def other(beta=2.0, similarity="distance", dimension=3, labels=0, batch=None):
    buffer = EnergyReplayBuffer(2, beta=beta, similarity=similarity)
    x = cloud(4, 3)[:, :dimension]
    whole = {"image": cloud(4, 3), "text": list("abcd")} if batch is None else batch
    given = None if labels is None else torch.zeros(4, dtype=torch.int64)
    buffer.update(whole, x, ids=(7 << 40) + torch.arange(4), task=7, labels=given)
    return buffer


def test_a_buffer_of_a_data_set_needs_no_training_and_is_that_of_an_update():
    x, labels = cloud(30), torch.arange(30) % 3
    loader = DataLoader(TensorDataset(x, labels), batch_size=7)
    names = [f"{i}.png" for i in range(30)]
    found = EnergyReplayBuffer.from_dataset(loader, 5, beta=2.0, names=names, task_name="clouds", groups="label")
    expected = EnergyReplayBuffer(5, beta=2.0, groups="label")
    expected.update([x, labels], x, ids=torch.arange(30), task=0, labels=labels, names=names, task_name="clouds")
    assert same(found.state_dict(), expected.state_dict())
    halves = EnergyReplayBuffer.from_dataset(loader, 5, "random", encoder=lambda batch: batch[0] * 2)
    assert torch.equal(halves.vectors, halves.gather(torch.arange(5))[0] * 2)
    with pytest.raises(ValueError, match="yields no samples"):
        EnergyReplayBuffer.from_dataset([], 5)
    with pytest.raises(TypeError, match="unexpected keyword"):
        EnergyReplayBuffer.from_dataset(loader, 5, pollicy="random")
    with pytest.raises(ValueError, match="a vector for each sample"):
        EnergyReplayBuffer.from_dataset(loader, 5, encoder=lambda batch: batch[0][:1])


def test_a_shuffled_loader_that_augments_gives_samples_their_own_vectors():
    class Noisy(TensorDataset):
        def __getitem__(self, index):
            return (self.tensors[0][index] + torch.rand(3),)

    found = EnergyReplayBuffer.from_dataset(DataLoader(Noisy(cloud(20)), batch_size=6, shuffle=True), 4)
    assert torch.equal(found.vectors, found.gather(torch.arange(4))[0])


def test_the_kept_samples_are_a_data_set_that_a_loader_collates_back():
    buffer = filled()
    kept = buffer.to_dataset()
    assert len(kept) == 6
    (batch,) = DataLoader(kept, batch_size=6)
    assert same(batch, buffer.gather(torch.arange(6)))
    buffer.clear()
    assert kept[5]["text"].startswith("caption 1")  # a copy
    assert len(buffer.to_dataset()) == 0
    with pytest.raises(IndexError):
        kept[6]


def test_the_frame_tells_where_every_sample_comes_from():
    buffer = filled()
    found = buffer.to_frame()
    assert isinstance(found, pandas.DataFrame)
    assert found["id"].tolist() == buffer.ids.tolist()
    assert found["task_name"].tolist() == ["task 0"] * 3 + ["task 1"] * 3
    assert [f"{task}/{at}.png" for task, at in zip(found["task"], found["position"], strict=True)] == found[
        "name"
    ].tolist()
    assert found["share"].tolist() == pytest.approx(buffer.draw_shares.tolist())
    assert found["weight"].sum() == 40.0
    bare = EnergyReplayBuffer(2, "random")
    bare.update(cloud(4), cloud(4), ids=torch.arange(4) + (9 << 40), task=0)
    row = bare.rows()[0]
    assert (row["position"], row["name"], row["label"], row["weight"]) == (None, None, None, None)
    assert EnergyReplayBuffer(2).to_frame().empty


def test_a_notebook_shows_a_small_table():
    shown = filled()._repr_html_()
    assert shown.count("<tr>") == 3
    assert "1 (task 1)" in shown
    named = EnergyReplayBuffer(1)
    named.update(cloud(4), cloud(4), ids=torch.arange(4), task=0, task_name="<script>")
    assert "<script>" not in named._repr_html_()
    assert EnergyReplayBuffer(1)._repr_html_().startswith("<p>EnergyReplayBuffer(0 of 1")


def test_verification_finds_vectors_that_are_not_of_their_samples():
    buffer = filled()
    assert verify(buffer).problems == ()
    assert (verify(buffer).samples, verify(buffer).apart) == (6, 0)
    found = verify(buffer, lambda batch: batch["image"] * 2)
    assert found.apart == 6
    assert "6 vectors are not what the encoder makes" in found.problems[0]
    assert "another encoder" in verify(buffer, lambda batch: batch["image"][:, :2]).problems[0]
    texts = EnergyReplayBuffer(2)
    texts.update(list("abcd"), cloud(4), ids=torch.arange(4), task=0)
    assert "cannot be checked" in verify(texts).problems[0]
    buffer._kept.energies[0] = torch.nan
    assert verify(buffer).problems == ("energies are NaN",)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"names": ["a"]}, ValueError, "names must be one for each of the 4 samples, got 1"),
        ({"names": "abcd"}, TypeError, "names must be strings, one for each"),
        ({"names": [1, 2, 3, 4]}, TypeError, "names must be strings"),
        ({"task_name": 3}, TypeError, "task_name must be a string"),
    ],
)
def test_names_that_do_not_fit_are_refused_and_nothing_changes(change, error, message):
    buffer = EnergyReplayBuffer(2)
    with pytest.raises(error, match=message):
        buffer.update(cloud(4), cloud(4), ids=torch.arange(4), task=0, **change)
    assert len(buffer) == 0


@pytest.mark.parametrize("names", [None, {}, {"tasks": {}, "samples": {"a": "b"}}, {"tasks": {0: 1}, "samples": {}}])
def test_damaged_names_of_a_state_are_refused(names):
    state = filled().state_dict()
    with pytest.raises(ValueError, match="damaged"):
        filled().load_state_dict({**state, "names": names})
    assert Provenance.from_state(Provenance({1: "a"}, {2: "b"}).state()) == Provenance({1: "a"}, {2: "b"})
