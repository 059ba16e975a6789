"""Which images should a person look at? A few that stand for all; no model, no training, no continual learning.

python examples/review_digits.py                       # 20, 50 and 200 of scikit-learn's 1797 handwritten digits

Nobody has time to label 1797 images. `select` chooses some without knowing a label; a person labels these (here the
data set does), and every other image takes the label of the nearest of them. How often it is right tells how well the
chosen ones stand for all. Any policy can choose.
"""

from helpers.command import Parser, answer_help, run_main


def make_parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument("--policies", nargs="+", type=str, default=["greedy_gain", "random", "k_center", "herding"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[20, 50, 200], help="how many images are looked at")
    parser.add_argument("--draws", type=int, default=5, help="of the random policy")
    return parser


answer_help(__name__, make_parser)

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from helpers.splits import load
from hopfield_replay import select
from hopfield_replay.theory import markdown_table


def right(images: Tensor, labels: Tensor, chosen: Tensor) -> float:
    """Share of the other images whose nearest chosen one has their label."""
    vectors = images.flatten(1)
    others = torch.ones(len(images), dtype=torch.bool)
    others[chosen] = False
    nearest = chosen[torch.cdist(vectors[others], vectors[chosen]).argmin(1)]
    return float((labels[nearest] == labels[others]).double().mean())


def compare(images: Tensor, labels: Tensor, policies: Sequence[str], sizes: Sequence[int], draws: int) -> str:
    """The share that is right for each policy and size; the mean of several draws of the random one."""
    rows = []
    for policy in policies:
        cells = [policy]
        for size in sizes:
            seeds = range(draws if policy == "random" else 1)
            found = [right(images, labels, select(images, keep=size, policy=policy, seed=s).indices) for s in seeds]
            cells.append(f"{100 * sum(found) / len(found):.1f} %")
        rows.append(cells)
    return markdown_table(["policy", *(f"{size} looked at" for size in sizes)], rows)


def main() -> None:
    parser = make_parser()
    args = parser.parse_args()
    images, labels = load("digits", Path())
    print(select(images, keep=max(args.sizes), unique=True).table())
    print(compare(images, labels, args.policies, args.sizes, args.draws))


if __name__ == "__main__":
    run_main(main)
