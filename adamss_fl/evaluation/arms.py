"""The arms of a comparison: what each trains, on whose patients, and how its model is applied.

Every arm starts from the same weights, passes equally often over each of its patients and follows the same schedule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from adamss_fl.errors import AdamssError, InputError
from adamss_fl.evaluation.personal import fine_tune, fine_tuned_weights
from adamss_fl.evaluation.predictions import Predictions, join, predict
from adamss_fl.evaluation.settings import Design, StrategySettings
from adamss_fl.evaluation.strategies import PERSONAL, task_of_strategy, without_proximal
from adamss_fl.federation.files import write_json
from adamss_fl.federation.finished_run import final_rounds, final_weights
from adamss_fl.federation.local_sites import LocalSites
from adamss_fl.federation.run import run_federation
from adamss_fl.federation.settings import FederationSettings
from adamss_fl.federation.site import Progress, Site
from adamss_fl.federation.site_data import SiteData
from adamss_fl.federation.task import Task
from adamss_fl.imaging import Sample
from adamss_fl.training.seeds import derive_seed

ArmKind = Literal["federated", "pooled", "local", "strategy", "null"]
Part = Literal["validation", "test"]
POOLED = "pooled"
NULL = "null: shuffled outcomes"
DIVERGED = "diverged.json"
"""Says of a tried setting's folder that its training came to no model, and why."""


@dataclass(frozen=True)
class Arm:
    """One way to train: its name, kind, folder of its run, and the sites whose patients it trains on.

    settings : figures of the strategies, where the arm is one. factors : what each stage's learning rate is multiplied
    by where the arm stands for one of several settings that are tried; None where none are.
    """

    name: str
    kind: ArmKind
    folder: Path
    sites: tuple[str, ...]
    settings: StrategySettings = field(default_factory=StrategySettings)
    factors: tuple[tuple[str, float], ...] | None = None


def folder_name(arm: str) -> str:
    """The folder of an arm by its name, below ``arms``."""
    return arm.replace(":", "-")


def arms_of(sites: Sequence[str], out: Path, design: Design | None = None) -> list[Arm]:
    """The federated arm, the pooled one, one local arm a site, and those that a design adds."""
    design = Design() if design is None else design
    names = tuple(sorted(sites))

    def arm(name: str, kind: ArmKind, own: tuple[str, ...] = names) -> Arm:
        return Arm(name, kind, out / "arms" / folder_name(name), own, design.settings)

    local = [arm(f"local:{name}", "local", (name,)) for name in names]
    added = [arm(name, "strategy") for name in design.strategies]
    null = [arm(NULL, "null")] if design.null else []
    return [arm("federated", "federated"), arm(POOLED, "pooled"), *local, *added, *null]


def centralized(task: Task) -> Task:
    """The same task for one site alone: plain averaging over one, no group kept back, no pull to a global model."""
    return without_proximal(replace(task, federation=FederationSettings(deadline_seconds=0.0)))


def pool(data: Mapping[str, SiteData]) -> SiteData:
    """All sites' patients as one site's, split as they were at the sites."""

    def joined(part: str) -> tuple[Sample, ...]:
        return tuple(sample for site in sorted(data) for sample in getattr(data[site], part))

    return SiteData(train=joined("train"), validation=joined("validation"), test=joined("test"))


def with_shuffled_outcomes(data: SiteData, seed: int) -> SiteData:
    """Outcomes (time and event together) permuted among training patients, and apart from them among validation ones.

    Validation outcomes are, too, since a setting chosen by true ones would be one that fits them. Those of test
    patients stay.
    """

    def shuffled(part: Literal["train", "validation"]) -> tuple[Sample, ...]:
        samples: tuple[Sample, ...] = getattr(data, part)
        order = np.random.default_rng(derive_seed(seed, "shuffled outcomes", part)).permutation(len(samples))
        outcomes = [(samples[place].time_days, samples[place].event) for place in order]
        return tuple(
            replace(sample, time_days=time_days, event=event)
            for sample, (time_days, event) in zip(samples, outcomes, strict=True)
        )

    return replace(data, train=shuffled("train"), validation=shuffled("validation"))


def data_of_arm(arm: Arm, task: Task, data: Mapping[str, SiteData]) -> dict[str, SiteData]:
    """The patients of each site that an arm trains over, by the names of :func:`task_of_arm`."""
    if arm.kind in ("pooled", "null"):
        pooled = pool(data)
        return {POOLED: with_shuffled_outcomes(pooled, task.seed) if arm.kind == "null" else pooled}
    return {name: data[name] for name in arm.sites}


