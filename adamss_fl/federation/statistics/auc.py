"""Cumulative/dynamic AUC: how often, at a time, a patient with an event by then had a higher risk than one without.

Pairs of patients of two sites are known only as far as their risks lie in different bins; pairs inside a site are
compared there, exactly. So the AUC of all pairs is known up to the pairs of two sites in one bin: these count half in
the estimate, all wrong in the lower bound and all right in the upper.

What a site's sums tell: per evaluation time and risk bin, the weight of its patients with an event by then and the
number followed past it. Bins fine enough to part all patients give each one's risk to within a bin, and with many times
when the patient left; few, wide bins tell of groups. The within-site sums add the order of risks inside a bin, as one
figure over all bins.
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
from adamss_fl.federation.statistics.prediction_error import marginal_survival
from adamss_fl.federation.statistics.survival_counts import limited_counts
from adamss_fl.survival.endpoints import check_endpoints, to_float64

_QUERY = ("times_days", "censoring", "cuts")
_FIELDS = ("patients", "cases", "controls", "own_pairs", "own_right", "own_tied")


@dataclass(frozen=True)
class AucSums:
    """What the AUC at T times needs of a site; ``+`` adds sites.

    times_days, censoring : (T,) the evaluation times and G there; cuts : (B - 1,) the inner edges of the risk bins; all
    the same at every site. cases : (T, B) sum of 1/G over patients with an event by then; controls : (T, B) patients
    followed past it. Of pairs of a case and a control of one site in one bin, weighted as the case, (T,) each:
    own_pairs : all; own_right : the case has the higher risk; own_tied : equal risks.
    """

    times_days: Array
    censoring: Array
    cuts: Array
    patients: int
    cases: Array
    controls: NDArray[np.int64]
    own_pairs: Array
    own_right: Array
    own_tied: Array

    def __add__(self, other: "AucSums") -> "AucSums":
        if not all(np.array_equal(getattr(self, name), getattr(other, name)) for name in _QUERY):
            raise InputError(
                "AUC sums: of other times, bins or another censoring curve cannot be added; ask every site the same"
            )
        added = {name: getattr(self, name) + getattr(other, name) for name in _FIELDS}
        return AucSums(self.times_days, self.censoring, self.cuts, **added)

    def plain(self) -> dict[str, Any]:
        """JSON-able values; times, curve and bins are the query's and do not travel back."""
        lists = {name: getattr(self, name).tolist() for name in _FIELDS[1:]}
        return {"patients": self.patients, **lists}

    @classmethod
    def from_plain(
        cls, given: Any, times_days: ArrayLike, cuts: ArrayLike, curve: CensoringCurve, patients: int
    ) -> "AucSums":
        """The inverse of ``plain`` for the times, bins and curve that were asked, of a site of at most ``patients``.

        Raises InputError for other keys or shapes, or sums that no such site can have.
        """
        times, inner = evaluation_times(times_days, curve), _check_cuts(cuts)
        found = plain.record(given, _FIELDS, "AUC sums")
        told = int(limited_counts(found["patients"], (), patients, "AUC sums: patients"))
        shape = (times.size, inner.size + 1)
        cases = plain.floats(found["cases"], shape, "AUC sums: cases")
        controls = limited_counts(found["controls"], shape, told * times.size, "AUC sums: controls")
        if ((cases != 0) & (cases < 1 - ROUNDING)).any():
            raise InputError("AUC sums: a bin's cases weigh less than one patient")
        censoring = curve.at(times)
        check_cases_and_controls(cases.sum(axis=1), controls.sum(axis=1), told, censoring, "AUC sums")
        pairs, right, tied = (plain.floats(found[name], times.shape, f"AUC sums: {name}") for name in _FIELDS[3:])
        same_bin = (cases * controls).sum(axis=1)
        if (right < 0).any() or (tied < 0).any() or (right + tied > pairs * (1 + ROUNDING)).any():
            raise InputError("AUC sums: own_right and own_tied are negative, or more than own_pairs")
        if (pairs > same_bin * (1 + ROUNDING)).any():
            raise InputError("AUC sums: own_pairs are more than the bins' cases and controls allow")
        return cls(times, censoring, inner, told, cases, controls, pairs, right, tied)


@dataclass(frozen=True)
class DynamicAuc:
    """AUC at T times, with the bounds between which the AUC of the pooled patients lies, whatever the bins.

    auc, low, high : per time; None where there is no case or no control. mean, mean_low, mean_high : weighted by the
    fall of the survival curve, as scikit-survival does; None where that needs an AUC there is none of.
    unresolved : per time, the share of weighted pairs that lie in one bin and at two sites.
    """

    times_days: Array
    auc: tuple[float | None, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]
    unresolved: tuple[float | None, ...]
    mean: float | None
    mean_low: float | None
    mean_high: float | None


