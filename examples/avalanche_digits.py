"""Class-incremental digits under Avalanche: stock replay against energy replay, for a DDPM and for a classifier.

python examples/avalanche_digits.py                                     # scikit-learn's 8x8 digits, no download
python examples/avalanche_digits.py --data mnist                        # MNIST by torchvision, 14x14
"""

from pathlib import Path

from helpers.command import Parser, answer_help, run_main


def make_parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument("--data", type=str, choices=["digits", "mnist"], default="digits", help="which digits")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="where MNIST is, or is downloaded to")
    parser.add_argument("--experiences", type=int, default=5, help="parts the ten digits are split into: 2, 5 or 10")
    parser.add_argument(
        "--arms", nargs="+", default=["stock", "random", "greedy_gain"], help="none, stock (ReplayPlugin), or policies"
    )
    parser.add_argument("--mem-size", type=int, default=50, help="samples kept in all")
    parser.add_argument("--replay-ratio", type=float, default=0.5, help="share of each minibatch that is replayed")
    parser.add_argument("--epochs", type=int, default=None, help="epochs for each experience (default: by data)")
    parser.add_argument("--seed", type=int, default=0, help="of models, data order, buffer and noise")
    parser.add_argument("--output", type=Path, default=Path("runs/avalanche_digits.json"), help="results")
    return parser


answer_help(__name__, make_parser)

import time
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm.auto import tqdm

from helpers.ddpm import DDPM
from helpers.files import write_json, write_text
from helpers.run_folder import check_results, plain
from helpers.splits import load
from hopfield_replay import ForgettingTracker, TaskSource, run_report
from hopfield_replay.avalanche import (
    DiffusionTraining,
    EnergyReplayPlugin,
    IntrinsicForgetting,
    ReconstructionForgetting,
    loss_evaluator,
)
from hopfield_replay.denoisers import DiffusersDenoiser
from hopfield_replay.policies import POLICIES
from hopfield_replay.theory import markdown_table

# after hopfield_replay.avalanche, which keeps the import of avalanche quiet
from avalanche.benchmarks.scenarios.supervised import class_incremental_benchmark  # isort: skip
from avalanche.benchmarks.utils import as_classification_dataset, make_avalanche_dataset
from avalanche.benchmarks.utils.data_attribute import DataAttribute
from avalanche.core import SupervisedPlugin
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin
from avalanche.training.supervised import Naive


@dataclass
class Preset:
    """What fits 2 CPU cores: training images of each class, epochs of either model, batch size."""

    train: int
    diffusion_epochs: int
    classifier_epochs: int
    batch_size: int


PRESETS = {
    "digits": Preset(train=140, diffusion_epochs=20, classifier_epochs=5, batch_size=32),
    "mnist": Preset(train=500, diffusion_epochs=8, classifier_epochs=2, batch_size=64),
}


def stream(images: Tensor, labels: Tensor, preset: Preset, experiences: int) -> Any:
    """A class-incremental benchmark, with held-out images of the same classes as test stream."""
    parts: dict[str, list[Tensor]] = {"train": [], "test": []}
    for digit in range(10):
        mine = (labels == digit).nonzero().flatten()
        mine = mine[torch.randperm(len(mine), generator=torch.Generator().manual_seed(digit))]
        train = min(preset.train, int(0.8 * len(mine)))
        parts["train"].append(mine[:train])
        parts["test"].append(mine[train : train + 100])
    datasets = {}
    for name, chosen in parts.items():
        at = torch.cat(chosen)
        targets = DataAttribute(labels[at].tolist(), "targets")
        raw = make_avalanche_dataset(TensorDataset(images[at], labels[at]), data_attributes=[targets])
        datasets[name] = as_classification_dataset(raw)
    return class_incremental_benchmark(datasets, num_experiences=experiences, class_order=list(range(10)))


