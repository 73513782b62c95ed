"""The minimum cell count against brute force: what is told, and what can be worked out from it."""

import itertools
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from adamss_fl.errors import InputError
from adamss_fl.federation.statistics.cells import Cells, joined_edges, tell_cells, tell_histogram

tables = st.lists(st.one_of(st.integers(0, 4), st.integers(0, 40)), min_size=1, max_size=9)


@given(tables, st.integers(1, 6))
def test_what_is_told_is_true_and_no_count_of_few_patients(counts: list[int], least: int) -> None:
    table, found = np.array(counts), tell_cells(counts, least)
    told = found.counts > 0
    assert (found.counts[told] == table[told]).all()
    assert (found.counts[told] >= least).all()
    assert found.hidden_patients == 0 or found.hidden_patients >= least
    assert found.patients == (table.sum() if table.sum() >= least else 0)
    assert set(found.hidden_at.tolist()) <= {0, 1}
    if found.patients:
        assert ((found.hidden_at == 1) | (found.counts == table)).all()


@given(tables)
def test_with_a_least_of_one_all_is_told(counts: list[int]) -> None:
    found = tell_cells(counts, 1)
    assert found.counts.tolist() == counts
    assert found.suppressed_cells == found.hidden_patients == 0


@pytest.mark.parametrize("least", [2, 3, 4])
@pytest.mark.parametrize("cells", [2, 3, 4])
def test_no_answer_determines_a_count_of_few_patients(least: int, cells: int) -> None:
    """All tables that give one answer: between them every small cell of every table takes another value."""
    behind: dict[str, list[tuple[int, ...]]] = {}
    for table in itertools.product(range(2 * least + 2), repeat=cells):
        behind.setdefault(json.dumps(tell_cells(table, least).plain()), []).append(table)
    for answer, alike in behind.items():
        small = [(table, k) for table in alike for k in range(cells) if 0 < table[k] < least]
        if sum(alike[0]) == cells:  # one patient in each cell and nothing to hide them behind
            continue
        for table, k in small:
            assert any(other[k] != table[k] for other in alike), (answer, table)


def test_a_single_hidden_cell_takes_the_smallest_told_one_with_it() -> None:
    found = tell_cells([2, 9, 0, 7, 30], 5)
    assert found.counts.tolist() == [0, 9, 0, 0, 30]
    assert found.hidden_at.tolist() == [1, 0, 0, 1, 0]
    assert (found.suppressed_cells, found.hidden_patients) == (2, 9)


def test_hidden_cells_that_hold_enough_together_hide_no_other() -> None:
    found = tell_cells([2, 9, 3, 7], 5)
    assert found.hidden_at.tolist() == [1, 0, 1, 0]
    assert found.hidden_patients == 5


def test_a_total_that_gives_every_hidden_cell_away_is_not_told() -> None:
    found = tell_cells([1, 1, 1, 8, 9], 3)
    assert found.hidden_at.tolist() == [1, 1, 1, 1, 0]
    assert found.hidden_patients == 11
    assert tell_cells([2, 2, 8, 9], 3).hidden_at.tolist() == [1, 1, 1, 0]
    assert tell_cells([2, 8, 9, 8], 3).hidden_at.tolist() == [1, 1, 0, 1]
    assert tell_cells([1, 0, 1, 1, 0], 3).hidden_at.tolist() == [1, 1, 1, 1, 1]


def test_histogram_cells_are_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    edges = np.array([-1.0, 0.0, 0.25, 2.0])
    values = np.concatenate([rng.normal(size=300), edges, [np.nan] * 7])
    found = tell_histogram(values, edges, 1)
    expected = np.histogram(values[:-7], np.concatenate([[-np.inf], edges, [np.inf]]))[0]
    assert found.counts.tolist() == expected.tolist()
    assert found.patients == 304


def test_sites_add_up() -> None:
    both = tell_cells([2, 9, 3, 0], 5) + tell_cells([8, 0, 6, 7], 5)
    assert both.counts.tolist() == [8, 9, 6, 7]
    assert both.hidden_at.tolist() == [1, 0, 1, 0]
    assert (both.suppressed_cells, both.hidden_patients, both.patients) == (2, 5, 35)
    with pytest.raises(InputError, match="cannot be added"):
        tell_cells([9, 9]) + tell_cells([9, 9, 9])


