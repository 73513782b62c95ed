"""Univariate Cox regression of many features at once, from sums over each site's risk sets.

Follow-up time is cut into bins common to all sites, and everyone whose time lies in one bin is tied there (Breslow's
likelihood), so that a risk set changes only from bin to bin. Patients past the last edge are at risk in every bin and
have no event.

What a site's sums tell: its events per bin; per feature the sum over its patients with an event; and per feature and
bin three sums over all of its patients still at risk. The difference of two neighbouring bins' sums is that of the
patients who left in between, so a bin with one patient would give that patient's features away, and one with a few
patients after as many iterations. ``coarse_edges`` joins bins until each holds several patients of every site or none;
a site with few events counts them as censored, and one with few patients sends zeros.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from adamss_fl import plain
from adamss_fl.errors import InputError
from adamss_fl.survival.endpoints import check_endpoints

LARGEST_BETA = 10.0
"""A hazard ratio of exp(10) per standard deviation is no estimate but a separated feature."""
LARGEST_STEP = 2.0
SMALLEST_STEP = 1e-6
SMALLEST_INFORMATION = 1e-8
LEAST_PATIENTS = 3

Array = NDArray[np.float64]


@dataclass(frozen=True)
class CoxSums:
    """What Breslow's partial likelihood and its derivatives need of one site, at one beta a feature; ``+`` adds sites.

    events : (K,) events per bin. event_x : (F,) sum of x over the patients with an event.
    weight, weight_x, weight_x2 : (F, K) sums of w, w x and w x^2 over those at risk in each bin, with w = exp(beta x).
    """

    events: NDArray[np.int64]
    event_x: Array
    weight: Array
    weight_x: Array
    weight_x2: Array

    def __add__(self, other: "CoxSums") -> "CoxSums":
        if self.weight.shape != other.weight.shape:
            raise InputError(
                f"Cox sums: {self.weight.shape} and {other.weight.shape} (features, bins) cannot be added; ask every "
                "site for the same features and bins"
            )
        return CoxSums(
            self.events + other.events,
            self.event_x + other.event_x,
            self.weight + other.weight,
            self.weight_x + other.weight_x,
            self.weight_x2 + other.weight_x2,
        )

    def plain(self) -> dict[str, Any]:
        """JSON-able lists."""
        return {name: getattr(self, name).tolist() for name in _FIELDS}

    @classmethod
    def from_plain(cls, given: Any, features: int | None = None, bins: int | None = None) -> "CoxSums":
        """The inverse of ``plain``; raises InputError for other keys, shapes, or sums that no patients can have."""
        found = plain.record(given, _FIELDS, "Cox sums")
        events = plain.counts(found["events"], (bins,), "Cox sums: events")
        event_x = plain.floats(found["event_x"], (features,), "Cox sums: event_x")
        shape = (event_x.size, events.size)
        sums = [plain.floats(found[name], shape, f"Cox sums: {name}") for name in _FIELDS[2:]]
        if (sums[0] < 0).any() or (sums[2] < 0).any():
            raise InputError("Cox sums: a sum of weights is negative")
        return cls(events, event_x, *sums)


_FIELDS = ("events", "event_x", "weight", "weight_x", "weight_x2")


@dataclass(frozen=True)
class CoxStep:
    """Per feature (F,): log partial likelihood, its slope, the observed information, and Newton's step.

    The step is slope / information, and 0 where the information is.
    """

    log_likelihood: Array
    slope: Array
    information: Array
    step: Array


@dataclass(frozen=True)
class UnivariateCox:
    """One Cox regression per feature, (F,) each.

    p : two-sided Wald test of ``z = beta / se`` against a normal distribution.
    fitted : False where there is no finite estimate (a constant feature, or one that separates events from the rest);
        there beta, se and z are 0 and p is 1.
    log_likelihood : Breslow's, at beta; at 0 where not fitted.
    """

    beta: Array
    se: Array
    z: Array
    p: Array
    log_likelihood: Array
    fitted: NDArray[np.bool_]


def cox_sums(
    x: ArrayLike,
    time_days: ArrayLike | Tensor,
    event: ArrayLike | Tensor,
    edges_days: ArrayLike,
    beta: ArrayLike,
    least: int = LEAST_PATIENTS,
) -> CoxSums:
    """A site's sums.

    x : (N, F) standardised features, missing ones filled with 0; time_days, event : (N,); edges_days : (K + 1,)
    increasing, from 0; beta : (F,). least : with fewer events they count as censored, with fewer patients all is 0.
    Raises InputError for malformed arrays, or where exp(beta x) overflows.
    """
    values, factors = np.asarray(x, dtype=np.float64), np.asarray(beta, dtype=np.float64)
    edges = np.asarray(edges_days, dtype=np.float64)
    times, events = check_endpoints(time_days, event)
    if values.ndim != 2 or values.shape[0] != times.size or factors.shape != values.shape[1:]:
        raise InputError(
            f"Cox sums: features {values.shape}, beta {factors.shape} and {times.size} endpoints disagree; give "
            "(N, F), (F,) and N"
        )
    if edges.ndim != 1 or edges.size < 2 or edges[0] != 0 or not (np.diff(edges) > 0).all():
        raise InputError("Cox sums: edges must start at 0 and increase strictly; mend them")
    if not (np.isfinite(values).all() and np.isfinite(factors).all()):
        raise InputError("Cox sums: a feature or beta is not finite; standardise, and fill what is missing with 0")
    with np.errstate(over="ignore"):
        weight = np.exp(values * factors)
        squares = weight * values**2
    if not np.isfinite(squares).all():
        raise InputError("Cox sums: exp(beta x) overflows; standardise the features, or ask at a smaller beta")
    bins = edges.size - 1
    cell = np.searchsorted(edges, times, side="right") - 1
    inside = (cell[:, None] == np.arange(bins + 1)).astype(np.float64)
    seen = events & (cell < bins)
    if seen.sum() < least:
        seen = np.zeros_like(seen)
    if times.size < least:
        inside[:] = 0

    def at_risk(terms: Array) -> Array:
        per_bin = terms.T @ inside
        return np.ascontiguousarray(np.cumsum(per_bin[:, ::-1], axis=1)[:, ::-1][:, :bins])

    return CoxSums(
        events=np.bincount(cell[seen], minlength=bins).astype(np.int64),
        event_x=values[seen].sum(axis=0),
        weight=at_risk(weight),
        weight_x=at_risk(weight * values),
        weight_x2=at_risk(squares),
    )


def newton_step(sums: CoxSums, beta: Array) -> CoxStep:
    """Breslow's log partial likelihood at ``beta`` (F,), its derivatives, and Newton's step from there.

    With d_k events in bin k and S0, S1, S2 the three weighted sums: log L = beta sum(x) - sum_k d_k log S0_k, slope
    sum(x) - sum_k d_k S1_k/S0_k, information sum_k d_k [S2_k/S0_k - (S1_k/S0_k)^2]; sum(x) is over events.
    Source: Breslow, "Covariance analysis of censored survival data", Biometrics 30:89 (1974).
    """
    held = sums.events > 0
    d = sums.events[held].astype(np.float64)
    s0 = sums.weight[:, held]
    if (s0 <= 0).any():
        raise InputError("Cox sums: a bin has events and nobody at risk; the sums are not those of patients")
    mean = sums.weight_x[:, held] / s0
    information = (sums.weight_x2[:, held] / s0 - mean**2) @ d
    slope = sums.event_x - mean @ d
    fits = information > SMALLEST_INFORMATION
    return CoxStep(
        log_likelihood=beta * sums.event_x - np.log(s0) @ d,
        slope=slope,
        information=information,
        step=np.where(fits, slope / np.where(fits, information, 1.0), 0.0),
    )


def univariate_cox(ask: Callable[[Array], CoxSums], features: int, asks: int = 20) -> UnivariateCox:
    """Fit every feature by Newton's method; ``ask`` returns the sums over all sites at a beta (F,).

    A step is at most LARGEST_STEP and is halved while it lowers the likelihood; all features move in the same call, so
    the number of calls (six or so, never more than ``asks``) does not depend on their number.
    Raises InputError where no site has an event inside the bins.
    """
    beta = np.zeros(features)
    sums = ask(beta)
    if not sums.events.any():
        raise InputError("univariate Cox: no event before the last edge; use patients with events or later edges")
    at = start = newton_step(sums, beta)
    step = np.clip(at.step, -LARGEST_STEP, LARGEST_STEP)
    for _ in range(asks - 1):
        moving = (np.abs(step) > SMALLEST_STEP) & (np.abs(beta) <= LARGEST_BETA)
        if not moving.any():
            break
        trial = np.where(moving, beta + step, beta)
        there = newton_step(ask(trial), trial)
        worse = moving & (there.log_likelihood < at.log_likelihood - 1e-12 * np.abs(at.log_likelihood))
        moved = moving & ~worse
        beta = np.where(moved, trial, beta)
        at = CoxStep(*(np.where(moved, getattr(there, name), getattr(at, name)) for name in _STEP))
        step = np.where(moved, np.clip(at.step, -LARGEST_STEP, LARGEST_STEP), np.where(worse, step / 2, step))
    fitted = (np.abs(step) <= SMALLEST_STEP) & (at.information > SMALLEST_INFORMATION) & (np.abs(beta) <= LARGEST_BETA)
    beta = np.where(fitted, beta + step, 0.0)  # the last, tiny step costs no further call
    se = np.where(fitted, 1.0 / np.sqrt(np.where(fitted, at.information, 1.0)), 0.0)
    z = np.where(fitted, beta / np.where(fitted, se, 1.0), 0.0)
    p = torch.special.erfc(torch.from_numpy(np.abs(z) / math.sqrt(2.0))).numpy()
    return UnivariateCox(beta, se, z, p, np.where(fitted, at.log_likelihood, start.log_likelihood), fitted)


_STEP = ("log_likelihood", "slope", "information", "step")


def coarse_edges(counts: ArrayLike, edges_days: ArrayLike, least: int = LEAST_PATIENTS) -> tuple[float, ...]:
    """Join bins, from the last to the first, until each holds ``least`` patients or more of every site, or none of it.

    counts : (sites, K + 1) patients per bin, the last column those past the last edge; edges_days : (K + 1,).
    The last bin counts together with those past it, since they are the last risk set. A site with fewer than ``least``
    patients sends no sums and does not count. Raises InputError where no site has so many.
    """
    edges = plain.floats(edges_days, (None,), "coarse edges")
    table = plain.counts(counts, (None, edges.size), "coarse edges: patients per bin")
    total = table.sum(axis=1)
    table = np.where(total[:, None] < least, 0, table)
    if not table.any():
        raise InputError(f"coarse edges: no site has {least} patients; count training patients with an endpoint")

    def tells_of_nobody(held: NDArray[np.int64]) -> bool:
        return bool(((held == 0) | (held >= least)).all())

    kept: list[tuple[float, NDArray[np.int64]]] = []  # lower edge and patients of each joined bin, from the last one on
    held = table[:, -1].copy()
    for k in range(edges.size - 2, -1, -1):
        held = held + table[:, k]
        if held.any() and tells_of_nobody(held):
            kept.append((float(edges[k]), held))
            held = np.zeros_like(held)
    while kept and not (held.any() and tells_of_nobody(held)):  # what is left over joins its neighbours
        held = held + kept.pop()[1]
    return (0.0, *(edge for edge, _ in reversed(kept)), float(edges[-1]))
