"""Boxes of patients: a partition without small ones, pairs as counted one by one, and a C-index inside its bounds."""

import json
from dataclasses import fields, replace
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adamss_fl.errors import InputError
from adamss_fl.federation.statistics.box_concordance import BoxSums, all_pairs_of_boxes, box_interval, box_sums
from adamss_fl.federation.statistics.boxes import Boxes, box_tallies, make_boxes
from adamss_fl.federation.statistics.pair_tables import PairTallies, pair_tallies
from adamss_fl.survival import concordance_counts
from adamss_fl.survival.concordance import NoComparablePairs

Site = tuple[Any, Any, Any]


def sites(seed: int, sizes: tuple[int, ...] = (120, 80, 50), on_days: int = 1) -> list[Site]:
    """(days, event, risk) of each site; risks are right more often than wrong, and tied with ``on_days`` above 1."""
    rng = np.random.default_rng(seed)
    found = []
    for size in sizes:
        log_hazard = rng.normal(size=size)
        died = rng.exponential(size=size) * np.exp(-log_hazard) * 900
        lost = rng.uniform(50, 2500, size=size)
        risk = np.round(100 * (log_hazard + 0.7 * rng.normal(size=size)) / on_days) * on_days
        found.append((np.ceil(np.minimum(died, lost) / on_days) * on_days, died <= lost, risk))
    return found


def pooled(parts: list[Site]) -> Site:
    return tuple(np.concatenate(columns) for columns in zip(*parts, strict=True))  # type: ignore[return-value]


def edges_of(parts: list[Site], bins: int = 64) -> tuple[list[float], list[float]]:
    days, _, risk = pooled(parts)
    levels = np.arange(1, bins) / bins
    return tuple(np.unique(np.quantile(each, levels)).tolist() for each in (days, risk))  # type: ignore[return-value]


def told(part: Site, edges: tuple[list[float], list[float]], least: int, samples: int = 0, seed: int = 0) -> BoxSums:
    """A site's sums as the server reads them."""
    sums = box_sums(*part, *edges, samples, seed, least)
    assert sums is not None
    bins = len(edges[0]) + 1, len(edges[1]) + 1
    return BoxSums.from_plain(json.loads(json.dumps(sums.plain())), bins, len(part[0]), samples)


tables = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).poisson(
        np.random.default_rng(seed + 1).choice([0.05, 0.4, 2.0]),
        (*np.random.default_rng(seed).integers(1, 9, 1), 2, *np.random.default_rng(seed + 2).integers(1, 9, 1)),
    )
)


@given(tables, st.integers(1, 7), st.sampled_from([1, 3, 512]))
def test_boxes_hold_everybody_once_and_none_is_small(table: Any, least: int, most: int) -> None:
    boxes = make_boxes(table, least, most)
    held = table.sum(axis=(0, 2))
    if boxes is None:
        assert ((held > 0) & (held < least)).any()
        return
    covered = np.zeros_like(table)
    for box in range(boxes.count):
        cells = (
            slice(boxes.first_time[box], boxes.last_time[box] + 1),
            boxes.event[box],
            slice(boxes.first_risk[box], boxes.last_risk[box] + 1),
        )
        covered[cells] += 1
        assert table[cells].sum() == boxes.patients[box] >= least
    assert (covered == (held > 0)[None, :, None]).all()
    assert (np.bincount(boxes.event, minlength=2) <= most).all()
    assert Boxes.from_plain(json.loads(json.dumps(boxes.plain())), (table.shape[0], table.shape[2]), table.sum())


def test_a_box_is_cut_at_the_median_of_its_wider_side_as_long_as_both_halves_are_large_enough() -> None:
    table = np.zeros((2, 2, 8), dtype=int)
    table[0, 1] = [3, 0, 0, 3, 3, 0, 0, 3]
    boxes = make_boxes(table, 3)
    assert boxes is not None
    assert sorted(zip(boxes.first_risk, boxes.last_risk, boxes.first_time, boxes.last_time, strict=True)) == [
        (0, 0, 0, 1),
        (1, 3, 0, 1),
        (4, 4, 0, 1),
        (5, 7, 0, 1),
    ]
    halves = make_boxes(table, 4)
    assert halves is not None
    assert halves.patients.tolist() == [6, 6]


@given(tables)
def test_boxes_of_one_cell_are_a_table(table: Any) -> None:
    time, event, risk = np.nonzero(table)
    boxes = Boxes(event, time, time, risk, risk, table[time, event, risk])
    weights = np.random.default_rng(0).uniform(0, 3, table[:, 1].shape) * table[:, 1]
    for first, of_boxes in ((None, None), (weights, np.where(event == 1, weights[time, risk], 0.0))):
        mine, theirs = box_tallies(boxes, of_boxes), pair_tallies(table.astype(float), first)
        for field in fields(PairTallies):
            assert getattr(mine, field.name) == pytest.approx(getattr(theirs, field.name), rel=1e-9, abs=1e-9), field


