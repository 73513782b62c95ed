"""How good predictions are at each time of follow-up: Brier score with its reference, and AUC with bounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from adamss_fl.evaluation.figures.style import QUIET, drawing, follow_up_ticks, new_figure, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MODEL = "#0072B2"
Series = Sequence[float | None]


def prediction_error_figure(times_days: Series, score: Series, reference: Series, ipa: Series) -> str | None:
    """Brier score of the model and of the marginal Kaplan-Meier curve, and beside them IPA. SVG text.

    All (T,); a value of None leaves a gap. None where no time has both scores.
    """
    times, model, marginal, gain = (_floats(each) for each in (times_days, score, reference, ipa))
    if not np.isfinite(times + model + marginal).any():
        return None
    with drawing():
        figure = new_figure(3.6)
        scores, gains = figure.subplots(1, 2)
        scores.plot(times, marginal, color=QUIET, linestyle=(0, (4, 3)), label="same curve for everyone (Kaplan-Meier)")
        scores.plot(times, model, color=_MODEL, marker="o", markersize=3, label="model")
        scores.set_ylim(0, 1.25 * float(np.nanmax(np.concatenate([model, marginal]))))
        scores.set_title("Brier score (lower is better)")
        scores.legend(loc="lower right")
        gains.axhline(0, color=QUIET, linewidth=1.1, linestyle=(0, (4, 3)))
        gains.plot(times, gain, color=_MODEL, marker="o", markersize=3)
        if not np.isfinite(gain).any():
            gains.text(0.5, 0.5, "the reference makes no error", transform=gains.transAxes, ha="center", color=QUIET)
        gains.set_title("IPA: share of the reference’s error that is saved")
        for axes in (scores, gains):
            _follow_up_axis(axes, times)
        return to_svg(figure)


def auc_figure(times_days: Series, auc: Series, low: Series, high: Series) -> str | None:
    """AUC over time with the bounds that it certainly lies in. SVG text; None where no time has an AUC. All (T,)."""
    times, middle, lower, upper = (_floats(each) for each in (times_days, auc, low, high))
    if not np.isfinite(times + middle).any():
        return None
    with drawing():
        figure = new_figure(3.8, 5.4)
        axes = figure.add_subplot()
        axes.axhline(0.5, color=QUIET, linewidth=1.1, linestyle=(0, (4, 3)), label="chance")
        axes.fill_between(times, lower, upper, color=_MODEL, alpha=0.2, linewidth=0, label="guaranteed bounds")
        axes.vlines(times, lower, upper, color=_MODEL, alpha=0.35, linewidth=1.2)
        axes.plot(times, middle, color=_MODEL, marker="o", markersize=3.5, label="model")
        least = float(np.nanmin(np.concatenate([lower, middle])))
        axes.set_ylim(max(0.0, min(0.4, least - 0.05)), 1.02)
        axes.set_ylabel("AUC")
        axes.legend(loc="upper right", ncols=3)
        _follow_up_axis(axes, times)
        return to_svg(figure)


def _floats(series: Series) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in series], dtype=np.float64)


def _follow_up_axis(axes: Axes, times: NDArray[np.float64]) -> None:
    longest = float(np.nanmax(times))
    ticks, labels, unit = follow_up_ticks(longest)
    axes.set_xticks(ticks, labels)
    axes.set_xlim(0, 1.02 * longest)
    axes.set_xlabel(unit)
