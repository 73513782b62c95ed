"""Figures of predictions: C-index with interval and pairs, DSC per map, overall and per site."""

from dataclasses import asdict
from typing import Any

import numpy as np

from adamss_fl.evaluation.predictions import Predictions
from adamss_fl.federation.merging import MAPS, dsc_or_none
from adamss_fl.survival import NoComparablePairs, bootstrap_interval, concordance_counts
from adamss_fl.survival.calibration import calibration, survival_at


def score(predictions: Predictions, bootstrap: int, seed: int) -> dict[str, Any]:
    """Figures of one group of patients.

    Returns ``patients``, ``events``, ``c_index`` (None where no pair is comparable) with ``ci_low`` and ``ci_high``
    (95 %, percentile bootstrap over patients; None where no resample has a comparable pair), ``comparable_pairs`` and
    ``dsc`` {tumour, nodes} aggregated over the patients with a reference mask (None where nothing is in reference or
    prediction).
    """
    p = predictions
    figures: dict[str, Any] = {"patients": len(p.patient), "events": int(p.event.sum())}
    counts = concordance_counts(p.time_days, p.event, p.risk)
    pairs = counts.comparable_pairs
    figures.update(c_index=counts.c_index if pairs else None, ci_low=None, ci_high=None, comparable_pairs=pairs)
    try:
        interval = bootstrap_interval(p.time_days, p.event, p.risk, bootstrap, seed)
        figures.update(ci_low=interval.low, ci_high=interval.high)
    except NoComparablePairs:  # of the patients, or (with very few of them) of every resample
        pass
    summed = p.overlap[p.has_mask].sum(axis=0)
    figures["dsc"] = {name: dsc_or_none(summed[index]) for index, name in enumerate(MAPS)}
    return figures


def score_with_sites(predictions: Predictions, bootstrap: int, seed: int) -> dict[str, Any]:
    """:func:`score` of all patients, and under ``sites`` of each site's."""
    figures = score(predictions, bootstrap, seed)
    figures["sites"] = {
        str(site): score(predictions.subset(predictions.site == site), bootstrap, seed)
        for site in np.unique(predictions.site)
    }
    return figures


def calibration_figures(predictions: Predictions, groups: int) -> dict[str, Any] | None:
    """Predicted against observed (Kaplan-Meier) survival at the median event time, by groups of predicted survival.

    None where there is no event.
    """
    p = predictions
    if not p.event.any():
        return None
    horizon = float(min(np.median(p.time_days[p.event == 1]), p.edges_days[-1]))
    predicted = survival_at(p.survival, p.edges_days, horizon)
    found = calibration(p.time_days, p.event, predicted, horizon, groups)
    return {"horizon_days": horizon, "groups": [asdict(group) for group in found]}
