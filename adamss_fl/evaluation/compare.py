"""Local-only, federated and pooled training with one budget, judged on the same test patients.

Every arm starts from the same weights, passes equally often over each of its patients, follows the same schedule with
the same hyper-parameters, and none sees a test patient in training.
"""

from __future__ import annotations

import hashlib
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from adamss_fl.errors import InputError
from adamss_fl.evaluation.predictions import Predictions, join, predict
from adamss_fl.evaluation.scores import score_with_sites
from adamss_fl.federation.files import write_json
from adamss_fl.federation.local_sites import LocalSites
from adamss_fl.federation.run import final_weights, run_federation
from adamss_fl.federation.settings import FederationSettings, StageName
from adamss_fl.federation.site import Progress, Site
from adamss_fl.federation.site_data import SiteData
from adamss_fl.federation.task import Task
from adamss_fl.imaging import Sample
from adamss_fl.survival import NoComparablePairs, concordance_counts, paired_difference

ArmKind = Literal["federated", "pooled", "local"]
POOLED = "pooled"


@dataclass(frozen=True)
class Arm:
    """One way to train: its name, kind, folder of its run, and the sites whose patients it trains on."""

    name: str
    kind: ArmKind
    folder: Path
    sites: tuple[str, ...]


def arms_of(sites: Sequence[str], out: Path) -> list[Arm]:
    """The federated arm, the pooled one, and one local arm a site."""
    folder = out / "arms"
    names = tuple(sorted(sites))
    local = [Arm(f"local:{name}", "local", folder / f"local-{name}", (name,)) for name in names]
    federated = Arm("federated", "federated", folder / "federated", names)
    return [federated, Arm(POOLED, "pooled", folder / POOLED, names), *local]


def centralized(task: Task) -> Task:
    """The same task for one site alone: plain averaging over one, no group kept back, no pull to a global model."""
    names = typing.get_args(StageName)
    stages = replace(task.stages, **{name: replace(getattr(task.stages, name), proximal_mu=0.0) for name in names})
    return replace(task, federation=FederationSettings(deadline_seconds=0.0), stages=stages)


def pool(data: Mapping[str, SiteData]) -> SiteData:
    """All sites' patients as one site's, split as they were at the sites."""

    def joined(part: str) -> tuple[Sample, ...]:
        return tuple(sample for site in sorted(data) for sample in getattr(data[site], part))

    return SiteData(train=joined("train"), validation=joined("validation"), test=joined("test"))


def task_of_arm(arm: Arm, task: Task) -> tuple[Task, tuple[str, ...]]:
    """The task that an arm trains, and the names of the sites it trains over."""
    if arm.kind == "federated":
        return task, arm.sites
    return centralized(task), (POOLED,) if arm.kind == "pooled" else arm.sites


def train_arm(
    arm: Arm,
    task: Task,
    data: Mapping[str, SiteData],
    progress: Progress | None = None,
    stage_one: Path | None = None,
) -> None:
    """Train one arm in this process, or go on with it, or do nothing where it is finished.

    stage_one : folder of a run whose stage I the arm begins with, see ``federation.stage_one``.
    """
    own_task, names = task_of_arm(arm, task)
    known = {POOLED: pool(data)} if arm.kind == "pooled" else data
    sites = [_site(name, own_task, known[name], arm.folder, progress) for name in names]
    run_federation(own_task, LocalSites(sites), arm.folder, evaluate_test=False, stage_one=stage_one)


def predict_arm(arm: Arm, task: Task, data: Mapping[str, SiteData], progress: Progress | None = None) -> Predictions:
    """An arm's model on every site's test patients (with a site's own local groups where the run has some)."""
    survival, segmentation, state = final_weights(arm.folder)
    edges, tabular = state["edges_days"], state.get("tabular")
    report = None if progress is None else (lambda done, total: progress(f"{arm.name}: test patients", done, total))
    personal = arm.kind == "federated" and any(rule.name == "local" for rule in task.federation.groups.values())
    if not personal:
        features, test = arm.folder / "features", pool(data).test
        return predict(task, survival, segmentation, test, edges, report, tabular=tabular, features=features)
    parts = []
    for name in sorted(data):
        if data[name].test:
            site = _site(name, task, data[name], arm.folder, None)
            last = len(task.plan.rounds)
            rounds = (last, task.plan.last_round_of("segmentation") or last)
            own = [
                site.personal_weights(weights, state["run"], round_)
                for weights, round_ in zip((survival, segmentation), rounds, strict=True)
            ]
            test, kept = data[name].test, arm.folder / "features" / name
            parts.append(predict(task, own[0], own[1], test, edges, report, tabular=tabular, features=kept))
    return join(parts)


