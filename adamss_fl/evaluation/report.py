"""The report of a run: one self-contained HTML file with answers, tables and figures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adamss_fl.evaluation import figures
from adamss_fl.evaluation.figures.calibration import describe_days
from adamss_fl.evaluation.figures.style import QUIET
from adamss_fl.evaluation.report_answers import answers, why_no_c_index
from adamss_fl.evaluation.report_cohort import cohort_section
from adamss_fl.evaluation.report_cross_site import cross_site_section
from adamss_fl.evaluation.report_differences import differences_section, first_answer
from adamss_fl.evaluation.report_federated import federated_parts
from adamss_fl.evaluation.report_focus import read_focus
from adamss_fl.evaluation.report_folds import cross_validated
from adamss_fl.evaluation.report_inputs import ArmRecord, RunRecord, read_run
from adamss_fl.evaluation.report_methods import methods
from adamss_fl.evaluation.report_render import render, svg_uri
from adamss_fl.evaluation.report_study import build_study_report
from adamss_fl.evaluation.report_tables import by_patient_table, gain_rows, score_tables, tiles
from adamss_fl.evaluation.study import is_study
from adamss_fl.federation.files import write_atomically
from adamss_fl.federation.plan import trains

_FURTHER = ("strategy", "null")
"""Kinds of arms that have no colour and no curves of their own."""


@dataclass(frozen=True)
class ReportFigure:
    """A figure with its text; ``narrow`` ones are drawn at half the page's width."""

    key: str
    title: str
    svg: str
    caption: str
    narrow: bool = False

    @property
    def uri(self) -> str:
        """The SVG as a data URI."""
        return svg_uri(self.svg)


def build_report(run: Path) -> Path:
    """Write ``RUN/report.html`` and ``RUN/figures/*.svg`` from what lies in the run's folder; returns the page's path.

    run : folder of a comparison, a study of several seeds, a cross-validation or a single run. Parts whose data are
    absent are left out. The page needs no script and no network; ``cross_site.json`` is written beside that of a
    comparison. Raises InputError where the folder holds no run, or a file in it is broken.
    """
    if is_study(Path(run)):
        return build_study_report(Path(run))
    record = read_run(Path(run))
    page = _page(record)
    drawn = [*page["figures"], *(page["federated"].figures if page["federated"] else [])]
    for figure in drawn:
        if figure.svg is not None:
            write_atomically(record.folder / "figures" / f"{figure.key}.svg", figure.svg.encode())
    path = record.folder / "report.html"
    write_atomically(path, render("report.html.j2", page).encode())
    return path


def _page(record: RunRecord) -> dict[str, Any]:
    """What the template shows."""
    colours = _colours(record)
    across = cross_site_section(record, colours)
    page = {
        "title": _title(record),
        "subtitle": _subtitle(record),
        "tiles": tiles(record),
        "answers": [
            *first_answer(record, across),
            *answers(record),
        ],
        "differences": differences_section(record),
        "across": across,
        "gains": gain_rows(record, colours),
        "federated": None,
        "folds": None,
        "tables": score_tables(record, colours),
        "by_patient": by_patient_table(record),
        "figures": report_figures(record),
        "focus": read_focus(record),
        "cohort": cohort_section(record),
        "methods": methods(record),
        "compared": record.comparison is not None,
    }
    page |= federated_parts(record, page)
    return page | cross_validated(record, page)


def report_figures(record: RunRecord) -> list[ReportFigure]:
    """The figures that the run has data for, in the page's order."""
    found = [_forest(record), *_survival(record), _outlines(record), _learning(record), _gates(record)]
    return [figure for figure in found if figure is not None]


def _title(record: RunRecord) -> str:
    if record.comparison is not None:
        return "Training together, pooled, and alone"
    return "A federated model" if record.main.kind == "federated" else "A model trained at one site"


def _subtitle(record: RunRecord) -> str:
    facts = record.comparison or record.metrics
    name = facts.get("config_name") or facts.get("name") or record.folder.resolve().name
    parts = [str(name), f"{len(record.sites)} hospitals" if len(record.sites) > 1 else ""]
    ended = [str(event["time"])[:10] for event in record.main.events if event.get("time")]
    return " · ".join(part for part in [*parts, ended[-1] if ended else ""] if part)


def _colours(record: RunRecord) -> dict[str, str]:
    palette = figures.Palette(record.sites)
    return {arm.name: QUIET if arm.kind in _FURTHER else palette.arm(arm.name) for arm in record.arms}


