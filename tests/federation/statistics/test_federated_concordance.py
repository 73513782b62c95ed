"""The C-index over all pairs from tables: against Harrell's and Uno's on the pooled patients."""

from functools import reduce
from operator import add

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adamss_fl.errors import InputError
from adamss_fl.federation.statistics.concordance import ConcordanceSums, all_pairs, bin_of, concordance_sums
from adamss_fl.survival import NoComparablePairs, concordance_counts

PATIENT = st.tuples(st.integers(0, 12), st.booleans(), st.integers(-5, 5), st.integers(0, 3))


def simulated(rng, n=600, sites=5, whole_days=False):
    """Times, events, risks, sites of a cohort with sites of unequal size and hazard; 40 to 60 % censored, roughly."""
    slope, noise = rng.uniform(0.3, 1.5), rng.uniform(0.2, 1.5)
    log_hazard = rng.normal(size=n)
    site = rng.choice(sites, size=n, p=rng.dirichlet(np.full(sites, 5)))
    hazard = np.exp(slope * log_hazard + rng.normal(0, 0.3, sites)[site])
    died = (rng.exponential(size=n) / hazard) ** (1 / rng.uniform(0.8, 2)) * 800
    lost = rng.uniform(0, np.quantile(died, rng.uniform(0.6, 0.98)) * 1.6, size=n)
    times = np.minimum(died, lost)
    return np.ceil(times) if whole_days else times, died <= lost, log_hazard + noise * rng.normal(size=n), site


def inner_edges(values, bins):
    return np.unique(np.quantile(values, np.arange(1, bins) / bins, method="inverted_cdf")).tolist()


def summed(t, e, r, site, time_edges, risk_edges, weight=None):
    parts = []
    for name in np.unique(site):
        mine = site == name
        given = None if weight is None else weight[mine]
        sums = concordance_sums(t[mine], e[mine], r[mine], time_edges, risk_edges, given)
        bins = (len(time_edges) + 1, len(risk_edges) + 1)
        parts.append(ConcordanceSums.from_plain(sums.plain(), bins, int(mine.sum())))
    return reduce(add, parts)


def test_one_site_is_exactly_harrells_c() -> None:
    t, e, r, _ = simulated(np.random.default_rng(0), 200)
    found = all_pairs(concordance_sums(t, e, r, inner_edges(t, 4), inner_edges(r, 4)))
    counts = concordance_counts(t, e, r)
    assert found.c_index == pytest.approx(counts.c_index, abs=1e-12)
    assert (found.low, found.high, found.open_share) == (found.c_index, found.c_index, 0)
    assert found.comparable_pairs == counts.comparable_pairs


def test_pairs_inside_sites_are_exact() -> None:
    t, e, r, site = simulated(np.random.default_rng(1))
    found = all_pairs(summed(t, e, r, site, inner_edges(t, 8), inner_edges(r, 8)))
    within = reduce(add, [concordance_counts(t[site == k], e[site == k], r[site == k]) for k in range(5)])
    assert found.within_sites == pytest.approx(within.c_index, abs=1e-12)
    assert found.comparable_within == within.comparable_pairs


@pytest.mark.parametrize("whole_days", [False, True])
def test_all_pairs_of_five_sites_come_near_the_pooled_c(whole_days: bool) -> None:
    rng = np.random.default_rng(5 + whole_days)
    errors = []
    for _ in range(200):
        t, e, r, site = simulated(rng, whole_days=whole_days)
        found = all_pairs(summed(t, e, r, site, inner_edges(t, 64), inner_edges(r, 64)))
        errors.append(found.c_index - concordance_counts(t, e, r).c_index)
    assert np.mean(np.abs(errors)) <= 0.0005
    assert np.max(np.abs(errors)) <= 0.002


@settings(max_examples=1000, deadline=None)
@given(st.lists(PATIENT, min_size=2, max_size=30), st.integers(1, 5), st.integers(1, 5))
def test_the_pooled_c_is_always_inside_the_bounds(patients, time_bins, risk_bins) -> None:
    t, e, r, site = (np.array(column) for column in zip(*patients, strict=True))
    counts = concordance_counts(t, e, r)
    sums = summed(t, e, r, site, inner_edges(t, time_bins), inner_edges(r, risk_bins))
    if counts.comparable_pairs == 0:
        return
    found = all_pairs(sums)
    assert found.low - 1e-12 <= counts.c_index <= found.high + 1e-12
    assert found.low - 1e-12 <= found.c_index <= found.high + 1e-12


@settings(max_examples=200, deadline=None)
@given(st.lists(PATIENT, min_size=2, max_size=40))
def test_on_its_grid_the_table_is_exact(patients) -> None:
    from lifelines.utils import concordance_index

    t, e, r, site = (np.array(column) for column in zip(*patients, strict=True))
    if concordance_counts(t, e, r).comparable_pairs == 0:
        return
    sums = summed(t, e, r, site, np.unique(t)[:-1].tolist(), np.unique(r)[:-1].tolist())
    assert all_pairs(sums, "equal").c_index == pytest.approx(concordance_index(t, -r, e), abs=1e-12)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.booleans(), PATIENT), min_size=2, max_size=30), st.integers(1, 4))
