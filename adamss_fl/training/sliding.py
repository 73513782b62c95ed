"""Segmentation of a volume of any size, window by window, with weights that trust a window's middle most."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from adamss_fl.model import autocast
from adamss_fl.training.settings import RuntimeSettings
from adamss_fl.training.stage import as_inputs
from adamss_fl.training.tensors import device_of

SIGMA = 1 / 8
"""Standard deviation of the Gaussian importance, relative to the window's side (Isensee et al., Nat Methods 2021)."""


@torch.inference_mode()
def sliding_window(
    model: Callable[..., Any],
    image: NDArray[np.float32],
    window: tuple[int, int, int],
    runtime: RuntimeSettings,
    *,
    overlap: float = 0.5,
    on_window: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Probabilities (2, D, H, W) float32 of tumour and nodes in a volume of any size.

    model : an AdaMSS in evaluation mode, called as ``model(pet, ct, heads=("segmentation",))``.
    image : (2, D, H, W) PET and CT, scaled; read window by window, so it may be memory-mapped.
    window : sides (D, H, W) of a window, each divisible by 16. overlap : share of a window that the next one covers.
    on_window : called with (windows done, windows in all).

    A side shorter than the window's is padded with 0 (background) on both ends. Windows are spread evenly, the first
    and last flush with the volume, and one is in memory at a time: besides the image there is one array of the result's
    size, since the weights are products of three one-dimensional ones. A volume of one window gives the plain forward
    pass. Raises ValueError for an overlap outside [0, 1) and for a volume that is not (2, D, H, W).
    """
    if not 0.0 <= overlap < 1.0:
        raise ValueError(f"overlap is {overlap}; it must lie in [0, 1)")
    if image.ndim != 4 or image.shape[0] != 2 or not image.size:
        raise ValueError(f"image is {image.shape}; it must be (2, D, H, W) with PET and CT")
    device = device_of(runtime)
    sides = image.shape[1:]
    starts = [_starts(side, width, overlap) for side, width in zip(sides, window, strict=True)]
    profiles = [_profile(width) for width in window]
    result = np.zeros((2, *sides), dtype=np.float32)
    corners = list(itertools.product(*starts))
    for done, corner in enumerate(corners, 1):
        inside = [_common(start, width, side) for start, width, side in zip(corner, window, sides, strict=True)]
        volume = (slice(None), *(each[0] for each in inside))
        part = (slice(None), *(each[1] for each in inside))
        block = np.zeros((2, *window), dtype=np.float32)
        block[part] = image[volume]
        with autocast(device, runtime.precision):
            output = model(*as_inputs(torch.from_numpy(block)[None].to(device), runtime), heads=("segmentation",))
        found = torch.sigmoid(output.segmentation[0].float()).cpu().numpy()[part]
        if len(corners) == 1:
            result[volume] = found
        else:
            z, y, x = (profile[each[1]] for profile, each in zip(profiles, inside, strict=True))
            result[volume] += found * z[:, None, None] * y[:, None] * x
        if on_window is not None:
            on_window(done, len(corners))
    if len(corners) > 1:
        for axis in range(3):
            total = _total(starts[axis], profiles[axis], sides[axis])
            result /= total.reshape([-1 if place == axis else 1 for place in range(3)])
    return result


def _starts(side: int, width: int, overlap: float) -> list[int]:
    """First voxels of the windows along one axis; below 0 where the window is wider than the volume."""
    if side <= width:
        return [-((width - side) // 2)]
    steps = math.ceil((side - width) / max(width * (1.0 - overlap), 1.0))
    return [round(step * (side - width) / steps) for step in range(steps + 1)]


def _profile(width: int) -> NDArray[np.float32]:
    place = np.arange(width) - (width - 1) / 2
    return np.asarray(np.exp(-0.5 * (place / (SIGMA * width)) ** 2), dtype=np.float32)


def _common(start: int, width: int, side: int) -> tuple[slice, slice]:
    """What a window covers of the volume: as voxels of the volume, and of the window."""
    low, high = max(start, 0), min(start + width, side)
    return slice(low, high), slice(low - start, high - start)


def _total(starts: list[int], profile: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Sum of the weights of all windows along one axis; the sum in the volume is the product of the three axes'."""
    total = np.zeros(side, dtype=np.float32)
    for start in starts:
        volume, window = _common(start, len(profile), side)
        total[volume] += profile[window]
    return total
