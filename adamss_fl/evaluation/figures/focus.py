"""What the network looks at in one patient: attention maps and gate openings over CT and PET, stage beside stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from adamss_fl.evaluation.figures.outlines import best_slice, outline
from adamss_fl.evaluation.figures.style import NODES, QUIET, TUMOUR, drawing, new_figure, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

_LESIONS = (("primary tumour", TUMOUR), ("nodes", NODES))
_ATTENTION_COLOURS, _GATE_COLOURS = "inferno", "PuOr_r"
_SMALLEST_REACH = 0.02
_BONE = 0.98
"""Scaled CT at the upper end of the usual windows, which bone reaches."""


@dataclass(frozen=True)
class FocusPicture:
    """One patient's images and maps on the full grid.

    pet, ct : (D, H, W) in [0, 1]; mask : (2, D, H, W) reference outlines, all 0 where there are none.
    attention : by stage, maps (D, H, W) of decoder levels 1 to 4; opening : by stage, maps of encoder levels 1 to 5.
    """

    pet: NDArray[Any]
    ct: NDArray[Any]
    mask: NDArray[Any]
    attention: dict[str, Sequence[NDArray[Any]]]
    opening: dict[str, Sequence[NDArray[Any]]]


def focus_figure(picture: FocusPicture) -> str:
    """Attention (a row a stage, a column a level) and below it the gates, in one axial slice. SVG text.

    The slice is the one with most tumour, else with most nodes, else with most attention at level 1. Both stages of a
    level share one scale of attention, all gates one scale. It names no patient.
    """
    index = _slice(picture)
    stages = list(picture.attention)
    with drawing():
        figure = new_figure(2 * (1.92 * len(stages) + 0.55) + 0.35)
        upper, lower = figure.subfigures(2, 1, squeeze=False)[:, 0]
        _draw_attention(upper, picture, index, stages)
        _draw_gates(lower, picture, index, stages)
        _legend(figure)
        return to_svg(figure)


def _slice(picture: FocusPicture) -> int:
    for mask in picture.mask:
        found = best_slice(mask, mask)
        if found is not None:
            return found
    first = next(iter(picture.attention.values()))[0]
    return int(np.asarray(first).sum(axis=(1, 2)).argmax())


def _draw_attention(part: SubFigure, picture: FocusPicture, index: int, stages: list[str]) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    part.suptitle("Attention of the decoder: what each level keeps of the picture", **_heading())
    panels, bar = _panels(part, len(stages))
    anatomy = [("CT", picture.ct, "gray", 1.0), ("PET", picture.pet, "gray_r", _pet_top(picture.pet))]
    for row, stage in enumerate(stages):
        name, volume, colours, top = anatomy[row % 2 if len(stages) > 1 else 1]
        _image(panels[row][0], volume[index], colours, 0.0, top, name)
        _outlines(panels[row][0], picture, index)
        panels[row][1].set_ylabel(stage, fontsize=9.5, fontweight="bold")
    for level in range(4):
        maps = [picture.attention[stage][level] for stage in stages]
        top = max(float(np.max(values)) for values in maps) or 1.0
        for row, values in enumerate(maps):
            axes = panels[row][level + 1]
            title = f"Level {level + 1}{_fineness(level, 4)}, 0 to {top:.2f}" if row == 0 else ""
            _image(axes, values[index], _ATTENTION_COLOURS, 0.0, top, title)
            _anatomy(axes, picture.ct[index], "#d1d5db")
            _outlines(axes, picture, index)
    scale = ScalarMappable(Normalize(0.0, 1.0), _ATTENTION_COLOURS)  # relative: every level has its own highest
    part.colorbar(scale, cax=bar, ticks=[0.0, 1.0]).ax.set_yticklabels(["none", "the level's\nhighest"])


def _draw_gates(part: SubFigure, picture: FocusPicture, index: int, stages: list[str]) -> None:
    part.suptitle("Fusion gates: early-fusion stream or late concatenation (not PET against CT)", **_heading())
    panels, bar = _panels(part, len(stages))
    shown = [picture.opening[stage][level][index] for stage in stages for level in range(5)]
    reach = max(_SMALLEST_REACH, max(float(np.abs(values - 0.5).max()) for values in shown))
    for row, stage in enumerate(stages):
        panels[row][0].set_ylabel(stage, fontsize=9.5, fontweight="bold")
        for level in range(5):
            values = picture.opening[stage][level][index]
            title = f"Level {level + 1}{_fineness(level, 5)}" if row == 0 else ""
            drawn = _image(panels[row][level], values, _GATE_COLOURS, 0.5 - reach, 0.5 + reach, title)
            _anatomy(panels[row][level], picture.ct[index], QUIET)
            _outlines(panels[row][level], picture, index)
    ends = (f"{0.5 - reach:.2f} late\nconcatenation", "0.50\nboth alike", f"{0.5 + reach:.2f}\nearly fusion")
    part.colorbar(drawn, cax=bar, ticks=[0.5 - reach, 0.5, 0.5 + reach]).ax.set_yticklabels(ends)


def _panels(part: SubFigure, rows: int) -> tuple[list[list[Axes]], Axes]:
    """Five panels a row, and the place of one colour bar at their right."""
    grid = part.add_gridspec(rows, 6, width_ratios=[1, 1, 1, 1, 1, 0.62])
    panels = [[part.add_subplot(grid[row, column]) for column in range(5)] for row in range(rows)]
    room = part.add_subplot(grid[:, 5])
    room.axis("off")
    return panels, room.inset_axes((0.05, 0.12, 0.16, 0.76))


def _image(axes: Axes, values: NDArray[Any], colours: str, low: float, high: float, title: str) -> Any:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if title:
        axes.set_title(title, fontsize=8.5, fontweight="normal")
    picture = np.asarray(values, np.float32)
    return axes.imshow(picture, cmap=colours, vmin=low, vmax=high, interpolation="bilinear")


def _anatomy(axes: Axes, ct: NDArray[Any], colour: str) -> None:
    """Contours of skin and bone: they place a map in the body and leave its colours as the bar says."""
    for threshold in (0.0, _BONE):
        outline(axes, ct > threshold, colour, "dotted", 0.9)


def _outlines(axes: Axes, picture: FocusPicture, index: int) -> None:
    """The lesions, with a white rim below the colour so that they show on any map."""
    for mask, (_, colour) in zip(picture.mask[:, index], _LESIONS, strict=True):
        outline(axes, mask, "white", "solid", 2.8)
        outline(axes, mask, colour, "solid", 1.4)


def _pet_top(pet: NDArray[Any]) -> float:
    return float(max(np.quantile(pet, 0.999), 1e-3))


def _fineness(level: int, levels: int) -> str:
    return {0: " (finest)", levels - 1: " (coarsest)"}.get(level, "")


def _heading() -> dict[str, Any]:
    return {"fontsize": 10.5, "fontweight": "bold", "x": 0.01, "ha": "left"}


def _legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D

    keys = [Line2D([], [], color=colour, label=f"{name}, reference outline") for name, colour in _LESIONS]
    keys.append(Line2D([], [], color=QUIET, linestyle="dotted", linewidth=1.2, label="skin and bone on CT"))
    figure.legend(handles=keys, loc="outside lower center", ncols=3, handlelength=3)
