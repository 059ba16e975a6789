"""States from files: what is taken apart only after it was found whole."""

import pytest
import torch

from hopfield_replay.utilities.states import check_plain, check_unshared, migrated


@pytest.mark.parametrize(
    ("state", "error"),
    [
        ({"x": torch.zeros(1).expand(1 << 30)}, ValueError),
        ({"x": torch.zeros(2, 2).to_sparse()}, ValueError),
        ({"x": torch.zeros(4, device="meta")}, ValueError),
        ({"x": {1, 2}}, TypeError),
    ],
)
def test_tensors_that_claim_more_than_they_hold_and_other_types(state, error):
    with pytest.raises(error):
        check_plain(state)


def test_many_views_of_one_memory():
    memory = torch.zeros(100)
    check_unshared({"a": memory, "b": torch.zeros(3)})
    with pytest.raises(ValueError, match="920 bytes are made of 400"):
        check_unshared({"a": memory, "b": memory[:50], "c": memory[20:]})


def test_the_format_is_named_without_printing_all_of_it():
    state = {"format": "buffer 2"}
    assert migrated(state, "buffer 2", {}, "a buffer") is state
    with pytest.raises(ValueError, match="format 'buffer 1'"):
        migrated({"format": "buffer 1"}, "buffer 2", {}, "a buffer")
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        migrated({"format": "x" * 10**6}, "buffer 2", {}, "a buffer")
    assert len(str(caught.value)) < 300


def test_old_formats_pass_through_every_step():
    steps = {
        "book 1": lambda state: {**state, "format": "book 2", "pages": 3},
        "book 2": lambda state: {**state, "format": "book 3", "words": 100 * state["pages"]},
    }
    assert migrated({"format": "book 1"}, "book 3", steps, "a book") == {"format": "book 3", "pages": 3, "words": 300}
    with pytest.raises(ValueError, match="The state of a book is damaged: KeyError"):
        migrated({"format": "book 2"}, "book 3", steps, "a book")
    with pytest.raises(ValueError, match="Not a state of a book of this version: format None"):
        migrated({}, "book 3", steps, "a book")
