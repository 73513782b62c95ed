"""Maps at half and at double resolution, for CPU maps in channels_last_3d several times faster than PyTorch's kernels.

In channels_last_3d the two halves of a cell along one axis are two long runs of memory, so that a sum over cells of
2x2x2 voxels is three sums of two runs, and its adjoint, a repetition, three copies. The functions are the same.
"""

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from adamss_fl.model.layout import is_channels_last, keep_layout
from adamss_fl.model.precision import at_least_fp32, without_autocast


def nearest_up2(x: Tensor) -> Tensor:
    """Nearest-neighbour upsampling by 2: (B,C,D,H,W) -> (B,C,2D,2H,2W)."""
    if _is_fast(x):
        return cast(Tensor, _Repeat.apply(x))  # type: ignore[no-untyped-call]
    with without_autocast(x):
        return functional.interpolate(keep_layout(x), scale_factor=2, mode="nearest")


def average_pool2(x: Tensor) -> Tensor:
    """Mean over cells of 2x2x2 voxels: (B,C,2D,2H,2W) -> (B,C,D,H,W), in fp32 where ``x`` has a 16-bit type."""
    if _is_fast(x) and all(side % 2 == 0 for side in x.shape[2:]):
        return cast(Tensor, _Sum.apply(x)) / 8  # type: ignore[no-untyped-call]
    with without_autocast(x):
        return functional.avg_pool3d(at_least_fp32(keep_layout(x)), 2)


def times_map(x: Tensor, weights: Tensor) -> Tensor:
    """``x`` (B,C,D,H,W) times ``weights`` (B,1,D,H,W) of the same type: every channel by the same map."""
    if _is_fast(x):  # One factor for neighbours in memory: multiplying by it without a copy is far slower.
        weights = weights.expand_as(x).contiguous(memory_format=torch.channels_last_3d)
    return x * weights


def _is_fast(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.shape[1] > 1 and is_channels_last(x)


def _sum_of_cells(x: Tensor) -> Tensor:
    """(B,C,2D,2H,2W) -> (B,C,D,H,W) in channels_last_3d; 16-bit types are summed and returned in fp32."""
    batch, channels, depth, height, width = x.shape
    total = x.permute(0, 2, 3, 4, 1)
    for run in (height * width * channels, width * channels, channels):
        pairs = total.reshape(-1, 2, run)
        total = at_least_fp32(pairs[:, 0]) + pairs[:, 1]
    return total.view(batch, depth // 2, height // 2, width // 2, channels).permute(0, 4, 1, 2, 3)


def _repeat_to_cells(x: Tensor) -> Tensor:
    """(B,C,D,H,W) -> (B,C,2D,2H,2W) in channels_last_3d."""
    batch, channels, depth, height, width = x.shape
    rows = x.permute(0, 2, 3, 4, 1)
    for run in (channels, 2 * width * channels, 4 * height * width * channels):
        rows = rows.reshape(-1, run)
        rows = torch.cat((rows, rows), 1)
    return rows.view(batch, 2 * depth, 2 * height, 2 * width, channels).permute(0, 4, 1, 2, 3)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.dtype = x.dtype
        return _sum_of_cells(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _repeat_to_cells(gradients[0].to(ctx.dtype))


class _Repeat(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _repeat_to_cells(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _sum_of_cells(gradients[0]).to(gradients[0].dtype)
