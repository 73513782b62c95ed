"""The report's table of differences between arms, what the patients could show, and the first answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from adamss_fl.evaluation.power import NoSpread, power_of_difference
from adamss_fl.evaluation.report_answers import Answer, Gap, gap, number, signed, why_no_c_index
from adamss_fl.evaluation.report_arms import FEDERATED, POOLED, label_of_difference, meaning_of_arm
from adamss_fl.evaluation.report_cross_site import CrossSite
from adamss_fl.evaluation.report_inputs import BOOTSTRAP, RunRecord, Scores, finite
from adamss_fl.survival import NoComparablePairs

FIRST_QUESTION = "Did the federation help each hospital, how far is it from pooled, and could that be luck?"
_OWN = "own_patients"


@dataclass(frozen=True)
class DifferenceRow:
    """One difference of C-indices; meaning : what its first arm is; told : which is higher, by this interval alone."""

    label: str
    meaning: str
    difference: str
    told: str


@dataclass(frozen=True)
class Differences:
    """What the page shows; null : the sentence on the run with shuffled outcomes, or empty."""

    rows: list[DifferenceRow]
    null: str


def differences_section(record: RunRecord) -> Differences | None:
    """The differences on all test patients; None where a run has none and no null run either."""
    gaps = (record.comparison or {}).get("gaps")
    rows = []
    for label, figures in (gaps if isinstance(gaps, Mapping) else {}).items():
        found = None if label == _OWN else Gap.read(figures)
        if found is not None:
            meaning = meaning_of_arm(label.partition(" - ")[0])
            rows.append(DifferenceRow(label_of_difference(label), meaning, found.short, told_by(found)))
    null = record.arm("null")
    said = "" if null is None else null_sentence(null.overall)
    return Differences(rows, said) if rows or said else None


UNTOLD = "cannot be told"


def told_by(found: Gap) -> str:
    """Which of the two is higher, by a difference's interval."""
    if found.low > 0:
        return "the first is higher"
    return "the second is higher" if found.high < 0 else UNTOLD


def power_sentence(record: RunRecord) -> str:
    """What the test patients could show of federated minus pooled; empty where the predictions do not say."""
    federated, pooled = record.arm(FEDERATED), record.arm(POOLED)
    first, second = (arm.predictions if arm is not None else None for arm in (federated, pooled))
    if first is None or second is None:
        return ""
    if not all(np.array_equal(getattr(first, name), getattr(second, name)) for name in ("site", "patient")):
        return ""
    comparison = record.comparison or {}
    samples, seed = int(finite(comparison.get("bootstrap")) or BOOTSTRAP), int(finite(comparison.get("seed")) or 0)
    try:
        return power_of_difference(first.time_days, first.event, first.risk, second.risk, samples, seed).sentence()
    except (NoSpread, NoComparablePairs):
        return ""


def null_sentence(scores: Scores) -> str:
    """What a run on shuffled outcomes says of the comparison."""
    if scores.c_index is None or scores.low is None or scores.high is None:
        return f"With shuffled outcomes no C-index can be given: {why_no_c_index(scores)}."
    holds = scores.low <= 0.5 <= scores.high
    meaning = (
        "as it should, since without true outcomes there is nothing to learn."
        if holds
        else "so outcomes may leak into training, or the model follows by luck something that goes with survival."
    )
    return (
        f"With shuffled outcomes C is {number(scores.c_index)}, its interval ({number(scores.low)} to "
        f"{number(scores.high)}) {'holds' if holds else 'does not hold'} 0.5, {meaning}"
    )


def first_answer(record: RunRecord, found: CrossSite | None) -> list[Answer]:
    """The page's first, in plain words, with what the test patients could show; none where there is no difference."""
    parts = [_hospitals(found), _from_pooled(gap(record, f"{FEDERATED} - {POOLED}"))]
    text = " ".join(part for part in parts if part)
    return [Answer(FIRST_QUESTION, text, small=power_sentence(record))] if text else []


def _hospitals(found: CrossSite | None) -> str:
    if found is None or not found.gains:
        return ""
    told = [(verdict, found.with_verdict(verdict)) for verdict in ("helped", "harmed")]
    parts = [f"{verdict} {listed(sites)}" for verdict, sites in told if sites]
    open_ = found.with_verdict("cannot be told")
    text = f"The federation {' and '.join(parts)}." if parts else ""
    if open_ and not parts:
        every = listed(open_) if len(open_) == 1 else f"any of the {len(open_)} hospitals"
        return f"Whether the federation helped {every} cannot be told from its own test patients."
    if open_:
        text += f" For {listed(open_)} it cannot be told: too few test patients, or too small a difference."
    return text


def _from_pooled(found: Gap | None) -> str:
    if found is None:
        return ""
    side = f"{number(abs(found.difference))} {'above' if found.difference > 0 else 'below'}"
    if round(found.difference, 3) == 0:
        side = "less than 0.001 from"
    luck = "could" if found.low <= 0 <= found.high else "would hardly"
    return (
        f"On all test patients, the federated model’s C-index lies {side} that of pooled training "
        f"(95 % interval of the difference: {signed(found.low)} to {signed(found.high)}); "
        f"luck in who the test patients are {luck} make such a difference. "
        "Luck in training is not in the interval: “compare --seeds” shows it."
    )


def listed(names: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
