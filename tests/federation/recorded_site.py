"""A site that remembers what reached it, and a guard in front of it, for tests of the guard."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from synthetic import make_data, make_task

from adamss_fl.federation.guard.guarded_site import GuardedSite
from adamss_fl.federation.guard.policy import Policy
from adamss_fl.federation.guard.site_folder import SiteFolder
from adamss_fl.federation.messages import Instruction, Reply, SiteFailure, Weights
from adamss_fl.federation.run import initial_weights

TASK = make_task()
WEIGHTS = initial_weights(TASK)
DEFAULTS = Policy()
NOON = datetime(2026, 11, 24, 12)
DESCRIBED = {
    "version": "1",
    "architecture": "x",
    "patients": {"train": 6, "validation": 5, "test": 8},
    "events": {"train": 3, "validation": 4, "test": 2},
    "inputs": {"suv_max": [6, 1.0, 2.0]},
}
ANSWERS: dict[str, dict[str, Any]] = {
    "describe": DESCRIBED,
    "statistics": {"sums": {"columns": []}},
    "train": {"patients": 6, "steps": 2},
    "evaluate": {"patients": 8, "masked": 8, "events": 2},
}


class Recorder:
    """A site that answers what it is told to, and remembers what reached it."""

    name = "a"
    local_names: frozenset[str] = frozenset()

    def __init__(self, figures: Mapping[str, Any] | None = None, weights: Weights | None = None) -> None:
        self.task = TASK
        self.data = make_data("a", train=6)
        self.figures = figures
        self.weights = weights
        self.reached: list[Instruction] = []
        self.failure: Exception | None = None

    def handle(self, told: Instruction) -> Reply:
        self.reached.append(told)
        if self.failure is not None:
            raise self.failure
        figures = ANSWERS[told.kind] if self.figures is None else self.figures
        return Reply(told.kind, self.name, told.run, told.round, told.attempt, figures, self.weights)


def ask(kind: str, weights: Weights | None = None, **order: Any) -> Instruction:
    return Instruction(kind, "run", 3, 2, order, weights)  # type: ignore[arg-type]


TRAIN = ask("train", {"w": np.zeros(3, np.float32)}, stages=["survival"])


def behind(behind_it: Any, folder: Path, policy: Policy = DEFAULTS, standing: Any = None) -> GuardedSite:
    home = SiteFolder(folder)
    return GuardedSite(behind_it, lambda: (policy, standing), home.audit, home.log, lambda: NOON)


def code_of(door: GuardedSite, instruction: Instruction = TRAIN) -> str:
    """The code of the refusal, empty where there is an answer."""
    try:
        door.handle(instruction)
    except SiteFailure as failure:
        return failure.code
    return ""