class Share(SupervisedPlugin):  # type: ignore[misc]  # avalanche is untyped here
    """Counts which share of the samples trained on was replayed, and moves the progress bar."""

    def __init__(self, bar: Any) -> None:
        super().__init__()
        self.bar = bar
        self.rows = 0
        self.new = 0

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        if strategy.clock.train_exp_counter:
            self.rows += len(strategy.mbatch[0])

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        self.bar.update(1)
        if strategy.clock.train_exp_counter:
            self.new += len(strategy.experience.dataset)

    @property
    def replayed(self) -> float:
        return 1.0 - self.new / self.rows if self.rows else 0.0


class Followed(SupervisedPlugin):  # type: ignore[misc]  # avalanche is untyped here
    """Follows samples of every experience through the stream, for the run's page.

    Args:
        ddpm: the model.
        seed: of which samples.
    """

    def __init__(self, ddpm: DDPM, seed: int) -> None:
        super().__init__()
        self.denoiser = DiffusersDenoiser(ddpm.network, ddpm.scheduler)
        self.tracker = ForgettingTracker(probe_size=100, seed=seed)

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        data = strategy.experience.dataset.eval()
        self.source = TaskSource(DataLoader(data, batch_size=256, collate_fn=data.collate_fn))
        self.tracker.begin_task(self.source)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.tracker.end_task(self.source, denoiser=self.denoiser)


def replay(arm: str, args: Any) -> list[Any]:
    """The replay plugin of an arm: none, avalanche's own, or ours under a policy."""
    if arm == "none":
        return []
    if arm == "stock":
        return [ReplayPlugin(mem_size=args.mem_size)]
    return [EnergyReplayPlugin(mem_size=args.mem_size, policy=arm, replay_ratio=args.replay_ratio, seed=args.seed)]


def train_ddpm(arm: str, benchmark: Any, plugins: list[Any], args: Any, preset: Preset, epochs: int) -> dict[str, Any]:
    """Train a DDPM on the stream and write its page; what its held-out images of earlier experiences lost."""
    torch.manual_seed(args.seed)
    ddpm = DDPM(args.size)
    followed = Followed(ddpm, args.seed)
    strategy = DiffusionTraining(
        model=ddpm.network,
        scheduler=ddpm.scheduler,
        optimizer=torch.optim.Adam(ddpm.network.parameters(), lr=ddpm.learning_rate),
        train_mb_size=preset.batch_size,
        train_epochs=epochs,
        eval_mb_size=256,
        plugins=[*plugins, followed],
        evaluator=loss_evaluator(IntrinsicForgetting(), ReconstructionForgetting(seed=args.seed), loggers=[]),
    )
    results: dict[str, Any] = {}
    for experience in benchmark.train_stream:
        strategy.train(experience, eval_streams=[])
        results = strategy.eval(benchmark.test_stream)
    names = {
        number: f"digits {', '.join(map(str, sorted(experience.classes_in_this_experience)))}"
        for number, experience in enumerate(benchmark.train_stream)
    }
    page = run_report(followed.tracker, title=f"What was forgotten: {arm}", names=names).html()
    write_text(page_of(args.output, arm), page)
    loss = [value for name, value in results.items() if name.startswith("Loss_Exp")]
    return {
        "reconstruction_forgetting": results["StreamForgetting/ReconstructionForgetting/eval_phase/test_stream"],
        "intrinsic_forgetting": results["StreamForgetting/IntrinsicForgetting/eval_phase/test_stream"],
        "loss_newest": loss[-1],
        "loss_all": sum(loss) / len(loss),
    }


def page_of(output: Path, arm: str) -> Path:
    """Where the page of an arm's DDPM goes."""
    return output.with_name(f"{output.stem}_{arm}.html")


