"""How much work a run or a comparison is: optimiser steps by stage, and patients that a model is applied to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from adamss_fl.evaluation.arms import Arm, task_of_arm
from adamss_fl.evaluation.kept import twin_of
from adamss_fl.federation.best_round import segmentation_round
from adamss_fl.federation.settings import StageName
from adamss_fl.federation.site_data import SiteData
from adamss_fl.federation.task import Task
from adamss_fl.training.batches import Batches
from adamss_fl.training.timing import Speed


@dataclass(frozen=True)
class Size:
    """Patients of a site by split."""

    train: int
    validation: int
    test: int

    @classmethod
    def of(cls, data: SiteData) -> Size:
        """The size of a site's data."""
        return cls(len(data.train), len(data.validation), len(data.test))

    def __add__(self, other: Size) -> Size:
        return Size(self.train + other.train, self.validation + other.validation, self.test + other.test)


@dataclass(frozen=True)
class Work:
    """steps : optimiser steps by stage. applied : how often a model is applied to a patient without training."""

    steps: Mapping[StageName, int] = field(default_factory=dict)
    applied: int = 0

    def __add__(self, other: Work) -> Work:
        names = dict.fromkeys((*self.steps, *other.steps))
        steps = {name: self.steps.get(name, 0) + other.steps.get(name, 0) for name in names}
        return Work(steps, self.applied + other.applied)

    @property
    def all_steps(self) -> int:
        """Steps of all stages."""
        return sum(self.steps.values())

    def seconds(self, speed: Speed) -> float:
        """How long one process needs for it."""
        return sum(count * speed.step[name] for name, count in self.steps.items()) + self.applied * speed.patient


def models_of(task: Task) -> int:
    """How many models a run is judged by: two where another round trained segmentation last, see ``predict``."""
    last = len(task.plan.rounds)
    return 1 if segmentation_round(task.plan, last) in (0, last) else 2


def work_of_site(task: Task, size: Size, *, tested: bool) -> Work:
    """What a site does in a run of ``task``: its training, validation, and where ``tested`` its test patients."""
    steps: dict[StageName, int] = {}
    applied = size.test * models_of(task) if tested else 0
    for round_ in task.plan.rounds:
        for stage in round_.stages:
            batches = Batches(size.train, getattr(task.stages, stage).batch_size)
            done = round_.steps if round_.steps is not None else batches.in_epochs(round_.epochs or 0)
            steps[stage] = steps.get(stage, 0) + done
        due = task.validate_every and (round_.index % task.validate_every == 0 or round_.closes_block)
        applied += size.validation if due else 0
    return Work(steps, applied)


def work_of_run(task: Task, sizes: Mapping[str, Size], *, tested: bool = True) -> dict[str, Work]:
    """:func:`work_of_site` of every site. Raises ValueError where a site has fewer patients than a batch."""
    return {name: work_of_site(task, size, tested=tested) for name, size in sizes.items()}


def sizes_of_arm(arm: Arm, sizes: Mapping[str, Size]) -> dict[str, Size]:
    """Sizes of the sites that an arm trains over, by the names of ``task_of_arm``."""
    own = {name: sizes[name] for name in arm.sites}
    if arm.kind not in ("pooled", "null"):
        return own
    total = Size(0, 0, 0)
    for size in own.values():
        total = total + size
    return {arm.kind: total}


@dataclass(frozen=True)
class ArmWork:
    """An arm's work: what each site does in its run, and its model on all test patients in this process.

    over_flower : its messages travel over Flower. here : it is trained in this process in any case.
    """

    name: str
    sites: Mapping[str, Work]
    judged: Work
    over_flower: bool = False
    here: bool = False

    @property
    def total(self) -> Work:
        """All of it."""
        return sum(self.sites.values(), self.judged)


def work_of_arms(runs: Sequence[Arm], task: Task, sizes: Mapping[str, Size], over_flower: bool) -> list[ArmWork]:
    """The work of every run of a comparison that is not finished and equals none before it, in the order given.

    over_flower : the federated arm travels over Flower, and then asks for its test figures as a federation does.
    """
    tests = sum(size.test for size in sizes.values())
    found = []
    for place, run in enumerate(runs):
        own_task, _ = task_of_arm(run, task)
        judged = Work(applied=tests * models_of(own_task))
        flower = over_flower and run.kind == "federated"
        if (run.folder / "metrics.json").exists() or twin_of(run, runs[:place], task) is not None:
            sites: dict[str, Work] = {}
        else:
            sites = work_of_run(own_task, sizes_of_arm(run, sizes), tested=flower)
        found.append(ArmWork(run.name, sites, judged, flower, run.kind == "federated" and run.factors is None))
    return found


def seconds_at_once(jobs: Iterable[float], workers: int) -> float:
    """How long ``workers`` processes need for ``jobs``, each taking the next one when it is free."""
    busy = [0.0] * max(1, workers)
    for seconds in jobs:
        busy[busy.index(min(busy))] += seconds
    return max(busy)
