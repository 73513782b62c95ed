"""Distance between the surfaces of a predicted and a reference mask, per patient, and summed over sites.

What a site's sums tell: how many of its patients have a distance and how many none, the distances' sum, and how many
lie in each bin. A site with one patient gives that patient's distance away, and few patients in narrow bins nearly do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adamss_fl import plain
from adamss_fl.errors import InputError

Array = NDArray[np.float64]

_FIELDS = ("undefined", "total_mm", "histogram")


def surface_distance_95(predicted: ArrayLike, reference: ArrayLike, spacing_mm: Sequence[float]) -> float | None:
    """Symmetric 95 % surface distance (HD95) in mm of two binary volumes (D, H, W); None where either is empty.

    A surface voxel is one of the mask with a neighbour outside, of its six, or at the volume's border. Of the distances
    from each surface voxel of one mask to the nearest of the other the 95 % percentile (linear between ranks) is taken,
    and the larger of both directions returned. An empty mask has no surface: a tumour that is missed, or one found
    where there is none, has no distance and is counted apart, so read it beside overlap.

    spacing_mm : (3,) voxel size along the arrays' axes. Raises InputError where shapes differ, a volume is not binary,
    or a spacing is not positive. Source: Huttenlocher et al., IEEE TPAMI 15:850 (1993), at a quantile.
    """
    masks = [np.asarray(mask) for mask in (predicted, reference)]
    if masks[0].shape != masks[1].shape or masks[0].ndim != 3:
        raise InputError(
            f"surface distance: predicted {masks[0].shape} and reference {masks[1].shape} must both be (D, H, W)"
        )
    if not all(((mask == 0) | (mask == 1)).all() for mask in masks):
        raise InputError("surface distance: a mask holds values other than 0 and 1; threshold it first")
    spacing = plain.floats(spacing_mm, (3,), "surface distance: spacing")
    if (spacing <= 0).any():
        raise InputError("surface distance: a spacing is not positive; give mm along D, H and W")
    first, second = (mask.astype(bool) for mask in masks)
    if not (first.any() and second.any()):
        return None
    box = _box_around(first | second)
    here, there = _surface(first[box]), _surface(second[box])
    return max(_directed(here, there, spacing), _directed(there, here, spacing))


def _box_around(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    found = np.nonzero(mask)
    return tuple(slice(int(along.min()), int(along.max()) + 1) for along in found)


def _surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy.ndimage import binary_erosion

    return np.asarray(mask & ~binary_erosion(mask))


def _directed(source: NDArray[np.bool_], target: NDArray[np.bool_], spacing_mm: Array) -> float:
    from scipy.ndimage import distance_transform_edt

    nearest = distance_transform_edt(~target, sampling=tuple(spacing_mm))
    return float(np.percentile(nearest[source], 95))


@dataclass(frozen=True)
class SurfaceDistanceSums:
    """Distances of one map over a site's patients; ``+`` adds sites.

    edges_mm : (B,) lower edges of bins, from 0, the last bin open above; the same at every site. histogram : (B,)
    patients per bin; total_mm : sum of the distances; undefined : patients without one, a mask being empty.
    """

    edges_mm: Array
    undefined: int
    total_mm: float
    histogram: NDArray[np.int64]

    def __add__(self, other: "SurfaceDistanceSums") -> "SurfaceDistanceSums":
        if not np.array_equal(self.edges_mm, other.edges_mm):
            raise InputError("surface distance sums: of other bins cannot be added; ask every site for the same")
        return SurfaceDistanceSums(
            self.edges_mm,
            self.undefined + other.undefined,
            self.total_mm + other.total_mm,
            self.histogram + other.histogram,
        )

    def plain(self) -> dict[str, Any]:
        """JSON-able values; the bins are the query's and do not travel back."""
        return {"undefined": self.undefined, "total_mm": self.total_mm, "histogram": self.histogram.tolist()}

    @classmethod
    def from_plain(cls, given: Any, edges_mm: ArrayLike, patients: int) -> "SurfaceDistanceSums":
        """The inverse of ``plain`` for the bins that were asked, of a site of at most ``patients``.

        Raises InputError for other keys or shapes, or sums that no such site can have.
        """
        edges = _check_edges(edges_mm)
        found = plain.record(given, _FIELDS, "surface distance sums")
        undefined = plain.floats(found["undefined"], (), "surface distance sums: undefined")
        total = float(plain.floats(found["total_mm"], (), "surface distance sums: total_mm"))
        counts = np.append(plain.floats(found["histogram"], edges.shape, "surface distance sums: histogram"), undefined)
        if counts.sum() > patients:
            raise InputError(f"surface distance sums: more than the {patients} patients of the site")
        whole = plain.counts(counts, counts.shape, "surface distance sums: patients")
        histogram = whole[:-1]
        least = float(histogram @ edges)
        most = np.inf if histogram[-1] else float(histogram[:-1] @ edges[1:])
        if not least * (1 - 1e-9) <= total <= most * (1 + 1e-9):
            raise InputError("surface distance sums: total_mm lies outside what the histogram allows")
        return cls(edges, int(whole[-1]), total, histogram)


@dataclass(frozen=True)
class SurfaceDistance:
    """Over all sites' patients with a distance: their mean, and bounds that hold the median; None without any patient.

    median_high_mm is None too where the median may lie in the last bin, which has no upper edge.
    """

    patients: int
    undefined: int
    mean_mm: float | None
    median_low_mm: float | None
    median_high_mm: float | None


def surface_distance_sums(distances_mm: Sequence[float | None], edges_mm: ArrayLike) -> SurfaceDistanceSums:
    """A site's sums of its patients' distances of one map, as ``surface_distance_95`` gives them.

    edges_mm : (B,) lower edges of bins, from 0. Raises InputError for a negative or infinite distance, or other edges.
    """
    edges = _check_edges(edges_mm)
    known = plain.floats([each for each in distances_mm if each is not None] or np.zeros(0), (None,), "distances")
    if (known < 0).any():
        raise InputError("surface distance sums: a distance is negative; give mm of 0 or more")
    histogram = np.bincount(np.searchsorted(edges, known, side="right") - 1, minlength=edges.size).astype(np.int64)
    return SurfaceDistanceSums(edges, len(distances_mm) - known.size, float(known.sum()), histogram)


def surface_distance(sums: SurfaceDistanceSums) -> SurfaceDistance:
    """Mean and bounds of the median (of an even number, the mean of the two in the middle) of all sites' patients."""
    patients = int(sums.histogram.sum())
    if patients == 0:
        return SurfaceDistance(0, sums.undefined, None, None, None)
    middle = np.array([(patients - 1) // 2, patients // 2])
    bins = np.searchsorted(np.cumsum(sums.histogram), middle, side="right")
    is_open = bins.max() == sums.edges_mm.size - 1
    return SurfaceDistance(
        patients=patients,
        undefined=sums.undefined,
        mean_mm=sums.total_mm / patients,
        median_low_mm=float(sums.edges_mm[bins].mean()),
        median_high_mm=None if is_open else float(sums.edges_mm[bins + 1].mean()),
    )


def _check_edges(edges_mm: ArrayLike) -> Array:
    edges = plain.floats(edges_mm, (None,), "surface distance bins")
    if edges.size == 0 or edges[0] != 0 or not (np.diff(edges) > 0).all():
        raise InputError("surface distance bins: edges must start at 0 mm and increase strictly; mend them")
    return edges
