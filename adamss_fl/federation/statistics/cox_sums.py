"""Sums over risk sets for an unstratified Cox regression, where all sites share one baseline hazard.

Times are a grid agreed beforehand. An event is counted at the first grid time at or after it; the censored are at risk
up to the last grid time at or before theirs. So the fit is exact where every event's time is on the grid, with ties as
they are there. Patients followed past the last grid time are at risk throughout; an event past it counts as censored.

What a site's sums tell: its events per grid time, and for each the sums over all of its patients still at risk, which
are those of everybody at beta 0. The difference of two neighbouring times' sums is that of the patients who left in
between, so a time at which one patient leaves gives away all of that patient's covariates; Efron's sums over tied
events do so for a lone event. A grid of all distinct event times therefore reveals, across the iterations, close to
every patient: agree on coarse times, or fit stratified by site (``cox_likelihood``), where nothing per time is sent.
Source: Lu et al., "WebDISCO", JAMIA 22:1212 (2015).
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from adamss_fl import plain
from adamss_fl.errors import InputError
from adamss_fl.federation.statistics.survival_counts import Counts, limited_counts
from adamss_fl.survival.endpoints import check_endpoints, to_float64

Ties = Literal["efron", "breslow"]
Array = NDArray[np.float64]

ROUNDING = 1e-9
"""How far below 0 a sum of squares may lie, relative to its terms."""


@dataclass(frozen=True)
class WeightedSums:
    """At each of K times, sums over some patients of w, w x and w x x', with w = exp(beta x) of p covariates.

    s0 : (K,); s1 : (K, p); s2 : (K, p, p).
    """

    s0: Array
    s1: Array
    s2: Array

    def __add__(self, other: "WeightedSums") -> "WeightedSums":
        return WeightedSums(self.s0 + other.s0, self.s1 + other.s1, self.s2 + other.s2)

    def plain(self) -> dict[str, Any]:
        """JSON-able lists."""
        return {"s0": self.s0.tolist(), "s1": self.s1.tolist(), "s2": self.s2.tolist()}

    @classmethod
    def from_plain(cls, given: Any, times: int, covariates: int, what: str) -> "WeightedSums":
        """The inverse of ``plain``; raises InputError for other keys or shapes, or what no patients can have."""
        found = plain.record(given, ("s0", "s1", "s2"), what)
        shapes = {"s0": (times,), "s1": (times, covariates), "s2": (times, covariates, covariates)}
        sums = cls(*(plain.floats(found[name], shape, f"{what}: {name}") for name, shape in shapes.items()))
        if not positive(sums.moments(), sums.moments()):
            raise InputError(f"{what}: s0, s1 and s2 are not sums over patients")
        return sums

    def moments(self) -> Array:
        """(K, 1 + p, 1 + p) sums of w (1, x)(1, x)', a positive semidefinite matrix at each time."""
        times, covariates = self.s1.shape
        found = np.empty((times, 1 + covariates, 1 + covariates))
        found[:, 0, 0] = self.s0
        found[:, 0, 1:] = found[:, 1:, 0] = self.s1
        found[:, 1:, 1:] = self.s2
        return found


