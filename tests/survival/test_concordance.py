"""Harrell's C against lifelines, scikit-survival and brute force; bootstrap intervals against plain resampling."""

import time as clock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adamss_fl.errors import InputError
from adamss_fl.survival import (
    Concordance,
    NoComparablePairs,
    bootstrap_interval,
    concordance,
    concordance_counts,
    paired_difference,
    pooled_difference,
    pooled_interval,
)
from adamss_fl.survival import bootstrap as bootstrap_module

PATIENTS = st.lists(st.tuples(st.integers(0, 8), st.booleans(), st.integers(-4, 4)), min_size=2, max_size=40)


def _columns(patients):
    t, e, r = (np.array(column) for column in zip(*patients, strict=True))
    return t.astype(float), e, r.astype(float)


def _brute_force(t, e, r):
    concordant = discordant = tied_risk = tied_time = 0
    for i in np.flatnonzero(e):
        for j in range(len(t)):
            if t[j] > t[i] or (t[j] == t[i] and not e[j]):
                concordant += r[i] > r[j]
                discordant += r[i] < r[j]
                tied_risk += r[i] == r[j]
                tied_time += t[i] == t[j]
    return Concordance(int(concordant), int(discordant), int(tied_risk), int(tied_time))


def _cohort(n, seed=0, levels=None):
    rng = np.random.default_rng(seed)
    t = rng.exponential(1000, n).round(0 if levels is None else -2)
    return t, rng.random(n) < 0.5, rng.integers(0, levels or 10**6, n).astype(float)


@settings(max_examples=200, deadline=None)
@given(PATIENTS)
def test_counts_equal_brute_force(patients):
    t, e, r = _columns(patients)
    assert concordance_counts(t, e, r) == _brute_force(t, e, r)


