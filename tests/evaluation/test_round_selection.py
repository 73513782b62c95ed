"""Which round's model is taken, by the events of a run."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adamss_fl.errors import InputError
from adamss_fl.evaluation.selection import Choice, choice_of_run, chosen_round, sentence


def validation(round_: int, c_index: float | None, pairs: int = 100, **more: Any) -> dict[str, Any]:
    return {"kind": "validation", "round": round_, "figures": {"c_index": c_index, "comparable_pairs": pairs}, **more}


def test_the_best_validated_survival_round_is_taken_whatever_the_order_of_events() -> None:
    events = [validation(1, 0.9), validation(3, 0.6), validation(4, 0.7), validation(5, 0.65)]
    for given_events in (events, events[::-1]):
        choice = chosen_round(given_events, "best_validation", (3, 4, 5))
        assert (choice.round, choice.c_index) == (4, 0.7)
        assert choice.reason == "the best of 3 validated rounds: C-index 0.700 on 100 comparable pairs"


def test_of_equal_rounds_the_later_is_taken() -> None:
    events = [validation(round_, c) for round_, c in ((3, 0.7), (4, 0.7), (5, 0.6))]
    assert chosen_round(events, "best_validation", (3, 4, 5)).round == 4


def test_of_two_records_of_a_round_the_later_counts() -> None:
    events = [validation(3, 0.9), validation(4, 0.7), validation(3, 0.5)]
    assert chosen_round(events, "best_validation", (3, 4)).round == 4


def test_the_rule_last_reads_no_event() -> None:
    assert chosen_round([validation(3, 0.9)], "last", (3, 4)).round == 4


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ([], "the last round, for want of validation figures"),
        ([validation(1, 0.9)], "the last round, for want of validation figures"),
        (
            [validation(3, 0.9, pairs=19), validation(4, 0.5, pairs=7)],
            "the last round, as the validation patients have 19 comparable pairs and 20 are needed to choose",
        ),
        (
            [validation(3, None, pairs=0)],
            "the last round, as the validation patients have 0 comparable pairs and 20 are needed to choose",
        ),
    ],
)
def test_without_enough_comparable_pairs_it_is_the_last_round_with_the_reason(
    events: list[dict[str, Any]], reason: str
) -> None:
    assert chosen_round(events, "best_validation", (3, 4, 5)) == Choice(5, reason, None)


def test_a_round_on_too_few_pairs_is_no_candidate_and_the_least_number_is_enough() -> None:
    events = [validation(3, 0.9, pairs=19), validation(4, 0.6, pairs=20)]
    assert chosen_round(events, "best_validation", (3, 4, 5)).round == 4
    assert chosen_round(events, "best_validation", (3, 4, 5), least_pairs=19).round == 3


def test_figures_of_test_patients_and_of_training_have_no_say() -> None:
    """Whatever other events there are, the choice is the same: only those of kind validation are read."""
    events = [validation(3, 0.6), validation(4, 0.5)]
    others = [{**validation(4, 0.99), "kind": kind} for kind in ("train", "aggregate", "run_end", "evaluate", "test")]
    assert chosen_round([*others, *events, *others], "best_validation", (3, 4)).round == 3


def test_a_plan_without_survival_has_no_choice() -> None:
    with pytest.raises(ValueError, match="train survival"):
        chosen_round([], "best_validation", ())


@given(
    st.lists(
        st.tuples(st.integers(1, 8), st.one_of(st.none(), st.sampled_from([0.5, 0.6, 0.7])), st.integers(0, 40)),
        max_size=20,
    ),
    st.sets(st.integers(1, 8), min_size=1),
)
def test_the_best_at_the_end_was_the_best_whenever_a_later_round_was_saved(
    figures: list[tuple[int, float | None, int]], survival: set[int]
) -> None:
    """So that keeping the best round so far is enough to have the best round at the end."""
    by_round = {round_: validation(round_, c, pairs) for round_, c, pairs in figures if c is not None or pairs == 0}
    end = chosen_round(by_round.values(), "best_validation", survival)
    for now in sorted(each for each in survival if each > end.round):
        so_far = [event for round_, event in by_round.items() if round_ < now]
        assert chosen_round(so_far, "best_validation", {each for each in survival if each < now}).round == end.round


def test_a_finished_run_tells_its_choice(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no finished run"):
        choice_of_run(tmp_path)
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps({"rounds": 9}))
    assert choice_of_run(tmp_path) == Choice(9, "the last round, as the configuration says")
    chosen = {"rule": "best_validation", "round": 7, "c_index": 0.71, "reason": "the best of 3 validated rounds"}
    path.write_text(json.dumps({"rounds": 9, "selected": chosen}))
    assert choice_of_run(tmp_path) == Choice(7, "the best of 3 validated rounds", 0.71)
    assert sentence(choice_of_run(tmp_path)) == "The model is that of round 7, the best of 3 validated rounds."
    for broken in ({}, {"rounds": 9, "selected": {"round": 7}}, {"rounds": "many"}):
        path.write_text(json.dumps(broken))
        with pytest.raises(InputError, match="does not say which round"):
            choice_of_run(tmp_path)
