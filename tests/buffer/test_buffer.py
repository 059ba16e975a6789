"""EnergyReplayBuffer: what stays, in bounded memory, drawn uniformly, resumed exactly, and unchanged by failures."""

import io
import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from hopfield_replay import EnergyReplayBuffer, calibrate_beta
from hopfield_replay.functional import equal_quotas
from hopfield_replay.policies import POLICIES
from hopfield_replay.policies.candidates import Candidates
from tests.functional import numpy_energy as reference
from tests.utilities.test_nested import Pair, expected_rows, same


def images(n, seed=0, d=4):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, d))).float()


def filled(capacity=8, policy="high_energy", n=20, **options):
    buffer = EnergyReplayBuffer(capacity, policy, **options)
    x = images(n)
    buffer.update({"image": x}, x, ids=torch.arange(n), task=0, labels=torch.arange(n) % 3)
    return buffer


def contents(buffer):
    """Everything that can be seen of a buffer."""
    return buffer.state_dict(), buffer.nbytes, len(buffer)


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


# -- what is kept


def test_energies_are_leave_one_out_under_the_offered_vectors():
    x = images(12)
    buffer = EnergyReplayBuffer(12, "high_energy", beta=0.8)
    buffer.update(x, x, ids=torch.arange(12) + 5, task=0)
    expected = reference.energy(x.numpy(), x.numpy(), 0.8, exclude=np.arange(12))
    np.testing.assert_allclose(buffer.energies.numpy(), expected[buffer.ids.numpy() - 5], rtol=1e-10)
    assert buffer.energies.tolist() == sorted(buffer.energies.tolist(), reverse=True)  # best first
    assert torch.equal(buffer.vectors, x[buffer.ids - 5])
    assert torch.equal(buffer.gather(torch.arange(12)), x[buffer.ids - 5])


def test_a_second_call_for_a_task_renews_the_energies_of_that_task_only():
    x = images(18)
    buffer = EnergyReplayBuffer(18, "low_energy", beta=0.8)
    for task, rows in ((0, range(6)), (1, range(6, 12)), (1, range(12, 18))):
        rows = torch.tensor(rows)
        buffer.update(x[rows], x[rows], ids=rows, task=task)
    found = dict(zip(buffer.ids.tolist(), buffer.energies.tolist(), strict=True))
    for rows in (range(6), range(6, 18)):
        own = x[list(rows)].numpy()
        expected = reference.energy(own, own, 0.8, exclude=np.arange(len(own)))
        np.testing.assert_allclose([found[i] for i in rows], expected, rtol=1e-10)


def test_given_energies_are_used():
    x = images(6)
    energies = torch.tensor([0.0, 5.0, -1.0, torch.inf, 2.0, 3.0])
    buffer = EnergyReplayBuffer(3, "high_energy")
    buffer.update(x, x, ids=torch.arange(6), task=0, energies=energies)
    assert buffer.ids.tolist() == [3, 1, 5]
    assert buffer.energies.tolist() == [math.inf, 5.0, 3.0]


def test_beta_auto_is_calibrated_once():
    x = images(40)
    buffer = EnergyReplayBuffer(10, "high_energy")
    buffer.update(x[:20], x[:20], ids=torch.arange(20), task=0)
    assert buffer.beta == calibrate_beta(x[:20])
    buffer.update(x[20:], 3 * x[20:], ids=torch.arange(20, 40), task=1)
    assert buffer.beta == calibrate_beta(x[:20])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_tiny_and_identical_sets_need_no_beta(count):
    buffer = EnergyReplayBuffer(5, "high_energy")
    buffer.update(images(count), images(count), ids=torch.arange(count), task=0)
    assert len(buffer) == count
    same_ones = torch.ones(9, 4)
    other = EnergyReplayBuffer(5, "high_energy")
    other.update(same_ones, same_ones, ids=torch.arange(9), task=0)
    assert other.ids.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.heavy
