"""Intervals of a federated C-index: a Poisson bootstrap whose tables add up over sites.

In resample b every patient counts W times, W ~ Poisson(1) (Hanley and MacGibbon, Computer Methods and Programs in
Biomedicine 83:57, 2006), which needs no knowledge of the other sites, so that resample b of the consortium is the sum
of the sites' resamples b. Two models are resampled alike, and their difference is paired.

What the tables tell: each is a random multiple of the site's own table. Who knew the weights could tell which patients
share a cell, so they are drawn from a seed that hashes the site's own patients and never leaves it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adamss_fl import plain
from adamss_fl.errors import InputError
from adamss_fl.federation.statistics.concordance import ConcordanceSums, cells_of
from adamss_fl.federation.statistics.pair_tables import Array, PairTallies, expected_pairs, pair_tallies
from adamss_fl.survival.bootstrap import Interval, resampled_pairs
from adamss_fl.survival.concordance import NoComparablePairs, check_risk
from adamss_fl.survival.endpoints import check_endpoints

_FIELDS = ("tables", "copies", "right_within", "comparable_within")
_LEVELS = (2.5, 97.5)


@dataclass(frozen=True, eq=False)
class ResampledSums:
    """Tables of B resamples; ``+`` adds sites.

    tables : (B, T, 2, R) drawn patients, see ``ConcordanceSums.table``. copies : (B,) pairs of a patient with an event
    and a copy of itself, which are no pairs. right_within, comparable_within : (B,) pairs inside the sites, as there;
    within : what the sites' own tables say of them.
    """

    tables: NDArray[np.int64]
    copies: NDArray[np.int64]
    right_within: Array
    comparable_within: Array
    within: PairTallies

    def __add__(self, other: ResampledSums) -> ResampledSums:
        if self.tables.shape != other.tables.shape:
            raise InputError(
                f"resampled tables: {self.tables.shape} and {other.tables.shape} cannot be added; ask every site for "
                "the same edges and number of resamples"
            )
        added = {name: getattr(self, name) + getattr(other, name) for name in (*_FIELDS, "within")}
        return ResampledSums(**added)

    def plain(self) -> dict[str, Any]:
        """JSON-able lists."""
        return {name: getattr(self, name).tolist() for name in _FIELDS}

    @classmethod
    def from_plain(cls, given: Any, samples: int, bins: tuple[int, int], table: ArrayLike) -> ResampledSums:
        """The inverse of ``plain`` for one site; ``table`` (T, 2, R) is that site's own.

        Raises InputError for other keys or shapes, patients drawn into a cell that holds none, or pairs inside the site
        that are negative or more often right than comparable.
        """
        found = plain.record(given, _FIELDS, "resampled tables")
        time_bins, risk_bins = bins
        tables = plain.counts(found["tables"], (samples, time_bins, 2, risk_bins), "resampled tables")
        copies = plain.counts(found["copies"], (samples,), "resampled tables: copies")
        if (tables[:, np.asarray(table) == 0] != 0).any():
            raise InputError("resampled tables: patients were drawn into a cell that holds none")
        right, comparable = (plain.floats(found[name], (samples,), f"resampled tables: {name}") for name in _FIELDS[2:])
        if (right < 0).any() or (right > comparable).any():
            raise InputError("resampled tables: pairs inside the site are negative, or more are right than comparable")
        return cls(tables, copies, right, comparable, pair_tallies(tables.astype(np.float64), same_patient=copies))

    @property
    def c_indices(self) -> Array:
        """(B,) the C-index of each resample, NaN where it has no comparable pair."""
        all_pairs = pair_tallies(self.tables.astype(np.float64), same_patient=self.copies)
        return _index(all_pairs, self.within, (self.right_within, self.comparable_within))


def resampled_sums(
    time_days: ArrayLike,
    event: ArrayLike,
    risk: ArrayLike,
    time_edges: Sequence[float],
    risk_edges: Sequence[float],
    samples: int,
    seed: int,
) -> ResampledSums:
    """A site's resampled tables; arguments as for ``concordance_sums``, ``seed`` from :func:`private_seed`.

    Raises InputError for malformed arrays or edges, or no resamples.
    """
    if samples < 1:
        raise InputError(f"resampled tables: {samples} resamples asked for; ask for at least 1")
    times, events = check_endpoints(time_days, event)
    risks = check_risk(risk, times.size)
    cells, shape = cells_of(times, events, risks, time_edges, risk_edges)
    weights = np.random.default_rng(seed).poisson(1.0, (samples, times.size))
    size = int(np.prod(shape))
    flat = (np.arange(samples)[:, None] * size + cells).ravel()
    tables = np.bincount(flat, weights.ravel(), minlength=samples * size)
    tables = tables.reshape(samples, *shape)
    copies = (weights * (weights - 1) // 2)[:, events].sum(axis=1)
    right, comparable = resampled_pairs(times, events, [risks], weights)
    within = pair_tallies(tables, same_patient=copies)
    return ResampledSums(tables.astype(np.int64), copies.astype(np.int64), right[0], comparable, within)


def private_seed(seed: int, patients: Sequence[str], time_days: ArrayLike) -> int:
    """A seed that a site can make again and nobody else: from the run's ``seed`` and a hash of its own patients."""
    days = np.asarray(time_days, dtype=np.float64)
    private = "\x1f".join(f"{patient}\x1e{day!r}" for patient, day in zip(patients, days.tolist(), strict=True))
    return int.from_bytes(hashlib.sha256(f"{seed}\x1d{private}".encode()).digest()[:16], "big")


def resampled_interval(c_index: float, sums: ConcordanceSums, resampled: ResampledSums) -> Interval:
    """95 % percentile interval of ``c_index``, the best estimate, by resampled tables that may be coarser than it used.

    sums : all sites' sums on the edges of ``resampled``; by how much the C-index that they give differs from
    ``c_index`` is added to every resample. Raises NoComparablePairs where no resample has a pair.
    """
    return _interval(c_index, resampled.c_indices - _own_index(sums))


def _own_index(sums: ConcordanceSums) -> float:
    own = np.asarray(sums.right_within), np.asarray(sums.comparable_within)
    return float(_index(pair_tallies(sums.table.astype(np.float64)), sums.within, own))


def _index(all_pairs: PairTallies, within: PairTallies, own: tuple[Array, Array]) -> Array:
    right, comparable = expected_pairs(all_pairs - within, within, own)
    right, comparable = right + own[0], comparable + own[1]
    return np.asarray(np.where(comparable > 0, right / np.where(comparable > 0, comparable, 1), np.nan))


def _interval(centre: float, deviations: Array) -> Interval:
    kept = deviations[np.isfinite(deviations)]
    if kept.size == 0:
        raise NoComparablePairs("bootstrap: no resample has a comparable pair; wait for more events")
    low, high = np.percentile(kept, _LEVELS)
    return Interval(
        centre + float(low), centre + float(high), samples=int(kept.size), excluded=int(deviations.size - kept.size)
    )