def auc_sums(
    time_days: ArrayLike | Tensor,
    event: ArrayLike | Tensor,
    risk: ArrayLike | Tensor,
    times_days: ArrayLike,
    cuts: ArrayLike,
    curve: CensoringCurve,
) -> AucSums:
    """A site's sums.

    time_days, event : (N,); risk : (N,), or (N, T) for one per evaluation time, a higher one saying an earlier event;
    times_days : (T,); cuts : (B - 1,) increasing risks that part the bins, a risk at a cut lying above it; curve : the
    censoring curve that all sites use. Takes O(T N log N) time. Raises InputError for malformed arrays.
    """
    times, events = check_endpoints(time_days, event)
    asked, inner = evaluation_times(times_days, curve), _check_cuts(cuts)
    risks = to_float64(risk)
    if risks.ndim == 1:
        risks = np.repeat(risks[:, None], asked.size, axis=1)
    if risks.shape != (times.size, asked.size) or not np.isfinite(risks).all():
        raise InputError(
            f"AUC sums: risks {risks.shape} for {times.size} patients and {asked.size} times; give finite ones, "
            "(N,) or (N, T)"
        )
    weights, followed = case_weights(times, events, asked, curve), times[:, None] > asked
    cells = np.searchsorted(inner, risks, side="right")
    cases = np.zeros((asked.size, inner.size + 1))
    controls = np.zeros(cases.shape, dtype=np.int64)
    own = np.zeros((2, asked.size))
    for row in range(asked.size):
        is_case, is_control = weights[:, row] > 0, followed[:, row]
        weight, cell, value = weights[is_case, row], cells[is_case, row], risks[is_case, row]
        cases[row] = np.bincount(cell, weights=weight, minlength=inner.size + 1)
        controls[row] = np.bincount(cells[is_control, row], minlength=inner.size + 1)
        others = np.sort(risks[is_control, row])
        lower, up_to = (np.searchsorted(others, value, side=side) for side in ("left", "right"))
        bin_starts = np.concatenate([[0], np.cumsum(controls[row])])
        own[:, row] = weight @ (lower - bin_starts[cell]), weight @ (up_to - lower)
    pairs = (cases * controls).sum(axis=1)
    return AucSums(asked, curve.at(asked), inner, times.size, cases, controls, pairs, own[0], own[1])


def dynamic_auc(sums: AucSums, marginal: ArrayLike) -> DynamicAuc:
    """AUC of all sites' sums. marginal : (T,) Kaplan-Meier survival of all patients at the times, for the mean.

    Equals that of the pooled patients where bins part all distinct risks. The mean is sum_k AUC_k (S_k-1 - S_k) /
    (1 - S_T), and the AUC itself for a single time. Source: Uno et al., JASA 102:527 (2007); Hung and Chiang, Canadian
    Journal of Statistics 38:8 (2010); Lambert and Chevret, Statistical Methods in Medical Research 25:2088 (2016).
    """
    survival = marginal_survival(marginal, sums.times_days)
    all_pairs = sums.cases.sum(axis=1) * sums.controls.sum(axis=1)
    below = np.cumsum(sums.controls, axis=1) - sums.controls
    right = (sums.cases * below).sum(axis=1) + sums.own_right + sums.own_tied / 2
    unresolved = np.maximum((sums.cases * sums.controls).sum(axis=1) - sums.own_pairs, 0.0)
    falls = -np.diff(np.concatenate([[1.0], survival]))

    def share(pairs: Array) -> tuple[float | None, ...]:
        return tuple(
            min(float(part / whole), 1.0) if whole > 0 else None for part, whole in zip(pairs, all_pairs, strict=True)
        )

    def mean(values: tuple[float | None, ...]) -> float | None:
        if len(values) == 1:
            return values[0]
        weighed = [(value, fall) for value, fall in zip(values, falls, strict=True) if fall > 0]
        known = [value * fall for value, fall in weighed if value is not None]
        return float(sum(known) / falls.sum()) if known and len(known) == len(weighed) else None

    auc, low, high = share(right + unresolved / 2), share(right), share(right + unresolved)
    return DynamicAuc(sums.times_days, auc, low, high, share(unresolved), mean(auc), mean(low), mean(high))


def _check_cuts(cuts: ArrayLike) -> Array:
    inner = np.zeros(0) if np.size(cuts) == 0 else plain.floats(cuts, (None,), "risk bins: cuts")
    if not (np.diff(inner) > 0).all():
        raise InputError("risk bins: cuts must increase strictly; mend them")
    return inner
