"""The censoring curve that weights patients for those whose follow-up ended early, one and the same at every site.

A weight 1/G depends on the curve and the patient alone. Where the server sends every site one curve, that of all
patients, the sites' weighted sums add up to those of the pooled patients exactly.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adamss_fl import plain
from adamss_fl.errors import InputError

Array = NDArray[np.float64]

ROUNDING = 1e-9
"""Relative slack of sums that another machine added up in another order."""


@dataclass(frozen=True)
class CensoringCurve:
    """G, the probability of not being censored by a time: right-continuous steps, 1 before the first.

    times : (J,) days, strictly increasing, the last one where the estimate ends; survival : (J,) G from each time on,
    in [0, 1] and never rising. Raises InputError for others.
    """

    times: Array
    survival: Array

    def __post_init__(self) -> None:
        times = plain.floats(self.times, (None,), "censoring curve: times")
        survival = plain.floats(self.survival, times.shape, "censoring curve: survival")
        if times.size == 0 or times[0] < 0 or not (np.diff(times) > 0).all():
            raise InputError("censoring curve: times must be days of 0 or more that increase strictly; mend them")
        if survival[0] > 1 or survival[-1] < 0 or (np.diff(survival) > 0).any():
            raise InputError("censoring curve: survival must fall from 1 towards 0 and never rise; mend it")
        object.__setattr__(self, "times", times)
        object.__setattr__(self, "survival", survival)

    def at(self, times_days: ArrayLike) -> Array:
        """G(t) at any times. Raises InputError past the end of the curve, unless it has reached 0 there."""
        return self._read(times_days, "right")

    def before(self, times_days: ArrayLike) -> Array:
        """G(t-), just before the times; raises as ``at``."""
        return self._read(times_days, "left")

    def _read(self, times_days: ArrayLike, side: Any) -> Array:
        days = np.asarray(times_days, dtype=np.float64)
        if self.survival[-1] > 0 and (days > self.times[-1]).any():
            raise InputError(f"censoring curve: it ends at day {self.times[-1]:g}; ask for no later time")
        return np.asarray(np.concatenate([[1.0], self.survival])[np.searchsorted(self.times, days, side=side)])

    def plain(self) -> dict[str, Any]:
        """JSON-able lists."""
        return {"times": self.times.tolist(), "survival": self.survival.tolist()}

    @classmethod
    def from_plain(cls, given: Any) -> "CensoringCurve":
        """The inverse of ``plain``; raises InputError for other keys, or what is no such curve."""
        found = plain.record(given, ("times", "survival"), "censoring curve")
        return cls(found["times"], found["survival"])


def evaluation_times(times_days: ArrayLike, curve: CensoringCurve) -> Array:
    """The times (T,) at which weighted sums are asked for.

    Raises InputError where they are negative or do not increase strictly, or where the curve has ended or is 0 at the
    last one. G never rises, so every weight up to the last time is then finite.
    """
    times = plain.floats(times_days, (None,), "evaluation times")
    if times.size == 0 or times[0] < 0 or not (np.diff(times) > 0).all():
        raise InputError("evaluation times: they must be days of 0 or more that increase strictly; mend them")
    if curve.at(times[-1:])[0] <= 0:
        raise InputError(f"evaluation times: the censoring curve is 0 at day {times[-1]:g}; ask for earlier times")
    return times


def case_weights(time_days: Array, event: NDArray[np.bool_], times_days: Array, curve: CensoringCurve) -> Array:
    """(N, T): 1/G(time) of a patient with an event up to each evaluation time, else 0. Source: Graf et al. (1999)."""
    weight = np.zeros(time_days.size)
    needed = event & (time_days <= times_days[-1])
    weight[needed] = 1.0 / curve.at(time_days[needed])
    return np.asarray(weight[:, None] * (time_days[:, None] <= times_days))


def check_cases_and_controls(
    case_weight: Array, controls: NDArray[np.int64], patients: int, censoring: Array, what: str
) -> None:
    """Raises InputError where no ``patients`` can have these (T,) weights of cases and numbers of controls.

    censoring : (T,) G at the evaluation times. Cases only come, controls only go, and a case weighs 1 to 1/G(t).
    """
    if controls[0] > patients or (np.diff(controls) > 0).any():
        raise InputError(f"{what}: controls exceed the patients, or rise with time")
    slack = ROUNDING * max(1.0, float(patients))
    if (case_weight < 0).any() or (np.diff(case_weight) < -slack).any():
        raise InputError(f"{what}: a weight of cases is negative, or falls with time")
    if (case_weight * censoring > patients - controls + slack).any():
        raise InputError(f"{what}: cases weigh more than the patients who are no controls can")