def _forest(record: RunRecord) -> ReportFigure | None:
    if len(record.arms) < 2 or all(arm.overall.c_index is None for arm in record.arms):
        return None
    colours = _colours(record)
    rows = [
        figures.ForestRow(
            arm.label if arm.trained_on is None else f"{arm.label} ({arm.trained_on} patients)",
            colours[arm.name],
            arm.overall.c_index,
            arm.overall.low,
            arm.overall.high,
            why_no_c_index(arm.overall),
        )
        for arm in record.arms
    ]
    oracle = (record.comparison or {}).get("oracle_c_index")
    caption = (
        "C-index of every arm on the same test patients, with its 95 % bootstrap interval; in brackets, the patients "
        "it was trained on. Intervals of two arms may overlap although their difference is clear, since the arms are "
        "judged on the same patients: the differences above take that into account."
    )
    if oracle is not None:
        caption += (
            " The oracle knows the true hazard of the synthetic patients; nothing can be expected to lie above it."
        )
    return ReportFigure("c-index", "How well each model orders patients", figures.forest_figure(rows, oracle), caption)


def _shown(record: RunRecord) -> list[tuple[ArmRecord, Any]]:
    """Arms whose patients' predictions are drawn: federated and pooled, or the only one."""
    wanted = [arm for arm in record.arms if arm.kind in ("federated", "pooled")] or list(record.arms)
    return [(arm, arm.predictions) for arm in wanted if arm.predictions is not None]


def _survival(record: RunRecord) -> list[ReportFigure | None]:
    shown = _shown(record)
    if not shown:
        return []
    groups = int((record.comparison or {}).get("risk_groups") or 2)
    cut = "at the median of its predicted risk" if groups == 2 else f"into {groups} equal groups by its predicted risk"
    curves = ReportFigure(
        "kaplan-meier",
        "Outcomes by predicted risk",
        figures.kaplan_meier_figure([(arm.label, found) for arm, found in shown], groups),
        f"Kaplan-Meier curves of the test patients, cut for each model {cut}, with 95 % bands and the patients still "
        "followed. The further the curves lie apart, the better the model tells patients apart.",
    )
    colours = _colours(record)
    horizon = figures.calibration_horizon(shown[0][1])
    drawn = figures.calibration_figure([(arm.label, colours[arm.name], found) for arm, found in shown], horizon)
    if drawn is None:
        return [curves]
    caption = (
        f"Patients in groups of predicted survival at {describe_days(horizon)}: mean prediction against the observed "
        "share without an event. Points on the diagonal are right on average; below it, the model is too hopeful."
    )
    return [curves, ReportFigure("calibration", "Predicted and observed survival", drawn, caption, narrow=True)]


def _outlines(record: RunRecord) -> ReportFigure | None:
    if record.examples is None or not len(record.examples.label):
        return None
    return ReportFigure(
        "outlines",
        "Outlines in example test patients",
        figures.outlines_figure(record.examples),
        f"Reference outlines are solid, those of the {record.main.label.lower()} model dashed. Axial slices with most "
        "of the tumour (left pair) and of the nodes (right pair). Patients are chosen by rule "
        "and not by looks.",
    )


def _learning(record: RunRecord) -> ReportFigure | None:
    palette = figures.Palette(record.sites)
    validation = {arm.name: arm.events for arm in record.arms if arm.kind not in ("local", *_FURTHER)}
    svg = figures.learning_figure(record.main.events, validation, palette)
    if svg is None:
        return None
    caption = f"Training losses of the {record.main.label.lower()} model at each hospital"
    caption += ", and figures on validation patients" if any(map(_validated, validation.values())) else ""
    caption += ". The segmentation loss sums a focal term minus soft Dice over tumour and nodes: it falls below zero."
    stages = [event.get("stages") or [] for event in record.main.events if event.get("kind") == "round_start"]
    if stages and not trains(stages[-1], "segmentation") and any(trains(stage, "segmentation") for stage in stages):
        caption += (
            " DSC is that of each round’s model; the outlines reported on this page come from the last round that "
            "trained segmentation."
        )
    return ReportFigure("learning", "Learning over the rounds", svg, caption)


def _validated(events: Any) -> bool:
    return any(event.get("kind") == "validation" for event in events)


def _gates(record: RunRecord) -> ReportFigure | None:
    svg = figures.gates_figure(record.main.events, figures.Palette(record.sites))
    if svg is None:
        return None
    return ReportFigure(
        "gates",
        "What the fusion gates learn",
        svg,
        "Weight of the early-fusion stream (PET and CT together from the first layer) against late concatenation of "
        "the separate PET and CT streams, mean over patients, channels and voxels, after each round’s training at each "
        "hospital. 0.5, where every gate starts, weighs both alike. The weight does not compare PET with CT.",
    )
