"""A small DDPM forgets four of five tasks of handwritten digits; 100 stored images bring them back, without training.

Trains on five tasks of two digits each without replay, then samples the model alone, guided by its memory, and as the
trivial baseline (a stored image with the same probability, else the model). Prints a table, writes results.json and
samples.png.

    python examples/memory_guided_digits.py

Of what the model alone generates 97 % are 8 and 9, the last task, with a
recall of .12. Guided at strength .8 it generates all ten digits, 24 % of them 8 and 9, with a recall of .57; the
baseline has .41. Both copy: every memory-driven sample is a stored image. The memory's share came out as .75, not .8.
"""

from pathlib import Path

from helpers.command import Parser, answer_help, run_main


def make_parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument("--stored", type=int, default=100, help="images in the memory, 4 or more")
    parser.add_argument("--strength", type=float, default=0.8, help="share of samples from the memory, in [0, 1]")
    parser.add_argument("--samples", type=int, default=500, help="generated in each row, 4 or more")
    parser.add_argument("--epochs", type=int, default=60, help="of each task")
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/memory_guided_digits"), help="results")
    return parser


answer_help(__name__, make_parser)

import time
from typing import Any

import torch
from torch import Tensor

from helpers.ddpm import DDPM
from helpers.digit_classifier import DigitClassifier, train_classifier
from helpers.files import write_figure, write_json
from helpers.run_folder import claim_folder
from helpers.splits import Split, be_quiet, load, split_classes, train_tasks
from hopfield_replay import ForgettingMonitor, run_report
from hopfield_replay.denoisers import DiffusersDenoiser
from hopfield_replay.figures import picture_rows
from hopfield_replay.functional import precision_recall
from hopfield_replay.guidance import MemoryGuidance
from hopfield_replay.theory import markdown_table

STEPS = 50


def forgetful(tasks: list[Split], epochs: int, seed: int) -> tuple[DDPM, ForgettingMonitor]:
    """A model trained on one task after the other, without replay, and what it has forgotten."""
    model, monitor = train_tasks(
        "none",
        tasks,
        lambda: DDPM(8, width=512, learning_rate=1e-3, network="mlp"),
        capacity=0,
        replay_ratio=0.0,
        epochs=epochs,
        seed=seed,
        accelerator="cpu",
        ema_decay=0.99,
        gradient_clip=1.0,
    )
    return model.eval(), monitor


def measure(samples: Tensor, real: Tensor, classifier: DigitClassifier, guidance: MemoryGuidance) -> dict[str, Any]:
    """Which digits the samples show, how near they are to the real images, and how many come from the memory."""
    shares = classifier.classify(samples).bincount(minlength=10) / len(samples)
    precision, recall = precision_recall(classifier.features(real), classifier.features(samples))
    report = guidance.report(samples)
    driven = report.nearest_stored[report.memory_driven]
    return {
        "digits": shares.tolist(),
        "precision": precision,
        "recall": recall,
        "memory_share": report.memory_share,
        "distance": float(driven.median()) if len(driven) else None,
    }


def cells(row: dict[str, Any]) -> list[str]:
    """One row of the table."""
    distance = "-" if row["distance"] is None else f"{row['distance']:.2f}"
    shares = [f"{100 * share:.0f}" for share in row["digits"]]
    return [*shares, f"{row['precision']:.3f}", f"{row['recall']:.3f}", f"{row['memory_share']:.3f}", distance]


def parse(parser: Parser) -> Any:
    """Read the command line, and say what is wrong with it before anything runs."""
    options = parser.parse_args()
    for name, least in (("stored", 4), ("samples", 4), ("epochs", 1)):
        if getattr(options, name) < least:
            parser.error(f"--{name} must be at least {least}, got {getattr(options, name)}")
    if not 0 <= options.strength <= 1:
        parser.error(f"--strength must lie in [0, 1], got {options.strength}")
    try:
        claim_folder(options.output_dir, {k: v for k, v in vars(options).items() if k != "output_dir"})
    except ValueError as error:
        parser.error(str(error))
    return options


def main() -> None:
    options = parse(make_parser())
    be_quiet()
    torch.set_num_threads(1)
    started = time.process_time()
    images, labels = load("digits", Path())
    tasks = [Split(images, labels, classes, 300, 32, seed=options.seed) for classes in split_classes(5)]
    classifier, accuracy = train_classifier(images, labels)
    model, monitor = forgetful(tasks, options.epochs, options.seed)

    count, seed = options.samples, options.seed + 1
    stored = torch.cat([split.train.tensors[0][: options.stored // 4] for split in tasks[:-1]])
    current = model.sample(512, steps=STEPS, seed=options.seed + 2)  # the model says itself what it generates now
    denoiser = DiffusersDenoiser(model.network, model.scheduler)
    guidance = MemoryGuidance(denoiser, stored, current, strength=options.strength)
    alone = model.sample(count, steps=STEPS, seed=seed)
    with guidance.steer():
        guided = model.sample(count, steps=STEPS, seed=seed)
    draw = torch.Generator().manual_seed(options.seed + 3)
    chosen = torch.rand(count, generator=draw) < options.strength
    baseline = alone.clone()
    baseline[chosen] = stored[torch.randint(len(stored), (int(chosen.sum()),), generator=draw)]

    real = torch.cat([split.held_out.tensors[0] for split in tasks])
    print(
        f"{count} samples a row, {len(stored)} stored images, strength {options.strength}; precision and recall against"
    )
    print(f"{len(real)} held-out images of all tasks, in the features of a classifier that is right for {accuracy:.1%}")
    alternatives = {"model alone": alone, "guided": guided, "stored image or model": baseline}
    rows = {name: measure(samples, real, classifier, guidance) for name, samples in alternatives.items()}
    headers = ["% of digit", *map(str, range(10)), "precision", "recall", "memory share", "distance"]
    print(markdown_table(headers, [[name, *cells(row)] for name, row in rows.items()]))
    print("distance: median over memory-driven samples to the nearest stored image; 0: a copy")

    write_json(options.output_dir / "results.json", rows)
    run_report(monitor, title="What was forgotten, and is brought back by guidance").write(options.output_dir)
    some = torch.linspace(0, len(stored) - 1, min(16, len(stored))).long()  # of every task
    pictures = [
        ("model alone", alone[:16]),
        (f"the same noise, guided by {len(stored)} stored images", guided[:16]),
        ("stored images", stored[some]),
    ]
    figure = picture_rows(pictures)
    assert figure is not None  # they are pictures
    write_figure(options.output_dir / "samples.png", figure)
    print(f"{options.output_dir / 'samples.png'}, {time.process_time() - started:.0f} CPU seconds")


if __name__ == "__main__":
    run_main(main)
