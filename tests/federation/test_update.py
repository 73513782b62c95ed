"""A site's training reply: what is accepted, and what is refused by name."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from adamss_fl.federation.messages import Absence, Instruction, Reply, Weights
from adamss_fl.federation.update import Update, check_envelope, check_update

SHARED: Weights = {
    "bn.num_batches_tracked": np.array([3], dtype=np.int64),
    "bn.running_var": np.ones(2, dtype=np.float32),
    "weight": np.zeros((2, 3), dtype=np.float32),
}
INSTRUCTION = Instruction("train", "run", 4, 2)
FIGURES: dict[str, Any] = {"patients": 5, "steps": 2, "gate_opening": [0.1, 0.2, 0.3, 0.4, 0.5], "loss.survival": 1.5}
SOUND = Reply("train", "a", "run", 4, 2, FIGURES, {name: array + array.dtype.type(1) for name, array in SHARED.items()})


def checked(**changed: Any) -> Update | Absence:
    return check_update(replace(SOUND, **changed), INSTRUCTION, SHARED)


def test_a_sound_reply_becomes_an_update_with_its_own_numbers() -> None:
    update = checked()
    assert isinstance(update, Update)
    assert (update.site, update.patients, update.steps) == ("a", 5, 2)
    assert update.figures == FIGURES
    assert SOUND.weights is not None
    assert all(update.weights[name] is SOUND.weights[name] for name in SHARED)


@pytest.mark.parametrize(
    "changed", [{"run": "other"}, {"round": 3}, {"round": 5}, {"attempt": 1}, {"kind": "evaluate"}], ids=str
)
def test_an_answer_to_another_instruction_is_stale(changed: dict[str, Any]) -> None:
    found = checked(**changed)
    assert isinstance(found, Absence)
    assert (found.site, found.cause) == ("a", "stale_reply")
    assert "this is round 4, attempt 2" in found.detail
    assert check_envelope(SOUND, INSTRUCTION) is None


def with_tensor(name: str, array: Any) -> dict[str, Any]:
    return {"weights": {**(SOUND.weights or {}), name: array}}


def poisoned(value: float) -> Any:
    array = np.ones((2, 3), dtype=np.float32)
    array[1, 2] = value
    return array


@pytest.mark.parametrize(
    ("changed", "detail"),
    [
        (with_tensor("weight", poisoned(np.nan)), "tensor 'weight' holds a value that is not finite"),
        (with_tensor("weight", poisoned(np.inf)), "tensor 'weight' holds a value that is not finite"),
        (with_tensor("weight", poisoned(-np.inf)), "tensor 'weight' holds a value that is not finite"),
        (with_tensor("weight", np.zeros((3, 2), np.float32)), "tensor 'weight' has shape (3, 2), not (2, 3)"),
        (with_tensor("weight", np.zeros((2, 3))), "tensor 'weight' has type float64, not float32"),
        (with_tensor("bn.num_batches_tracked", np.ones(1, np.float32)), "has type float32, not int64"),
        (with_tensor("bn.running_var", np.array([1, -1e-3], np.float32)), "'bn.running_var' holds a negative variance"),
        (with_tensor("P-17 of hospital A", np.zeros(1)), "1 tensors were not asked for"),
        ({"weights": {"weight": SHARED["weight"]}}, "'bn.num_batches_tracked' is missing (2 of 3 are)"),
        ({"weights": None}, "'bn.num_batches_tracked' is missing (3 of 3 are)"),
    ],
)
def test_a_spoilt_tensor_is_refused_by_name(changed: dict[str, Any], detail: str) -> None:
    found = checked(**changed)
    assert isinstance(found, Absence)
    assert (found.site, found.cause) == ("a", "refused_reply")
    assert detail in found.detail


@pytest.mark.parametrize("name", ["patients", "steps"])
@pytest.mark.parametrize("value", [0, -1, 2.0, True, "5", None, float("nan")])
def test_a_count_that_is_not_a_positive_whole_number_is_refused(name: str, value: Any) -> None:
    found = checked(figures={**FIGURES, name: value})
    assert isinstance(found, Absence)
    assert f"'{name}'" in found.detail


@pytest.mark.parametrize(
    "figures",
    [
        {"balanced": "its text"},
        {"gate_opening": None},
        {"gate_opening": [0.1] * 4},
        {"gate_opening": [0.1, 0.2, 0.3, 0.4, float("nan")]},
        {"gate_opening": [0.1, 0.2, 0.3, 0.4, "x"]},
        {"loss.survival": float("inf")},
        {"loss.survival": "P-17 was ill"},
        {"machine": {"device": "P-17", "precision": "fp32"}},
        {"machine": {"device": "cpu", "precision": "<script>P-17</script>"}},
        {"machine": {"device": "cpu", "precision": "fp32", "P-17": "was ill"}},
        {"machine": None},
    ],
    ids=str,
)
def test_a_figure_that_could_not_be_recorded_is_refused_in_the_servers_own_words(figures: dict[str, Any]) -> None:
    """Such a figure would otherwise end the run when the event log or the mean over sites meets it."""
    found = checked(figures={**FIGURES, **figures})
    assert isinstance(found, Absence)
    assert found.cause == "refused_reply"
    assert "P-17" not in found.detail


def test_nothing_that_a_site_wrote_is_in_the_reason_of_a_refusal() -> None:
    found = checked(**with_tensor("P-17 of hospital A", np.zeros(1)))
    assert isinstance(found, Absence)
    assert "P-17" not in found.detail


@pytest.mark.parametrize("name", ["weight", "bn.running_var"])
def test_a_model_that_has_exploded_is_refused_by_how_far_it_moved(name: str) -> None:
    huge = np.full_like(SHARED[name], 1e30)
    found = checked(**with_tensor(name, huge))
    assert isinstance(found, Absence)
    assert (found.site, found.cause) == ("a", "refused_reply")
    assert found.detail.startswith("exploded: its ")
    assert isinstance(check_update(replace(SOUND, **with_tensor(name, huge)), INSTRUCTION, SHARED, 0.0), Update)


def test_the_limit_is_the_root_mean_square_of_the_change_against_that_of_the_model() -> None:
    start = {"weight": np.full(4, 2.0, np.float32)}
    for step, allowed in ((19.9, True), (20.1, False)):  # ten times 2
        moved = {"weight": start["weight"] + np.float32(step) * np.array([1, -1, 1, -1], np.float32)}
        found = check_update(replace(SOUND, weights=moved), INSTRUCTION, start, 10.0)
        assert isinstance(found, Update) is allowed
