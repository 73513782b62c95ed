"""Segmentation of the primary tumour (GTVp) and the nodes (GTVn): the loss of stage I and overlap metrics."""

from adamss_fl.segmentation.by_patient import MaskSums, mask_sums
from adamss_fl.segmentation.losses import dice_focal_loss, focal_loss, soft_dice
from adamss_fl.segmentation.overlap import NothingToOverlap, OverlapCounts, aggregated_dsc, dsc, overlap
from adamss_fl.segmentation.surface import surface_distance_95

__all__ = [
    "MaskSums",
    "NothingToOverlap",
    "OverlapCounts",
    "aggregated_dsc",
    "dice_focal_loss",
    "dsc",
    "focal_loss",
    "mask_sums",
    "overlap",
    "soft_dice",
    "surface_distance_95",
]
