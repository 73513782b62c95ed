"""Columns summed over sites against numpy and pandas on the pooled values."""

import json
import math
from functools import reduce
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from adamss_fl.errors import InputError
from adamss_fl.federation.statistics.summaries import ColumnSums, column_summary, column_sums, table_sums

EDGES = (0.0, 40.0, 50.0, 60.0, 70.0, 80.0)


def ages(seed: int, sites: int = 3, offset: float = 0.0) -> list[Any]:
    rng = np.random.default_rng(seed)
    columns = [rng.normal(55 + 5 * k, 12, 60 + 20 * k) + offset for k in range(sites)]
    for column in columns:
        column[rng.random(column.size) < 0.2] = np.nan
    return columns


def merged(columns: list[Any], edges: Any = EDGES, least: int = 5) -> ColumnSums:
    return reduce(ColumnSums.__add__, [column_sums(column, edges, least) for column in columns])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("offset", [0.0, 1e8])
def test_figures_are_those_of_all_patients_together(seed: int, offset: float) -> None:
    import pandas as pd

    columns = ages(seed, offset=offset)
    edges = np.array(EDGES) + offset
    found, pooled = column_summary(merged(columns, edges)), pd.Series(np.concatenate(columns))
    assert (found.n, found.missing, found.averaged) == (pooled.count(), pooled.isna().sum(), pooled.count())
    assert found.mean == pytest.approx(pooled.mean(), rel=1e-14)
    assert found.sd == pytest.approx(pooled.std(), rel=1e-7)
    cells = pd.cut(pooled, [-np.inf, *edges, np.inf], right=False).value_counts(sort=False)
    for told, hidden, expected in zip(found.histogram, found.hidden_at, cells, strict=True):
        assert told == expected if not hidden else told <= expected
    assert sum(found.histogram) + found.hidden_patients == found.n


def test_with_a_least_of_one_the_histogram_is_whole() -> None:
    columns = ages(4)
    found, pooled = column_summary(merged(columns, least=1)), np.concatenate(columns)
    expected = np.histogram(pooled[np.isfinite(pooled)], [-np.inf, *EDGES, np.inf])[0]
    assert found.histogram == tuple(expected.tolist())
    assert (found.suppressed_cells, found.hidden_patients, found.missing_hidden) == (0, 0, 0)


def test_the_summary_says_which_cells_sites_hide_and_how_many_patients() -> None:
    few = [30.0] * 2 + [45.0] * 7 + [55.0] * 20
    many = [30.0] * 9 + [45.0] * 8 + [55.0] * 6
    found = column_summary(merged([few, many]))
    assert found.histogram == (0, 9, 8, 26, 0, 0, 0)
    assert found.hidden_at == (0, 1, 1, 0, 0, 0, 0)
    assert (found.suppressed_cells, found.hidden_patients, found.n) == (2, 9, 52)


def test_a_column_that_few_patients_have_counts_as_missing_in_all() -> None:
    sums = column_sums([50.0, 61.0, 72.0, 83.0] + [np.nan] * 10, EDGES)
    assert (sums.cells.patients, int(sums.moments.n[0]), sums.missing) == (0, 0, 14)
    found = column_summary(sums)
    assert found.mean is found.sd is None
    assert (found.n, found.averaged) == (0, 0)


@pytest.mark.parametrize(("missing", "told", "hidden"), [(0, 0, 0), (1, 0, 1), (4, 0, 1), (5, 5, 0)])
def test_few_missing_values_are_not_counted_out(missing: int, told: int, hidden: int) -> None:
    sums = column_sums([*np.linspace(30, 80, 20), *[np.nan] * missing], EDGES)
    assert (sums.missing, sums.missing_hidden) == (told, hidden)


def test_the_mean_of_a_code_is_withheld_where_it_would_count_few_patients() -> None:
    one_of_forty = [0.0] * 39 + [1.0]
    half = [0.0, 1.0] * 20
    assert column_sums(one_of_forty, [0.5]).moments.n[0] == 0
    assert column_sums([0.0] * 20 + [1.0] * 20 + [2.0] * 2, [0.5]).moments.n[0] == 0
    found = column_summary(merged([one_of_forty, half], [0.5]))
    assert (found.n, found.averaged, found.mean) == (80, 40, 0.5)


