"""The report's part on the hospitals before training: findings, figures side by side, and what they make together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adamss_fl.errors import InputError
from adamss_fl.evaluation.arms import folder_name
from adamss_fl.evaluation.report_answers import UNDEFINED, number
from adamss_fl.evaluation.report_cohort_clinical import columns_part, cox_part
from adamss_fl.evaluation.report_cohort_part import CohortPart, left_out_text, measured, percent, without_table
from adamss_fl.evaluation.report_federated_inputs import Part, duration, p_value
from adamss_fl.evaluation.report_federated_tables import FederatedRow, FederatedTable, span
from adamss_fl.evaluation.report_inputs import RunRecord, finite
from adamss_fl.evaluation.report_methods import newest

SHOWN_TIMES = 6
"""Rows of the survival curve over all hospitals."""
NO_BREAK = "\N{NO-BREAK SPACE}"
_SIDE_BY_SIDE_NOTE = (
    "Median follow-up: reverse Kaplan-Meier. Voxels: size as scanned, along x, y and z, mean over patients. SUV: of "
    "the body, as clipped for the network; about 5 % of the body’s voxels lie above “SUV 95 %”. Tumour and nodes: mean "
    "volume and mean number over patients with outlines. A dash: unknown, or too few patients to tell."
)
_MISSING_NOTE = (
    " Missing: share of patients without a value. Where they are fewer than a hospital’s minimum cell count it tells "
    "none, and where so few have a value it tells 100 %."
)


@dataclass(frozen=True)
class FindingRow:
    """One remark on one hospital; ``error`` marks what is to be mended before training."""

    error: bool
    site: str
    message: str
    remedy: str


@dataclass(frozen=True)
class CohortSection:
    """What the page shows of the hospitals before training. verdict : what the findings come to."""

    title: str
    intro: str
    verdict: str
    findings: list[FindingRow]
    parts: list[CohortPart]


def cohort_section(record: RunRecord) -> CohortSection | None:
    """From the newest event ``preflight`` of the run's main arm; None where it has none, as most of a comparison.

    Raises InputError where the event lacks what it should hold.
    """
    figures = newest(record.main.events, "preflight")
    if not figures:
        return None
    path = "events.jsonl" if record.comparison is None else f"arms/{folder_name(record.main.name)}/events.jsonl"
    try:
        return _section(figures, path)
    except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
        path = str(record.folder / path)
        raise InputError(f"{path}: event 'preflight' lacks something ({error!r}); run the federation again") from error


def _section(figures: Mapping[str, Any], path: str) -> CohortSection:
    sites = figures["sites"]
    findings = [
        FindingRow(
            found["severity"] == "error", str(found["site"]), _sentence(found["message"]), _sentence(found["remedy"])
        )
        for found in figures["findings"]
    ]
    parts = [_side_by_side(figures), _survival(Part.read(figures["follow_up"]))]
    parts += [
        part
        for part in (
            columns_part(figures.get("columns")),
            cox_part(figures.get("cox"), figures.get("cox_one_baseline")),
        )
        if part is not None
    ]
    title = "The hospital before training" if len(sites) == 1 else "The hospitals before training"
    return CohortSection(title, _intro(sites, path), _verdict(sites, findings), findings, parts)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _intro(sites: Mapping[str, Any], path: str) -> str:
    who = "Training patients of the hospitals"
    if sites:
        patients = sum(site["patients"] for site in sites.values())
        events = sum(site["events"] for site in sites.values())
        who = f"{patients:,} training patients of {_hospitals(len(sites))}, {events:,} with an event"
    return (
        f"{who}, described before training from counts, means and sums that the hospitals told; no row of a patient "
        f"left one. Every number here is in {path} beside this page, in the event “preflight”, to all digits."
    )


def _verdict(sites: Mapping[str, Any], findings: list[FindingRow]) -> str:
    if not sites:
        return "Whether something is wrong with the hospitals’ data cannot be said."
    if not findings:
        return "Nothing stood out." if len(sites) == 1 else "Nothing stood out at any of these hospitals."
    errors = sum(found.error for found in findings)
    counts = [_counted(errors, "error"), _counted(len(findings) - errors, "warning")]
    text = (
        f"There {'was' if (errors or len(findings)) == 1 else 'were'} {' and '.join(each for each in counts if each)}."
    )
    if errors:
        text += (
            " An error should be mended before training; this run trained all the same: read its results in that light."
        )
    return text + (" A warning need not be a fault, but is worth knowing." if errors < len(findings) else "")


def _counted(count: int, name: str) -> str:
    return f"{count} {name}{'s' * (count != 1)}" if count else ""


def _hospitals(count: int) -> str:
    return _counted(count, "hospital")


def _side_by_side(figures: Mapping[str, Any]) -> CohortPart:
    title, found, sites = "Side by side", Part.read(figures), figures["sites"]
    if not sites:
        return without_table(title, found)
    names = sorted({name for site in sites.values() for name in site["missing"]})
    columns = (
        "Hospital",
        "Patients",
        "Events",
        "Median follow-up",
        "PET voxel, mm",
        "CT voxel, mm",
        "SUV mean",
        f"SUV 95{NO_BREAK}%",
        "Tumour, mL",
        "Nodes",
    )
    rows = tuple(
        FederatedRow(name, (*_cells(site), *([_missing(site["missing"], names)] if names else [])))
        for name, site in sites.items()
    )
    table = FederatedTable(
        title,
        columns + (("Missing clinical values",) if names else ()),
        rows,
        _SIDE_BY_SIDE_NOTE + (_MISSING_NOTE if names else ""),
        last_is_text=bool(names),
    )
    return CohortPart(title, table=table, left_out=left_out_text(found))


def _cells(site: Mapping[str, Any]) -> tuple[str, ...]:
    patients, events, followed = site["patients"], site["events"], finite(site["follow_up_days"])
    return (
        f"{patients:,}",
        f"{events:,} ({percent(events / patients)})",
        UNDEFINED if followed is None else duration(followed),
        _spacing(site["pet_spacing_mm"]),
        _spacing(site["ct_spacing_mm"]),
        *(measured(finite(site[name])) for name in ("suv_mean", "suv_p95", "tumour_ml", "nodes")),
    )


def _spacing(mean: list[float] | None) -> str:
    return UNDEFINED if mean is None else " × ".join(f"{axis:.3g}" for axis in mean)


def _missing(shares: Mapping[str, float], names: list[str]) -> str:
    """Columns that a hospital does not have are missing in all its patients."""
    told = [f"{name} {percent(share)}".replace(" ", NO_BREAK) for name in names if (share := shares.get(name, 1.0)) > 0]
    return ", ".join(told) or "none"


def _survival(found: Part) -> CohortPart:
    title, curve = "Event-free survival", found.part("all")
    days = curve.series("edges_days")
    if found.reason is not None or not days:
        return without_table(title, found)
    names = ("at_risk", "survival", "ci_low", "ci_high", "survival_low")
    at_risk, survival, low, high, least = (curve.series(name) for name in names)
    last = max((place for place, count in enumerate(at_risk) if count), default=0)
    rows = tuple(
        FederatedRow(
            "Start" if place == 0 else duration(days[place]),
            (
                number(at_risk[place], 0),
                number(survival[place]),
                span(low[place], high[place]),
                *((span(least[place], survival[place]),) if least else ()),
            ),
        )
        for place in sorted({round(last * step / (SHOWN_TIMES - 1)) for step in range(SHOWN_TIMES)})
    )
    columns: tuple[str, ...] = ("Time of follow-up", "At risk", "Event-free", "95 % interval")
    note = (
        f"Kaplan-Meier on the hospitals’ common grid of follow-up, of {_counted(len(days) - 1, 'step')}: an event "
        "counts as late as its step ends, and medians are known to a step. At risk: patients followed past the last "
        "step before that time."
    )
    if least:
        columns += ("Guaranteed bounds",)
        note += " Guaranteed bounds: where the curve of exact times can lie; no chance is in them."
    table = FederatedTable(title, columns, rows, note)
    return CohortPart(title, _survival_lead(found, curve), table, left_out=left_out_text(found))


def _survival_lead(found: Part, curve: Part) -> str:
    patients, events = found.number("patients") or 0, found.number("events") or 0
    text = (
        f"{patients:,.0f} training patients of {_hospitals(len(found.values['sites']))}, {events:,.0f} with an event. "
        f"Median follow-up (reverse Kaplan-Meier): {duration(found.number('median_follow_up_days'))}. "
        f"Median time without an event: {duration(curve.number('median_days'))}."
    )
    if found.values["log_rank_between_sites"] is None:
        return text
    test = found.part("log_rank_between_sites")
    p, freedom = test.number("p_value"), test.number("degrees_of_freedom") or 0
    if p is None:
        return f"{text} There is no log-rank test between the hospitals: {test.reason or 'not evaluated'}."
    told = f"{p_value(p)}, χ² {number(test.number('statistic'), 1)}, {_counted(int(freedom), 'degree')} of freedom"
    meaning = (
        "their patients’ curves differ by more than chance explains"
        if p < 0.05
        else "chance may explain how far their patients’ curves lie apart"
    )
    return f"{text} Log-rank test between the hospitals: {told}; {meaning}."
