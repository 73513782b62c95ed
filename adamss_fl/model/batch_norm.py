"""Batch norm in channels_last_3d on a CPU, with sums that are exact to fp32's rounding, and a ReLU where one follows.

PyTorch's channels-last kernel adds the voxels of a channel one after another in fp32, so that its error grows with
their number: at 112^3 it is 4e-4 in the output, 9e-5 in the running variance and 4e-3 in the gradient of the scale.
It also works through the channels of one voxel at a time, so that with few channels most of a vector register is idle.
Here neighbouring voxels are folded into the channel axis. Each sum then takes a small share of the voxels, on wide
rows, and the partial moments are pooled (Chan, Golub and LeVeque, The American Statistician 37:242, 1983). The function
is the same (Ioffe and Szegedy, arXiv 1502.03167): biased variance to normalise, unbiased in the running one.
"""

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from adamss_fl.model.layout import channels_last, is_channels_last

FEWEST_VOXELS = 2048
"""Up to so many voxels PyTorch's own kernel is exact enough (its sums are off by 1e-6 at most), and faster."""
MOST_NARROW_CHANNELS = 4
"""Up to so many channels PyTorch's kernel is several times slower than a few passes over wide rows."""

WIDEST_ROW = 4096
"""Values in a row of folded voxels: the kernel keeps a few such rows in the fastest cache."""
_SUMS_ONLY = [False, True, True]


class BatchNorm3d(nn.BatchNorm3d):
    """``torch.nn.BatchNorm3d`` with exact sums on a CPU, and a form with the ReLU that follows it."""

    def forward(self, x: Tensor) -> Tensor:
        """``x`` (B,C,D,H,W) normalised; in training, running statistics are updated."""
        return self._normalised(x, relu=False) if is_ours(x, self) else super().forward(x)

    def with_relu(self, x: Tensor) -> Tensor:
        """ReLU of :meth:`forward`."""
        return self._normalised(x, relu=True) if is_ours(x, self) else functional.relu(super().forward(x), inplace=True)

    def _normalised(self, x: Tensor, relu: bool) -> Tensor:
        given = (None, None) if self.training else (self.running_mean, self.running_var)
        y, mean, variance = cast(
            tuple[Tensor, Tensor, Tensor],
            _BatchNorm.apply(x, self.weight, self.bias, *given, self.eps, relu),  # type: ignore[no-untyped-call]
        )
        if self.training:
            _move_running_statistics(self, mean, variance, x.numel() // x.shape[1])
        return y


def joined_with_relu(x: Tensor, norms: Sequence[BatchNorm3d]) -> Tensor:
    """ReLU of ``norms``, each on its own channels of the CPU map ``x`` (B,C,D,H,W) in channels_last_3d.

    The norms have one eps and are all in training or all in evaluation mode.
    """

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(norm, name) for norm in norms])

    training = norms[0].training
    given = (None, None) if training else (joined("running_mean"), joined("running_var"))
    y, *moments = cast(
        tuple[Tensor, Tensor, Tensor],
        _BatchNorm.apply(x, joined("weight"), joined("bias"), *given, norms[0].eps, True),  # type: ignore[no-untyped-call]
    )
    if training:
        parts = [torch.split(moment, [norm.num_features for norm in norms]) for moment in moments]
        for norm, mean, variance in zip(norms, *parts, strict=True):
            _move_running_statistics(norm, mean, variance, x.numel() // x.shape[1])
    return y


def is_ours(x: Tensor, norm: nn.BatchNorm3d) -> bool:
    """Whether a norm is computed here: of large CPU maps in channels_last_3d where sums are to be made, or narrow ones.

    Sums are those of the moments in training, and in any mode those of the gradients.
    """
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.bfloat16, torch.float32)
        and x.numel() > FEWEST_VOXELS * x.shape[1]
        and (norm.training or torch.is_grad_enabled() or x.shape[1] <= MOST_NARROW_CHANNELS)
        and is_channels_last(x)
    )


