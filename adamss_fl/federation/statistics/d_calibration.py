"""D-calibration over sites: is predicted survival at patients' own times spread evenly, as it should be?

What a site's counts tell: how many of its patients lie in each bin of predicted survival at their own time. What a
censored patient leaves in the bins gives that patient's predicted survival away where there is only one.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from adamss_fl import plain
from adamss_fl.errors import InputError
from adamss_fl.federation.statistics.censoring import ROUNDING, Array
from adamss_fl.federation.statistics.prediction_error import check_curves
from adamss_fl.federation.statistics.survival_counts import limited_counts
from adamss_fl.survival.calibration import survival_at
from adamss_fl.survival.endpoints import check_endpoints


@dataclass(frozen=True)
class DCalibrationSums:
    """Patients, and counts (B,) of them, in fractions, by predicted survival at their own time; ``+`` adds sites."""

    patients: int
    counts: Array

    def __add__(self, other: "DCalibrationSums") -> "DCalibrationSums":
        if self.counts.shape != other.counts.shape:
            raise InputError(
                f"D-calibration: {self.counts.size} and {other.counts.size} bins cannot be added; ask for one number"
            )
        return DCalibrationSums(self.patients + other.patients, self.counts + other.counts)

    def plain(self) -> dict[str, Any]:
        """JSON-able values."""
        return {"patients": self.patients, "counts": self.counts.tolist()}

    @classmethod
    def from_plain(cls, given: Any, bins: int, patients: int) -> "DCalibrationSums":
        """The inverse of ``plain`` for the number of bins that was asked, of a site of at most ``patients``.

        Raises InputError for other keys or shapes, or counts that no such site can have.
        """
        found = plain.record(given, ("patients", "counts"), "D-calibration")
        told = int(limited_counts(found["patients"], (), patients, "D-calibration: patients"))
        counts = plain.floats(found["counts"], (bins,), "D-calibration: counts")
        if (counts < 0).any() or abs(counts.sum() - told) > ROUNDING * told:
            raise InputError("D-calibration: counts are negative, or do not add up to the patients")
        return cls(told, counts)


@dataclass(frozen=True)
class DCalibration:
    """A chi-squared test that predicted survival at the time of the event is uniform; a small p says it is not.

    proportions : (B,) share of patients in each bin, from survival 0 to 1; 1 / B each in a calibrated model.
    """

    patients: int
    proportions: Array
    statistic: float
    p_value: float
    degrees_of_freedom: int


def d_calibration_sums(
    time_days: ArrayLike | Tensor,
    event: ArrayLike | Tensor,
    survival: ArrayLike | Tensor,
    edges_days: ArrayLike,
    bins: int = 10,
) -> DCalibrationSums:
    """A site's counts in ``bins`` equal bins of predicted survival, closed below, the last one at 1 too.

    time_days, event : (N,); survival : (N, K) at the upper edges of ``edges_days`` (K + 1,), linear in between. An
    event counts in the bin of S(time). A patient censored at survival s has the rest of the way, 0 to s, spread evenly:
    each bin gets the share of (0, s) in it; with s = 0 the lowest gets all. Time past the last edge is censored there.
    Raises InputError for fewer than 2 bins or malformed arrays.
    Source: Haider et al., JMLR 21:85 (2020).
    """
    if bins < 2:
        raise InputError(f"D-calibration: {bins} bins; give at least 2")
    times, events = check_endpoints(time_days, event)
    curves, edges = check_curves(survival, edges_days, times.size)
    read_at, seen = np.minimum(times, edges[-1]), events & (times <= edges[-1])
    own = np.array(
        [survival_at(curves[row : row + 1], edges, float(day))[0] for row, day in enumerate(read_at)], dtype=np.float64
    )
    starts = np.arange(bins) / bins
    counts = np.bincount(np.searchsorted(starts, own[seen], side="right") - 1, minlength=bins).astype(np.float64)
    left = own[~seen & (own > 0)]
    counts += (np.clip(left[:, None] - starts, 0, 1 / bins) / left[:, None]).sum(axis=0)
    counts[0] += (~seen & (own == 0)).sum()
    return DCalibrationSums(times.size, counts)


def d_calibration(sums: DCalibrationSums) -> DCalibration:
    """The test over all sites' counts: sum_b (n_b - n / B)^2 / (n / B) against chi-squared, B - 1 degrees of freedom.

    Counts of censored patients vary less than whole ones, so that with much censoring the test rarely rejects.
    Raises InputError where no site has a patient.
    """
    if sums.patients == 0:
        raise InputError("D-calibration: no site has a patient; ask sites with endpoints")
    from scipy.stats import chi2

    freedom = sums.counts.size - 1
    expected = sums.patients / sums.counts.size
    statistic = float(((sums.counts - expected) ** 2 / expected).sum())
    return DCalibration(
        sums.patients, sums.counts / sums.patients, statistic, float(chi2.sf(statistic, freedom)), freedom
    )
