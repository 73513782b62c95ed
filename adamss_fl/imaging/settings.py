"""Settings of the imaging room."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ImagingSettings:
    """The grid every patient is resampled to, and the intensity scaling (0 is background in both channels).

    grid : voxels (D, H, W), each side divisible by 16.
    spacing_mm : (D, H, W) spacing of the grid in mm.
    pet_suv_max : SUV that maps to 1; PET is clipped to [0, pet_suv_max] and divided by it.
    ct_hu_window : (low, high) HU; clipped to it and mapped to [0, 1], so that air and padding are 0.
    """

    grid: tuple[int, int, int] = (160, 160, 160)
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    pet_suv_max: float = 20.0
    ct_hu_window: tuple[float, float] = (-250.0, 250.0)
