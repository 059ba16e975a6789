import pytest
import torch

from hopfield_replay.functional import PatternTiles, energy
from hopfield_replay.functional.rows import Rows, column_means, joined, picked, pieces, replaced


def parts(*sizes, d=3, seed=0):
    whole = torch.randn(sum(sizes), d, generator=torch.Generator().manual_seed(seed))
    return whole, Rows(*whole.split(list(sizes)))


@pytest.mark.parametrize("sizes", [(5,), (2, 3), (1, 1, 4, 2)])
def test_rows_are_those_of_the_matrix(sizes):
    whole, rows = parts(*sizes)
    assert rows.shape == whole.shape
    index = torch.randint(len(whole), (20,), generator=torch.Generator().manual_seed(1))
    assert torch.equal(rows[index], whole[index])
    assert torch.equal(rows[1:4], whole[1:4])
    assert torch.equal(torch.cat(list(rows)), whole)
    assert torch.equal(column_means(rows), column_means(whole))
    torch.testing.assert_close(column_means(rows), whole.double().mean(0))


@pytest.mark.parametrize("numbers", [1, 3, 7, 100])
def test_pieces_are_consecutive_and_bounded(numbers):
    whole, rows = parts(4, 1, 6)
    for matrix in (whole, rows):
        found = list(pieces(matrix, numbers))
        assert torch.equal(torch.cat([piece for _, piece in found]), whole)
        assert [start for start, _ in found] == [sum(len(p) for _, p in found[:i]) for i in range(len(found))]
        assert all(len(piece) == 1 or piece.numel() <= numbers for _, piece in found)


def test_picked_rows_are_read_when_asked_for_and_can_be_picked_again():
    whole, rows = parts(4, 3)
    index, again = torch.tensor([6, 0, 3, 3]), torch.tensor([2, 1])
    found = picked(picked(rows, index), again)
    assert isinstance(found, Rows)
    assert torch.equal(found[:], whole[index][again])
    assert torch.equal(picked(whole, index), whole[index])


def test_joined_rows_stay_where_they_are_but_for_tensors():
    whole, rows = parts(4, 3)
    assert torch.equal(joined(whole, whole), torch.cat([whole, whole]))
    found = joined(whole[:2], rows)
    assert isinstance(found, Rows)
    assert torch.equal(found[:], torch.cat([whole[:2], whole]))
    assert found.parts[1].data_ptr() == whole.data_ptr()
    assert torch.equal(joined(whole[:0], rows)[:], whole)


def test_patterns_may_be_rows():
    whole, rows = parts(40, 30)
    torch.testing.assert_close(energy(whole[:5], PatternTiles(rows), 2.0), energy(whole[:5], whole, 2.0))


@pytest.mark.parametrize(
    "given",
    [
        (),
        (torch.zeros(2),),
        (torch.zeros(2, 3), torch.zeros(2, 4)),
        (torch.zeros(2, 3), torch.zeros(2, 3).double()),
    ],
)
def test_parts_that_do_not_fit_are_named(given):
    with pytest.raises(ValueError, match=r"at least one part|one dimension, dtype and device"):
        Rows(*given)


def test_rows_of_which_some_are_others():
    whole, rows = parts(4, 3)
    index, others = torch.tensor([6, 0, 4]), torch.randn(3, whole.shape[1])
    expected = whole.index_copy(0, index, others)
    found = replaced(rows, index, others)
    assert isinstance(found, Rows)
    assert torch.equal(found[:], expected)
    assert torch.equal(found[torch.tensor([4, 4, 1])], expected[[4, 4, 1]])
    assert torch.equal(torch.cat(list(found)), expected)
    assert torch.equal(rows[:], whole)  # nothing was written
    assert torch.equal(replaced(whole, index, others), expected)
    assert replaced(rows, index[:0], others[:0]) is rows


@pytest.mark.parametrize("masses", [None, torch.arange(70.0).double()])
def test_tiles_of_rows_are_those_of_the_whole(masses):
    whole, rows = parts(40, 30)
    found, expected = PatternTiles.of_rows(rows, masses), PatternTiles.of_rows(whole, masses)
    assert len(found) == len(expected) == 70
    x = whole[:5] + 0.1
    torch.testing.assert_close(energy(x, found, 2.0), energy(x, expected, 2.0))
