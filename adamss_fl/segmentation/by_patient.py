"""Agreement of masks patient by patient: mean DSC and mean surface distance (HD95) of one map, as sums over sites.

Aggregated DSC weighs a patient by the voxels of the tumour; these weigh every patient alike. What a site's sums tell is
two means over its patients with a reference mask, and how many of them each stands on.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from adamss_fl import plain
from adamss_fl.errors import InputError
from adamss_fl.segmentation.surface import SurfaceDistanceSums, surface_distance, surface_distance_sums

_FIELDS = ("patients", "dsc_total", "surface")
ONE_BIN = (0.0,)
"""Surface distances travel as their sum and number alone, without a histogram."""


@dataclass(frozen=True)
class MaskSums:
    """One map over a site's patients; ``+`` adds sites.

    patients : those with a voxel in reference or prediction; dsc_total : sum of their DSC (0 for one missed, or found
    where there is none); surface : their surface distances.
    """

    patients: int
    dsc_total: float
    surface: SurfaceDistanceSums

    def __add__(self, other: "MaskSums") -> "MaskSums":
        return MaskSums(self.patients + other.patients, self.dsc_total + other.dsc_total, self.surface + other.surface)

    def plain(self) -> dict[str, Any]:
        """JSON-able values."""
        return {"patients": self.patients, "dsc_total": self.dsc_total, "surface": self.surface.plain()}

    @classmethod
    def from_plain(cls, given: Any, patients: int) -> "MaskSums":
        """The inverse of ``plain`` for a site of at most ``patients``; raises InputError for what no site can have."""
        found = plain.record(given, _FIELDS, "mask sums")
        told = int(plain.counts(found["patients"], (), "mask sums: patients"))
        total = float(plain.floats(found["dsc_total"], (), "mask sums: dsc_total"))
        if told > patients or not 0 <= total <= told * (1 + 1e-9):
            raise InputError("mask sums: more patients than the site has, or a DSC outside 0 to 1")
        return cls(told, total, SurfaceDistanceSums.from_plain(found["surface"], ONE_BIN, patients))

    def means(self) -> dict[str, float | int | None]:
        """``dsc_mean`` over ``patients`` and ``hd95_mean_mm`` over ``hd95_patients``, None where there is nobody."""
        distance = surface_distance(self.surface)
        return {
            "dsc_mean": self.dsc_total / self.patients if self.patients else None,
            "patients": self.patients,
            "hd95_mean_mm": distance.mean_mm,
            "hd95_patients": distance.patients,
        }


def mask_sums(overlap: ArrayLike, surface_mm: ArrayLike) -> MaskSums:
    """A site's sums of one map.

    overlap : (N, 3) voxels in intersection, prediction and reference of each patient; surface_mm : (N,) distances as
    ``surface_distance_95`` gives them, NaN where there is none. Patients without a voxel in either mask count nowhere.
    Raises InputError where the two do not fit together.
    """
    counts, distances = np.asarray(overlap, dtype=np.float64), np.asarray(surface_mm, dtype=np.float64)
    if counts.ndim != 2 or counts.shape != (distances.size, 3):
        raise InputError(f"mask sums: overlap {counts.shape} for {distances.size} distances; give (N, 3) and (N,)")
    size = counts[:, 1] + counts[:, 2]
    held = size > 0
    known = [None if np.isnan(each) else float(each) for each in distances[held]]
    dsc = 2 * counts[held, 0] / size[held]
    return MaskSums(int(held.sum()), float(dsc.sum()), surface_distance_sums(known, ONE_BIN))
