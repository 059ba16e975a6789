"""Batches as nestings: every container, rows that disagree, captions, and what is found in them."""

from collections import namedtuple

import pytest
import torch
from torch.utils.data import default_collate

from hopfield_replay.utilities.nested import concatenate, leaves, map_leaves, rows, take, walk

Pair = namedtuple("Pair", ["image", "label"])
IMAGES = torch.arange(12.0).view(4, 3)
LABELS = torch.tensor([3, 1, 2, 0])
WORDS = ["a", "bb", "ccc", "d"]

NESTINGS = {
    "tensor": IMAGES,
    "tuple": (IMAGES, LABELS),
    "list": [IMAGES, LABELS],
    "dict": {"image": IMAGES, "label": LABELS},
    "nested": {"data": (IMAGES, {"label": LABELS}), "text": WORDS},
    "namedtuple": Pair(IMAGES, LABELS),
    "captions": [IMAGES, WORDS],
    "tuple of strings": (IMAGES, tuple(WORDS)),
}


def tensors(tree):
    """Every tensor in it."""
    return [item for _, item in walk(tree) if isinstance(item, torch.Tensor)]


def same(a, b):
    if isinstance(a, torch.Tensor):
        return (
            isinstance(b, torch.Tensor)
            and a.dtype == b.dtype
            and a.shape == b.shape
            and bool(((a == b) | ((a != a) & (b != b))).all())
        )
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return a == b


def expected_rows(tree, index):
    """The rows again, one at a time."""
    if isinstance(tree, torch.Tensor):
        return torch.stack([tree[i] for i in index])
    if isinstance(tree, dict):
        return {key: expected_rows(item, index) for key, item in tree.items()}
    if all(isinstance(item, str) for item in tree):
        return type(tree)([tree[i] for i in index])
    items = [expected_rows(item, index) for item in tree]
    return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)


@pytest.mark.parametrize("name", NESTINGS)
def test_take_and_concatenate_keep_containers_and_dtypes(name):
    tree = NESTINGS[name]
    assert rows(tree) == 4
    assert same(take(tree, torch.tensor([2, 0, 2])), expected_rows(tree, [2, 0, 2]))
    joined = concatenate(take(tree, torch.tensor([1])), take(tree, torch.tensor([3, 0])))
    assert same(joined, expected_rows(tree, [1, 3, 0]))


def test_take_copies():
    images = IMAGES.clone()
    taken = take({"image": images}, torch.arange(4))
    images.zero_()
    assert torch.equal(taken["image"], IMAGES)


def test_what_the_default_collate_function_makes_of_captions():
    by_tuple = default_collate([(torch.ones(2), "one"), (torch.zeros(2), "two")])
    by_dict = default_collate([{"image": torch.ones(2), "text": "one"}, {"image": torch.zeros(2), "text": "two"}])
    assert list(take(by_tuple, torch.tensor([1]))[1]) == ["two"]
    assert list(take(by_dict, torch.tensor([1]))["text"]) == ["two"]


def test_captions_join_in_the_container_of_the_first():
    assert concatenate((IMAGES, ("x",) * 4), (IMAGES, ["y"] * 4))[1] == ("x",) * 4 + ("y",) * 4
    assert concatenate((IMAGES, ["x"] * 4), (IMAGES, ("y",) * 4))[1] == ["x"] * 4 + ["y"] * 4


def test_leaves_come_with_their_paths_in_order():
    paths = [path for path, _ in leaves({"a": (IMAGES, LABELS), "b": [WORDS]})]
    assert paths == ["batch['a'][0]", "batch['a'][1]", "batch['b'][0]"]


def test_concatenate_casts_nothing_and_says_what_differs():
    with pytest.raises(ValueError, match=r"batch\['x'\] cannot be joined: .*\(4, 3\).*\(4, 2\)"):
        concatenate({"x": IMAGES}, {"x": IMAGES[:, :2]})
    with pytest.raises(ValueError, match=r"float32.*float64"):
        concatenate(IMAGES, IMAGES.double())


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"image": IMAGES}, r"has keys \['image', 'label'\].*keys \['image'\]"),
        ((IMAGES, LABELS), "has keys .* a tuple of 2 items"),
        ({"image": IMAGES, "label": WORDS}, r"batch\['label'\] is a tensor .* in one batch and a list of 4 items"),
        ({"image": IMAGES, "label": {"x": LABELS}}, r"batch\['label'\] is a tensor.*a mapping with keys \['x'\]"),
        ({"image": IMAGES, "label": [LABELS]}, r"batch\['label'\] is a tensor.*a list of 1 items"),
    ],
)
def test_other_nestings_are_refused(other, message):
    with pytest.raises(ValueError, match=message):
        concatenate({"image": IMAGES, "label": LABELS}, other)


def test_tuples_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match="batch has 2 items, but the other batch has a tuple of 3 items"):
        map_leaves(lambda path, a, b: a, (IMAGES, LABELS), (IMAGES, LABELS, LABELS))


def test_rows_must_agree():
    with pytest.raises(ValueError, match=r"batch\[1\] has 3 rows, but batch\[0\] has 4"):
        rows((IMAGES, LABELS[:3]))
    with pytest.raises(ValueError, match=r"batch\['scale'\] is a scalar"):
        rows({"image": IMAGES, "scale": torch.tensor(2.0)})


@pytest.mark.parametrize("empty", [{}, (), [], {"a": ()}])
def test_an_empty_batch_is_refused(empty):
    with pytest.raises(ValueError, match="The batch is empty"):
        rows(empty)


@pytest.mark.parametrize("item", ["a word", 3, None, object()])
def test_what_is_no_tensor_is_named(item):
    with pytest.raises(TypeError, match=rf"batch\['meta'\] is {type(item).__name__}; .*collate_fn"):
        rows({"image": IMAGES, "meta": item})


def test_what_is_whole_is_not_entered():
    tree = {"a": [1, (2, WORDS)], "b": {"c": None}}
    assert list(walk(tree)) == [
        ("batch['a'][0]", 1),
        ("batch['a'][1][0]", 2),
        ("batch['a'][1][1]", WORDS),
        ("batch['b']['c']", None),
    ]
    assert list(walk(tree, "x", whole=lambda item: isinstance(item, dict))) == [("x", tree)]
    pairs = walk(tree, whole=lambda item: isinstance(item, tuple))
    assert [item for _, item in pairs] == [1, (2, WORDS), None]
    paths = map_leaves(lambda path, item: path, tree, whole=lambda item: isinstance(item, tuple))
    assert paths == {"a": ["batch['a'][0]", "batch['a'][1]"], "b": {"c": "batch['b']['c']"}}
