"""From maps on a model's grid back to the scanner's own voxels, and to the place of the tumour in the patient."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adamss_fl.imaging.volumes import Image, box_round, simpleitk

TUMOUR_LABEL, NODES_LABEL = 1, 2
"""Labels of a written mask, as in HECKTOR's own."""

SMALLEST_SHARE = 0.1
"""A connected piece smaller than this share of the largest one does not move the box."""

LARGEST_LOGIT = 6.0
"""Logits are clipped to it before they are interpolated: what is certain must not outweigh the border beside it."""

_OUTSIDE = -100.0


def as_image(array: NDArray[Any], grid: Image) -> Image:
    """An array (D, H, W) as an image in the geometry of ``grid``."""
    image = simpleitk().GetImageFromArray(array)
    image.CopyInformation(grid)
    return image


def label_map(
    box: NDArray[np.float32],
    box_grid: Image,
    native: Image,
    wide: NDArray[np.float32] | None = None,
    wide_grid: Image | None = None,
) -> NDArray[np.uint8]:
    """Labels (D, H, W) in the geometry of ``native``: 1 tumour, 2 nodes, 0 neither.

    box : (2, D, H, W) probabilities on ``box_grid``. wide : the same on ``wide_grid``, used outside the box.

    Maps, not labels, are resampled, as logits: in the box by cubic splines, since linear interpolation shrinks whatever
    is convex, and outside it linearly. A voxel is labelled where the larger of the two is above 0.5; equal ones go to
    the tumour.
    """
    tumour, nodes = (_logit(box, box_grid, native, wide, wide_grid, channel) for channel in (0, 1))
    labels = np.zeros(tumour.shape, dtype=np.uint8)
    labels[(tumour > 0) & (tumour >= nodes)] = TUMOUR_LABEL
    labels[(nodes > 0) & (nodes > tumour)] = NODES_LABEL
    return labels


def centre_of_findings(probabilities: NDArray[np.float32], grid: Image) -> tuple[float, ...] | None:
    """Centre (x, y, z) in mm of the smallest box round tumour and nodes in (2, D, H, W) probabilities; None without.

    Pieces (26-connected) under a tenth of the largest one are passed over, so that a stray one does not move the box.
    """
    sitk = simpleitk()
    found = (probabilities > 0.5).any(axis=0)
    if not found.any():
        return None
    pieces = sitk.GetArrayFromImage(sitk.ConnectedComponent(sitk.GetImageFromArray(found.astype(np.uint8)), True))
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    large = np.isin(pieces, np.flatnonzero(sizes >= SMALLEST_SHARE * sizes.max()))
    box = box_round(as_image(large.astype(np.uint8), grid))
    return None if box is None else box.centre


def _logit(
    box: NDArray[np.float32],
    box_grid: Image,
    native: Image,
    wide: NDArray[np.float32] | None,
    wide_grid: Image | None,
    channel: int,
) -> NDArray[np.float32]:
    sitk = simpleitk()

    def moved(probability: NDArray[np.float32], grid: Image, interpolator: int) -> NDArray[np.float32]:
        image = as_image(_clipped_logit(probability), grid)
        there = sitk.Resample(image, native, sitk.Transform(), interpolator, _OUTSIDE, sitk.sitkFloat32)
        return np.asarray(sitk.GetArrayFromImage(there))

    inner = moved(box[channel], box_grid, sitk.sitkBSpline3)
    if wide is None or wide_grid is None:
        return inner
    return np.asarray(np.where(inner == _OUTSIDE, moved(wide[channel], wide_grid, sitk.sitkLinear), inner))


def _clipped_logit(probability: NDArray[np.float32]) -> NDArray[np.float32]:
    least = 1.0 / (1.0 + np.exp(LARGEST_LOGIT))
    clipped = np.clip(probability.astype(np.float64), least, 1.0 - least)
    return np.asarray(np.log(clipped / (1.0 - clipped)), dtype=np.float32)


def spacing_dhw(image: Image) -> tuple[float, float, float]:
    """Voxel spacing (D, H, W) in mm."""
    spacing: Sequence[float] = image.GetSpacing()
    return float(spacing[2]), float(spacing[1]), float(spacing[0])
