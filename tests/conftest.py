"""Settings of all tests."""

import os

# One thread: small tensors gain nothing from more, and threads that wait for each other on a busy machine lose much.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)

# How long an example takes says more about the machine than about the code.
settings.register_profile("adamss-fl", deadline=None)
settings.load_profile("adamss-fl")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put first what waits for other processes, so that one worker does not end with it while the other has nothing."""
    items.sort(key=lambda item: item.get_closest_marker("network") is None)
