"""Moments, correlations and the selection: what sites send adds up to what all patients together give."""

import itertools
import json
import math
from functools import reduce
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adamss_fl.errors import InputError
from adamss_fl.radiomics import CrossProducts, Moments, candidates, prune
from adamss_fl.survival.screening import CoxSums, cox_sums, univariate_cox

EDGES = (0.0, 300.0, 700.0, 1200.0, 2500.0)


def cohort(seed: int, count: int = 90, features: int = 40) -> tuple[Any, Any, Any]:
    """Features in clusters that repeat each other, on scales of their own, some missing; the first ones matter."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(count, 10))
    x = hidden[:, np.arange(features) % 10] + 0.3 * rng.normal(size=(count, features))
    time = rng.exponential(800 * np.exp(-0.7 * hidden[:, 0] + 0.5 * hidden[:, 1]))
    x = (x + 100 * rng.normal(size=features)) * 10.0 ** rng.integers(-6, 9, features)
    x[rng.random(x.shape) < 0.05] = np.nan
    x[:, 7] = 3.7
    return x, np.minimum(time, 2600.0), (time < 2600).astype(int)


def thirds(count: int) -> list[Any]:
    return [np.arange(count) % 3 == site for site in range(3)]


# --- moments ----------------------------------------------------------------------------------------------------------


def test_moments_are_those_of_numpy_and_merge_to_those_of_all_patients() -> None:
    x, *_ = cohort(0)
    merged = reduce(Moments.__add__, [Moments.of(x[site]) for site in thirds(len(x))])
    pooled = Moments.of(x)
    assert pooled.n.tolist() == np.isfinite(x).sum(axis=0).tolist() == merged.n.tolist()
    np.testing.assert_allclose(pooled.mean, np.nanmean(x, axis=0), rtol=1e-12)
    np.testing.assert_allclose(np.delete(pooled.sd, 7), np.delete(np.nanstd(x, axis=0), 7), rtol=1e-9)
    np.testing.assert_allclose(merged.mean, pooled.mean, rtol=1e-12)
    np.testing.assert_allclose(merged.sd, pooled.sd, rtol=1e-9)
    assert pooled.sd[7] == merged.sd[7] == 1


@given(
    st.lists(st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=12), min_size=2, max_size=4),
)
def test_merging_moments_is_merging_patients(sites: list[list[float]]) -> None:
    merged = reduce(Moments.__add__, [Moments.of(np.array(site)[:, None]) for site in sites])
    everyone = np.concatenate([np.array(site) for site in sites])
    assert merged.n[0] == len(everyone)
    assert merged.mean[0] == pytest.approx(everyone.mean(), rel=1e-12, abs=1e-9)
    assert merged.m2[0] == pytest.approx(((everyone - everyone.mean()) ** 2).sum(), rel=1e-9, abs=1e-6)


def test_standardised_features_have_mean_0_and_spread_1_and_missing_ones_are_the_mean() -> None:
    x, *_ = cohort(1)
    z = Moments.of(x).standardise(x)
    assert np.isfinite(z).all()
    assert (z[np.isnan(x)] == 0).all()
    np.testing.assert_allclose(z[:, 7], 0, atol=1e-12)
    for f in set(range(40)) - {7}:
        there = z[np.isfinite(x[:, f]), f]
        assert there.mean() == pytest.approx(0, abs=1e-9)
        assert there.std() == pytest.approx(1)


@pytest.mark.parametrize("present", [1, 2])
def test_what_one_or_two_patients_of_a_site_have_leaves_no_trace(present: int) -> None:
    values = np.full((6, 1), np.nan)
    values[:present, 0] = (17.0, 19.0)[:present]
    assert Moments.of(values).plain() == {"n": [0], "mean": [0.0], "m2": [0.0]}
    whole = Moments.of(np.array([[1.0], [2.0], [4.0]]))
    assert (Moments.of(values) + whole).plain() == (whole + Moments.of(values)).plain() == whole.plain()
    assert not CrossProducts.of(np.ones((present, 3))).plain()["n"]
    assert not np.any(CrossProducts.of(np.ones((present, 3))).products)


# --- correlation ------------------------------------------------------------------------------------------------------


def test_correlations_are_those_of_numpy_whether_pooled_or_merged() -> None:
    x, *_ = cohort(2)
    z = np.delete(Moments.of(x).standardise(x), 7, axis=1)
    merged = reduce(CrossProducts.__add__, [CrossProducts.of(z[site]) for site in thirds(len(z))])
    expected = np.corrcoef(z.T)
    np.testing.assert_allclose(CrossProducts.of(z).correlation(), expected, atol=1e-12)
    np.testing.assert_allclose(merged.correlation(), expected, atol=1e-12)


def test_a_feature_that_does_not_vary_is_correlated_with_none() -> None:
    z = np.column_stack([np.arange(5.0), np.zeros(5)])
    np.testing.assert_allclose(CrossProducts.of(z).correlation(), [[1, 0], [0, 0]], atol=1e-12)


# --- selection --------------------------------------------------------------------------------------------------------


def chosen(sites: list[tuple[Any, Any, Any]], names: list[str], select: int, limit: float) -> tuple[str, ...]:
    """The whole way, as a federation goes it: every step sees sums over sites only."""
    moments = reduce(Moments.__add__, [Moments.of(x) for x, _, _ in sites])
    z = [moments.standardise(x) for x, _, _ in sites]

    def ask(beta: Any) -> CoxSums:
        parts = [cox_sums(zs, t, e, EDGES, beta) for zs, (_, t, e) in zip(z, sites, strict=True)]
        return reduce(CoxSums.__add__, parts)

    order = candidates(univariate_cox(ask, len(names)).p, names, select)
    products = reduce(CrossProducts.__add__, [CrossProducts.of(zs[:, list(order)]) for zs in z])
    return tuple(names[index] for index in prune(order, products.correlation(), select, limit))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("limit", [0.5, 0.9])
def test_three_sites_sums_select_what_the_pooled_patients_select(seed: int, limit: float) -> None:
    x, time, event = cohort(seed)
    names = [f"f{number:02d}" for number in range(40)]
    sites = [(x[site], time[site], event[site]) for site in thirds(len(x))]
    found = chosen(sites, names, 4, limit)
    assert found == chosen([(x, time, event)], names, 4, limit)
    assert found == chosen(sites, names, 4, limit)
    assert len(found) == 4
    assert "f07" not in found
    assert int(found[0][1:]) % 10 in (0, 1)


def test_candidates_are_the_best_by_p_ties_by_name_without_those_that_have_no_fit() -> None:
    p = [0.2, 1.0, 0.01, 0.2, 0.5]
    assert candidates(p, ["d", "a", "c", "b", "e"], 1) == (2, 3, 0, 4)
    assert candidates(np.linspace(0.9, 0, 30), [str(n) for n in range(30)], 2) == tuple(range(29, 13, -1))
    assert candidates([1.0, 1.0], ["a", "b"], 3) == ()
    with pytest.raises(InputError, match="p-values"):
        candidates(p, ["a"], 1)


@given(st.integers(0, 10**6), st.integers(1, 7), st.integers(1, 5), st.floats(0.05, 1.0))
def test_pruning_gives_the_first_set_in_order_that_repeats_nothing(
    seed: int, size: int, select: int, limit: float
) -> None:
    """Of all admissible sets of at most ``select`` features, the one whose ranks come first, tried by brute force."""
    rng = np.random.default_rng(seed)
    r = np.corrcoef(rng.normal(size=(size, 4)) + rng.normal(size=4)).reshape(size, size)
    order = rng.permutation(100)[:size].tolist()
    admissible = [
        rows
        for count in range(size + 1)
        for rows in itertools.combinations(range(size), count)
        if count <= select and all(abs(r[a, b]) <= limit for a, b in itertools.combinations(rows, 2))
    ]
    best = min(admissible, key=lambda rows: (*rows, *[size] * (select - len(rows))))
    assert prune(order, r, select, limit) == tuple(order[row] for row in best)


def test_pruning_keeps_at_the_limit_and_drops_beyond_it_whatever_the_sign() -> None:
    r = np.array([[1, -0.9, 0.2], [-0.9, 1, 0.95], [0.2, 0.95, 1]])
    assert prune((5, 6, 7), r, 3, 0.9) == (5, 6)
    assert prune((5, 6, 7), r, 3, 0.89) == (5, 7)
    assert prune((5, 6, 7), r, 1, 0.9) == (5,)
    assert prune((), np.zeros((0, 0)), 3, 0.9) == ()
    with pytest.raises(InputError, match="give"):
        prune((5, 6), r, 1, 0.9)


# --- on the wire ------------------------------------------------------------------------------------------------------


def test_sums_travel_as_json_without_loss() -> None:
    x, *_ = cohort(3)
    moments = Moments.of(x)
    back = Moments.from_plain(json.loads(json.dumps(moments.plain())), variables=40)
    assert all(np.array_equal(getattr(back, name), value) for name, value in vars(moments).items())
    products = CrossProducts.of(moments.standardise(x))
    again = CrossProducts.from_plain(json.loads(json.dumps(products.plain())), features=40)
    assert again.n == products.n
    assert np.array_equal(again.products, products.products)
    assert np.array_equal(again.mean, products.mean)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": -1}, "count"),
        ({"n": True}, "not an array of numbers"),
        ({"mean": [0.0]}, "shape"),
        ({"products": [[1.0, 2.0], [math.nan, 1.0]]}, "not finite"),
        ({"products": [[1.0, 2.0], [3.0, 1.0]]}, "not symmetric"),
        ({"products": [[-1.0, 0.0], [0.0, 1.0]]}, "negative"),
        ({"z": 0}, "'z' is unknown"),
    ],
)
def test_cross_products_that_cannot_be_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CrossProducts.from_plain(CrossProducts.of(np.eye(4)[:, :2]).plain() | change)


def test_mistakes_are_refused() -> None:
    with pytest.raises(InputError, match="infinite"):
        Moments.of([[math.inf]])
    with pytest.raises(InputError, match="must be"):
        Moments.of([1.0, 2.0])
    with pytest.raises(InputError, match="finite"):
        CrossProducts.of([[math.nan]])
    with pytest.raises(InputError, match="cannot be merged"):
        Moments.of(np.eye(3)) + Moments.of(np.eye(4))
    with pytest.raises(InputError, match="cannot be merged"):
        CrossProducts.of(np.eye(3)) + CrossProducts.of(np.eye(4))
