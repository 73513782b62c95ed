"""Memory layout: keep every map and every gradient in the layout of the weights.

PyTorch computes the same function in any layout, but elementwise kernels and reductions over tensors of two layouts are
several times slower, and one stray gradient spreads its layout to all that follow.
"""

import ctypes
import sys
from typing import Any, cast

import torch
from torch import Tensor, nn

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_INT_MAX = 2**31 - 1


def is_channels_last(x: Tensor) -> bool:
    """Whether the strides of ``x`` (B,C,D,H,W) are those of channels_last_3d."""
    return x.dim() == 5 and x.is_contiguous(memory_format=torch.channels_last_3d)


def has_channels_last_strides(x: Tensor) -> bool:
    """Whether ``x`` (B,C,D,H,W) is in channels_last_3d also by its strides; a contiguous map of one channel is not."""
    return is_channels_last(x) and x.stride(1) == 1


def channels_last(x: Tensor) -> Tensor:
    """``x`` (B,C,D,H,W) in channels_last_3d, also by its strides where C = 1 and both layouts are one in memory.

    Operators choose the layout of their output by strides, and ``contiguous`` leaves those of a one-channel map alone.
    """
    if x.shape[1] > 1:
        return x.contiguous(memory_format=torch.channels_last_3d)
    x = x.contiguous()
    _, _, depth, height, width = x.shape
    return x.as_strided(x.shape, (depth * height * width, 1, height * width, width, 1), x.storage_offset())


class _KeepLayout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.last = is_channels_last(x) and not x.is_contiguous()
        return x.detach()  # Not view_as, which rewrites the stride of a batch of one and with it the layout.

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        layout = torch.channels_last_3d if ctx.last else torch.contiguous_format
        return gradients[0].contiguous(memory_format=layout)


def keep_layout(x: Tensor) -> Tensor:
    """``x`` itself; its gradient arrives in the layout of ``x``, whatever layout the operators after it return."""
    return cast(Tensor, _KeepLayout.apply(x)) if x.requires_grad else x  # type: ignore[no-untyped-call]


def prepare_weights(model: nn.Module, last: bool) -> None:
    """Bring every convolution kernel of ``model`` to channels_last_3d or to contiguous layout, values unchanged."""
    layout = torch.channels_last_3d if last else torch.contiguous_format
    for parameter in model.parameters():
        if parameter.dim() == 5:
            parameter.data = parameter.data.contiguous(memory_format=layout)


def keep_freed_memory() -> bool:
    """Tell glibc to keep the memory that a training step frees, for the next step; False where this is not glibc.

    By default each large activation is a fresh mapping, and touching its pages for the first time costs up to a tenth
    of a CPU step. Peak memory is the same; it is given back when the process ends. Affects the whole process.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _INT_MAX), (_M_TOP_PAD, 64 * 2**20))
    return all(mallopt(option, value) == 1 for option, value in settings)
