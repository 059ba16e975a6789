"""Two processes come to the buffer, the history and the errors of one, also when their shares are uneven."""

import datetime

import pytest
import torch
import torch.distributed as dist

from hopfield_replay import TaskSource
from hopfield_replay.distributed import broadcast, gather_rows, world
from tests.test_nested import same
from tests.test_tracker import make, run, source, task_data, untimed, with_row

SIZE = 2


def message(function, *arguments):
    try:
        function(*arguments)
    except ValueError as error:
        return str(error)
    return "no error"


def sequences():
    """Tasks of 9, 8 and 7 samples and 6 held-out ones: some shares are uneven."""
    return [
        untimed(run(make(beta="auto"))),
        untimed(run(make(beta="auto"), held_out=True)),
        untimed(run(make(None, probe_size=1))),  # the second process has no probe
    ]


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
        "integers": gather_rows(torch.tensor([rank + 2**60])),
        "broadcast": broadcast({"a": [torch.ones(2) * (rank + 1), "text"]}),
        "sequences": sequences(),
        "nan": message(make().begin_task, source(with_row(torch.nan, 5))),  # in the share of the second process only
        "too few": message(make().begin_task, source(task_data(0, 1))),
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
        assert "Task 0 has 1 training samples for 2 processes; each process needs at least one" in ours["too few"]
        assert "Task 0 has no training samples" in ours["none"]
        assert "list cannot be split over 2 processes; measure tasks from a DataLoader" in ours["stream"]
