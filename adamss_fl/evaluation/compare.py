"""Local-only, federated and pooled training with one budget, judged on the same test patients.

Every arm starts from the same weights, passes equally often over each of its patients, follows the same schedule with
the same hyper-parameters (or chooses them among the same ones by the same rule), and none sees a test patient before it
is judged. Strategies and a null run may be further arms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from adamss_fl.errors import InputError
from adamss_fl.evaluation.arms import (
    POOLED,
    Arm,
    ArmKind,
    arms_of,
    centralized,
    data_of_arm,
    pool,
    predict_arm,
    task_of_arm,
    train_arm,
)
from adamss_fl.evaluation.differences import gaps
from adamss_fl.evaluation.kept import adopt, kept_predictions, twin_of
from adamss_fl.evaluation.leakage import (
    hash_of_content,
    hash_of_names,
    hash_of_patients,
    refuse_leakage,
    refuse_other_patients,
)
from adamss_fl.evaluation.predictions import Predictions
from adamss_fl.evaluation.scores import score_with_sites
from adamss_fl.evaluation.settings import Design
from adamss_fl.evaluation.tuning import candidates_of, check_validation, choose, grid
from adamss_fl.federation.files import write_json
from adamss_fl.federation.settings import StageName
from adamss_fl.federation.site import Progress
from adamss_fl.federation.site_data import SiteData
from adamss_fl.federation.task import Task
from adamss_fl.imaging import Sample
from adamss_fl.survival import concordance_counts

__all__ = [
    "POOLED",
    "Arm",
    "ArmKind",
    "arms_of",
    "centralized",
    "compare",
    "gaps",
    "hash_of_names",
    "hash_of_patients",
    "oracle_figures",
    "pool",
    "predict_arm",
    "runs_of",
    "task_of_arm",
    "train_arm",
    "unit",
]


def runs_of(arms: Sequence[Arm], task: Task, out: Path, design: Design) -> dict[str, list[Arm]]:
    """Everything that is trained, by the arm's name: the arm itself, or once for every setting that is tried."""
    if not design.tune:
        return {arm.name: [arm] for arm in arms}
    settings = grid(task, design.tune)
    return {arm.name: candidates_of(arm, out, settings) for arm in arms}


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
    design: Design | None = None,
) -> dict[str, Any]:
    """Train and judge every arm; returns what ``comparison.json`` under ``out`` then holds.

    data : patients of each site by name; train_federated : trains the federated arm into a folder through another
    transport (in this process where None, and where settings are tried); oracle : true log hazard of each patient,
    where it is known; design : what is compared besides the federated, pooled and local arms.
    Finished arms of an earlier call with the same task are kept. Raises InputError, before anything is written, where
    no site has a test patient, one is in an arm's training or validation data, the plan is measured in steps, or the
    design asks for what task and data do not allow.
    """
    design = Design() if design is None else design
    test = pool(data).test
    if not test:
        raise InputError("split.test: no site has a test patient to compare on; set it above 0")
    arms = arms_of(tuple(data), out, design)
    refuse_leakage({arm.name: data_of_arm(arm, task, data) for arm in arms}, test)
    if any(block.steps is not None for block in task.plan.blocks):
        raise InputError(
            "plan.steps: the same steps are fewer passes over more patients, so the arms' budgets would differ; "
            "give the plan in epochs to compare"
        )
    if design.tune:
        check_validation(arms, task, data)
    runs = runs_of(arms, task, out, design)
    for arm in arms:
        task_of_arm(arm, task)  # a strategy that cannot be is refused before the first arm is trained
    expected, content = hash_of_patients(test), hash_of_content(test)
    found: dict[str, Predictions] = {}
    tuned: dict[str, Any] = {}
    trained: list[Arm] = []
    for arm in arms:
        for run in runs[arm.name]:
            twin = twin_of(run, trained, task)
            if twin is not None and not (run.folder / "checkpoints").exists():
                adopt(twin.folder, run.folder, {"arm": twin.name})
            elif arm.kind == "federated" and train_federated is not None and not design.tune:
                train_federated(run.folder)
            else:
                train_arm(run, task, data, progress)
            trained.append(run)
        if design.tune:
            tuned[arm.name] = choose(arm, runs[arm.name], task, data, progress)
        found[arm.name] = kept_predictions(arm, task, data, progress, content=content)
        refuse_other_patients(arm.name, found[arm.name], expected)
    figures = {arm.name: _arm_figures(arm, data, found[arm.name], bootstrap, task.seed) for arm in arms}
    for name, record in tuned.items():
        figures[name]["tuning"] = record
    comparison = {
        "config_name": task.name,
        "plan": task.plan.describe(),
        "seed": task.seed,
        "bootstrap": bootstrap,
        "risk_groups": risk_groups,
        "test_patients": len(test),
        "test_events": sum(sample.event for sample in test),
        "test_patients_sha256": expected,
        "budget": {f"{stage}_{unit(task, stage)}": length for stage, length in task.plan.stage_lengths().items()},
        **({} if design == Design(settings=design.settings) else {"design": asdict(design)}),
        **oracle_figures(test, oracle),
        "arms": figures,
        "gaps": gaps(found, bootstrap, task.seed),
    }
    write_json(out / "comparison.json", comparison)
    return comparison


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


def unit(task: Task, stage: StageName) -> str:
    """``epochs`` or ``steps``, whichever the plan measures ``stage`` in."""
    block = next(block for block in task.plan.blocks if stage in block.stages)
    return "epochs" if block.epochs is not None else "steps"


def _arm_figures(
    arm: Arm, data: Mapping[str, SiteData], found: Predictions, bootstrap: int, seed: int
) -> dict[str, Any]:
    figures = score_with_sites(found, bootstrap, seed)
    figures["test_patients"] = figures.pop("patients")
    patients = zip(found.site.tolist(), found.patient.tolist(), strict=True)
    trained = sum(len(data[name].train) for name in arm.sites)
    told = {"kind": arm.kind, "patients": trained, "test_patients_sha256": hash_of_names(patients), **figures}
    if arm.kind == "null":
        low, high = figures["ci_low"], figures["ci_high"]
        told["holds_half"] = None if low is None or high is None else low <= 0.5 <= high
    return told
