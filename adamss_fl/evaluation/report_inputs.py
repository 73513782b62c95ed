"""What lies in a run's folder, read once for the report; parts that are absent stay None or empty."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adamss_fl.errors import InputError
from adamss_fl.evaluation.figures import Examples
from adamss_fl.evaluation.predictions import Predictions
from adamss_fl.evaluation.report_arms import label_of_arm
from adamss_fl.federation.events import read_events

_MARKS = ("comparison.json", "metrics.json", "predictions.npz", "events.jsonl")
BOOTSTRAP = 1000


@dataclass(frozen=True)
class Scores:
    """Figures of one model on one group of test patients; None where a figure is not defined or not known."""

    patients: int | None = None
    events: int | None = None
    c_index: float | None = None
    low: float | None = None
    high: float | None = None
    pairs: int | None = None
    dsc: Mapping[str, float | None] = field(default_factory=dict)

    @classmethod
    def read(cls, figures: Mapping[str, Any]) -> Scores:
        """From the JSON of ``comparison.json`` or ``metrics.json``; numbers that are not finite become None."""
        dsc = figures.get("dsc") or {}
        return cls(
            patients=_count(figures.get("test_patients", figures.get("patients"))),
            events=_count(figures.get("events")),
            c_index=finite(figures.get("c_index")),
            low=finite(figures.get("ci_low")),
            high=finite(figures.get("ci_high")),
            pairs=_count(figures.get("comparable_pairs")),
            dsc={str(name): finite(value) for name, value in dsc.items()},
        )


@dataclass(frozen=True)
class ArmRecord:
    """One trained model of the run.

    name : ``federated``, ``pooled``, ``local:SITE``, a strategy's; kind : ``federated``, ``pooled``, ``local``,
    ``strategy``, ``null``.
    trained_on : training patients; overall, sites : figures on test patients, of all and per site.
    """

    name: str
    kind: str
    trained_on: int | None
    overall: Scores
    sites: Mapping[str, Scores]
    events: Sequence[Mapping[str, Any]]
    predictions: Predictions | None

    @property
    def label(self) -> str:
        """The arm's name for people."""
        return label_of_arm(self.name)


@dataclass(frozen=True)
class RunRecord:
    """A run for the report; ``comparison`` is None for a run that is no comparison."""

    folder: Path
    comparison: Mapping[str, Any] | None
    metrics: Mapping[str, Any]
    arms: Sequence[ArmRecord]
    examples: Examples | None

    @property
    def sites(self) -> tuple[str, ...]:
        """All site names that the run's training and test patients come from, sorted."""
        trained = {str(e["site"]) for arm in self.arms for e in arm.events if e.get("kind") == "train" and "site" in e}
        tested = {site for arm in self.arms for site in arm.sites}
        alone = {arm.name.removeprefix("local:") for arm in self.arms if arm.kind == "local"}
        return tuple(sorted((trained | tested | alone) - {"pooled"}))

    def arm(self, kind: str) -> ArmRecord | None:
        """The first arm of a kind."""
        return next((arm for arm in self.arms if arm.kind == kind), None)

    @property
    def main(self) -> ArmRecord:
        """The arm that the report is about."""
        return self.arm("federated") or self.arms[0]


def read_run(run: Path) -> RunRecord:
    """Read a comparison or a single run. Raises InputError where the folder is none or a file in it is broken."""
    if not run.is_dir() or not any((run / mark).exists() for mark in _MARKS):
        raise InputError(
            f"{run}: is no run (none of {', '.join(_MARKS)} in it); give a folder that a run was written to"
        )
    comparison = read_json(run / "comparison.json") if (run / "comparison.json").exists() else None
    metrics = read_json(run / "metrics.json") if (run / "metrics.json").exists() else {}
    if comparison is None:
        arms = [_single_arm(run, metrics)]
    else:
        described = comparison.get("arms")
        if not isinstance(described, Mapping) or not described:
            raise InputError(f"{run / 'comparison.json'}: names no arms; run the comparison again")
        arms = sorted((_compared_arm(run, name, figures) for name, figures in described.items()), key=_order)
    examples = run / "examples.npz"
    return RunRecord(run, comparison, metrics, arms, Examples.load(examples) if examples.exists() else None)


def _order(arm: ArmRecord) -> tuple[int, str]:
    kinds = ("federated", "pooled", "local", "strategy", "null")
    return kinds.index(arm.kind) if arm.kind in kinds else len(kinds), arm.name


def _compared_arm(run: Path, name: str, figures: Mapping[str, Any]) -> ArmRecord:
    folder = run / "arms" / name.replace(":", "-")
    return ArmRecord(
        name=name,
        kind=str(figures.get("kind", "local" if name.startswith("local:") else name)),
        trained_on=_count(figures.get("patients")),
        overall=Scores.read({key: value for key, value in figures.items() if key != "patients"}),
        sites={site: Scores.read(values) for site, values in sorted((figures.get("sites") or {}).items())},
        events=list(read_events(folder / "events.jsonl")),
        predictions=_predictions(folder),
    )


def _single_arm(run: Path, metrics: Mapping[str, Any]) -> ArmRecord:
    """Figures from predictions where the run keeps them (with intervals), else from ``metrics.json``."""
    events = list(read_events(run / "events.jsonl"))
    found = _predictions(run)
    if found is None:
        test = metrics.get("test") or metrics
        figures = {"overall": test, "sites": test.get("sites") or {}}
    else:
        from adamss_fl.evaluation.scores import score_with_sites

        scored = score_with_sites(found, BOOTSTRAP, int(metrics.get("seed", 0)))
        figures = {"overall": scored, "sites": scored["sites"]}
    sites = metrics.get("sites")
    named = {str(event["site"]) for event in events if event.get("kind") == "train" and "site" in event}
    members = len(sites) if isinstance(sites, (list, tuple)) else len(named)
    kind = "federated" if members > 1 else "ensemble" if "folds" in metrics else "centralized"
    return ArmRecord(
        name=kind,
        kind=kind,
        trained_on=_trained_on(events),
        overall=Scores.read(figures["overall"]),
        sites={site: Scores.read(values) for site, values in sorted(figures["sites"].items())},
        events=events,
        predictions=found,
    )


def training_patients(events: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Training patients per site: the most that its training figures name, since stage I counts those with a mask."""
    found: dict[str, int] = {}
    for event in events:
        patients = _count((event.get("figures") or {}).get("patients")) if event.get("kind") == "train" else None
        if patients is not None:
            site = str(event.get("site", ""))
            found[site] = max(patients, found.get(site, 0))
    return dict(sorted(found.items()))


def _trained_on(events: Sequence[Mapping[str, Any]]) -> int | None:
    found = training_patients(events)
    return sum(found.values()) if found else None


def _predictions(folder: Path) -> Predictions | None:
    path = folder / "predictions.npz"
    found = Predictions.load(path) if path.exists() else None
    return found if found is not None and found.patient.size else None


def read_json(path: Path) -> Mapping[str, Any]:
    """A JSON object of a run's folder. Raises InputError where the file holds none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: is no readable JSON ({type(error).__name__}); run the command that wrote it again"
        ) from error
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: holds no JSON object; run the command that wrote it again")
    return content


def finite(value: object) -> float | None:
    """A finite number as float; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def _count(value: object) -> int | None:
    number = finite(value)
    return None if number is None else int(number)