@pytest.mark.parametrize("policy", POLICIES)
def test_all_stay_while_there_is_room_and_never_more_than_the_capacity(policy):
    buffer = EnergyReplayBuffer(9, policy)
    for task in range(5):
        x = images(4, seed=task)
        buffer.update(x, x, ids=torch.arange(4) + 10 * task, task=task, losses=torch.arange(4.0))
        assert len(buffer) == min(9, 4 * (task + 1))
        assert len(buffer.ids.unique()) == len(buffer)
    assert torch.equal(buffer.tasks, buffer.ids // 10)


def test_high_energy_over_tasks_keeps_the_highest_of_all():
    buffer = EnergyReplayBuffer(5, "high_energy", groups=None)
    everything = {}
    for task in range(3):
        energies = torch.from_numpy(np.random.default_rng(task).normal(size=7))
        ids = torch.arange(7) + 100 * task
        everything.update(zip(ids.tolist(), energies.tolist(), strict=True))
        buffer.update(images(7), images(7), ids=ids, task=task, energies=energies)
    assert buffer.ids.tolist() == sorted(everything, key=lambda i: -everything[i])[:5]


STREAMS = {"at once": [30], "in batches": [7, 1, 10, 5, 7], "one by one": [1] * 30}


@pytest.mark.heavy
@pytest.mark.parametrize("policy", ["random", "reservoir"])
def test_random_takes_each_sample_of_a_stream_equally_often_in_any_batching(policy):
    trials, capacity = 200, 6
    counts = dict.fromkeys(STREAMS, None)
    for name, sizes in STREAMS.items():
        kept = []
        for seed in range(trials if name != "one by one" else 15):
            buffer = EnergyReplayBuffer(capacity, policy, groups=None, seed=seed)
            start = 0
            for task, size in enumerate(sizes):
                ids = torch.arange(start, start + size)
                buffer.update(ids[:, None], torch.zeros(size, 1), ids=ids, task=task, energies=torch.zeros(size))
                start += size
            assert torch.equal(buffer.gather(torch.arange(capacity)).flatten(), buffer.ids)
            kept.append(buffer.ids.tolist())
        counts[name] = kept
    assert counts["at once"] == counts["in batches"]  # the very same samples
    assert counts["one by one"] == counts["at once"][:15]
    frequency = np.bincount(np.concatenate(counts["in batches"]), minlength=30)
    assert chisquare(frequency).pvalue > 0.01


@pytest.mark.heavy
def test_a_share_of_a_task_is_a_uniform_choice_of_that_task():
    frequency = np.zeros(24)
    for seed in range(200):
        buffer = EnergyReplayBuffer(6, "random", groups="task", seed=seed)
        for task in range(3):
            ids = torch.arange(8) + 8 * task
            buffer.update(ids[:, None], torch.zeros(8, 1), ids=ids, task=task, energies=torch.zeros(8))
        assert buffer.tasks.bincount().tolist() == [2, 2, 2]
        frequency[buffer.ids.numpy()] += 1
    assert chisquare(frequency).pvalue > 0.01


def test_shares_of_tasks_shrink_by_their_last_picks():
    buffer = EnergyReplayBuffer(6, "high_energy", groups="task")
    for task in range(3):
        x = images(10, seed=task)
        energies = torch.arange(10.0) + 100 * (2 - task)
        buffer.update(x, x, ids=torch.arange(10) + 10 * task, task=task, energies=energies)
    assert buffer.ids.tolist() == [9, 8, 19, 18, 29, 28]


def test_shares_of_labels_use_the_places_that_small_groups_leave():
    labels = torch.tensor([0] * 10 + [1] * 2 + [2] * 10)
    buffer = EnergyReplayBuffer(12, "high_energy", groups="label")
    buffer.update(images(22), images(22), ids=torch.arange(22), task=0, labels=labels, energies=torch.arange(22.0))
    assert buffer.labels.bincount().tolist() == [5, 2, 5]
    assert sorted(buffer.ids.tolist()) == [5, 6, 7, 8, 9, 10, 11, 17, 18, 19, 20, 21]


@pytest.mark.parametrize("seed", range(20))
def test_equal_shares_are_as_equal_as_the_sizes_allow(seed):
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 12, size=rng.integers(1, 7)).tolist()
    groups = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    for capacity in range(len(counts), sum(counts) + 1):
        shares = [0] * len(counts)
        for _ in range(min(capacity, sum(counts))):  # one place at a time to the poorest that has any left
            poorest = min((i for i in range(len(counts)) if shares[i] < counts[i]), key=lambda i: (shares[i], i))
            shares[poorest] += 1
        assert equal_quotas(groups, capacity).tolist() == shares


# -- how it is kept


