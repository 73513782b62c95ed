"""Survival in discrete time: grid and likelihood, concordance with its intervals, curves, calibration, screening."""

from adamss_fl.survival.averaging import average_curves, common_edges, read_at_edges, restricted_mean
from adamss_fl.survival.bootstrap import (
    Difference,
    Interval,
    bootstrap_interval,
    paired_difference,
    pooled_difference,
    pooled_interval,
)
from adamss_fl.survival.calibration import CalibrationGroup, calibration, survival_at
from adamss_fl.survival.concordance import (
    Concordance,
    NoComparablePairs,
    PairsOfEvents,
    concordance,
    concordance_counts,
    pairs_of_events,
)
from adamss_fl.survival.curves import KaplanMeier, LogRank, kaplan_meier, logrank, risk_groups
from adamss_fl.survival.grid import TimeGrid
from adamss_fl.survival.likelihood import discrete_likelihood
from adamss_fl.survival.screening import CoxSums, UnivariateCox, coarse_edges, cox_sums, univariate_cox

__all__ = [
    "CalibrationGroup",
    "Concordance",
    "CoxSums",
    "Difference",
    "Interval",
    "KaplanMeier",
    "LogRank",
    "NoComparablePairs",
    "PairsOfEvents",
    "TimeGrid",
    "UnivariateCox",
    "average_curves",
    "bootstrap_interval",
    "calibration",
    "coarse_edges",
    "common_edges",
    "concordance",
    "concordance_counts",
    "cox_sums",
    "discrete_likelihood",
    "kaplan_meier",
    "logrank",
    "paired_difference",
    "pairs_of_events",
    "pooled_difference",
    "pooled_interval",
    "read_at_edges",
    "restricted_mean",
    "risk_groups",
    "survival_at",
    "univariate_cox",
]
