"""Survival in discrete time: the grid and its likelihood, concordance with its intervals, curves and calibration."""

from adamss_fl.survival.bootstrap import Difference, Interval, bootstrap_interval, paired_difference, pooled_difference
from adamss_fl.survival.calibration import CalibrationGroup, calibration, survival_at
from adamss_fl.survival.concordance import Concordance, NoComparablePairs, concordance, concordance_counts
from adamss_fl.survival.curves import KaplanMeier, LogRank, kaplan_meier, logrank, risk_groups
from adamss_fl.survival.grid import TimeGrid
from adamss_fl.survival.likelihood import discrete_likelihood

__all__ = [
    "CalibrationGroup",
    "Concordance",
    "Difference",
    "Interval",
    "KaplanMeier",
    "LogRank",
    "NoComparablePairs",
    "TimeGrid",
    "bootstrap_interval",
    "calibration",
    "concordance",
    "concordance_counts",
    "discrete_likelihood",
    "kaplan_meier",
    "logrank",
    "paired_difference",
    "pooled_difference",
    "risk_groups",
    "survival_at",
]
