"""One patient's predicted survival curve."""

from __future__ import annotations

from collections.abc import Sequence

from adamss_fl.evaluation.figures.style import GRID, INK, QUIET, drawing, follow_up_ticks, new_figure, to_svg

_BLUE = "#0072B2"


def survival_curve_figure(
    patient: str,
    curve: tuple[Sequence[float], Sequence[float]],
    expected_days: float,
    members: Sequence[tuple[Sequence[float], Sequence[float]]] = (),
) -> str:
    """Probability of being event-free over time, linear between the edges of the time bins. SVG text.

    curve : (days, survival), both (T,). expected_days : restricted mean survival time up to the curve's last day.
    members : the curves of the models behind a mean, drawn thin where there is more than one.
    """
    days, survival = curve
    horizon = days[-1]
    ticks, labels, unit = follow_up_ticks(horizon)
    with drawing():
        figure = new_figure(4.0, 6.4)
        axes = figure.add_subplot()
        if len(members) > 1:
            for number, (times, values) in enumerate(members):
                label = f"each of the {len(members)} models" if number == 0 else None
                axes.plot(times, values, color=QUIET, linewidth=0.8, alpha=0.6, label=label)
        axes.plot(days, survival, color=_BLUE, linewidth=2.0, marker="o", markersize=3, label="predicted")
        axes.set_xlim(0, horizon)
        axes.set_ylim(0, 1.02)
        axes.set_xticks(ticks, labels)
        axes.set_xlabel(unit)
        axes.set_ylabel("probability of being event-free")
        axes.set_title(f"{patient}: restricted mean of {expected_days:.0f} in {horizon:.0f} days")
        axes.grid(color=GRID)
        if len(members) > 1:
            axes.legend(loc="lower left")
        figure.supxlabel("For research only. Not a medical device.", fontsize=8, color=INK, x=0.01, ha="left")
        return to_svg(figure)
