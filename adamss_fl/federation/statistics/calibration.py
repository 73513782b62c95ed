"""Observed against predicted survival at a horizon over sites, by groups of predicted survival.

What a site's sums tell: per group of predicted survival, the sum of its predictions, and how many patients had an event
or left in each cell of the time grid (``survival_counts``). A group of one gives that patient's prediction away, and a
grid of single days is nearly a list of the group's follow-up times.
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
from adamss_fl.federation.statistics.survival_counts import Counts, SurvivalCounts, survival_counts
from adamss_fl.federation.statistics.survival_curves import grid_kaplan_meier
from adamss_fl.survival.calibration import CalibrationGroup, survival_at
from adamss_fl.survival.endpoints import check_endpoints


@dataclass(frozen=True)
class CalibrationSums:
    """What a calibration curve of G groups needs of a site; ``+`` adds sites.

    cuts : (G - 1,) predicted survival that parts the groups, the same at every site. predicted : (G,) sum of predicted
    survival at the horizon. counts : of the G groups, on a grid of days whose last is the horizon.
    """

    cuts: Array
    predicted: Array
    counts: SurvivalCounts

    @property
    def patients(self) -> Counts:
        """(G,) patients of each group."""
        return np.asarray((self.counts.events + self.counts.censored).sum(axis=1) + self.counts.beyond)

    def __add__(self, other: "CalibrationSums") -> "CalibrationSums":
        if not np.array_equal(self.cuts, other.cuts):
            raise InputError("calibration sums: of other groups cannot be added; ask every site for the same")
        return CalibrationSums(self.cuts, self.predicted + other.predicted, self.counts + other.counts)

    def plain(self) -> dict[str, Any]:
        """JSON-able values; the groups' cuts are the query's and do not travel back."""
        return {"predicted": self.predicted.tolist(), "counts": self.counts.plain()}

    @classmethod
    def from_plain(cls, given: Any, cuts: ArrayLike, grid_days: ArrayLike, patients: int) -> "CalibrationSums":
        """The inverse of ``plain`` for the groups and grid that were asked, of a site of at most ``patients``.

        Raises InputError for other keys or shapes, or sums that no such site can have.
        """
        inner = _check_cuts(cuts)
        found = plain.record(given, ("predicted", "counts"), "calibration sums")
        counts = SurvivalCounts.from_plain(found["counts"], grid_days, inner.size + 1, patients)
        predicted = plain.floats(found["predicted"], (inner.size + 1,), "calibration sums: predicted")
        sums = cls(inner, predicted, counts)
        low, high = np.concatenate([[0.0], inner]) * sums.patients, np.concatenate([inner, [1.0]]) * sums.patients
        slack = ROUNDING * sums.patients
        if ((predicted < low - slack) | (predicted > high + slack)).any():
            raise InputError("calibration sums: a group's predicted survival lies outside its cuts")
        return sums


@dataclass(frozen=True)
class CalibrationCurve:
    """Groups from the lowest predicted survival to the highest, empty ones left out.

    mean_absolute_difference : of predicted and observed survival, weighted by the groups' patients, over groups with an
    observed one; None where there is none. It is the integrated calibration index of Austin, Harrell and van Klaveren,
    Statistics in Medicine 39:2714 (2020), with steps in place of a smooth curve.
    """

    horizon_days: float
    groups: tuple[CalibrationGroup, ...]
    mean_absolute_difference: float | None


def calibration_sums(
    time_days: ArrayLike | Tensor,
    event: ArrayLike | Tensor,
    survival: ArrayLike | Tensor,
    edges_days: ArrayLike,
    cuts: ArrayLike,
    grid_days: ArrayLike,
) -> CalibrationSums:
    """A site's sums, by predicted survival at the last day of the grid, the horizon.

    time_days, event : (N,); survival : (N, K) at the upper edges of ``edges_days`` (K + 1,), linear in between; cuts :
    (G - 1,) within 0 to 1, a prediction at a cut lying below it, as in ``survival.risk_groups``; grid_days : (J + 1,)
    increasing from 0, not past the edges. Raises InputError for malformed arrays.
    """
    times, events = check_endpoints(time_days, event)
    inner, grid = _check_cuts(cuts), plain.floats(grid_days, (None,), "calibration sums: grid")
    if grid.size == 0:
        raise InputError("calibration sums: a grid without days; give it from 0 to the horizon")
    predicted = survival_at(*check_curves(survival, edges_days, times.size), float(grid[-1]))
    group = np.searchsorted(inner, predicted, side="left")
    return CalibrationSums(
        cuts=inner,
        predicted=np.bincount(group, weights=predicted, minlength=inner.size + 1).astype(np.float64),
        counts=survival_counts(times, events, grid, group, inner.size + 1),
    )


def calibration_curve(sums: CalibrationSums) -> CalibrationCurve:
    """Mean predicted survival and the Kaplan-Meier estimate at the horizon of each group of all sites' patients.

    The estimate is that of ``survival.calibration`` where every time up to the horizon is a day of the grid. It is None
    where no patient reaches the grid's last cell and the curve is not 0 by then. Raises InputError where no site has a
    patient.
    """
    if not sums.patients.any():
        raise InputError("calibration curve: no site has a patient; ask sites with endpoints")
    horizon = sums.counts.edges_days[-1]
    groups = []
    for number in np.flatnonzero(sums.patients).tolist():
        patients = int(sums.patients[number])
        observed = grid_kaplan_meier(sums.counts, number).at(horizon)
        groups.append(
            CalibrationGroup(
                predicted=float(sums.predicted[number] / patients),
                observed=observed[0] if observed else None,
                low=observed[1] if observed else None,
                high=observed[2] if observed else None,
                patients=patients,
                events=int(sums.counts.events[number].sum()),
            )
        )
    apart = [(abs(each.predicted - each.observed), each.patients) for each in groups if each.observed is not None]
    difference = sum(gap * n for gap, n in apart) / sum(n for _, n in apart) if apart else None
    return CalibrationCurve(horizon, tuple(groups), difference)


def _check_cuts(cuts: ArrayLike) -> Array:
    inner = np.zeros(0) if np.size(cuts) == 0 else plain.floats(cuts, (None,), "calibration groups: cuts")
    if (inner < 0).any() or (inner > 1).any() or not (np.diff(inner) > 0).all():
        raise InputError("calibration groups: cuts must be survival within 0 to 1 that increases strictly; mend them")
    return inner
