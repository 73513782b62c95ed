"""Small PET/CT volumes with a lump in them, for tests of radiomics features."""

import numpy as np
from numpy.typing import NDArray

from adamss_fl.imaging import ImagingSettings

SIDE = 32
SPACING_MM = (3.0, 2.0, 1.5)
IMAGING = ImagingSettings(grid=(SIDE, SIDE, SIDE), spacing_mm=SPACING_MM)


def lump(
    seed: int = 0, radius: float = 5.0, side: int = SIDE
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """(SUV, HU, mask), each (D, H, W); the lump is no sphere and lies off the centre."""
    rng = np.random.default_rng(seed)
    z, y, x = np.indices((side, side, side)) - side / 2
    distance = np.sqrt((z - 2) ** 2 + 1.3 * (y + 1) ** 2 + 0.8 * x**2) + rng.normal(0, 0.3, (side, side, side))
    mask = distance < radius
    suv = rng.gamma(2.0, 0.7, mask.shape) + 7.0 * np.exp(-distance / radius)
    hu = rng.normal(30.0, 35.0, mask.shape) + 20.0 * mask
    return np.clip(suv, 0, 20), np.clip(hu, -250, 250), mask


def scaled(suv: NDArray[np.float64], hu: NDArray[np.float64]) -> NDArray[np.float32]:
    """The image (2, D, H, W) that the imaging room would make of them."""
    low, high = IMAGING.ct_hu_window
    return np.stack([suv / IMAGING.pet_suv_max, (hu - low) / (high - low)]).astype(np.float32)
