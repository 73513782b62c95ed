"""Precision and memory format: 16-bit autocast where it is right, fp32 where it is not."""

from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn

from adamss_fl.model.hardware import Precision, resolve_precision
from adamss_fl.model.layout import prepare_weights

ModuleT = TypeVar("ModuleT", bound=nn.Module)

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

SMALLEST_BF16_SIDE = 3
"""Maps with a shorter side are convolved in fp32 on a CPU, see :func:`needs_fp32_convolution`."""


def autocast(device: torch.device | str, precision: Precision) -> AbstractContextManager[object]:
    """Context in which a forward pass runs with ``precision`` on ``device``.

    ``bf16`` and ``fp16`` are autocast: parameters, their gradients and the optimiser stay in fp32. ``fp32`` is a null
    context; ``auto`` is what suits the device, see ``model.hardware``.
    Run the forward pass and the losses inside it, and the backward pass outside, as PyTorch recommends.
    """
    resolved = resolve_precision(precision, device)
    if resolved == "fp32":
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype=_TYPES[resolved])


def without_autocast(like: Tensor) -> AbstractContextManager[object]:
    """Context that turns autocast off on the device of ``like``; free of cost where it is off already."""
    device = like.device.type
    if not torch.is_autocast_enabled(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)


def at_least_fp32(x: Tensor) -> Tensor:
    """``x`` in fp32 where it has a 16-bit type, else ``x`` itself."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def needs_fp32_convolution(x: Tensor, kernel: int) -> bool:
    """Whether a convolution of ``x`` (B,C,D,H,W) would run in a 16-bit type on a CPU map too small for it.

    oneDNN's bfloat16 3x3x3 convolution on maps with a side under 3 (level 5 of a 32^3 input) returns garbage, sometimes
    non-finite, weight gradients. Such maps cost nothing, so they are convolved in fp32.
    """
    if kernel == 1 or x.device.type != "cpu" or min(x.shape[2:]) >= SMALLEST_BF16_SIDE:
        return False
    return x.dtype in (torch.bfloat16, torch.float16) or torch.is_autocast_enabled("cpu")


def prepare(model: ModuleT, device: torch.device | str = "cpu", channels_last: bool = True) -> ModuleT:
    """Move ``model`` to ``device``, its weights in channels_last_3d memory format if ``channels_last``.

    AdaMSS brings its input to the layout of its weights; the layout never changes the function computed.
    """
    model.to(device)
    prepare_weights(model, channels_last)
    return model


def prepare_images(images: Tensor, device: torch.device | str = "cpu", channels_last: bool = True) -> Tensor:
    """``images`` (B,C,D,H,W) as fp32 on ``device``, in channels_last_3d memory format if ``channels_last``."""
    memory_format = torch.channels_last_3d if channels_last else torch.contiguous_format
    return images.to(device=device, dtype=torch.float32, non_blocking=True).contiguous(memory_format=memory_format)
