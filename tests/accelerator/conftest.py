"""The stand-in accelerator, switched on for the tests of this folder only."""

from collections.abc import Iterator

import pytest
import torch

# PyTorch has one accelerator in a process, and the stand-in would take the place of a real one in all other tests.
collect_ignore_glob = ["test_*.py"] if torch.cuda.is_available() else []


@pytest.fixture
def accelerator() -> Iterator[torch.device]:
    """The stand-in, which ``runtime.device: auto`` finds within the test."""
    from stand_in import switch_on

    with switch_on() as device:
        yield device
