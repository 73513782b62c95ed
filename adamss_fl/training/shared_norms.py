"""Running statistics of batch norms as the server sent them, so that a stage is normalised alike at every site."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from adamss_fl.model import AdaMSS

Statistics = Mapping[str, Tensor]
"""State-dict name of a batch norm's buffer to a copy of its value."""


def running_statistics(model: AdaMSS) -> Statistics:
    """Copies of the running means, variances and counts of ``model``'s batch norms; empty where there are none."""
    return {
        f"{name}.{buffer}": value.clone()
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.BatchNorm3d)
        for buffer, value in module.named_buffers()
    }


def were_trained(statistics: Statistics) -> bool:
    """Whether any batch ever moved a running mean from the 0 that it starts at (counts of batches do not travel)."""
    return any(bool(value.any()) for name, value in statistics.items() if name.endswith(".running_mean"))


@contextmanager
def normalised_by(model: AdaMSS, statistics: Statistics) -> Iterator[None]:
    """Inside, ``model`` has ``statistics``; afterwards its own again, as they were before."""
    own = running_statistics(model)
    _put(model, statistics)
    try:
        yield
    finally:
        _put(model, own)


def _put(model: AdaMSS, statistics: Statistics) -> None:
    state = model.state_dict()
    with torch.no_grad():
        for name, value in statistics.items():
            state[name].copy_(value)
