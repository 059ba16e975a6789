"""What in a batch is the sample, the label and the condition: rules that refuse what they cannot tell."""

from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from hopfield_replay.encoders import Columns, LatentEncoder, as_encoder, first_labels, split_batch

N = 4
IMAGE, OTHER, SMALL = torch.rand(N, 3, 8, 8), torch.rand(N, 3, 8, 8), torch.rand(N, 3, 4, 4)
VECTOR, TEXT, SCALAR, COLUMN = torch.rand(N, 5), torch.rand(N, 7, 2), torch.rand(N), torch.rand(N, 1)
LABEL, RATE = torch.arange(N), torch.full((N,), 44100)
BYTES = torch.randint(0, 256, (N, 3, 8, 8), dtype=torch.uint8)
MASK = (torch.rand(N, 1, 8, 8) > 0.5).float()
CAPTIONS = ["a", "b", "c", "d"]

Pair = namedtuple("Pair", "image label")


@dataclass
class Record:
    label: Tensor
    image: Tensor


@pytest.mark.parametrize(
    ("batch", "samples"),
    [
        (IMAGE, IMAGE),
        (VECTOR, VECTOR),
        (COLUMN, COLUMN),  # points on a line
        ((COLUMN, LABEL), COLUMN),
        ([IMAGE, LABEL], IMAGE),
        ((LABEL, IMAGE, TEXT), IMAGE),  # the only one in the shape of images
        ({"mask": MASK, "image": IMAGE}, IMAGE),
        ({"mask": MASK, "photo": IMAGE}, IMAGE),
        ({"image_mask": MASK, "image": IMAGE}, IMAGE),
        ({"sample_rate": COLUMN, "waveform": VECTOR}, VECTOR),
        ({"index": LABEL, "weight": SCALAR, "x": VECTOR}, VECTOR),
        ({"latents": IMAGE, "prompt_embeds": TEXT}, IMAGE),
        ({"pixel_values": IMAGE, "depth": OTHER}, IMAGE),
        ({"Image": IMAGE, "depth": OTHER}, IMAGE),
        ({"inputs": {"image": IMAGE}, "y": LABEL}, IMAGE),
        (Pair(IMAGE, LABEL), IMAGE),
        (Record(LABEL, IMAGE), IMAGE),
        ({"input_ids": torch.zeros(N, 9, dtype=torch.long), "x": VECTOR}, VECTOR),
    ],
)
def test_samples_that_are_told(batch, samples):
    assert Columns().samples_of(batch) is samples


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((SMALL, IMAGE), r"could be any of batch\[0\] \(3x4x4\), batch\[1\] \(3x8x8\)\. Say which: samples=0"),
        ((IMAGE, MASK), r"could be any of batch\[0\] .*, batch\[1\] \(1x8x8\)"),
        ({"lr": SMALL, "hr": IMAGE}, r"could be any of batch\['lr'\] .*batch\['hr'\]"),
        ({"image": SMALL, "target": IMAGE}, r"could be any of batch\['image'\]"),  # restoration: the target is denoised
        ({"image": IMAGE, "latents": SMALL}, r"could be any of"),
        ((VECTOR, TEXT), r"could be any of"),
        ({"image": BYTES, "quality": COLUMN}, r"batch\['quality'\] \(1\), batch\['image'\] \(3x8x8\)"),
        ((BYTES, VECTOR), r"could be any of"),
        ({"image": BYTES, "score": SCALAR}, r"no floating tensor .*batch\['image'\]: torch.uint8 3x8x8"),
        ((BYTES, LABEL), r"no floating tensor of samples .* Convert images to floats"),
        ({"mask": MASK, "label": LABEL}, r"no floating tensor .*batch\['mask'\]"),
        ((SCALAR, LABEL), r"no floating tensor"),
        ({"sample_rate": SCALAR, "index": LABEL}, r"no floating tensor"),
    ],
)
def test_samples_that_are_not_told_are_refused(batch, message):
    with pytest.raises(ValueError, match=message):
        Columns().samples_of(batch)