@given(st.lists(hnp.arrays(float, st.integers(0, 12), elements=st.floats(-1e6, 1e6)), min_size=1, max_size=4))
def test_sums_of_any_values_travel_as_json_and_make_a_finite_summary(columns: list[Any]) -> None:
    edges = (-10.0, 0.0, 10.0)
    sums = merged(columns, edges)
    total = sum(column.size for column in columns)
    sent = json.loads(json.dumps(sums.plain(), allow_nan=False))
    back = ColumnSums.from_plain(sent, edges, patients=total, sites=len(columns))
    assert back.plain() == sums.plain()
    found = column_summary(back)
    kept = [column for column in columns if column.size >= 5]
    assert found.n == sum(column.size for column in kept)
    if found.averaged == found.n > 0:
        pooled = np.concatenate(kept)
        assert found.mean == pytest.approx(pooled.mean(), rel=1e-9, abs=1e-6)
        assert found.sd == pytest.approx(pooled.std(ddof=1), rel=1e-6, abs=1e-6)


def test_sums_tell_no_smallest_or_largest_value() -> None:
    values = np.append(np.linspace(40.123, 79.321, 30), 91.456)
    text = json.dumps(column_sums(values, EDGES).plain())
    assert not any(str(value) in text for value in (40.123, 79.321, 91.456))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edges": [0.0, 1.0]}, "shape"),
        ({"edges": [0, 41, 50, 60, 70, 80]}, "other edges"),
        ({"missing": -1}, "not a whole number"),
        ({"missing": 90}, "50 with and 90 without value, of 60 patients"),
        ({"missing_hidden": 1}, "hidden and told at once"),
        ({"missing_hidden": 2, "missing": 0}, "hidden and told at once"),
        ({"moments": {"n": [51], "mean": [55.0], "m2": [9.0]}}, "different patients"),
        ({"moments": {"n": [49], "mean": [55.0], "m2": [9.0]}}, "different patients"),
        ({"moments": {"n": [50], "mean": [85.0], "m2": [9.0]}}, "outside all cells"),
        ({"moments": {"n": [50], "mean": [-1.0], "m2": [9.0]}}, "outside all cells"),
        ({"moments": {"n": [50], "mean": [math.nan], "m2": [9.0]}}, "not finite"),
        ({"moments": {"n": [50], "mean": [55.0], "m2": [-9.0]}}, "negative"),
        ({"cells": {"counts": [10] * 5, "hidden_at": [0] * 5, "hidden_patients": 0}}, "shape"),
        ({"largest": 80.0}, "'largest' is unknown"),
    ],
)
def test_sums_that_cannot_be_are_refused(change: dict[str, Any], message: str) -> None:
    values = [*np.repeat([20.0, 45.0, 55.0, 65.0, 75.0], 9), *[72.0] * 5, *[np.nan] * 8]
    plain = column_sums(values, EDGES).plain()
    ColumnSums.from_plain(plain, EDGES, patients=60)
    with pytest.raises(InputError, match=message):
        ColumnSums.from_plain(plain | change, EDGES, patients=60)


def test_a_table_has_the_sums_of_its_columns_and_names_the_one_that_fails() -> None:
    columns = {"age": ages(0)[0], "weight": ages(1)[0]}
    found = table_sums(columns, {"age": EDGES, "weight": (50.0,)})
    assert {name: sums.plain() for name, sums in found.items()} == {
        "age": column_sums(columns["age"], EDGES).plain(),
        "weight": column_sums(columns["weight"], (50.0,)).plain(),
    }
    with pytest.raises(InputError, match="'height': there is none; known are age, weight"):
        table_sums(columns, {"height": EDGES})
    with pytest.raises(InputError, match="column 'age': histogram"):
        table_sums({"age": [[1.0]]}, {"age": EDGES})


def test_mistakes_are_refused() -> None:
    with pytest.raises(InputError, match="other edges"):
        column_sums([1.0] * 9, [0.0]) + column_sums([1.0] * 9, [0.5])
    with pytest.raises(InputError, match="too large"):
        column_sums([1e200, -1e200, 2e200, 3e200, 0.0], [0.0])
    with pytest.raises(InputError, match="finite or NaN"):
        column_sums([np.inf], [0.0])
