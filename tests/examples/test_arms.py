"""What the examples say of their arms."""

import pytest
import torch

pytest.importorskip("sklearn")
pytest.importorskip("diffusers")

from helpers.arms import report


def arm(policy, rises):
    last = dict.fromkeys(
        ("intrinsic_forgetting", "reconstruction_forgetting", "reconstruction_forgetting_p95", "error_current_task"),
        0.1,
    )
    return {
        "policy": policy, "drawn": "", "tasks": [last], "buffer_bytes": 0, "seconds": 1, "rises": [torch.tensor(rises)]
    }  # fmt: skip


def test_one_arm_has_no_differences():
    assert report([arm("none", [0.1, 0.2])]).splitlines()[-1].startswith("| none")


def test_differences_follow_their_heading():
    said = report([arm("none", [0.2, 0.3]), arm("random", [0.1, 0.2])]).splitlines()
    assert said[-2].startswith("Differences in reconstruction forgetting")
    assert said[-1] == "  random against none: -0.1000 [-0.1000, -0.1000] less forgetting"
