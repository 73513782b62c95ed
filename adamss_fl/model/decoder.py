"""The Ada-focus decoder: one trunk for both heads."""

from torch import Tensor, nn

from adamss_fl.model.blocks import AttentionGate, ResBlock
from adamss_fl.model.checkpointing import Run, keep_all
from adamss_fl.model.encoder import level_name
from adamss_fl.model.settings import ModelSettings

CONVS_PER_LEVEL = {4: 4, 3: 3, 2: 3, 1: 2}


class DecoderLevel(nn.Module):
    """s = AttentionGate(F, g); y = ResBlock(concat(s, nearest_up2(g)))."""

    def __init__(self, settings: ModelSettings, level: int) -> None:
        super().__init__()
        channels = 2 * settings.width * 2 ** (level - 1)
        self.attention = AttentionGate(settings, channels, 2 * channels)
        self.block = ResBlock(settings, 3 * channels, channels, CONVS_PER_LEVEL[level])

    def forward(self, feature: Tensor, deeper: Tensor) -> Tensor:
        """``feature`` (B,C,D,H,W), ``deeper`` (B,2C,D/2,H/2,W/2) -> (B,C,D,H,W)."""
        return self.block.with_upsampled(self.attention(feature, deeper), deeper)


class AdaFocusDecoder(nn.Module):
    """Levels 4 to 1, each from the encoder's feature of that level and the deeper output."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.channels = tuple(2 * settings.width * 2 ** (level - 1) for level in CONVS_PER_LEVEL)
        for level in CONVS_PER_LEVEL:
            self.add_module(level_name(level), DecoderLevel(settings, level))

    def forward(self, features: tuple[Tensor, ...], run: Run = keep_all) -> tuple[Tensor, ...]:
        """Encoder features of levels 1 to 5 -> decoder outputs of levels 4, 3, 2, 1 (16c, 8c, 4c, 2c channels).

        run : how each level is run, see ``checkpointing``.
        """
        deeper = features[-1]
        outputs: list[Tensor] = []
        for level in CONVS_PER_LEVEL:
            deeper = run(self.get_submodule(level_name(level)), features[level - 1], deeper)
            outputs.append(deeper)
        return tuple(outputs)
