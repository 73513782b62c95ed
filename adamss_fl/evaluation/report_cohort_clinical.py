"""The report's tables of clinical columns before training: their spread, and what they say of survival (Cox)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from adamss_fl.evaluation.report_answers import UNDEFINED, number
from adamss_fl.evaluation.report_cohort_part import (
    CohortPart,
    left_out_text,
    measured,
    named,
    percent,
    raw_reason,
    without_table,
)
from adamss_fl.evaluation.report_federated_inputs import Part, p_value
from adamss_fl.evaluation.report_federated_tables import FederatedRow, FederatedTable
from adamss_fl.evaluation.report_inputs import finite

QUARTILES = {0.25: "First quartile", 0.5: "Median", 0.75: "Third quartile"}
_COLUMNS = "Clinical columns"
_COX = "Cox regression"
_INDICATOR = "1 against 0"
_STRATIFIED, _ONE_BASELINE = "Inside hospitals", "Across hospitals"


def columns_part(given: object) -> CohortPart | None:
    """Continuous columns over all hospitals; None where there are none, or they were not asked for."""
    if given is None:
        return None
    found = Part.read(given)
    summaries = found.values.get("summaries")
    if found.reason is not None or summaries is None:
        return without_table(_COLUMNS, found)
    if not summaries:
        return None
    quartiles = found.values.get("quartiles")
    rows = tuple(
        FederatedRow(name, (*_spread(Part.read(each)), *(() if quartiles is None else _quartiles(quartiles.get(name)))))
        for name, each in summaries.items()
    )
    columns = ("Column", "With a value", "Missing", "Mean", "sd", *(() if quartiles is None else QUARTILES.values()))
    table = FederatedTable(_COLUMNS, columns, rows, " ".join(_column_notes(summaries, quartiles)))
    return CohortPart(_COLUMNS, table=table, left_out=left_out_text(found))


def _spread(summary: Part) -> tuple[str, ...]:
    n, missing = summary.number("n") or 0, summary.number("missing") or 0
    share = percent(missing / (n + missing)) if n + missing else UNDEFINED
    spread = (measured(summary.number(name)) for name in ("mean", "sd"))
    return (f"{n:,.0f}", f"{missing:,.0f} ({share})", *spread)


def _quartiles(found: Mapping[str, Any] | None) -> tuple[str, ...]:
    levels = {finite(each["level"]): each for each in (found or {}).get("levels", ())}
    return tuple(_bounded(levels[level]) if level in levels else UNDEFINED for level in QUARTILES)


def _bounded(quartile: Mapping[str, Any]) -> str:
    """``59.8 (59.5 to 60.2)``: as many digits as its half-width allows, and its bounds rounded outwards."""
    value, half = finite(quartile["value"]), finite(quartile["half_width"])
    if value is None or half is None:
        return UNDEFINED
    digits = max(0, -math.floor(math.log10(half))) if half > 0 else 3
    unit = 10.0**-digits
    low, high = math.floor((value - half) / unit) * unit, math.ceil((value + half) / unit) * unit
    return f"{number(value, digits)} ({number(low, digits)} to {number(high, digits)})"


def _column_notes(summaries: Mapping[str, Any], quartiles: Mapping[str, Any] | None) -> Iterator[str]:
    yield "Over all hospitals’ training patients, continuous columns only. sd: standard deviation."
    hidden = [name for name, each in summaries.items() if each.get("missing_hidden")]
    if hidden:
        yield f"Missing in {', '.join(hidden)}: not counted at hospitals where fewer are than the minimum cell count."
    apart = [f"{name} ({each['averaged']:,})" for name, each in summaries.items() if each["averaged"] < each["n"]]
    if apart:
        yield f"Mean and sd are of fewer patients where a hospital withholds its own: {', '.join(apart)}."
    if quartiles is None:
        return
    yield "In brackets after a quartile: where it certainly lies; no chance is in that."
    limited = [name for name, each in quartiles.items() if any(one["privacy_limit"] for one in each.get("levels", ()))]
    if limited:
        yield f"Narrower bounds for {', '.join(limited)} would have told of too few patients."
    reasons = {name: str(each["reason"]) for name, each in quartiles.items() if "reason" in each}
    if reasons:
        yield f"No quartiles: {named(reasons)}."


@dataclass(frozen=True)
class _Fit:
    """One regression. name : of its columns; found : its figures."""

    name: str
    found: Part

    @property
    def covariates(self) -> Mapping[str, Any]:
        return self.found.values.get("covariates") or {}

    def cells(self, covariate: str) -> tuple[str, str]:
        """Hazard ratio with its interval, and p."""
        each = self.covariates.get(covariate)
        if each is None:
            return UNDEFINED, UNDEFINED
        ratio, low, high = (hazard_ratio(finite(each[key])) for key in ("hazard_ratio", "ci_low", "ci_high"))
        return f"{ratio} ({low} to {high})", _bare(p_value(finite(each["p"])))


def cox_part(stratified: object, one_baseline: object) -> CohortPart | None:
    """Hazard ratios of the clinical columns, from the two regressions; None where neither was asked for.

    stratified, one_baseline : their figures or reasons; None (or absent in an older run's event) where not asked for.
    """
    given = [
        (name, each) for name, each in ((_STRATIFIED, stratified), (_ONE_BASELINE, one_baseline)) if each is not None
    ]
    asked = [_Fit(name, Part.read(each)) for name, each in given]
    fits = [fit for fit in asked if fit.covariates]
    if not asked:
        return None
    gone = _left_out(asked)
    reasons = {
        fit.name.lower(): (raw_reason(fit.found) or "not evaluated").removeprefix(f"{_COX}: ")
        for fit in asked
        if not fit.covariates
    }
    if not fits:
        alike = set(reasons.values())
        return CohortPart(_COX, reason=alike.pop() if len(alike) == 1 else named(reasons), left_out=gone)
    names = list(dict.fromkeys(name for fit in fits for name in fit.covariates))
    rows = tuple(
        FederatedRow(_label(name, fits), tuple(cell for fit in fits for cell in fit.cells(name))) for name in names
    )
    columns = [title for fit in fits for title in (f"{fit.name}: hazard ratio (95 % interval)", "p")]
    table = FederatedTable(_COX, ("Covariate", *columns), rows, " ".join(_cox_notes(asked)))
    lead = "Hazard ratios of the clinical columns, all in one model: above 1, events come earlier. "
    lead += " ".join(map(_meaning, fits))
    lead += "".join(f" There is no regression {name}: {why}." for name, why in sorted(reasons.items()))
    return CohortPart(_COX, lead, table, left_out=gone)


def _left_out(fits: list[_Fit]) -> str:
    told = {fit.name: left_out_text(fit.found) for fit in fits}
    if len(set(told.values())) == 1:
        return told[fits[0].name]
    return " ".join(f"{name}: {text[:1].lower()}{text[1:]}" for name, text in told.items() if text)


def hazard_ratio(value: float | None) -> str:
    """Two decimals; whole from 100 on, and three digits below 0.1, so that no ratio is 0."""
    if value is not None and value < 0.1:
        return measured(value)
    return measured(value) if value is None or value >= 100 else number(value, 2)


def _bare(p: str) -> str:
    return p.removeprefix("p ").removeprefix("= ")


def _meaning(fit: _Fit) -> str:
    events, times = fit.found.number("events") or 0, fit.found.number("times")
    if fit.name == _STRATIFIED:
        return (
            "Inside hospitals: stratified, each hospital keeping a baseline hazard of its own, so that patients are "
            f"compared with those of the same hospital only ({events:,.0f} events)."
        )
    grid = "" if times is None else f", on a grid of {times:,.0f} times"
    return (
        "Across hospitals: one baseline hazard for all, so that patients of different hospitals are compared too, and "
        f"differences between hospitals count ({events:,.0f} events{grid})."
    )


def _label(name: str, fits: list[_Fit]) -> str:
    """``age_years, per standard deviation of 8.94``; ``sex = F`` and ``age_years missing`` for yes against no."""
    per = next(str(fit.covariates[name]["per"]) for fit in fits if name in fit.covariates)
    return _readable(name) + (f", per {per}" if per != _INDICATOR else "")


def _readable(name: str) -> str:
    if name.endswith(".missing"):
        return f"{name.removesuffix('.missing')} missing"
    column, equals, level = name.partition("=")
    return f"{column} = {level}" if equals else name


def _cox_notes(fits: list[_Fit]) -> Iterator[str]:
    if any(str(each["per"]) == _INDICATOR for fit in fits for each in fit.covariates.values()):
        yield (
            "A level is compared with patients in no row of its column here; “missing” of a continuous column, with "
            "patients of mean value."
        )
    dropped = {fit.name: fit.found.values.get("covariates_left_out") or {} for fit in fits}
    everywhere = dropped.get(_STRATIFIED, {})  # one baseline is fitted for what is left inside hospitals
    for name, reasons in dropped.items():
        own = {
            _readable(each): str(why) for each, why in reasons.items() if name == _STRATIFIED or each not in everywhere
        }
        if own:
            yield f"Not fitted{'' if name == _STRATIFIED else ' across hospitals'}: {named(own)}."
    for fit in fits:
        if fit.found.values.get("converged") is False:
            yield f"{fit.name}: the fit has not converged; do not rely on it."
