import time

import torch
from torch import nn

from helpers import needs


def test_bytes_are_those_of_what_adamw_holds():
    network, beside = nn.Linear(30, 20), nn.Linear(5, 5)
    network.bias.requires_grad_(False)
    network(torch.ones(1, 30)).sum().backward()
    optimizer = torch.optim.AdamW([network.weight])
    optimizer.step()
    held = [*network.parameters(), network.weight.grad, *optimizer.state[network.weight].values()]
    wanted = sum(part.numel() * part.element_size() for part in held if part.numel() > 1)
    assert needs.bytes_of(620, 600, "32-true") == wanted
    said = needs.describe(network, [beside], "bf16-true")
    assert said.startswith("computed from numbers of parameters: 0.00 million weights of the network")
    assert needs.bytes_of(620, 600, "bf16-true") == wanted / 2


def test_what_was_spent_is_said():
    block = torch.ones(1 << 26)  # 256 MiB
    said = needs.spent(time.perf_counter() - 3)
    assert said.startswith("took 3 s, ")
    assert block.numel() * 4 / 2**30 < float(said.split(", ")[1].split(" GiB")[0]) < 200
