"""The report's part on all hospitals' test patients, from sums that the hospitals told: answers, figures, tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from adamss_fl.errors import InputError
from adamss_fl.evaluation import figures
from adamss_fl.evaluation.figures.style import INK, RISK_GROUPS
from adamss_fl.evaluation.report_answers import number
from adamss_fl.evaluation.report_federated_answers import FIGURES, federated_answers
from adamss_fl.evaluation.report_federated_inputs import ONE_TIME_BIN, Federated, Part, duration, p_value
from adamss_fl.evaluation.report_federated_tables import FederatedTable, federated_tables
from adamss_fl.evaluation.report_inputs import RunRecord, finite
from adamss_fl.survival import CalibrationGroup, KaplanMeier

_MODEL = "#0072B2"
_PAST_THE_END = 1.02
"""Where those followed past the last edge are drawn, times that edge, so that the last step can be seen."""


@dataclass(frozen=True)
class FederatedFigure:
    """A plot with its text; where ``svg`` is None, ``caption`` says why there is none."""

    key: str
    title: str
    svg: str | None
    caption: str
    narrow: bool = False


@dataclass(frozen=True)
class FederatedSection:
    """What the page shows of the figures over all hospitals' patients."""

    intro: str
    figures: list[FederatedFigure]
    tables: list[FederatedTable]
    methods: list[tuple[str, str]]


