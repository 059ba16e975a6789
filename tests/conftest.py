import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Small tensors gain nothing from more threads, and shared cores lose a lot."""
    torch.set_num_threads(1)
