"""Modern Hopfield attention against scaled_dot_product_attention, plain and with the state as its mask.

Run from the repository root: ``python -m tests.benchmarks.attention``. Every variant but the plain one also hands on
the state. Rounds alternate between the variants; ratios are medians over rounds, of CPU time.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from hopfield_replay.functional.hopfield_attention import hopfield_attention

A = 0.3


def plain(query: Tensor, key: Tensor, value: Tensor, state: Tensor) -> tuple[Tensor, ...]:
    """Attention without a state: the baseline."""
    return (scaled_dot_product_attention(query, key, value),)


def masked(query: Tensor, key: Tensor, value: Tensor, state: Tensor) -> tuple[Tensor, ...]:
    """The state as the mask, and the next state beside it."""
    scale = (1.0 - A) * query.shape[-1] ** -0.5
    out = scaled_dot_product_attention(query, key, value, attn_mask=A * state, scale=scale)
    return out, A * state + scale * (query @ key.mT)


def ours(query: Tensor, key: Tensor, value: Tensor, state: Tensor) -> tuple[Tensor, ...]:
    """What the library does."""
    return hopfield_attention(query, key, value, state, A)


def seconds(variant: Callable[..., tuple[Tensor, ...]], inputs: list[Tensor], repeats: int) -> float:
    """CPU seconds of one call, and of its gradients if the inputs want them."""
    started = time.process_time()
    for _ in range(repeats):
        outputs = variant(*inputs)
        if inputs[0].requires_grad:
            sum(out.sum() for out in outputs).backward()
    return (time.process_time() - started) / repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    variants = {"masked": masked, "ours": ours}
    print("batch, heads, tokens, d          milliseconds, plain   ratio: masked + state   ratio: ours")
    for batch, heads, tokens, width in ((32, 4, 16, 16), (32, 4, 64, 16), (4, 4, 256, 32), (1, 4, 1024, 64)):
        for gradients in (False, True):
            sizes = (width, width, width, tokens)
            inputs = [torch.randn(batch, heads, tokens, size, requires_grad=gradients) for size in sizes]
            found: dict[str, list[float]] = {name: [] for name in variants}
            base = []
            for _ in range(args.rounds):
                base.append(seconds(plain, inputs, args.repeats))
                for name, variant in variants.items():
                    found[name].append(seconds(variant, inputs, args.repeats) / base[-1])
            label = f"{batch}, {heads}, {tokens}, {width}" + (" with gradients" if gradients else "")
            ratios = [statistics.median(values) for values in found.values()]
            print(f"{label:<33}{1e3 * statistics.median(base):>20.2f}{ratios[0]:>24.2f}{ratios[1]:>14.2f}")


if __name__ == "__main__":
    main()
