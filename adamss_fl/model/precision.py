"""Precision and memory format: bfloat16 autocast where it is right, fp32 where bfloat16 is not."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from adamss_fl.model.layout import prepare_weights

Precision = Literal["bf16", "fp32"]
ModuleT = TypeVar("ModuleT", bound=nn.Module)

SMALLEST_BF16_SIDE = 3
"""Maps with a shorter side are convolved in fp32 on a CPU, see :func:`needs_fp32_convolution`."""


def autocast(device: torch.device | str, precision: Precision) -> AbstractContextManager[object]:
    """Context in which a forward pass runs with ``precision`` on ``device``.

    ``bf16`` is autocast: parameters, their gradients and the optimiser stay in fp32. ``fp32`` is a null context.
    Run the forward pass and the losses inside it, and the backward pass outside, as PyTorch recommends.
    """
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)


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
    """Whether a convolution of ``x`` (B,C,D,H,W) would run in bfloat16 on a CPU map too small for it.

    oneDNN's bfloat16 3x3x3 convolution on maps with a side under 3 (level 5 of a 32^3 input) returns garbage, sometimes
    non-finite, weight gradients. Such maps cost nothing, so they are convolved in fp32.
    """
    if kernel == 1 or x.device.type != "cpu" or min(x.shape[2:]) >= SMALLEST_BF16_SIDE:
        return False
    return x.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")


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
