"""The stand-in accelerator, switched on for the tests of this folder only."""

from collections.abc import Iterator

import pytest
import torch
from stand_in import switch_on


@pytest.fixture
def accelerator() -> Iterator[torch.device]:
    """The stand-in, which ``runtime.device: auto`` finds within the test."""
    with switch_on() as device:
        yield device
