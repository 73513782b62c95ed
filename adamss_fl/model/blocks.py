"""The blocks of AdaMSS: guarded convolution, normalisation, ConvBlock, ResBlock and the decoder's attention gate."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from adamss_fl.errors import InputError
from adamss_fl.model.batch_norm import BatchNorm3d
from adamss_fl.model.convolution import convolve
from adamss_fl.model.precision import at_least_fp32, needs_fp32_convolution, without_autocast
from adamss_fl.model.resampling import average_pool2, nearest_up2, times_map
from adamss_fl.model.settings import ModelSettings
from adamss_fl.model.upsampled import conv_with_upsampled, pays_off


class Conv3d(nn.Conv3d):
    """Convolution with stride 1, same padding and a bias, in fp32 on maps too small for bfloat16 on a CPU.

    Weights start He-normal (He et al., 2015, for ReLU), biases at zero.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int) -> None:
        super().__init__(channels_in, channels_out, kernel, padding=kernel // 2)

    def reset_parameters(self) -> None:
        """He-normal weights and zero biases from torch's global generator."""
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` (B,in,D,H,W) -> (B,out,D,H,W)."""
        if needs_fp32_convolution(x, self.kernel_size[0]):
            with torch.autocast("cpu", enabled=False):
                return self._convolved(at_least_fp32(x))
        return self._convolved(x)

    def _convolved(self, x: Tensor) -> Tensor:
        return convolve(x, self.weight, self.bias, self.kernel_size[0] // 2)


def make_norm(settings: ModelSettings, channels: int) -> nn.Module:
    """The normalisation layer of ``settings`` for ``channels`` channels, with a learned scale and shift.

    ``instance`` keeps no running statistics. ``group`` uses the largest number of groups that divides ``channels`` and
    is at most ``norm_groups``, since the thin layers have fewer channels than that.
    """
    if settings.norm == "batch":
        return BatchNorm3d(channels)
    if settings.norm == "instance":
        return nn.InstanceNorm3d(channels, affine=True)
    if settings.norm == "group":
        groups = next(n for n in range(min(settings.norm_groups, channels), 0, -1) if channels % n == 0)
        return nn.GroupNorm(groups, channels)
    raise InputError(f"model.norm: unknown norm {settings.norm!r}; use batch, instance or group")


class ConvBlock(nn.Module):
    """Convolution (kernel ``k``, same padding, bias) -> norm -> ReLU."""

    def __init__(self, settings: ModelSettings, channels_in: int, channels_out: int, kernel: int) -> None:
        super().__init__()
        self.conv = Conv3d(channels_in, channels_out, kernel)
        self.norm = make_norm(settings, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` (B,in,D,H,W) -> (B,out,D,H,W), not negative."""
        return self.after_conv(self.conv(x))

    def after_conv(self, y: Tensor) -> Tensor:
        """Norm and ReLU of the convolution's output ``y``, which may be overwritten."""
        if isinstance(self.norm, BatchNorm3d):
            return self.norm.with_relu(y)
        return functional.relu(self.norm(y), inplace=True)


class ResBlock(nn.Module):
    """y = ConvBlock3(x) + ConvBlock1(x), then ``n - 1`` times y = ConvBlock3(y) + y; no ReLU after the additions."""

    def __init__(self, settings: ModelSettings, channels_in: int, channels_out: int, n: int) -> None:
        super().__init__()
        self.shortcut = ConvBlock(settings, channels_in, channels_out, 1)
        self.convs = nn.ModuleList(
            ConvBlock(settings, channels_in if i == 0 else channels_out, channels_out, 3) for i in range(n)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``x`` (B,in,D,H,W) -> (B,out,D,H,W)."""
        return self._further(self.convs[0](x) + self.shortcut(x))

    def with_upsampled(self, s: Tensor, g: Tensor) -> Tensor:
        """The block on concat(``s``, nearest_up2(``g``)): s (B,Cs,D,H,W), g (B,Cg,D/2,H/2,W/2) -> (B,out,D,H,W)."""
        if not pays_off(s, g):
            return self.forward(torch.cat((s, nearest_up2(g)), 1))
        return self._further(_on_upsampled(self.convs[0], s, g) + _on_upsampled(self.shortcut, s, g))

    def _further(self, y: Tensor) -> Tensor:
        for conv in self.convs[1:]:
            y = conv(y) + y
        return y


def _on_upsampled(block: nn.Module, s: Tensor, g: Tensor) -> Tensor:
    assert isinstance(block, ConvBlock)
    return block.after_conv(conv_with_upsampled(s, g, block.conv.weight, block.conv.bias))


class AttentionGate(nn.Module):
    """Weights ``x`` per voxel by a map made of ``x`` and the deeper feature ``g``.

    map = up2(sigmoid(norm(Conv1(ReLU(norm(Conv1(g)) + AvgPool2(norm(Conv1(x)))))))) with one channel, where up2 is
    trilinear with aligned corners. Additive attention as in Oktay et al., "Attention U-Net" (2018).
    """

    def __init__(self, settings: ModelSettings, channels_x: int, channels_g: int) -> None:
        super().__init__()
        self.conv_g = Conv3d(channels_g, channels_x, 1)
        self.norm_g = make_norm(settings, channels_x)
        self.conv_x = Conv3d(channels_x, channels_x, 1)
        self.norm_x = make_norm(settings, channels_x)
        self.conv_map = Conv3d(channels_x, 1, 1)
        self.norm_map = make_norm(settings, 1)

    def forward(self, x: Tensor, g: Tensor) -> Tensor:
        """``x`` (B,Cx,D,H,W), ``g`` (B,Cg,D/2,H/2,W/2) -> ``x`` times the map, (B,Cx,D,H,W)."""
        deeper = self.norm_g(self.conv_g(g))
        own = self.norm_x(self.conv_x(x))
        logits = self.norm_map(self.conv_map(functional.relu(deeper + average_pool2(own))))
        return times_map(x, map_of_logits(logits).to(x.dtype))


def map_of_logits(logits: Tensor) -> Tensor:
    """up2(sigmoid(``logits``)): (B,1,D/2,H/2,W/2) -> attention map (B,1,D,H,W), fp32 at least, in [0, 1]."""
    with without_autocast(logits):
        small = torch.sigmoid(at_least_fp32(logits))
        return functional.interpolate(small, scale_factor=2, mode="trilinear", align_corners=True)
