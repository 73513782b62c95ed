"""The same search for every arm of a comparison: one grid of learning rates, and one rule to choose among them.

Each setting is trained from the start with the comparison's passes. The best C-index on the arm's own validation
patients is taken; test patients have no say.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from adamss_fl.errors import AdamssError, InputError
from adamss_fl.evaluation.arms import DIVERGED, Arm, folder_name, patients_of_part
from adamss_fl.evaluation.kept import adopt, kept_predictions
from adamss_fl.federation.site import Progress
from adamss_fl.federation.site_data import SiteData
from adamss_fl.federation.task import Task
from adamss_fl.survival import concordance_counts
from adamss_fl.training.seeds import derive_seed

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""What a stage's configured learning rate is multiplied by."""

Factors = tuple[tuple[str, float], ...]
"""(stage, factor) for every stage that the plan trains."""


@dataclass(frozen=True)
class Trial:
    """A setting on an arm's validation patients. c_index : None where no pair is comparable or training failed."""

    factors: Factors
    c_index: float | None
    comparable_pairs: int = 0
    failed: bool = False

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "learning_rate_factors": dict(self.factors),
            "c_index": self.c_index,
            "comparable_pairs": self.comparable_pairs,
            "failed": self.failed,
        }


def grid(task: Task, count: int) -> tuple[Factors, ...]:
    """``count`` settings: the configured one, then others drawn without repetition by the task's seed.

    A longer grid begins with the shorter ones. Raises InputError for fewer than 1 or more than there are.
    """
    stages = task.plan.stages
    whole = list(itertools.product(FACTORS, repeat=len(stages)))
    if not 1 <= count <= len(whole):
        raise InputError(f"--tune: {count} settings asked for; give 1 to {len(whole)}")
    configured = (1.0,) * len(stages)
    others = [values for values in whole if values != configured]
    order = np.random.default_rng(derive_seed(task.seed, "tuning")).permutation(len(others))
    chosen = [configured, *(others[place] for place in order[: count - 1])]
    return tuple(tuple(zip(stages, values, strict=True)) for values in chosen)


def best_of(scores: Sequence[float | None]) -> int:
    """Place of the highest C-index, of equal ones the first; 0 where none is known."""
    known = [place for place, score in enumerate(scores) if score is not None]
    return max(known, key=lambda place: (scores[place], -place), default=0)


def candidates_of(arm: Arm, out: Path, settings: Sequence[Factors]) -> list[Arm]:
    """The arm once for every setting, each with a run of its own under ``OUT/tuning``."""
    folder = out / "tuning" / folder_name(arm.name)
    return [
        replace(arm, folder=folder / f"setting-{number}", factors=factors)
        for number, factors in enumerate(settings, start=1)
    ]


def check_validation(arms: Sequence[Arm], task: Task, data: Mapping[str, SiteData]) -> None:
    """Raise InputError where there are no validation patients to choose by, of the run or of an arm."""
    if task.split.validation <= 0:
        raise InputError("--tune: split.validation is 0, so there are no patients to choose by; set it above 0")
    for arm in arms:
        if not patients_of_part(arm, task, data, "validation"):
            raise InputError(f"--tune: arm {arm.name} has no validation patient; set split.validation higher")


def choose(
    arm: Arm,
    candidates: Sequence[Arm],
    task: Task,
    data: Mapping[str, SiteData],
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Judge an arm's trained candidates on its validation patients and make the best one's run the arm's own.

    Returns ``chosen`` (1 for the configured setting), ``rule`` and every trial. Raises AdamssError where all failed.
    """
    trials = [_trial(candidate, task, data, progress) for candidate in candidates]
    if all(trial.failed for trial in trials):
        raise AdamssError(f"arm {arm.name}: none of {len(trials)} settings could be trained; lower the learning rates")
    scores = [trial.c_index for trial in trials]
    if all(score is None for score in scores):
        place = next(place for place, trial in enumerate(trials) if not trial.failed)
    else:
        place = best_of(scores)
    adopt(candidates[place].folder, arm.folder, {"setting": place + 1})
    return {
        "chosen": place + 1,
        "rule": "best C-index on the arm's validation patients, the first of equal ones",
        "validation_patients": len(patients_of_part(arm, task, data, "validation")),
        "settings": [trial.plain() for trial in trials],
    }


def _trial(candidate: Arm, task: Task, data: Mapping[str, SiteData], progress: Progress | None) -> Trial:
    factors = candidate.factors or ()
    if (candidate.folder / DIVERGED).exists():
        return Trial(factors, None, failed=True)
    found = kept_predictions(candidate, task, data, progress, "validation")
    counts = concordance_counts(found.time_days, found.event, found.risk)
    pairs = counts.comparable_pairs
    return Trial(factors, counts.c_index if pairs else None, pairs)
