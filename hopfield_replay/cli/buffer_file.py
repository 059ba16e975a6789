"""hopfield-replay buffer."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser

from hopfield_replay.cli.codes import FINE
from hopfield_replay.cli.output import drawn, say, write

if TYPE_CHECKING:
    from torch import Tensor

    from hopfield_replay.buffer import EnergyReplayBuffer
    from hopfield_replay.checkpoints import BufferFile

HELP = "look into the buffer in a file, verify it, and delete samples from it"
DESCRIPTION = """\
Look into the buffer in a file: one of EnergyReplayBuffer.save, or a checkpoint
of a run. Its vectors and shares are verified, and samples can be deleted.
"""
EPILOG = """\
examples:
  what is kept, with pictures
    hopfield-replay buffer buffer.safetensors --output-dir results/
  a deletion request, in the buffer and in the checkpoints of its run
    hopfield-replay buffer buffer.safetensors --remove 0:17 cats/a.png
    hopfield-replay buffer last.ckpt --remove 0:17 cats/a.png
"""


class Contents:
    """What one buffer holds, for JSON."""

    def __init__(self, contents: dict[str, Any]) -> None:
        self._found = contents

    def to_dict(self) -> dict[str, Any]:
        """Plain Python."""
        return self._found


def add_options(parser: ArgumentParser) -> None:
    """Add the command's own options."""
    parser.add_argument("file", type=str, metavar="FILE", help="a .safetensors file of a buffer, or a checkpoint")
    parser.add_argument(
        "--remove", type=str, nargs="+", default=None, metavar="SAMPLE",
        help="delete these samples from the file: TASK:POSITION (both counted from 0), an id, or a name. What a model "
        "has learned of them stays in its weights",
    )  # fmt: skip
    parser.add_argument(
        "--encoder", type=str, default="pixels", metavar="pixels|PATH",
        help="that the buffer's vectors were made with, to verify them; see hopfield-replay select --help",
    )  # fmt: skip
    parser.add_argument(
        "--output-dir", type=str | None, default=None, metavar="DIR",
        help="write buffer.json and contact_sheet.png there",
    )  # fmt: skip


def run(options: Any) -> int:
    """Remove, show and verify."""
    from hopfield_replay.checkpoints import BufferFile, load_encoder

    file = BufferFile(options.file)
    if options.remove:
        wanted = _ids(file, options.remove)
        held = file.remove(wanted)
        if not held:
            raise ValueError(f"{file.path} holds none of the samples {', '.join(options.remove)}; nothing was changed.")
        file.save()
        say(f"Removed {held} of {len(options.remove)} samples from {file.path}", options.quiet)
    encoder = None if options.encoder == "pixels" else load_encoder(options.encoder).encoder
    contents: dict[str, Any] = {}
    figures: dict[str, Any] = {}
    said: list[str] = []
    for place, buffer in file.buffers().items():
        text, contents[place or "buffer"] = _described(place, buffer, encoder)
        said.append(text)
        sheet = drawn(partial(_sheet, buffer)) if options.output_dir and len(buffer) else None
        if sheet is not None:
            figures["contact_sheet" + (f"_{len(figures)}" if figures else "")] = sheet
    said.append(write(options.output_dir, "buffer", Contents(contents), figures))
    for text in said:
        say(text, options.quiet)
    return FINE


def _ids(file: "BufferFile", named: Sequence[str]) -> "Tensor":
    """Ids of samples by task and position, by number, or by name."""
    import torch

    from hopfield_replay.tracker import sample_ids

    names = {name: at for buffer in file.buffers().values() for at, name in buffer.provenance.samples.items()}
    ids = []
    for text in named:
        task, _, position = text.partition(":")
        if text in names:
            ids.append(names[text])
        elif task.isdecimal() and position.isdecimal():
            ids.append(int(sample_ids(int(task), torch.tensor([int(position)]))))
        elif text.isdecimal():
            ids.append(int(text))
        else:
            raise ValueError(f"{text!r} is no TASK:POSITION, no id, and no name of a sample in {file.path}.")
    return torch.tensor(ids)


def _described(place: str, buffer: "EnergyReplayBuffer", encoder: Any) -> tuple[str, dict[str, Any]]:
    """A buffer's table and what was verified, as text and for JSON."""
    from dataclasses import asdict

    from hopfield_replay.buffer import verify
    from hopfield_replay.buffer.views import COLUMNS, by_task
    from hopfield_replay.utilities.tables import text_table

    rows = buffer.rows()
    report = verify(buffer, encoder)
    lines = [f"{place or 'buffer'}: {len(buffer)} samples, {buffer.nbytes / 2**20:.3g} MiB, beta {buffer.beta}"]
    lines.append(text_table(COLUMNS, by_task(rows)))
    if report.apart == 0:
        lines.append(
            f"verified: every vector is what the encoder makes of its sample; shares sum to {report.shares:.6g}"
        )
    lines += [f"problem: {problem}" for problem in report.problems]
    return "\n".join(lines), {"samples": rows, "beta": buffer.beta, "verification": asdict(report)}


def _sheet(buffer: "EnergyReplayBuffer") -> Any:
    """The kept samples as pictures, task by task; None if they are none."""
    import torch

    from hopfield_replay.encoders import split_batch
    from hopfield_replay.figures import as_pictures, contact_sheet

    try:
        samples, _ = split_batch(buffer.gather(torch.arange(len(buffer))))
    except ValueError:
        return None
    if as_pictures(samples[:1]) is None:
        return None
    tasks = buffer.tasks
    return contact_sheet([(f"task {task}", samples[tasks == task]) for task in tasks.unique().tolist()])
