"""Two nodes with network stacks of their own, joined by a virtual cable; needs root and Linux. No part of the suite.

python -m tests.reliability.two_namespaces

Each node runs torchrun with one process (tests.reliability.ddp); what both hold is compared with one process. The nodes
share the file system, as the machines of a cluster do.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from tests.lightning.small import same
from tests.reliability import ddp, worker

NODES = {"hopfield_a": "10.211.7.1", "hopfield_b": "10.211.7.2"}


def ip(*words):
    subprocess.run(["ip", *words], check=True)


def connect():
    """The namespaces, and a cable between them."""
    for name in NODES:
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")
    first, second = NODES
    ip("link", "add", "veth_a", "netns", first, "type", "veth", "peer", "name", "veth_b", "netns", second)
    for name, device in zip(NODES, ("veth_a", "veth_b"), strict=True):
        ip("-n", name, "addr", "add", f"{NODES[name]}/24", "dev", device)
        ip("-n", name, "link", "set", device, "up")


def node(name, device, folder):
    """Start one node."""
    first = next(iter(NODES.values()))
    command = [
        *("ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"),
        *("--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"{first}:29511"),
        *("--rdzv-conf", f"is_host={int(NODES[name] == first)}", "--local-addr", NODES[name]),
        *("-m", "tests.reliability.ddp", str(folder), "2", "raise 0", "greedy_gain"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": device, "CUDA_VISIBLE_DEVICES": ""}
    log = (folder / f"{name}.log").open("w")
    return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def main():
    worker.quiet()
    alone = ddp.run(policy="greedy_gain")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        try:
            connect()
            running = [node(name, device, folder) for name, device in zip(NODES, ("veth_a", "veth_b"), strict=True)]
            statuses = [process.wait(300) for process in running]
            ended = time.time()
        finally:
            for name in NODES:
                subprocess.run(["ip", "netns", "del", name], check=False)
        text = "".join((folder / f"{name}.log").read_text() for name in NODES)
        if not (folder / "rank1.pt").exists():
            raise SystemExit(f"A node did not get through:\n{text[-4000:]}")
        ranks = [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
        wrong = [
            f"{part} of process {rank} differs"
            for rank, found in enumerate(ranks)
            for part, other in (("the run", found["policies"]["greedy_gain"]), ("the resumed run", found["resumed"]))
            if not (same(other["history"], alone["history"]) and same(other["buffer"], alone["buffer"]))
        ]
        seconds = ended - float((folder / "failing").read_text())
        print(f"two namespaces against one process: {', '.join(wrong) or 'the same buffer and history'}")
        print(f"one process raises: both nodes end {seconds:.1f} s later, with {statuses}")
        print(f"its error is shown: {'ValueError: this process gives up' in text}")
        sys.exit(bool(wrong) or not all(statuses) or "this process gives up" not in text)


if __name__ == "__main__":
    main()
