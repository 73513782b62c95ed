"""The optimiser, and its state as named arrays so that it can stay at the site between rounds."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from adamss_fl.training.settings import StageSettings

OptimizerState = dict[str, NDArray[Any]]
"""``<slot>/<parameter name>`` to array, for example ``exp_avg/decoder.level1.weight``; empty for plain descent."""


def build_optimizer(trained: Mapping[str, torch.nn.Parameter], settings: StageSettings) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay (betas 0.9, 0.999), or plain gradient descent.

    Every parameter group holds its ``factor``, by which :func:`set_learning_rate` multiplies the rate: ``head_factor``
    for the heads' parameters, 1 for the trunk's.
    """
    heads = [value for name, value in trained.items() if "_head." in name]
    trunk = [value for name, value in trained.items() if "_head." not in name]
    groups: list[dict[str, Any]] = [
        {"params": trunk, "factor": 1.0},
        {"params": heads, "factor": settings.head_factor},
    ]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of this step, times each group's factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def dump_optimizer(optimizer: torch.optim.Optimizer, trained: Mapping[str, torch.nn.Parameter]) -> OptimizerState:
    """The optimiser's tensors, copied, by slot and parameter name; scalars with shape (1,)."""
    state: OptimizerState = {}
    for name, parameter in trained.items():
        for slot, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor):
                state[f"{slot}/{name}"] = np.atleast_1d(value.detach().cpu().contiguous().numpy().copy())
    return state


def load_optimizer(
    optimizer: torch.optim.Optimizer, trained: Mapping[str, torch.nn.Parameter], state: OptimizerState
) -> None:
    """Put back what :func:`dump_optimizer` gave.

    Raises ValueError where a tensor belongs to no parameter or has another shape.
    """
    for key, array in state.items():
        slot, _, name = key.partition("/")
        parameter = trained.get(name)
        if parameter is None:
            raise ValueError(f"the optimiser's state holds {key!r}, and the model has no such parameter")
        value = torch.from_numpy(array.copy())
        if slot == "step":
            # The fused optimiser counts its steps on the device of the parameter.
            optimizer.state[parameter][slot] = value.reshape(()).to(parameter.device)
            continue
        if value.shape != parameter.shape:
            raise ValueError(f"the optimiser's {key!r} has shape {tuple(value.shape)}, not {tuple(parameter.shape)}")
        # Adam's moments follow the memory format of their parameter, as when they were made.
        optimizer.state[parameter][slot] = torch.empty_like(parameter).copy_(value)