@pytest.mark.parametrize(
    "batch",
    [
        torch.arange(40, dtype=torch.uint8).view(10, 2, 2),
        (images(10), torch.arange(10)),
        {"image": (images(10) * 50).to(torch.uint8), "meta": {"text": [f"a {i}" for i in range(10)]}},
        [images(10).double(), [images(10).half()]],
        Pair(images(10), torch.arange(10)),
    ],
    ids=["uint8 tensor", "tuple", "dict with captions", "nested", "namedtuple"],
)
def test_nestings_and_dtypes_come_back(batch):
    buffer = EnergyReplayBuffer(4, "random")
    buffer.update(batch, images(10), ids=torch.arange(10), task=0)
    kept = buffer.ids.tolist()
    assert same(buffer.gather(torch.arange(4)), expected_rows(batch, kept))
    positions = buffer.draw(7, generator=torch.Generator().manual_seed(3))
    drawn = buffer.sample(7, generator=torch.Generator().manual_seed(3))
    assert same(drawn, expected_rows(batch, [kept[i] for i in positions]))


def test_captions_of_the_default_collate_function():
    buffer = EnergyReplayBuffer(4, "low_energy", groups=None)
    buffer.update((images(6), tuple("abcdef")), images(6), ids=torch.arange(6), task=0, energies=torch.arange(6.0))
    buffer.update((images(6), tuple("uvwxyz")), images(6), ids=torch.arange(6) + 6, task=1, energies=torch.arange(6.0))
    assert list(buffer.gather(torch.arange(4))[1]) == ["a", "u", "b", "v"]


def test_what_is_kept_is_a_copy():
    x, vectors, ids = images(10), images(10), torch.arange(10)
    labels, energies = torch.arange(10) % 2, torch.arange(10.0)
    buffer = EnergyReplayBuffer(10, "low_energy")
    buffer.update({"x": x, "y": labels}, vectors, ids=ids, task=0, labels=labels, energies=energies)
    before = through_a_file(buffer.state_dict())
    for tensor in (x, vectors, ids, labels, energies):
        tensor.fill_(77)
    buffer.sample(3, generator=torch.Generator())["x"].fill_(99.0)
    assert same(buffer.state_dict(), before)


def test_memory_is_bounded_by_the_capacity():
    buffer = EnergyReplayBuffer(16, "random")
    sizes = set()
    for task in range(6):
        x = images(200, seed=task, d=30)
        buffer.update((x.to(torch.uint8), x), x, ids=torch.arange(200) + 1000 * task, task=task)
        sizes.add(buffer.nbytes)
    assert sizes == {16 * (30 + 30 * 4) + 16 * 30 * 4}


def every_tensor(tree):
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, dict | list | tuple):
        for item in tree.values() if isinstance(tree, dict) else tree:
            yield from every_tensor(item)
    elif hasattr(tree, "__dict__"):
        yield from every_tensor(vars(tree))


@pytest.mark.heavy
@pytest.mark.parametrize("policy", POLICIES)
def test_nothing_that_is_kept_holds_the_offered_batch_alive(policy):
    buffer = EnergyReplayBuffer(4, policy, groups="label")
    for task in range(3):
        big = images(3000, seed=task)
        ids = torch.arange(3000) + 10000 * task
        buffer.update(big[:], big[:], ids=ids, task=task, labels=ids % 2, energies=big[:, 0], losses=big[:, 0].abs())
    found = list(every_tensor(buffer)) + list(every_tensor(buffer.state_dict())) + list(every_tensor(buffer.sample(2)))
    assert len(found) > 10
    for tensor in found:
        assert tensor.untyped_storage().nbytes() <= max(tensor.nbytes, 5056 if tensor.dtype == torch.uint8 else 0)


def test_a_function_reads_only_the_samples_that_come_in():
    asked = []

    def read(positions):
        asked.append(positions.tolist())
        return positions[:, None] * 10

    buffer = EnergyReplayBuffer(3, "high_energy", groups=None)
    buffer.update(read, images(8), ids=torch.arange(8), task=0, energies=torch.arange(8.0))
    buffer.update(read, images(8), ids=torch.arange(8) + 8, task=1, energies=torch.arange(8.0) - 0.5)
    assert asked == [[7, 6, 5], [7]]
    assert buffer.ids.tolist() == [7, 15, 6]
    assert buffer.gather(torch.arange(3)).flatten().tolist() == [70, 70, 60]
    buffer.update(read, images(8), ids=torch.arange(8) + 16, task=2, energies=torch.full((8,), -9.0))
    assert len(asked) == 2  # nothing came in, nothing was read


# -- drawing


def test_draws_are_uniform():
    buffer = filled(capacity=7)
    positions = buffer.draw(14000)
    assert (positions.min(), positions.max()) == (0, 6)
    assert chisquare(positions.bincount(minlength=7).numpy()).pvalue > 0.01
    pairs = positions[:-1] * 7 + positions[1:]  # and one after the other
    assert chisquare(pairs[::2].bincount(minlength=49).numpy()).pvalue > 0.01


