"""Batch norm followed by ReLU on maps of very few channels, several times faster than PyTorch's CPU kernel there.

PyTorch's channels-last batch norm works through the channels of one voxel at a time, so with 2 or 4 channels most of
each vector register is idle. Here neighbouring voxels are folded into the channel axis and the work is done on wide
rows. The function is the same (Ioffe and Szegedy, arXiv 1502.03167): biased variance to normalise, unbiased in the
running one.
"""

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from adamss_fl.model.layout import channels_last, is_channels_last

MOST_CHANNELS = 4
_ROW = 64


def is_narrow(x: Tensor, norm: nn.Module) -> bool:
    """Whether :func:`narrow_batch_norm_relu` does the same as ``norm`` and ReLU on ``x``, and faster."""
    return (
        x.device.type == "cpu"
        and x.shape[1] <= MOST_CHANNELS
        and isinstance(norm, nn.BatchNorm3d)
        and norm.training
        and x.dtype in (torch.bfloat16, torch.float32)
        and x.shape[0] * math.prod(x.shape[2:]) >= _ROW
        and is_channels_last(x)
    )


def narrow_batch_norm_relu(x: Tensor, norm: nn.BatchNorm3d) -> Tensor:
    """ReLU of ``norm`` in training mode on ``x`` (B,C,D,H,W) in channels_last_3d; updates the running statistics."""
    y, mean, variance = cast(
        tuple[Tensor, Tensor, Tensor],
        _NarrowNormRelu.apply(x, norm.weight, norm.bias, norm.eps),  # type: ignore[no-untyped-call]
    )
    voxels = x.numel() // x.shape[1]
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    assert norm.momentum is not None
    with torch.no_grad():
        norm.num_batches_tracked.add_(1)
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * (voxels / (voxels - 1)), norm.momentum)
    return y


def _fold(x: Tensor) -> Tensor:
    """(B,C,D,H,W) in channels_last_3d as a view (rows, k C) of k voxels a row, their channels one after another."""
    channels = x.shape[1]
    k = math.gcd(x.numel() // channels, _ROW // channels)
    return x.permute(0, 2, 3, 4, 1).reshape(-1, k * channels)


def _unfold(rows: Tensor, like: Tensor) -> Tensor:
    batch, channels, *sides = like.shape
    return rows.view(batch, *sides, channels).permute(0, 4, 1, 2, 3)


class _NarrowNormRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        channels, rows = x.shape[1], _fold(x)
        k, voxels = rows.shape[1] // channels, x.numel() // channels
        wide = rows.float()
        mean = wide.sum(0).view(k, channels).sum(0) / voxels
        centred = wide - mean.repeat(k)
        variance = (centred * centred).sum(0).view(k, channels).sum(0) / voxels
        scale = torch.rsqrt(variance + eps)
        y = torch.addcmul(bias.repeat(k), centred, (scale * weight).repeat(k)).clamp_min_(0).to(x.dtype)
        result = _unfold(y, x)
        ctx.save_for_backward(x, result, mean, scale, weight)
        ctx.mark_non_differentiable(mean, variance)
        return result, mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, y, mean, scale, weight = ctx.saved_tensors
        channels, rows = x.shape[1], _fold(x)
        k, voxels = rows.shape[1] // channels, x.numel() // channels
        passed = torch.ops.aten.threshold_backward(_fold(channels_last(gradients[0])), _fold(y), 0).float()
        centred = rows.float() - mean.repeat(k)
        to_bias = passed.sum(0).view(k, channels).sum(0)
        to_centred = (passed * centred).sum(0).view(k, channels).sum(0)
        result = torch.addcmul(passed, centred, (-scale * scale * to_centred / voxels).repeat(k))
        result = result.sub_((to_bias / voxels).repeat(k)).mul_((scale * weight).repeat(k)).to(x.dtype)
        return _unfold(result, x), to_centred * scale, to_bias, None
