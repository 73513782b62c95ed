"""Which round's model a run gives: the last one's, or the best on validation patients by a rule fixed beforehand."""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

SelectionRule = Literal["last", "best_validation"]

LEAST_PAIRS = 20
"""Comparable pairs below which a C-index orders no models."""


@dataclass(frozen=True)
class Choice:
    """The round whose model is taken.

    reason : one line for a person; c_index : on the validation patients of that round, None where that played no part.
    """

    round: int
    reason: str
    c_index: float | None = None


def chosen_round(
    events: Iterable[Mapping[str, Any]],
    rule: SelectionRule,
    survival_rounds: Collection[int],
    least_pairs: int = LEAST_PAIRS,
) -> Choice:
    """The round that ``rule`` takes among ``survival_rounds``, those that train survival; test figures play no part.

    events : of a run's log, of which those of kind ``validation`` are read, the later where a round has two.
    ``best_validation`` takes the highest C-index among the rounds judged on ``least_pairs`` comparable pairs or more,
    the later round where two are equal, and the last round where there is none.

    Raises ValueError where ``survival_rounds`` is empty.
    """
    if not survival_rounds:
        raise ValueError("a round is chosen among rounds that train survival, and there is none")
    last = max(survival_rounds)
    if rule == "last":
        return Choice(last, "the last round, as the configuration says")
    figures = {
        event["round"]: event["figures"]
        for event in events
        if event.get("kind") == "validation" and event.get("round") in survival_rounds
    }
    if not figures:
        return Choice(last, "the last round, for want of validation figures")
    pairs = {round_: int(each.get("comparable_pairs") or 0) for round_, each in figures.items()}
    judged = {
        round_: float(each["c_index"])
        for round_, each in figures.items()
        if pairs[round_] >= least_pairs and _is_finite(each.get("c_index"))
    }
    if not judged:
        most = max(pairs.values())
        return Choice(
            last,
            f"the last round, as the validation patients have {_counted(most)} and {least_pairs} are needed to choose",
        )
    best = max(judged, key=lambda round_: (judged[round_], round_))
    return Choice(
        best,
        f"the best of {len(judged)} validated rounds: C-index {judged[best]:.3f} on {_counted(pairs[best])}",
        judged[best],
    )


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _counted(pairs: int) -> str:
    return f"{pairs:,} comparable pair{'' if pairs == 1 else 's'}"
