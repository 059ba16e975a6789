import signal

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Small tensors gain nothing from more threads, and shared cores lose a lot."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _interrupts_arrive():
    """A shell starts background jobs with Ctrl-C ignored, and whoever is started from them inherits that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def pytest_collection_modifyitems(items):
    """What is heavy is slow."""
    for item in items:
        if item.get_closest_marker("heavy"):
            item.add_marker("slow")
