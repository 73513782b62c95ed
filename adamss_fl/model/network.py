"""AdaMSS: one encoder, one decoder trunk, two heads."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from adamss_fl.errors import InputError
from adamss_fl.model.checkpointing import keep_all, recompute
from adamss_fl.model.decoder import AdaFocusDecoder
from adamss_fl.model.encoder import LEVELS, AdaFusionEncoder
from adamss_fl.model.groups import parameter_groups
from adamss_fl.model.heads import SegmentationHead, SurvivalHead
from adamss_fl.model.layout import channels_last, is_channels_last
from adamss_fl.model.settings import ModelSettings

HEADS = ("segmentation", "survival")
STRIDE = 2 ** (LEVELS - 1)
"""Each side of the input is divisible by it."""


@dataclass(frozen=True, eq=False)
class ModelOutput:
    """What a forward pass returns.

    segmentation : logits (B,2,D,H,W) of primary tumour and nodes, fp32; None where the head was not asked for.
    survival : logits (B,K) of surviving bin k given that it was reached, fp32; None where the head was not asked for.
    gate_opening : (5,) mean over batch, channels and voxels of the weight of the early-fusion stream (against the late
        concatenation of the PET and CT streams) at levels 1 to 5, detached, fp32.
    """

    segmentation: Tensor | None
    survival: Tensor | None
    gate_opening: Tensor


class AdaMSS(nn.Module):
    """Adaptive segmentation-to-survival network for PET/CT.

    Source: Meng et al., npj Precision Oncology 8:232 (2024), arXiv 2305.09946. Convolutions before a norm keep their
    biases, which do nothing there, so that the parameter counts are the published ones. Two models made after the same
    ``torch.manual_seed`` are equal bit for bit.

    checkpointing : attribute, off at first; where it is set, training makes the activations inside the trunk's blocks a
        second time in the backward pass and does not keep them: the same step in less memory and more time.

    Raises InputError where ``settings`` cannot make a network.
    """

    def __init__(self, settings: ModelSettings | None = None) -> None:
        super().__init__()
        self.settings = settings = ModelSettings() if settings is None else settings
        _check_settings(settings)
        self.checkpointing = False
        self.encoder = AdaFusionEncoder(settings)
        self.decoder = AdaFocusDecoder(settings)
        self.segmentation_head = SegmentationHead(settings)
        self.survival_head = SurvivalHead(settings, self.decoder.channels)
        if settings.initialisation == "torch":
            _initialise_as_torch(self)

    def forward(
        self, pet: Tensor, ct: Tensor, tabular: Tensor | None = None, heads: Collection[str] = HEADS
    ) -> ModelOutput:
        """Run the trunk and the ``heads`` asked for.

        pet, ct : (B,1,D,H,W) floats on one grid, 0 = background; D, H, W each divisible by 16.
        tabular : (B,r) clinical and radiomics vector for the survival head; None where the model's r is 0.
        heads : any of ``segmentation`` and ``survival``.

        Raises InputError where shapes, heads or ``tabular`` do not fit.
        """
        self._check_input(pet, ct, heads)
        if is_channels_last(self.encoder.fusion.first_kernel):
            pet, ct = channels_last(pet), channels_last(ct)
        run = recompute if self.checkpointing and self.training and torch.is_grad_enabled() else keep_all
        encoded = self.encoder(pet, ct, run)
        outputs = self.decoder(encoded.features, run)
        return ModelOutput(
            segmentation=self.segmentation_head(outputs[-1]) if "segmentation" in heads else None,
            survival=self.survival_head(outputs, tabular) if "survival" in heads else None,
            gate_opening=encoded.gate_opening,
        )

    def _check_input(self, pet: Tensor, ct: Tensor, heads: Collection[str]) -> None:
        unknown = sorted(set(heads) - set(HEADS)) if not isinstance(heads, str) else [heads]
        if unknown:
            raise InputError(f"heads: unknown {', '.join(unknown)}; use a collection of {' and '.join(HEADS)}")
        for name, image in (("pet", pet), ("ct", ct)):
            if image.dim() != 5 or image.shape[1] != 1:
                raise InputError(f"{name}: expected shape (B, 1, D, H, W), got {tuple(image.shape)}; give one channel")
        if pet.shape != ct.shape:
            raise InputError(f"pet {tuple(pet.shape)} and ct {tuple(ct.shape)} differ: resample them to one grid")
        sides = tuple(pet.shape[2:])
        if any(side < STRIDE or side % STRIDE for side in sides):
            raise InputError(f"grid {sides}: each side must be divisible by {STRIDE}; pad or crop the images")
        if any(side > STRIDE for side in sides):
            return
        if self.settings.norm == "batch":
            if self.training and pet.shape[0] == 1:
                raise InputError(
                    f"grid {sides}: batch norm cannot train on one voxel; use a batch over 1 or a larger grid"
                )
        else:
            raise InputError(
                f"grid {sides}: {self.settings.norm} norm needs over one voxel at level 5; use a side of 32 or more"
            )


def _initialise_as_torch(model: nn.Module) -> None:
    """Draw every convolution and linear layer anew as PyTorch does by default."""
    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            nn.Conv3d.reset_parameters(module)
        elif isinstance(module, nn.Linear):
            nn.Linear.reset_parameters(module)


class _LeaveUninitialised(TorchFunctionMode):
    """Inside it, random initialisation leaves tensors as they were allocated and draws nothing."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in ("normal_", "uniform_", "kaiming_normal_", "kaiming_uniform_"):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def skeleton(settings: ModelSettings) -> AdaMSS:
    """A network for its names and shapes only: its weights are undefined; the state of the random numbers stays.

    Not on the device ``meta``: what initialises weights there takes a process more than a second to import.
    """
    with _LeaveUninitialised():
        return AdaMSS(settings)


def tensor_groups(settings: ModelSettings) -> dict[str, tuple[str, ...]]:
    """``parameter_groups`` of the network that ``settings`` make: no name depends on its width."""
    return dict(_tensor_groups(replace(settings, width=1, norm_groups=1)))


@lru_cache(maxsize=16)
def _tensor_groups(settings: ModelSettings) -> dict[str, tuple[str, ...]]:
    return parameter_groups(skeleton(settings))


def _check_settings(settings: ModelSettings) -> None:
    for name, least in (("width", 1), ("norm_groups", 1), ("bins", 1), ("tabular", 0)):
        if getattr(settings, name) < least:
            raise InputError(f"model.{name}: {getattr(settings, name)} is too small; use {least} or more")
    if not 0 <= settings.dropout < 1:
        raise InputError(f"model.dropout: {settings.dropout} is no probability under 1; use for example 0.5")
