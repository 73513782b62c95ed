"""The loss of stage I: soft Dice and focal loss, on logits."""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

_EPS = 1e-6


def dice_focal_loss(logits: Tensor, masks: Tensor, has_mask: Tensor | None = None) -> Tensor:
    """-softDice + focal, summed over the maps (tumour, nodes) and averaged over the batch.

    logits : (B, M, D, H, W), any float type; 16-bit logits are taken to float32 first.
    masks : (B, M, D, H, W) reference of 0 and 1, any type.
    has_mask : (B,) bool, False where a patient was never contoured; None means that all were.

    A map that is empty in a contoured sample has no Dice term (its Dice is 0 whatever is predicted and its gradient
    vanishes); the focal term still pushes its prediction down. A sample without a mask contributes nothing. Both still
    count in the batch size that is divided by, so that the mean over sites weighted by patients is the pooled mean.

    Returns a scalar, finite for finite logits. Raises ValueError where shapes differ.
    Source: Meng et al., npj Precision Oncology 8:232 (2024); focal loss with alpha 0.25 and gamma 2 of Lin et al.,
    ICCV 2017.
    """
    if logits.shape != masks.shape or logits.ndim != 5:
        raise ValueError(f"logits {tuple(logits.shape)} and masks {tuple(masks.shape)} must both be (B, M, D, H, W)")
    z = logits if logits.dtype == torch.float64 else logits.float()
    y = masks.to(z)
    per_map = focal_loss(z, y) - soft_dice(z, y)
    if has_mask is not None:
        if has_mask.shape != logits.shape[:1]:
            raise ValueError(f"has_mask {tuple(has_mask.shape)} must be ({logits.shape[0]},)")
        per_map = per_map * has_mask.to(z)[:, None]
    return per_map.sum(dim=1).mean()


def soft_dice(logits: Tensor, masks: Tensor) -> Tensor:
    """2 sum(y p) / sum(y + p) per sample and map, (B, M, D, H, W) -> (B, M); exactly 0 where the reference is empty."""
    p = torch.sigmoid(logits)
    dims = (2, 3, 4)
    return 2 * (masks * p).sum(dims) / (masks.sum(dims) + p.sum(dims)).clamp_min(_EPS)


def focal_loss(logits: Tensor, masks: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """-alpha_t (1 - p_t)^gamma log p_t, mean over voxels per sample and map: (B, M, D, H, W) -> (B, M).

    p_t is the probability given to the true class and alpha_t is ``alpha`` on foreground, 1 - ``alpha`` on background.
    """
    cross_entropy = binary_cross_entropy_with_logits(logits, masks, reduction="none")
    missed = torch.sigmoid(logits * (1 - 2 * masks))
    weight = 1 - alpha + (2 * alpha - 1) * masks
    return (weight * missed.pow(gamma) * cross_entropy).mean((2, 3, 4))
