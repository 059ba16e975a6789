"""The buffer against a model of it in lists and dicts, through any order of what is done to a buffer."""

import gc
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hopfield_replay import EnergyReplayBuffer
from tests.utilities.test_nested import same

pytestmark = pytest.mark.heavy

WORD = (1 << 64) - 1


def key(identity, seed):
    """SplitMix64 in whole numbers of Python."""

    def mix(z):
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & WORD
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & WORD
        return z ^ (z >> 31)

    mixed = mix((mix((identity + 0x9E3779B97F4A7C15) & WORD) + seed * 0x9E3779B97F4A7C15) & WORD)
    return ((mixed >> 11) + 0.5) / (1 << 53)


SCORES = {  # what the best have most of
    "random": lambda sample: sample["key"],
    "reservoir": lambda sample: (sample["key"] + 0.5) % 1.0,
    "high_energy": lambda sample: sample["energy"],
    "low_energy": lambda sample: -sample["energy"],
    "greedy_gain": None,  # not foretold, but all that holds for every policy holds for it
}


def shares(sizes, places):
    """One place after the other, in turns, to each group that still has samples without one."""
    given = [0] * len(sizes)
    while sum(given) < min(places, sum(sizes)):
        for group, size in enumerate(sizes):
            if given[group] < size and sum(given) < places:
                given[group] += 1
    return given


