"""Brier score of predicted survival, integrated, and against the marginal Kaplan-Meier curve, from sums of sites.

What a site's sums tell, per evaluation time: its weighted squared error, the weight of its patients with an event by
then, and how many of its patients were followed past it. The difference of two neighbouring times' sums is that of the
patients who left in between: of a single one with an event, the weight gives the event time away. A site with one
patient gives away that patient's predictions.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from adamss_fl import plain
from adamss_fl.errors import InputError
from adamss_fl.federation.statistics.censoring import (
    ROUNDING,
    Array,
    CensoringCurve,
    case_weights,
    check_cases_and_controls,
    evaluation_times,
)
from adamss_fl.federation.statistics.survival_counts import limited_counts
from adamss_fl.survival.calibration import survival_at
from adamss_fl.survival.endpoints import check_endpoints, to_float64

_FIELDS = ("patients", "squared_errors", "case_weight", "controls")


@dataclass(frozen=True)
class BrierSums:
    """What the Brier score at T times needs of a site; ``+`` adds sites.

    times_days, censoring : (T,) the evaluation times and G there, the same at every site. squared_errors : (T,)
    weighted. case_weight : (T,) sum of 1/G over patients with an event by then. controls : (T,) patients followed past
    it.
    """

    times_days: Array
    censoring: Array
    patients: int
    squared_errors: Array
    case_weight: Array
    controls: NDArray[np.int64]

    def __add__(self, other: "BrierSums") -> "BrierSums":
        if not all(np.array_equal(getattr(self, name), getattr(other, name)) for name in ("times_days", "censoring")):
            raise InputError(
                "Brier sums: of other times or another censoring curve cannot be added; ask every site the same"
            )
        return BrierSums(
            self.times_days,
            self.censoring,
            self.patients + other.patients,
            self.squared_errors + other.squared_errors,
            self.case_weight + other.case_weight,
            self.controls + other.controls,
        )

    def plain(self) -> dict[str, Any]:
        """JSON-able values; times and curve are the query's and do not travel back."""
        lists = {name: getattr(self, name).tolist() for name in _FIELDS[1:]}
        return {"patients": self.patients, **lists}

    @classmethod
    def from_plain(cls, given: Any, times_days: ArrayLike, curve: CensoringCurve, patients: int) -> "BrierSums":
        """The inverse of ``plain`` for the times and curve that were asked, of a site of at most ``patients``.

        Raises InputError for other keys or shapes, or sums that no such site can have.
        """
        times = evaluation_times(times_days, curve)
        found = plain.record(given, _FIELDS, "Brier sums")
        told = int(limited_counts(found["patients"], (), patients, "Brier sums: patients"))
        squared_errors, case_weight = (
            plain.floats(found[name], times.shape, f"Brier sums: {name}") for name in _FIELDS[1:3]
        )
        controls = limited_counts(found["controls"], times.shape, told * times.size, "Brier sums: controls")
        censoring = curve.at(times)
        check_cases_and_controls(case_weight, controls, told, censoring, "Brier sums")
        largest = case_weight + controls / censoring
        if (squared_errors < 0).any() or (squared_errors > largest * (1 + ROUNDING)).any():
            raise InputError("Brier sums: a squared error is negative, or more than the patients' weights allow")
        return cls(times, censoring, told, squared_errors, case_weight, controls)


@dataclass(frozen=True)
class BrierScore:
    """Brier score of a model and of the marginal Kaplan-Meier curve, (T,) each, and their integrals; lower is better.

    ipa : index of prediction accuracy, 1 - score / reference, at each time; None where the reference is 0.
    integrated, reference_integrated : mean over the span of the times by the trapezoidal rule, and integrated_ipa that
    of these two; None for a single time. Source: Graf et al., Statistics in Medicine 18:2529 (1999); Kattan and Gerds,
    Diagnostic and Prognostic Research 2:7 (2018).
    """

    times_days: Array
    patients: int
    score: Array
    reference: Array
    ipa: tuple[float | None, ...]
    integrated: float | None
    reference_integrated: float | None
    integrated_ipa: float | None