def _move_running_statistics(norm: nn.BatchNorm3d, mean: Tensor, variance: Tensor, voxels: int) -> None:
    """Count a batch and move the running statistics of ``norm`` towards its ``mean`` and biased ``variance`` (C,)."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    assert norm.momentum is not None
    with torch.no_grad():
        norm.num_batches_tracked.add_(1)
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * (voxels / (voxels - 1)), norm.momentum)


def _voxels_in_row(x: Tensor) -> int:
    """The number k of voxels that make a row: the largest power of 2 that divides their number and fits."""
    channels = x.shape[1]
    most = 1 << max(WIDEST_ROW // channels, 1).bit_length() - 1
    return math.gcd(x.numel() // channels, most)


def _fold(x: Tensor, k: int) -> Tensor:
    """(B,C,D,H,W) in channels_last_3d as a view (rows, k C) of k voxels a row, their channels one after another."""
    return x.permute(0, 2, 3, 4, 1).reshape(-1, k * x.shape[1])


def _unfold(rows: Tensor, like: Tensor) -> Tensor:
    batch, channels, *sides = like.shape
    return rows.view(batch, *sides, channels).permute(0, 4, 1, 2, 3)


def _as_map(rows: Tensor) -> Tensor:
    """(rows, wide) as a map (1, wide, rows, 1) in channels_last, which PyTorch's channels-last kernels take."""
    return rows.view(1, len(rows), 1, -1).permute(0, 3, 1, 2)


def _moments(rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance (C,) in fp64 over all voxels of folded ``rows``."""
    # Running statistics in fp32 make the kernel return its sums in fp32 for bfloat16 rows too; momentum 0 leaves them.
    unused = torch.zeros(rows.shape[1])
    means, variances = torch.ops.aten.batch_norm_update_stats(_as_map(rows), unused, unused, 0.0)
    both = torch.stack((means, variances)).view(2, k, -1).double()
    mean = both[0].mean(0)
    apart = both[0] - mean
    return mean, torch.addcmul(both[1], apart, apart).mean(0)


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        eps: float,
        relu: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        k = _voxels_in_row(x)
        rows = _fold(x, k)
        ctx.own = running_mean is None or running_var is None
        if running_mean is None or running_var is None:
            mean64, variance64 = _moments(rows, k)
        else:
            mean64, variance64 = running_mean.double(), running_var.double()
        scale64 = torch.rsqrt(variance64 + eps)
        mean, variance, scale = torch.stack((mean64, variance64, scale64)).float().unbind()
        factor = scale64 * weight
        # Centred before it is scaled, since x factor - mean factor would lose what they have in common. The offset also
        # takes back what the mean lost when it was rounded.
        offset = bias - (mean64 - mean) * factor
        wide_mean, wide_factor, wide_offset = torch.stack((mean64, factor, offset)).float().repeat(1, k).unbind()
        y = torch.addcmul(wide_offset, rows - wide_mean, wide_factor)
        y = y.clamp_min_(0) if relu else y
        result = _unfold(y if y.dtype == x.dtype else y.to(x.dtype), x)
        ctx.relu, ctx.k = relu, k
        ctx.save_for_backward(x, result if relu else None, mean, scale, factor.float())
        ctx.mark_non_differentiable(mean, variance)
        return result, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, y, mean, scale, factor = ctx.saved_tensors
        k, voxels = ctx.k, x.numel() // x.shape[1]
        rows, passed = _fold(x, k), _fold(channels_last(gradients[0]), k)
        if ctx.relu:
            passed = torch.ops.aten.threshold_backward(passed, _fold(y, k), 0)
        wide_mean, wide_scale = torch.stack((mean, scale)).repeat(1, k).unbind()
        _, to_weights, to_biases = torch.ops.aten.native_batch_norm_backward(
            _as_map(passed), _as_map(rows), wide_scale, None, None, wide_mean, wide_scale, True, 0.0, _SUMS_ONLY
        )
        to_weight, to_bias = to_weights.view(k, -1).sum(0), to_biases.view(k, -1).sum(0)
        passed = passed if passed.dtype == torch.float32 else passed.float()
        if ctx.own:
            # d/dx = factor (g - mean(g) - xhat mean(g xhat)), xhat = (x - mean) scale
            slope = scale * to_weight / -voxels
            offset = torch.addcmul(to_bias / -voxels, mean, slope, value=-1)
            wide_slope, wide_offset, wide_factor = torch.stack((slope, offset, factor)).repeat(1, k).unbind()
            result = torch.addcmul(passed, rows, wide_slope).add_(wide_offset).mul_(wide_factor)
        else:  # moments that do not depend on x
            result = passed * factor.repeat(k)
        result = result if result.dtype == x.dtype else result.to(x.dtype)
        return _unfold(result, x), to_weight, to_bias, None, None, None, None