def compare(
    task: Task,
    data: Mapping[str, SiteData],
    out: Path,
    *,
    bootstrap: int = 1000,
    risk_groups: int = 2,
    train_federated: Callable[[Path], None] | None = None,
    oracle: Mapping[str, float] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train and judge every arm; returns what ``comparison.json`` under ``out`` then holds.

    data : patients of each site by name; train_federated : trains the federated arm into a folder through another
    transport (in this process where None); oracle : true log hazard of each patient, where it is known.
    Finished arms of an earlier call with the same task are kept. Raises InputError where no site has a test patient
    or the plan is measured in steps.
    """
    test = pool(data).test
    if not test:
        raise InputError("split.test: no site has a test patient to compare on; set it above 0")
    _refuse_leakage(data)
    if any(block.steps is not None for block in task.plan.blocks):
        raise InputError(
            "plan.steps: the same steps are fewer passes over more patients, so the arms' budgets would differ; "
            "give the plan in epochs to compare"
        )
    arms = arms_of(tuple(data), out)
    found: dict[str, Predictions] = {}
    for arm in arms:
        if arm.kind == "federated" and train_federated is not None:
            train_federated(arm.folder)
        else:
            train_arm(arm, task, data, progress)
        found[arm.name] = predict_arm(arm, task, data, progress)
        found[arm.name].save(arm.folder / "predictions.npz")
    comparison = {
        "config_name": task.name,
        "plan": task.plan.describe(),
        "seed": task.seed,
        "bootstrap": bootstrap,
        "risk_groups": risk_groups,
        "test_patients": len(test),
        "test_events": sum(sample.event for sample in test),
        "test_patients_sha256": hash_of_patients(test),
        "budget": {f"{stage}_{unit(task, stage)}": length for stage, length in task.plan.stage_lengths().items()},
        **oracle_figures(test, oracle),
        "arms": {arm.name: _arm_figures(arm, data, found[arm.name], bootstrap, task.seed) for arm in arms},
        "gaps": gaps(found, bootstrap, task.seed),
    }
    write_json(out / "comparison.json", comparison)
    return comparison


def gaps(found: Mapping[str, Predictions], bootstrap: int, seed: int) -> dict[str, Any]:
    """Differences of C-indices with 95 % intervals, resampling the same patients for both sides.

    ``federated - pooled``, ``federated - mean local``, and per site ``federated - local:SITE`` on that site's own test
    patients under ``own_patients``. Differences without a comparable pair are left out.
    """
    federated = found["federated"]
    local = {name: value for name, value in found.items() if name.startswith("local:")}
    outcome = (federated.time_days, federated.event)
    differences: dict[str, Any] = {}
    for label, other in ((f"federated - {POOLED}", found[POOLED].risk), ("federated - mean local", None)):
        risk = np.stack([value.risk for value in local.values()]) if other is None else other
        differences[label] = _difference(*outcome, federated.risk, risk, bootstrap, seed)
    own: dict[str, Any] = {}
    for name, value in local.items():
        chosen = federated.site == name.removeprefix("local:")
        if chosen.any():
            times, events = federated.time_days[chosen], federated.event[chosen]
            own[f"federated - {name}"] = _difference(
                times, events, federated.risk[chosen], value.risk[chosen], bootstrap, seed
            )
    kept = {label: value for label, value in differences.items() if value is not None}
    return {**kept, "own_patients": {label: value for label, value in own.items() if value is not None}}


def oracle_figures(test: Sequence[Sample], oracle: Mapping[str, float] | None) -> dict[str, Any]:
    """C-index of the true log hazard on the test patients.

    None where the truth of any of them is unknown or no pair is comparable.
    """
    if oracle is None or any(sample.patient_id not in oracle for sample in test):
        return {"oracle_c_index": None, "oracle_comparable_pairs": None}
    times, events = [sample.time_days for sample in test], [sample.event for sample in test]
    counts = concordance_counts(times, events, [oracle[sample.patient_id] for sample in test])
    if not counts.comparable_pairs:
        return {"oracle_c_index": None, "oracle_comparable_pairs": 0}
    return {"oracle_c_index": counts.c_index, "oracle_comparable_pairs": counts.comparable_pairs}


def hash_of_patients(samples: Sequence[Sample]) -> str:
    """SHA-256 over sorted site and patient identifiers: equal hashes mean the same test patients."""
    return hash_of_names((sample.site, sample.patient_id) for sample in samples)


def hash_of_names(patients: Iterable[tuple[str, str]]) -> str:
    """As :func:`hash_of_patients`, from (site, patient identifier)."""
    names = sorted(f"{site}\x1f{patient}" for site, patient in patients)
    return hashlib.sha256("\x1e".join(names).encode()).hexdigest()


def unit(task: Task, stage: StageName) -> str:
    """``epochs`` or ``steps``, whichever the plan measures ``stage`` in."""
    block = next(block for block in task.plan.blocks if stage in block.stages)
    return "epochs" if block.epochs is not None else "steps"


def _site(name: str, task: Task, data: SiteData, folder: Path, progress: Progress | None) -> Site:
    return Site(name, lambda: data, task, folder / "sites" / name, progress)


def _arm_figures(
    arm: Arm, data: Mapping[str, SiteData], found: Predictions, bootstrap: int, seed: int
) -> dict[str, Any]:
    figures = score_with_sites(found, bootstrap, seed)
    figures["test_patients"] = figures.pop("patients")
    trained = sum(len(data[name].train) for name in arm.sites)
    return {"kind": arm.kind, "patients": trained, **figures}


def _difference(
    times: Any, events: Any, risk_a: Any, risk_b: Any, bootstrap: int, seed: int
) -> dict[str, float] | None:
    try:
        found = paired_difference(times, events, risk_a, risk_b, bootstrap, seed)
    except NoComparablePairs:
        return None
    return {"difference": found.difference, "low": found.low, "high": found.high}


def _refuse_leakage(data: Mapping[str, SiteData]) -> None:
    """Raise InputError where a test patient is also trained or selected on, at any site."""
    seen = {s.patient_id for value in data.values() for part in (value.train, value.validation) for s in part}
    leaked = sorted({sample.patient_id for value in data.values() for sample in value.test} & seen)
    if leaked:
        raise InputError(
            f"{len(leaked)} test patients are also in training, the first {leaked[0]!r}; "
            "give the sites' patients distinct identifiers"
        )