def test_draws_repeat_with_the_seed_and_leave_other_generators_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    draws = [filled(seed=seed).draw(50).tolist() for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert draws[0] == draws[1] != draws[2]
    buffer = filled()
    buffer.draw(5, generator=torch.Generator().manual_seed(1))
    assert buffer.draw(50).tolist() == draws[0]  # the buffer's own generator did not move


@pytest.mark.parametrize("n", [0, -1, 2.0, True, "3"])
def test_draws_of_no_number(n):
    with pytest.raises(ValueError, match="n must be a whole number >= 1"):
        filled().draw(n)


def test_an_empty_buffer_has_nothing_to_draw():
    buffer = EnergyReplayBuffer(3, "high_energy")
    assert len(buffer) == 0
    assert buffer.nbytes == 0
    with pytest.raises(ValueError, match="The buffer is empty: nothing can be drawn before the first update"):
        buffer.sample(1)


# -- state


BATCHES = {
    "dict": lambda x: {"image": x.to(torch.uint8), "text": [str(float(v)) for v in x[:, 0]]},
    "tuple": lambda x: (x, x[:, 0].long()),
    "namedtuple": lambda x: Pair(x, x[:, 0].long()),
}


@pytest.mark.heavy
@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("by_file", [False, True], ids=["torch.save", "safetensors"])
def test_a_restored_buffer_goes_on_as_the_first_would_have(policy, kind, by_file, tmp_path):
    make = BATCHES[kind]

    def feed(buffer, task):
        x = images(11, seed=task)
        ids = torch.arange(11) + 100 * task
        buffer.update(make(x), x, ids=ids, task=task, labels=ids % 3, losses=x[:, 0].abs())

    first = EnergyReplayBuffer(10, policy, groups="label", seed=4)
    for task in range(3):
        feed(first, task)
    first.draw(13)
    second = EnergyReplayBuffer(10, policy, groups="label", seed=4)
    if by_file:
        first.save(tmp_path / "buffer")
        second.load(tmp_path / "buffer")
    else:
        second.load_state_dict(through_a_file(first.state_dict()))
    assert same(contents(first), contents(second))
    for task in (3, 4):
        assert same(contents(first), contents(second))
        a, b = first.sample(20), second.sample(20)
        assert all(map(same, (a.values() if kind == "dict" else a), (b.values() if kind == "dict" else b)))
        feed(first, task)
        feed(second, task)


def test_a_state_is_a_snapshot():
    buffer = filled(capacity=5)
    state = buffer.state_dict()
    before = through_a_file(state)
    buffer.draw(3)
    buffer.update({"image": images(9)}, 5 * images(9), ids=torch.arange(9) + 50, task=1, labels=torch.zeros(9).long())
    assert same(state, before)


def test_an_empty_state_and_one_without_labels(tmp_path):
    buffer = EnergyReplayBuffer(5, "high_energy")
    EnergyReplayBuffer(5).save(tmp_path / "empty")
    buffer.load(tmp_path / "empty")
    assert len(buffer) == 0
    buffer.update(images(9), images(9), ids=torch.arange(9), task=0)
    other = EnergyReplayBuffer(7)  # more room is fine
    other.load_state_dict(through_a_file(buffer.state_dict()))
    assert other.labels is None
    assert same(other.ids, buffer.ids)


def test_states_that_do_not_fit_change_nothing():
    buffer = filled(capacity=4)
    before = through_a_file(buffer.state_dict())
    with pytest.raises(ValueError, match="The state holds 8 samples, more than this buffer's capacity of 4"):
        buffer.load_state_dict(filled(capacity=8).state_dict())
    with pytest.raises(ValueError, match="Not a state of an EnergyReplayBuffer of this version: format 'old'"):
        buffer.load_state_dict({**filled(capacity=4).state_dict(), "format": "old"})
    assert same(buffer.state_dict(), before)


@pytest.mark.parametrize("name", ["beta", "similarity"])
def test_energies_of_another_kind_are_not_taken_over(name, tmp_path):
    """As :meth:`EnergyReplayBuffer.merge` refuses them."""
    values = {"beta": (2.0, 3.0), "similarity": ("dot", "distance")}[name]
    first, other = (filled(capacity=4, **{name: value}) for value in values)
    before = through_a_file(other.state_dict())
    first.save(tmp_path / "first.safetensors")
    said = rf"energies are of {name}={values[0]!r}, and this buffer was made with {name}={values[1]!r}"
    with pytest.raises(ValueError, match=said):
        other.load(tmp_path / "first.safetensors")
    assert same(other.state_dict(), before)
    auto = EnergyReplayBuffer(4, similarity=first.similarity)  # takes over the beta that another has calibrated
    auto.load(tmp_path / "first.safetensors")
    assert auto.beta == first.beta
    without = {key: part for key, part in first.state_dict().items() if key != "similarity"}  # as they were before
    EnergyReplayBuffer(4, beta=first.beta, similarity="dot").load_state_dict(without)


def test_description():
    described = "EnergyReplayBuffer(8 of 8, policy=HighEnergy, groups='label', sampling='uniform')"
    assert repr(filled(capacity=8, groups="label")) == described


# -- bad input


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"capacity": 0}, ValueError, "capacity must be at least 1, got 0. For no replay, use no buffer."),
        ({"capacity": -5}, ValueError, "capacity must be at least 1, got -5"),
        ({"capacity": 2.5}, TypeError, "capacity must be a whole number, got 2.5"),
        ({"capacity": True}, TypeError, "capacity must be a whole number, got True"),
        ({"capacity": 5, "policy": "best"}, ValueError, "Unknown policy 'best'"),
        ({"capacity": 5, "policy": 7}, TypeError, "policy must be a name or an object"),
        ({"capacity": 5, "groups": "class"}, ValueError, 'groups must be None, "task" or "label", got \'class\''),
        ({"capacity": 5, "similarity": "cosine"}, ValueError, "similarity must be one of"),
        ({"capacity": 5, "beta": -1.0}, ValueError, "beta .* must be positive and finite, got -1.0"),
        ({"capacity": 5, "beta": "best"}, ValueError, 'beta must be a number or "auto", got'),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        EnergyReplayBuffer(**arguments)


