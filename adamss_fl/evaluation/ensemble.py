"""Several models' predictions of the same patients as one: the mean of their survival curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adamss_fl.errors import InputError
from adamss_fl.evaluation.predictions import Predictions, predict
from adamss_fl.federation.messages import Weights
from adamss_fl.federation.site import Progress
from adamss_fl.federation.task import Task
from adamss_fl.imaging import Sample
from adamss_fl.model import AdaMSS, load_weights, prepare
from adamss_fl.survival import average_curves, read_at_edges, restricted_mean
from adamss_fl.training import ensemble_overlap
from adamss_fl.training.tensors import device_of


@dataclass(frozen=True)
class EnsembleMember:
    """One model of an ensemble: a finished run's task, weights of both stages, state, and folder of radiomics features.

    See ``federation.run.final_weights``; ``state`` holds the edges of the time bins and the tabular encoding.
    """

    task: Task
    survival_weights: Weights
    segmentation_weights: Weights
    state: Mapping[str, Any]
    features: Path

    def predict(self, samples: Sequence[Sample]) -> Predictions:
        """This model alone on ``samples``."""
        edges, tabular = self.state["edges_days"], self.state.get("tabular")
        weights = self.survival_weights, self.segmentation_weights
        return predict(self.task, *weights, samples, edges, tabular=tabular, features=self.features)

    def segmenting(self) -> AdaMSS:
        """The network as it was last trained to segment."""
        runtime = self.task.runtime
        network = AdaMSS(self.task.network(self.state.get("tabular")))
        model = prepare(network, device_of(runtime), runtime.channels_last)
        load_weights(model, self.segmentation_weights)
        return model


def predict_together(
    members: Sequence[EnsembleMember], samples: Sequence[Sample], progress: Progress | None = None
) -> tuple[list[Predictions], Predictions]:
    """Every model on ``samples``, and all of them as one; one model alone is its own ensemble."""
    found = []
    for number, member in enumerate(members, start=1):
        found.append(member.predict(samples))
        if progress is not None:
            progress("predictions of every model", number, len(members))
    if len(found) == 1:
        return found, found[0]
    on_batch = None if progress is None else partial(progress, "masks of all models together")
    overlap = ensemble_overlap([m.segmenting() for m in members], samples, members[0].task.runtime, on_batch=on_batch)
    return found, average(found, overlap)


def on_edges(model: Predictions, edges_days: NDArray[np.float64]) -> Predictions:
    """The same predictions read at other edges (M + 1,), from 0 to no later than the model's own last edge.

    Curves are linear between a model's own edges. The risk becomes minus the restricted mean survival time on the new
    edges (``survival.restricted_mean``), so that risks of several models count the same days. Raises InputError where
    the edges reach past the model's last.
    """
    curves = read_at_edges(model.survival, model.edges_days, edges_days)
    return replace(model, survival=curves, edges_days=edges_days, risk=-restricted_mean(curves, edges_days))


def average(models: Sequence[Predictions], overlap: NDArray[np.int64]) -> Predictions:
    """The ensemble of models that saw the same patients in the same order.

    overlap : (N, 2, 3) of the masks of the averaged probabilities, see ``training.ensemble_overlap``.

    Survival curves are averaged (``survival.average_curves``); the risk is minus the restricted mean survival time of
    the averaged curve.

    Raises InputError where no model is given, or patients or outcomes differ.
    """
    if not models:
        raise InputError("ensemble: no model; give at least one")
    first = models[0]
    for number, other in enumerate(models[1:], start=2):
        for name in ("patient", "site", "time_days", "event", "has_mask"):
            if not np.array_equal(getattr(first, name), getattr(other, name)):
                raise InputError(
                    f"ensemble: models 1 and {number} differ in {name} of their patients; "
                    "predict the same patients, in one order, with each model"
                )
    curves, edges = average_curves([model.survival for model in models], [model.edges_days for model in models])
    return replace(
        first,
        survival=curves,
        edges_days=edges,
        risk=-restricted_mean(curves, edges),
        overlap=overlap,
    )
