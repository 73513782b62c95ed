"""A finished run as what it is afterwards: a model, with the settings and the facts that go with it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from adamss_fl.config import load_config, task_of
from adamss_fl.errors import InputError
from adamss_fl.federation.finished_run import final_rounds, final_weights
from adamss_fl.federation.messages import Weights
from adamss_fl.federation.task import Task
from adamss_fl.model import AdaMSS, load_weights, misfits, prepare
from adamss_fl.radiomics.encoding import TabularEncoding
from adamss_fl.run_config import RunConfig
from adamss_fl.training.tensors import device_of

StageName = Literal["segmentation", "survival"]


@dataclass(frozen=True)
class TrainedRun:
    """A finished run.

    task : as the run was trained, with the length of its tabular vector in ``task.model``.
    survival_weights : of the round that the run gives, see ``final_weights``; segmentation_weights : of the last one
    up to it that trained segmentation.
    edges_days : (K + 1,) edges of the time bins. encoding : None where the model sees images alone.
    state : what the last checkpoint keeps beside the weights.
    """

    folder: Path
    config: RunConfig
    task: Task
    survival_weights: Weights
    segmentation_weights: Weights
    edges_days: tuple[float, ...]
    encoding: TabularEncoding | None
    state: Mapping[str, Any]

    def model(self, stage: StageName) -> AdaMSS:
        """The network of one stage, on the run's device and in evaluation mode."""
        runtime = self.task.runtime
        model = prepare(AdaMSS(self.task.model), device_of(runtime), runtime.channels_last)
        load_weights(model, self.survival_weights if stage == "survival" else self.segmentation_weights)
        return model.eval()

    def digests(self) -> dict[StageName, str]:
        """SHA-256 (hex) of the weights' file of each stage, as its checkpoint keeps it."""
        last, segmenting = final_rounds(self.folder)
        return {"segmentation": _digest(self.folder, segmenting), "survival": _digest(self.folder, last)}


def load_run(run: Path) -> TrainedRun:
    """Read a finished run.

    Raises InputError with one line where ``run`` holds no run or an unfinished one, its configuration or a checkpoint
    cannot be read, the weights are not those of its configuration (every tensor that differs is named), or parts of
    the model stay at the run's sites.
    """
    path = run / "config.yaml"
    if not path.is_file():
        raise InputError(f"{run}: holds no run (config.yaml is missing); give the folder of a finished run")
    config = load_config(path)
    if any(rule.name == "local" for rule in config.federation.groups.values()):
        raise InputError(f"{run}: parts of this model stay at its sites, so there is no model for other patients")
    survival, segmentation, state = final_weights(run)
    try:
        edges_days = tuple(float(edge) for edge in state["edges_days"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{run}: its last checkpoint holds no time bins; train it again") from error
    plain = state.get("tabular")
    encoding = None if plain is None else TabularEncoding.from_plain(plain)
    task = task_of(config)
    if encoding is not None:
        task = replace(task, model=replace(task.model, tabular=encoding.length))
    for weights in (survival,) if segmentation is survival else (survival, segmentation):
        found = misfits(task.model, weights)
        if found:
            raise InputError(
                f"{run}: the checkpoint is not of the model in config.yaml, {len(found)} tensors differ: "
                f"{'; '.join(found)}; restore the run's own files"
            )
    return TrainedRun(run, config, task, survival, segmentation, edges_days, encoding, state)


def load_folds(run: Path) -> tuple[TrainedRun, ...]:
    """The runs that predict together: every fold of a cross-validated run (``RUN/folds/fold-*``), else the run itself.

    Raises InputError as :func:`load_run` does, where a fold is still to be trained, and where the folds do not share
    their imaging and tabular settings.
    """
    folders = sorted((run / "folds").glob("fold-*"), key=lambda path: (len(path.name), path.name))
    if not folders:
        return (load_run(run),)
    if not (run / "metrics.json").is_file():
        raise InputError(f"{run}: its cross-validation is not finished (metrics.json is missing); finish it first")
    folds = tuple(load_run(folder) for folder in folders)
    first = folds[0].task
    for fold in folds[1:]:
        if fold.task.imaging != first.imaging or fold.task.tabular != first.tabular:
            raise InputError(f"{fold.folder}: imaging or tabular settings are not those of {folds[0].folder.name}")
    return folds


def _digest(run: Path, round: int) -> str:
    state = json.loads((run / "checkpoints" / f"round-{round:04d}" / "state.json").read_bytes())
    return str(state["sha256"]["model.safetensors"])