@pytest.mark.parametrize("name", ["label", "labels", "y", "target", "class", "class_label", "cls", "Label"])
def test_labels_by_their_names(name):
    batch = {"index": LABEL + 10, name: LABEL, "sample_rate": RATE, "x": VECTOR}
    assert torch.equal(first_labels(batch, N), LABEL)


@pytest.mark.parametrize(
    ("batch", "labels"),
    [
        ((IMAGE, LABEL), LABEL),
        ([IMAGE, LABEL[:, None]], LABEL),
        ((IMAGE, LABEL.to(torch.uint8)), LABEL),
        (Pair(IMAGE, LABEL), LABEL),
        (Record(LABEL, IMAGE), LABEL),
        ({"meta": {"label": LABEL}, "x": VECTOR}, LABEL),
        ({"label": LABEL, "target": LABEL.clone(), "x": VECTOR}, LABEL),  # one and the same
        ((IMAGE, LABEL, RATE), None),  # neither named nor the second of a pair
        ((LABEL, IMAGE), None),
        ({"x": VECTOR, "index": LABEL}, None),
        ({"x": VECTOR, "sample_rate": RATE}, None),
        ({"x": VECTOR, "label": SCALAR}, None),  # no integers
        ({"x": VECTOR, "label": torch.zeros(N, 5, dtype=torch.long)}, None),
        ((IMAGE, torch.ones(N, dtype=torch.bool)), None),
        ((IMAGE, CAPTIONS), None),
        (IMAGE, None),
    ],
)
def test_labels_that_are_told_and_nothing_else(batch, labels):
    found = first_labels(batch, N)
    assert (found is None) if labels is None else torch.equal(found, labels)


def test_two_labels_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"could be batch\['label'\] or batch\['cls'\]\. Say which: labels="):
        first_labels({"x": VECTOR, "label": LABEL, "cls": LABEL + 1}, N)


@pytest.mark.parametrize(
    ("columns", "labels"),
    [
        (Columns(labels="digit"), LABEL),
        (Columns(labels=lambda batch: batch["digit"] + 1), LABEL + 1),
        (Columns(labels="score"), LABEL * 2),  # whole numbers in a floating tensor
        (Columns(labels=False), None),
        (Columns(labels=lambda batch: None), None),
    ],
)
def test_labels_that_are_said(columns, labels):
    found = columns.labels_of({"x": VECTOR, "digit": LABEL, "score": 2.0 * LABEL, "y": LABEL + 7}, N)
    assert (found is None) if labels is None else torch.equal(found, labels)


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (torch.tensor([2**63 + 5], dtype=torch.uint64).repeat(N), ValueError, "beyond int64"),
        (torch.full((N,), 0.5), ValueError, "no whole numbers"),
        (torch.full((N,), float("nan")), ValueError, "no whole numbers"),
        (LABEL[:3], ValueError, r"shape \(3,\) for 4 samples"),
        (torch.zeros(N, 2).long(), ValueError, r"shape \(4, 2\) for 4 samples"),
        (CAPTIONS, TypeError, "must be a tensor"),
    ],
)
def test_bad_labels(labels, error, message):
    with pytest.raises(error, match=message):
        Columns(labels="mine").labels_of({"mine": labels}, N)


def test_the_condition_is_what_is_left_by_identity():
    """A super-resolution model must not get the answer as its condition."""
    for samples in (1, lambda batch: batch[1]):
        found, condition = Columns(samples=samples).split((SMALL, IMAGE))
        assert found is IMAGE
        assert len(condition) == 1
        assert condition[0] is SMALL
    found, condition = Columns(samples=lambda batch: batch[1] * 2 - 1).split((SMALL, IMAGE))
    assert torch.equal(found, IMAGE * 2 - 1)
    assert condition[0] is SMALL  # computed from the batch: all of it
    assert condition[1] is IMAGE
    found, condition = Columns(samples=lambda batch: batch[1], condition=0).split((SMALL, IMAGE))
    assert condition is SMALL
    assert Columns(samples=1, condition=False).split((SMALL, IMAGE))[1] is None
    rest = Columns(samples="hr").split({"lr": SMALL, "hr": IMAGE, "captions": CAPTIONS})[1]
    assert list(rest) == ["lr", "captions"]
    assert split_batch(Record(LABEL, IMAGE))[1] == {"label": LABEL}
    assert split_batch(Pair(IMAGE, LABEL))[1] == {"label": LABEL}
    assert split_batch(IMAGE)[1] is None
    assert split_batch({"x": IMAGE, "nothing": None})[1] == {"nothing": None}


