"""The time grid's targets, its edges from times and from histograms, and what a prediction means in days."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adamss_fl.errors import InputError
from adamss_fl.survival import TimeGrid

GRID = TimeGrid((0, 100, 200, 400))


@pytest.mark.parametrize(
    ("time", "event", "survived", "had_event"),
    [
        (0, 1, [0, 0, 0], [1, 0, 0]),
        (99.9, 1, [0, 0, 0], [1, 0, 0]),
        (100, 1, [1, 0, 0], [0, 1, 0]),
        (250, 1, [1, 1, 0], [0, 0, 1]),
        (400, 1, [1, 1, 1], [0, 0, 0]),
        (1000, 1, [1, 1, 1], [0, 0, 0]),
        (49, 0, [0, 0, 0], [0, 0, 0]),
        (50, 0, [1, 0, 0], [0, 0, 0]),
        (149, 0, [1, 0, 0], [0, 0, 0]),
        (300, 0, [1, 1, 1], [0, 0, 0]),
        (1000, 0, [1, 1, 1], [0, 0, 0]),
    ],
)
def test_targets_are_those_of_the_method(time, event, survived, had_event):
    s, e = GRID.targets([time], [event])
    assert s.tolist() == [survived]
    assert e.tolist() == [had_event]
    assert s.dtype == e.dtype == torch.float32


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 500), st.booleans()), min_size=1, max_size=20))
def test_targets_equal_a_loop_over_patients_and_bins(patients):
    survived, had_event = GRID.targets([t for t, _ in patients], [e for _, e in patients])
    edges = GRID.edges_days
    for row, (t, e) in enumerate(patients):
        for k in range(GRID.bins):
            threshold = edges[k + 1] if e else (edges[k] + edges[k + 1]) / 2
            assert survived[row, k] == (t >= threshold)
            assert had_event[row, k] == (e and edges[k] <= t < edges[k + 1])


def test_tensors_and_arrays_give_the_same_targets():
    a = GRID.targets(np.array([10, 250]), np.array([1, 0]))
    b = GRID.targets(torch.tensor([10.0, 250.0]), torch.tensor([1, 0]))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("edges", [(0,), (1, 2), (0, 5, 5), (0, 7, 3), (0, float("nan")), (0, float("inf"))])
def test_edges_that_are_no_grid_are_refused(edges):
    with pytest.raises(InputError, match="time grid"):
        TimeGrid(edges)


@pytest.mark.parametrize(
    ("time", "event", "words"),
    [([-1], [1], "negative"), ([float("nan")], [1], "finite"), ([5], [2], "not 0 or 1"), ([5, 6], [1], "differ")],
)
def test_bad_endpoints_are_refused_in_one_line(time, event, words):
    with pytest.raises(InputError, match=words) as error:
        GRID.targets(time, event)
    assert "\n" not in str(error.value)


def test_quantile_edges_put_equal_numbers_of_events_in_each_bin():
    times = np.random.default_rng(0).exponential(800, 1000)
    grid = TimeGrid.from_quantiles(times, 10)
    counts = np.histogram(times, grid.edges_days)[0]
    assert counts.tolist() == [100] * 10


def test_histogram_of_single_days_gives_the_quantiles_of_the_times_to_a_day():
    days = np.floor(np.random.default_rng(1).exponential(800, 400))
    counts, edges = np.histogram(days, np.arange(0, days.max() + 50))
    from_counts = TimeGrid.from_counts(counts, edges, 8)
    from_times = TimeGrid.from_quantiles(days, 8)
    # Between two order statistics the two define a quantile differently: at most a gap between neighbours apart.
    inside = np.sort(days[days <= from_times.edges_days[-2] + 50])
    gap = np.diff(inside).max() + 1
    assert np.abs(np.subtract(from_counts.edges_days, from_times.edges_days)).max() <= gap
    assert from_counts.edges_days[-1] == from_times.edges_days[-1] == days.max() + 1


def test_histogram_quantiles_are_interpolated_inside_cells_and_skip_empty_ones():
    grid = TimeGrid.from_counts([0, 5, 0, 10, 0], [0, 100, 200, 300, 400, 900], 3)
    assert grid.edges_days == pytest.approx((0, 200, 350, 400))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), min_size=12, max_size=12), min_size=1, max_size=4), st.integers(1, 12))
def test_summed_histograms_of_sites_give_a_grid_with_equal_shares_of_events(sites, bins):
    total, edges = np.sum(sites, axis=0), np.arange(13) * 250.0
    if total.sum() == 0:
        with pytest.raises(InputError, match="no events"):
            TimeGrid.from_counts(total, edges, bins)
        return
    grid = TimeGrid.from_counts(total, edges, bins)
    cumulative = np.interp(grid.edges_days, edges, np.concatenate([[0], np.cumsum(total)]))
    assert np.diff(cumulative) == pytest.approx(total.sum() / bins)


def test_too_few_distinct_times_are_an_error_that_names_both_numbers():
    with pytest.raises(InputError, match="only 2 distinct bins where 5"):
        TimeGrid.from_quantiles([300] * 20, 5)


@pytest.mark.parametrize(
    ("counts", "edges"), [([1, 2], [0, 1]), ([-1, 2], [0, 1, 2]), ([1, 1], [0, 2, 2]), ([1, 1], [-5, 2, 3])]
)
def test_malformed_histograms_are_refused(counts, edges):
    with pytest.raises(InputError):
        TimeGrid.from_counts(counts, edges, 2)


def test_restricted_mean_is_the_sum_over_products_of_conditional_survival():
    logits = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    p = 1 / (1 + np.exp(-logits.numpy()))
    by_hand = [sum(np.prod(row[: k + 1]) * GRID.widths[k] for k in range(3)) for row in p]
    assert GRID.restricted_mean_days(logits).numpy() == pytest.approx(np.array(by_hand), abs=1e-9)
    assert GRID.survival_curve(logits).numpy() == pytest.approx(np.cumprod(p, axis=1), abs=1e-12)


def test_certain_survival_lives_to_the_last_edge_in_bfloat16():
    assert GRID.restricted_mean_days(torch.full((1, 3), 100.0, dtype=torch.bfloat16)).item() == pytest.approx(400)


def test_logits_of_another_number_of_bins_are_refused():
    with pytest.raises(InputError, match="4 logits for 3 bins"):
        GRID.survival_curve(torch.zeros(2, 4))
