"""How small a difference in C-index a test set could show, from the bootstrap's standard error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adamss_fl.errors import InputError
from adamss_fl.survival import concordance
from adamss_fl.survival.bootstrap import resampled_c_indices
from adamss_fl.survival.endpoints import check_endpoints

POWER = 0.8
LEVEL = 0.05
_NORMAL = NormalDist()
_LARGEST = 0.5
"""No two models that are better than a coin toss differ by more."""


class NoSpread(InputError):
    """The resamples do not differ, so that they say nothing about how far chance reaches."""


@dataclass(frozen=True)
class Power:
    """What a test set could show.

    patients, events, comparable_pairs : of the test set.
    standard_error : of the C-index, or of a difference of two on the same patients; above 0.
    of_difference : whether it is that of a difference.

    The normal approximation: a difference d is seen (its two-sided 95 % interval leaves out 0) with probability
    Phi(d / se - 1.96) + Phi(-d / se - 1.96). Standard errors shrink with the square root of the number of patients of
    the same kind. Source: Chow et al., Sample Size Calculations in Clinical Research (3rd edition, 2018).
    """

    patients: int
    events: int
    comparable_pairs: int
    standard_error: float
    of_difference: bool = True

    def detectable(self, power: float = POWER, level: float = LEVEL) -> float:
        """The smallest difference that is seen with probability ``power`` at two-sided ``level``."""
        return reach(power, level) * self.standard_error

    def chance_of(self, difference: float, level: float = LEVEL) -> float:
        """Probability, in [level, 1], that a true ``difference`` is seen."""
        edge, shift = _NORMAL.inv_cdf(1 - level / 2), difference / self.standard_error
        return _NORMAL.cdf(shift - edge) + _NORMAL.cdf(-shift - edge)

    def patients_for(self, difference: float, power: float = POWER, level: float = LEVEL) -> int:
        """Test patients, with as many events among them as here, so that a true ``difference`` is seen."""
        return math.ceil(self.patients * self._times_more(difference, power, level))

    def events_for(self, difference: float, power: float = POWER, level: float = LEVEL) -> int:
        """Events among the test patients so that a true ``difference`` is seen."""
        return math.ceil(self.events * self._times_more(difference, power, level))

    def sentence(self, wanted: float | None = None) -> str:
        """For a report: what these patients could show, and how many it takes for a difference ``wanted``."""
        kind = "a difference" if self.of_difference else "a difference from a fixed value"
        have = (
            f"With {self.patients:,} test patients, {self.events:,} events and "
            f"{self.comparable_pairs:,} comparable pairs"
        )
        smallest = math.ceil(round(1000 * self.detectable(), 6)) / 1000  # never told smaller than it is
        shown = f"{kind} of {smallest:.3f}" if smallest <= _LARGEST else f"not even {kind} of {_LARGEST}"
        said = f"{have}, {shown} in C-index would be seen in {100 * POWER:.0f} of 100 such studies."
        if wanted is None:
            return said
        patients, events = self.patients_for(wanted), self.events_for(wanted)
        return f"{said} For one of {wanted:g} it takes {patients:,} such patients with {events:,} events."

    def _times_more(self, difference: float, power: float, level: float) -> float:
        if not (math.isfinite(difference) and difference != 0):
            raise InputError(f"power: no number of patients shows a difference of {difference}; give one that is not 0")
        return (reach(power, level) * self.standard_error / difference) ** 2


def reach(power: float = POWER, level: float = LEVEL) -> float:
    """Standard errors that a true difference must span: z(1 - level / 2) + z(power), 1.96 + 0.84 by default."""
    if not (0 < level < 1 and level < power < 1):
        raise InputError(f"power: power is {power} at level {level}; give 0 < level < power < 1")
    return _NORMAL.inv_cdf(1 - level / 2) + _NORMAL.inv_cdf(power)


def power_of_difference(
    time_days: ArrayLike,
    event: ArrayLike,
    risk_a: ArrayLike,
    risk_b: ArrayLike,
    samples: int = 1000,
    seed: int = 0,
    strata: ArrayLike | None = None,
) -> Power:
    """Of the difference of two models' C-indices on the same N patients; arguments as in ``paired_difference``.

    Raises NoComparablePairs where there is none, NoSpread where the models order the pairs of every resample alike.
    """
    first, second = resampled_c_indices(time_days, event, [risk_a, risk_b], samples, seed, strata)
    return _power(time_days, event, risk_a, standard_error(first - second), of_difference=True)


def power_of_c_index(
    time_days: ArrayLike,
    event: ArrayLike,
    risk: ArrayLike,
    samples: int = 1000,
    seed: int = 0,
    strata: ArrayLike | None = None,
) -> Power:
    """Of one model's C-index against a fixed value; arguments as in ``bootstrap_interval``, errors as above."""
    (values,) = resampled_c_indices(time_days, event, [risk], samples, seed, strata)
    return _power(time_days, event, risk, standard_error(values), of_difference=False)


def standard_error(resampled: NDArray[np.float64]) -> float:
    """Standard deviation (over S - 1) of S resampled figures (S,). Raises NoSpread where they do not differ."""
    spread = float(resampled.std(ddof=1)) if resampled.size > 1 else 0.0
    if spread <= 0.0 or np.ptp(resampled) == 0.0:
        raise NoSpread("power: the resamples do not differ; judge other models, or on more patients with events")
    return spread


def _power(time_days: ArrayLike, event: ArrayLike, risk: ArrayLike, error: float, of_difference: bool) -> Power:
    times, events = check_endpoints(time_days, event)
    pairs = concordance(times, events, risk).comparable_pairs
    return Power(times.size, int(events.sum()), pairs, error, of_difference)