def train_classifier(
    arm: str, benchmark: Any, plugins: list[Any], args: Any, preset: Preset, epochs: int
) -> dict[str, Any]:
    """Train a classifier on the stream; its accuracy on the held-out images of all experiences in the end."""
    torch.manual_seed(args.seed)
    network = nn.Sequential(nn.Flatten(), nn.Linear(args.size**2, 128), nn.ReLU(), nn.Linear(128, 10))
    strategy = Naive(
        model=network,
        optimizer=torch.optim.Adam(network.parameters(), lr=1e-3),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=preset.batch_size,
        train_epochs=epochs,
        eval_mb_size=256,
        plugins=plugins,
        evaluator=EvaluationPlugin(accuracy_metrics(experience=True, stream=True), loggers=[]),
    )
    for experience in benchmark.train_stream:
        strategy.train(experience, eval_streams=[])
    results = strategy.eval(benchmark.test_stream)
    return {"accuracy": results["Top1_Acc_Stream/eval_phase/test_stream"]}


def run_arm(arm: str, benchmark: Any, args: Any, preset: Preset, bar: Any) -> dict[str, Any]:
    """Both models from the same seed under one kind of replay."""
    result: dict[str, Any] = {"arm": arm}
    for model, train, epochs in (
        ("ddpm", train_ddpm, args.epochs or preset.diffusion_epochs),
        ("classifier", train_classifier, args.epochs or preset.classifier_epochs),
    ):
        bar.set_description(f"{arm}, {model}")
        share = Share(bar)
        started = time.perf_counter()
        result[model] = train(arm, benchmark, [*replay(arm, args), share], args, preset, epochs)
        result[model] |= {"replayed": share.replayed, "seconds": time.perf_counter() - started}
    return result


def report(arms: list[dict[str, Any]]) -> str:
    """The table."""
    headers = ["replay", "reconstruction", "intrinsic", "loss, newest", "loss, all", "replayed"]
    rows = []
    for arm in arms:
        ddpm, classifier = arm["ddpm"], arm["classifier"]
        cells = [f"{ddpm['reconstruction_forgetting']:.4f}", f"{ddpm['intrinsic_forgetting']:.3f}"]
        cells += [f"{ddpm[name]:.4f}" for name in ("loss_newest", "loss_all")]
        cells += [f"{ddpm['replayed']:.2f}", f"{classifier['accuracy']:.3f}", f"{classifier['replayed']:.2f}"]
        rows.append([arm["arm"], *cells, f"{ddpm['seconds'] + classifier['seconds']:.0f}"])
    return (
        "After the last experience, on held-out images (forgetting: rise since an experience was learned, mean over\n"
        "the earlier ones; one run each); first the DDPM, then the classifier:\n"
        + markdown_table([*headers, "accuracy", "classifier replayed", "seconds"], rows)
    )


def main() -> None:
    parser = make_parser()
    args = parser.parse_args()
    unknown = [arm for arm in args.arms if arm not in ("none", "stock", *POLICIES)]
    if unknown:
        parser.error(f"unknown arms {unknown}; choose from none, stock, {', '.join(POLICIES)}")
    if args.experiences not in (2, 5, 10):
        parser.error(f"--experiences must be 2, 5 or 10, got {args.experiences}")
    settings = {name: plain(value) for name, value in vars(args).items() if name not in ("output", "data_dir")}
    try:
        check_results(args.output, settings)
    except ValueError as error:
        parser.error(f"{error} (--output)")

    warnings.filterwarnings("ignore", message="No loggers specified")  # the table is printed here
    warnings.filterwarnings("ignore", message="Call to deprecated function update")  # by avalanche's ReplayPlugin
    preset = PRESETS[args.data]
    torch.set_num_threads(1)  # the convolutions are small: a busy second core would slow both threads down
    images, labels = load(args.data, args.data_dir)
    args.size = images.shape[-1]
    benchmark = stream(images, labels, preset, args.experiences)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    epochs = 2 * args.epochs if args.epochs else preset.diffusion_epochs + preset.classifier_epochs
    with tqdm(total=len(args.arms) * args.experiences * epochs, unit="epoch") as bar:
        arms = [run_arm(arm, benchmark, args, preset, bar) for arm in args.arms]
    print(report(arms))
    write_json(args.output, {"arguments": settings, "arms": arms})
    print(f"Wrote {args.output} and {', '.join(str(page_of(args.output, arm)) for arm in args.arms)}.")


if __name__ == "__main__":
    run_main(main)
