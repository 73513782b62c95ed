"""Both initialisations, layer by layer and as a whole, against their closed forms."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from adamss_fl.model import AdaMSS, ModelSettings, architecture_hash, to_weights


def network(initialisation: str, width: int = 8) -> AdaMSS:
    torch.manual_seed(0)
    return AdaMSS(ModelSettings(width=width, initialisation=initialisation))  # type: ignore[arg-type]


def layers(model: nn.Module) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, weight and bias of every convolution and linear layer."""
    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv3d, nn.Linear)):
            assert module.bias is not None
            yield name, module.weight.detach(), module.bias.detach()


def root_mean_square(weight: Tensor) -> float:
    return float(weight.square().mean().sqrt())


def l2_term(model: AdaMSS) -> float:
    """0.1 * sum(W^2) over the survival head's two linear layers."""
    linear = [module for module in model.survival_head.modules() if isinstance(module, nn.Linear)]
    return 0.1 * sum(float(layer.weight.detach().double().square().sum()) for layer in linear)


def test_torch_draws_uniformly_within_one_over_root_fan_in() -> None:
    for name, weight, bias in layers(network("torch")):
        fan_in = weight[0].numel()
        values = torch.cat([weight.flatten(), bias])
        assert float(values.abs().max()) <= 1 / math.sqrt(fan_in), name
        # The standard error of a uniform sample's standard deviation is 0.45 of it over root n.
        sd = 1 / math.sqrt(3 * fan_in)
        assert float(weight.square().mean().sqrt()) == pytest.approx(sd, rel=4.5 * 0.45 / math.sqrt(weight.numel())), (
            name
        )


def test_he_draws_normally_with_zero_biases() -> None:
    for name, weight, bias in layers(network("he")):
        if name in ("segmentation_head.conv", "survival_head.output"):
            continue  # test_segmentation_start.py, test_network.py
        sd = math.sqrt(2 / weight[0].numel())
        assert float(weight.square().mean().sqrt()) == pytest.approx(sd, rel=4.5 * 0.71 / math.sqrt(weight.numel())), (
            name
        )
        assert not bias.any(), name


def test_spread_of_a_convolution_of_16_channels() -> None:
    """Against the figures that were read off the released network and off this one."""
    name = "encoder.gates.level1.late.conv.weight"
    assert float(network("torch").state_dict()[name].std()) == pytest.approx(0.0278, abs=1e-3)
    assert float(network("he").state_dict()[name].std()) == pytest.approx(0.0686, abs=2e-3)


def test_the_released_l2_term_at_the_start() -> None:
    """Closed form: a layer of n outputs has n / 3 (uniform) or 2 n (He-normal); the output of he has a sd of 0.01."""
    assert l2_term(network("torch")) == pytest.approx(0.1 * (128 / 3 + 10 / 3), rel=0.02)
    assert l2_term(network("he")) == pytest.approx(0.1 * (2 * 128 + 128 * 10 * 1e-4), rel=0.02)


def test_torch_starts_segmentation_at_one_half_and_gates_too() -> None:
    model = network("torch", width=2).train()
    output = model(*torch.rand(2, 2, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert output.segmentation is not None
    assert float(torch.sigmoid(output.segmentation.detach()).mean()) == pytest.approx(0.5, abs=0.2)
    assert torch.equal(output.gate_opening, torch.full((5,), 0.5))


def test_the_initialisation_is_no_part_of_the_architecture() -> None:
    he, as_torch = (ModelSettings(width=1, initialisation=kind) for kind in ("he", "torch"))  # type: ignore[arg-type]
    assert architecture_hash(he) == architecture_hash(as_torch)
    assert to_weights(AdaMSS(he)).keys() == to_weights(AdaMSS(as_torch)).keys()


def test_torch_too_depends_on_the_seed_only() -> None:
    first, second = (network("torch", width=1).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
