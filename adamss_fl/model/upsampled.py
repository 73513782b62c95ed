"""Convolution of concat(s, nearest_up2(g)) without making the upsampled map or the concatenation.

Eight neighbouring voxels of nearest_up2(g) are equal, so a 3x3x3 kernel meets at most 2x2x2 different voxels of g. Each
of the eight positions of a voxel within its cell has its own 2x2x2 kernel, whose weights are sums of the 3x3x3 one's.
All eight are one convolution of g at half resolution, with 8/27 of the multiplications (Shi et al., arXiv 1609.07009,
use the same identity the other way round). A 1x1x1 kernel commutes with the upsampling. The function is the same.
"""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, cast

import torch
from torch import Tensor

from adamss_fl.model.convolution import convolve
from adamss_fl.model.layout import channels_last, is_channels_last
from adamss_fl.model.precision import without_autocast
from adamss_fl.model.resampling import nearest_up2

SMALLEST_SIDE = 8
"""Below it the maps cost little and making the kernels costs more."""

_TAPS = (((1.0, 0.0, 0.0), (0.0, 1.0, 1.0)), ((1.0, 1.0, 0.0), (0.0, 0.0, 1.0)))
"""[position in the cell][tap of the small kernel][tap of the 3-kernel]: which weights are summed along one axis."""


def pays_off(s: Tensor, g: Tensor) -> bool:
    """Whether :func:`conv_with_upsampled` is faster than the concatenation: large CPU maps in channels_last_3d."""
    return s.device.type == "cpu" and min(g.shape[2:]) >= SMALLEST_SIDE and is_channels_last(s) and is_channels_last(g)


def conv_with_upsampled(s: Tensor, g: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolution, same padding, of concat(``s``, nearest_up2(``g``)).

    s : (B,Cs,D,H,W); g : (B,Cg,D/2,H/2,W/2); weight : (O,Cs+Cg,k,k,k) with k 1 or 3; bias : (O,).
    Returns (B,O,D,H,W).
    """
    kernel, channels = weight.shape[-1], s.shape[1]
    own = convolve(s, weight[:, :channels], bias, kernel // 2)
    if kernel == 1:
        return own + nearest_up2(convolve(g, weight[:, channels:], None))
    small = convolve(g, cell_kernels(weight[:, channels:]), None, 1)
    return own + cast(Tensor, _Interleave.apply(small))  # type: ignore[no-untyped-call]


def cell_kernels(weight: Tensor) -> Tensor:
    """(O,I,3,3,3) -> (8 O,I,2,2,2): the kernel of each position in a cell, position by position in (d, h, w) order."""
    with without_autocast(weight):
        taps = torch.tensor(_TAPS, dtype=weight.dtype, device=weight.device)
        kernels = torch.einsum("oidhw,pad,qbh,rcw->pqroiabc", weight, taps, taps, taps)
    return channels_last(kernels.reshape(8 * weight.shape[0], weight.shape[1], 2, 2, 2))


def _cells(full: Tensor) -> Iterator[tuple[tuple[int, int, int], Tensor]]:
    """Each position in a cell with the view of ``full`` (B,C,2D,2H,2W) at it, (B,C,D,H,W)."""
    for p, q, r in product((0, 1), repeat=3):
        yield (p, q, r), full[:, :, p::2, q::2, r::2]


def _empty(shape: Sequence[int], like: Tensor) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last_3d)


def _part(small: Tensor, index: int, position: tuple[int, int, int], like: Tensor) -> Tensor:
    """The view of ``small`` (B,8 O,D+1,H+1,W+1) that belongs to a position: its channels, shifted by the position."""
    channels = like.shape[1]
    (p, q, r), (depth, height, width) = position, like.shape[2:]
    return small[:, index * channels : (index + 1) * channels, p : p + depth, q : q + height, r : r + width]


class _Interleave(torch.autograd.Function):
    """The eight parts of small (B,8 O,D+1,H+1,W+1) put at their positions: (B,O,2D,2H,2W)."""

    @staticmethod
    def forward(ctx: Any, small: Tensor) -> Tensor:
        ctx.small_shape = small.shape
        batch, channels, *sides = small.shape
        full = _empty((batch, channels // 8, *(2 * (side - 1) for side in sides)), small)
        for index, (position, cell) in enumerate(_cells(full)):
            cell.copy_(_part(small, index, position, cell))
        return full

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        small = _empty(ctx.small_shape, gradients[0]).zero_()
        for index, (position, cell) in enumerate(_cells(gradients[0])):
            _part(small, index, position, cell).copy_(cell)
        return small
