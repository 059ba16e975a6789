"""What the benchmark compares: every method by its name, with the one number that is tuned for it."""

from dataclasses import dataclass
from typing import Literal

Kept = Literal["nothing", "real samples", "all data", "a model", "a model, its samples", "weights"]


@dataclass(frozen=True)
class Method:
    """One row of the benchmark.

    Attributes:
        name: of the row.
        keeps: what outlives a task beside the model.
        lines: of code that a user adds to a training script with this library (or peft, for LoRA; or a callback of
            helpers/regularisers.py).
        policy: that chooses what is replayed, as :func:`helpers.splits.make_buffer` reads it; "none": no replay.
        generated: candidates come from the model, not from the data.
        all_generated: all of them are replayed, not as many as other methods keep.
        regulariser: what holds the model, or None.
        tuned: what ``grid`` holds values of.
        grid: tried on the tuning seed; the best is used for all others. Empty: nothing to tune.
    """

    name: str
    keeps: Kept
    lines: int
    policy: str = "none"
    generated: bool = False
    all_generated: bool = False
    regulariser: Literal["l2", "ewc", "rank1", "distillation", "lora", "joint", "levels", "held"] | None = None
    tuned: Literal["replay_ratio", "strength", "rank", "share"] | None = None
    grid: tuple[float, ...] = ()


RATIOS = (0.35, 0.5, 0.65)
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
ALONE = (*STRENGTHS, 1.0, 10.0)  # without replay more has to be held


def _replay(name: str, policy: str) -> Method:
    return Method(name, "real samples", 3, policy, tuned="replay_ratio", grid=RATIOS)


METHODS = {
    method.name: method
    for method in (
        Method("none", "nothing", 0),
        Method("joint", "all data", 1, regulariser="joint"),
        _replay("random", "random"),
        _replay("random, by class", "random_by_label"),
        _replay("reservoir", "reservoir"),
        _replay("weighted k-means", "k_means+weight"),
        _replay("facility_location + weight", "facility_location+weight"),
        _replay("greedy_gain", "greedy_gain"),
        _replay("greedy_gain, by weight", "greedy_gain+weight"),
        _replay("high_energy", "high_energy"),
        _replay("low_energy", "low_energy"),
        Method("generated, all", "a model, its samples", 4, "random", True, True, tuned="replay_ratio", grid=RATIOS),
        Method(
            "generated, greedy_gain", "a model, its samples", 4, "greedy_gain", True, tuned="replay_ratio", grid=RATIOS
        ),
        Method(
            "generative distillation",
            "a model, its samples",
            1,
            regulariser="distillation",
            tuned="strength",
            grid=(0.3, 1.0, 3.0, 10.0, 30.0),
        ),
        Method("EWC, diagonal", "weights", 1, regulariser="ewc", tuned="strength", grid=ALONE),
        Method("EWC, rank 1", "weights", 1, regulariser="rank1", tuned="strength", grid=ALONE),
        Method("L2", "weights", 1, regulariser="l2", tuned="strength", grid=ALONE),
        Method("LoRA", "nothing", 2, regulariser="lora", tuned="rank", grid=(2, 8, 32)),
        Method(
            "greedy_gain + L2", "real samples", 4, "greedy_gain", regulariser="l2", tuned="strength", grid=STRENGTHS
        ),
        Method(
            "greedy_gain + EWC, rank 1",
            "real samples",
            4,
            "greedy_gain",
            regulariser="rank1",
            tuned="strength",
            grid=STRENGTHS,
        ),
        Method(
            "greedy_gain + distillation",
            "real samples",
            4,
            "greedy_gain",
            regulariser="distillation",
            tuned="strength",
            grid=(0.3, 1.0, 3.0, 10.0),
        ),
        *(
            Method(
                f"{policy} + ReplayDistillation",
                "real samples",
                4,
                policy,
                regulariser="held",
                tuned="strength",
                grid=(0.3, 1.0, 3.0, 10.0),
            )
            for policy in ("random", "greedy_gain")
        ),
        Method(
            "greedy_gain at the levels that forget",
            "real samples",
            5,
            "greedy_gain",
            regulariser="levels",
            tuned="share",
            grid=(0.3, 0.6, 1.0),
        ),
    )
}
