"""The published network has exactly the published numbers of parameters (METHOD 1)."""

import pytest
import torch

from adamss_fl.model import GROUPS, AdaMSS, ModelSettings, count_parameters


@pytest.fixture(scope="module")
def published() -> AdaMSS:
    with torch.device("meta"):
        return AdaMSS(ModelSettings())


@pytest.mark.parametrize(
    ("groups", "published_count"),
    [
        (("pet_encoder",), 2_038_120),
        (("ct_encoder",), 2_038_120),
        (("fusion_encoder", "fusion_gates"), 10_854_080),
        (("decoder", "segmentation_head"), 3_508_558),
        (("decoder", "survival_head"), 3_540_662),
        (tuple(g for g in GROUPS if g != "survival_head"), 18_438_878),
        (tuple(g for g in GROUPS if g != "segmentation_head"), 18_470_982),
        (("norm_statistics",), 0),
    ],
)
def test_counts_are_the_published_ones(published: AdaMSS, groups: tuple[str, ...], published_count: int) -> None:
    assert count_parameters(published, groups) == published_count


def test_gate_convolutions_have_the_published_counts_per_level(published: AdaMSS) -> None:
    counts = [
        sum(p.numel() for p in published.encoder.gates[f"level{level}"].contrast.parameters()) for level in range(1, 6)
    ]
    assert counts == [1_056, 4_160, 16_512, 65_792, 262_656]


def test_idle_biases_before_a_norm_are_6756(published: AdaMSS) -> None:
    before_norm = [
        module.bias.numel()
        for name, module in published.named_modules()
        if isinstance(module, torch.nn.Conv3d) and not name.startswith("segmentation_head")
    ]
    assert sum(before_norm) == 6_756


def test_tabular_vector_adds_one_row_of_weights_each() -> None:
    with torch.device("meta"):
        without, with_seven = AdaMSS(ModelSettings(width=1)), AdaMSS(ModelSettings(width=1, tabular=7))
    assert count_parameters(with_seven) - count_parameters(without) == 7 * 128