@dataclass(frozen=True)
class CoxTimeSums:
    """What the partial likelihood of p covariates and its derivatives need of one site at one beta; ``+`` adds sites.

    times_days : K grid times, increasing. events : (K,) events at each. event_x : (p,) sum of x over all of these.
    at_risk : sums over those at risk at each time. tied : sums over the events at each time, for Efron's treatment of
    ties; None for Breslow's.
    """

    times_days: tuple[float, ...]
    events: Counts
    event_x: Array
    at_risk: WeightedSums
    tied: WeightedSums | None

    def __add__(self, other: "CoxTimeSums") -> "CoxTimeSums":
        if self.times_days != other.times_days or self.event_x.shape != other.event_x.shape:
            raise InputError(
                f"Cox sums: {self.event_x.size} covariates at {len(self.times_days)} times and {other.event_x.size} at "
                f"{len(other.times_days)} cannot be added; ask every site for the same covariates and times"
            )
        if (self.tied is None) != (other.tied is None):
            raise InputError("Cox sums: Efron's and Breslow's cannot be added; ask every site for the same ties")
        return CoxTimeSums(
            self.times_days,
            self.events + other.events,
            self.event_x + other.event_x,
            self.at_risk + other.at_risk,
            None if self.tied is None or other.tied is None else self.tied + other.tied,
        )

    def plain(self) -> dict[str, Any]:
        """JSON-able lists."""
        return {
            "times_days": list(self.times_days),
            "events": self.events.tolist(),
            "event_x": self.event_x.tolist(),
            "at_risk": self.at_risk.plain(),
            "tied": None if self.tied is None else self.tied.plain(),
        }

    @classmethod
    def from_plain(
        cls, given: Any, times_days: ArrayLike, covariates: int, patients: int, ties: Ties = "efron"
    ) -> "CoxTimeSums":
        """The inverse of ``plain`` for the times, covariates and ties that were asked, of a site of ``patients``.

        Raises InputError for other keys, times or shapes, or sums that no such site can have: more events than
        patients, an event with nobody at risk, risk sets that grow, or sums that break Cauchy and Schwarz's inequality.
        """
        found = plain.record(given, ("times_days", "events", "event_x", "at_risk", "tied"), "Cox sums")
        times = grid_times(times_days)
        if tuple(plain.floats(found["times_days"], (None,), "Cox sums: times_days")) != times:
            raise InputError("Cox sums: at other times than were asked; ask the site again")
        events = limited_counts(found["events"], (len(times),), patients, "Cox sums: events")
        event_x = plain.floats(found["event_x"], (covariates,), "Cox sums: event_x")
        at_risk = WeightedSums.from_plain(found["at_risk"], len(times), covariates, "Cox sums: at_risk")
        with np.errstate(over="ignore"):
            leaving = -np.diff(at_risk.moments(), axis=0)
        if not positive(leaving, at_risk.moments()[:-1]):
            raise InputError("Cox sums: a risk set is not part of the one before it")
        if ((events > 0) & (at_risk.s0 <= 0)).any():
            raise InputError("Cox sums: an event with nobody at risk")
        if not events.any() and event_x.any():
            raise InputError("Cox sums: covariates of events where there are none")
        if ties == "breslow":
            if found["tied"] is not None:
                raise InputError("Cox sums: sums over tied events, which Breslow's ties do not need")
            return cls(times, events, event_x, at_risk, None)
        tied = WeightedSums.from_plain(found["tied"], len(times), covariates, "Cox sums: tied")
        if ((tied.s0 > 0) != (events > 0)).any():
            raise InputError("Cox sums: sums over tied events where there are none, or none where there are")
        if not positive(at_risk.moments() - tied.moments(), at_risk.moments()):
            raise InputError("Cox sums: events that are not part of the risk set")
        return cls(times, events, event_x, at_risk, tied)