def federated_parts(record: RunRecord, page: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of the page that a run with federated figures has in place of ``page``'s; empty for any other run.

    Where patients' predictions are kept beside the run, its own C-index stays first. Raises InputError where
    ``metrics.json`` lacks what it should hold.
    """
    found = Federated.read(record.metrics)
    if found is None or record.comparison is not None:
        return {}
    try:
        told = federated_answers(found)
        if found.reason is not None:
            return {"answers": [*page["answers"], *told]}
        section = _section(found)
    except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
        path = record.folder / "metrics.json"
        raise InputError(f"{path}: its federated figures lack something ({error}); run the federation again") from error
    if record.main.predictions is not None:
        return {"federated": section, "answers": [*page["answers"], *told[1:]]}
    note = "pairs inside hospitals alone; over all pairs see the first answer"
    tables = page["tables"]
    tables = [replace(tables[0], note=f"{tables[0].note}; {note}"), *tables[1:]] if tables else tables
    return {
        "federated": section,
        "tiles": _tiles(found, page["tiles"]),
        "answers": [*told, *page["answers"][1:]],
        "tables": tables,
    }


def _tiles(found: Federated, others: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """The C-index over all pairs in place of the one inside hospitals, which is the first of ``others``."""
    c = found.part("concordance")
    interval = c.part("interval")
    low, high = (interval.number(name) for name in ("low", "high"))
    small = f"95 %: {number(low)} to {number(high)}" if low is not None and high is not None else "no interval"
    headline = ("C-index, all pairs", number(c.number("c_index")), small if c.reason is None else "not defined")
    uno, brier = found.part("uno"), found.part("brier")
    more = []
    if (weighted := uno.number("c_index")) is not None:
        more.append(("Uno’s C", number(weighted), f"first {duration(uno.number('tau_days'))}"))
    if (gain := brier.number("integrated_ipa")) is not None:
        more.append(("Error saved (IPA)", f"{number(100 * gain, 0)} %", "against one curve for all"))
    return [headline, *more, *others[1:]]


def _section(found: Federated) -> FederatedSection:
    intro = (
        f"{found.people} of {found.hospitals}, {found.count('events') or 0:,} with an event, from "
        "tables and sums that the hospitals told; no row of a patient left one. Every number here is in metrics.json "
        "beside this page, under “federated”, to all digits; "
        "a median’s interval is where its curve’s band crosses 0.5."
    )
    drawn = [_kaplan_meier(found), _calibration(found), _brier(found), _auc(found)]
    return FederatedSection(intro, drawn, federated_tables(found), _methods(found))


def _kaplan_meier(found: Federated) -> FederatedFigure:
    key, title = "federated-kaplan-meier", "Outcomes by predicted risk, all hospitals"
    survival = found.part("survival")
    groups = survival.part("groups")
    everyone = _curve(survival.part("all"))
    if everyone is None:
        return FederatedFigure(key, title, None, survival.reason or survival.part("all").reason or ONE_TIME_BIN)
    lower, higher = (_curve(groups.part(f"{name} risk")) for name in ("lower", "higher"))
    steps = (
        "Kaplan-Meier curves on the counts’ grid of follow-up, with 95 % bands; patients at risk are those followed "
        "past the grid’s last step before that time. "
    )
    if lower is None or higher is None:
        why = survival.reason or "the tables do not tell groups of risk apart"
        svg = figures.curves_figure("All patients", [("all", INK, everyone)])
        return FederatedFigure(key, title, svg, f"{steps}There are no curves by predicted risk: {why}.")
    test = survival.part("log_rank")
    p = test.number("p_value")
    told = "no log-rank test" if p is None else f"log-rank {p_value(p)}"
    curves = [("lower risk", RISK_GROUPS[0], lower), ("higher risk", RISK_GROUPS[1], higher)]
    caption = (
        f"{steps}Patients are cut at the first border of a bin of predicted risk with half of them or more below it. "
        "The further the curves lie apart, the better the model tells patients apart."
    )
    return FederatedFigure(key, title, figures.curves_figure(f"All hospitals · {told}", curves), caption)


def _curve(part: Part) -> KaplanMeier | None:
    """A curve up to the last edge with somebody followed; None where it has no step."""
    names = ("edges_days", "survival", "ci_low", "ci_high", "at_risk", "events", "censored")
    if part.reason is not None or len(part.series("edges_days")) < 2:
        return None
    edges, survival, low, high, at_risk, events, censored = (
        np.array([np.nan if value is None else value for value in part.series(name)]) for name in names
    )
    if not np.isfinite(edges + survival + low + high + at_risk + events + censored).all() or not at_risk[0]:
        return None
    leaving = (events + censored).astype(np.int64)
    beyond = np.full(int(at_risk[-1]) - int(leaving[-1]), _PAST_THE_END * edges[-1])
    last = int(np.flatnonzero(at_risk)[-1]) + 1
    days = np.append(np.repeat(edges, leaving), beyond)
    return KaplanMeier(edges[:last], survival[:last], low[:last], high[:last], days)


def _calibration(found: Federated) -> FederatedFigure:
    key, title = "federated-calibration", "Predicted and observed survival, all hospitals"
    part = found.part("calibration")
    horizon = part.number("horizon_days")
    groups = [
        CalibrationGroup(
            predicted=float(group["predicted"]),
            observed=finite(group["observed"]),
            low=finite(group["low"]),
            high=finite(group["high"]),
            patients=int(group["patients"]),
            events=int(group["events"]),
        )
        for group in part.values.get("groups") or []
    ]
    svg = None if horizon is None else figures.calibration_groups_figure([("model", _MODEL, groups)], duration(horizon))
    if svg is None:
        return FederatedFigure(key, title, None, part.reason or "no group of patients is followed to the horizon")
    caption = (
        f"Patients in groups of predicted survival at {duration(horizon)}: mean prediction against the observed share "
        "without an event, with its 95 % interval. Points on the diagonal are right on average; below it, the model is "
        f"too hopeful.{_without(part)}"
    )
    return FederatedFigure(key, title, svg, caption, narrow=True)


def _brier(found: Federated) -> FederatedFigure:
    key, title = "federated-brier", "Prediction error over time, all hospitals"
    part = found.part("brier")
    svg = figures.prediction_error_figure(*(part.series(name) for name in ("times_days", "score", "reference", "ipa")))
    if svg is None:
        return FederatedFigure(key, title, None, part.reason or "there is no time with a score")
    caption = (
        "Brier score: mean squared difference of predicted survival and what happened, weighted for patients lost to "
        "follow-up. The reference tells every patient the Kaplan-Meier curve of all. IPA is the share of the "
        f"reference’s error that the model saves; below 0 it adds to it.{_without(part)}"
    )
    return FederatedFigure(key, title, svg, caption)


def _auc(found: Federated) -> FederatedFigure:
    key, title = "federated-auc", "Telling patients apart over time, all hospitals"
    part = found.part("auc")
    svg = figures.auc_figure(*(part.series(name) for name in ("times_days", "auc", "low", "high")))
    if svg is None:
        return FederatedFigure(
            key, title, None, part.reason or "there is no time with an event before and a patient after"
        )
    caption = (
        "Cumulative/dynamic AUC: how often a patient with an event by that time had a higher predicted risk than one "
        "still without. The shade shows guaranteed bounds: where the AUC can lie, given that two patients of different "
        f"hospitals in one bin of risk are not told apart. It is no interval of chance.{_without(part)}"
    )
    return FederatedFigure(key, title, svg, caption, narrow=True)


def _without(part: Part) -> str:
    return f" Without {', '.join(sorted(part.left_out))}." if part.left_out else ""


def _methods(found: Federated) -> list[tuple[str, str]]:
    interval = found.part("concordance").part("interval")
    samples = interval.number("samples")
    bins = f"{found.count('time_bins')} × {found.count('risk_bins')}"
    boxes = found.part("concordance").number("boxes")
    resampled = "" if samples is None or boxes else f", and the same for {samples:.0f} random resamples on 16 × 16 bins"
    if boxes is not None:
        drawn = "" if samples is None else f", {samples:.0f} random resamples of them"
        resampled += (
            f"; {boxes:.0f} boxes of neighbouring cells, cut by each hospital so that none holds few patients{drawn}, "
            "and counts over time by half of predicted risk"
        )
    parts = ", ".join(FIGURES[name] for name in ("brier", "auc", "calibration", "d_calibration"))
    return [
        (
            "How these were computed",
            "Each hospital evaluated the model on its own test patients. Pairs of patients of one hospital were "
            "counted there, exactly. Pairs of patients of two hospitals were counted at the server in one table, to "
            "which all hospitals’ tables add up, or between boxes of patients where a minimum cell count makes that "
            "table coarse; what is left open is taken to turn out as it did inside hospitals, and bounded. The 95 % "
            "interval of the C-index is that of a Poisson bootstrap over patients. Survival curves, their bands and "
            "log-rank tests come from the same table, or from counts over time alone. Uno’s C, Brier score and AUC "
            "weigh patients by the censoring curve of all hospitals, and end where fewer than a tenth are still "
            "uncensored.",
        ),
        (
            "What left the hospitals",
            "Numbers of test patients per cell, and sums: two histograms, of follow-up and of predicted days; a table "
            f"of {bins} bins by time, event and predicted risk, with how many pairs inside the hospital were "
            f"comparable and how many in the right order{resampled}; and sums for {parts} and Uno’s C. No image, "
            "identifier or date was sent, and no row of a patient. Who knows that a patient took part, and about when "
            "the follow-up ended, may read from a cell of one patient whether there was an event, and the risk to "
            "within a bin; a minimum cell count keeps cells from being that small.",
        ),
    ]
