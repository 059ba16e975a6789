"""Two gloo processes on the CPU: what each of them holds after two tasks, and after a resume.

python -m tests.lightning.run_ddp FOLDER
"""

import contextlib
import os
import sys
import warnings
from pathlib import Path

import torch

from tests.lightning.run_tasks import AtTheEnd, run
from tests.lightning.small import loader


class PowerCutError(Exception):
    pass


def cut():
    raise PowerCutError


def odd(task):
    """An odd number of samples: the ranks hold different numbers of them."""
    return loader(task, n=13, batch_size=3)


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    folder = Path(sys.argv[1])
    settings = {"strategy": "ddp", "devices": 2, "max_epochs": 1, "make_loader": odd, "count": 2}
    whole, monitor = run(folder / "whole", **settings)
    with contextlib.suppress(PowerCutError):
        run(folder / "cut", AtTheEnd(0, cut), **settings)
    resumed, again = run(folder / "cut", ckpt_path="last", **settings)
    rank = int(os.environ.get("LOCAL_RANK", 0))
    result = {
        "buffer": monitor.buffer.state_dict(),
        "history": monitor.history,
        "weight": whole.layer.weight.detach(),
        "seen": whole.seen,
        "resumed_buffer": again.buffer.state_dict(),
        "resumed_history": [record.to_dict() for record in again.history],
        "resumed_weight": resumed.layer.weight.detach(),
    }
    torch.save(result, folder / f"rank{rank}.pt")
