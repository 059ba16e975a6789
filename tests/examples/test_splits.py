"""The tasks' data; the forecast's agreement with what was forgotten, on a history written by hand."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

pytest.importorskip("diffusers")

from helpers.splits import Split, forecast_agreement, load
from hopfield_replay import calibrate_beta
from hopfield_replay.tracker import BoundaryRecord
from tests.functional import numpy_energy as reference


def test_agreement_is_the_rank_correlation_of_predicted_and_measured_rises():
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.normal(size=(90, 1, 2, 2))).float()
    labels = torch.arange(90) % 3
    tasks = [Split(images + labels[:, None, None, None], labels, [c], 20, 4) for c in range(3)]
    history, expected = [BoundaryRecord.of({"task": 0, "probes": []})], []
    for task in (1, 2):
        order = torch.from_numpy(rng.permutation(10))  # the probes in an order of their own
        start, end = (torch.from_numpy(rng.normal(size=(10, 3))) for _ in range(2))
        probe = {"ids": order + ((task - 1) << 40) + (1 << 39), "error_start": start, "error": end}
        history.append(BoundaryRecord.of({"task": task, "probes": [{}] * (task - 1) + [probe]}))
        old, new = (tasks[t].train.tensors[0].flatten(1).double().numpy() for t in (task - 1, task))
        x = tasks[task - 1].held_out.tensors[0].flatten(1).double().numpy()[order.numpy()]
        beta = calibrate_beta(tasks[task - 1].train.tensors[0])
        rise = reference.energy(x, new, beta) - reference.energy(x, old, beta)
        expected.append(spearmanr(rise, (end - start).mean(1).numpy()).statistic)
    found = forecast_agreement(history, tasks)
    assert [r.estimate for r in found] == pytest.approx(expected)
    assert all(r.low <= r.estimate <= r.high and r.n == 10 for r in found)


def test_seen_images_follow_the_held_out_ones():
    images, labels = load("digits", None)
    split = Split(images, labels, [0, 1], 100, 10, seen=7)
    validation = torch.cat([batch[0] for batch in split.val_dataloader()])
    assert torch.equal(validation, torch.cat([split.held_out.tensors[0], split.train.tensors[0][:7]]))
    assert len(Split(images, labels, [0, 1], 100, 10).val_dataloader().dataset) == len(split.held_out)
