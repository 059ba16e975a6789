"""The example that chooses images to label: its measure against a literal loop, and what it says."""

import pytest
import torch

import review_digits as review


def test_every_other_image_takes_the_label_of_the_nearest_chosen_one():
    images = torch.rand(30, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(30) % 3
    chosen = [4, 17, 9, 20]
    hits = []
    for i in range(30):
        if i not in chosen:
            nearest = min(chosen, key=lambda j: float((images[i] - images[j]).square().sum()))
            hits.append(labels[i] == labels[nearest])
    assert review.right(images, labels, torch.tensor(chosen)) == pytest.approx(sum(hits) / 26)


def test_the_table_has_a_row_for_each_policy():
    generator = torch.Generator().manual_seed(0)
    images = torch.cat([torch.rand(20, 1, 2, 2, generator=generator) * 0.1 + 3 * k for k in range(3)])
    text = review.compare(images, torch.arange(60) // 20, ["greedy_gain", "random"], [3, 6], draws=2)
    assert text.splitlines()[0].split("|")[1].strip() == "policy"
    assert "100.0 %" in next(line for line in text.splitlines() if "greedy_gain" in line)  # one of each cluster