def test_a_condition_of_another_length():
    with pytest.raises(ValueError, match=r"condition=.* has 3 rows for 4 samples \(condition\['c'\]\)"):
        Columns(condition=lambda batch: {"c": TEXT[:3]}).split((IMAGE, LABEL))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            Columns(samples="img"),
            r"samples='img' is not in the batch, a dict that holds batch\['image'\], batch\['y'\]",
        ),
        (Columns(samples=2), "samples=2 is not in the batch, a dict"),
        (Columns(condition="text"), "condition='text' is not in the batch"),
    ],
)
def test_what_is_not_there(columns, message):
    with pytest.raises(ValueError, match=message):
        columns.split({"image": IMAGE, "y": LABEL})


def test_what_cannot_be_samples():
    with pytest.raises(TypeError, match=r"samples='image' must be a floating tensor .* got torch.uint8"):
        Columns(samples="image").samples_of({"image": BYTES})
    with pytest.raises(TypeError, match=r"must be a floating tensor .* of shape \(4,\)"):
        Columns(samples=0).samples_of((SCALAR, IMAGE))
    with pytest.raises(TypeError, match="labels must be a name, an index or a function of the batch, got float"):
        Columns(labels=0.5)
    with pytest.raises(TypeError, match="samples must be a name"):
        Columns(samples=False)


@pytest.mark.parametrize(
    ("columns", "batch", "line"),
    [
        (Columns(), (IMAGE, LABEL), "samples: batch[0], 3x8x8 in R; labels: batch[1]; condition: batch[1]"),
        (Columns(), IMAGE, "samples: batch, 3x8x8 in R; labels: none; condition: none"),
        (Columns(condition=False), (IMAGE, LABEL), "samples: batch[0], 3x8x8 in R; labels: batch[1]; condition: none"),
        (
            Columns(samples="hr", labels=False),
            {"lr": SMALL, "hr": IMAGE, "y": LABEL},
            "samples: batch['hr'], 3x8x8 in R; labels: none; condition: batch['lr'], batch['y']",
        ),
    ],
)
def test_what_was_taken_in_a_line(columns, batch, line):
    assert columns.describe(batch, " in R") == line


def test_a_line_names_functions():
    def halves(batch):
        return batch[0] / 2

    assert "halves, 3x8x8; labels: batch[1]" in Columns(samples=halves).describe((IMAGE, LABEL))


def test_encoders_read_the_samples_that_are_said():
    batch = {"lr": SMALL, "hr": IMAGE}
    assert torch.equal(as_encoder(None, Columns(samples="hr"))(batch), IMAGE.flatten(1))
    module = torch.nn.Flatten()
    assert torch.equal(as_encoder(module, Columns(samples="lr"))(batch), SMALL.flatten(1))
    doubled = as_encoder(None, Columns(samples=lambda batch: 2 * batch["lr"]))
    assert torch.equal(doubled(batch), 2 * SMALL.flatten(1))


def test_an_encoder_gets_the_samples_and_not_what_is_computed_of_them():
    diffusers = pytest.importorskip("diffusers")
    vae = diffusers.AutoencoderKL(block_out_channels=(4,), norm_num_groups=2, latent_channels=2)
    encoder = LatentEncoder(vae)
    columns = Columns(samples=encoder.features)
    assert as_encoder(encoder, columns)((IMAGE, LABEL)).shape == (N, 2 * 8 * 8)
    assert columns.split((IMAGE, LABEL))[0].shape == (N, 2, 8, 8)
