"""Columns: indexing gives what reading item by item and collating gives."""

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset, default_collate

from tests.avalanche.streams import KINDS, QUIET, benchmark, data

from avalanche.benchmarks import nc_benchmark  # isort: skip
from avalanche.benchmarks.utils import make_avalanche_dataset
from avalanche.benchmarks.utils.data_attribute import DataAttribute

from hopfield_replay.avalanche.columns import Columns

pytestmark = QUIET


def same(columns: Columns, dataset) -> None:
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0)).tolist()
    for rows in (order, order[:1]):
        expected = default_collate([dataset[row] for row in rows])
        found = columns.rows(rows)
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            assert a.dtype == b.dtype
            assert a.equal(b)


@pytest.mark.parametrize("kind", KINDS)
def test_benchmarks_of_tensors_are_indexed(kind):
    for experience in benchmark(kind, *data()).train_stream:
        columns = Columns(experience.dataset.train())
        assert columns.known
        same(columns, experience.dataset.train())


def test_targets_that_a_benchmark_numbers_anew():
    images, labels = data()
    made = TensorDataset(images, labels)
    made.targets = labels
    stream = nc_benchmark(made, made, 3, task_labels=True, seed=4, class_ids_from_zero_in_each_exp=True).train_stream
    for experience in stream:
        columns = Columns(experience.dataset)
        assert set(columns.rows(list(range(len(experience.dataset))))[1].tolist()) == {0, 1}
        same(columns, experience.dataset)


def test_transformed_samples_are_read_one_by_one():
    images, labels = data(12)
    made = TensorDataset(images, labels)
    made.targets = labels
    stream = nc_benchmark(made, made, 2, task_labels=False, train_transform=lambda x: x + 1, seed=0).train_stream
    columns = Columns(stream[0].dataset.train())
    assert not columns.known
    same(columns, stream[0].dataset.train())


def test_two_data_sets_in_one_are_read_one_by_one():
    first, second = (make_avalanche_dataset(TensorDataset(torch.rand(3, 2))) for _ in range(2))
    both = first.concat(second).subset([5, 0])
    assert not Columns(both).known
    same(Columns(both), both)


def test_data_attributes_that_are_part_of_the_items():
    ids = DataAttribute([7, 8, 9], "ids", use_in_getitem=True)
    dataset = make_avalanche_dataset(TensorDataset(torch.rand(3, 2), torch.arange(3)), data_attributes=[ids])
    assert Columns(dataset).known
    same(Columns(dataset), dataset)


def test_an_own_collate_function_is_used():
    dataset = make_avalanche_dataset(TensorDataset(torch.rand(3, 2)), collate_fn=lambda items: len(items))
    assert Columns(dataset).rows([0, 1]) == 2


def test_an_empty_data_set_has_no_minibatches():
    dataset = make_avalanche_dataset(TensorDataset(torch.rand(3, 2))).subset([])
    assert list(DataLoader(Columns(dataset), batch_size=2)) == []
