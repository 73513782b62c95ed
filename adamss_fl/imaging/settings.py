"""Settings of the imaging room."""

import math
from dataclasses import dataclass
from typing import Literal

GRID_DIVISOR = 16  # the encoder halves each side four times


@dataclass(frozen=True)
class ImagingSettings:
    """The grid every patient is resampled to, and the intensity scaling (0 is background in both channels).

    grid : voxels (D, H, W), each side divisible by 16.
    spacing_mm : (D, H, W) spacing of the grid in mm.
    centre : where the grid is centred: ``overlap`` is the centre of the space that PET and CT have in common;
        ``tumour`` the centre of the smallest box round tumour and nodes in the reference masks, and that of the overlap
        where a patient has no mask or an empty one. Masks are then needed in every patient the model is applied to.
    pet_suv_max : SUV that maps to 1; PET is clipped to [0, pet_suv_max] and divided by it.
    ct_hu_window : (low, high) HU; clipped to it and mapped to [0, 1], so that air and padding are 0.
    """

    grid: tuple[int, int, int] = (160, 160, 160)
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    centre: Literal["overlap", "tumour"] = "overlap"
    pet_suv_max: float = 20.0
    ct_hu_window: tuple[float, float] = (-250.0, 250.0)

    def __post_init__(self) -> None:
        """Refuse a grid that the network cannot halve four times, and scalings that divide by nothing."""
        if any(side <= 0 or side % GRID_DIVISOR for side in self.grid):
            raise ValueError(f"grid is {list(self.grid)}; each side must be a positive multiple of {GRID_DIVISOR}")
        if not all(math.isfinite(step) and step > 0 for step in self.spacing_mm):
            raise ValueError(f"spacing_mm is {list(self.spacing_mm)}; each must be above 0")
        if not (math.isfinite(self.pet_suv_max) and self.pet_suv_max > 0):
            raise ValueError(f"pet_suv_max is {self.pet_suv_max}; it must be above 0")
        low, high = self.ct_hu_window
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"ct_hu_window is {list(self.ct_hu_window)}; it must be (low, high) with low below high")
