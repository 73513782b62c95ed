"""The C-index over all pairs of a consortium's patients, without a row of any patient.

Harrell's C (Harrell et al., Statistics in Medicine 15:361, 1996) and Uno's C (Uno et al., ibid. 30:1105, 2011), which
weighs a pair by 1/G^2 at its event, G being the censoring curve. Pairs *within* a site are counted there, exactly.
Pairs *across* sites come from a table that the sites' tables add up to: patients by time bin, event and risk bin, on
edges common to all. Most pairs lie in different bins and are decided by it; for the rest there is an expectation and a
guaranteed bound.

What the sums tell: how many of a site's patients fall into each cell, and how often the model is right within the site.
A cell may hold one patient: who knows a patient's time to within a bin and that the patient is in the study, may read
the event and the risk to within a bin. ``fewest_in_a_cell`` says how few, so that a site can refuse a table that is too
fine; fewer, wider bins widen the bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adamss_fl import plain
from adamss_fl.errors import InputError
from adamss_fl.federation.statistics.pair_tables import Array, PairTallies, SameBin, expected_pairs, pair_tallies
from adamss_fl.survival.concordance import NoComparablePairs, check_risk, pairs_of_events
from adamss_fl.survival.endpoints import check_endpoints

_FIELDS = ("table", "first", "right_within", "comparable_within")
_SLACK = 1e-9


@dataclass(frozen=True, eq=False)
class ConcordanceSums:
    """A site's sums; ``+`` adds sites.

    table : (T, 2, R) patients, censored and with an event, by time bin and risk bin.
    first : (T, R) summed weights of the events (their number for Harrell's C).
    right_within, comparable_within : weights of the comparable pairs inside the sites, a pair of equal risk being half
        a right one. within : what the sites' own tables say of these pairs.
    """

    table: NDArray[np.int64]
    first: Array
    right_within: float
    comparable_within: float
    within: PairTallies

    def __add__(self, other: ConcordanceSums) -> ConcordanceSums:
        if self.table.shape != other.table.shape:
            raise InputError(
                f"concordance table: {self.table.shape} and {other.table.shape} (time, event, risk) cannot be added; "
                "ask every site for the same edges"
            )
        return ConcordanceSums(
            self.table + other.table,
            self.first + other.first,
            self.right_within + other.right_within,
            self.comparable_within + other.comparable_within,
            self.within + other.within,
        )

    @property
    def counts_pairs(self) -> bool:
        """Whether every event weighs 1, as for Harrell's C."""
        return bool((self.first == self.table[:, 1]).all())

    @property
    def patients(self) -> int:
        """All patients in the table."""
        return int(self.table.sum())

    @property
    def fewest_in_a_cell(self) -> int:
        """The least number of patients in a cell that holds any; 0 where all are empty."""
        held = self.table[self.table > 0]
        return int(held.min()) if held.size else 0

    def plain(self) -> dict[str, Any]:
        """JSON-able lists."""
        return {
            "table": self.table.tolist(),
            "first": self.first.tolist(),
            "right_within": self.right_within,
            "comparable_within": self.comparable_within,
        }

    @classmethod
    def from_plain(cls, given: Any, bins: tuple[int, int], patients: int | None = None) -> ConcordanceSums:
        """The inverse of ``plain`` for one site's sums on ``bins`` (time, risk).

        Raises InputError for other keys or shapes and for sums that no patients have: counts that are negative or not
        whole, other than ``patients`` in all, weights without an event, or pairs inside the site that its own table
        rules out.
        """
        found = plain.record(given, _FIELDS, "concordance table")
        time_bins, risk_bins = bins
        table = plain.counts(found["table"], (time_bins, 2, risk_bins), "concordance table")
        first = plain.floats(found["first"], (time_bins, risk_bins), "concordance table: first")
        right, comparable = (
            float(plain.floats(found[name], (), f"concordance table: {name}"))
            for name in ("right_within", "comparable_within")
        )
        if patients is not None and table.sum() != patients:
            raise InputError("concordance table: it does not hold as many patients as the site has")
        if (first < 0).any() or (first[table[:, 1] == 0] != 0).any():
            raise InputError("concordance table: a weight is negative, or there is one without an event")
        sums = cls(table, first, right, comparable, pair_tallies(table.astype(np.float64), first))
        refuse_impossible(sums.within, (right, comparable), sums.counts_pairs)
        return sums


def refuse_impossible(tallies: PairTallies, own: tuple[float, float], counts_pairs: bool = True) -> None:
    """Raise InputError where a site's ``own`` (right, comparable) pairs are not those of any patients in its table.

    tallies : what the table says of them. counts_pairs : False where events weigh differently.
    """
    right, comparable = own
    decided = tallies.right + tallies.wrong + tallies.same_risk
    possible = decided + tallies.both_events + tallies.maybe_right + tallies.maybe_wrong + tallies.maybe_same_risk
    # Weights of one bin differ, so that of two events in it the heavier may be the first.
    slack = _SLACK * (1 + possible) + (0.0 if counts_pairs else tallies.both_events)
    wrong = comparable - right
    if not decided - slack <= comparable <= possible + slack or right < 0 or wrong < -slack:
        raise InputError("concordance table: more or fewer comparable pairs than its patients make")
    if right < tallies.right - slack or wrong < tallies.wrong - slack:
        raise InputError("concordance table: its pairs are more often right or wrong than its table allows")


@dataclass(frozen=True)
class AllPairs:
    """A C-index over all pairs of all sites' patients.

    c_index : the estimate; low, high : it is certainly between them. within_sites : over the pairs inside sites alone,
        exact, None where there is none. comparable_pairs : their (expected) weight; open_share : part of the possibly
        comparable pairs of which the table leaves something open.
    """

    c_index: float
    low: float
    high: float
    within_sites: float | None
    comparable_pairs: float
    comparable_within: float
    open_share: float
    patients: int
    events: int


def bin_of(values: ArrayLike, edges: ArrayLike) -> NDArray[np.int64]:
    """The bin (N,) of each value among ``edges`` (B - 1,), increasing: bin k holds edge k-1 < value <= edge k."""
    return np.searchsorted(np.asarray(edges, dtype=np.float64), np.asarray(values, dtype=np.float64), side="left")


def concordance_sums(
    time_days: ArrayLike,
    event: ArrayLike,
    risk: ArrayLike,
    time_edges: Sequence[float],
    risk_edges: Sequence[float],
    first_weight: ArrayLike | None = None,
) -> ConcordanceSums:
    """A site's sums.

    time_days, event, risk : (N,); time_edges (T - 1,), risk_edges (R - 1,) increasing inner edges, see :func:`bin_of`.
    first_weight : (N,) weight of each patient's event as the first of a pair, for Uno's C 1/G(t)^2, or 0 from the
        truncation time on; 1 where None. Raises InputError for malformed arrays or edges.
    """
    times, events = check_endpoints(time_days, event)
    risks = check_risk(risk, times.size)
    cells, shape = cells_of(times, events, risks, time_edges, risk_edges)
    weights = np.ones(times.size) if first_weight is None else np.asarray(first_weight, dtype=np.float64)
    if weights.shape != times.shape or not np.isfinite(weights).all() or (weights < 0).any():
        raise InputError("concordance table: weights must be one finite number of 0 or more per patient")
    weights = np.where(events, weights, 0.0)
    pairs = pairs_of_events(times, events, risks)
    tied = pairs.comparable - pairs.concordant - pairs.discordant
    size = int(np.prod(shape))
    table = np.bincount(cells, minlength=size).reshape(shape).astype(np.int64)
    first = np.bincount(cells, weights, minlength=size).reshape(shape)[:, 1].astype(np.float64)
    return ConcordanceSums(
        table=table,
        first=first,
        right_within=float(weights @ (pairs.concordant + 0.5 * tied)),
        comparable_within=float(weights @ pairs.comparable),
        within=pair_tallies(table.astype(np.float64), first),
    )


def cells_of(
    times: Array, events: NDArray[np.bool_], risks: Array, time_edges: Sequence[float], risk_edges: Sequence[float]
) -> tuple[NDArray[np.int64], tuple[int, int, int]]:
    """The flat cell (N,) of each patient in a table of the returned shape."""
    for name, edges in (("time", time_edges), ("risk", risk_edges)):
        inner = plain.floats(list(edges), (None,), f"concordance table: {name} edges") if len(edges) else np.zeros(0)
        if (np.diff(inner) <= 0).any():
            raise InputError(f"concordance table: {name} edges do not increase; give each once, in order")
    shape = (len(time_edges) + 1, 2, len(risk_edges) + 1)
    place = (bin_of(times, time_edges), events.astype(np.int64), bin_of(risks, risk_edges))
    return np.asarray(np.ravel_multi_index(place, shape), dtype=np.int64), shape


def all_pairs(sums: ConcordanceSums, same_bin: SameBin = "unknown") -> AllPairs:
    """The C-index over all pairs from the sum of the sites' sums: exact within sites, from the table across them.

    same_bin : ``equal`` where times and risks lie on the grid, so that two in one bin are tied and nothing is open.
    Raises NoComparablePairs where no pair may be comparable.
    """
    across = pair_tallies(sums.table.astype(np.float64), sums.first) - sums.within
    if same_bin == "equal":
        right, comparable = _with_own(across.estimate(same_bin), sums)
    else:
        own = np.asarray(sums.right_within), np.asarray(sums.comparable_within)
        mean_weight = float(sums.first.sum()) / max(int(sums.table[:, 1].sum()), 1)
        right, comparable = _with_own(expected_pairs(across, sums.within, own, mean_weight), sums)
    if comparable <= 0:
        raise NoComparablePairs("concordance: no comparable pair at or across the sites; wait for more events")
    is_open = same_bin == "unknown"
    low, high = _extremes(across, sums) if is_open else (right / comparable, right / comparable)
    return AllPairs(
        c_index=right / comparable,
        low=low,
        high=high,
        within_sites=sums.right_within / sums.comparable_within if sums.comparable_within > 0 else None,
        comparable_pairs=comparable,
        comparable_within=sums.comparable_within,
        open_share=float(across.open_share) if is_open else 0.0,
        patients=sums.patients,
        events=int(sums.table[:, 1].sum()),
    )


def _with_own(across: tuple[Array, Array], sums: ConcordanceSums) -> tuple[float, float]:
    """(right, comparable) pairs across sites and inside them."""
    return float(across[0]) + sums.right_within, float(across[1]) + sums.comparable_within


def _extremes(across: PairTallies, sums: ConcordanceSums) -> tuple[float, float]:
    """The least and the greatest C-index that the patients can have.

    Of two events in one time bin either may be the first, and weighs then what it weighs; where weights differ, the
    heavier is taken, which is at most twice the mean of the two.
    """
    open_pairs = across if sums.counts_pairs else replace(across, both_events=2 * across.both_events)
    return extremes(open_pairs, (sums.right_within, sums.comparable_within))


def extremes(across: PairTallies, own: tuple[float, float]) -> tuple[float, float]:
    """The least and the greatest C-index of pairs ``across`` sites and ``own`` (right, comparable) ones inside them."""
    (least_right, most_comparable), (most_right, least_comparable) = across.least(), across.most()
    low = (least_right + own[0], most_comparable + own[1])
    high = (most_right + own[0], least_comparable + own[1])
    return (
        float(low[0] / low[1]) if low[1] > 0 else 0.0,
        float(high[0] / high[1]) if high[1] > 0 else 1.0,
    )