def cox_time_sums(
    x: ArrayLike,
    time_days: ArrayLike | Tensor,
    event: ArrayLike | Tensor,
    times_days: ArrayLike,
    beta: ArrayLike,
    ties: Ties = "efron",
) -> CoxTimeSums:
    """A site's sums.

    x : (N, p) covariates without missing values, best centred alike at all sites; time_days, event : (N,); times_days :
    (K,) increasing grid; beta : (p,). A site without patients or events sends zeros.
    Raises InputError for malformed arrays, or where exp(beta x) overflows.
    """
    values, times, events, factors = check_cox(x, time_days, event, beta)
    grid = grid_times(times_days)
    if ties not in ("efron", "breslow"):
        raise InputError(f"Cox sums: ties {ties!r} are unknown; say efron or breslow")
    with np.errstate(over="ignore", invalid="ignore"):
        weight = np.exp(values @ factors)
        weighted = weight[:, None] * values
        squares = weighted[:, :, None] * values[:, None, :]
    if not (np.isfinite(weight).all() and np.isfinite(squares).all()):
        raise InputError("Cox sums: exp(beta x) overflows; centre and scale the covariates")
    leaving, seen = leaving_places(times, events, grid)

    def per_time(chosen: NDArray[np.bool_]) -> WeightedSums:
        sums = WeightedSums(*(np.zeros((len(grid), *term.shape[1:])) for term in (weight, weighted, squares)))
        for total, term in ((sums.s0, weight), (sums.s1, weighted), (sums.s2, squares)):
            np.add.at(total, leaving[chosen], term[chosen])
        return sums

    gone = per_time(leaving >= 0)
    return CoxTimeSums(
        times_days=grid,
        events=np.bincount(leaving[seen], minlength=len(grid)).astype(np.int64),
        event_x=values[seen].sum(axis=0),
        at_risk=WeightedSums(*(np.cumsum(term[::-1], axis=0)[::-1] for term in (gone.s0, gone.s1, gone.s2))),
        tied=per_time(seen) if ties == "efron" else None,
    )


def leaving_places(
    times: Array, events: NDArray[np.bool_], grid: tuple[float, ...]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(N,) the last place on the grid at which each patient is at risk, -1 for none; and whose event is counted there.

    Sums at neighbouring places differ by the patients who leave at the earlier one, Efron's by those with an event.
    """
    first_after = np.searchsorted(grid, times, side="left")
    seen = events & (first_after < len(grid))
    leaving = np.where(events, first_after, np.searchsorted(grid, times, side="right") - 1)
    return np.minimum(leaving, len(grid) - 1), seen


def check_cox(
    x: ArrayLike, time_days: ArrayLike | Tensor, event: ArrayLike | Tensor, beta: ArrayLike
) -> tuple[Array, Array, NDArray[np.bool_], Array]:
    """Covariates (N, p), times (N,), events (N,) and beta (p,); raises InputError where they are not that."""
    values, factors = to_float64(x), to_float64(beta)
    times, events = check_endpoints(time_days, event)
    if values.ndim != 2 or values.shape[0] != times.size or factors.shape != values.shape[1:] or not factors.size:
        raise InputError(
            f"Cox sums: covariates {values.shape}, beta {factors.shape} and {times.size} endpoints disagree; give "
            "(N, p), (p,) and N"
        )
    if not (np.isfinite(values).all() and np.isfinite(factors).all()):
        raise InputError("Cox sums: a covariate or beta is not finite; leave out patients with missing covariates")
    return values, times, events, factors


def grid_times(times_days: ArrayLike) -> tuple[float, ...]:
    """Times (K,) in days. Raises InputError where there is none, one is negative or not finite, or they do not rise."""
    times = plain.floats(times_days, (None,), "Cox grid")
    if not times.size or times[0] < 0 or (np.diff(times) <= 0).any():
        raise InputError("Cox grid: times must be one or more days of 0 or more, and increase strictly; mend them")
    return tuple(times.tolist())


def positive(matrices: Array, scales: Array, slack: float = ROUNDING) -> bool:
    """Whether matrices (K, q, q) are symmetric and positive semidefinite, up to rounding in sums of size ``scales``.

    scales : (K, q, q), of which the diagonals are the sizes; slack : rounding, relative to them.
    """
    size = np.diagonal(scales, axis1=1, axis2=2)
    if (size < 0).any():
        return False
    root = np.sqrt(size)
    unit = root[:, :, None] * root[:, None, :]
    if (matrices[unit == 0] != 0).any():
        return False
    with np.errstate(over="ignore"):
        scaled = np.divide(matrices, unit, out=np.zeros_like(matrices), where=unit > 0)
    if not (np.abs(scaled) <= 1 + slack).all():  # Cauchy and Schwarz; also keeps the infinite from the eigenvalues
        return False
    symmetric = (np.abs(scaled - scaled.swapaxes(1, 2)) <= slack).all()
    return bool(symmetric and (np.linalg.eigvalsh(scaled) >= -slack).all())
