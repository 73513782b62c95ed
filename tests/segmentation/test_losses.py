"""The stage I loss against the formula in numpy, at its extremes, and where a mask is empty or missing."""

import numpy as np
import pytest
import torch

from adamss_fl.segmentation import dice_focal_loss, focal_loss, soft_dice


def _batch(seed=0, b=3):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(b, 2, 4, 4, 4, generator=g, dtype=torch.float64) * 3
    return logits, (torch.rand(b, 2, 4, 4, 4, generator=g) < 0.3).double()


def _published(logits, masks):
    """The formula written out voxel by voxel, with probabilities."""
    z, y = logits.numpy(), masks.numpy()
    p, total = 1 / (1 + np.exp(-z)), 0.0
    for b in range(z.shape[0]):
        for m in range(z.shape[1]):
            dice = 2 * (y[b, m] * p[b, m]).sum() / (y[b, m] + p[b, m]).sum()
            pt = np.where(y[b, m] == 1, p[b, m], 1 - p[b, m])
            alpha = np.where(y[b, m] == 1, 0.25, 0.75)
            total += -dice + (-alpha * (1 - pt) ** 2 * np.log(pt)).mean()
    return total / z.shape[0]


@pytest.mark.parametrize("seed", range(3))
def test_loss_equals_the_published_formula(seed):
    logits, masks = _batch(seed)
    assert dice_focal_loss(logits, masks).item() == pytest.approx(_published(logits, masks), abs=1e-10)


def test_gradient_equals_finite_differences():
    logits, masks = _batch(1, b=1)
    logits = logits[..., :2, :2, :2].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: dice_focal_loss(z, masks[..., :2, :2, :2]), (logits,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("logit", [-100.0, -1e-3, 0.0, 100.0])
@pytest.mark.parametrize("foreground", [0, 1])
def test_loss_and_gradient_are_finite_at_extreme_logits(dtype, logit, foreground):
    logits = torch.full((2, 2, 4, 4, 4), logit, dtype=dtype, requires_grad=True)
    loss = dice_focal_loss(logits, torch.full(logits.shape, foreground, dtype=torch.uint8))
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_perfect_prediction_reaches_the_minimum_of_minus_one_per_map():
    masks = torch.zeros(1, 2, 4, 4, 4)
    masks[..., :2] = 1
    assert dice_focal_loss((masks * 2 - 1) * 50, masks).item() == pytest.approx(-2.0, abs=1e-5)


def test_an_empty_map_has_no_dice_term_but_is_still_pushed_down():
    logits, masks = (x.float() for x in _batch(2, b=1))
    masks[:, 1] = 0
    logits.requires_grad_()
    assert soft_dice(logits, masks)[0, 1] == 0
    dice_focal_loss(logits, masks).backward()
    assert (logits.grad[:, 1] > 0).all()
    expected = torch.autograd.grad(focal_loss(logits, masks)[0, 1], logits)[0]
    assert torch.allclose(logits.grad[:, 1], expected[:, 1])


def test_a_sample_without_a_mask_contributes_nothing():
    logits, masks = _batch(3)
    logits.requires_grad_()
    has_mask = torch.tensor([True, False, True])
    loss = dice_focal_loss(logits, masks, has_mask)
    loss.backward()
    assert (logits.grad[1] == 0).all()
    assert (logits.grad[[0, 2]] != 0).any()
    assert loss.item() == pytest.approx(dice_focal_loss(logits[[0, 2]], masks[[0, 2]]).item() * 2 / 3)


def test_sites_weighted_by_patients_give_the_pooled_loss_even_with_empty_and_missing_masks():
    logits, masks = _batch(4, b=5)
    masks[3, 1] = 0
    has_mask = torch.tensor([True, False, True, True, True])
    pooled = dice_focal_loss(logits, masks, has_mask)
    parts = [dice_focal_loss(logits[s], masks[s], has_mask[s]) * n for s, n in ((slice(2), 2), (slice(2, 5), 3))]
    assert (sum(parts) / 5).item() == pytest.approx(pooled.item(), abs=1e-12)


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match="B, M, D, H, W"):
        dice_focal_loss(torch.zeros(1, 2, 4, 4, 4), torch.zeros(1, 1, 4, 4, 4))
