"""The written-down truth of the phantom hospitals: what a patient is like, and how long the patient lives.

Time to relapse is Weibull with proportional hazards: S(t | x) = exp(-(t / scale)^shape * exp(eta(x))), where eta is a
sum of standardised terms. Two patients with the same terms have the same hazard at every site; sites differ in
follow-up, and so in their event rate, and in their scanners.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Term:
    """One term of the log hazard: ``coefficient * (value - mean) / sd``, with the population's mean and sd."""

    coefficient: float
    mean: float
    sd: float

    def __call__(self, value: float) -> float:
        """The term's part of the log hazard."""
        return self.coefficient * (value - self.mean) / self.sd


@dataclass(frozen=True)
class Hazard:
    """Coefficients of the log hazard and the Weibull baseline; every number that decides survival stands here.

    log_volume : natural logarithm of the primary tumour's volume in ml.
    heterogeneity : amplitude of the uptake's texture inside the primary tumour, 0 (even) to 1.
    peak_suv : highest uptake of the primary tumour, in SUV.
    nodes : number of involved nodes, 0 to 3: this part of the signal lies outside the primary tumour.
    age_years, hpv : the two clinical variables; HPV-positive (1) lowers the hazard.
    shape, scale_days : Weibull baseline.
    """

    log_volume: Term = Term(1.0, 2.77, 0.63)
    heterogeneity: Term = Term(0.4, 0.42, 0.23)
    peak_suv: Term = Term(0.6, 9.5, 2.95)
    nodes: Term = Term(1.0, 1.25, 1.04)
    age_years: Term = Term(0.3, 60.0, 9.0)
    hpv: Term = Term(-0.35, 0.6, 0.49)
    shape: float = 1.3
    scale_days: float = 1500.0

    def log_hazard(self, traits: "Traits") -> float:
        """The patient's log hazard relative to the baseline; higher means earlier relapse."""
        return sum(self.terms(traits).values())

    def terms(self, traits: "Traits") -> dict[str, float]:
        """Each term's part of the log hazard, by name."""
        return {
            "log_volume": self.log_volume(math.log(traits.volume_ml)),
            "heterogeneity": self.heterogeneity(traits.heterogeneity),
            "peak_suv": self.peak_suv(traits.peak_suv),
            "nodes": self.nodes(traits.nodes),
            "age_years": self.age_years(traits.age_years),
            "hpv": self.hpv(traits.hpv),
        }

    def survival_days(self, log_hazard: float, uniform: float) -> float:
        """The time at which survival falls to ``uniform`` in (0, 1): the inverse of S(t | x)."""
        return self.scale_days * float((-math.log(uniform) * math.exp(-log_hazard)) ** (1.0 / self.shape))


@dataclass(frozen=True)
class Traits:
    """What decides a phantom patient's images and survival."""

    radius_mm: float
    heterogeneity: float
    peak_suv: float
    nodes: int
    age_years: float
    hpv: int

    @property
    def volume_ml(self) -> float:
        """Volume of the primary tumour: that of a ball with ``radius_mm``."""
        return 4.0 / 3.0 * math.pi * self.radius_mm**3 / 1000.0


RADIUS_MM = (15.5, 0.26, 10.0, 24.0)  # median, sd of the logarithm, lowest, highest
PEAK_SUV = (9.0, 0.35, 4.0, 18.0)
NODE_PROBABILITIES = (0.30, 0.30, 0.25, 0.15)
HPV_POSITIVE = 0.6


def draw_traits(rng: np.random.Generator) -> Traits:
    """One patient's traits, drawn independently of each other."""
    return Traits(
        radius_mm=_log_normal(rng, *RADIUS_MM),
        heterogeneity=float(rng.uniform(0.02, 0.82)),
        peak_suv=_log_normal(rng, *PEAK_SUV),
        nodes=int(rng.choice(len(NODE_PROBABILITIES), p=NODE_PROBABILITIES)),
        age_years=float(np.clip(round(rng.normal(60.0, 9.0)), 30, 90)),
        hpv=int(rng.random() < HPV_POSITIVE),
    )


def _log_normal(rng: np.random.Generator, median: float, sd: float, low: float, high: float) -> float:
    """A log-normal draw, drawn again until it lies in [low, high], so that nothing piles up at the bounds."""
    while True:
        value = median * math.exp(sd * rng.standard_normal())
        if low <= value <= high:
            return value


def censor(
    survival_days: Sequence[float], entry: Sequence[float], event_fraction: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Observed times and events of one site whose share of events is as near to ``event_fraction`` as patients allow.

    Patient i is followed for ``f * entry[i]`` days, where the site's follow-up f is set so that exactly
    round(event_fraction * n) patients relapse within it: patient i relapses in time where survival / entry <= f.

    Returns observed days (N,), at least 1, and events (N,).
    """
    survival = np.asarray(survival_days, dtype=np.float64)
    share = np.asarray(entry, dtype=np.float64)
    ratio = survival / share
    ordered = np.sort(ratio)
    events = min(max(round(event_fraction * len(ordered)), 1), len(ordered))
    longer = ordered[events] if events < len(ordered) else ordered[events - 1] * 1.1
    follow_up = math.sqrt(float(ordered[events - 1]) * float(longer))
    event = (ratio <= follow_up).astype(np.int64)
    days = np.where(event == 1, survival, follow_up * share)
    return np.maximum(np.ceil(days), 1).astype(np.int64), event
