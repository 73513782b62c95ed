"""Kaplan-Meier curves by predicted risk group, with log-rank test and numbers at risk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from adamss_fl.errors import InputError
from adamss_fl.evaluation.figures.style import QUIET, RISK_GROUPS, drawing, follow_up_ticks, new_figure, to_svg
from adamss_fl.survival import KaplanMeier, kaplan_meier, logrank, risk_groups

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from adamss_fl.evaluation.predictions import Predictions


@dataclass(frozen=True)
class _Group:
    label: str
    colour: str
    curve: KaplanMeier


def kaplan_meier_figure(
    arms: Sequence[tuple[str, Predictions]], groups: int = 2, labels: Sequence[NDArray[np.int64]] | None = None
) -> str:
    """One panel an arm, given as (title, predictions); patients are cut at quantiles of the arm's own risk. SVG text.

    groups : number of groups of equal size; two are cut at the median risk.
    labels : each arm's group (N,) of every patient, 0 the lowest risk, where they were cut otherwise.
    """
    cut = [risk_groups(found.risk, groups) for _, found in arms] if labels is None else labels
    longest = max(float(found.time_days.max()) for _, found in arms)
    with drawing():
        figure = new_figure(3.9 + 0.2 * groups)
        columns = figure.subplots(
            2, len(arms), squeeze=False, gridspec_kw={"height_ratios": [3.2, 0.3 * groups + 0.15]}, sharex="col"
        )
        for column, ((title, found), label) in enumerate(zip(arms, cut, strict=True)):
            members = _groups(found, label, groups)
            _draw_curves(columns[0, column], members, f"{title} · {_test(found, label)}", longest)
            _draw_at_risk(columns[1, column], members, longest)
        columns[0, 0].set_ylabel("event-free share of patients")
        return to_svg(figure)


def curves_figure(title: str, curves: Sequence[tuple[str, str, KaplanMeier]]) -> str:
    """One panel of ready curves, (label, colour, curve) each, with numbers at risk. SVG text."""
    members = [_Group(*each) for each in curves]
    longest = 1.005 * max(float(group.curve.observed_days[-1]) for group in members)
    with drawing():
        figure = new_figure(3.9 + 0.2 * len(members))
        above, below = figure.subplots(
            2, 1, gridspec_kw={"height_ratios": [3.2, 0.3 * len(members) + 0.15]}, sharex="col"
        )
        _draw_curves(above, members, title, longest)
        _draw_at_risk(below, members, longest)
        above.set_ylabel("event-free share of patients")
        return to_svg(figure)


def _groups(found: Predictions, label: NDArray[np.int64], groups: int) -> list[_Group]:
    names = {2: ("low risk", "high risk"), 3: ("low risk", "middle", "high risk")}.get(
        groups, tuple(f"group {k + 1} of {groups}" for k in range(groups))
    )
    return [
        _Group(
            names[group],
            RISK_GROUPS[group % len(RISK_GROUPS)],
            kaplan_meier(found.time_days[label == group], found.event[label == group]),
        )
        for group in range(groups)
        if (label == group).any()
    ]


def _test(found: Predictions, label: NDArray[np.int64]) -> str:
    try:
        test = logrank(*((found.time_days[label == g], found.event[label == g]) for g in np.unique(label)))
    except InputError as error:
        return str(error).partition(";")[0]
    p = "p < 0.001" if test.p_value < 0.001 else f"p = {test.p_value:.3f}"
    return f"log-rank {p}"


def _draw_curves(axes: Axes, members: Sequence[_Group], title: str, longest: float) -> None:
    for group in members:
        curve = group.curve
        times = np.append(curve.times, curve.observed_days[-1])
        low, high = (np.append(bound, bound[-1]) for bound in (curve.ci_low, curve.ci_high))
        axes.fill_between(times, low, high, step="post", color=group.colour, alpha=0.15, linewidth=0)
        axes.step(
            times, np.append(curve.survival, curve.survival[-1]), where="post", color=group.colour, label=group.label
        )
    axes.set_title(title)
    axes.set_xlim(0, longest)
    axes.set_ylim(0, 1.02)
    axes.legend(loc="lower left")
    axes.tick_params(axis="x", labelbottom=True)


def _draw_at_risk(axes: Axes, members: Sequence[_Group], longest: float) -> None:
    ticks, labels, unit = follow_up_ticks(longest)
    axes.set_xticks(ticks, labels)
    axes.set_ylim(len(members) - 0.5, -1.2)
    axes.set_yticks(range(len(members)), [group.label for group in members])
    for text, group in zip(axes.get_yticklabels(), members, strict=True):
        text.set_color(group.colour)
    for place, group in enumerate(members):
        for tick, count in zip(ticks, group.curve.at_risk(ticks), strict=True):
            axes.text(tick, place, str(count), ha="center", va="center", fontsize=8.5)
    axes.text(0, -0.95, "patients at risk", va="center", fontsize=8.5, color=QUIET)
    axes.grid(visible=False)
    axes.tick_params(length=0, labelbottom=False)
    axes.tick_params(axis="y", pad=16)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xlabel(unit)
