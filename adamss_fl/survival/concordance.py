"""Harrell's concordance index with its counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from adamss_fl.errors import InputError
from adamss_fl.survival.endpoints import check_endpoints, to_float64


class NoComparablePairs(InputError):
    """No two patients whose order of events is known, so that a concordance index does not exist."""


@dataclass(frozen=True)
class Concordance:
    """Pairs of patients, counted. Counts of different sites add up with ``+`` (pairs *within* the sites).

    concordant, discordant : comparable pairs ordered rightly and wrongly by the risk.
    tied_risk : comparable pairs of equal risk; each is worth one half.
    tied_time : of the comparable pairs, those at equal times (one event, one censored).
    """

    concordant: int = 0
    discordant: int = 0
    tied_risk: int = 0
    tied_time: int = 0

    @property
    def comparable_pairs(self) -> int:
        """Pairs whose order of events is known."""
        return self.concordant + self.discordant + self.tied_risk

    @property
    def c_index(self) -> float:
        """(concordant + tied_risk / 2) / comparable_pairs, in [0, 1]. Raises NoComparablePairs where there is none."""
        if self.comparable_pairs == 0:
            raise NoComparablePairs("concordance: no comparable pair; evaluate on more patients with events")
        return (self.concordant + 0.5 * self.tied_risk) / self.comparable_pairs

    def __add__(self, other: Concordance) -> Concordance:
        return Concordance(
            self.concordant + other.concordant,
            self.discordant + other.discordant,
            self.tied_risk + other.tied_risk,
            self.tied_time + other.tied_time,
        )

    merge = __add__


def concordance(time_days: ArrayLike | Tensor, event: ArrayLike | Tensor, risk: ArrayLike | Tensor) -> Concordance:
    """Harrell's C: among pairs whose first event is known, how often the patient with the event had the higher risk.

    time_days, event, risk : (N,); a higher risk says an earlier event. A pair is comparable where the earlier time is
    an event, or times are equal and exactly one is an event (that one is taken as first), as in lifelines and
    scikit-survival. Takes O(N log N) time.

    Raises NoComparablePairs where there is none, InputError for bad endpoints or a risk that is not finite.
    Source: Harrell et al., Statistics in Medicine 15:361-387 (1996).
    """
    counts = concordance_counts(time_days, event, risk)
    if counts.comparable_pairs == 0:
        raise NoComparablePairs("concordance: no comparable pair; evaluate on more patients with events")
    return counts


def concordance_counts(
    time_days: ArrayLike | Tensor, event: ArrayLike | Tensor, risk: ArrayLike | Tensor
) -> Concordance:
    """As ``concordance``, but all counts are 0 where no pair is comparable, so that a small site's can be added up."""
    times, events = check_endpoints(time_days, event)
    pairs = pairs_of_events(times, events, risk)
    concordant, discordant = int(pairs.concordant.sum()), int(pairs.discordant.sum())
    tied_risk = int(pairs.comparable.sum()) - concordant - discordant
    return Concordance(concordant, discordant, tied_risk, _event_and_censored_together(times, events))


@dataclass(frozen=True)
class PairsOfEvents:
    """For each patient (N,) the comparable pairs in which that patient has the first event; 0 for the censored.

    comparable = concordant + discordant + those of equal risk.
    """

    comparable: NDArray[np.int64]
    concordant: NDArray[np.int64]
    discordant: NDArray[np.int64]


def pairs_of_events(
    time_days: ArrayLike | Tensor, event: ArrayLike | Tensor, risk: ArrayLike | Tensor
) -> PairsOfEvents:
    """Comparable pairs by the patient whose event came first, in O(N log N); arguments as for ``concordance``."""
    times, events = check_endpoints(time_days, event)
    risks = check_risk(risk, times.size)
    if times.size == 0:
        nobody = np.zeros(0, dtype=np.int64)
        return PairsOfEvents(nobody, nobody, nobody)
    # At equal times events come before the censored; equal keys are never comparable.
    key = np.unique(np.stack([times, ~events], axis=1), axis=0, return_inverse=True)[1].reshape(-1)
    rank = np.unique(risks, return_inverse=True)[1].reshape(-1)
    later = times.size - np.searchsorted(np.sort(key), key, side="right")
    return PairsOfEvents(
        comparable=np.where(events, later, 0),
        concordant=_later_and_lower(key, rank, events),
        discordant=_later_and_lower(key, rank.max() - rank, events),
    )


def check_risk(risk: ArrayLike | Tensor, patients: int) -> NDArray[np.float64]:
    """Risks (N,) as float64. Raises InputError where there are not ``patients`` of them or one is not finite."""
    risks = to_float64(risk)
    if risks.shape != (patients,):
        raise InputError(f"concordance: risks {risks.shape} for {patients} patients; give one risk per patient")
    if not np.isfinite(risks).all():
        raise InputError("concordance: a risk is not finite; the model that gave it has diverged")
    return risks


def _later_and_lower(key: NDArray[np.intp], rank: NDArray[np.intp], events: NDArray[np.bool_]) -> NDArray[np.int64]:
    """For each event i the j with key_j > key_i and rank_j < rank_i, by a merge sort without the merging; else 0.

    Inside equal keys ranks ascend, so that no later position there has a lower rank and the strict order comes free.
    """
    order = np.lexsort((rank, key))
    ranks, queries, n = rank[order].astype(np.int64), events[order], order.size
    position = np.arange(n)
    found = np.zeros(n, dtype=np.int64)
    for level in range(int(n - 1).bit_length()):
        right = (position >> level) & 1 == 1
        first_of_block = (position >> (level + 1)) * n
        keys = first_of_block + ranks
        candidates = np.sort(keys[right])
        asked = ~right & queries
        lower = np.searchsorted(candidates, keys[asked], side="left")
        found[asked] += lower - np.searchsorted(candidates, first_of_block[asked], side="left")
    pairs = np.zeros(n, dtype=np.int64)
    pairs[order] = found
    return pairs


def _event_and_censored_together(times: NDArray[np.float64], events: NDArray[np.bool_]) -> int:
    moment = np.unique(times, return_inverse=True)[1].reshape(-1)
    return int((np.bincount(moment, weights=events) * np.bincount(moment, weights=~events)).sum())
