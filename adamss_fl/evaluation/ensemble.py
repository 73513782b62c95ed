"""Several models' predictions of the same patients as one: the mean of their survival curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from adamss_fl.errors import InputError
from adamss_fl.evaluation.predictions import Predictions
from adamss_fl.survival import survival_at


def common_edges(models: Sequence[Predictions]) -> NDArray[np.float64]:
    """Days (M + 1,) on which all models can be read: the union of their edges, up to the last day that all reach.

    Models have edges of their own where these are quantiles of each one's training events. No curve is carried past
    its own last edge, so the shortest one decides where the common grid ends.
    """
    end = min(float(model.edges_days[-1]) for model in models)
    edges = np.unique(np.concatenate([np.asarray(model.edges_days, dtype=np.float64) for model in models]))
    return np.asarray(edges[edges <= end])


def on_edges(model: Predictions, edges_days: NDArray[np.float64]) -> Predictions:
    """The same predictions read at other edges (M + 1,), from 0 to no later than the model's own last edge.

    Curves are linear between a model's own edges (see ``survival.survival_at``). The risk becomes minus the restricted
    mean survival time on the new edges, sum_m S(upper edge_m) * width_m, so that risks of several models count the same
    days. Raises InputError where the edges reach past the model's last.
    """
    curves = np.stack([survival_at(model.survival, model.edges_days, day) for day in edges_days[1:]], axis=1)
    return replace(model, survival=curves, edges_days=edges_days, risk=-(curves @ np.diff(edges_days)))


def average(models: Sequence[Predictions]) -> Predictions:
    """The ensemble of models that saw the same patients in the same order.

    Survival curves are averaged on :func:`common_edges`; the risk is minus the restricted mean survival time of the
    averaged curve. No ensemble mask is formed, since predictions hold counts of voxels and no maps: ``overlap`` is the
    sum over the models, so that a DSC computed from it is that of all the models' own masks together.

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
    edges = common_edges(models)
    curves = np.mean([on_edges(model, edges).survival for model in models], axis=0)
    return replace(
        first,
        survival=curves,
        edges_days=edges,
        risk=-(curves @ np.diff(edges)),
        overlap=np.sum([model.overlap for model in models], axis=0),
    )
