"""Forest plot: the C-index of every arm with its 95 % interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adamss_fl.evaluation.figures.style import INK, QUIET, drawing, new_figure, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class ForestRow:
    """One line of the plot; a row whose ``c_index`` is None is named with its ``note`` instead of a point."""

    label: str
    colour: str
    c_index: float | None
    low: float | None
    high: float | None
    note: str = ""


def forest_figure(rows: Sequence[ForestRow], oracle: float | None = None) -> str:
    """Rows from top to bottom, with lines at 0.5 (chance) and at the oracle's C-index where it is known. SVG text."""
    drawn = [value for row in rows for value in (row.c_index, row.low, row.high) if value is not None]
    known = [*drawn, 0.5] + ([oracle] if oracle is not None else [])
    left, right = max(0.0, min(known) - 0.02), min(1.0, max(known) + 0.02)
    with drawing():
        figure = new_figure(0.75 + 0.4 * len(rows))
        axes = figure.add_subplot()
        axes.axvline(0.5, color=QUIET, linewidth=1.2, linestyle=(0, (2, 2)))
        axes.annotate(
            "chance",
            (0.5, 1.0),
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
            _draw_row(axes, place, row)
        axes.set_yticks(range(len(rows)), [row.label for row in rows], fontsize=9.5)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(left, right)
        axes.set_xlabel("C-index on the same test patients, with 95 % interval")
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        return to_svg(figure)


def _draw_row(axes: Axes, place: int, row: ForestRow) -> None:
    from matplotlib.transforms import blended_transform_factory

    beside = blended_transform_factory(axes.transAxes, axes.transData)
    if row.c_index is None:
        axes.text(1.015, place, f"— {row.note}", transform=beside, va="center", color=QUIET)
        return
    text = f"{row.c_index:.3f}"
    if row.low is not None and row.high is not None:
        axes.plot([row.low, row.high], [place, place], color=row.colour, linewidth=2.4, solid_capstyle="butt")
        text += f"  ({row.low:.3f} to {row.high:.3f})"
    axes.plot([row.c_index], [place], marker="s", markersize=8, color=row.colour, markeredgecolor="white")
    axes.text(1.015, place, text, transform=beside, va="center", color=INK)