class Twice:
    def select(self, candidates: Candidates, k: int):
        return torch.zeros(k, dtype=torch.int64)


def failing(positions):
    raise OSError("the disk is gone")


def broken(tensor, row, value):
    tensor = tensor.clone()
    tensor[row] = value
    return tensor


X = images(9, seed=8)
IDS = torch.arange(9) + 100
BAD = {
    "nan vectors": ({"vectors": broken(X, 4, torch.nan)}, ValueError, r"vectors holds NaN or inf.*1 of 9 .*\[4\]"),
    "infinite vectors": ({"vectors": broken(X, 0, -torch.inf)}, ValueError, r"vectors holds NaN or infinite.*\[0\]"),
    "integer vectors": ({"vectors": X.long()}, TypeError, "vectors must be a real floating tensor, got torch.int64"),
    "flat vectors": ({"vectors": X[:, 0]}, ValueError, r"vectors must have shape \(n, d\).*got \(9,\)"),
    "another dimension": ({"vectors": X[:, :3]}, ValueError, "vectors have dimension 3, but .* of dimension 4"),
    "no samples": (
        {"batch": {"image": X[:0]}, "vectors": X[:0], "ids": IDS[:0], "labels": IDS[:0]},
        ValueError,
        r"Nothing was offered: vectors has no rows \(an empty data set\?\)",
    ),
    "duplicate ids": ({"ids": broken(IDS, 3, 105)}, ValueError, r"ids must be distinct, but \[105\] are repeated"),
    "known ids": ({"ids": torch.arange(9)}, ValueError, r"ids \[.*\] are already in the buffer; give each sample its"),
    "missing ids": ({"ids": IDS[:5]}, ValueError, r"ids must have shape \(9,\), one for each row.*got \(5,\)"),
    "floating ids": ({"ids": IDS.float()}, TypeError, "ids must be a tensor of integers, got torch.float32"),
    "a list of ids": ({"ids": IDS.tolist()}, TypeError, "ids must be a tensor of integers, got list"),
    "negative task": ({"task": -1}, ValueError, "task must not be negative, got -1"),
    "fractional task": ({"task": 1.0}, TypeError, "task must be a whole number, got 1.0"),
    "no labels": ({"labels": None}, ValueError, 'groups="label" needs labels, got None'),
    "missing labels": ({"labels": IDS[:3]}, ValueError, r"labels must have shape \(9,\)"),
    "nan energies": (
        {"energies": broken(torch.zeros(9), 2, torch.nan)},
        ValueError,
        r"energies hold NaN for ids \[102\]",
    ),
    "missing energies": ({"energies": torch.zeros(4)}, ValueError, r"energies must be a tensor of shape \(9,\), got"),
    "fewer rows": ({"batch": {"image": X[:6]}}, ValueError, "The batch has 6 rows, but ids has 9"),
    "ragged batch": ({"batch": {"image": X, "y": IDS[:2]}}, ValueError, r"batch\['y'\] has 2 rows, but .* has 9"),
    "another shape": ({"batch": {"image": images(9, d=5)}}, ValueError, r"was kept as .*\(4,\) .* is now .*\(5,\)"),
    "another dtype": ({"batch": {"image": X.double()}}, ValueError, "float32 .* is now torch.float64"),
    "another nesting": ({"batch": (X,)}, ValueError, "batch has keys .* a tuple of 1 items"),
    "no tensors": ({"batch": {"image": [object()] * 9}}, TypeError, r"batch\['image'\]\[0\] is object; .*collate_fn"),
    "too many labels": ({"labels": IDS}, ValueError, r"groups \(label\) cannot share a capacity of 8; raise"),
    "a failing reader": ({"batch": failing}, OSError, "the disk is gone"),
    "a short reader": ({"batch": lambda at: {"image": X[:1]}}, ValueError, "1 samples came back for . positions"),
}


