"""Tensors from main memory to the device that computes, without making the program wait for that device."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The CPU tensor ``tensor`` on ``device``, of the same type; ``tensor`` itself where ``device`` is the CPU.

    From ordinary memory a copy waits until the GPU has done all that it was asked to do before. Out of pinned memory it
    is queued like any other operation (PyTorch keeps the pinned memory until the copy is done).
    """
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)
