"""The partial likelihood of a Cox regression and its derivatives, which add up over sites that are strata.

In a regression stratified by site every hospital has a baseline hazard of its own, and sends its log partial
likelihood, gradient and information at beta: 1 + p + p (p + 1) / 2 numbers an iteration and the count of its events,
nothing per time and no grid. What they tell: at beta 0, how the covariates of patients with an event differ from the
mean of those at risk with them, and that spread. One event is told as one patient's difference from that mean, and one
event with two at risk, as the difference of two patients; sums over many events are of nobody.
Sources: Cox, JRSS B 34:187 (1972); Breslow, Biometrics 30:89 (1974); Efron, JASA 72:557 (1977); Lu et al., JAMIA
22:1212 (2015).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from adamss_fl import plain
from adamss_fl.errors import InputError
from adamss_fl.federation.statistics.cox_sums import (
    ROUNDING,
    Array,
    CoxTimeSums,
    Ties,
    WeightedSums,
    check_cox,
    cox_time_sums,
    positive,
)
from adamss_fl.federation.statistics.survival_counts import limited_counts

SMALLEST_SPREAD = 1e-9
"""A covariate whose variance in the risk sets is less than this share of its mean square is constant up to rounding."""
INFORMATION_ROUNDING = 1e-5
"""Of an information relative to its diagonal: a difference of sums, up to 1 / SMALLEST_SPREAD times as large."""


@dataclass(frozen=True)
class CoxDerivatives:
    """Log partial likelihood at a beta (p,), its gradient (p,), its information (p, p; minus the Hessian), and events.

    ``+`` adds strata.
    """

    events: int
    log_likelihood: float
    gradient: Array
    information: Array

    def __add__(self, other: "CoxDerivatives") -> "CoxDerivatives":
        if self.gradient.shape != other.gradient.shape:
            raise InputError(
                f"Cox derivatives: of {self.gradient.size} and of {other.gradient.size} covariates cannot be added; "
                "ask every site for the same covariates"
            )
        return CoxDerivatives(
            self.events + other.events,
            self.log_likelihood + other.log_likelihood,
            self.gradient + other.gradient,
            self.information + other.information,
        )

    def plain(self) -> dict[str, Any]:
        """JSON-able numbers and lists."""
        return {
            "events": self.events,
            "log_likelihood": self.log_likelihood,
            "gradient": self.gradient.tolist(),
            "information": self.information.tolist(),
        }

    @classmethod
    def from_plain(cls, given: Any, covariates: int, patients: int) -> "CoxDerivatives":
        """The inverse of ``plain`` for a site of ``patients``.

        Raises InputError for other keys or shapes, or what no such site can have: more events than patients, a
        likelihood above 1, an information that is no covariance, or a gradient along a covariate that does not vary.
        """
        found = plain.record(given, ("events", "log_likelihood", "gradient", "information"), "Cox derivatives")
        events = int(limited_counts(found["events"], (), patients, "Cox derivatives: events"))
        log_likelihood = float(plain.floats(found["log_likelihood"], (), "Cox derivatives: log_likelihood"))
        gradient = plain.floats(found["gradient"], (covariates,), "Cox derivatives: gradient")
        information = plain.floats(found["information"], (covariates, covariates), "Cox derivatives: information")
        if log_likelihood > ROUNDING * patients:
            raise InputError("Cox derivatives: a partial likelihood above 1")
        if not positive(information[None], information[None], INFORMATION_ROUNDING):
            raise InputError("Cox derivatives: the information is not a covariance of patients")
        if gradient[np.diagonal(information) == 0].any():
            raise InputError("Cox derivatives: a gradient along a covariate that does not vary")
        if events == 0 and (log_likelihood != 0 or information.any()):
            raise InputError("Cox derivatives: a likelihood or an information without events")
        return cls(events, log_likelihood, gradient, information)


def derivatives_at(sums: CoxTimeSums, beta: ArrayLike) -> CoxDerivatives:
    """Of the sums over all sites (or of one stratum) at the ``beta`` (p,) that they were asked for.

    At a time with d events, Efron's j-th of d denominators leaves out the share j / d of the events themselves,
    j = 0 .. d - 1; Breslow's leaves out none. Raises InputError where an event has nobody at risk, or for a beta of
    another length.
    """
    factors = np.asarray(beta, dtype=np.float64)
    if factors.shape != sums.event_x.shape:
        raise InputError(
            f"Cox derivatives: sums of {sums.event_x.size} covariates for {factors.size}; ask every site for the same"
        )
    held = np.repeat(np.arange(sums.events.size), sums.events)  # each event's time
    risk = WeightedSums(sums.at_risk.s0[held], sums.at_risk.s1[held], sums.at_risk.s2[held])
    if sums.tied is not None:
        before = np.cumsum(sums.events) - sums.events
        share = (np.arange(held.size) - before[held]) / sums.events[held]
        risk = WeightedSums(
            risk.s0 - share * sums.tied.s0[held],
            risk.s1 - share[:, None] * sums.tied.s1[held],
            risk.s2 - share[:, None, None] * sums.tied.s2[held],
        )
    if (risk.s0 <= 0).any():
        raise InputError("Cox sums: events with nobody at risk; the sums are not those of patients")
    mean = risk.s1 / risk.s0[:, None]
    squares = (risk.s2 / risk.s0[:, None, None]).sum(axis=0)
    information = squares - mean.T @ mean
    information = (information + information.T) / 2
    gradient = sums.event_x - mean.sum(axis=0)
    constant = np.diagonal(information) <= SMALLEST_SPREAD * np.diagonal(squares)
    information[constant, :] = information[:, constant] = gradient[constant] = 0.0
    log_likelihood = float(factors @ sums.event_x - np.log(risk.s0).sum())
    return CoxDerivatives(int(sums.events.sum()), log_likelihood, gradient, information)


def cox_derivatives(
    x: ArrayLike, time_days: ArrayLike | Tensor, event: ArrayLike | Tensor, beta: ArrayLike, ties: Ties = "efron"
) -> CoxDerivatives:
    """Of one site as a stratum of its own, on its own event times.

    x : (N, p) covariates without missing values; time_days, event : (N,); beta : (p,). A site without events, or
    without patients, sends zeros. Raises InputError for malformed arrays, or where exp(beta x) overflows.
    """
    values, times, events, factors = check_cox(x, time_days, event, beta)
    if not events.any():
        covariates = factors.size
        return CoxDerivatives(0, 0.0, np.zeros(covariates), np.zeros((covariates, covariates)))
    centred = values - values.mean(axis=0)  # which a stratum's likelihood does not depend on
    return derivatives_at(cox_time_sums(centred, times, events, np.unique(times[events]), factors, ties), factors)