class BufferMachine(RuleBasedStateMachine):
    """Samples are told by their numbers: row r of a batch is [id, task], its caption says the same."""

    @initialize(
        capacity=st.integers(1, 7),
        policy=st.sampled_from(sorted(SCORES)),
        groups=st.sampled_from([None, "task", "label"]),
        sampling=st.sampled_from(["uniform", "energy", "gain"]),
        mapped=st.booleans(),
        seed=st.integers(0, 3),
    )
    def begin(self, capacity, policy, groups, sampling, mapped, seed):
        self.folder = Path(tempfile.mkdtemp())
        self.options = {"policy": policy, "groups": groups, "sampling": sampling, "seed": seed, "beta": 0.7}
        self.capacity, self.score, self.stores = capacity, SCORES[policy], 0
        self.buffer = self.make(capacity, mapped)
        self.samples = {}  # all that were ever offered, by id
        self.kept = {}  # ids of each group, best first
        self.task = 0

    def make(self, capacity, mapped):
        self.stores += 1
        storage = self.folder / f"storage{self.stores}" if mapped else None
        return EnergyReplayBuffer(capacity, storage=storage, **self.options)

    def teardown(self):
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)

    def group(self, identity):
        groups = self.options["groups"]
        return 0 if groups is None else self.samples[identity][groups]

    def batch(self, ids):
        rows = torch.tensor([[i, self.samples[i]["task"]] for i in ids], dtype=torch.float64)
        return {"row": rows, "text": [f"{i}" for i in ids]}

    @rule(
        numbers=st.lists(
            st.tuples(st.integers(0, 10**6), st.integers(0, 3), st.floats(-9, 9)), min_size=1, max_size=6,
            unique_by=lambda t: t[0],
        ),
        lazily=st.booleans(),
    )  # fmt: skip
    def update(self, numbers, lazily):
        new = [i for i, _, _ in numbers if i not in self.samples]
        if not new:
            return
        for i, label, energy in numbers:
            if i in new:
                found = {"task": self.task, "label": label, "energy": energy, "key": key(i, self.options["seed"])}
                self.samples[i] = found
        batch = self.batch(new)
        vectors = torch.tensor([[float(i % 97), float(i % 31)] for i in new])
        given = {
            "ids": torch.tensor(new),
            "task": self.task,
            "labels": torch.tensor([self.samples[i]["label"] for i in new]),
            "energies": torch.tensor([self.samples[i]["energy"] for i in new], dtype=torch.float64),
        }
        pool = {name: list(ids) for name, ids in self.kept.items()}
        for i in new:
            pool.setdefault(self.group(i), []).append(i)
        if len(pool) > self.capacity:
            self.refused(lambda: self.buffer.update(batch, vectors, **given), "groups .* cannot share a capacity")
            for i in new:
                del self.samples[i]
            return

        def read(at):
            return {"row": batch["row"][at], "text": [batch["text"][j] for j in at.tolist()]}

        self.buffer.update(read if lazily else batch, vectors, **given)
        names = sorted(pool)
        for name, share in zip(names, shares([len(pool[name]) for name in names], self.capacity), strict=True):
            if self.score is not None and any(self.group(i) == name for i in new):
                pool[name].sort(key=lambda i: (-self.score(self.samples[i]), i))
            self.kept[name] = pool[name][:share]
        if self.score is None:
            self.follow()

    def follow(self):
        """Take the choice over from the buffer, where the model does not foretell it."""
        ids = self.buffer.ids.tolist()
        sizes = {name: len(kept) for name, kept in self.kept.items()}
        self.kept = {name: [i for i in ids if self.group(i) == name] for name in sizes}
        assert {name: len(kept) for name, kept in self.kept.items()} == sizes  # the quotas are the model's

    def refused(self, call, message):
        before = self.buffer.state_dict()
        with pytest.raises(ValueError, match=message):
            call()
        assert same(self.buffer.state_dict(), before)

    @precondition(lambda self: self.kept)
    @rule(seed=st.integers(0, 99))
    def next_task(self, seed):
        self.task += 1
        self.buffer.refine(torch.rand(3, 2, generator=torch.Generator().manual_seed(seed)) * 50)
        if self.score is None:
            self.follow()

    @precondition(lambda self: self.kept)
    @rule(n=st.integers(1, 9))
    def sample(self, n):
        twin = EnergyReplayBuffer(self.capacity, **self.options)
        twin.load_state_dict(self.buffer.state_dict())
        drawn = self.buffer.sample(n)
        assert same(twin.sample(n), drawn)  # a draw is a function of the state
        ids = [int(text) for text in drawn["text"]]
        assert set(ids) <= {i for kept in self.kept.values() for i in kept}
        assert same(drawn, self.batch(ids))

    @precondition(lambda self: not self.kept)
    @rule()
    def sample_nothing(self):
        self.refused(lambda: self.buffer.sample(1), "The buffer is empty")

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def offer_again(self, data):
        known = data.draw(st.sampled_from(sorted(self.buffer.ids.tolist())))
        given = {"ids": torch.tensor([known]), "task": self.task, "labels": torch.tensor([0])}
        batch = self.batch([known])
        self.refused(lambda: self.buffer.update(batch, torch.ones(1, 2), **given), "already in the buffer")

    @rule(mapped=st.booleans(), larger=st.integers(0, 2), by=st.sampled_from(["file", "state", "checkpoint"]))
    def resume(self, mapped, larger, by):
        """Another process goes on, with as much room or more."""
        fresh = self.make(self.capacity + larger, mapped)
        state = self.buffer.state_dict()
        if by == "file":
            self.buffer.save(self.folder / "file")
            fresh.load(self.folder / "file")
            (self.folder / "file").write_bytes(b"")  # what was read is no part of the file any more
        elif by == "checkpoint":
            torch.save(state, self.folder / "checkpoint")
            fresh.load_state_dict(torch.load(self.folder / "checkpoint", weights_only=True))
        else:
            fresh.load_state_dict(state)
        assert same(fresh.state_dict(), state)
        self.buffer, self.capacity = fresh, self.capacity + larger

    @rule()
    def remember(self):
        self.buffer.save(self.folder / "earlier")
        kept = {name: list(ids) for name, ids in self.kept.items()}
        self.earlier = (self.buffer.state_dict(), kept, dict(self.samples), self.task)

    @precondition(lambda self: hasattr(self, "earlier"))
    @rule(by=st.sampled_from(["file", "state"]))
    def go_back(self, by):
        """The same buffer takes over an earlier state: nothing of what came after it stays."""
        state, kept, samples, self.task = self.earlier
        if by == "file":
            self.buffer.load(self.folder / "earlier")
        else:
            self.buffer.load_state_dict(state)
        assert same(self.buffer.state_dict(), state)
        self.kept, self.samples = {name: list(ids) for name, ids in kept.items()}, dict(samples)

    @precondition(lambda self: len(self.buffer) > 1)
    @rule()
    def resume_with_too_little_room(self):
        state, self.held = self.buffer.state_dict(), self.buffer
        self.buffer = self.make(len(self.buffer) - 1, False)
        self.refused(lambda: self.buffer.load_state_dict(state), "more than this buffer's capacity")
        self.buffer = self.held

    @rule(cut=st.integers(0, 10**6))
    def read_a_damaged_file(self, cut):
        self.buffer.save(self.folder / "file")
        whole = (self.folder / "file").read_bytes()
        (self.folder / "file").write_bytes(whole[: cut % len(whole)])
        self.refused(lambda: self.buffer.load(self.folder / "file"), "file is not a file written by")

    @invariant()
    def is_as_the_model_says(self):
        if not hasattr(self, "buffer"):
            return
        ids = self.buffer.ids.tolist()
        assert ids == [i for name in sorted(self.kept) for i in self.kept[name]]
        assert len(self.buffer) == len(set(ids)) == len(ids) <= self.capacity
        assert set(ids) <= set(self.samples)
        assert self.buffer.tasks.tolist() == [self.samples[i]["task"] for i in ids]
        assert self.buffer.energies.tolist() == [self.samples[i]["energy"] for i in ids]
        assert self.buffer.newest_task == max([s["task"] for s in self.samples.values()], default=-1)
        if ids:
            assert self.buffer.labels.tolist() == [self.samples[i]["label"] for i in ids]
            assert same(self.buffer.gather(torch.arange(len(ids))), self.batch(ids))


def machine(examples, steps):
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, derandomize=True, suppress_health_check=checks
    )


class TestBuffer(BufferMachine.TestCase):
    settings = machine(45, 15)

    @pytest.fixture(autouse=True)
    def _collected(self):
        yield
        gc.collect()


if __name__ == "__main__":  # python -m tests.reliability.test_buffer_model EXAMPLES STEPS
    import sys

    from hypothesis.stateful import run_state_machine_as_test

    torch.set_num_threads(1)
    random = settings(machine(int(sys.argv[1]), int(sys.argv[2])), derandomize=False, database=None)
    run_state_machine_as_test(BufferMachine, settings=random)
    print(f"{sys.argv[1]} runs of up to {sys.argv[2]} steps: as the model says")
