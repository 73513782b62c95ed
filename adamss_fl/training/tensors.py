"""Samples to tensors on the training device."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adamss_fl.errors import MachineError
from adamss_fl.imaging import Sample
from adamss_fl.imaging.transfer import to_device
from adamss_fl.training.settings import RuntimeSettings


@dataclass(frozen=True)
class Batch:
    """A batch on its device.

    image : (B,2,D,H,W) PET and CT; mask : (B,2,D,H,W); has_mask : (B,).
    time_days, event : (B,), on the CPU, where the targets of a time grid are made from them.
    tabular : (B,r) fp32, or None where the samples carry no tabular vector.
    """

    image: Tensor
    mask: Tensor
    has_mask: Tensor
    time_days: Tensor
    event: Tensor
    tabular: Tensor | None = None


def device_of(runtime: RuntimeSettings) -> torch.device:
    """The device named by ``runtime``; ``auto`` is the accelerator that PyTorch finds, else the CPU.

    Raises MachineError where a GPU is asked for and PyTorch finds none.
    """
    if runtime.device == "cuda" and not torch.cuda.is_available():
        why = "this build of PyTorch has no CUDA" if torch.version.cuda is None else "PyTorch finds no GPU"
        raise MachineError(
            f"runtime.device is cuda, and {why} here; install driver and build for the GPU, or set it to auto or cpu "
            "(of a model that is trained already: in config.yaml of its run)",
            "no_device",
        )
    if runtime.device != "auto":
        return torch.device(runtime.device)
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    # Apple's has no float64, which follow-up times and sums of losses need.
    return torch.device("cpu") if found is None or found.type == "mps" else found


def as_batch(samples: Sequence[Sample], device: torch.device) -> Batch:
    """Stack samples into one batch on ``device``. Either every sample carries a tabular vector, or none does."""
    image = torch.from_numpy(np.stack([np.asarray(sample.image) for sample in samples]))
    mask = torch.from_numpy(np.stack([np.asarray(sample.mask) for sample in samples]))
    return Batch(
        image=to_device(image, device),
        mask=to_device(mask, device).to(torch.float32),
        has_mask=to_device(torch.tensor([sample.has_mask for sample in samples]), device),
        time_days=torch.tensor([sample.time_days for sample in samples], dtype=torch.float64),
        event=torch.tensor([sample.event for sample in samples]),
        tabular=_stacked([sample.tabular for sample in samples if sample.tabular is not None], len(samples), device),
    )


def _stacked(vectors: Sequence[NDArray[np.float32]], samples: int, device: torch.device) -> Tensor | None:
    if not vectors:
        return None
    if len(vectors) != samples:
        raise ValueError(f"{samples - len(vectors)} of {samples} samples lack the tabular vector that the others have")
    return to_device(torch.from_numpy(np.stack(vectors)), device)