# --- joined bins ------------------------------------------------------------------------------------------------------


def joined(values: list[int], edges: list[float], kept: tuple[float, ...]) -> list[int]:
    """Patients per cell of the kept edges, from those per cell of all edges."""
    cuts = [0, *(edges.index(edge) + 1 for edge in kept), len(values)]
    return [sum(values[low:high]) for low, high in itertools.pairwise(cuts)]


@given(
    st.integers(1, 3).flatmap(
        lambda sites: st.lists(st.lists(st.integers(0, 9), min_size=7, max_size=7), min_size=sites, max_size=sites)
    ),
    st.integers(1, 5),
    st.booleans(),
)
def test_joined_cells_hold_enough_of_every_site_or_none(counts: list[list[int]], least: int, hidden: bool) -> None:
    edges = [-3.0, 0.0, 1.0, 2.5, 8.0, 9.0]
    sites = [tell_cells(row, least if hidden else 1) for row in counts]
    try:
        kept = joined_edges(sites, edges, least)
    except InputError:
        assume(False)
    assert list(kept) == sorted(set(kept) & set(edges))
    for row in counts:
        if sum(row) >= least:
            assert all(held == 0 or held >= least for held in joined(row, edges, kept))


def test_cells_that_hold_enough_stay_as_they_are_and_others_join_a_neighbour() -> None:
    assert joined_edges([tell_cells([5, 6, 7, 5, 9])], [-2, -1, 0, 1]) == (-2, -1, 0, 1)
    assert joined_edges([tell_cells([5, 6, 2, 8, 9], 1)], [-2, -1, 0, 1]) == (-2, 0, 1)
    assert joined_edges([tell_cells([9] * 5), tell_cells([9, 10, 11, 2, 2])], [-2, -1, 0, 1]) == (-1,)


def test_edges_that_cannot_be_kept_are_an_error() -> None:
    with pytest.raises(InputError, match="no edge"):
        joined_edges([tell_cells([1, 0, 1, 1, 0], 3)], [-2, -1, 0, 1], 3)
    with pytest.raises(InputError, match="no site has patients"):
        joined_edges([tell_cells([1, 1, 0, 0, 0])], [-2, -1, 0, 1])
    with pytest.raises(InputError, match="4 edges make 5 cells"):
        joined_edges([tell_cells([9, 9])], [-2, -1, 0, 1])


# --- on the wire ------------------------------------------------------------------------------------------------------


@given(tables)
def test_cells_travel_as_json_without_loss(counts: list[int]) -> None:
    cells = tell_cells(counts)
    back = Cells.from_plain(json.loads(json.dumps(cells.plain())), cells=len(counts), patients=sum(counts))
    assert back.plain() == cells.plain()
    twice = cells + cells
    assert Cells.from_plain(twice.plain(), sites=2).plain() == twice.plain()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"counts": [9, 9]}, "shape"),
        ({"counts": [9, -1, 9, 0]}, "not a whole number"),
        ({"counts": [9, 9, 9.5, 0]}, "not a whole number"),
        ({"counts": [9, 90, 0, 0]}, "106 patients in the table of a site that has 36"),
        ({"counts": [9, 20, 6, 0]}, "hidden and told"),
        ({"hidden_at": [0, 0, 2, 1]}, "hidden and told"),
        ({"hidden_patients": 0}, "contradict"),
        ({"hidden_at": [0, 0, 0, 0]}, "contradict"),
        ({"hidden": 1}, "'hidden' is unknown"),
    ],
)
def test_cells_that_cannot_be_are_refused(change: dict[str, Any], message: str) -> None:
    plain = tell_cells([9, 20, 4, 3]).plain() | change
    with pytest.raises(InputError, match=message):
        Cells.from_plain(plain, cells=4, patients=36)


def test_mistakes_are_refused() -> None:
    for bad in ([[1, 2]], [-1], [0.5], ["1"]):
        with pytest.raises(InputError):
            tell_cells(bad)
    with pytest.raises(InputError, match="minimum cell count of 0"):
        tell_cells([1], 0)
    for edges in ([], [1, 1], [2, 1], [np.nan]):
        with pytest.raises(InputError, match="edges"):
            tell_histogram([1.0], edges)
    for values in ([[1.0]], [np.inf]):
        with pytest.raises(InputError, match="values"):
            tell_histogram(values, [0.0])
