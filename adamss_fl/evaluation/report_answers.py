"""The report's first page: what the figures answer, in plain language, with what they do not show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adamss_fl.evaluation.report_inputs import ArmRecord, RunRecord, Scores, finite

UNDEFINED = "—"
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Answer:
    """A question that a reader has, and what the run says to it.

    gains : asks for the table of gains after it; small : what belongs to it in small type.
    """

    question: str
    text: str
    gains: bool = False
    small: str = ""


@dataclass(frozen=True)
class Gap:
    """A difference of C-indices with its 95 % interval."""

    difference: float
    low: float
    high: float

    @classmethod
    def read(cls, figures: object) -> Gap | None:
        """From a gap in ``comparison.json``; None where it is absent or not finite."""
        if not isinstance(figures, Mapping):
            return None
        known = [value for name in ("difference", "low", "high") if (value := finite(figures.get(name))) is not None]
        return cls(*known) if len(known) == 3 else None

    def __str__(self) -> str:
        return f"{signed(self.difference)} (95 % interval {signed(self.low)} to {signed(self.high)})"

    @property
    def short(self) -> str:
        """For a table cell."""
        return f"{signed(self.difference)} ({self.interval})"

    @property
    def interval(self) -> str:
        """The interval alone."""
        return f"{signed(self.low)} to {signed(self.high)}"


def number(value: float | None, digits: int = 3) -> str:
    """A number with a real minus sign, or a dash where it is None."""
    return UNDEFINED if value is None else f"{value:.{digits}f}".replace("-", MINUS)


def signed(value: float, digits: int = 3) -> str:
    """A difference with its sign; what rounds to zero has none."""
    rounded = round(value, digits)
    return f"{abs(rounded):.{digits}f}" if rounded == 0 else f"{rounded:+.{digits}f}".replace("-", MINUS)


def with_interval(scores: Scores) -> str:
    """``0.712 (0.661 to 0.760)``, without the interval where there is none, with the reason where there is no C."""
    if scores.c_index is None:
        return f"{UNDEFINED} ({why_no_c_index(scores)})"
    if scores.low is None or scores.high is None:
        return number(scores.c_index)
    return f"{number(scores.c_index)} ({number(scores.low)} to {number(scores.high)})"


def why_no_c_index(scores: Scores) -> str:
    """Why a C-index is not given."""
    if scores.patients == 0:
        return "no test patients"
    if scores.pairs == 0:
        return "no comparable pair"
    return "not evaluated"


def overlap_text(scores: Scores, mask: str) -> str:
    """DSC of one mask, with the reason where it is not defined."""
    value = scores.dsc.get(mask)
    if value is not None:
        return number(value)
    return f"{UNDEFINED} ({'no such outline' if mask in scores.dsc else 'not evaluated'})"


def answers(record: RunRecord) -> list[Answer]:
    """Questions of a coordinator or a clinician; those that the run cannot answer are left out."""
    found = [_cost(record), _gain(record)] if record.comparison is not None else [_order(record.main)]
    found += [_ceiling(record), _outlines(record), _attendance(record.main.events)]
    return [answer for answer in found if answer is not None]


def gap(record: RunRecord, name: str) -> Gap | None:
    """A gap of the comparison by its name."""
    gaps = (record.comparison or {}).get("gaps")
    return Gap.read(gaps.get(name)) if isinstance(gaps, Mapping) else None


def own_gap(record: RunRecord, site: str) -> Gap | None:
    """Federated minus the hospital alone, on the hospital's own test patients."""
    gaps = (record.comparison or {}).get("gaps")
    own = gaps.get("own_patients") if isinstance(gaps, Mapping) else None
    return Gap.read(own.get(f"federated - local:{site}")) if isinstance(own, Mapping) else None


def mean_local(record: RunRecord) -> float | None:
    """Mean C-index of the hospitals alone, on all test patients; None where any is undefined."""
    values = [arm.overall.c_index for arm in record.arms if arm.kind == "local"]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _cost(record: RunRecord) -> Answer | None:
    federated, pooled = record.arm("federated"), record.arm("pooled")
    if federated is None or pooled is None or federated.overall.c_index is None or pooled.overall.c_index is None:
        return None
    comparison = record.comparison or {}
    patients, events = comparison.get("test_patients"), comparison.get("test_events")
    text = (
        f"On the same {patients} test patients ({events} with an event), the model trained together, with no patient "
        f"leaving a hospital, reaches a C-index of {_spoken(federated.overall)}. A model trained on all patients in "
        f"one place reaches {_spoken(pooled.overall)}."
    )
    difference = gap(record, "federated - pooled")
    if difference is not None:
        text += f" The difference is {difference}. "
        if difference.high < 0:
            text += "Federation costs some accuracy here: the whole interval lies below zero."
        elif difference.low > 0:
            text += "The federated model is the better one here: the whole interval lies above zero."
        else:
            loss = number(max(-difference.low, 0.0))
            text += f"The interval includes zero, so no cost is shown; a loss of up to {loss} is not ruled out."
    return Answer("What does training together cost, compared with pooling all patients?", text)


