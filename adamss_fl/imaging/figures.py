"""A few numbers that say what kind of image a patient has, to compare a new one with those a model was trained on."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from adamss_fl.imaging.settings import ImagingSettings

LEAST_DIFFERENCE: Mapping[str, float] = {
    "suv_p99": 2.0,
    "suv_mean": 0.5,
    "hu_mean": 40.0,
    "body_fraction": 0.15,
    "log10_tumour_ml": 0.7,
}
"""Every figure, with the difference from the trained mean under which it is never called unusual."""


def image_figures(image: NDArray[np.float32], settings: ImagingSettings) -> dict[str, float]:
    """Figures of one scaled image (2, D, H, W); without any body only ``body_fraction``.

    body_fraction : share of voxels whose CT lies above the window's low end (tissue, not air or padding).
    suv_p99, suv_mean : 99th percentile and mean of the PET in the body, in SUV as clipped by the settings.
    hu_mean : mean of the CT in the body, in HU as clipped by the settings.
    """
    body = image[1] > 0.0
    figures = {"body_fraction": float(body.mean())}
    if not body.any():
        return figures
    low, high = settings.ct_hu_window
    suv = image[0][body] * settings.pet_suv_max
    figures["suv_p99"] = float(np.percentile(suv, 99))
    figures["suv_mean"] = float(suv.mean(dtype=np.float64))
    figures["hu_mean"] = low + (high - low) * float(image[1][body].mean(dtype=np.float64))
    return figures


def tumour_figures(tumour_voxels: int, settings: ImagingSettings) -> dict[str, float]:
    """``log10_tumour_ml``, the logarithm of the primary tumour's volume in mL; empty where there is no tumour."""
    if not tumour_voxels:
        return {}
    return {"log10_tumour_ml": float(np.log10(tumour_voxels * np.prod(settings.spacing_mm) / 1000.0))}