@settings(max_examples=100, deadline=None)
@given(PATIENTS)
def test_c_index_equals_lifelines_with_ties_in_time_and_risk(patients):
    from lifelines.utils import concordance_index

    t, e, r = _columns(patients)
    if concordance_counts(t, e, r).comparable_pairs == 0:
        with pytest.raises(ZeroDivisionError):
            concordance_index(t, -r, e)
        return
    assert concordance(t, e, r).c_index == pytest.approx(concordance_index(t, -r, e), abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_counts_equal_scikit_survival(seed):
    from sksurv.metrics import concordance_index_censored

    t, e, r = _cohort(300, seed, levels=30)
    c = concordance(t, e, r)
    theirs = concordance_index_censored(e, t, r)
    assert (c.concordant, c.discordant, c.tied_risk, c.tied_time) == theirs[1:]
    assert c.c_index == pytest.approx(theirs[0], abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(PATIENTS)
def test_reversing_the_risk_mirrors_the_index(patients):
    t, e, r = _columns(patients)
    a, b = concordance_counts(t, e, r), concordance_counts(t, e, -r)
    assert (a.concordant, a.discordant, a.tied_risk) == (b.discordant, b.concordant, b.tied_risk)


def test_fifty_thousand_patients_take_about_a_second():
    t, e, r = _cohort(50_000, levels=500)
    start = clock.perf_counter()
    concordance(t, e, r)
    assert clock.perf_counter() - start < 3


def test_counts_of_sites_add_up_to_the_pairs_within_sites():
    a, b = _cohort(50, 1), _cohort(60, 2)
    merged = concordance(*a).merge(concordance(*b))
    assert merged == concordance(*a) + concordance(*b)
    assert merged.comparable_pairs == concordance(*a).comparable_pairs + concordance(*b).comparable_pairs
    apart = [np.concatenate([x, y]) for x, y in zip(a, b, strict=True)]
    assert merged.comparable_pairs < concordance(*apart).comparable_pairs


def test_no_comparable_pair_is_a_named_exception_and_never_nan():
    with pytest.raises(NoComparablePairs):
        concordance([5, 6], [0, 0], [1, 2])
    with pytest.raises(NoComparablePairs):
        concordance([], [], [])
    with pytest.raises(NoComparablePairs):
        _ = concordance_counts([5, 5], [1, 1], [1, 2]).c_index
    with pytest.raises(NoComparablePairs):
        bootstrap_interval([5, 5], [1, 1], [1, 2])


@pytest.mark.parametrize(
    ("risk", "words"), [([1.0, float("nan")], "not finite"), ([1.0], "one risk per patient"), ([[1, 2]], "one risk")]
)
def test_bad_risks_are_refused(risk, words):
    with pytest.raises(InputError, match=words):
        concordance([5, 6], [1, 0], risk)


def test_tensors_are_taken():
    assert concordance(torch.tensor([1, 2]), torch.tensor([1, 0]), torch.tensor([0.5, 0.1])).c_index == 1.0


def test_weighted_pairs_give_exactly_the_index_of_the_written_out_resample(monkeypatch):
    t, e, r = _cohort(80, 3, levels=10)
    by_matrix = bootstrap_interval(t, e, r, samples=60, seed=4)
    monkeypatch.setattr(bootstrap_module, "_LARGEST_PAIR_MATRIX", 0)
    by_counting = bootstrap_interval(t, e, r, samples=60, seed=4)
    assert (by_matrix.low, by_matrix.high) == pytest.approx((by_counting.low, by_counting.high), abs=1e-12)


def test_interval_agrees_with_plain_resampling():
    t, e, r = _cohort(120, 5)
    ours = bootstrap_interval(t, e, r, samples=4000, seed=0)
    rng = np.random.default_rng(1)
    draws = [rng.integers(0, 120, 120) for _ in range(4000)]
    low, high = np.percentile([concordance(t[d], e[d], r[d]).c_index for d in draws], [2.5, 97.5])
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=0.015)
    assert ours.low <= concordance(t, e, r).c_index <= ours.high


def test_same_seed_same_interval_and_another_seed_another():
    cohort = _cohort(60, 6)
    assert bootstrap_interval(*cohort, samples=50, seed=1) == bootstrap_interval(*cohort, samples=50, seed=1)
    assert bootstrap_interval(*cohort, samples=50, seed=1) != bootstrap_interval(*cohort, samples=50, seed=2)


def test_strata_keep_their_sizes_in_every_resample():
    sites = np.repeat(["a", "b", "c"], [5, 20, 35])
    weights = bootstrap_module._draw(60, 30, 0, sites)
    assert all((weights[:, sites == site].sum(axis=1) == n).all() for site, n in (("a", 5), ("b", 20), ("c", 35)))


def test_resamples_without_a_pair_are_left_out_and_counted():
    interval = bootstrap_interval([1, 2], [1, 0], [2, 1], samples=400, seed=0)
    assert interval.samples + interval.excluded == 400
    assert interval.excluded == pytest.approx(200, abs=60)
    assert (interval.low, interval.high) == (1.0, 1.0)


def test_a_model_does_not_differ_from_itself():
    t, e, r = _cohort(60, 7)
    d = paired_difference(t, e, r, r, samples=100, seed=0)
    assert (d.difference, d.low, d.high) == (0.0, 0.0, 0.0)


def test_pairing_is_narrower_than_two_intervals_apart():
    rng = np.random.default_rng(8)
    t, e, _ = _cohort(150, 8)
    near = -t + rng.normal(0, 800, 150)
    nearly = near + rng.normal(0, 100, 150)
    d = paired_difference(t, e, near, nearly, samples=500, seed=0)
    alone = bootstrap_interval(t, e, near, samples=500, seed=0)
    assert d.low <= d.difference <= d.high
    assert d.high - d.low < 0.7 * (alone.high - alone.low)
    assert d.difference == pytest.approx(concordance(t, e, near).c_index - concordance(t, e, nearly).c_index)


def test_several_models_are_compared_by_their_mean():
    t, e, r = _cohort(60, 9)
    others = np.stack([_cohort(60, seed)[2] for seed in (10, 11)])
    d = paired_difference(t, e, r, others, samples=50, seed=0, strata=np.repeat([0, 1], 30))
    mean = np.mean([concordance(t, e, other).c_index for other in others])
    assert d.difference == pytest.approx(concordance(t, e, r).c_index - mean)


def test_the_pooled_difference_of_one_cohort_is_its_paired_difference():
    t, e, r = _cohort(60, 12)
    other = _cohort(60, 13)[2]
    assert pooled_difference([(t, e, r, other)], samples=200, seed=4) == paired_difference(
        t, e, r, other, samples=200, seed=4
    )


def test_the_pooled_difference_is_the_mean_and_its_interval_that_of_independent_cohorts():
    """Normal approximation: the variances of the cohorts' differences add up, over the number of cohorts squared."""
    cohorts = []
    for seed in (20, 21, 22):
        t, e, _ = _cohort(200, seed)
        noise = np.random.default_rng(seed).normal(0, 1, (2, 200))
        cohorts.append((t, e, -t + 600 * noise[0], -t + 900 * noise[1]))
    alone = [paired_difference(*cohort, samples=2000, seed=seed) for seed, cohort in enumerate(cohorts)]
    pooled = pooled_difference(cohorts, samples=2000, seed=0)
    assert pooled.difference == pytest.approx(np.mean([d.difference for d in alone]))
    expected = np.sqrt(np.sum([(d.high - d.low) ** 2 for d in alone])) / 3
    assert pooled.high - pooled.low == pytest.approx(expected, rel=0.1)
    assert pooled.low < pooled.difference < pooled.high


def test_a_pooled_interval_is_that_of_counts_summed_inside_groups(monkeypatch):
    """Written out for every resample; the pair matrix and counting agree, and one group is the plain interval."""
    rng = np.random.default_rng(8)
    groups = [(rng.integers(1, 40, n), rng.integers(0, 2, n), rng.normal(size=n)) for n in (12, 25)]
    interval = pooled_interval(groups, samples=40, seed=3)
    drawn = [bootstrap_module._draw(len(t), 40, 3 + number, None) for number, (t, _, _) in enumerate(groups)]
    values = []
    for sample in range(40):
        counts = Concordance()
        for (t, e, r), weights in zip(groups, drawn, strict=True):
            chosen = np.repeat(np.arange(len(t)), weights[sample])
            counts = counts + concordance_counts(t[chosen], e[chosen], r[chosen])
        values.append(counts.c_index)
    assert (interval.low, interval.high) == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])), abs=1e-12)
    assert pooled_interval(groups[:1], samples=40, seed=3) == bootstrap_interval(*groups[0], samples=40, seed=3)
    monkeypatch.setattr(bootstrap_module, "_LARGEST_PAIR_MATRIX", 0)
    assert pooled_interval(groups, samples=40, seed=3) == interval


def test_groups_without_a_comparable_pair_have_no_pooled_interval():
    with pytest.raises(NoComparablePairs):
        pooled_interval([([1, 2], [0, 0], [1, 2])], samples=5)
    with pytest.raises(InputError, match="0 resamples"):
        pooled_interval([([1, 2], [1, 0], [1, 2])], samples=0)