def _gain(record: RunRecord) -> Answer | None:
    federated, alone = record.arm("federated"), mean_local(record)
    if federated is None or federated.overall.c_index is None or alone is None:
        return None
    text = (
        f"Judged on the test patients of all hospitals, a hospital that trains alone reaches a C-index of "
        f"{number(alone)} on average; together they reach {number(federated.overall.c_index)}."
    )
    difference = gap(record, "federated - mean local")
    if difference is not None:
        text += f" The gain is {difference}. "
        if difference.low > 0:
            text += "The whole interval lies above zero: training together helps."
        elif difference.high < 0:
            text += "The whole interval lies below zero: here, training together does harm."
        else:
            text += "The interval includes zero, so these patients do not settle whether training together helps."
    text += " The table gives each hospital's own gain; with few patients of its own, its interval is wide."
    return Answer("What does each hospital gain over training alone?", text, gains=True)


def _order(arm: ArmRecord) -> Answer:
    scores = arm.overall
    question = "How well does the model put patients in order of risk?"
    if scores.c_index is None:
        return Answer(question, f"No C-index can be given: {why_no_c_index(scores)}.")
    pairs = "" if scores.pairs is None else f", counted over {scores.pairs:,} pairs of patients whose order is known"
    return Answer(
        question,
        f"The C-index is {_spoken(scores)}{pairs}: of two patients, the one with the earlier event had the higher "
        f"predicted risk in {100 * scores.c_index:.0f} of 100 such pairs. 0.5 is a coin toss and 1 a perfect order.",
    )


def _ceiling(record: RunRecord) -> Answer | None:
    oracle = finite((record.comparison or {}).get("oracle_c_index"))
    reached = record.main.overall.c_index
    if oracle is None or reached is None or oracle <= 0.5:
        return None
    share = 100 * (reached - 0.5) / (oracle - 0.5)
    return Answer(
        "How good is that?",
        "A C-index of 0.5 is a coin toss, and 1 would be a perfect order, which chance in the outcomes rules out. "
        "These patients are synthetic, so the best possible order is known: an oracle that sees the true hazard "
        f"reaches {number(oracle)}. The {record.main.label.lower()} model covers {share:.0f} % of the way there from "
        "chance.",
    )


def _outlines(record: RunRecord) -> Answer | None:
    main = record.main
    parts = [
        f"{number(main.overall.dsc[mask], 2)} for {name}"
        for mask, name in (("tumour", "the primary tumour"), ("nodes", "lymph nodes"))
        if main.overall.dsc.get(mask) is not None
    ]
    if not parts:
        return None
    text = f"The overlap of predicted and reference outlines (aggregated DSC) is {' and '.join(parts)}; 1 is identical."
    pooled = record.arm("pooled")
    other = [number(pooled.overall.dsc.get(mask), 2) for mask in ("tumour", "nodes")] if pooled else []
    if other and UNDEFINED not in other:
        text += f" The pooled model reaches {other[0]} and {other[1]}."
    return Answer("How well does it find tumour and nodes?", text)


def _attendance(events: Sequence[Mapping[str, Any]]) -> Answer | None:
    missed = [event for event in events if event.get("kind") == "absence"]
    sites = {event.get("site") for event in events if event.get("kind") == "train"}
    if len(sites) < 2 and not missed:
        return None
    question = "Did every hospital take part in every round?"
    if not missed:
        return Answer(question, f"Yes: all {len(sites)} hospitals answered in every round.")
    named = [f"{e.get('site')} in round {e.get('round')} ({str(e.get('cause', '')).replace('_', ' ')})" for e in missed]
    shown = "; ".join(named[:6]) + (f"; and {len(named) - 6} more" if len(named) > 6 else "")
    return Answer(question, f"No. Absent: {shown}. A round goes on with those who answer, while the quorum holds.")


def _spoken(scores: Scores) -> str:
    if scores.low is None or scores.high is None:
        return number(scores.c_index)
    return f"{number(scores.c_index)} (95 % interval {number(scores.low)} to {number(scores.high)})"
