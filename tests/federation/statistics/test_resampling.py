"""Poisson bootstrap from tables: coverage, and agreement with the pooled bootstrap."""

from functools import reduce
from operator import add

import numpy as np
import pytest

from adamss_fl.errors import InputError
from adamss_fl.federation.statistics.concordance import all_pairs, concordance_sums
from adamss_fl.federation.statistics.resampling import (
    ResampledSums,
    private_seed,
    resampled_interval,
    resampled_sums,
)
from adamss_fl.survival import NoComparablePairs, bootstrap_interval, concordance_counts

EDGES = np.arange(1, 16) / 16


def drawn(rng, n):
    """Times, events, a better and a worse risk, and sites of one cohort from a fixed population."""
    log_hazard, site = rng.normal(size=n), rng.choice(3, size=n, p=[0.5, 0.3, 0.2])
    died = (rng.exponential(size=n) * np.exp(-log_hazard - np.array([0, 0.2, -0.2])[site])) ** 0.8 * 800
    lost = rng.uniform(0, 2500, size=n)
    risks = [log_hazard + noise * rng.normal(size=n) for noise in (0.8, 1.6)]
    return np.minimum(died, lost), died <= lost, *risks, site


def edges_of(values):
    return np.quantile(values, EDGES, method="inverted_cdf").tolist()


def federated(t, e, r, site, samples, seed=0, over_the_wire=True):
    """(sums of all sites, resampled sums of all sites, best estimate)."""
    edges = edges_of(t), edges_of(r)
    parts, again = [], []
    for name in range(3):
        mine = site == name
        parts.append(concordance_sums(t[mine], e[mine], r[mine], *edges))
        own = private_seed(seed, [str(place) for place in np.flatnonzero(mine)], t[mine])
        sums = resampled_sums(t[mine], e[mine], r[mine], *edges, samples, own)
        told = ResampledSums.from_plain(sums.plain(), samples, (16, 16), parts[-1].table) if over_the_wire else sums
        again.append(told)
    total = reduce(add, parts)
    return total, reduce(add, again), all_pairs(total).c_index


def test_intervals_cover_the_true_c_in_95_of_100_cohorts() -> None:
    truth = concordance_counts(*drawn(np.random.default_rng(99), 100_000)[:3]).c_index
    covered = 0
    for seed in range(300):
        t, e, r, _, site = drawn(np.random.default_rng(seed), 150)
        sums, again, estimate = federated(t, e, r, site, 200, seed, over_the_wire=False)
        interval = resampled_interval(estimate, sums, again)
        covered += interval.low <= truth <= interval.high
    assert 0.92 <= covered / 300 <= 0.98


def test_an_interval_equals_the_pooled_bootstrap() -> None:
    t, e, risk, _, site = drawn(np.random.default_rng(1), 400)
    sums, again, estimate = federated(t, e, risk, site, 1000)
    interval = resampled_interval(estimate, sums, again)
    pooled = bootstrap_interval(t, e, risk, 1000, 3)
    assert interval.low == pytest.approx(pooled.low, abs=0.006)
    assert interval.high == pytest.approx(pooled.high, abs=0.006)


@pytest.mark.parametrize("bins", [2, 4])
def test_intervals_on_wide_bins_still_cover(bins) -> None:
    """What the sites count inside themselves keeps an interval from the false precision of a table of few cells."""
    truth = concordance_counts(*drawn(np.random.default_rng(99), 100_000)[:3]).c_index
    covered = 0
    for seed in range(100):
        t, e, r, _, site = drawn(np.random.default_rng(seed), 150)
        edges = [edges_of(values)[16 // bins - 1 :: 16 // bins] for values in (t, r)]
        parts = [(t[site == k], e[site == k], r[site == k], *edges) for k in range(3)]
        sums = reduce(add, [concordance_sums(*part) for part in parts])
        again = reduce(add, [resampled_sums(*part, 200, seed * 10 + k) for k, part in enumerate(parts)])
        interval = resampled_interval(all_pairs(sums).c_index, sums, again)
        covered += interval.low <= truth <= interval.high
    assert covered >= 88


def test_copies_of_a_patient_are_no_pairs() -> None:
    sums = resampled_sums([5.0], [1], [0.0], [], [], 50, 0)
    assert not np.isfinite(sums.c_indices).any()
    with pytest.raises(NoComparablePairs, match="no resample"):
        resampled_interval(0.5, concordance_sums([5.0], [1], [0.0], [], []), sums)


def test_the_seed_is_the_sites_own() -> None:
    days = [1.0, 2.0]
    first = private_seed(7, ["a", "b"], days)
    assert first == private_seed(7, ["a", "b"], days)
    assert len({first, private_seed(8, ["a", "b"], days), private_seed(7, ["a", "c"], days)}) == 3
    assert first != private_seed(7, ["a", "b"], [1.0, 3.0])


def test_impossible_resamples_are_refused() -> None:
    sums = resampled_sums([1.0, 9.0], [1, 0], [1.0, 0.0], [5.0], [], 3, 0)
    table = concordance_sums([1.0, 9.0], [1, 0], [1.0, 0.0], [5.0], []).table
    assert ResampledSums.from_plain(sums.plain(), 3, (2, 1), table).tables.shape == (3, 2, 2, 1)
    wrong = np.ones((3, 2, 2, 1), dtype=int).tolist()
    with pytest.raises(InputError, match="holds none"):
        ResampledSums.from_plain({**sums.plain(), "tables": wrong}, 3, (2, 1), table)
    with pytest.raises(InputError, match="more are right than comparable"):
        ResampledSums.from_plain({**sums.plain(), "right_within": [9.0, 9.0, 9.0]}, 3, (2, 1), table)
    with pytest.raises(InputError, match="shape"):
        ResampledSums.from_plain(sums.plain(), 4, (2, 1), table)
    with pytest.raises(InputError, match="at least 1"):
        resampled_sums([1.0], [1], [1.0], [], [], 0, 0)
    with pytest.raises(InputError, match="cannot be added"):
        sums + resampled_sums([1.0], [1], [1.0], [], [], 3, 0)
