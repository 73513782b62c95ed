"""The three encoder streams of a level as one block of convolutions, where a CPU is faster with that.

The streams have the same layers and no connection inside a level. One convolution with a block-diagonal kernel computes
all three. Its zeros cost nothing as long as all channels together fit one vector register, which a stream of two or
four channels leaves mostly idle. The parameters stay with their streams, and the function is the same.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from adamss_fl.model.batch_norm import FEWEST_VOXELS, BatchNorm3d, joined_with_relu
from adamss_fl.model.blocks import ConvBlock, ResBlock
from adamss_fl.model.convolution import convolve
from adamss_fl.model.layout import channels_last, is_channels_last


def pays_off(blocks: Sequence[ResBlock], x: Tensor) -> bool:
    """Whether :func:`merged_streams` is faster: few channels, on a large fp32 map in channels_last_3d on a CPU."""
    norms = [norm for block in blocks for norm in block.modules() if isinstance(norm, BatchNorm3d)]
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and is_channels_last(x)
        and x.numel() > FEWEST_VOXELS * x.shape[1]
        and sum(block.shortcut.conv.out_channels for block in blocks) <= _floats_in_register()
        and len(norms) == sum(1 + len(block.convs) for block in blocks)
        and len({norm.training for norm in norms}) == 1
    )


def merged_streams(blocks: Sequence[ResBlock], x: Tensor, first_channels: Sequence[int]) -> tuple[Tensor, ...]:
    """Each of ``blocks`` on its own channels of ``x`` (B,C,D,H,W), from ``first_channels`` on; their outputs.

    The channels of two blocks may overlap.
    """
    shortcut = _convolved([block.shortcut for block in blocks], x, first_channels)
    y = _convolved([_conv(block, 0) for block in blocks], x, first_channels) + shortcut
    channels = [block.shortcut.conv.out_channels for block in blocks]
    own = [sum(channels[:number]) for number in range(len(blocks))]
    for depth in range(1, len(blocks[0].convs)):
        y = _convolved([_conv(block, depth) for block in blocks], y, own) + y
    return tuple(channels_last(part) for part in torch.split(y, channels, 1))


def _convolved(blocks: Sequence[ConvBlock], x: Tensor, first_channels: Sequence[int]) -> Tensor:
    """The ConvBlocks side by side, each reading ``x`` from its first channel on."""
    kernels = []
    for block, first in zip(blocks, first_channels, strict=True):
        after = x.shape[1] - first - block.conv.in_channels
        kernels.append(functional.pad(block.conv.weight, (0, 0, 0, 0, 0, 0, first, after)))
    biases = torch.cat([cast(Tensor, block.conv.bias) for block in blocks])
    y = convolve(x, channels_last(torch.cat(kernels)), biases, blocks[0].conv.kernel_size[0] // 2)
    return joined_with_relu(y, [cast(BatchNorm3d, block.norm) for block in blocks])


def _conv(block: ResBlock, depth: int) -> ConvBlock:
    return cast(ConvBlock, block.convs[depth])


def _floats_in_register() -> int:
    return 16 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 8
