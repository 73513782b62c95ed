"""Convolution with stride 1 in fp32 on a CPU, by oneDNN at every size.

PyTorch sends an fp32 3D convolution to oneDNN only where the batch has more than one sample or the map is large
(``use_mkldnn`` in aten/src/ATen/native/Convolution.cpp), and one of 1x1x1 on one thread only in batches of 16. All else
runs in ``slow_conv3d``, which is several times slower and returns contiguous maps. The function computed here is the
same; only the order of summation differs.
"""

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from adamss_fl.model.layout import channels_last, has_channels_last_strides

_ONES = [1, 1, 1]
LEAST_CHANNELS_OF_PRODUCT = 8
"""A 1x1x1 convolution of fewer input channels is faster in oneDNN than as a product of matrices."""


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int = 0) -> Tensor:
    """Convolution with stride 1: x (B,I,D,H,W), weight (O,I,k,k,k), bias (O,) -> (B,O,D',H',W').

    D' is D + 2 ``padding`` + 1 - k. The result is that of ``torch.nn.functional.conv3d``, which computes it where
    :func:`is_ours` is False, and where the padding is as wide as the kernel.
    """
    if padding >= weight.shape[2] or not is_ours(x, weight.shape[2]):
        return functional.conv3d(x, weight, bias, padding=padding)
    return cast(Tensor, _Convolution.apply(x, weight, bias, padding))  # type: ignore[no-untyped-call]


def is_ours(x: Tensor, kernel: int) -> bool:
    """Whether a convolution runs here: fp32 maps in channels_last_3d on a CPU that PyTorch might send elsewhere."""
    return (
        (x.shape[0] == 1 or kernel == 1)
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and has_channels_last_strides(x)
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    )


def _as_rows(x: Tensor) -> Tensor:
    """The voxels of ``x`` (B,C,D,H,W) in channels_last_3d as a view (B D H W, C)."""
    return x.permute(0, 2, 3, 4, 1).reshape(-1, x.shape[1])


def _as_map(rows: Tensor, like: Tensor) -> Tensor:
    """The inverse of :func:`_as_rows`: ``rows`` (B D H W, C) -> (B,C,D,H,W) on the grid of ``like``."""
    batch, _, *sides = like.shape
    return rows.view(batch, *sides, rows.shape[1]).permute(0, 4, 1, 2, 3)


def _is_pointwise(weight: Tensor) -> bool:
    return weight.shape[2:] == (1, 1, 1)


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    """The convolution itself, by BLAS where it is a product of matrices with enough columns, else by oneDNN."""
    if _is_pointwise(weight) and padding == 0 and weight.shape[1] >= LEAST_CHANNELS_OF_PRODUCT:
        rows, matrix = _as_rows(x), weight.flatten(1).t()
        return _as_map(rows @ matrix if bias is None else torch.addmm(bias, rows, matrix), x)
    y: Tensor = torch.ops.aten.mkldnn_convolution(x, weight, bias, [padding] * 3, _ONES, _ONES, 1)
    return channels_last(y)


def _in_halves(x: Tensor, seen: Tensor, kernel: int, padding: int) -> tuple[Tensor, Tensor]:
    """Two halves of ``seen`` (1,O,D',H',W') along D, as a batch of two, and the planes of ``x`` that each sees.

    Planes of zeros stand for the padding of ``x`` along D. Where D' is odd, one more follows either map.
    """
    _, channels, depth, height, width = x.shape
    if seen.shape[2] % 2:
        seen = functional.pad(seen, (0, 0, 0, 0, 0, 1))
    half = seen.shape[2] // 2
    planes = x.new_zeros((2, half + kernel - 1, height, width, channels))
    for part, begin in enumerate((-padding, half - padding)):
        first, last = max(begin, 0), min(begin + half + kernel - 1, depth)
        planes[part, first - begin : last - begin] = x[0, :, first:last].permute(1, 2, 3, 0)
    halves = channels_last(seen).permute(0, 2, 3, 4, 1).reshape(2, half, *seen.shape[3:], seen.shape[1])
    return planes.permute(0, 4, 1, 2, 3), channels_last(halves.permute(0, 4, 1, 2, 3))


def _weight_gradient(x: Tensor, seen: Tensor, weight: Tensor, padding: int) -> Tensor:
    """Gradient of the kernel ``weight`` given that of the output, ``seen``; not for a kernel of 1x1x1.

    A batch of one is cut into two halves along D, each with the planes of ``x`` that its voxels see, since PyTorch
    takes oneDNN for a batch of two.
    """
    if x.shape[0] == 1:
        x, seen = _in_halves(x, seen, weight.shape[2], padding)
        paddings = [0, padding, padding]
    else:
        paddings = [padding] * 3
    found = torch.ops.aten.convolution_backward(
        seen, x, weight, None, _ONES, paddings, _ONES, False, [0, 0, 0], 1, [False, True, False]
    )
    gradient: Tensor = found[1]
    return gradient


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        return _forward(x, weight, bias, padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias, _ = ctx.needs_input_grad
        seen = channels_last(gradients[0])
        to_x = to_weight = None
        if for_x:
            turned = weight.transpose(0, 1) if _is_pointwise(weight) else weight.flip(2, 3, 4).transpose(0, 1)
            to_x = _forward(seen, channels_last(turned), None, weight.shape[2] - 1 - ctx.padding)
        if for_weight and _is_pointwise(weight):
            to_weight = (_as_rows(seen).t() @ _as_rows(x)).view(weight.shape)
        elif for_weight:
            to_weight = _weight_gradient(x, seen, weight, ctx.padding)
        to_bias = _as_rows(seen).sum(0) if for_bias else None
        return to_x, to_weight, to_bias, None
