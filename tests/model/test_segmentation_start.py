"""The segmentation head starts near the prior of Lin et al. (ICCV 2017): foreground with probability 0.01."""

import math

import pytest
import torch
from torch import Tensor

from adamss_fl.model import AdaMSS, ModelSettings
from adamss_fl.model.heads import FOREGROUND_PRIOR, SegmentationHead

LOW, HIGH = 0.012, 0.015
"""Bounds of each map's mean probability over a batch."""


def images(kind: str, seed: int, side: int = 32) -> tuple[Tensor, Tensor]:
    """PET and CT (2,1,side,side,side): a body with a hot ball in empty space, or noise everywhere."""
    draws = torch.Generator().manual_seed(seed)
    noise = torch.rand(2, 2, 1, side, side, side, generator=draws)
    if kind == "noise":
        return noise[0], noise[1]
    axes = torch.meshgrid(*(torch.arange(float(side)),) * 3, indexing="ij")
    body = ((axes[1] - side / 2) ** 2 + (axes[2] - side / 2) ** 2 < (0.35 * side) ** 2).float()
    centres = side * (0.35 + 0.3 * torch.rand(2, 3, generator=draws))
    ball = torch.stack([sum((x - c) ** 2 for x, c in zip(axes, centre, strict=True)) < 9.0 for centre in centres])  # type: ignore[misc]
    tumour = ball.float()[:, None]
    return (0.05 * body + 0.5 * tumour) * (0.7 + 0.6 * noise[0]), (0.5 * body + 0.05 * tumour) * (0.8 + 0.4 * noise[1])


def learn_statistics(model: AdaMSS, pet: Tensor, ct: Tensor) -> None:
    """Running statistics as they are after long training at rest: those of the batch."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.momentum = 1.0
    model.train()(pet, ct, heads=())


@pytest.mark.parametrize("kind", ["phantom", "noise"])
@pytest.mark.parametrize(("width", "seeds"), [(2, range(6)), (8, range(2))])
@torch.no_grad()
def test_every_map_starts_near_the_prior(width: int, seeds: range, kind: str) -> None:
    for seed in seeds:
        torch.manual_seed(seed)
        model = AdaMSS(ModelSettings(width=width))
        pet, ct = images(kind, seed)
        learn_statistics(model, pet, ct)
        for training in (True, False):
            logits = model.train(training)(pet, ct, heads=("segmentation",)).segmentation
            assert logits is not None
            mean = torch.sigmoid(logits).mean((0, 2, 3, 4))
            assert float(mean.min()) >= LOW, (seed, training, mean)
            assert float(mean.max()) <= HIGH, (seed, training, mean)
            # Voxels differ, and no voxel starts as foreground.
            assert float(logits.std((0, 2, 3, 4)).min()) > 0.05
            assert float(logits.max()) < 0.0


@pytest.mark.parametrize("norm", ["instance", "group"])
@torch.no_grad()
def test_other_norms_start_near_the_prior_too(norm: str) -> None:
    torch.manual_seed(0)
    model = AdaMSS(ModelSettings(width=2, norm=norm)).train()  # type: ignore[arg-type]
    logits = model(*images("phantom", 0), heads=("segmentation",)).segmentation
    assert logits is not None
    mean = torch.sigmoid(logits).mean((0, 2, 3, 4))
    assert LOW <= float(mean.min()) <= float(mean.max()) <= HIGH


@pytest.mark.parametrize("width", [1, 2, 8, 16])
def test_nothing_seen_gives_exactly_the_prior(width: int) -> None:
    head = SegmentationHead(ModelSettings(width=width))
    found = torch.sigmoid(head(torch.zeros(1, 2 * width, 2, 2, 2)))
    torch.testing.assert_close(found, torch.full_like(found, FOREGROUND_PRIOR))


@pytest.mark.parametrize("width", [1, 2, 8, 16])
def test_features_of_their_largest_mean_raise_the_logit_by_at_most_three_eighths(width: int) -> None:
    """Closed form: three ReLUs of mean 1/2, which is the most that variance 1 allows, times weights that sum to 1/4."""
    torch.manual_seed(width)
    head = SegmentationHead(ModelSettings(width=width))
    assert float(head.conv.weight.detach().min()) >= 0
    logits = head(torch.full((1, 2 * width, 1, 1, 1), 1.5)).flatten()
    expected = math.log(0.01 / 0.99) + 0.375
    torch.testing.assert_close(logits, torch.full_like(logits, expected))
