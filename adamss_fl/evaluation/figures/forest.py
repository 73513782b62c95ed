"""Forest plot: the C-index of every arm, or differences of C-indices, with 95 % intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adamss_fl.evaluation.figures.style import INK, QUIET, drawing, new_figure, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class ForestRow:
    """One line of the plot; a row whose ``c_index`` (or difference) is None is named with its ``note`` instead."""

    label: str
    colour: str
    c_index: float | None
    low: float | None
    high: float | None
    note: str = ""


def forest_figure(rows: Sequence[ForestRow], oracle: float | None = None, *, differences: bool = False) -> str:
    """Rows from top to bottom, with lines at 0.5 (chance) and at the oracle's C-index where it is known. SVG text.

    differences : rows are differences of C-indices, and the line is at 0.
    """
    middle, meaning, least = (0.0, "no difference", -1.0) if differences else (0.5, "chance", 0.0)
    drawn = [value for row in rows for value in (row.c_index, row.low, row.high) if value is not None]
    known = [*drawn, middle] + ([oracle] if oracle is not None else [])
    left, right = max(least, min(known) - 0.02), min(1.0, max(known) + 0.02)
    with drawing():
        figure = new_figure(0.75 + 0.4 * len(rows))
        axes = figure.add_subplot()
        axes.axvline(middle, color=QUIET, linewidth=1.2, linestyle=(0, (2, 2)))
        axes.annotate(
            meaning,
            (middle, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            color=QUIET,
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=8.5,
        )
        if oracle is not None:
            axes.axvline(oracle, color="#B45309", linewidth=1.4, linestyle=(0, (5, 2)))
            axes.annotate(
                f"oracle {oracle:.3f}",
                (oracle, 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=8.5,
                color="#B45309",
            )
        for place, row in enumerate(rows):
            _draw_row(axes, place, row, "+.3f" if differences else ".3f")
        axes.set_yticks(range(len(rows)), [row.label for row in rows], fontsize=9.5)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(left, right)
        axes.set_xlabel(
            "Difference in C-index, with 95 % interval"
            if differences
            else "C-index on the same test patients, with 95 % interval"
        )
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        return to_svg(figure)


def _draw_row(axes: Axes, place: int, row: ForestRow, digits: str) -> None:
    from matplotlib.transforms import blended_transform_factory

    beside = blended_transform_factory(axes.transAxes, axes.transData)
    if row.c_index is None:
        axes.text(1.015, place, f"— {row.note}", transform=beside, va="center", color=QUIET)
        return
    text = f"{row.c_index:{digits}}"
    if row.low is not None and row.high is not None:
        axes.plot([row.low, row.high], [place, place], color=row.colour, linewidth=2.4, solid_capstyle="butt")
        text += f"  ({row.low:{digits}} to {row.high:{digits}})"
    axes.plot([row.c_index], [place], marker="s", markersize=8, color=row.colour, markeredgecolor="white")
    axes.text(1.015, place, text.replace("-", "\N{MINUS SIGN}"), transform=beside, va="center", color=INK)
