"""What the kernel for split products is compiled to for an H100 or H200, without one.

`python -m tests.functional._engine.compiled` prints shared memory (bytes), registers of a thread, stack (spilled
registers, bytes) and instructions of the tensor cores for every way to run it.
"""

import re
import subprocess
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from hopfield_replay.functional._engine import split, split_kernels

HOPPER = GPUTarget("cuda", 90, 32)
TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
POINTERS = {"x": "*bf16", "y": "*bf16", "bias": "*fp32", "own": "*i32"}
POINTERS |= dict.fromkeys(("maxima", "totals", "squares", "scores"), "*fp32")
NUMBERS = dict.fromkeys(("rows", "columns", "strips", "depth", "x_part", "y_part"), "i32") | {"scale": "fp32"}


def report(config, parts, square=False, scores=False):
    """One line of what comes out."""
    constants = {
        "TERMS": 6 if parts == 3 else 4,
        "LEAVE_OUT": True,
        "SQUARE": square,
        "SCORES": scores,
        "WIDEN": False,
        "TILES": 1,
        "ROWS": config.rows,
        "COLUMNS": split.COLUMNS,
        "BLOCK": config.block,
        "WIDTH": split.WIDTH,
        "GROUP": 8,
    }
    kernel = split_kernels.strips_of_products
    signature = POINTERS | NUMBERS | dict.fromkeys(constants, "constexpr")
    divisible = [name for name in signature if name in POINTERS or name in ("depth", "x_part", "y_part")]
    attributes = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in divisible}
    source = ASTSource(kernel, signature, constants, attributes)
    options = {"num_warps": config.warps, "num_stages": config.stages}
    made = triton.compile(source, target=HOPPER, options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        said = subprocess.run([TOOLS / "cuobjdump", "-res-usage", file.name], capture_output=True, text=True).stdout
    registers, stack = (re.search(rf"{name}:(\d+)", said)[1] for name in ("REG", "STACK"))
    cores = made.asm["ptx"].count("wgmma.mma_async")
    return f"shared={made.metadata.shared} registers={registers} stack={stack} tensor_core_instructions={cores}"


if __name__ == "__main__":
    for parts, configs in split._CONFIGS.items():
        for config in configs:
            for what in ({}, {"square": True}, {"scores": True}):
                print(parts, config, *what, report(config, parts, **what), flush=True)
