"""Figures of a model that a site has applied to a split: sums and means over patients, as its reply holds them."""

from typing import Any

import numpy as np

from adamss_fl.segmentation import mask_sums
from adamss_fl.training import Inference


def by_patient(seen: Inference, masked: np.ndarray) -> dict[str, Any]:
    """``by_patient``: sums over the patients with a reference; empty where distances were not asked for.

    masked : (N,) bool, the patients with a reference.
    """
    if seen.surface_mm is None or not masked.any():
        return {}
    both = [mask_sums(seen.overlap[masked, each], seen.surface_mm[masked, each]) for each in range(2)]
    return {"by_patient": [sums.plain() for sums in both]}


def losses(seen: Inference) -> dict[str, float]:
    """Mean losses over samples, without those that there are not."""
    pairs = {"loss.segmentation": seen.loss_segmentation, "loss.survival": seen.loss_survival}
    return {name: value for name, value in pairs.items() if value is not None}
