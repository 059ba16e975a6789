r"""Train a DDPM on splits of handwritten digits, and watch what it forgets under each replay policy.

python examples/ddpm_mnist_splits.py                                    # scikit-learn's 8x8 digits, no download
python examples/ddpm_mnist_splits.py --data mnist --tasks 2             # MNIST by torchvision, 14x14
tensorboard --logdir runs/ddpm_mnist_splits                             # scalars, histograms and scatters per arm

With --checkpoints any two versions of the model can be compared afterwards:

python examples/ddpm_mnist_splits.py --checkpoints --policies none --output-dir runs/audited
cd examples && hopfield-replay audit --model helpers.ddpm:DDPM --before ../runs/audited/none/task0.ckpt \
    --after ../runs/audited/none/task4.ckpt --data ../runs/audited/task0.npz
"""

from pathlib import Path

from helpers.command import Parser, answer_help, run_main


def make_parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument(
        "--data", type=str, choices=["digits", "mnist", "mnist28"], default="digits", help="which digits"
    )
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="where MNIST is, or is downloaded to")
    parser.add_argument("--tasks", type=int, default=5, help="number of tasks the ten digits are split into, 2 to 10")
    parser.add_argument(
        "--policies", nargs="+", default=["none", "random", "high_energy", "greedy_gain"], help="one arm for each"
    )
    parser.add_argument("--capacity", type=int, default=50, help="samples kept in all")
    parser.add_argument("--replay-ratio", type=float, default=0.5, help="share of each batch that is replayed")
    parser.add_argument("--epochs", type=int, default=None, help="epochs for each task (default: by data)")
    parser.add_argument("--seed", type=int, default=0, help="of model, data split, data order, buffer and noise")
    parser.add_argument("--forecast", action="store_true", help="predict first what is lost, and then say how well")
    parser.add_argument("--checkpoints", action="store_true", help="write weights and held-out images, for audits")
    parser.add_argument("--accelerator", type=str, default="auto", help="Lightning accelerator")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/ddpm_mnist_splits"), help="results and logs")
    return parser


answer_help(__name__, make_parser)

import json
from dataclasses import asdict
from functools import partial

import torch

from helpers.arms import check_options, run_arms
from helpers.ddpm import DDPM
from helpers.files import write_json
from helpers.splits import PRESETS, Split, be_quiet, forecast_agreement, forecast_boundary, load, split_classes
from hopfield_replay.functional import Correlation


def agreement_report(agreement: list[Correlation]) -> str:
    """How well the forecast predicted what was forgotten at each boundary."""
    lines = [
        "Forecast against measured reconstruction forgetting without replay, over the held-out probes of each task",
        "at the boundary after it (Spearman, 95 % bootstrap interval over probes; one run):",
    ]
    lines += [
        f"  task {task}: {r.estimate:+.2f} [{r.low:+.2f}, {r.high:+.2f}], {r.n} probes"
        for task, r in enumerate(agreement)
    ]
    return "\n".join(lines)


def main() -> None:
    parser = make_parser()
    args = parser.parse_args()
    check_options(parser, args)
    if args.forecast and "none" not in args.policies:
        parser.error("--forecast is compared with the arm without replay; add none to --policies")
    be_quiet()
    preset = PRESETS[args.data]
    torch.set_num_threads(min(preset.threads, torch.get_num_threads()))
    epochs = preset.epochs if args.epochs is None else args.epochs
    images, labels = load(args.data, args.data_dir)
    splits = [
        Split(images, labels, classes, preset.train, preset.batch_size, args.seed)
        for classes in split_classes(args.tasks)
    ]
    print(
        f"{args.data}: tasks {[split.classes for split in splits]}, {len(splits[0].train)} training images in the first"
    )
    if args.forecast:
        print(f"Forecast of the first boundary, {splits[0].classes} -> {splits[1].classes}, from the images alone:")
        options = {"capacity": args.capacity, "replay_ratio": args.replay_ratio, "seed": args.seed}
        print(forecast_boundary(splits[0], splits[1], **options).table())
    arms = run_arms(
        args.policies,
        splits,
        partial(DDPM, images.shape[-1], width=preset.width),
        args,
        checkpoints=args.checkpoints,
        capacity=args.capacity,
        replay_ratio=args.replay_ratio,
        epochs=epochs,
        seed=args.seed,
        accelerator=args.accelerator,
        ema_decay=preset.ema_decay,
    )
    if args.forecast:
        (history,) = [arm["history"] for arm in arms if arm["policy"] == "none"]
        agreement = forecast_agreement(history, splits)
        print(agreement_report(agreement))
        path = args.output_dir / "results.json"
        results = json.loads(path.read_text())
        write_json(path, {**results, "forecast": [asdict(correlation) for correlation in agreement]})


if __name__ == "__main__":
    run_main(main)
