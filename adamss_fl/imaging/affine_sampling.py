"""Images and masks under an affine map, sampled in a box only, on their own device and without making a GPU wait."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from adamss_fl.imaging.transfer import to_device

MARGIN = 2
"""Voxels round the box that :func:`sample_mask` looks at."""

SHARPENING = 0.15
"""Weight of the Laplacian in :func:`sample_mask`, found by measurement; its docstring has the figures."""


def sampling_grid(
    matrix: Tensor,
    shift: Tensor,
    shape: Sequence[int],
    *,
    starts: Sequence[Sequence[int]] | None = None,
    size: Sequence[int] | None = None,
    margin: int = 0,
    device: torch.device | None = None,
) -> Tensor:
    """Sampling positions (B, D, H, W, 3) for ``torch.nn.functional.grid_sample``, ``align_corners=False``.

    matrix : (B, 3, 3) and shift : (B, 3), on the CPU, from output to input voxels about the volume's centre, axes
        D, H, W: input = matrix @ output + shift.
    shape : (D, H, W) of the volume, before and after the map.
    starts, size : first voxel of each sample's box and the boxes' (D, H, W); absent: the whole volume.
    margin : voxels by which the positions exceed the box on every side.
    """
    full = torch.tensor(list(shape), dtype=matrix.dtype)
    size = list(shape) if size is None else list(size)
    corner = torch.zeros(len(matrix), 3) if starts is None else torch.tensor([list(start) for start in starts])
    offset = corner.to(matrix) + torch.tensor(size, dtype=matrix.dtype) / 2 - full / 2
    # grid_sample counts in half sides and in the order W, H, D: hence the change of units and the two flips.
    slope = matrix / (full / 2).view(1, 3, 1)
    origin = (shift + (matrix @ offset.unsqueeze(2)).squeeze(2)) / (full / 2)
    theta = to_device(torch.cat([slope, origin.unsqueeze(2)], dim=2).flip(1).float(), device or torch.device("cpu"))
    # Sums of three short vectors: functional.affine_grid is a matrix product, seven times slower on a CPU and rounded
    # to ten bits on a GPU that may use TF32.
    terms = []
    for axis, side in enumerate(size):
        view = [1, 1, 1, 1, 1]
        view[2 + axis] = side + 2 * margin
        steps = torch.arange(side + 2 * margin, dtype=torch.float32, device=device) - (side + 2 * margin - 1) / 2
        terms.append(theta[:, :, axis].view(-1, 3, 1, 1, 1) * steps.view(view))
    along_d, along_h, along_w = terms
    return (along_w + (along_h + (along_d + theta[:, :, 3].view(-1, 3, 1, 1, 1)))).movedim(1, -1)


def sample_affine(
    image: Tensor,
    mask: Tensor,
    matrix: Tensor,
    shift: Tensor,
    starts: Sequence[Sequence[int]] | None = None,
    size: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Images (B, C, D, H, W) and masks (B, M, D, H, W) of 0 and 1 under an affine map, same types.

    The other arguments are those of :func:`sampling_grid`. Images are interpolated linearly, and are 0 outside.
    """
    grid = sampling_grid(matrix, shift, image.shape[2:], starts=starts, size=size, margin=MARGIN, device=image.device)
    inner = slice(MARGIN, -MARGIN)
    moved = _linear(image.float(), grid[:, inner, inner, inner])
    return moved.to(image.dtype), sample_mask(mask, grid).to(mask.dtype)


def sample_mask(mask: Tensor, grid: Tensor) -> Tensor:
    """Masks (B, M, D, H, W) of 0 and 1 at the positions of ``grid`` less its margin of two voxels: bool.

    Linear interpolation and a cut at 0.5 lose small masks: where a surface is curved, the half level lies inside it.
    Here the interpolated values are sharpened before the cut, v - a * (discrete Laplacian of v) with a = 0.15, which
    moves the half level back; on flat surfaces it changes nothing, and mask and background are treated alike. A piece
    that still has no voxel, nor one next to it, is given its highest one, so that none vanishes as long as no row of
    the map's matrix sums, in absolute value, to 2 or more (largest of two million draws of the default settings: 1.85)
    and the piece ends three voxels or more inside the volume's faces.

    Volume over (volume before, times the map's change of it), share of masks that vanish, and mean DSC with the
    analytic ball under the map, over 1,000 maps of the default settings and digital balls with centres anywhere
    between voxels (300 maps from radius 3 on):

    ============  ===================  ======================  =================
    mask          this                 linear, cut at 0.5      nearest neighbour
    ============  ===================  ======================  =================
    one voxel     1.13, 0 %            0.15, 85 %              1.01, 10 %
    two voxels    0.97, 0 %            0.34, 46 %              1.00, 2 %
    radius 1      1.00, 0 %, .71       0.56, 6 %, .60          1.00, 0 %, .61
    radius 1.5    0.99, 0 %, .81       0.79, 0 %, .80          1.00, 0 %, .75
    radius 2      1.00, 0 %, .86       0.89, 0 %, .87          1.00, 0 %, .81
    radius 3      1.00, 0 %, .91       0.95, 0 %, .92          0.99, 0 %, .88
    radius 5      1.00, 0 %, .95       0.98, 0 %, .96          1.00, 0 %, .93
    radius 8      1.00, 0 %, .97       0.99, 0 %, .97          1.00, 0 %, .96
    ============  ===================  ======================  =================

    Wider settings (scale 0.3, rotation 45, shear 20 degrees): 1.04 at radius 1, 1.01 at 2; none vanished.
    """
    value = _linear(mask.float(), grid)
    sharp = value[:, :, 1:-1, 1:-1, 1:-1] * (1 + 6 * SHARPENING)
    for axis in (2, 3, 4):
        for start in (0, 2):
            neighbour = [slice(None)] * 2 + [slice(1, -1)] * 3
            neighbour[axis] = slice(start, start + value.shape[axis] - 2)
            sharp.sub_(value[tuple(neighbour)], alpha=SHARPENING)
    # Values of set voxels lie in [2, 3], of all others in [0, 1]: one search of maxima does for both.
    ranked = value[:, :, 1:-1, 1:-1, 1:-1].add(sharp >= 0.5, alpha=2)
    highest = _highest_neighbour(ranked)
    ranked = ranked[:, :, 1:-1, 1:-1, 1:-1]
    return (ranked >= 2) | ((ranked > 0) & (ranked == highest))


def _highest_neighbour(values: Tensor) -> Tensor:
    """Maximum over 3x3x3 voxels, without the outermost voxels; 20 times faster than max_pool3d on a CPU."""
    for axis in (4, 3, 2):
        inner = values.shape[axis] - 2
        first, middle, last = (values.narrow(axis, start, inner) for start in range(3))
        values = torch.maximum(torch.maximum(first, middle), last)
    return values


def _linear(volumes: Tensor, grid: Tensor) -> Tensor:
    return functional.grid_sample(volumes, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
