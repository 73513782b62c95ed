"""A finished run, loaded: its configuration, task and weights, and the models that they make."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from adamss_fl.errors import InputError
from adamss_fl.federation.messages import Weights
from adamss_fl.federation.run import final_weights
from adamss_fl.federation.task import Task
from adamss_fl.model import AdaMSS, load_weights, prepare
from adamss_fl.training.tensors import device_of


@dataclass(frozen=True)
class TrainedRun:
    """What lies in a finished run's folder; ``config`` is its RunConfig."""

    folder: Path
    config: Any
    task: Task
    survival_weights: Weights
    segmentation_weights: Weights
    edges_days: tuple[float, ...]
    encoding: Any
    state: Mapping[str, Any]

    def model(self, stage: Literal["segmentation", "survival"]) -> AdaMSS:
        """The network with the weights of ``stage``, on the run's device and in evaluation mode."""
        model = prepare(AdaMSS(self.task.model), device_of(self.task.runtime), self.task.runtime.channels_last)
        load_weights(model, self.segmentation_weights if stage == "segmentation" else self.survival_weights)
        return model.eval()


def load_run(run: Path) -> TrainedRun:
    """Load a finished run. Raises InputError where ``run`` holds none."""
    path = run / "config.yaml"
    if not path.exists():
        raise InputError(f"{run}: holds no run (config.yaml is missing); give the folder of a finished run")
    config = importlib.import_module("adamss_fl.config").load_config(path)
    task = importlib.import_module("adamss_fl.assembly").task_of(config)
    survival, segmentation, state = final_weights(run)
    return TrainedRun(
        run, config, task, survival, segmentation, tuple(state["edges_days"]), state.get("tabular"), state
    )
