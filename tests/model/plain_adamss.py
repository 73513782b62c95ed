"""AdaMSS written out a second time, formula by formula as in the paper's figure, as an oracle for the fast network.

It reads a state dict by name and has no shortcut: the explicit two-way softmax of two convolutions, upsampling and
concatenation before every decoder block, batch statistics by their definition.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

State = Mapping[str, Tensor]
BLOCKS = {1: 2, 2: 3, 3: 3, 4: 4, 5: 4}
DECODER_BLOCKS = {4: 4, 3: 3, 2: 3, 1: 2}


def batch_norm(state: State, name: str, x: Tensor) -> Tensor:
    mean = x.mean((0, 2, 3, 4), keepdim=True)
    variance = ((x - mean) ** 2).mean((0, 2, 3, 4), keepdim=True)
    scale, shift = (state[f"{name}.{part}"].view(1, -1, 1, 1, 1) for part in ("weight", "bias"))
    return (x - mean) / torch.sqrt(variance + 1e-5) * scale + shift


def conv(state: State, name: str, x: Tensor) -> Tensor:
    weight = state[f"{name}.weight"]
    return functional.conv3d(x, weight, state[f"{name}.bias"], padding=weight.shape[-1] // 2)


def conv_block(state: State, name: str, x: Tensor) -> Tensor:
    return torch.relu(batch_norm(state, f"{name}.norm", conv(state, f"{name}.conv", x)))


def res_block(state: State, name: str, x: Tensor, n: int) -> Tensor:
    y = conv_block(state, f"{name}.convs.0", x) + conv_block(state, f"{name}.shortcut", x)
    for i in range(1, n):
        y = conv_block(state, f"{name}.convs.{i}", y) + y
    return y


def gate(state: State, name: str, fuse: Tensor, pet: Tensor, ct: Tensor) -> tuple[Tensor, Tensor]:
    late = conv_block(state, f"{name}.late", torch.cat((pet, ct), 1))
    both = torch.cat((fuse, late), 1)
    a, b = (
        functional.conv3d(both, state[f"{name}.contrast.weight_{k}"], state[f"{name}.contrast.bias_{k}"]) for k in "ab"
    )
    w_fuse, w_pc = torch.softmax(torch.stack((a, b)), 0)
    return w_fuse * fuse + w_pc * late, w_fuse.mean()


def attention(state: State, name: str, x: Tensor, g: Tensor) -> Tensor:
    deeper = batch_norm(state, f"{name}.norm_g", conv(state, f"{name}.conv_g", g))
    own = batch_norm(state, f"{name}.norm_x", conv(state, f"{name}.conv_x", x))
    joined = torch.relu(deeper + functional.avg_pool3d(own, 2))
    small = torch.sigmoid(batch_norm(state, f"{name}.norm_map", conv(state, f"{name}.conv_map", joined)))
    return x * functional.interpolate(small, scale_factor=2, mode="trilinear", align_corners=True)


def plain_adamss(state: State, pet: Tensor, ct: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(segmentation logits, survival logits without dropout and tabular vector, gate opening (5,)) in training mode."""
    fuse = torch.cat((pet, ct), 1)
    features: dict[int, Tensor] = {}
    openings: list[Tensor] = []
    for level, n in BLOCKS.items():
        if level > 1:
            pet, ct, fuse = (functional.max_pool3d(x, 2) for x in (pet, ct, features[level - 1]))
        pet = res_block(state, f"encoder.pet.level{level}", pet, n)
        ct = res_block(state, f"encoder.ct.level{level}", ct, n)
        fuse = res_block(state, f"encoder.fusion.level{level}", fuse, n)
        features[level], opening = gate(state, f"encoder.gates.level{level}", fuse, pet, ct)
        openings.append(opening)
    g = features[5]
    pooled: list[Tensor] = []
    for level, n in DECODER_BLOCKS.items():
        s = attention(state, f"decoder.level{level}.attention", features[level], g)
        up = functional.interpolate(g, scale_factor=2, mode="nearest")
        g = res_block(state, f"decoder.level{level}.block", torch.cat((s, up), 1), n)
        pooled.append(g.mean((2, 3, 4)))
    hidden = torch.relu(
        functional.linear(
            torch.cat(pooled, 1), state["survival_head.hidden.weight"], state["survival_head.hidden.bias"]
        )
    )
    survival = functional.linear(hidden, state["survival_head.output.weight"], state["survival_head.output.bias"])
    return conv(state, "segmentation_head.conv", g), survival, torch.stack(openings)