def task_of_arm(arm: Arm, task: Task) -> tuple[Task, tuple[str, ...]]:
    """The task that an arm trains, and the names of the sites it trains over.

    Raises InputError where the arm is a strategy that the configured task does not allow.
    """
    own, names = centralized(task), arm.sites
    if arm.kind == "federated":
        own = task
    elif arm.kind == "strategy":
        own = task_of_strategy(arm.name, task, arm.settings)
    elif arm.kind in ("pooled", "null"):
        names = (POOLED,)
    for stage, factor in arm.factors or ():
        scaled = replace(getattr(own.stages, stage), learning_rate=getattr(own.stages, stage).learning_rate * factor)
        own = replace(own, stages=replace(own.stages, **{stage: scaled}))
    return own, names


def train_arm(
    arm: Arm,
    task: Task,
    data: Mapping[str, SiteData],
    progress: Progress | None = None,
    stage_one: Path | None = None,
) -> None:
    """Train one arm in this process, or go on with it, or do nothing where it is finished.

    stage_one : folder of a run whose stage I the arm begins with, see ``federation.stage_one``.

    Where the arm stands for one of several settings that are tried, a training that fails is recorded and not raised.
    """
    if arm.factors is not None and (arm.folder / DIVERGED).exists():
        return
    own_task, _ = task_of_arm(arm, task)
    sites = sites_of_arm(arm, task, data, progress)
    try:
        run_federation(own_task, LocalSites(sites), arm.folder, evaluate_test=False, stage_one=stage_one)
        if is_personal(arm):
            fine_tune(own_task, sites, arm.folder, arm.settings.personal_epochs)
    except AdamssError as error:
        if arm.factors is None or isinstance(error, InputError):
            raise
        write_json(arm.folder / DIVERGED, {"reason": str(error)})


def sites_of_arm(arm: Arm, task: Task, data: Mapping[str, SiteData], progress: Progress | None = None) -> list[Site]:
    """The sites that an arm trains over, with their state in the arm's folder."""
    own_task, _ = task_of_arm(arm, task)
    return [
        Site(name, lambda own=own: own, own_task, arm.folder / "sites" / name, progress)  # type: ignore[misc]
        for name, own in data_of_arm(arm, task, data).items()
    ]


def is_personal(arm: Arm) -> bool:
    """Whether the arm fine-tunes a model for every site."""
    return arm.kind == "strategy" and arm.name == PERSONAL


def patients_of_part(arm: Arm, task: Task, data: Mapping[str, SiteData], part: Part) -> tuple[Sample, ...]:
    """The patients that an arm is applied to: every site's test patients, or its own validation patients."""
    return pool(data).test if part == "test" else pool(data_of_arm(arm, task, data)).validation


def predict_arm(
    arm: Arm,
    task: Task,
    data: Mapping[str, SiteData],
    progress: Progress | None = None,
    part: Part = "test",
) -> Predictions:
    """An arm's model on every site's test patients (with a site's own parts where the arm has some).

    part : ``validation`` takes the arm's own validation patients.
    """
    own_task, _ = task_of_arm(arm, task)
    survival, segmentation, state = final_weights(arm.folder)
    edges, tabular = state["edges_days"], state.get("tabular")
    report = None if progress is None else (lambda done, total: progress(f"{arm.name}: {part} patients", done, total))
    samples, features = patients_of_part(arm, task, data, part), arm.folder / "features"
    kept_back = any(rule.name == "local" for rule in own_task.federation.groups.values())
    if not kept_back and not is_personal(arm):
        return predict(own_task, survival, segmentation, samples, edges, report, tabular=tabular, features=features)
    parts = []
    for site in sites_of_arm(arm, task, data):
        own_samples = site.data.test if part == "test" else site.data.validation
        if own_samples:
            last, segmenting = final_rounds(arm.folder)
            final = site.personal_weights(survival, state["run"], last)
            masks = site.personal_weights(segmentation, state["run"], segmenting)
            if is_personal(arm):
                final, masks = fine_tuned_weights(own_task, site, arm.folder, masks)
            kept = features / site.name
            parts.append(predict(own_task, final, masks, own_samples, edges, report, tabular=tabular, features=kept))
    return join(parts)
