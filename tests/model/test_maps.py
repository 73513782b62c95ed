"""Focus maps: equal to the formulas written out, equal in mean to the model's own figure, and without a trace."""

import pytest
import torch
from plain_adamss import BLOCKS, DECODER_BLOCKS, State, batch_norm, conv, conv_block, res_block
from torch import Tensor
from torch.nn import functional

from adamss_fl.errors import InputError
from adamss_fl.model import AdaMSS, ModelSettings, autocast, focus_maps, prepare

SMALL = ModelSettings(width=1, bins=4, dropout=0.0)


def random_model(seed: int = 3) -> AdaMSS:
    torch.manual_seed(seed)
    model = AdaMSS(SMALL)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return model


def images(batch: int = 2, sides: tuple[int, int, int] = (32, 16, 48)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    pet, ct = (torch.rand(batch, 1, *sides, generator=generator) for _ in range(2))
    return pet, ct


def by_hand(state: State, pet: Tensor, ct: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Attention of levels 4 to 1 and opening of levels 1 to 5, from the formulas, in training mode."""
    features: dict[int, Tensor] = {}
    openings, attentions = [], []
    fuse = torch.cat((pet, ct), 1)
    for level, n in BLOCKS.items():
        if level > 1:
            pet, ct, fuse = (functional.max_pool3d(x, 2) for x in (pet, ct, features[level - 1]))
        pet = res_block(state, f"encoder.pet.level{level}", pet, n)
        ct = res_block(state, f"encoder.ct.level{level}", ct, n)
        fuse = res_block(state, f"encoder.fusion.level{level}", fuse, n)
        gate = f"encoder.gates.level{level}"
        late = conv_block(state, f"{gate}.late", torch.cat((pet, ct), 1))
        a, b = (
            functional.conv3d(
                torch.cat((fuse, late), 1), state[f"{gate}.contrast.weight_{k}"], state[f"{gate}.contrast.bias_{k}"]
            )
            for k in "ab"
        )
        weight = a.exp() / (a.exp() + b.exp())
        openings.append(weight.mean(1, keepdim=True))
        features[level] = weight * fuse + (1 - weight) * late
    g = features[5]
    for level, n in DECODER_BLOCKS.items():
        name, x = f"decoder.level{level}.attention", features[level]
        deeper = batch_norm(state, f"{name}.norm_g", conv(state, f"{name}.conv_g", g))
        own = batch_norm(state, f"{name}.norm_x", conv(state, f"{name}.conv_x", x))
        joined = torch.relu(deeper + functional.avg_pool3d(own, 2))
        small = torch.sigmoid(batch_norm(state, f"{name}.norm_map", conv(state, f"{name}.conv_map", joined)))
        attention = functional.interpolate(small, scale_factor=2, mode="trilinear", align_corners=True)
        attentions.append(attention)
        up = functional.interpolate(g, scale_factor=2, mode="nearest")
        g = res_block(state, f"decoder.level{level}.block", torch.cat((x * attention, up), 1), n)
    return attentions, openings


@torch.no_grad()
def test_maps_equal_the_formulas_written_out() -> None:
    model = random_model().double()
    pet, ct = (image.double() for image in images())
    state = {name: value.clone() for name, value in model.state_dict().items()}
    found = focus_maps(model, pet, ct)
    attentions, openings = by_hand(state, pet, ct)
    assert [tuple(m.shape[2:]) for m in found.attention] == [(4, 2, 6), (8, 4, 12), (16, 8, 24), (32, 16, 48)]
    assert [m.shape[2] for m in found.gate_opening] == [32, 16, 8, 4, 2]
    for mine, plain in zip((*found.attention, *found.gate_opening), (*attentions, *openings), strict=True):
        assert plain.std() > 1e-3  # else a constant would pass
        torch.testing.assert_close(mine, plain.float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@torch.no_grad()
def test_mean_of_the_opening_map_is_the_models_own_figure(precision: str) -> None:
    model = prepare(random_model(), channels_last=True).eval()
    pet, ct = images()
    with autocast("cpu", precision):  # type: ignore[arg-type]
        found, opening = focus_maps(model, pet, ct), model(pet, ct).gate_opening
    means = torch.stack([level.mean() for level in found.gate_opening])
    torch.testing.assert_close(means, opening, rtol=0, atol=1e-6 if precision == "fp32" else 1e-4)


def hooks(model: AdaMSS) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@torch.no_grad()
def test_the_forward_pass_is_bit_for_bit_the_same_before_and_after() -> None:
    model = random_model().eval()
    pet, ct = images()
    before = model(pet, ct)
    first, second = focus_maps(model, pet, ct), focus_maps(model, pet, ct)
    after = model(pet, ct)
    assert torch.equal(before.segmentation, after.segmentation)
    assert torch.equal(before.survival, after.survival)
    assert all(torch.equal(a, b) for a, b in zip(first.attention, second.attention, strict=True))
    assert hooks(model) == 0


def test_hooks_are_removed_where_the_pass_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model().eval()
    pet, ct = images()
    with pytest.raises(InputError, match="divisible by 16"):
        focus_maps(model, pet[..., :10], ct[..., :10])
    assert hooks(model) == 0

    def fail(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(model.decoder.level1.block, "with_upsampled", fail)  # deep in the pass, after most hooks ran
    with pytest.raises(RuntimeError, match="out of memory"):
        focus_maps(model, pet, ct)
    assert hooks(model) == 0


def test_maps_carry_no_gradient_and_leave_the_mode_alone() -> None:
    model = random_model().train()
    found = focus_maps(model, *images())
    assert model.training
    assert not any(level.requires_grad for level in (*found.attention, *found.gate_opening))


@torch.no_grad()
def test_a_gate_held_at_one_weight_gives_that_weight_everywhere() -> None:
    model = random_model().eval()
    for gate in model.encoder.gates.values():
        gate.forward = lambda fuse, pet, ct: (0.25 * fuse, torch.tensor(0.25))  # type: ignore[method-assign]
    found = focus_maps(model, *images())
    assert all(torch.equal(level, torch.full_like(level, 0.25)) for level in found.gate_opening)
    assert found.gate_opening[4].shape == (2, 1, 2, 1, 3)
