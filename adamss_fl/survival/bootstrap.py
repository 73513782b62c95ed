"""Bootstrap intervals of concordance indices, over patients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from adamss_fl.errors import InputError
from adamss_fl.survival.concordance import (
    NoComparablePairs,
    check_risk,
    concordance,
    concordance_counts,
)
from adamss_fl.survival.endpoints import check_endpoints, to_float64

_LEVELS = (2.5, 97.5)

Cohort = tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike]
"""time_days, event, risk_a, risk_b, each (N,)."""

_LARGEST_PAIR_MATRIX = 4000


@dataclass(frozen=True)
class Interval:
    """A 95 % percentile interval. samples : resamples it rests on; excluded : resamples without a comparable pair."""

    low: float
    high: float
    samples: int
    excluded: int = 0


@dataclass(frozen=True)
class Difference:
    """A difference of two C-indices on the same patients, with its 95 % percentile interval (see ``Interval``)."""

    difference: float
    low: float
    high: float
    samples: int
    excluded: int = 0


def bootstrap_interval(
    time_days: ArrayLike | Tensor,
    event: ArrayLike | Tensor,
    risk: ArrayLike | Tensor,
    samples: int = 1000,
    seed: int = 0,
    strata: ArrayLike | None = None,
) -> Interval:
    """95 % percentile interval of the C-index over ``samples`` resamples of the N patients.

    time_days, event, risk : (N,), as in ``concordance``; strata : (N,) labels, for example sites, inside which
    patients are drawn, so that every resample keeps each site's size. Resamples without a comparable pair are left out
    and counted. Raises NoComparablePairs where the patients themselves have no comparable pair.
    """
    concordance(time_days, event, risk)
    values = resampled_c_indices(time_days, event, [risk], samples, seed, strata)[0]
    return Interval(*_percentiles(values), samples=values.size, excluded=samples - values.size)


def pooled_interval(
    groups: Sequence[tuple[ArrayLike, ArrayLike, ArrayLike]], samples: int = 1000, seed: int = 0
) -> Interval:
    """95 % percentile interval of the C-index over the pairs *inside* groups, counts of all groups summed.

    groups : (time_days, event, risk) of each, as in ``concordance``; patients are drawn inside their group, so that
    every resample keeps each group's size. Resamples without a comparable pair are left out and counted. Raises
    NoComparablePairs where no resample has a pair.
    """
    if samples < 1:
        raise InputError(f"bootstrap: {samples} resamples asked for; ask for at least 1")
    right, pairs = np.zeros(samples), np.zeros(samples)
    for number, (time_days, event, risk) in enumerate(groups):
        times, events = check_endpoints(time_days, event)
        checked = check_risk(risk, times.size)
        sums = _pair_sums if times.size <= _LARGEST_PAIR_MATRIX else _counted_sums
        own_right, own_pairs = sums(times, events, [checked], _draw(times.size, samples, seed + number, None))
        right += own_right[0]
        pairs += own_pairs
    kept = pairs > 0
    if not kept.any():
        raise NoComparablePairs("bootstrap: no resample has a comparable pair; evaluate on more patients with events")
    low, high = _percentiles(right[kept] / pairs[kept])
    return Interval(low, high, samples=int(kept.sum()), excluded=samples - int(kept.sum()))


def paired_difference(
    time_days: ArrayLike | Tensor,
    event: ArrayLike | Tensor,
    risk_a: ArrayLike | Tensor,
    risk_b: ArrayLike | Tensor,
    samples: int = 1000,
    seed: int = 0,
    strata: ArrayLike | None = None,
) -> Difference:
    """C-index of ``risk_a`` minus that of ``risk_b``, resampling the same patients for both.

    risk_a, risk_b : (N,), or (R, N) for the mean C-index of R models; the rest as in ``bootstrap_interval``.
    Raises NoComparablePairs where the patients have no comparable pair.
    """
    models_a, models_b = _models(risk_a), _models(risk_b)
    point = [concordance(time_days, event, risk).c_index for risk in (*models_a, *models_b)]
    values = resampled_c_indices(time_days, event, [*models_a, *models_b], samples, seed, strata)
    split = len(models_a)
    differences = values[:split].mean(axis=0) - values[split:].mean(axis=0)
    low, high = _percentiles(differences)
    return Difference(
        float(np.mean(point[:split]) - np.mean(point[split:])),
        low,
        high,
        samples=differences.size,
        excluded=samples - differences.size,
    )


def pooled_difference(cohorts: Sequence[Cohort], samples: int = 1000, seed: int = 0) -> Difference:
    """Mean over ``cohorts`` of ``paired_difference``, patients being resampled within each cohort.

    cohorts : (time_days, event, risk_a, risk_b) of each, as in ``paired_difference``; pairs are counted inside a cohort
    only. One cohort gives its paired difference. ``excluded`` counts resamples lost to any cohort.
    Raises NoComparablePairs where a cohort has no comparable pair.
    """
    if not cohorts:
        raise InputError("bootstrap: no cohort was given; give at least one")
    points: list[float] = []
    columns: list[NDArray[np.float64]] = []
    for number, (time_days, event, risk_a, risk_b) in enumerate(cohorts):
        first, second = (concordance(time_days, event, risk).c_index for risk in (risk_a, risk_b))
        points.append(first - second)
        values = resampled_c_indices(time_days, event, [risk_a, risk_b], samples, seed + number, None)
        columns.append(values[0] - values[1])
    kept = min(column.size for column in columns)
    means = np.mean([column[:kept] for column in columns], axis=0)
    low, high = _percentiles(means)
    return Difference(float(np.mean(points)), low, high, samples=kept, excluded=samples - kept)


def _models(risk: ArrayLike | Tensor) -> list[NDArray[np.float64]]:
    risks = to_float64(risk)
    return list(risks) if risks.ndim == 2 else [risks]


def resampled_c_indices(
    time_days: ArrayLike | Tensor,
    event: ArrayLike | Tensor,
    risks: Sequence[ArrayLike | Tensor],
    samples: int = 1000,
    seed: int = 0,
    strata: ArrayLike | None = None,
) -> NDArray[np.float64]:
    """C-indices (M, S) of M models on the same resamples: those that the intervals of this module rest on.

    risks : (N,) of each model; the rest as in ``bootstrap_interval``. S is ``samples`` less the resamples without a
    comparable pair. Raises NoComparablePairs where no resample has one.
    """
    if samples < 1:
        raise InputError(f"bootstrap: {samples} resamples asked for; ask for at least 1")
    times, events = check_endpoints(time_days, event)
    checked = [check_risk(risk, times.size) for risk in risks]
    right, pairs = resampled_pairs(times, events, checked, _draw(times.size, samples, seed, strata))
    values = right[:, pairs > 0] / pairs[pairs > 0]
    if values.shape[1] == 0:
        raise NoComparablePairs("bootstrap: no resample has a comparable pair; evaluate on more patients with events")
    return values


def _draw(patients: int, samples: int, seed: int, strata: ArrayLike | None) -> NDArray[np.int64]:
    """How often each patient is drawn, (samples, patients)."""
    labels = np.zeros(patients, dtype=np.int64) if strata is None else np.asarray(strata)
    if labels.shape != (patients,):
        raise InputError(f"bootstrap: strata {labels.shape} for {patients} patients; give one label per patient")
    generator = np.random.default_rng(seed)
    weights = np.zeros((samples, patients), dtype=np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        weights[:, members] = generator.multinomial(
            members.size, np.full(members.size, 1.0 / members.size), size=samples
        )
    return weights


def resampled_pairs(
    times: NDArray[np.float64],
    events: NDArray[np.bool_],
    risks: list[NDArray[np.float64]],
    weights: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pairs of S resamples in which patients count ``weights`` (S, N) times: right by M risks (M, S), comparable (S,).

    A pair of equal risk is half a right one; a patient and its copy are no pair.
    """
    sums = _pair_sums if times.size <= _LARGEST_PAIR_MATRIX else _counted_sums
    return sums(times, events, risks, weights)