@settings(deadline=None, max_examples=60)
@given(tables, st.integers(1, 4))
def test_pairs_are_those_counted_one_by_one(table: Any, least: int) -> None:
    boxes = make_boxes(table, least)
    if boxes is None:
        return
    expected = dict.fromkeys((field.name for field in fields(PairTallies)), 0)
    patients = [box for box in range(boxes.count) for _ in range(boxes.patients[box])]
    for one, i in enumerate(patients):
        for other, j in enumerate(patients):
            if one == other or not boxes.event[i]:
                continue
            before = boxes.last_time[i] < boxes.first_time[j]
            after = boxes.last_time[j] < boxes.first_time[i]
            right, wrong = boxes.first_risk[i] > boxes.last_risk[j], boxes.last_risk[i] < boxes.first_risk[j]
            if before:
                expected["right" if right else "wrong" if wrong else "same_risk"] += 1
            elif not after and boxes.event[j]:
                expected["both_events"] += one < other
            elif not after:
                expected["maybe_right" if right else "maybe_wrong" if wrong else "maybe_same_risk"] += 1
    found = box_tallies(boxes)
    assert {name: float(getattr(found, name)) for name in expected} == expected


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 10**6), st.sampled_from([1, 3, 5, 12]), st.sampled_from([1, 60, 400]), st.integers(2, 64))
def test_the_pooled_c_index_lies_inside_the_bounds(seed: int, least: int, on_days: int, bins: int) -> None:
    parts = sites(seed, (40, 35, 60), on_days)
    edges = edges_of(parts, bins)
    made = [part for part in parts if box_sums(*part, *edges, 0, 0, least) is not None]
    if not made:
        return
    truth = concordance_counts(*pooled(made)).c_index
    found = all_pairs_of_boxes([told(part, edges, least) for part in made], (len(edges[0]) + 1, len(edges[1]) + 1))
    assert found.low - 1e-12 <= truth <= found.high + 1e-12
    assert found.low <= found.c_index <= found.high
    assert found.patients == sum(len(part[0]) for part in made)
    assert found.events == sum(int(part[1].sum()) for part in made)


def test_the_estimate_is_near_the_pooled_patients_with_boxes_of_five() -> None:
    errors = []
    for seed in range(40):
        parts = sites(seed)
        edges = edges_of(parts)
        found = all_pairs_of_boxes([told(part, edges, 5) for part in parts], (len(edges[0]) + 1, len(edges[1]) + 1))
        errors.append(found.c_index - concordance_counts(*pooled(parts)).c_index)
    assert np.abs(errors).mean() < 0.006
    assert np.abs(errors).max() < 0.02
    assert abs(np.mean(errors)) < 0.006


def test_the_interval_is_near_that_of_the_pooled_patients() -> None:
    from adamss_fl.survival import bootstrap_interval

    parts = sites(3)
    edges = edges_of(parts)
    sums = [told(part, edges, 5, samples=400, seed=number) for number, part in enumerate(parts)]
    interval = box_interval(sums, (len(edges[0]) + 1, len(edges[1]) + 1))
    expected = bootstrap_interval(*pooled(parts), samples=2000, seed=0)
    assert interval.high - interval.low == pytest.approx(expected.high - expected.low, rel=0.15)
    assert interval.low == pytest.approx(expected.low, abs=0.012)
    assert interval.samples == 400


def test_one_site_alone_is_exact() -> None:
    (part,) = sites(1, (90,))
    edges = edges_of([part])
    found = all_pairs_of_boxes([told(part, edges, 5)], (len(edges[0]) + 1, len(edges[1]) + 1))
    truth = concordance_counts(*part).c_index
    assert (found.low, found.c_index, found.high) == (truth, truth, truth)


def test_no_pair_and_no_box_are_said() -> None:
    days, event, risk = sites(0, (30,))[0]
    calm = told((days, np.zeros(30, dtype=bool), risk), ([500.0], [0.0]), 5, samples=3)
    with pytest.raises(NoComparablePairs):
        all_pairs_of_boxes([calm, calm], (2, 2))
    with pytest.raises(NoComparablePairs):
        box_interval([calm, calm], (2, 2))
    few = event & (np.cumsum(event) <= 4)
    assert box_sums(days, few, risk, [500.0], [0.0], 0, 0, 5) is None
    with pytest.raises(InputError, match="resamples"):
        box_sums(days, event, risk, [500.0], [0.0], -1, 0, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"event": [2]}, "not on the grid"),
        ({"last_time": [9]}, "not on the grid"),
        ({"first_risk": [1], "last_risk": [0]}, "not on the grid"),
        ({"patients": [0]}, "is empty"),
        ({"patients": [6]}, "as many patients"),
        ({"patients": [-5]}, "boxes: patients"),
        ({"patients": [2, 3]}, "boxes: first_time"),
        (
            {
                "event": [1, 1],
                "first_time": [0, 0],
                "last_time": [1, 0],
                "first_risk": [0, 0],
                "last_risk": [1, 0],
                "patients": [2, 3],
            },
            "share a cell",
        ),
    ],
)
def test_boxes_that_no_site_makes_are_refused(change: dict[str, Any], message: str) -> None:
    good = Boxes(*(np.array([value]) for value in (1, 0, 1, 0, 1, 5)))
    assert Boxes.from_plain(good.plain(), (2, 2), 5).count == 1
    base = good.plain()
    if "patients" in change and len(change["patients"]) == 2 and len(change) == 1:
        base["event"] = [1, 0]
    with pytest.raises(InputError, match=message):
        Boxes.from_plain({**base, **change}, (2, 2), 5)


def test_pairs_that_the_boxes_rule_out_are_refused() -> None:
    part = sites(2, (60,))[0]
    edges = edges_of([part])
    sums = box_sums(*part, *edges, 4, 0, 5)
    assert sums is not None
    bins = len(edges[0]) + 1, len(edges[1]) + 1
    for wrong in (
        replace(sums, comparable_within=1e9),
        replace(sums, right_within=-1.0),
        replace(sums, right_within=sums.comparable_within + 1),
        replace(sums, drawn_right=sums.drawn_comparable + 1),
        replace(sums, drawn=sums.drawn[:, :-1]),
        replace(sums, drawn=-1 - sums.drawn),
    ):
        with pytest.raises(InputError):
            BoxSums.from_plain(wrong.plain(), bins, 60, 4)
    assert reduce(add, [sums.boxes, sums.boxes]).count == 2 * sums.boxes.count
