"""What the network looks at: its attention maps and the opening of its fusion gates, voxel by voxel."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from adamss_fl.model.blocks import map_of_logits
from adamss_fl.model.decoder import CONVS_PER_LEVEL
from adamss_fl.model.encoder import LEVELS, level_name
from adamss_fl.model.network import AdaMSS

ATTENTION_LEVELS = tuple(CONVS_PER_LEVEL)
"""Decoder levels in the order of :attr:`FocusMaps.attention`: 4 (coarsest) to 1."""

GATE_LEVELS = tuple(range(1, LEVELS + 1))
"""Encoder levels in the order of :attr:`FocusMaps.gate_opening`: 1 (finest) to 5."""


@dataclass(frozen=True, eq=False)
class FocusMaps:
    """Maps of one forward pass, fp32; level i has 1 / 2^(i-1) of the input's resolution.

    attention : decoder levels 4 to 1, each (B,1,d,h,w) in [0, 1]: what multiplies the encoder's feature.
    gate_opening : encoder levels 1 to 5, each (B,1,d,h,w) in [0, 1]: mean over channels of the weight of the
        early-fusion stream against the late concatenation of the PET and CT streams. It does not weigh PET against CT.
    """

    attention: tuple[Tensor, ...]
    gate_opening: tuple[Tensor, ...]


@torch.no_grad()
def focus_maps(model: AdaMSS, pet: Tensor, ct: Tensor) -> FocusMaps:
    """Run the trunk of ``model``, in the mode (training or evaluation) that it is in, and read its maps.

    pet, ct : as for :meth:`AdaMSS.forward`. The maps are read by hooks that are gone when this returns or raises, so
    that a forward pass is the same before and after. Raises InputError where the images do not fit the network.
    """
    with _recording(model) as seen:
        model(pet, ct, heads=())
    return FocusMaps(
        attention=tuple(map_of_logits(seen[f"attention {level}"]).float() for level in ATTENTION_LEVELS),
        gate_opening=tuple(_opening(seen, level) for level in GATE_LEVELS),
    )


@contextmanager
def _recording(model: AdaMSS) -> Iterator[dict[str, Tensor]]:
    """Inside the block, every forward pass leaves the attention logits and the gates' weights by name and level."""
    seen: dict[str, Tensor] = {}
    handles = []
    try:
        for level in ATTENTION_LEVELS:
            norm = model.get_submodule(f"decoder.{level_name(level)}.attention.norm_map")
            handles.append(norm.register_forward_hook(_keep(seen, f"attention {level}")))
        for level in GATE_LEVELS:
            gate = model.get_submodule(f"encoder.gates.{level_name(level)}")
            handles.append(gate.register_forward_hook(_keep_mean(seen, f"mean {level}")))
            contrast = gate.get_submodule("contrast")
            handles.append(contrast.register_forward_hook(_keep_opening(seen, f"opening {level}")))
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _keep(seen: dict[str, Tensor], name: str) -> Any:
    def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        seen[name] = output

    return hook


def _keep_opening(seen: dict[str, Tensor], name: str) -> Any:
    def hook(_module: nn.Module, _inputs: Any, logits: Tensor) -> None:
        seen[name] = torch.sigmoid(logits).mean(1, keepdim=True, dtype=torch.float32)

    return hook


def _keep_mean(seen: dict[str, Tensor], name: str) -> Any:
    def hook(_module: nn.Module, _inputs: Any, output: tuple[Tensor, Tensor]) -> None:
        feature, mean = output
        seen[name] = mean.float().expand(feature.shape[0], 1, *feature.shape[2:])

    return hook


def _opening(seen: dict[str, Tensor], level: int) -> Tensor:
    """The weight by voxel, or, of a gate that is held at one weight and computes no contrast, that weight."""
    found = seen.get(f"opening {level}")
    return seen[f"mean {level}"] if found is None else found
