"""The C-index over all pairs from boxes (``boxes``): for sites whose table would have cells of too few patients.

Pairs inside a site are counted there. Of the pairs across sites boxes decide those that lie apart both in time and in
risk; the bounds take the rest at their worst and best. The estimate takes a patient to be as likely in one cell of its
box as in another, and is corrected by what the sites have counted, as with tables (``expected_pairs``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adamss_fl import plain
from adamss_fl.errors import InputError
from adamss_fl.federation.statistics.boxes import Boxes, box_tallies, make_boxes
from adamss_fl.federation.statistics.cells import LEAST_PATIENTS
from adamss_fl.federation.statistics.concordance import (
    AllPairs,
    cells_of,
    concordance_sums,
    extremes,
    refuse_impossible,
)
from adamss_fl.federation.statistics.pair_tables import Array, PairTallies, expected_pairs, pair_tallies
from adamss_fl.survival.bootstrap import Interval, resampled_pairs
from adamss_fl.survival.concordance import NoComparablePairs, check_risk
from adamss_fl.survival.endpoints import check_endpoints

_FIELDS = ("boxes", "right_within", "comparable_within", "drawn", "drawn_right", "drawn_comparable")
_LEVELS = (2.5, 97.5)

PRIOR_PAIRS = 100.0
"""As in ``pair_tables``, but fewer: in a large box it is not seen that risk goes with time, so the counts tell more."""


@dataclass(frozen=True, eq=False)
class BoxSums:
    """A site's boxes and pairs, and those of B resamples.

    right_within, comparable_within : pairs inside the site, one of equal risk being half a right one.
    drawn : (B, K) patients drawn into each box; drawn_right, drawn_comparable : (B,) pairs inside, see ``resampling``.
    """

    boxes: Boxes
    right_within: float
    comparable_within: float
    drawn: NDArray[np.int64]
    drawn_right: Array
    drawn_comparable: Array

    def plain(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "boxes": self.boxes.plain(),
            "right_within": self.right_within,
            "comparable_within": self.comparable_within,
            **{name: getattr(self, name).tolist() for name in _FIELDS[3:]},
        }

    @classmethod
    def from_plain(cls, given: Any, bins: tuple[int, int], patients: int, samples: int) -> BoxSums:
        """The inverse of ``plain`` for one site with ``patients``, on ``bins`` (time, risk).

        Raises InputError for other keys or shapes, boxes that no such site makes, pairs inside it that they rule out,
        or resampled pairs that are negative or more often right than comparable.
        """
        found = plain.record(given, _FIELDS, "box sums")
        boxes = Boxes.from_plain(found["boxes"], bins, patients)
        right, comparable = (float(plain.floats(found[name], (), f"box sums: {name}")) for name in _FIELDS[1:3])
        refuse_impossible(box_tallies(boxes), (right, comparable))
        shape = (samples, boxes.count) if samples else (0,)
        drawn = plain.counts(found["drawn"], shape, "box sums: drawn").reshape(samples, boxes.count)
        pairs = [plain.floats(found[name], (samples,), f"box sums: {name}") for name in _FIELDS[4:]]
        if (pairs[0] < 0).any() or (pairs[0] > pairs[1]).any():
            raise InputError("box sums: resampled pairs are negative, or more are right than comparable")
        return cls(boxes, right, comparable, drawn, *pairs)


def box_sums(
    time_days: ArrayLike,
    event: ArrayLike,
    risk: ArrayLike,
    time_edges: Sequence[float],
    risk_edges: Sequence[float],
    samples: int,
    seed: int,
    least: int = LEAST_PATIENTS,
) -> BoxSums | None:
    """A site's sums; arguments as for ``concordance_sums`` and ``resampled_sums``. None as from ``make_boxes``.

    Raises InputError for malformed arrays or edges, or a number of ``samples`` below 0.
    """
    if samples < 0:
        raise InputError(f"box sums: {samples} resamples asked for; ask for 0 or more")
    times, events = check_endpoints(time_days, event)
    risks = check_risk(risk, times.size)
    sums = concordance_sums(times, events, risks, time_edges, risk_edges)
    boxes = make_boxes(sums.table, least)
    if boxes is None:
        return None
    cells, shape = cells_of(times, events, risks, time_edges, risk_edges)
    weights = np.random.default_rng(seed).poisson(1.0, (samples, times.size))
    in_box = boxes.spread((shape[0], shape[2])).reshape(boxes.count, -1)[:, cells] > 0
    right, comparable = resampled_pairs(times, events, [risks], weights)
    return BoxSums(boxes, sums.right_within, sums.comparable_within, weights @ in_box.T, right[0], comparable)


@dataclass(frozen=True, eq=False)
class _Across:
    """Pairs across sites: what the boxes decide, and expected (right, comparable) of all of them, before and after the
    correction by what the sites have counted.
    """

    decided: PairTallies
    before: tuple[Array, Array]
    after: tuple[Array, Array]


def all_pairs_of_boxes(sites: Sequence[BoxSums], bins: tuple[int, int]) -> AllPairs:
    """The C-index over all pairs of the patients of ``sites``, on ``bins`` (time, risk).

    Raises NoComparablePairs where no pair may be comparable.
    """
    own = _own(sites)
    across = _across(sites, bins)
    right, comparable = float(across.after[0]) + own[0], float(across.after[1]) + own[1]
    if comparable <= 0:
        raise NoComparablePairs("concordance: no comparable pair at or across the sites; wait for more events")
    low, high = extremes(across.decided, own)
    return AllPairs(
        c_index=right / comparable,
        low=low,
        high=high,
        within_sites=own[0] / own[1] if own[1] > 0 else None,
        comparable_pairs=comparable,
        comparable_within=own[1],
        open_share=float(across.decided.open_share),
        patients=int(sum(site.boxes.patients.sum() for site in sites)),
        events=int(sum(site.boxes.patients[site.boxes.event == 1].sum() for site in sites)),
    )


def box_interval(sites: Sequence[BoxSums], bins: tuple[int, int]) -> Interval:
    """95 % percentile interval of the C-index of :func:`all_pairs_of_boxes`, by the sites' resamples.

    The correction of the estimate is that of the patients themselves in every resample. Raises NoComparablePairs where
    no resample has a pair.
    """
    across = _across(sites, bins)
    factors = [after / before if before > 0 else 1.0 for before, after in zip(across.before, across.after, strict=True)]
    tables = [np.tensordot(site.drawn, site.boxes.spread(bins), axes=1) for site in sites]
    right, comparable = _difference(reduce(add, tables), tables)
    right = factors[0] * right + sum(site.drawn_right for site in sites)
    comparable = factors[1] * comparable + sum(site.drawn_comparable for site in sites)
    kept = comparable > 0
    if not kept.any():
        raise NoComparablePairs("bootstrap: no resample has a comparable pair; wait for more events")
    low, high = np.percentile(right[kept] / comparable[kept], _LEVELS)
    return Interval(float(low), float(high), samples=int(kept.sum()), excluded=int((~kept).sum()))


def _own(sites: Sequence[BoxSums]) -> tuple[float, float]:
    return sum(site.right_within for site in sites), sum(site.comparable_within for site in sites)


def _across(sites: Sequence[BoxSums], bins: tuple[int, int]) -> _Across:
    within = reduce(add, (box_tallies(site.boxes) for site in sites))
    decided = box_tallies(reduce(add, (site.boxes for site in sites))) - within
    shares = [site.boxes.spread(bins) for site in sites]
    tables = [np.tensordot(site.boxes.patients, share, axes=1) for site, share in zip(sites, shares, strict=True)]
    before = _difference(reduce(add, tables), tables)
    # A patient that is spread over cells would make pairs with itself: across sites they cancel, inside they do not.
    alone = [pair_tallies(share).estimate() for share in shares]
    inside = [
        tuple(
            whole - (site.boxes.patients * own).sum()
            for whole, own in zip(pair_tallies(table).estimate(), lone, strict=True)
        )
        for site, table, lone in zip(sites, tables, alone, strict=True)
    ]
    inside_right, inside_comparable = (np.asarray(sum(each[part] for each in inside)) for part in (0, 1))
    open_pairs = (_open(before, decided), _open((inside_right, inside_comparable), within))
    right, comparable = _own(sites)
    own = np.asarray(right), np.asarray(comparable)
    after = expected_pairs(decided, within, own, open_pairs=open_pairs, prior_pairs=PRIOR_PAIRS)
    return _Across(decided, before, after)


def _difference(total: Array, tables: Sequence[Array]) -> tuple[Array, Array]:
    """Expected (right, comparable) pairs across sites, from the sum of their tables (..., T, 2, R) and their own."""
    found = reduce(lambda left, table: left - pair_tallies(table), tables, pair_tallies(total))
    return found.estimate()


def _open(expected: tuple[Array, Array], decided: PairTallies) -> tuple[Array, Array]:
    """What is expected of the pairs that are not decided."""
    return expected[0] - decided.right, expected[1] - decided.right - decided.wrong
