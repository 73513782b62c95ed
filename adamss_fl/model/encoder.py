"""The Ada-fusion encoder: PET, CT and early-fusion streams, joined by one fusion gate per level."""

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from adamss_fl.model.blocks import ConvBlock, ResBlock
from adamss_fl.model.checkpointing import Run, keep_all
from adamss_fl.model.convolution import convolve
from adamss_fl.model.layout import keep_layout
from adamss_fl.model.merged_streams import merged_streams, pays_off
from adamss_fl.model.precision import without_autocast
from adamss_fl.model.settings import ModelSettings

LEVELS = 5
CONVS_PER_LEVEL = (2, 3, 3, 4, 4)

FIXED_WEIGHT: dict[str, float | None] = {"learnt": None, "half": 0.5, "early": 1.0, "late": 0.0}
"""w_fuse of every gate by ``ModelSettings.gates``; None where it is learnt."""


def level_name(level: int) -> str:
    """Name of the module of ``level`` (1, the finest, to 5), for example ``level1``."""
    return f"level{level}"


def pool(x: Tensor) -> Tensor:
    """Max-pool 2 between levels: (B,C,D,H,W) -> (B,C,D/2,H/2,W/2)."""
    with without_autocast(x):
        return functional.max_pool3d(x, 2)


def join(*maps: Tensor) -> Tensor:
    """The channels of ``maps`` (B,C,D,H,W) one after another; each gradient comes back whole, not as a part of theirs.

    A part is strided, and adding it to another gradient would take several times as long as the copy.
    """
    return torch.cat([keep_layout(x) for x in maps], 1)


class TwoWayContrast(nn.Module):
    """a - b of two 1x1x1 convolutions a, b (2C -> C, bias) of the same input, all zero at the start.

    Convolution is linear, so a(x) - b(x) is the one convolution whose weight is weight_a - weight_b: the same function
    and the same gradients at half the cost.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        shape = (channels, 2 * channels, 1, 1, 1)
        self.weight_a = nn.Parameter(torch.zeros(shape))
        self.bias_a = nn.Parameter(torch.zeros(channels))
        self.weight_b = nn.Parameter(torch.zeros(shape))
        self.bias_b = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """``x`` (B,2C,D,H,W) -> logits (B,C,D,H,W)."""
        return convolve(x, self.weight_a - self.weight_b, self.bias_a - self.bias_b)


class FusionGate(nn.Module):
    """Soft choice, per voxel and channel: the early-fusion stream, or the late concatenation of the PET and CT streams.

    F_pc = ConvBlock3(concat(F_pet, F_ct)); the weights are the two-way softmax of a and b (see :class:`TwoWayContrast`)
    on concat(F_fuse, F_pc), written w_fuse = sigmoid(a - b), which cannot overflow;
    F = w_fuse * F_fuse + (1 - w_fuse) * F_pc. Every gate starts at exactly 0.5. Where the settings fix w_fuse, the
    parameters are the same and those that it takes out of play get no gradient.
    """

    def __init__(self, settings: ModelSettings, channels: int) -> None:
        super().__init__()
        self.late = ConvBlock(settings, channels, channels, 3)
        self.contrast = TwoWayContrast(channels)
        self.fixed = FIXED_WEIGHT[settings.gates]

    def forward(self, fuse: Tensor, pet: Tensor, ct: Tensor) -> tuple[Tensor, Tensor]:
        """``fuse`` (B,C,D,H,W), ``pet`` and ``ct`` (B,C/2,D,H,W) -> F of fuse's shape, and the mean of w_fuse.

        The mean is a detached fp32 scalar.
        """
        if self.fixed == 1.0:
            return fuse, _constant(1.0, fuse)
        late = self.late(join(pet, ct))
        if self.fixed == 0.0:
            return late, _constant(0.0, late)
        if self.fixed is not None:
            return torch.lerp(late, fuse.to(late.dtype), self.fixed), _constant(self.fixed, late)
        weight = torch.sigmoid(self.contrast(join(fuse, late))).to(late.dtype)
        return torch.lerp(late, fuse.to(late.dtype), weight), weight.detach().mean(dtype=torch.float32)


def _constant(value: float, like: Tensor) -> Tensor:
    return torch.tensor(value, dtype=torch.float32, device=like.device)


class StreamEncoder(nn.Module):
    """Five levels of residual blocks with ``channels`` output channels at level 1, doubled at each further level."""

    def __init__(self, settings: ModelSettings, channels_in: int, channels: int) -> None:
        super().__init__()
        for level, n in enumerate(CONVS_PER_LEVEL, start=1):
            out = channels * 2 ** (level - 1)
            self.add_module(level_name(level), ResBlock(settings, channels_in, out, n))
            channels_in = out

    @property
    def first_kernel(self) -> Tensor:
        """The first 3x3x3 kernel; its layout is that of the whole model."""
        return self.get_parameter("level1.convs.0.conv.weight")

    def level(self, level: int) -> ResBlock:
        """The block of ``level`` (1 to 5); its input is already pooled."""
        return cast(ResBlock, self.get_submodule(level_name(level)))


def _first_channels(pet: Tensor, ct: Tensor) -> tuple[int, int, int]:
    """First channel of each of the three joined streams."""
    return 0, pet.shape[1], pet.shape[1] + ct.shape[1]


class EncoderOutput(NamedTuple):
    """Gate outputs F of levels 1 to 5, and the mean w_fuse of each level (5,), detached, fp32."""

    features: tuple[Tensor, ...]
    gate_opening: Tensor


class AdaFusionEncoder(nn.Module):
    """Three parallel five-level encoders; level i + 1 of the fusion stream takes the pooled gate output of level i."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        weight = FIXED_WEIGHT[settings.gates]
        self._uses_modalities, self._uses_fusion = weight != 1.0, weight != 0.0
        self.pet = StreamEncoder(settings, 1, settings.width)
        self.ct = StreamEncoder(settings, 1, settings.width)
        self.fusion = StreamEncoder(settings, 2, 2 * settings.width)
        self.gates = nn.ModuleDict(
            {level_name(i + 1): FusionGate(settings, 2 * settings.width * 2**i) for i in range(LEVELS)}
        )

    def forward(self, pet: Tensor, ct: Tensor, run: Run = keep_all) -> EncoderOutput:
        """``pet``, ``ct`` (B,1,D,H,W) -> features of 2c, 4c, 8c, 16c, 32c channels at full to 1/16 resolution.

        run : how each level and gate is run, see ``checkpointing``. Streams that a fixed gate never lets through are
        not run.
        """
        fuse = torch.cat((pet, ct), 1)
        features: list[Tensor] = []
        openings: list[Tensor] = []
        for level in range(1, LEVELS + 1):
            if level > 1:
                pet, ct, fuse = pool(pet), pool(ct), pool(features[-1])
            blocks = (self.pet.level(level), self.ct.level(level), self.fusion.level(level))
            if run is keep_all and self._uses_modalities and self._uses_fusion and pays_off(blocks, fuse):
                x, first = (fuse, (0, 1, 0)) if level == 1 else (join(pet, ct, fuse), _first_channels(pet, ct))
                pet, ct, fuse = merged_streams(blocks, x, first)
            else:
                if self._uses_modalities:
                    pet, ct = run(blocks[0], pet), run(blocks[1], ct)
                if self._uses_fusion:
                    fuse = run(blocks[2], fuse)
            feature, opening = run(self.gates[level_name(level)], fuse, pet, ct)
            features.append(feature)
            openings.append(opening)
        return EncoderOutput(tuple(features), torch.stack(openings))
