"""Segmentation of the primary tumour (GTVp) and the nodes (GTVn): the loss of stage I and overlap metrics."""

from adamss_fl.segmentation.losses import dice_focal_loss, focal_loss, soft_dice
from adamss_fl.segmentation.overlap import NothingToOverlap, OverlapCounts, aggregated_dsc, dsc, overlap

__all__ = [
    "NothingToOverlap",
    "OverlapCounts",
    "aggregated_dsc",
    "dice_focal_loss",
    "dsc",
    "focal_loss",
    "overlap",
    "soft_dice",
]
