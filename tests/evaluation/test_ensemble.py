"""The ensemble against curves averaged by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_run import predictions

from adamss_fl.errors import InputError
from adamss_fl.evaluation.ensemble import average, on_edges
from adamss_fl.evaluation.predictions import Predictions
from adamss_fl.survival import common_edges

OVERLAP = np.arange(12).reshape(2, 2, 3)


def model(survival: Any, edges: Any, overlap: int = 1) -> Predictions:
    """Two patients under the given curves."""
    curves, days = np.array(survival, dtype=float), np.array(edges, dtype=float)
    return Predictions(
        patient=np.array(["a", "b"]),
        site=np.array(["s", "s"]),
        time_days=np.array([50.0, 90.0]),
        event=np.array([1, 0]),
        risk=-(curves @ np.diff(days)),
        survival=curves,
        edges_days=days,
        overlap=np.full((2, 2, 3), overlap),
        has_mask=np.array([True, True]),
    )


def test_models_of_one_grid_average_their_curves_and_so_their_expected_days() -> None:
    first, second = model([[0.8, 0.4], [0.6, 0.2]], [0, 100, 300]), model([[0.6, 0.2], [1.0, 0.8]], [0, 100, 300])
    found = average([first, second], OVERLAP)
    np.testing.assert_allclose(found.survival, [[0.7, 0.3], [0.8, 0.5]])
    np.testing.assert_allclose(found.risk, [-(0.7 * 100 + 0.3 * 200), -(0.8 * 100 + 0.5 * 200)])
    np.testing.assert_allclose(found.risk, (first.risk + second.risk) / 2)


def test_models_of_other_grids_meet_on_the_union_up_to_the_shortest_by_hand() -> None:
    """Edges 0, 100, 200 and 0, 50, 400 meet at 0, 50, 100, 200; curves are linear between a model's own edges."""
    found = average([model([[0.8, 0.4]] * 2, [0, 100, 200]), model([[0.5, 0.15]] * 2, [0, 50, 400])], OVERLAP)
    assert found.edges_days.tolist() == [0, 50, 100, 200]
    first = [0.9, 0.8, 0.4]
    second = [0.5, 0.5 - 0.35 * 50 / 350, 0.5 - 0.35 * 150 / 350]
    expected = (np.array(first) + np.array(second)) / 2
    np.testing.assert_allclose(found.survival, [expected] * 2)
    np.testing.assert_allclose(found.risk, [-(expected @ [50, 50, 100])] * 2)


def test_overlap_is_the_one_given_and_all_else_kept() -> None:
    one = model([[0.8, 0.4]] * 2, [0, 100, 200], overlap=3)
    found = average([one, replace(one, overlap=one.overlap + 2)], OVERLAP)
    np.testing.assert_array_equal(found.overlap, OVERLAP)
    for name in ("patient", "site", "time_days", "event", "has_mask"):
        np.testing.assert_array_equal(getattr(found, name), getattr(one, name))


def test_the_ensemble_of_one_model_is_that_model() -> None:
    one = predictions(0.7, patients=40)
    found = average([one], OVERLAP)
    np.testing.assert_array_equal(found.survival, one.survival)
    np.testing.assert_allclose(found.risk, one.risk, rtol=1e-12)


@given(
    edges=st.lists(
        st.lists(st.integers(1, 900), min_size=1, max_size=6, unique=True).map(sorted), min_size=1, max_size=4
    ),
    seed=st.integers(0, 99),
)
def test_averaged_curves_start_at_one_never_rise_and_stay_between_the_models(edges: list[list[int]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    models = [model(np.cumprod(rng.uniform(size=(2, len(days))), axis=1), [0, *days]) for days in edges]
    grid = common_edges([one.edges_days for one in models])
    assert grid[-1] == min(days[-1] for days in edges)
    assert set(grid) <= {0, *(day for days in edges for day in days)}
    found = average(models, OVERLAP)
    each = np.stack([on_edges(one, grid).survival for one in models])
    assert (np.diff(np.pad(found.survival, ((0, 0), (1, 0)), constant_values=1.0), axis=1) <= 1e-12).all()
    assert (found.survival >= each.min(axis=0) - 1e-12).all()
    assert (found.survival <= each.max(axis=0) + 1e-12).all()
    interpolated = [
        [np.interp(grid[1:], one.edges_days, [1.0, *curve]) for curve in one.survival.tolist()] for one in models
    ]
    np.testing.assert_allclose(each, interpolated, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "value"),
    [("patient", ["a", "c"]), ("site", ["s", "t"]), ("time_days", [50.0, 91.0]), ("event", [1, 1])],
)
def test_models_of_other_patients_or_outcomes_are_refused_by_name(name: str, value: list[Any]) -> None:
    one = model([[0.8, 0.4]] * 2, [0, 100, 200])
    changed: dict[str, Any] = {name: np.array(value)}
    with pytest.raises(InputError, match=f"models 1 and 3 differ in {name}"):
        average([one, one, replace(one, **changed)], OVERLAP)


def test_no_model_is_refused() -> None:
    with pytest.raises(InputError, match="no model"):
        average([], OVERLAP)


def test_no_curve_is_read_past_its_last_edge() -> None:
    with pytest.raises(InputError, match="outside 0 to 200"):
        on_edges(model([[0.8, 0.4]] * 2, [0, 100, 200]), np.array([0.0, 100.0, 300.0]))