def check_curves(survival: ArrayLike | Tensor, edges_days: ArrayLike, patients: int) -> tuple[Array, Array]:
    """Predicted curves (N, K) at the upper edges of K bins, and the bins' edges (K + 1,) in days.

    Raises InputError where there are not ``patients`` curves, a value is no probability, or edges do not fit.
    """
    curves, edges = to_float64(survival), plain.floats(edges_days, (None,), "predicted survival: edges")
    if curves.ndim != 2 or curves.shape != (patients, edges.size - 1):
        raise InputError(
            f"predicted survival: curves {curves.shape} for {patients} patients and {edges.size} edges; give (N, K) "
            "and (K + 1,)"
        )
    if edges.size < 2 or edges[0] != 0 or not (np.diff(edges) > 0).all():
        raise InputError("predicted survival: edges must start at 0 and increase strictly; mend them")
    if not (np.isfinite(curves) & (curves >= 0) & (curves <= 1)).all():
        raise InputError("predicted survival: a value lies outside 0 to 1; give probabilities")
    return curves, edges


def brier_sums(
    time_days: ArrayLike | Tensor,
    event: ArrayLike | Tensor,
    survival: ArrayLike | Tensor,
    edges_days: ArrayLike,
    times_days: ArrayLike,
    curve: CensoringCurve,
) -> BrierSums:
    """A site's sums: S(t)^2 / G(time) of those with an event by t, and (1 - S(t))^2 / G(t) of those followed past it.

    time_days, event : (N,); survival : (N, K) at the upper edges of ``edges_days`` (K + 1,), linear in between;
    times_days : (T,), not past the edges; curve : the censoring curve that all sites use, read at the event times
    themselves. Raises InputError for malformed arrays or times.
    """
    times, events = check_endpoints(time_days, event)
    asked = evaluation_times(times_days, curve)
    curves, edges = check_curves(survival, edges_days, times.size)
    predicted = np.stack([survival_at(curves, edges, float(day)) for day in asked], axis=1)
    weights = case_weights(times, events, asked, curve)
    followed, censoring = times[:, None] > asked, curve.at(asked)
    return BrierSums(
        times_days=asked,
        censoring=censoring,
        patients=times.size,
        squared_errors=(predicted**2 * weights + (1 - predicted) ** 2 * followed / censoring).sum(axis=0),
        case_weight=weights.sum(axis=0),
        controls=followed.sum(axis=0, dtype=np.int64),
    )


def brier_score(sums: BrierSums, marginal: ArrayLike) -> BrierScore:
    """The scores of all sites' sums. marginal : (T,) Kaplan-Meier survival of all patients at the times.

    Raises InputError where no site has a patient, or ``marginal`` is not (T,) probabilities.
    """
    if sums.patients == 0:
        raise InputError("Brier score: no site has a patient; ask sites with endpoints")
    same_for_all = marginal_survival(marginal, sums.times_days)
    score = sums.squared_errors / sums.patients
    reference = (
        same_for_all**2 * sums.case_weight + (1 - same_for_all) ** 2 * sums.controls / sums.censoring
    ) / sums.patients
    integrated, reference_integrated = _mean_over_span(score, sums), _mean_over_span(reference, sums)
    return BrierScore(
        times_days=sums.times_days,
        patients=sums.patients,
        score=score,
        reference=reference,
        ipa=tuple(_ipa(float(own), float(known)) for own, known in zip(score, reference, strict=True)),
        integrated=integrated,
        reference_integrated=reference_integrated,
        integrated_ipa=_ipa(integrated, reference_integrated),
    )


def marginal_survival(marginal: ArrayLike, times_days: Array) -> Array:
    """``marginal`` as survival probabilities (T,) that never rise. Raises InputError for others."""
    values = plain.floats(marginal, times_days.shape, "marginal survival")
    if (values < 0).any() or (values > 1).any() or (np.diff(values) > 0).any():
        raise InputError("marginal survival: it must lie within 0 to 1 and never rise; give a Kaplan-Meier curve")
    return values


def _mean_over_span(score: Array, sums: BrierSums) -> float | None:
    times = sums.times_days
    return float(np.trapezoid(score, times) / (times[-1] - times[0])) if times.size > 1 else None


def _ipa(score: float | None, reference: float | None) -> float | None:
    return None if score is None or not reference else 1 - score / reference
