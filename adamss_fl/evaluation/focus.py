"""Figures of one patient's focus maps: where the attention lies, how spread it is, and how far the gates open.

A patient's voxels are divided into five regions: primary tumour, nodes (where they are not tumour), the margin (body
within 10 mm of a lesion), the rest of the body, and air. Body is where the scaled CT is above 0, that is above the
lower end of the configured window, or where a lesion is. At a coarser level each cell belongs to a region by the
fraction of its voxels (average pooling), so that a region keeps its volume and a lesion smaller than a cell still
counts; max-pooling would make small nodes many times larger than they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adamss_fl.errors import InputError

Array = NDArray[np.float64]

REGIONS = ("tumour", "nodes", "margin", "body", "air")
"""Order of the regions' axis; ``body`` is the body outside lesions and margin."""

MARGIN_MM = 10.0
"""Width of the margin round the lesions."""

_BODY = REGIONS.index("air")
"""Regions before it make up the whole body."""

_BY_MASK = REGIONS.index("body")
"""Regions before it are not known where there is no reference mask."""


@dataclass(frozen=True)
class PatientFocus:
    """Figures of one patient under one model; NaN where a region is empty or the attention is 0 everywhere.

    share : (A, 5) part of a level's attention that lies in each region; volume : (A, 5) the region's part of the grid,
        which the share would be if attention were uniform.
    enrichment : (A, 5) mean attention in the region over mean attention in the body.
    spread : (A,) effective part of the body that holds the attention, see :func:`spread`.
    opening : (G, 5) mean gate opening (weight of the early-fusion stream against late concatenation) in each region;
        whole : (G,) its mean over the grid.
    """

    share: Array
    volume: Array
    enrichment: Array
    spread: Array
    opening: Array
    whole: Array


def measure(
    attention: Sequence[NDArray[Any]],
    opening: Sequence[NDArray[Any]],
    image: NDArray[Any],
    mask: NDArray[Any] | None,
    spacing_mm: Sequence[float],
) -> PatientFocus:
    """Figures of one patient.

    attention, opening : maps (d, h, w) of the A decoder levels and the G encoder levels, each side a divisor of the
    grid's. image : (2, D, H, W) PET and CT scaled to [0, 1]. mask : (2, D, H, W) reference tumour and nodes; None where
    it is not known: figures of lesions and margin are then NaN, and those of the body cover it all.
    spacing_mm : (D, H, W) of the grid.
    """
    regions = regions_of(image[1], np.zeros_like(image, dtype=bool) if mask is None else mask, spacing_mm)
    levels = [(np.asarray(level, np.float64), coarsen(regions, level.shape)) for level in attention]
    gates = [(np.asarray(level, np.float64), coarsen(regions, level.shape)) for level in opening]
    found = PatientFocus(
        share=np.stack([shares(level, parts) for level, parts in levels]),
        volume=np.stack([parts.mean(axis=(1, 2, 3)) for _, parts in levels]),
        enrichment=np.stack(
            [_divide(means(level, parts), means(level, body_of(parts)[None])) for level, parts in levels]
        ),
        spread=np.array([spread(level, body_of(parts)) for level, parts in levels]),
        opening=np.stack([means(level, parts) for level, parts in gates]),
        whole=np.array([level.mean() for level, _ in gates]),
    )
    if mask is None:
        for figures in (found.share, found.volume, found.enrichment, found.opening):
            figures[:, :_BY_MASK] = np.nan
    return found


def regions_of(ct: NDArray[Any], mask: NDArray[Any], spacing_mm: Sequence[float]) -> Array:
    """The five regions (5, D, H, W) of 0 and 1; every voxel is in exactly one.

    ct : (D, H, W) scaled to [0, 1]; mask : (2, D, H, W) tumour and nodes; where both are set the voxel is tumour.
    """
    from scipy.ndimage import distance_transform_edt

    tumour, nodes = np.asarray(mask[0]) > 0, np.asarray(mask[1]) > 0
    lesion, body = tumour | nodes, np.asarray(ct) > 0
    near = np.zeros_like(lesion)
    if lesion.any():
        near = distance_transform_edt(~lesion, sampling=tuple(spacing_mm)) <= MARGIN_MM
    parts = [tumour, nodes & ~tumour, body & near & ~lesion, body & ~near, ~body & ~lesion]
    return np.stack(parts).astype(np.float64)


def coarsen(regions: NDArray[Any], shape: Sequence[int]) -> Array:
    """Regions (R, D, H, W) as fractions of the cells of a grid of ``shape`` (d, h, w), by average pooling.

    Raises InputError where a side is no multiple of the coarse one.
    """
    count, *sides = regions.shape
    if len(shape) != len(sides) or any(small < 1 or side % small for side, small in zip(sides, shape, strict=True)):
        raise InputError(f"focus: a map of {tuple(shape)} does not divide the grid {tuple(sides)}; give whole cells")
    split = [number for side, small in zip(sides, shape, strict=True) for number in (small, side // small)]
    pooled: Array = np.asarray(regions, np.float64).reshape(count, *split).mean(axis=(2, 4, 6))
    return pooled


def body_of(regions: Array) -> Array:
    """Fraction of each cell that is body, lesions included: (5, d, h, w) -> (d, h, w)."""
    return np.asarray(regions[:_BODY].sum(axis=0))


def shares(attention: Array, regions: Array) -> Array:
    """(R,) part of the attention (d, h, w) in each region (R, d, h, w): sum(a * r) / sum(a); NaN where all a are 0."""
    return _divide((attention * regions).sum(axis=(1, 2, 3)), attention.sum())


def means(values: Array, regions: Array) -> Array:
    """(R,) mean of the values (d, h, w) in each region: sum(v * r) / sum(r); NaN where the region is empty."""
    return _divide((values * regions).sum(axis=(1, 2, 3)), regions.sum(axis=(1, 2, 3)))


def spread(attention: Array, body: Array) -> float:
    """Effective part of the body that holds the attention, in (0, 1]: exp(entropy) over the body's volume.

    With q_i = a_i b_i / sum(a b), the part of the body's attention in cell i, which holds b_i of body, this is
    exp(-sum q_i log(q_i / b_i)) / sum(b): 1 where the attention is uniform, v where it is uniform on a part v and 0
    elsewhere (the exponential of Shannon's entropy, Hill number of order 1: Hill, Ecology 54:427, 1973). A factor on
    the attention changes nothing, and no threshold is chosen. NaN where there is no attention in the body.
    """
    held = attention * body
    total = held.sum()
    if total <= 0:
        return float("nan")
    lit = held > 0
    part = held[lit] / total
    return float(np.exp(-(part * np.log(part / body[lit])).sum()) / body.sum())


def _divide(above: Any, below: Any) -> Array:
    a, b = np.broadcast_arrays(np.asarray(above, np.float64), np.asarray(below, np.float64))
    quotient: Array = np.divide(a, b, out=np.full(a.shape, np.nan), where=b > 0)
    return quotient
