"""What the figures over all hospitals' test patients answer, in plain language, with what they leave open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adamss_fl.evaluation.report_answers import Answer, number
from adamss_fl.evaluation.report_federated_inputs import Federated, Part, duration, p_value
from adamss_fl.evaluation.report_inputs import finite

FIGURES = {
    "uno": "Uno’s C",
    "brier": "Brier score",
    "auc": "AUC",
    "calibration": "calibration curve",
    "d_calibration": "D-calibration",
}
WIDE_BOUNDS = 0.1
"""Guaranteed bounds further apart say that the tables tell little of the order of patients of two hospitals."""
FEW_EVENTS = 10
"""A C-index of fewer rests on the ranks of a handful of patients."""
FINEST_STEP = 32
"""More bins than this are only on the finest grid, so that nothing made it coarser."""


def federated_answers(found: Federated) -> list[Answer]:
    """Questions of a clinician, for the report's first page."""
    if found.reason is not None:
        text = f"There are no figures over all hospitals’ test patients: {found.reason}."
        told = Answer("How good is the model over all hospitals’ patients?", text)
        return [told, _hospitals(found)] if found.excluded else [told]
    return [_order(found), _groups(found), _probabilities(found), _hospitals(found), _cells(found)]


def interval_text(concordance: Part) -> str:
    """``95 % interval 0.640 to 0.724``, or why there is none."""
    interval = concordance.part("interval")
    low, high = interval.number("low"), interval.number("high")
    if low is None or high is None:
        return f"no interval: {interval.reason or 'not evaluated'}"
    return f"95 % interval {number(low)} to {number(high)}"


def _order(found: Federated) -> Answer:
    question = "How well does the model put patients in order of risk?"
    c, uno = found.part("concordance"), found.part("uno")
    index = c.number("c_index")
    text = f"No C-index can be given: {c.reason or 'not evaluated'}."
    small = ""
    if index is not None:
        text = (
            f"Over all pairs of the {found.people} of {found.hospitals} "
            f"({found.count('events') or 0:,} with an event), the C-index is {number(index)} ({interval_text(c)}): of "
            "two patients, the one with the earlier event had the higher predicted risk in "
            f"{100 * index:.0f} of 100 such pairs. 0.5 is a coin toss and 1 a perfect order."
        )
        if (found.count("events") or 0) < FEW_EVENTS:
            text += f" With fewer than {FEW_EVENTS} events it says little, whatever its interval."
        small = _order_bounds(c, len(found.sites))
    if (weighted := uno.number("c_index")) is None:
        text += f" There is no Uno’s C: {uno.reason or 'not evaluated'}."
    else:
        text += (
            f" Uno’s C, which makes up for patients lost to follow-up, is {number(weighted)} for events in the first "
            f"{duration(uno.number('tau_days'))}."
        )
        small += f" Uno’s C lies between {number(uno.number('low'))} and {number(uno.number('high'))}."
    return Answer(question, text, small=small.strip())


def _order_bounds(c: Part, sites: int) -> str:
    low, high, still_open = (c.number(name) for name in ("low", "high", "open_share"))
    within = c.number("within_sites")
    if sites == 1 or low is None or high is None or still_open is None:
        return ""
    inside = (
        "No pair inside a hospital is comparable."
        if within is None
        else f"Over pairs inside hospitals alone, which are counted exactly, the C-index is {number(within)}."
    )
    text = (
        "Pairs of patients of two hospitals are counted from tables of groups of patients, which left "
        f"{100 * still_open:.1f} % of these pairs open; however those turn out, the C-index lies between {number(low)} "
        f"and {number(high)} (guaranteed bounds). {inside}"
    )
    if high - low > WIDE_BOUNDS:
        text += (
            " Bounds this wide mean that the figure leans on the pairs inside hospitals: of pairs of two hospitals the "
            "tables tell little."
        )
    return text


def _groups(found: Federated) -> Answer:
    question = "Do patients with a higher predicted risk fare worse?"
    survival = found.part("survival")
    groups = survival.part("groups")
    lower, higher = groups.part("lower risk"), groups.part("higher risk")
    if survival.values.get("groups") is None or not lower.series("at_risk") or not higher.series("at_risk"):
        return Answer(question, f"It cannot be said: {survival.reason or 'not evaluated'}.")
    test, inside = survival.part("log_rank"), survival.part("log_rank_within_sites")
    medians = " and ".join(
        f"{duration(group.number('median_days'))} for the {group.series('at_risk')[0] or 0:,.0f} of {name} risk"
        for group, name in ((higher, "higher"), (lower, "lower"))
    )
    text = f"{_verdict(test, lower, higher)} The median time without an event is {medians}."
    if inside.reason is None and len(found.sites) > 1:
        text += f" Compared only inside each hospital: {p_value(inside.number('p_value'))}."
    return Answer(question, text)


