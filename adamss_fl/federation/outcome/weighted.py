"""Figures that weigh patients by the censoring curve of all sites: Uno's C, Brier score, AUC and calibration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import reduce
from operator import add
from typing import Any

import numpy as np

from adamss_fl.errors import InputError
from adamss_fl.federation.outcome.queries import risk_edges
from adamss_fl.federation.outcome.table import RESAMPLED_BINS, Table
from adamss_fl.federation.questions import Ask
from adamss_fl.federation.statistics.auc import AucSums, dynamic_auc
from adamss_fl.federation.statistics.calibration import CalibrationSums, calibration_curve
from adamss_fl.federation.statistics.concordance import ConcordanceSums, all_pairs
from adamss_fl.federation.statistics.d_calibration import DCalibrationSums, d_calibration
from adamss_fl.federation.statistics.prediction_error import BrierSums, brier_score
from adamss_fl.federation.statistics.survival_counts import SurvivalCounts
from adamss_fl.federation.statistics.survival_curves import censoring_curve, grid_kaplan_meier

LEAST_CENSORING_SURVIVAL = 0.1
"""Weighted figures end where fewer are still uncensored: a weight of 10 hangs on few patients."""
SURVIVAL_CUTS = (0.2, 0.4, 0.6, 0.8)
D_CALIBRATION_BINS = (10, 5)
"""Of the test; fewer where a minimum cell count has made the table coarse."""
NAMES = ("uno", "brier", "auc", "calibration", "d_calibration")

Maker = tuple[Callable[[Any, int], Any], Callable[[Any], Any]]
"""Reads one site's sums (what it sent, its patients), and makes the public result of their sum."""


def weighted_figures(
    ask: Ask, table: Table, everyone: SurvivalCounts, longest_predicted_days: float
) -> dict[str, dict[str, Any]]:
    """The figures by name, each JSON-able; ``reason`` where there is none, ``left_out`` for sites without a part in it.

    everyone : survival counts of all patients on the table's time grid. Calibration is that at the middle of the
    evaluation times.
    """
    curve, marginal = censoring_curve(everyone), grid_kaplan_meier(everyone)
    ends = [
        float(edge)
        for edge, followed, survival in zip(curve.times, marginal.at_risk, curve.survival, strict=False)
        if 0 < edge <= longest_predicted_days and survival >= LEAST_CENSORING_SURVIVAL and followed
    ]
    if not ends:
        return {name: {"reason": "no time on the grid until which enough patients are followed"} for name in NAMES}
    times = ends[:: max(1, len(ends) // RESAMPLED_BINS)]
    grid_days = [edge for edge in everyone.edges_days if edge <= times[len(times) // 2]]
    time_edges, day_edges = table.grid.levels[table.level]
    fractions = D_CALIBRATION_BINS[0 if table.is_finest else 1]
    query = {
        "query": "prediction_error",
        "curve": curve.plain(),
        "times_days": times,
        "grid_days": grid_days,
        "cuts": list(SURVIVAL_CUTS),
        "bins": fractions,
        "tau_days": ends[-1],
        "edges": [list(time_edges), list(day_edges)],
    }
    answers = {reply.site: reply.figures for reply in ask(query) if reply.site in table.own}
    observed = [found[0] if (found := marginal.at(day)) is not None else 0.0 for day in times]
    bins, cuts = table.grid.bins(table.level), risk_edges(day_edges)
    makers: dict[str, Maker] = {
        "uno": (
            lambda got, patients: ConcordanceSums.from_plain(got, bins, patients),
            lambda sums: {**asdict(all_pairs(sums)), "tau_days": ends[-1]},
        ),
        "brier": (
            lambda got, patients: BrierSums.from_plain(got, times, curve, patients),
            lambda sums: listed(brier_score(sums, observed)),
        ),
        "auc": (
            lambda got, patients: AucSums.from_plain(got, times, cuts, curve, patients),
            lambda sums: listed(dynamic_auc(sums, observed)),
        ),
        "calibration": (
            lambda got, patients: CalibrationSums.from_plain(got, SURVIVAL_CUTS, grid_days, patients),
            lambda sums: listed(calibration_curve(sums)),
        ),
        "d_calibration": (
            lambda got, patients: DCalibrationSums.from_plain(got, fractions, patients),
            lambda sums: listed(d_calibration(sums)),
        ),
    }
    patients = {site: sums.patients for site, sums in table.own.items()}
    return {name: _figure(name, maker, answers, patients) for name, maker in makers.items()}


def _figure(
    name: str, maker: Maker, answers: Mapping[str, Mapping[str, Any]], patients: Mapping[str, int]
) -> dict[str, Any]:
    """One figure from what the sites sent of it."""
    read, make = maker
    parts: list[Any] = []
    left_out: dict[str, str] = {}
    for site, expected in patients.items():
        given = answers.get(site, {}).get(name)
        if given is None:
            left_out[site] = "no answer" if site not in answers else "fewer patients than its minimum cell count"
            continue
        try:
            parts.append(read(given, expected))
        except InputError as error:
            left_out[site] = str(error)
    found = or_reason(lambda: make(reduce(add, parts))) if parts else {"reason": "no site has an answer that counts"}
    return {**found, "left_out": left_out} if left_out else found


def listed(figure: Any) -> dict[str, Any]:
    """A result's dataclass as a JSON-able mapping."""
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in asdict(figure).items()}


def or_reason(make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The figure, or the reason why there is none."""
    try:
        return make()
    except InputError as error:
        return {"reason": str(error)}
