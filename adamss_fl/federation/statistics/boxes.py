"""Patients in boxes of neighbouring cells, none of few: what a site tells where its table's cells are too small.

Each site cuts the common grid for itself, apart for patients with an event and without: at the median of the wider side
of a box, as long as either half keeps ``least`` patients (LeFevre et al., "Mondrian multidimensional k-anonymity", ICDE
2006). Where its patients are many the boxes are small, and few pairs of patients are left open.

What they tell: how many patients, ``least`` or more, lie in each box, and where the site cut, which is where its
patients' medians are to within a bin. A box is the whole of what was cut out, not the smallest round its patients.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adamss_fl import plain
from adamss_fl.errors import InputError
from adamss_fl.federation.statistics.cells import LEAST_PATIENTS
from adamss_fl.federation.statistics.pair_tables import Array, PairTallies

MOST_BOXES = 512
"""Of a site, per kind: with so many patients more would hardly move a bound."""

_FIELDS = ("event", "first_time", "last_time", "first_risk", "last_risk", "patients")
_AT_ONCE = 1 << 20
"""Pairs of boxes that are looked at together, to bound memory."""

Bins = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Boxes:
    """K boxes on a grid of time bins and risk bins, (K,) each; ``+`` puts those of several sites side by side.

    event : 1 for patients with an event, 0 for the censored. first_time, last_time, first_risk, last_risk : the bins
    that a box covers, both ends included. patients : how many lie in it.
    """

    event: Bins
    first_time: Bins
    last_time: Bins
    first_risk: Bins
    last_risk: Bins
    patients: Bins

    def __add__(self, other: Boxes) -> Boxes:
        return Boxes(*(np.concatenate([getattr(self, name), getattr(other, name)]) for name in _FIELDS))

    @property
    def count(self) -> int:
        """How many boxes there are."""
        return int(self.patients.size)

    def plain(self) -> dict[str, Any]:
        """JSON-able lists."""
        return {name: getattr(self, name).tolist() for name in _FIELDS}

    @classmethod
    def from_plain(cls, given: Any, bins: tuple[int, int], patients: int) -> Boxes:
        """The inverse of ``plain`` for one site with ``patients``, on ``bins`` (time, risk).

        Raises InputError for other keys or shapes, boxes that leave the grid, are empty or share a cell with one of
        their kind, or another number of patients.
        """
        found = plain.record(given, _FIELDS, "boxes")
        event = plain.counts(found["event"], (None,), "boxes: event")
        if event.size > 2 * MOST_BOXES:
            raise InputError(f"boxes: {event.size} of them, where a site makes {2 * MOST_BOXES} at most")
        boxes = cls(event, *(plain.counts(found[name], event.shape, f"boxes: {name}") for name in _FIELDS[1:]))
        time_bins, risk_bins = bins
        inside = (boxes.first_time <= boxes.last_time) & (boxes.last_time < time_bins)
        inside &= (boxes.first_risk <= boxes.last_risk) & (boxes.last_risk < risk_bins) & (event <= 1)
        if not inside.all() or (boxes.patients < 1).any():
            raise InputError("boxes: one is empty, or not on the grid that was asked for")
        if boxes.patients.sum() != patients:
            raise InputError("boxes: they do not hold as many patients as the site has")
        cells = np.zeros((time_bins, 2, risk_bins), dtype=np.int64)
        for box in range(boxes.count):
            cells[boxes._cells(box)] += 1
        if (cells > 1).any():
            raise InputError("boxes: two of one kind share a cell")
        return boxes

    def spread(self, bins: tuple[int, int]) -> Array:
        """(K, T, 2, R) share of each box in every cell: a patient is as likely in one of its cells as in another."""
        time_bins, risk_bins = bins
        shares = np.zeros((self.count, time_bins, 2, risk_bins))
        for box in range(self.count):
            area = shares[box][self._cells(box)]
            shares[box][self._cells(box)] = 1.0 / area.size
        return shares

    def _cells(self, box: int) -> tuple[slice, int, slice]:
        return (
            slice(int(self.first_time[box]), int(self.last_time[box]) + 1),
            int(self.event[box]),
            slice(int(self.first_risk[box]), int(self.last_risk[box]) + 1),
        )


def make_boxes(table: ArrayLike, least: int = LEAST_PATIENTS, most: int = MOST_BOXES) -> Boxes | None:
    """A site's boxes, from its table (T, 2, R) of patients by time bin, event and risk bin.

    most : boxes of each kind at most. None where a kind has fewer patients than ``least``, but some: then there is no
    box that may be told. A kind without patients has no box.
    """
    counts = plain.counts(table, (None, 2, None), "boxes: table")
    held = counts.sum(axis=(0, 2))
    if ((held > 0) & (held < least)).any():
        return None
    found = [(kind, *box) for kind in (0, 1) if held[kind] for box in _cut(counts[:, kind], least, most)]
    columns = np.array(found, dtype=np.int64).reshape(-1, len(_FIELDS)).T
    return Boxes(*columns)


def _cut(counts: Bins, least: int, most: int) -> list[tuple[int, ...]]:
    """Boxes (first and last time, first and last risk, patients) of a table (T, R); the fullest is cut first."""
    times, risks = counts.shape
    waiting: list[tuple[int, ...]] = [(-int(counts.sum()), 0, times - 1, 0, risks - 1)]
    done: list[tuple[int, ...]] = []
    while waiting and len(waiting) + len(done) < most:
        held, *box = heapq.heappop(waiting)
        halves = _halves(counts, box, least)
        if halves is None:
            done.append((*box, -held))
        for half in halves or ():
            heapq.heappush(waiting, (-int(_inside(counts, half).sum()), *half))
    return done + [(*box, -held) for held, *box in waiting]


def _inside(counts: Bins, box: list[int] | tuple[int, ...]) -> Bins:
    return counts[box[0] : box[1] + 1, box[2] : box[3] + 1]


def _halves(counts: Bins, box: list[int], least: int) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """A box cut across its wider side, in shares of the grid, or else the other; None where neither can be cut."""
    part = _inside(counts, box)
    wide = [part.shape[axis] / counts.shape[axis] for axis in (0, 1)]
    for axis in sorted((0, 1), key=lambda axis: -wide[axis]):
        below = np.cumsum(part.sum(axis=1 - axis))[:-1]
        allowed = np.flatnonzero((below >= least) & (below <= part.sum() - least))
        if allowed.size:
            at = int(allowed[np.argmin(np.abs(2 * below[allowed] - part.sum()))])
            start = box[2 * axis]
            low, high = list(box), list(box)
            low[2 * axis + 1], high[2 * axis] = start + at, start + at + 1
            return tuple(low), tuple(high)
    return None


def box_tallies(boxes: Boxes, first: ArrayLike | None = None) -> PairTallies:
    """All pairs of the boxes' patients, by what the boxes say of them; as ``pair_tallies`` where each is one cell.

    first : (K,) summed weights of each box's events as the first of a pair, their number where None.
    """
    weight = np.where(boxes.event == 1, boxes.patients if first is None else np.asarray(first), 0.0)
    starts = np.flatnonzero(boxes.event == 1)
    rows = max(1, _AT_ONCE // max(boxes.count, 1))
    total = PairTallies(*(np.zeros(()) for _ in range(7)))
    for begin in range(0, starts.size, rows):
        total = total + _pairs(boxes, weight, starts[begin : begin + rows])
    return total


def _pairs(boxes: Boxes, weight: Array, starts: NDArray[np.intp]) -> PairTallies:
    """Pairs whose first patient is, or may be, in a box of ``starts``, which hold events."""
    one = starts[:, None]
    other_event = boxes.event[None, :] == 1
    surely = boxes.last_time[one] < boxes.first_time[None, :]
    perhaps = (boxes.first_time[one] <= boxes.last_time[None, :]) & ~surely
    right = boxes.first_risk[one] > boxes.last_risk[None, :]
    wrong = boxes.last_risk[one] < boxes.first_risk[None, :]
    is_open = ~right & ~wrong
    pairs = weight[one] * boxes.patients[None, :]
    # Of two events whose order is open each may be the first: half the pair's weight is counted from either side.
    both = (perhaps & other_event & (boxes.first_time[None, :] <= boxes.last_time[one])) * pairs / 2
    itself = weight[starts] / 2  # a patient is no pair with itself
    maybe = perhaps & ~other_event

    def total(where: NDArray[np.bool_]) -> Array:
        return np.asarray((pairs * where).sum())

    return PairTallies(
        right=total(surely & right),
        wrong=total(surely & wrong),
        same_risk=total(surely & is_open),
        both_events=np.asarray(both.sum() - itself.sum()),
        maybe_right=total(maybe & right),
        maybe_wrong=total(maybe & wrong),
        maybe_same_risk=total(maybe & is_open),
    )
