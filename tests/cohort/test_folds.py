"""Folds hold every patient once, are even in every stratum, and depend on seed and identifiers alone."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adamss_fl.cohort.folds import Member, centre_folds, members_of, stratified_folds
from adamss_fl.errors import InputError

CENTRES = ("A", "B", "C", None)


@st.composite
def cohorts(draw: st.DrawFn) -> list[Member]:
    """Members of up to four centres, at least six of them with an event."""
    kinds = draw(st.lists(st.tuples(st.sampled_from(CENTRES), st.integers(0, 1)), max_size=70))
    kinds += [(centre, event) for centre in ("A", "B", "C") for event in (1, 1, 0)]
    return [Member(f"P{k}", "site", event, centre) for k, (centre, event) in enumerate(kinds)]


@given(members=cohorts(), folds=st.integers(2, 6), seed=st.integers(0, 2**32))
def test_every_patient_is_in_one_fold_and_every_stratum_is_even(members: list[Member], folds: int, seed: int) -> None:
    made = stratified_folds(members, folds, seed)
    assert len(made) == folds
    assert Counter(name for fold in made for name in fold.ids) == Counter(member.id for member in members)
    strata = [{m.id for m in members if (m.centre, m.event) == key} for key in {(m.centre, m.event) for m in members}]
    with_event = {m.id for m in members if m.event}
    for group in (*strata, with_event, {m.id for m in members}):
        sizes = [len(group & set(fold.ids)) for fold in made]
        assert max(sizes) - min(sizes) <= 1
    assert all(with_event & set(fold.ids) for fold in made)


@given(members=cohorts(), seed=st.integers(0, 1000), random=st.randoms())
def test_the_order_of_patients_does_not_matter(members: list[Member], seed: int, random: object) -> None:
    shuffled = list(members)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert stratified_folds(members, 3, seed) == stratified_folds(shuffled, 3, seed)
    known = [member for member in members if member.centre is not None]
    assert centre_folds(known) == centre_folds([member for member in shuffled if member.centre is not None])


def test_another_seed_gives_other_folds() -> None:
    members = [Member(f"P{k}", "s", k % 2, "A") for k in range(40)]
    assert stratified_folds(members, 4, 0) != stratified_folds(members, 4, 1)


@given(members=cohorts())
def test_leave_one_centre_out_makes_a_fold_of_each_centre(members: list[Member]) -> None:
    known = [member for member in members if member.centre is not None]
    made = {fold.label: set(fold.ids) for fold in centre_folds(known)}
    assert made == {f"centre {c}": {m.id for m in known if m.centre == c} for c in ("A", "B", "C")}


@pytest.mark.parametrize(
    ("events", "folds", "message"),
    [
        ([1, 1, 0, 0], 1, "ask for 2 or more"),
        ([1, 1, 0, 0, 0, 0], 3, "2 of the 6 patients to divide have an event"),
        ([1, 0, 0, 0], 2, "cross-validation needs 2"),
        ([], 2, "cross-validation needs 2"),
    ],
)
def test_more_folds_than_events_allow_are_refused(events: list[int], folds: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        stratified_folds([Member(f"P{k}", "s", event, "A") for k, event in enumerate(events)], folds, 0)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([Member("a", "s", 1, "A"), Member("b", "s", 1, "A")], "the only centre is 'A'"),
        ([Member("a", "s", 1, "A"), Member("b", "s", 0, "B")], "centre 'B' has no patient with an event"),
        ([Member("a", "s", 1, "A"), Member("b", "s", 1, None)], "1 patients have no centre .* the first 'b'"),
        ([], "there are no patients"),
    ],
)
def test_leave_one_centre_out_refuses_what_it_cannot_do(members: list[Member], message: str) -> None:
    with pytest.raises(InputError, match=message):
        centre_folds(members)


def test_one_identifier_for_two_patients_is_refused_with_their_sites() -> None:
    members = [Member("x", "north", 1, "A"), Member("x", "south", 1, "B"), Member("y", "south", 1, "B")]
    for make in (lambda: stratified_folds(members, 2, 0), lambda: centre_folds(members)):
        with pytest.raises(InputError, match=r"'x' at north, south; give the sites' patients distinct identifiers"):
            make()


def test_the_centre_is_the_clinical_column_where_the_site_has_one_and_else_the_site() -> None:
    patients: list[tuple[str, str, int, dict[str, str | float | None]]] = [
        ("a", "north", 1, {"centre": "7"}),
        ("b", "north", 0, {"centre": None}),
        ("c", "north", 0, {"centre": 7.0}),
        ("d", "south", 1, {"age_years": 60.0}),
    ]
    made = members_of(patients)
    assert [member.centre for member in made] == ["7", None, "7", "south"]
