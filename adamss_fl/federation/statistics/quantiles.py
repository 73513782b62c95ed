"""Quantiles over all sites by refinement: ever finer histograms around the rank, and no patient's value.

The server asks every site for the cells of one histogram, finds those that can hold the wanted rank, and asks for finer
ones there. What a site's answers tell is its patients per cell, small counts hidden (see ``cells``); together they tell
where its patients lie around the quantiles, down to cells of ``least`` patients of all sites, where the refinement
stops. A site answers each question by itself, so a server that asks others than these could narrow its patients down
by subtraction: a site's policy should say how often such a query may come, or answers be summed before the server sees
them.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adamss_fl.errors import InputError
from adamss_fl.federation.statistics.cells import LEAST_PATIENTS, Cells

PARTS = 8
"""Cells into which a question cuts each interval: the more, the fewer questions and the smaller the counts."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Quantile:
    """The quantile of a level lies at ``value`` +- ``half_width``, for certain.

    privacy_limit : a finer answer would tell of fewer than ``least`` patients, so that half_width may exceed half the
        tolerance.
    """

    level: float
    value: float
    half_width: float
    privacy_limit: bool


@dataclass(frozen=True)
class _Interval:
    """What is known of one level: its value lies in [low, high). The next question cuts it into ``parts``, or none."""

    low: float
    high: float
    parts: int = PARTS

    def cuts(self) -> Array:
        return np.linspace(self.low, self.high, self.parts + 1)


def federated_quantiles(
    ask: Callable[[Array], Cells],
    levels: Sequence[float],
    low: float,
    high: float,
    tolerance: float,
    least: int = LEAST_PATIENTS,
) -> tuple[Quantile, ...]:
    """The smallest value that a share ``level`` of the patients does not exceed, per level, to +- tolerance / 2.

    ask : edges (K,) -> the K + 1 cells of all sites together, as ``tell_histogram`` makes and ``+`` adds them.
    levels : in (0, 1); all share each question. low, high : the quantiles lie in [low, high).
    tolerance : width at which to stop. least : the fewest patients of all sites in an interval that is narrowed down
        to; where sites hide small cells, intervals end earlier, and are wider.

    A question narrows an interval to an eighth. Where hidden cells leave more than half of it open, or too few
    patients in it, the next one has larger cells; with two, the level ends. Quantiles are those of the inverted
    distribution function, definition 1 of Hyndman and Fan, "Sample quantiles in statistical packages", The American
    Statistician 50:361 (1996).
    Raises InputError for bad arguments, fewer than ``least`` patients, a quantile outside [low, high), or answers
    that are not of the same patients each time.
    """
    _check(levels, low, high, tolerance, least)
    intervals = [_Interval(low, high)] * len(levels)
    patients = None
    while any(interval.parts for interval in intervals):
        edges = np.unique(np.concatenate([interval.cuts() for interval in intervals if interval.parts]))
        answer = ask(edges)
        if answer.counts.size != edges.size + 1:
            raise InputError(f"quantiles: {answer.counts.size} cells where {edges.size} edges make one more")
        first = patients is None
        patients = answer.patients if patients is None else patients
        if answer.patients != patients or patients < least:
            raise InputError(
                f"quantiles: an answer of {answer.patients} patients where {max(patients, least)} are needed; ask the "
                f"same sites each time, and of {least} patients or more"
            )
        ranks = [max(math.ceil(level * patients), 1) for level in levels]
        if first:
            _check_inside(answer, levels, ranks)
        intervals = [
            _narrowed(now, rank, edges, answer, tolerance, least) if now.parts else now
            for now, rank in zip(intervals, ranks, strict=True)
        ]
    return tuple(
        Quantile(level, (each.low + each.high) / 2, (each.high - each.low) / 2, each.high - each.low > tolerance)
        for level, each in zip(levels, intervals, strict=True)
    )


def _narrowed(now: _Interval, rank: int, edges: Array, answer: Cells, tolerance: float, least: int) -> _Interval:
    """The part of ``now`` that holds the patient of ``rank`` (from 1), widened until it holds ``least`` patients."""
    fewest, most = _patients_below(answer)
    told = np.cumsum(answer.counts)
    start, end = (int(np.searchsorted(edges, edge)) for edge in (now.low, now.high))
    reached = np.flatnonzero(most[start : end + 1] < rank)
    missed = np.flatnonzero(fewest[start : end + 1] >= rank)
    low = start + int(reached[-1]) if reached.size else start
    high = start + int(missed[0]) if missed.size else end
    small = False
    while max(fewest[high] - most[low], told[high] - told[low]) < least and (low, high) != (start, end):
        small = True
        low, high = max(low - 1, start), min(high + 1, end)
    width = float(edges[high] - edges[low])
    parts = now.parts
    if width <= tolerance:
        parts = 0
    elif small or width > (now.high - now.low) / 2:
        # Where cells are hidden, larger ones may not be.
        parts = parts // 2 if answer.hidden_patients and parts > 2 else 0
    return _Interval(float(edges[low]), float(edges[high]), parts)


def _patients_below(answer: Cells) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The fewest and the most patients that can be below each edge (K,), given that hidden ones are in hidden cells."""
    told = np.cumsum(answer.counts)[:-1]
    hidden = np.cumsum(answer.hidden_at)
    none_before, none_after = hidden[:-1] == 0, hidden[:-1] == hidden[-1]
    return (
        told + np.where(none_after, answer.hidden_patients, 0),
        told + np.where(none_before, 0, answer.hidden_patients),
    )


def _check(levels: Sequence[float], low: float, high: float, tolerance: float, least: int) -> None:
    if not levels or not all(0 < level < 1 for level in levels):
        raise InputError("quantiles: levels must lie between 0 and 1, without either; give at least one")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(f"quantiles: low = {low:g} and high = {high:g} must be finite numbers that increase")
    finest = float(np.spacing(max(abs(low), abs(high)))) * PARTS
    if not finest <= tolerance < math.inf:
        raise InputError(f"quantiles: a tolerance of {tolerance:g} from {low:g} to {high:g}; give {finest:.1g} or more")
    if least < 1:
        raise InputError(f"quantiles: a least of {least} patients; give 1 or more")


def _check_inside(answer: Cells, levels: Sequence[float], ranks: Sequence[int]) -> None:
    fewest, most = _patients_below(answer)
    for level, rank in zip(levels, ranks, strict=True):
        if most[0] >= rank:
            raise InputError(
                f"quantiles: level {level:g} may lie below the lowest edge; ask from a lower one, or more sites"
            )
        if fewest[-1] < rank:
            raise InputError(
                f"quantiles: level {level:g} may lie above the highest edge; ask to a higher one, or more sites"
            )
