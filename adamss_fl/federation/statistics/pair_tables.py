"""Pairs of patients counted in a table of time bins by risk bins: what the table decides, and what it leaves open.

A pair is comparable where the earlier time is an event (at equal times an event comes before a censoring, as in
lifelines and scikit-survival), and right where the patient whose event came first has the higher risk. Patients of one
bin have an unknown order in it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

PRIOR_PAIRS = 1000.0
"""Open pairs inside sites that must be counted before they say more of those across than ignorance does."""

SameBin = Literal["unknown", "equal"]
"""What is said of two values in one bin: their order is unknown, or they are equal (the data lie on the grid)."""


@dataclass(frozen=True)
class PairTallies:
    """Pairs by what a table says of them; a pair counts with the weight of the patient whose event came first.

    right, wrong : comparable, in different bins of risk. same_risk : comparable, in one bin of risk.
    both_events : two events in one time bin, whichever came first; 0 is told of their risks.
    maybe_right, maybe_wrong, maybe_same_risk : an event and a censoring in one time bin, comparable only if the event
    came first; then right, wrong or open. Each is a float or has the shape of the tables' leading axes.
    """

    right: Array
    wrong: Array
    same_risk: Array
    both_events: Array
    maybe_right: Array
    maybe_wrong: Array
    maybe_same_risk: Array

    def __add__(self, other: PairTallies) -> PairTallies:
        return PairTallies(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(PairTallies)))

    def __sub__(self, other: PairTallies) -> PairTallies:
        return PairTallies(*(getattr(self, each.name) - getattr(other, each.name) for each in fields(PairTallies)))

    def estimate(self, same_bin: SameBin = "unknown") -> tuple[Array, Array]:
        """Expected (right, comparable) pairs, a pair of equal risk being half a right one.

        Where the order in a bin is unknown, each order is as likely as the other: an event came before a censoring of
        its time bin in half the pairs, and half the pairs of one risk bin, or of two events in one time bin, are right.
        """
        first, events = (0.5, 1.0) if same_bin == "unknown" else (1.0, 0.0)
        right = self.right + 0.5 * self.same_risk + 0.5 * events * self.both_events
        right = right + first * (self.maybe_right + 0.5 * self.maybe_same_risk)
        comparable = self.right + self.wrong + self.same_risk + events * self.both_events
        return right, comparable + first * (self.maybe_right + self.maybe_wrong + self.maybe_same_risk)

    def estimate_of_open(self) -> tuple[Array, Array]:
        """Expected (right, comparable) of the pairs that the table leaves open."""
        right, comparable = self.estimate()
        return right - self.right, comparable - self.right - self.wrong

    def least(self) -> tuple[Array, Array]:
        """(right, comparable) pairs where all that is open turns out as badly for the C-index as it can."""
        wrong = self.wrong + self.same_risk + self.both_events + self.maybe_wrong + self.maybe_same_risk
        return self.right, self.right + wrong

    def most(self) -> tuple[Array, Array]:
        """(right, comparable) pairs where all that is open turns out as well for the C-index as it can."""
        right = self.right + self.same_risk + self.both_events + self.maybe_right + self.maybe_same_risk
        return right, right + self.wrong

    @property
    def open_share(self) -> Array:
        """Share of the possibly comparable pairs of which the table leaves something open."""
        decided = self.right + self.wrong
        kept_open = self.same_risk + self.both_events + self.maybe_right + self.maybe_wrong + self.maybe_same_risk
        total = decided + kept_open
        return np.asarray(np.where(total > 0, kept_open / np.where(total > 0, total, 1), 0.0))


def expected_pairs(
    across: PairTallies,
    within: PairTallies,
    own: tuple[Array, Array],
    mean_weight: Array | float = 1.0,
    open_pairs: tuple[tuple[Array, Array], tuple[Array, Array]] | None = None,
    prior_pairs: float = PRIOR_PAIRS,
) -> tuple[Array, Array]:
    """Expected (right, comparable) pairs across sites: open ones turn out as inside the sites, where that is known.

    across, within : what the tables say of the pairs across and inside the sites; own : (right, comparable) inside
    them, as the sites have counted. mean_weight : of an event as the first of a pair. open_pairs : what is expected
    beforehand of the open ones across and inside, (right, comparable) each; see ``PairTallies.estimate`` where None.

    Inside the sites the tables leave pairs open, too, of which the counts tell what they were. In what they differ from
    the expectation, the pairs across are taken to differ as well, shrunk as by ``PRIOR_PAIRS`` pairs that were as
    expected.
    """
    of_across, of_within = open_pairs or (across.estimate_of_open(), within.estimate_of_open())
    own_right, own_comparable = of_within
    right, comparable = of_across
    seen_right, seen_comparable = own[0] - within.right, own[1] - within.right - within.wrong
    prior = prior_pairs * mean_weight
    known = (own_comparable > 0) & (comparable > 0) & (seen_comparable > 0)
    safe_own, safe, safe_seen = (np.where(known, pairs, 1.0) for pairs in (own_comparable, comparable, seen_comparable))
    now = comparable * (safe_seen + prior) / (safe_own + prior)
    change = (seen_right - own_right / safe_own * safe_seen) / (safe_seen + prior)
    share = np.clip(right / safe + change, 0.0, 1.0)
    right, comparable = np.where(known, share * now, right), np.where(known, now, comparable)
    return np.asarray(across.right + right), np.asarray(across.right + across.wrong + comparable)


def pair_tallies(
    table: NDArray[Any], first: Array | None = None, same_patient: NDArray[Any] | float = 0.0
) -> PairTallies:
    """All pairs in ``table`` (..., T, 2, R): censored (index 0) and events (index 1) by time bin and risk bin.

    first : (..., T, R) summed weights of the events as the first of a pair, their number where None.
    same_patient : pairs of a patient with a copy of itself that a resample drew, counted among ``both_events``.
    """
    censored, events = table[..., 0, :], table[..., 1, :]
    weight = events if first is None else first
    patients = censored + events
    later = patients[..., ::-1, :].cumsum(-2)[..., ::-1, :] - patients
    right, wrong, same = _by_risk(weight, later)
    maybe_right, maybe_wrong, maybe_same = _by_risk(weight, censored)
    in_bin = weight.sum(-1)
    both = (in_bin * events.sum(-1) - in_bin).sum(-1) / 2 - same_patient
    return PairTallies(right, wrong, same, both, maybe_right, maybe_wrong, maybe_same)


def _by_risk(first: Array, second: Array) -> tuple[Array, Array, Array]:
    """Weighted pairs of ``first`` with ``second`` (..., T, R) of its time bin, by risk bin: lower, higher, equal."""
    lower = second.cumsum(-1) - second
    higher = second.sum(-1, keepdims=True) - lower - second
    return (first * lower).sum((-2, -1)), (first * higher).sum((-2, -1)), (first * second).sum((-2, -1))
