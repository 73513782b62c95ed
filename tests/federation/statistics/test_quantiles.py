"""Federated quantiles against numpy's inverted distribution function on the pooled values."""

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from adamss_fl.errors import InputError
from adamss_fl.federation.statistics.cells import Cells, tell_cells, tell_histogram
from adamss_fl.federation.statistics.quantiles import Quantile, federated_quantiles

LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)


def asking(sites: list[Any], least: int, asked: list[Any] | None = None) -> Callable[[Any], Cells]:
    def ask(edges: Any) -> Cells:
        if asked is not None:
            asked.append(edges)
        return reduce(Cells.__add__, [tell_histogram(site, edges, least) for site in sites])

    return ask


def assert_holds(found: tuple[Quantile, ...], values: Any) -> None:
    truth = np.quantile(values, [each.level for each in found], method="inverted_cdf")
    for each, value in zip(found, truth, strict=True):
        assert abs(each.value - value) <= each.half_width * (1 + 1e-9), each


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("site_least", [1, 5])
def test_quantiles_lie_within_their_half_width(seed: int, site_least: int) -> None:
    rng = np.random.default_rng(seed)
    sites = [rng.normal(55 + 5 * k, 12, 80) for k in range(4)]
    found = federated_quantiles(asking(sites, site_least), LEVELS, 0, 128, 0.5)
    assert_holds(found, np.concatenate(sites))
    assert all(each.privacy_limit == (each.half_width > 0.25) for each in found)
    assert all(each.half_width < (4 if site_least == 1 else 24) for each in found)


def test_many_patients_give_the_tolerance_that_is_asked_for() -> None:
    rng = np.random.default_rng(0)
    sites = [rng.lognormal(5, 1, 6000) for _ in range(3)]
    asked: list[Any] = []
    found = federated_quantiles(asking(sites, 1, asked), LEVELS, 0, 65536, 4)
    assert_holds(found, np.concatenate(sites))
    assert all(each.half_width <= 2 and not each.privacy_limit for each in found)
    assert len(asked) == 5  # 65536 / 8 ** 5 is the first width of 4 or less


# Ties, tails that span six decades either way, and any sizes.
tied = st.lists(st.sampled_from([-3.0, 0.0, 0.1, 2.0, 2.0, 7.0]), max_size=40)
heavy = st.lists(st.floats(-6, 6).map(lambda power: np.sign(power) * 10.0 ** abs(power)), max_size=40)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(tied, heavy), min_size=1, max_size=4),
    st.lists(st.floats(0.001, 0.999), min_size=1, max_size=4),
    st.integers(1, 6),
    st.booleans(),
    st.floats(1e-3, 100),
)
def test_the_half_width_holds_for_ties_and_heavy_tails(
    sites: list[list[float]], levels: list[float], least: int, hides: bool, tolerance: float
) -> None:
    site_least = least if hides else 1
    counted = [site for site in sites if len(site) >= site_least]
    pooled = np.array([value for site in counted for value in site])
    assume(pooled.size >= least)
    try:
        found = federated_quantiles(asking(sites, site_least), levels, -2e6, 2e6, tolerance, least)
    except InputError:
        assert any(not tell_histogram(site, np.linspace(-2e6, 2e6, 9), site_least).counts.any() for site in counted)
        return  # of a site that hides all its cells, nobody knows that its patients lie inside the bounds
    assert_holds(found, pooled)
    for each in found:
        assert each.privacy_limit == (2 * each.half_width > tolerance)
        inside = np.abs(pooled - each.value) <= each.half_width
        assert inside.sum() >= least


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 30).map(float), min_size=8, max_size=60), st.integers(1, 6))
def test_where_sites_hide_nothing_only_few_patients_stop_the_refinement(values: list[float], least: int) -> None:
    (found,) = federated_quantiles(asking([values], 1), [0.5], -1, 32, 0.25, least)
    truth = np.quantile(values, 0.5, method="inverted_cdf")
    if values.count(truth) >= least:
        assert found.half_width <= 0.125
        assert not found.privacy_limit


def test_patients_that_all_have_one_value_are_found_to_the_tolerance() -> None:
    found = federated_quantiles(asking([[4.2] * 9, [4.2] * 9], 5), LEVELS, 0, 10, 1e-6)
    assert all(abs(each.value - 4.2) <= 1e-6 and not each.privacy_limit for each in found)


def test_levels_share_each_question() -> None:
    rng = np.random.default_rng(1)
    site = rng.uniform(0, 100, 5000)
    alone: list[Any] = []
    together: list[Any] = []
    single = [federated_quantiles(asking([site], 1, alone), [level], 0, 128, 1)[0] for level in LEVELS]
    shared = federated_quantiles(asking([site], 1, together), LEVELS, 0, 128, 1)
    assert shared == tuple(single)
    assert len(together) == 3
    assert len(alone) == 15


def test_missing_values_count_nowhere() -> None:
    values = np.linspace(1, 9, 50)
    with_missing = np.concatenate([values, [np.nan] * 20])
    ask_all, ask_there = asking([with_missing], 1), asking([values], 1)
    assert federated_quantiles(ask_all, LEVELS, 0, 10, 0.1) == federated_quantiles(ask_there, LEVELS, 0, 10, 0.1)


@pytest.mark.parametrize(("low", "high", "message"), [(30, 100, "below the lowest"), (0, 60, "above the highest")])
def test_a_quantile_outside_the_bounds_is_an_error(low: float, high: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        federated_quantiles(asking([np.arange(100.0)], 1), (0.1, 0.5, 0.9), low, high, 1)


def test_a_quantile_that_hidden_patients_may_move_outside_the_bounds_is_an_error() -> None:
    values = [1.0] * 3 + [15.0] * 50 + [25.0] * 4
    assert_holds(federated_quantiles(asking([values], 1), [0.06], 10, 30, 5), values)
    with pytest.raises(InputError, match="below the lowest"):
        federated_quantiles(asking([values], 5), [0.06], 10, 30, 5)


def test_answers_that_do_not_fit_together_are_an_error() -> None:
    answers = iter([tell_histogram(np.arange(50.0), np.linspace(0, 64, 9), 1)])

    def another_site_is_gone(edges: Any) -> Cells:
        return next(answers, tell_histogram(np.arange(40.0), edges, 1))

    with pytest.raises(InputError, match="40 patients where 50 are needed"):
        federated_quantiles(another_site_is_gone, [0.5], 0, 64, 1)
    with pytest.raises(InputError, match="4 patients where 5 are needed"):
        federated_quantiles(asking([np.arange(4.0)], 1), [0.5], 0, 64, 1)
    with pytest.raises(InputError, match="2 cells where 9 edges"):
        federated_quantiles(lambda _: tell_cells([9, 9]), [0.5], 0, 64, 1)


def test_mistakes_are_refused() -> None:
    ask = asking([np.arange(50.0)], 1)
    for levels in ([], [0.0], [1.0], [np.nan]):
        with pytest.raises(InputError, match="levels"):
            federated_quantiles(ask, levels, 0, 64, 1)
    for low, high in ((1, 1), (2, 1), (0, np.inf), (np.nan, 1)):
        with pytest.raises(InputError, match="low ="):
            federated_quantiles(ask, [0.5], low, high, 1)
    for tolerance in (0, -1, np.nan, np.inf, 1e-15):
        with pytest.raises(InputError, match="tolerance"):
            federated_quantiles(ask, [0.5], 0, 64, tolerance)
    with pytest.raises(InputError, match="least of 0"):
        federated_quantiles(ask, [0.5], 0, 64, 1, 0)
