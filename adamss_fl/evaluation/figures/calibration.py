"""Calibration at a horizon: predicted against observed survival."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from adamss_fl.evaluation.figures.style import QUIET, drawing, new_figure, to_svg
from adamss_fl.survival import CalibrationGroup, calibration, survival_at

if TYPE_CHECKING:
    from adamss_fl.evaluation.predictions import Predictions

_YEAR = 365.25


def calibration_horizon(found: Predictions) -> float:
    """Days: the longest of 5, 3, 2 and 1 years inside the grid with a quarter of the patients still followed.

    Where there is none, the median follow-up (at most the grid's last edge).
    """
    for years in (5, 3, 2, 1):
        days = years * _YEAR
        if days <= found.edges_days[-1] and np.mean(found.time_days >= days) >= 0.25:
            return days
    return float(min(np.median(found.time_days), found.edges_days[-1]))


def calibration_figure(arms: Sequence[tuple[str, str, Predictions]], horizon_days: float) -> str | None:
    """Groups of predicted survival against Kaplan-Meier; None where no group is followed to the horizon. SVG text.

    arms : (label, colour, predictions). Two groups under 45 patients, three under 100, else four.
    """
    drawn = []
    for label, colour, found in arms:
        predicted = np.clip(survival_at(found.survival, found.edges_days, horizon_days), 0.0, 1.0)
        size = found.time_days.size
        groups = calibration(
            found.time_days, found.event, predicted, horizon_days, 2 if size < 45 else 3 + (size >= 100)
        )
        drawn.append((label, colour, groups))
    return calibration_groups_figure(drawn, describe_days(horizon_days))


def calibration_groups_figure(arms: Sequence[tuple[str, str, Sequence[CalibrationGroup]]], horizon: str) -> str | None:
    """Groups as they are, (label, colour, groups) an arm, at a ``horizon`` in words. SVG text.

    None where no group has an observed survival.
    """
    drawn = [
        (label, colour, [group for group in groups if group.observed is not None]) for label, colour, groups in arms
    ]
    if not any(groups for _, _, groups in drawn):
        return None
    with drawing():
        figure = new_figure(4.2, 5.4)
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color=QUIET, linewidth=1.1, linestyle=(0, (4, 3)), label="perfect calibration")
        for place, (label, colour, followed) in enumerate(drawn):
            if not followed:
                continue
            observed = np.array([[group.observed, group.low, group.high] for group in followed], dtype=float)
            axes.errorbar(
                [group.predicted for group in followed],
                observed[:, 0],
                yerr=np.maximum([observed[:, 0] - observed[:, 1], observed[:, 2] - observed[:, 0]], 0.0),
                color=colour,
                marker="so^"[place % 3],
                markersize=6,
                linewidth=1.3,
                capsize=3,
                label=label,
            )
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        axes.set_aspect("equal")
        axes.set_xlabel("predicted survival")
        axes.set_ylabel("observed survival (Kaplan-Meier, 95 %)")
        axes.set_title(f"At {horizon}")
        axes.legend(loc="upper left")
        return to_svg(figure)


def describe_days(days: float) -> str:
    """``2 years`` where it is a whole number of them, else days."""
    years = days / _YEAR
    if abs(years - round(years)) < 1e-6:
        return f"{round(years)} year{'s' if round(years) != 1 else ''}"
    return f"{days:.0f} days"
