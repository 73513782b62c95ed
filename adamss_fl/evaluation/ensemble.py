"""Several models' predictions of the same patients as one: the mean of their survival curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from adamss_fl.errors import InputError
from adamss_fl.evaluation.predictions import Predictions
from adamss_fl.survival import average_curves, read_at_edges, restricted_mean


def on_edges(model: Predictions, edges_days: NDArray[np.float64]) -> Predictions:
    """The same predictions read at other edges (M + 1,), from 0 to no later than the model's own last edge.

    Curves are linear between a model's own edges. The risk becomes minus the restricted mean survival time on the new
    edges (``survival.restricted_mean``), so that risks of several models count the same days. Raises InputError where
    the edges reach past the model's last.
    """
    curves = read_at_edges(model.survival, model.edges_days, edges_days)
    return replace(model, survival=curves, edges_days=edges_days, risk=-restricted_mean(curves, edges_days))


def average(models: Sequence[Predictions]) -> Predictions:
    """The ensemble of models that saw the same patients in the same order.

    Survival curves are averaged (``survival.average_curves``); the risk is minus the restricted mean survival time of
    the averaged curve. No ensemble mask is formed, since predictions hold counts of voxels and no maps: ``overlap`` is
    the sum over the models, so that a DSC computed from it is that of all the models' own masks together.

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
        overlap=np.sum([model.overlap for model in models], axis=0),
    )
