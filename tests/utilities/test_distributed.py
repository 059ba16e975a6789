"""Two processes come to the buffer, the history and the errors of one, also when their shares are uneven."""

import contextlib
import datetime

import pytest
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, TensorDataset

from hopfield_replay import EnergyReplayBuffer, ForgettingTracker, TaskSource
from hopfield_replay.utilities.distributed import broadcast, gather_objects, gather_rows, raise_on_all_ranks, world
from tests.tracker.test_tracker import Mean, Shrink, make, run, source, task_data, untimed, with_row
from tests.utilities.test_nested import same

pytestmark = pytest.mark.heavy

SIZE = 2


def message(function, *arguments):
    try:
        function(*arguments)
    except (ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def sequences():
    """Tasks of 9, 8 and 7 samples and 6 held-out ones: some shares are uneven."""
    return [
        untimed(run(make(beta="auto"))),
        untimed(run(make(beta="auto"), held_out=True)),
        untimed(run(make(None, probe_size=1))),  # the second process has no probe
        untimed(run(make(), tasks=range(1), denoiser=lambda task: Shrink(0.5))),
        untimed(single_samples()),
    ]


def single_samples():
    """Tasks of one sample: the second process has none."""
    tracker = ForgettingTracker(EnergyReplayBuffer(4, "high_loss"), beta=0.7, timesteps=[2])
    for task in range(3):
        data = source(task_data(task, 1))
        tracker.begin_task(data)
        tracker.end_task(data, denoiser=Shrink(0.5), replay_ratio=0.5)
    return tracker


def some_labelled(share):
    """Integers are in the batches of the processes of this parity only."""

    def collate(rows):
        images = torch.stack([image for image, _ in rows])
        labels = torch.stack([label for _, label in rows])
        return (images, labels) if int(labels[0]) % 2 == share else (images,)

    return TaskSource(DataLoader(TensorDataset(task_data(0), torch.arange(9)), batch_size=4, collate_fn=collate))


def unlabelled():
    tracker = ForgettingTracker(EnergyReplayBuffer(4, groups="label"), beta=0.7)
    return [message(tracker.begin_task, some_labelled(share)) for share in (0, 1)]


def two_shapes():
    """Every second sample, and so the second process's share, is of another shape."""
    rows = [torch.zeros(3 + number % 2) for number in range(8)]
    return message(make().begin_task, TaskSource(DataLoader(rows, batch_size=1)))


def failing(rank):
    """What every process hears when one fails: in its share of the data, of the choice, of the errors."""

    class Unreadable(TensorDataset):
        def __getitem__(self, index):
            if self.unreadable == index and world()[0] == rank:
                raise OSError(f"sample {index} is lost")
            return super().__getitem__(index)

    class Exhausted(Mean):
        def predict_clean(self, noisy, timestep, condition=None):
            if world()[0] == rank:
                raise MemoryError("no memory is left")
            return super().predict_clean(noisy, timestep, condition)

    data = Unreadable(task_data(0), torch.zeros(9, dtype=torch.int64))
    data.unreadable = 4 + rank
    readable = Unreadable(task_data(0), torch.zeros(9, dtype=torch.int64))
    readable.unreadable = None

    def end(losses):
        buffer = EnergyReplayBuffer(2, "high_loss") if losses else None
        tracker = ForgettingTracker(buffer, beta=0.7, timesteps=[2])
        tracker.begin_task(TaskSource(DataLoader(readable, batch_size=4)))
        tracker.end_task(TaskSource(DataLoader(readable, batch_size=4)), denoiser=Exhausted(torch.zeros(3)))

    def choose():
        tracker = make()
        tracker.begin_task(TaskSource(DataLoader(readable, batch_size=4)))
        readable.unreadable = 0 if rank == 0 else None  # samples are read by the first process only
        tracker.end_task(TaskSource(DataLoader(readable, batch_size=4)))
        raise RuntimeError("nothing failed")

    def probes():
        tracker = make(probe_size=9)  # all of them, which the first process alone reads
        tracker.begin_task(TaskSource(DataLoader(readable, batch_size=4)))
        tracker.end_task(
            TaskSource(DataLoader(readable, batch_size=4)), probe_source=TaskSource(DataLoader(data, batch_size=4))
        )
        raise RuntimeError("nothing failed")

    def read():
        make().begin_task(TaskSource(DataLoader(data, batch_size=4)))

    def work():
        with raise_on_all_ranks("working"):
            if world()[0] == rank:
                raise ValueError("tired")

    errors = []
    for function in (work, read, probes, lambda: end(False), lambda: end(True), choose):
        try:
            function()
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")
    return errors


def parts_within_parts():
    """Parts in which the first process fails where the second is elsewhere, and what each of them raises."""
    first = world()[0] == 0

    def before_an_inner_part():
        with raise_on_all_ranks("outer"):
            if first:
                raise ValueError("early")
            with raise_on_all_ranks("inner"):
                gather_rows(torch.ones(2))

    def both_in_different_parts():
        with raise_on_all_ranks("outer"):
            if first:
                raise ValueError("outside")
            with raise_on_all_ranks("inner"):
                raise KeyError("inside")

    def caught_by_one():
        with raise_on_all_ranks("outer"):
            if first:
                raise ValueError("not heard of")
            with contextlib.suppress(RuntimeError):
                broadcast("nothing")
            gather_objects("nothing either")

    def caught_by_one_at_the_end():
        with raise_on_all_ranks("outer"):
            if first:
                raise ValueError("late")
            with contextlib.suppress(RuntimeError):
                broadcast("nothing")

    def after_the_last():
        with raise_on_all_ranks("outer"):
            gather_objects(1)
            with raise_on_all_ranks("inner"):
                gather_objects(2)
                if first:
                    raise ValueError("last")

    def tried_again():
        with raise_on_all_ranks("outer"):
            try:
                with raise_on_all_ranks("inner"):
                    if first:
                        raise torch.OutOfMemoryError("full")
                    gather_rows(torch.ones(1))
            except torch.OutOfMemoryError as error:
                return [str(error), *gather_objects("again")]

    errors = []
    for function in (before_an_inner_part, both_in_different_parts, caught_by_one, caught_by_one_at_the_end,
                     after_the_last, tried_again):  # fmt: skip
        try:
            errors.append(function())
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")
        gather_objects(len(errors))  # they are at the same place
    return errors


def work(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=SIZE,
        timeout=datetime.timedelta(seconds=60),
    )
    rows = torch.arange(6.0).view(3, 2) + 10 * rank
    found = {
        "world": world(),
        "uneven": gather_rows(rows[: 3 - rank]),
        "empty": gather_rows(rows[: 3 * rank]),
        "objects": gather_objects(("rank", rank)),
        "failing": [failing(0), failing(1)],
        "parts": parts_within_parts(),
        "unlabelled": unlabelled(),
        "two shapes": two_shapes(),
        "integers": gather_rows(torch.tensor([rank + 2**60])),
        "broadcast": broadcast({"a": [torch.ones(2) * (rank + 1), "text"]}),
        "sequences": sequences(),
        "nan": message(make().begin_task, source(with_row(torch.nan, 5))),  # in the share of the second process only
        "none": message(make().begin_task, source(task_data(0, 0))),
        "stream": message(make().begin_task, TaskSource([task_data(0)])),
    }
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    torch.multiprocessing.spawn(work, args=(str(folder),), nprocs=SIZE)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(SIZE)]