def _verdict(test: Part, lower: Part, higher: Part) -> str:
    p = test.number("p_value")
    if p is None:
        return f"There is no log-rank test ({test.reason or 'not evaluated'})."
    told = f"(log-rank {p_value(p)})"
    if p >= 0.05:
        return f"These patients do not settle it: chance may explain the difference {told}."
    ahead = sum(known - other for known, other in zip(_known(lower), _known(higher), strict=True))
    if ahead <= 0:
        return f"No: those of lower predicted risk fare worse, by more than chance explains {told}."
    return f"Yes, by more than chance explains {told}."


def _known(group: Part) -> list[float]:
    return [value or 0.0 for value in group.series("survival")]


def calibration_groups(calibration: Part) -> list[Mapping[str, Any]]:
    """The groups of predicted survival that have an observed one, with its interval."""
    given = calibration.values.get("groups") or []
    return [group for group in given if all(finite(group[key]) is not None for key in ("observed", "low", "high"))]


def _probabilities(found: Federated) -> Answer:
    calibration, brier, d = (found.part(name) for name in ("calibration", "brier", "d_calibration"))
    difference, groups = calibration.number("mean_absolute_difference"), calibration_groups(calibration)
    if difference is None or not groups:
        text = f"There is no calibration curve: {calibration.reason or 'no group is followed to its horizon'}."
    else:
        inside = sum(group["low"] <= group["predicted"] <= group["high"] for group in groups)
        text = (
            f"Predicted and observed survival at {duration(calibration.number('horizon_days'))} differ by "
            f"{100 * difference:.1f} percentage points on average; in {inside} of {len(groups)} groups of predicted "
            "survival the prediction lies inside the 95 % interval of what was observed"
        )
        p = d.number("p_value")
        text += "." if p is None else f" (D-calibration over the whole follow-up: {p_value(p)})."
    model, same, gain = (brier.number(key) for key in ("integrated", "reference_integrated", "integrated_ipa"))
    if model is not None and same is not None and gain is None:
        text += f" The prediction error (Brier score) is {number(model)} on average; one curve for everyone makes none."
    elif model is None or same is None or gain is None:
        text += f" There is no Brier score over time: {brier.reason or 'it needs two times of follow-up'}."
    else:
        word = "less" if gain >= 0 else "more"
        text += (
            f" The prediction error (Brier score) is {number(model)} on average over the follow-up, "
            f"{100 * abs(gain):.0f} % {word} than the {number(same)} of telling everyone the same Kaplan-Meier curve."
        )
    small = "A small p of D-calibration speaks against the probabilities; a large one does not prove them right."
    return Answer("Are its predicted probabilities right?", text, small=small if "D-calibration" in text else "")


def _hospitals(found: Federated) -> Answer:
    gone = [f"{site} ({why})" for site, why in sorted(found.excluded.items())]
    gone += [f"{site} (no test patients, or no answer)" for site in found.absent]
    text = f"Not in any figure: {'; '.join(gone)}." if gone else ""
    for name, title in FIGURES.items():
        if missing := found.part(name).left_out:
            text += f" Not in the {title}: {'; '.join(f'{site} ({why})' for site, why in sorted(missing.items()))}."
    if not text:
        text = f"None: every figure has the test patients of {found.hospitals}."
    elif found.sites:
        text = f"In the figures: {', '.join(found.sites)}. {text.strip()}"
    return Answer("Which hospitals are left out, and why?", text.strip())


def _cells(found: Federated) -> Answer:
    times, risks, least = (found.count(name) for name in ("time_bins", "risk_bins", "fewest_in_a_cell"))
    question = "What did the hospitals’ minimum cell count do?"
    if times is None or risks is None or least is None:
        return Answer(question, "The run does not say how fine the hospitals’ tables were.")
    cells = "a cell may hold one patient" if least == 1 else f"no cell holds fewer than {least}, unless it is empty"
    text = (
        "A hospital tells no table with a cell of fewer patients than its own rule allows, unless the cell is empty; "
        "the tables of all are made coarser until that holds. They have "
        f"{times} × {risks} bins of follow-up and predicted risk; {cells}."
    )
    if max(times, risks) > FINEST_STEP:
        text += " That is the finest grid there is, so the rule changed nothing here."
    else:
        text += (
            " The finest grid has up to 64 × 64; on a coarser one more pairs are open, curves have fewer steps, and "
            "figures may be missing that need more."
        )
        boxes, fewest = (found.part("concordance").number(name) for name in ("boxes", "fewest_in_a_box"))
        if boxes is not None and fewest is not None:
            text += (
                f" So the C-index comes from {boxes:.0f} boxes that the hospitals cut themselves, with {fewest:.0f} "
                "patients or more in each: trust the estimate as far as pairs of two hospitals are like pairs inside."
            )
    return Answer(question, text)
