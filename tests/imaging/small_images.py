"""Small images on disk, and shapes to put into them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from adamss_fl.cohort import Cohort

MakeCohort = Callable[..., Cohort]


def write_image(path: Path, voxels: Any, spacing: Sequence[float], origin: Sequence[float] = (0, 0, 0)) -> Path:
    """Write (D, H, W) voxels with spacing and origin in (x, y, z) mm."""
    image = sitk.GetImageFromArray(np.asarray(voxels))
    image.SetSpacing(list(spacing))
    image.SetOrigin(list(origin))
    sitk.WriteImage(image, str(path))
    return path


def ball(shape: Sequence[int], radius: float) -> np.ndarray:
    """A centred ball of ones in a volume of zeros; radius in voxels."""
    axes = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in shape), indexing="ij")
    return (sum(a**2 for a in axes) <= radius**2).astype(np.float32)
