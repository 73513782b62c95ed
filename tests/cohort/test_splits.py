"""Splits are disjoint and complete, stratified by event, and depend on seed and identifiers alone."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adamss_fl.cohort import Cohort, Patient, SplitSettings, hecktor2022, split_cohort
from adamss_fl.errors import InputError


def cohort_of(events: list[int | None]) -> Cohort:
    patients = tuple(
        Patient(f"P{k}", "site", Path("p"), Path("c"), time_days=None if e is None else 10.0 * k, event=e)
        for k, e in enumerate(events)
    )
    return Cohort("site", Path(), hecktor2022(), patients)


def ids(part: Cohort) -> set[str]:
    return {patient.id for patient in part.patients}


@given(
    events=st.lists(st.sampled_from([0, 1, None]), min_size=30, max_size=80).map(lambda e: [*e, *[0, 1] * 10]),
    test=st.floats(0.1, 0.5),
    validation=st.floats(0.1, 0.3),
    seed=st.integers(0, 2**32),
)
def test_parts_are_disjoint_complete_and_stratified(
    events: list[int | None], test: float, validation: float, seed: int
) -> None:
    cohort = cohort_of(events)
    split = split_cohort(cohort, SplitSettings(test=test, validation=validation, seed=seed))
    parts = (split.train, split.validation, split.test)
    assert sum(len(part) for part in parts) == sum(event is not None for event in events)
    assert set().union(*map(ids, parts)) == {p.id for p in cohort.patients if p.has_endpoint}
    for event in (0, 1):
        total = sum(e == event for e in events)
        for part, fraction in ((split.test, test), (split.validation, validation)):
            assert abs(sum(p.event == event for p in part.patients) - fraction * total) <= 1


@given(order=st.permutations(range(20)), seed=st.integers(0, 1000))
def test_the_order_of_patients_does_not_matter(order: list[int], seed: int) -> None:
    cohort = cohort_of([k % 2 for k in range(20)])
    shuffled = cohort.subset([f"P{k}" for k in order])
    settings = SplitSettings(test=0.3, seed=seed)
    assert split_cohort(cohort, settings).test == split_cohort(shuffled, settings).test


def test_another_seed_gives_other_test_patients() -> None:
    cohort = cohort_of([k % 2 for k in range(40)])
    first, second = (split_cohort(cohort, SplitSettings(test=0.5, seed=seed)).test for seed in (0, 1))
    assert ids(first) != ids(second)


@pytest.mark.parametrize(
    ("events", "settings", "part"),
    [
        ([0] * 10, SplitSettings(test=0.2), "train"),
        ([0] * 10 + [1], SplitSettings(test=0.2), "test"),
        ([0] * 10 + [1, 1, 1], SplitSettings(test=0.4, validation=0.05), "validation"),
        ([1, 0, 0], SplitSettings(test=0.6), "train"),
        ([], SplitSettings(), "train"),
    ],
)
def test_a_part_without_events_is_refused_by_name(events: list[int | None], settings: SplitSettings, part: str) -> None:
    with pytest.raises(InputError, match=f"site: the {part} part"):
        split_cohort(cohort_of(events), settings)


@pytest.mark.parametrize("settings", [{"test": 1.0}, {"test": -0.1}, {"test": 0.5, "validation": 0.5}])
def test_fractions_that_leave_nothing_to_train_on_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"test|validation"):
        SplitSettings(**settings)
