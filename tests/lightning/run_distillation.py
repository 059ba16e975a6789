"""Two gloo processes on the CPU: weights after two tasks with what is replayed held, by the callback and by hand.

python -m tests.lightning.run_distillation FOLDER
"""

import os
import sys
import warnings
from pathlib import Path

import torch

from tests.lightning.test_replay_distillation import ByHand, Denoising, train

if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    settings = {"strategy": "ddp", "devices": 2}
    held, plain = train(Denoising(), **settings), train(ByHand(), distil=False, **settings)
    rank = int(os.environ.get("LOCAL_RANK", 0))
    torch.save({"held": held.state_dict(), "by hand": plain.state_dict()}, Path(sys.argv[1]) / f"rank{rank}.pt")