@pytest.mark.heavy
@pytest.mark.parametrize("case", BAD)
def test_a_failed_update_changes_nothing(case):
    changes, error, message = BAD[case]
    buffer = filled(capacity=8, groups="label")
    before = contents(buffer)
    given = {"batch": {"image": X}, "vectors": 100 * X, "ids": IDS, "task": 1, "labels": IDS % 3, **changes}
    with pytest.raises(error, match=message):
        buffer.update(given.pop("batch"), given.pop("vectors"), **given)
    assert same(contents(buffer), before)
    buffer.update({"image": X}, 100 * X, ids=IDS, task=1, labels=IDS % 3)  # and it still works
    assert (buffer.tasks == 1).any()


@pytest.mark.parametrize("policy", [Twice(), "high_energy"], ids=["policy", "reader"])
def test_a_failed_first_update_leaves_an_empty_buffer(policy):
    buffer = EnergyReplayBuffer(8, policy)
    message = "must select 8 distinct candidates" if isinstance(policy, Twice) else "the disk is gone"
    with pytest.raises((ValueError, OSError), match=message):
        buffer.update(failing, X, ids=IDS, task=0)
    assert len(buffer) == 0
    assert buffer.beta is None
    assert same(contents(buffer), contents(EnergyReplayBuffer(8)))


def test_labels_at_every_update_or_at_none():
    buffer = filled()
    with pytest.raises(ValueError, match="labels must be given at every update or at none"):
        buffer.update({"image": X}, X, ids=IDS, task=1)


@pytest.mark.parametrize("sampling", ["uniform", "weight", "rise_weight", "energy", "rise", "gain"])
def test_draws_follow_what_is_kept_now(sampling):
    def offer(buffer, task):
        rows = torch.randn(20, 2, generator=torch.Generator().manual_seed(task))
        buffer.update(rows, rows, ids=torch.arange(20) + 100 * task, task=task, beta=1.0)

    buffer = EnergyReplayBuffer(6, "random", sampling=sampling)
    offer(buffer, 0)
    buffer.draw(5)
    offer(buffer, 1)
    fresh = EnergyReplayBuffer(6, "random", sampling=sampling)
    fresh.load_state_dict(buffer.state_dict())
    assert torch.equal(buffer.draw(50), fresh.draw(50))
    other = EnergyReplayBuffer(6, "random", sampling=sampling)
    offer(other, 2)
    other.draw(5)
    other.load_state_dict(fresh.state_dict())
    assert torch.equal(other.draw(50), fresh.draw(50))


@pytest.mark.parametrize("mapped", [False, True])
def test_what_was_filled_in_inference_mode_is_filled_again_outside_it(tmp_path, mapped):
    """Lightning validates in inference mode, whose tensors cannot be written to later."""
    x = torch.arange(8.0).view(4, 2)
    buffer = EnergyReplayBuffer(4, "random", storage=tmp_path / "rows" if mapped else None)
    with torch.inference_mode():
        buffer.update(x, x, ids=torch.arange(4), task=0)
    buffer.update(x + 9, x + 9, ids=torch.arange(4, 8), task=1)
    rows = torch.cat([x, x + 9])
    assert buffer.gather(torch.arange(4)).equal(rows[buffer.ids])
    assert int((buffer.tasks == 1).sum()) > 0