def _pair_sums(
    times: NDArray[np.float64],
    events: NDArray[np.bool_],
    risks: list[NDArray[np.float64]],
    weights: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Right (models, samples) and comparable (samples,) pairs of every resample, a tie in risk being half a right one.

    One quadratic form w' P w per resample; float32 holds its integers and halves exactly at these sizes.
    """
    t, w = times[events, None], weights.astype(np.float32)
    comparable = (times > t) | ((times == t) & ~events)
    drawn_events = weights[:, events].astype(np.float64)

    def total(pairs: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.asarray(((w @ pairs.T).astype(np.float64) * drawn_events).sum(axis=1))

    right = np.empty((len(risks), weights.shape[0]))
    for row, risk in enumerate(risks):
        r = risk[events, None]
        worth = np.float32(1.0) * (r > risk) + np.float32(0.5) * (r == risk)
        right[row] = total((worth * comparable).astype(np.float32))
    return right, total(comparable.astype(np.float32))


def _counted_sums(
    times: NDArray[np.float64],
    events: NDArray[np.bool_],
    risks: list[NDArray[np.float64]],
    weights: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """As ``_pair_sums``, the resamples written out, for cohorts whose pair matrix would not fit in memory."""
    right, pairs = np.zeros((len(risks), weights.shape[0])), np.zeros(weights.shape[0])
    for column, weight in enumerate(weights):
        drawn = np.repeat(np.arange(times.size), weight)
        for row, risk in enumerate(risks):
            counts = concordance_counts(times[drawn], events[drawn], risk[drawn])
            right[row, column] = counts.concordant + 0.5 * counts.tied_risk
            pairs[column] = counts.comparable_pairs
    return right, pairs


def _percentiles(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(values, _LEVELS)
    return float(low), float(high)
