"""What is read of a task, against the loader's own batches; the processes' shares are tested in test_distributed."""

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from hopfield_replay import TaskSource
from hopfield_replay.tracker.task_reader import TaskReader, sample_ids


def batches(n=7, size=3):
    x = torch.randn(n, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    y = torch.arange(n)
    return x, y, [(x[i : i + size], y[i : i + size]) for i in range(0, n, size)]


def test_ids_hold_task_half_and_position():
    assert sample_ids(3, torch.tensor([0, 7])).tolist() == [3 * 2**40, 3 * 2**40 + 7]
    assert sample_ids(0, torch.tensor([2]), held_out=True).tolist() == [2**39 + 2]


def test_all_samples_in_the_order_of_their_positions():
    x, y, loader = batches()
    data = TaskReader(None).read(4, TaskSource(loader))
    assert torch.equal(data.vectors, x.flatten(1))
    assert torch.equal(data.labels, y)
    assert torch.equal(data.ids, sample_ids(4, torch.arange(7)))
    scaled = TaskReader(lambda batch: batch[0].flatten(1) * 2).read(
        0, TaskSource(loader, prepare=lambda batch: [batch[0] + 1])
    )
    assert torch.equal(scaled.vectors, 2 * (x + 1).flatten(1))


def test_probes_are_a_random_choice_that_depends_on_ids_and_seed_only():
    x, _, loader = batches(40, 8)
    reader = TaskReader(None)
    data = reader.read(1, TaskSource(loader))

    def choose(source, seed, size=10):
        return reader.probes(1, TaskSource(source), data.ids, size=size, seed=seed)

    first, again = choose(loader, 0), choose(batches(40, 5)[2], 0)
    assert torch.equal(first.ids, again.ids)
    assert torch.equal(first.vectors, x.flatten(1)[first.ids - sample_ids(1, torch.zeros(1))])
    assert not torch.equal(first.ids, choose(loader, 1).ids)
    assert set(choose(loader, 0, 5).ids.tolist()) < set(first.ids.tolist())
    held = reader.probes(1, TaskSource(loader), data.ids, size=50, seed=0, held_out=TaskSource(batches(6)[2]))
    assert held.ids.tolist() == sample_ids(1, torch.arange(6), held_out=True).tolist()


@pytest.mark.parametrize(
    ("loader", "options", "message"),
    [
        ([], {}, "no training samples"),
        ([torch.tensor([[1.0], [torch.nan]])], {}, r"1 of 2 samples \(positions \[1\]"),
        ([torch.ones(2, 3)], {"dimension": 4}, "3 numbers .* but those before have 4"),
        ([torch.ones(2, 3), torch.ones(2, 5)], {}, "5 numbers .* but those before have 3"),
        (DataLoader(torch.ones(4, 3), 2, collate_fn=lambda items: torch.stack(items * 2)), {}, r"collate_fn .*4 for 2"),
        (DataLoader(TensorDataset(torch.ones(4, 3), torch.ones(4)), None), {}, r"batch\[1\] is a scalar tensor"),
    ],
)
def test_bad_tasks(loader, options, message):
    with pytest.raises(ValueError, match=message):
        TaskReader(None).read(0, TaskSource(loader), **options)


def test_encoders_that_return_no_vectors():
    with pytest.raises(TypeError, match="floating tensor"):
        TaskReader(lambda batch: batch.long()).read(0, TaskSource([torch.ones(2, 3)]))
    with pytest.raises(ValueError, match="a vector for each sample, got 1 for 2"):
        TaskReader(lambda batch: batch[:1]).read(0, TaskSource([torch.ones(2, 3)]))