def test_weighted_pairs_are_inside_their_bounds(drawn, bins) -> None:
    t, e, r, site = (np.array(column) for column in zip(*(patient for _, patient in drawn), strict=True))
    weight = np.where([heavy for heavy, _ in drawn], 3.5, 0.25)
    later = (t[:, None] < t) | ((t[:, None] == t) & ~e)
    pairs = later & e[:, None] & ~np.eye(t.size, dtype=bool)
    worth = (r[:, None] > r) + 0.5 * (r[:, None] == r)
    total = float((weight[:, None] * pairs).sum())
    if total == 0:
        return
    found = all_pairs(summed(t, e, r, site, inner_edges(t, bins), inner_edges(r, bins), weight))
    assert found.low - 1e-9 <= float((weight[:, None] * pairs * worth).sum()) / total <= found.high + 1e-9


def test_unos_c_equals_scikit_survival_on_the_same_grid() -> None:
    from sksurv.metrics import concordance_index_ipcw
    from sksurv.nonparametric import CensoringDistributionEstimator
    from sksurv.util import Surv

    t, e, r, site = simulated(np.random.default_rng(2))
    t, r = np.ceil(t / 30) * 30, np.round(r, 1)
    outcome = Surv.from_arrays(e, t)
    tau = float(np.quantile(t, 0.8))
    expected = concordance_index_ipcw(outcome, outcome, r, tau)[0]
    curve = CensoringDistributionEstimator().fit(outcome)
    weight = np.where(t < tau, curve.predict_ipcw(outcome) ** 2, 0.0)
    sums = summed(t, e, r, site, np.unique(t)[:-1].tolist(), np.unique(r)[:-1].tolist(), weight)
    assert all_pairs(sums, "equal").c_index == pytest.approx(expected, abs=1e-9)


def test_wider_bins_widen_the_bounds_and_say_so() -> None:
    t, e, r, site = simulated(np.random.default_rng(3))
    found = [all_pairs(summed(t, e, r, site, inner_edges(t, k), inner_edges(r, k))) for k in (4, 16, 64)]
    widths = [each.high - each.low for each in found]
    assert widths[0] > widths[1] > widths[2] > 0
    assert found[0].open_share > found[1].open_share > found[2].open_share


def test_the_smallest_cell_is_told() -> None:
    sums = concordance_sums([1, 1, 1, 9], [1, 1, 1, 0], [0, 0, 0, 0], [5], [])
    assert sums.fewest_in_a_cell == 1
    assert concordance_sums([1, 1, 9, 9], [1, 1, 0, 0], [0, 0, 0, 0], [5], []).fewest_in_a_cell == 2
    assert concordance_sums([], [], [], [5], []).fewest_in_a_cell == 0


def test_sites_without_events_or_pairs() -> None:
    nobody = concordance_sums([3, 4], [0, 0], [1, 2], [5], [0])
    with pytest.raises(NoComparablePairs, match="no comparable pair"):
        all_pairs(nobody + nobody)
    one_event = concordance_sums([2], [1], [3], [5], [0])
    found = all_pairs(one_event + concordance_sums([7], [0], [-1], [5], [0]))
    assert (found.c_index, found.low, found.high, found.within_sites) == (1, 1, 1, None)


def test_bins_hold_their_upper_edge() -> None:
    assert bin_of([0, 5, 5.1, 10, 11], [5, 10]).tolist() == [0, 0, 1, 1, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"table": [[[1, 0], [1, 0]]]}, "shape"),
        ({"table": [[[-1, 1], [1, 0]], [[0, 1], [1, 1]]]}, "whole number"),
        ({"table": [[[9, 0], [1, 0]], [[0, 1], [0, 1]]]}, "as many patients"),
        ({"first": [[-1, 0], [1, 1]]}, "negative"),
        ({"first": [[1, 7], [1, 1]]}, "without an event"),
        ({"comparable_within": 100.0}, "more or fewer comparable pairs"),
        ({"comparable_within": 0.0, "right_within": 0.0}, "more or fewer comparable pairs"),
        ({"right_within": -1.0}, "more or fewer comparable pairs"),
        ({"right_within": float("nan")}, "not finite"),
        ({"wrong": 1}, "unknown"),
    ],
)
def test_tables_that_no_patients_have_are_refused(change, message) -> None:
    sums = concordance_sums([1, 2, 6, 7, 8], [1, 0, 1, 0, 1], [-1, -1, -1, 1, 1], [5], [0])
    with pytest.raises(InputError, match=message):
        ConcordanceSums.from_plain({**sums.plain(), **change}, (2, 2), 5)


def test_pairs_that_the_own_table_rules_out_are_refused() -> None:
    sums = concordance_sums([1, 6], [1, 0], [2, -2], [5], [0])  # one pair, certainly right
    with pytest.raises(InputError, match="more often right or wrong"):
        ConcordanceSums.from_plain({**sums.plain(), "right_within": 0.0}, (2, 2))


def test_tables_on_other_edges_do_not_add_up() -> None:
    with pytest.raises(InputError, match="same edges"):
        concordance_sums([1], [1], [0], [5], []) + concordance_sums([1], [1], [0], [5, 6], [])
    with pytest.raises(InputError, match="do not increase"):
        concordance_sums([1], [1], [0], [6, 5], [])
    with pytest.raises(InputError, match="weights"):
        concordance_sums([1], [1], [0], [5], [], [-1.0])
