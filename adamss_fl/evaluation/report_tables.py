"""The report's tables, as rows of ready text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adamss_fl.evaluation.arms import folder_name
from adamss_fl.evaluation.report_answers import UNDEFINED, mean_local, number, overlap_text, own_gap, with_interval
from adamss_fl.evaluation.report_federated_inputs import Part
from adamss_fl.evaluation.report_federated_tables import FederatedRow, FederatedTable
from adamss_fl.evaluation.report_inputs import ArmRecord, RunRecord, Scores, read_json

_BY_PATIENT_NOTE = (
    "Of the test patients with reference outlines; each counts alike here, while the DSC above adds up voxels over "
    "patients. DSC: over patients with a reference or a predicted outline. HD95: 95 % of the surface of either outline "
    "lies at most this far from the other, on the run’s voxel grid; over patients with both. Missed or false: patients "
    "with a reference and nothing predicted, or the other way round; their DSC is 0, and they have no distance."
)

_MASKS = (("tumour", "Primary tumour"), ("nodes", "Nodes"))


@dataclass(frozen=True)
class ScoreRow:
    """One line of a table of scores; ``main`` is set in bold, ``colour`` marks the arm."""

    label: str
    colour: str
    trained_on: str
    c_index: str
    pairs: str
    tumour: str
    nodes: str
    main: bool = False


@dataclass(frozen=True)
class ScoreTable:
    """A block of rows under one heading: all test patients, or one hospital's."""

    heading: str
    note: str
    rows: list[ScoreRow]


@dataclass(frozen=True)
class GainRow:
    """What one hospital gains, on its own test patients and on everyone's."""

    site: str
    colour: str
    patients: str
    own_alone: str
    own_together: str
    own_gain: str
    all_alone: str


def score_tables(record: RunRecord, colours: Mapping[str, str]) -> list[ScoreTable]:
    """All test patients first, then hospital by hospital; a row an arm. colours : of each arm by name."""
    comparison = record.comparison or {}
    overall = record.main.overall
    patients = comparison.get("test_patients", overall.patients)
    events = comparison.get("test_events", overall.events)
    tables = [
        ScoreTable(
            "All test patients",
            _patients(patients, events),
            [_row(arm, arm.overall, colours, arm is record.main and len(record.arms) > 1) for arm in record.arms],
        )
    ]
    for site in record.sites:
        rows = [
            _row(arm, arm.sites[site], colours, arm is record.main and len(record.arms) > 1)
            for arm in record.arms
            if site in arm.sites
        ]
        if rows:
            own = next(arm.sites[site] for arm in record.arms if site in arm.sites)
            tables.append(ScoreTable(site, _patients(own.patients, own.events), rows))
    return tables


def by_patient_table(record: RunRecord) -> FederatedTable | None:
    """Mean DSC and HD95 over test patients; None where no model of the run has them.

    Of a comparison an arm has them that its hospitals evaluated, as one trained over Flower; the others are named.
    """
    told = {arm.label: _masks_by_patient(record, arm) for arm in record.arms}
    known = {label: found for label, found in told.items() if found}
    if not known:
        return None
    rows: list[FederatedRow] = []
    for label, found in known.items():
        rows += [FederatedRow(label, heading=True)] if len(told) > 1 else []
        rows += [_by_patient(caption, Part.read(found[mask])) for mask, caption in _MASKS if mask in found]
    note = _BY_PATIENT_NOTE
    if missing := [label for label in told if label not in known]:
        note += f" Not measured for: {', '.join(missing)}."
    columns = ("Outline", "Mean DSC", "Patients", "Mean HD95, mm", "Patients with a distance", "Missed or false")
    return FederatedTable("Outlines, patient by patient", columns, tuple(rows), note)


def _masks_by_patient(record: RunRecord, arm: ArmRecord) -> Mapping[str, Any]:
    metrics = record.metrics
    if record.comparison is not None:
        path = record.folder / "arms" / folder_name(arm.name) / "metrics.json"
        metrics = read_json(path) if path.is_file() else {}
    found = Part.read(metrics.get("test")).values.get("masks_by_patient")
    return found if isinstance(found, Mapping) else {}


def _by_patient(caption: str, found: Part) -> FederatedRow:
    patients, measured = found.number("patients"), found.number("hd95_patients")
    if not patients or measured is None:
        return FederatedRow(caption, reason="no such outline, reference or predicted, in any test patient")
    return FederatedRow(
        caption,
        (
            number(found.number("dsc_mean")),
            f"{patients:,.0f}",
            number(found.number("hd95_mean_mm"), 1),
            f"{measured:,.0f}",
            f"{patients - measured:,.0f}",
        ),
    )


def gain_rows(record: RunRecord, colours: Mapping[str, str]) -> list[GainRow]:
    """One row per hospital that has a local arm; empty where there is no federated arm."""
    federated = record.arm("federated")
    if federated is None:
        return []
    rows = []
    for arm in record.arms:
        if arm.kind != "local":
            continue
        site = arm.name.removeprefix("local:")
        alone, together = arm.sites.get(site), federated.sites.get(site)
        rows.append(
            GainRow(
                site=site,
                colour=colours.get(arm.name, ""),
                patients=UNDEFINED if alone is None else _patients(alone.patients, alone.events),
                own_alone=UNDEFINED if alone is None else with_interval(alone),
                own_together=UNDEFINED if together is None else with_interval(together),
                own_gain=_own_gain(record, site),
                all_alone=with_interval(arm.overall),
            )
        )
    return rows


def tiles(record: RunRecord) -> list[tuple[str, str, str]]:
    """(caption, figure, small print) of the headline figures."""
    overall = record.main.overall
    if record.comparison is None:
        found = [("C-index", number(overall.c_index), _interval(overall))]
    else:
        found = [
            (f"C-index, {arm.label.lower()}", number(arm.overall.c_index), _interval(arm.overall))
            for arm in record.arms
            if arm.kind in ("federated", "pooled")
        ]
        if any(arm.kind == "local" for arm in record.arms):
            found.append(("C-index, hospitals alone", number(mean_local(record)), "mean of the hospitals' own models"))
    for mask, caption in (("tumour", "DSC, primary tumour"), ("nodes", "DSC, nodes")):
        if overall.dsc.get(mask) is not None:
            found.append((caption, number(overall.dsc[mask], 2), f"{record.main.label.lower()} model"))
    return found


def _own_gain(record: RunRecord, site: str) -> str:
    difference = own_gap(record, site)
    return UNDEFINED if difference is None else difference.short


def _interval(scores: Scores) -> str:
    if scores.low is None or scores.high is None:
        return "no interval: patients’ risks stay at the hospitals" if scores.c_index is not None else "not defined"
    return f"95 %: {number(scores.low)} to {number(scores.high)}"


def _patients(patients: Any, events: Any) -> str:
    if patients is None:
        return ""
    return f"{patients} patients" + ("" if events is None else f", {events} with an event")


def _row(arm: ArmRecord, scores: Scores, colours: Mapping[str, str], main: bool) -> ScoreRow:
    return ScoreRow(
        label=arm.label,
        colour=colours.get(arm.name, ""),
        trained_on=UNDEFINED if arm.trained_on is None else f"{arm.trained_on:,}",
        c_index=with_interval(scores),
        pairs=UNDEFINED if scores.pairs is None else f"{scores.pairs:,}",
        tumour=overlap_text(scores, "tumour"),
        nodes=overlap_text(scores, "nodes"),
        main=main,
    )
