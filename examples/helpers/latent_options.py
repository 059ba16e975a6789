"""The options of latent_diffusion_sequential.py."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from helpers.command import Parser


def make_parser(description: str | None) -> Parser:
    """What can be given on the command line."""
    parser = Parser(description)
    parser.add_argument("--pretrained", type=str | None, default=None, help="pipeline folder or hub id; none: tiny")
    parser.add_argument("--variant", type=str | None, default=None, help="of its weights, e.g. fp16 or non_ema")
    parser.add_argument("--tasks", type=Path, nargs="+", default=[], help="folders of captioned images, in order")
    parser.add_argument("--caption-column", type=str, default="text", help="of the captions in metadata.jsonl")
    parser.add_argument("--lora-rank", type=int, default=0, help="train LoRA of this rank; 0: the whole UNet")
    parser.add_argument(
        "--lora-targets", nargs="+", type=str, default=["to_q", "to_k", "to_v", "to_out.0"], help="layers"
    )
    parser.add_argument("--size", type=int | None, default=None, help="of the images (default: the UNet's)")
    parser.add_argument("--policy", type=str, default="greedy_gain", help='of the buffer; "none": no replay')
    parser.add_argument("--capacity", type=int, default=50, help="samples kept in all")
    parser.add_argument("--replay-ratio", type=float, default=0.5, help="share of each batch that is replayed")
    parser.add_argument("--epochs", type=int, default=15, help="of each task")
    parser.add_argument("--batch-size", type=int | None, default=None, help="default: 4; tiny: 16")
    parser.add_argument("--accumulate", type=int, default=1, help="batches for each step of the optimizer")
    parser.add_argument(
        "--learning-rate", type=float | None, default=None, help="default: 1e-5; with LoRA 1e-4; tiny: 2e-3"
    )
    parser.add_argument("--warmup", type=int, default=0, help="steps over which it rises, in each task")
    parser.add_argument("--gradient-clip", type=float, default=1.0, help="largest norm of the gradient")
    parser.add_argument("--caption-dropout", type=float, default=0.0, help="share left out in training")
    parser.add_argument("--gradient-checkpointing", action="store_true", help="less memory, more time")
    parser.add_argument("--probes", type=int, default=128, help="samples of each task that are measured")
    parser.add_argument("--samples", type=int, default=5, help="pictures of each task in a grid")
    parser.add_argument("--sample-steps", type=int, default=25, help="denoising steps of a picture")
    parser.add_argument("--guidance", type=float | None, default=None, help="default: 7.5; tiny: 1, none")
    parser.add_argument("--precision", type=str, default="32-true", help="Lightning precision, e.g. bf16-mixed")
    parser.add_argument("--accelerator", type=str, default="auto", help="Lightning accelerator")
    parser.add_argument("--seed", type=int, default=0, help="of buffer, order, noise and LoRA")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/latent_diffusion_sequential"), help="of the run")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --output-dir")
    return parser


def parse(parser: Parser, arguments: Sequence[str] | None) -> Any:
    """Read the command line, say what is wrong with it before anything runs, and fill in what was left open."""
    from helpers.splits import unknown_policies  # its import takes seconds

    args = parser.parse_args(arguments)
    if wrong := unknown_policies([args.policy]):
        parser.error(wrong)
    if (args.pretrained is None) != (not args.tasks):
        parser.error("--pretrained and --tasks go together; without both a tiny pipeline is made.")
    set_defaults(args)
    for name in ("capacity", "epochs", "batch_size", "accumulate", "probes", "samples", "sample_steps"):
        if args[name] < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {args[name]}")
    for name in ("learning_rate", "gradient_clip", "guidance"):
        if not args[name] > 0:  # also NaN
            parser.error(f"--{name.replace('_', '-')} must be positive, got {args[name]}")
    for name in ("lora_rank", "warmup"):
        if args[name] < 0:
            parser.error(f"--{name.replace('_', '-')} must not be negative, got {args[name]}")
    if not 0.0 <= args.caption_dropout < 1.0:
        parser.error(f"--caption-dropout must lie in [0, 1), got {args.caption_dropout}")
    if not 0.0 < args.replay_ratio < 1.0:
        parser.error(f"--replay-ratio must lie in (0, 1), got {args.replay_ratio}; for no replay use --policy none")
    return args


def set_defaults(args: Any) -> None:
    """Fill in what depends on the weights: those from scratch, low-rank matrices or pretrained ones."""
    tiny = args.pretrained is None
    if args.batch_size is None:
        args.batch_size = 16 if tiny else 4
    if args.learning_rate is None:
        args.learning_rate = 2e-3 if tiny else 1e-4 if args.lora_rank else 1e-5
    if args.guidance is None:
        args.guidance = 1.0 if tiny else 7.5