def test_rank_and_size(found):
    assert [ours["world"] for ours in found] == [(0, 2), (1, 2)]
    assert world() == (0, 1)


def test_rows_of_all_in_the_order_of_the_ranks(found):
    for ours in found:
        assert ours["uneven"].tolist() == [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [10.0, 11.0], [12.0, 13.0]]
        assert ours["empty"].tolist() == [[10.0, 11.0], [12.0, 13.0], [14.0, 15.0]]
        assert ours["objects"] == [("rank", 0), ("rank", 1)]
        assert ours["integers"].tolist() == [2**60, 2**60 + 1]


def test_one_process_gets_its_own_value_back():
    rows = torch.ones(3, 2)
    assert gather_rows(rows) is rows
    assert broadcast("value") == "value"


def test_the_value_of_the_first(found):
    for ours in found:
        assert same(ours["broadcast"], {"a": [torch.ones(2), "text"]})


def test_history_and_buffer_are_those_of_one_process(found):
    alone = sequences()
    for ours in found:
        for theirs, expected in zip(ours["sequences"], alone, strict=True):
            assert same(theirs, expected)


def test_every_process_raises_the_same_error(found):
    for ours in found:
        assert "Task 0 holds NaN or infinite values in 1 of 9 samples (positions [5]" in ours["nan"]
        assert ours["two shapes"] == (
            "ValueError: Task 0 has samples of 3 and 4 numbers; all need one shape. Resize them, or pass encoder=."
        )
        assert all("needs a tensor of integers (n,) in every batch" in error for error in ours["unlabelled"])
        assert "Task 0 has no training samples" in ours["none"]
        assert ours["stream"] == "no error"  # each process trains on what its own loader yields


def test_parts_within_parts(found):
    told = "Process 0 failed while"
    assert found[0]["parts"] == ["ValueError: early", "ValueError: outside", "ValueError: not heard of",
                                 "ValueError: late", "ValueError: last", ["full", "again", "again"]]  # fmt: skip
    assert found[1]["parts"] == [
        f"RuntimeError: {told} outer: ValueError: early",
        "KeyError: 'inside'",
        f"RuntimeError: {told} outer: ValueError: not heard of",
        f"RuntimeError: {told} outer: ValueError: late",
        f"RuntimeError: {told} inner: ValueError: last",
        [f"{told} inner: OutOfMemoryError: full", "again", "again"],
    ]


NO_MEMORY = (
    "There is not enough memory for the boundary of task 0: give an encoder with shorter vectors, fewer samples a "
    "task, or a smaller probe_size."
)


@pytest.mark.parametrize("failed", [0, 1])
def test_where_one_process_fails_all_do(found, failed):
    """None is left waiting in a collective."""
    parts = ["working", "reading task 0", "reading the chosen samples", "measuring reconstruction errors",
             "measuring reconstruction errors", "reading a few samples"]  # fmt: skip
    lost = f"OSError: sample {4 + failed} is lost"
    raised = ["ValueError: tired", lost, lost, *2 * ["MemoryError: no memory is left"], "OSError: sample 0 is lost"]
    own = [text.replace("no memory is left", NO_MEMORY) for text in raised]  # with the cure where it happened
    for rank, ours in enumerate(found):
        expected = list(own)
        if rank != failed:
            told = f"RuntimeError: Process {failed} failed while"
            expected = [f"{told} {part}: {error}" for part, error in zip(parts, raised, strict=True)]
        if failed == 1:
            expected[2] = expected[5] = "RuntimeError: nothing failed"
        assert ours["failing"][failed] == expected
